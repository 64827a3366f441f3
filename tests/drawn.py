"""What a matplotlib figure shows, as plain data: tests look at artists, never at file sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def panels(figure: Any) -> list[dict[str, Any]]:
    """What each axes of the figure shows, in the order in which they were made."""
    return [shown(axes) for axes in figure.axes]


def shown(axes: Any) -> dict[str, Any]:
    """Words, limits and numbers of one axes: `lines` by their label, `marks` all of them."""
    legend, sides = axes.get_legend(), (axes.xaxis, axes.yaxis)
    return {
        "title": axes.get_title(),
        "labels": (axes.get_xlabel(), axes.get_ylabel()),
        "limits": (axes.get_xlim(), axes.get_ylim()),
        "scales": (axes.get_xscale(), axes.get_yscale()),
        "lines": {
            str(line.get_label()): np.array(line.get_data())
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        },
        "marks": [np.array(line.get_data(orig=False), float).tolist() for line in axes.lines],
        "ticks": [[tick.get_text() for tick in side.get_ticklabels()] for side in sides],
        "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
        "texts": [text.get_text() for text in axes.texts],
        "images": [np.asarray(image.get_array()) for image in axes.images],
        "bars": [patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")],
    }


def picture(path: Path) -> np.ndarray:
    """The pixels [height, width, 3 or 4] of a picture's file, which is not all of one colour."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert np.ptp(pixels[..., :3]) > 0.5, f"nothing is drawn in {path.name}"
    return pixels
