"""Pictures of forecasts: one window ahead, unseen, by horizon, beyond the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lstm_jax.tasks.forecast import frame as frames
from lstm_jax.tasks.forecast import intervals, scores, windows
from lstm_jax.tasks.forecast.frame import Frame
from lstm_jax.tasks.forecast.series import Series

UNSEEN = 24  # steps of the figure from the start of the test
LONGEST = 1000  # rows that a figure still shows one by one


def figures(forward: Callable, frame: Frame) -> dict:
    """Of the first series where there are several."""
    found = {"one_step_ahead": one_step(forward, frame), "recursive": unseen(forward, frame)}
    if frame.task.horizon > 1:
        found["by_horizon"] = by_horizon(forward, frame)
    return found


def name_of(series: Series) -> str:
    """The target as text: Matplotlib would take $ for mathematics."""
    return series.names[0].replace("$", r"\$")


def one_step(forward: Callable, frame: Frame) -> Any:
    """Observed against the forecast of the last step, where the test begins in a long series."""
    start, _, test, stop = frame.edges[0]
    horizon = windows.steps(frame.task)
    if stop - start > LONGEST:
        start = max(test - LONGEST // 4, start)
        stop = min(stop, start + LONGEST)
    first = frame.edges[0][0] + windows.lost(frame.task) + frame.task.look_back - 1
    origins = np.arange(max(first, start - horizon), stop - horizon)
    said = frames.say(forward, frame, origins)
    forecast = frames.units(said.middle, said, frame)[:, -1]
    quantiles = frames.bands(forward, frame, said)
    actual = frame.series.values[origins + horizon, 0]
    rmse = _rmse((forecast - actual)[origins + horizon >= test])
    part = "" if stop - start < LONGEST else " of the rows shown"
    figure, axes = _axes(frame, f"{_steps(horizon)} ahead: test RMSE{part} {rmse:.4g}")
    x = _positions(frame.series)
    axes.plot(x[start:stop], frame.series.values[start:stop, 0], color="0.35", label="observed")
    axes.plot(x[origins + horizon], forecast, color="C1", lw=1.2, label="forecast")
    if quantiles is not None:
        _bands(axes, x[origins + horizon], quantiles[:, -1], frame.task)
    _mark_splits(axes, frame, x, start, stop)
    axes.legend()
    return figure


def unseen(forward: Callable, frame: Frame) -> Any:
    """From the last row before the test part on, the network's own forecasts as its inputs."""
    series, (start, _, test, stop) = frame.series, frame.edges[0]
    ahead = windows.steps(frame.task)
    free = all(name in series.known for name in series.names[1:])
    count = min(max(UNSEEN, ahead, frame.task.horizon) if free else ahead, stop - test)
    future = (frames.known_after(series, test - 1, count),)
    past = frames.Histories(series.part(start, test)._replace(future=future), np.array([0]))
    if by_origin(frame):
        count = min(count, frame.task.horizon)
    forecast = path(forward, frame, past, test, count)
    begin, end = max(start, test - 3 * count), min(stop, test + 2 * count)
    rows = np.arange(test, test + count)
    rmse = _rmse(forecast - series.values[rows, 0])
    title = f"{_steps(count)} from {series.moment(test)} on, unseen: RMSE {rmse:.4g}"
    figure, axes = _axes(frame, title)
    x = _positions(series)
    axes.plot(x[begin:end], series.values[begin:end, 0], color="0.35", label="observed")
    name = "recursive forecast" if count > ahead else "forecast"
    axes.plot(x[rows], forecast, color="C1", marker="o", ms=3, label=name)
    if intervals.has_intervals(frame.task):
        quantiles = frames.bands(forward, frame, frames.say(forward, frame, np.array([test - 1])))
        shown = min(count, ahead)
        _bands(axes, x[rows[:shown]], np.asarray(quantiles)[0, :shown], frame.task)
    _mark_splits(axes, frame, x, begin, end)
    axes.legend()
    return figure


def path(forward: Callable, frame: Frame, past: Any, test: int, count: int) -> np.ndarray:
    """[count] values from `test` on; a decoder sees its known inputs there."""
    if by_origin(frame):
        return frames.forecast(forward, frame, np.array([test - 1]))[0, :count]
    return frames.recursive(forward, frame, past, count)[0]


def by_origin(frame: Frame) -> bool:
    """Whether a forecast needs more than the past of one series."""
    return frame.task.strategy in windows.SEE_AHEAD or frame.series.joint > 1


def by_horizon(forward: Callable, frame: Frame) -> Any:
    """The test error of each step ahead, beside the baselines'; of many series, MASE."""
    rows = frame.origins["test"]
    truth = frames.truth(frame, rows)
    lines = {"model": frames.forecast(forward, frame, rows)} | frames.naive(frame, rows)
    metric = "rmse" if len(frame.series.ids) == 1 else "mase"
    figure, axes = _axes(frame, "test error by steps ahead", of_all=True)
    steps = np.arange(1, frame.task.horizon + 1)
    for name, forecast in lines.items():
        errors = [one[metric] for one in scores.by_step(forecast, truth)]
        style = {"color": "black", "lw": 2} if name == "model" else {"lw": 1}
        axes.plot(steps, errors, label=name, **style)
    axes.set_xlabel("steps ahead")
    axes.set_ylabel("MASE" if metric == "mase" else f"RMSE, {name_of(frame.series)}")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def beyond(
    frame: Frame, series: Series, forecast: np.ndarray, ends: np.ndarray | None, when: list[str]
) -> Any:
    """The end of the (first) series and what is forecast after it."""
    start, stop = series.spans[0]
    shown = min(stop - start, max(4 * len(forecast), 48))
    title = f"{_steps(len(forecast))} beyond the end: {when[0]} to {when[-1]}"
    figure, axes = _axes(frame, title)
    x = np.arange(1, len(forecast) + 1)
    past = series.values[stop - shown : stop, 0]
    axes.plot(np.arange(1 - shown, 1), past, color="0.35", label="observed")
    axes.plot(x, forecast, color="C1", marker="o", ms=3, label="forecast")
    if ends is not None:
        _bands(axes, x[: ends.shape[1]], ends[0][: len(x)], frame.task)
    axes.axvline(0.5, color="0.5", ls="--", lw=1, label="end of the series")
    axes.set_xlabel(f"steps after {series.moment(stop - 1)}")
    axes.legend()
    return figure


def whole(series: Series) -> Any:
    """Every row of the first series: what `lstm-jax data inspect` draws."""
    from matplotlib.figure import Figure  # start-up

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes, (start, stop) = figure.subplots(), series.spans[0]
    axes.plot(_positions(series)[start:stop], series.values[start:stop, 0], color="0.35", lw=1)
    axes.set_xlabel("row" if series.index is None else "time")
    axes.set_ylabel(name_of(series))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"


def _rmse(miss: np.ndarray) -> float:
    seen = miss[np.isfinite(miss)]
    return float(np.sqrt(np.mean(np.square(seen)))) if seen.size else float("nan")


def _bands(axes: Any, x: np.ndarray, quantiles: np.ndarray, task: Any) -> None:
    """The central intervals [n, Q], the widest lightest."""
    for k in range(len(task.quantiles) // 2):
        share = scores.name_of(task.quantiles[-1 - k] - task.quantiles[k])
        low, high, alpha = quantiles[:, k], quantiles[:, -1 - k], min(0.15 * (k + 1), 0.6)
        axes.fill_between(x, low, high, color="C1", alpha=alpha, lw=0, label=f"{share} % interval")


def _axes(frame: Frame, title: str, of_all: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # start-up

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes, series = figure.subplots(), frame.series
    many = f"{series.ids[0]}: " if len(series.ids) > 1 and not of_all else ""
    axes.set_title((many + title).replace("$", r"\$"))
    axes.set_xlabel("row" if series.index is None else "time")
    axes.set_ylabel(name_of(series))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _positions(series: Series) -> np.ndarray:
    """Where each row stands on the horizontal axis."""
    if series.index is None:
        return np.asarray(series.rows)
    if isinstance(series.index, pd.DatetimeIndex):
        return series.index.tz_localize(None).to_numpy()
    return np.asarray(series.index)


def _mark_splits(axes: Any, frame: Frame, x: np.ndarray, start: int, stop: int) -> None:
    _, valid, test, _ = frame.edges[0]
    for row, name, style in ((valid, "validation", ":"), (test, "test", "--")):
        if start < row < stop:
            axes.axvline(x[row], color="0.5", ls=style, lw=1, label=f"{name} begins")
