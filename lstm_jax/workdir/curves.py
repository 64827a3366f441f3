"""Learning curves of a run, from its metrics.jsonl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lstm_jax.tasks.task import LARGER_IS_BETTER
from lstm_jax.workdir.metrics import read_metrics

# Blue and orange of Okabe and Ito's palette: apart to every eye, and in grey.
_COLORS = {"train": "#0072B2", "valid": "#D55E00", "test": "#009E73"}
_LABELS = {"train": "training", "valid": "validation", "test": "test"}


def learning_curves(workdir: str | Path, metric: str = "loss", best_metric: str = "") -> Any:
    """matplotlib Figure of `metric` against the step for training and validation.

    Marked is the step whose parameters are kept: the best validation by `best_metric` ("": by what
    is drawn). The axis is logarithmic where values span a factor of 20.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # start-up
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = {split: _points(workdir, split, metric) for split in ("train", "valid", "test")}
    curves["test"] = curves["test"][-1:]  # a run that went on after its end has been tested twice
    for split, points in curves.items():
        if points:
            _draw(axes, split, points)
    if len(curves["valid"]) > 1:
        _mark_best(axes, workdir, metric, best_metric or metric)
    _dress(axes, metric, [value for points in curves.values() for _, value in points])
    return figure


def _points(workdir: str | Path, split: str, metric: str) -> list[tuple[int, float]]:
    lines = [r for r in read_metrics(workdir) if r["split"] == split]
    points = [(r["step"], r[metric]) for r in lines if isinstance(r.get(metric), int | float)]
    return [(step, float(value)) for step, value in points if math.isfinite(value)]


def _draw(axes: Any, split: str, points: list[tuple[int, float]]) -> None:
    style: dict[str, Any] = (
        {"marker": "o", "linestyle": "none"} if len(points) == 1 else {"lw": 1.6}
    )
    axes.plot(*zip(*points, strict=True), color=_COLORS[split], label=_LABELS[split], **style)


def _mark_best(axes: Any, workdir: str | Path, metric: str, best_metric: str) -> None:
    choose = max if best_metric in LARGER_IS_BETTER else min
    scored = _points(workdir, "valid", best_metric)
    values = dict(_points(workdir, "valid", metric))
    step = choose(scored, key=lambda point: point[1], default=(-1, 0.0))[0]
    if step not in values:
        return
    by = "" if metric == best_metric else f" by {best_metric.replace('_', ' ')}"
    label = f"best{by}: {values[step]:.4g} at step {step}"
    style: dict[str, Any] = {"ms": 5, "mfc": "white", "mec": _COLORS["valid"], "mew": 1.4}
    axes.plot([step], [values[step]], "o", label=label, **style)


def _dress(axes: Any, metric: str, values: list[float]) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(metric.replace("_", " "))
    if values and min(values) > 0 and max(values) / min(values) > 20:
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, lw=0.6)
    axes.tick_params(length=3)
    axes.margins(x=0.01)
    if values:
        axes.legend(frameon=False)
