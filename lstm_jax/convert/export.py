"""A run's model as a file that something else reads: written, read back and compared, described."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.config.fields import to_json
from lstm_jax.convert import files, runs
from lstm_jax.convert.card import card
from lstm_jax.convert.conventions import OUTER
from lstm_jax.convert.usage import OWN, usage
from lstm_jax.errors import UsageError, lookup
from lstm_jax.training.saved import Run
from lstm_jax.workdir.files import write_text


class Exported(NamedTuple):
    """What an export left behind."""

    files: dict[str, str]  # {name: what it is}
    usage: str
    checked: list[str]


class Format(NamedTuple):
    """What `--to` names: the file's usual ending, and what writes it."""

    suffix: str
    write: Callable[[Run, Path], Exported]


TOLERANCE = 1e-5


def export(workdir: Path, loaded: Run, form: str, out: Path) -> tuple[Exported, Path]:
    """(what was written, its model card). The file is there only once it was read back and agreed.

    Raises: Inexpressible for what the format cannot say exactly; UsageError for a bad path.
    """
    chosen = lookup("format", form, FORMATS)
    if out.is_dir():
        raise UsageError(
            f"--out={out} is a folder; expected a file, {out / 'model'}{chosen.suffix}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        done = chosen.write(loaded, Path(folder) / out.name)
        for name in done.files:
            os.replace(Path(folder) / name, out.with_name(name))
    path = out.with_name(out.name + ".md")
    write_text(path, card(workdir, loaded, form, done.files, done.usage, done.checked))
    return done, path


def agreed(largest: float, what: str) -> str:
    """The line of the card, or UsageError."""
    if not largest <= TOLERANCE:
        raise UsageError(
            f"{what} differs from the model by {largest:.3g}, more than {TOLERANCE}: nothing was "
            "kept. If the model's outputs are large this is rounding; please report it otherwise"
        )
    return f"{what}: largest difference {largest:.3g}"


def _weights(library: str) -> Callable[[Run, Path], Exported]:
    def write(loaded: Run, out: Path) -> Exported:
        cell = runs.cell_of(loaded.config, loaded.hyper)
        named = runs.to_names(library, cell, loaded.params)
        notes = {"library": library, "config": to_json(loaded.config), "step": loaded.step}
        files.save(out, named, notes)
        stored = files.load(out)[0]
        if library == runs.OWN:
            same = all(np.array_equal(stored[name], array) for name, array in named.items())
            checked = [agreed(0.0 if same else np.inf, "read back, every array")]
            return Exported({out.name: "all parameters, our names"}, _own(out), checked)
        largest = runs.largest_difference(library, cell, loaded.params, stored)
        checked = [agreed(largest, "read back, the recurrent layers on random inputs")]
        lines = usage(library, runs.layers_of(cell, loaded.params), out.name)
        return Exported({out.name: f"all parameters, named as in {library}"}, lines, checked)

    return write


def _own(out: Path) -> str:
    text = OWN.format(file=out.name)
    return (
        text
        if out.suffix == ".safetensors"
        else text.replace("safetensors.numpy.load_file", "numpy.load")
    )


def _late(module: str) -> Callable[[Run, Path], Exported]:
    """A writer of a module that is slow to import or needs an extra."""

    def write(loaded: Run, out: Path) -> Exported:
        return importlib.import_module(module).write(loaded, out)  # optional

    return write


FORMATS: dict[str, Format] = {
    "safetensors": Format(".safetensors", _weights(runs.OWN)),
    "npz": Format(".npz", _weights(runs.OWN)),
    **{library: Format(".safetensors", _weights(library)) for library in OUTER},
    "onnx": Format(".onnx", _late("lstm_jax.convert.onnx.export")),
    "stablehlo": Format(".stablehlo", _late("lstm_jax.convert.stablehlo")),
}
