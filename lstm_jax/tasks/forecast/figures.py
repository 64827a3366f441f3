"""Pictures and files of the forecast task: one step ahead, recursive, beyond the end."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import windows
from lstm_jax.tasks.forecast.series import Series, following, labels

RECURSIVE = 24  # steps of the recursive figure
LONGEST = 1000  # rows that a figure still shows one by one


class Frame(NamedTuple):
    """A series and everything that was derived from it."""

    series: Series
    task: Any
    fitted: windows.Fitted
    data: dict
    valid: int  # first row of the validation part
    test: int  # first row of the test part


def one_step_ahead(forward: Callable, frame: Frame, origins: np.ndarray) -> np.ndarray:
    """Forecasts of row o+H in the target's units, for each origin."""
    batch = windows.take(frame.data, origins, frame.task.look_back, np)
    outputs, _ = forward({"inputs": batch["inputs"]})
    forecast = windows.to_units(
        np.asarray(outputs, np.float64), frame.data["base"][origins], frame.task, frame.fitted, np
    )
    return forecast[:, -1]


def recursive(forward: Callable, frame: Frame, series: Series, num_steps: int) -> np.ndarray:
    """The `num_steps` values after the end of `series` [num_steps], each fed back as if seen.

    Raises UsageError where further columns would have to be known in the future.
    """
    task = frame.task
    if num_steps > task.horizon and len(series.names) > 1:
        raise UsageError(
            f"horizon {num_steps}: this model looks {task.horizon} steps ahead, and to go further "
            f"it would need the future of {', '.join(series.names[1:])}; ask for at most "
            f"{task.horizon}, or train with --config.task.horizon={num_steps}"
        )
    values, end = series.values, len(series.values)
    needed = windows.lost(task) + task.look_back
    if end < needed:
        raise UsageError(f"{series.source}: {end} rows, but one window needs {needed}")
    while len(values) < end + num_steps:
        values = np.concatenate([values, _next(forward, frame, series._replace(values=values))])
    return values[end : end + num_steps, 0]


def _next(forward: Callable, frame: Frame, series: Series) -> np.ndarray:
    """H more rows [H, D]; columns beside the target are unknown."""
    data = windows.prepare(series, frame.task, frame.fitted)
    origin = np.array([len(series.values) - 1])
    batch = windows.take(data, origin, frame.task.look_back, np)
    outputs, _ = forward({"inputs": batch["inputs"]})
    outputs = np.asarray(outputs, np.float64)
    forecast = windows.to_units(outputs, data["base"][origin], frame.task, frame.fitted, np)
    rows = np.full((frame.task.horizon, len(series.names)), np.nan)
    rows[:, 0] = forecast[0]
    return rows


def figures(forward: Callable, frame: Frame) -> dict:
    return {
        "one_step_ahead": figure_one_step(forward, frame),
        "recursive": figure_recursive(forward, frame),
    }


def figure_one_step(forward: Callable, frame: Frame) -> Any:
    """Observed against forecast over the whole span (of a long series: where the test begins)."""
    num_rows, horizon = len(frame.series.values), frame.task.horizon
    start = 0 if num_rows <= LONGEST else max(frame.test - LONGEST // 4, 0)
    stop = min(num_rows, start + LONGEST)
    first = windows.lost(frame.task) + frame.task.look_back - 1
    origins = np.arange(max(first, start - horizon), stop - horizon)
    forecast = one_step_ahead(forward, frame, origins)
    actual = frame.series.values[origins + horizon, 0]
    miss = (forecast - actual)[origins + horizon >= frame.test]
    rmse = np.sqrt(np.nanmean(miss**2))
    part = "" if num_rows <= LONGEST else " of the rows shown"
    figure, axes = _axes(frame, f"{_steps(horizon)} ahead: test RMSE{part} {rmse:.4g}")
    x = _positions(frame)
    axes.plot(x[start:stop], frame.series.values[start:stop, 0], color="0.35", label="observed")
    axes.plot(x[origins + horizon], forecast, color="C1", lw=1.2, label="forecast")
    _mark_splits(axes, frame, x, start, stop)
    axes.legend()
    return figure


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"


def figure_recursive(forward: Callable, frame: Frame) -> Any:
    """From the last row before the test part on, the network's own forecasts as its inputs."""
    num_rows, horizon = len(frame.series.values), frame.task.horizon
    alone = len(frame.series.names) == 1
    num_steps = min(max(RECURSIVE, horizon) if alone else horizon, num_rows - frame.test)
    name = "recursive forecast" if num_steps > horizon else "forecast"
    past = frame.series._replace(values=frame.series.values[: frame.test])
    forecast = recursive(forward, frame, past, num_steps)
    start, stop = max(0, frame.test - 3 * num_steps), min(num_rows, frame.test + 2 * num_steps)
    rows = np.arange(frame.test, frame.test + num_steps)
    rmse = np.sqrt(np.nanmean((forecast - frame.series.values[rows, 0]) ** 2))
    title = (
        f"{num_steps} steps from {_moment(frame.series, frame.test)} on, unseen: RMSE {rmse:.4g}"
    )
    figure, axes = _axes(frame, title)
    x = _positions(frame)
    axes.plot(x[start:stop], frame.series.values[start:stop, 0], color="0.35", label="observed")
    axes.plot(x[rows], forecast, color="C1", marker="o", ms=3, label=name)
    _mark_splits(axes, frame, x, start, stop)
    axes.legend()
    return figure


def _axes(frame: Frame, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # start-up

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel("row" if not frame.series.dates else "time")
    axes.set_ylabel(frame.series.names[0])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _positions(frame: Frame) -> np.ndarray:
    """Where each row stands on the horizontal axis."""
    return np.array(frame.series.dates) if frame.series.dates else np.array(frame.series.rows)


def _mark_splits(axes: Any, frame: Frame, x: np.ndarray, start: int, stop: int) -> None:
    for row, name, style in ((frame.valid, "validation", ":"), (frame.test, "test", "--")):
        if start < row < stop:
            axes.axvline(x[row], color="0.5", ls=style, lw=1, label=f"{name} begins")


def _moment(series: Series, row: int) -> str:
    return labels(series.dates)[row] if series.dates else f"row {series.rows[row]}"


def predict(
    forward: Callable, out_dir: Path, options: Any, frame: Frame, load: Callable
) -> list[Path]:
    """Forecasts beyond the end of the series (or of options.csv) as CSV and PNG.

    options.horizon steps, or where it is 0: two seasons of a series alone, else the horizon.
    """
    csv_file = getattr(options, "csv", "") or ""
    series = load(frame.task, csv_file) if csv_file else frame.series
    if series.names != frame.series.names:
        raise UsageError(f"{csv_file}: columns {series.names}, expected {frame.series.names}")
    alone = len(series.names) == 1
    default = max(2 * frame.task.period, frame.task.horizon) if alone else frame.task.horizon
    num_steps = getattr(options, "horizon", 0) or default
    if num_steps < 1:
        raise UsageError(f"horizon {num_steps}: expected a positive whole number")
    forecast = recursive(forward, frame, series, num_steps)
    when = following(series.dates, num_steps)
    paths = [Path(out_dir) / "forecast.csv", Path(out_dir) / "forecast.png"]
    with paths[0].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "time", series.names[0]])
        writer.writerows((k + 1, when[k], f"{forecast[k]:.6g}") for k in range(num_steps))
    figure_beyond(frame, series, forecast, when).savefig(paths[1], dpi=120)
    return paths


def figure_beyond(frame: Frame, series: Series, forecast: np.ndarray, when: list[str]) -> Any:
    """The end of the series and what is forecast after it."""
    shown = min(len(series.values), max(4 * len(forecast), 48))
    start = len(series.values) - shown
    title = f"{_steps(len(forecast))} beyond the end: {when[0]} to {when[-1]}"
    figure, axes = _axes(frame, title)
    x = np.arange(1, len(forecast) + 1)
    axes.plot(np.arange(1 - shown, 1), series.values[start:, 0], color="0.35", label="observed")
    axes.plot(x, forecast, color="C1", marker="o", ms=3, label="forecast")
    axes.axvline(0.5, color="0.5", ls="--", lw=1, label="end of the series")
    axes.set_xlabel(f"steps after {_moment(series, -1)}")
    axes.legend()
    return figure
