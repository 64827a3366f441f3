"""What is told about a forecaster: its series, its scores beside baselines, its files."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import dates, figures, intervals, scores, windows
from lstm_jax.tasks.forecast import frame as frames
from lstm_jax.tasks.forecast.frame import Frame
from lstm_jax.tasks.forecast.future import groups, read_future

CHUNK = 4096  # windows whose transforms are computed at once


# ---------------------------------------------------------------- the series


def source(frame: Frame) -> dict[str, Any]:
    """What the run's data were: for its manifest."""
    return {"sha256": frame.series.sha256, "splits": split_dates(frame)}


def split_dates(frame: Frame) -> dict[str, list[str]]:
    """{split: [first, last] row that is a target of it}, of the first series."""
    series, (start, valid, test, stop) = frame.series, frame.edges[0]
    trained = stop if frame.task.train_on == "all" else valid
    parts = {"train": (start, trained), "valid": (valid, test), "test": (test, stop)}
    return {n: [series.moment(a), series.moment(b - 1)] for n, (a, b) in parts.items()}


def understood(frame: Frame) -> str:
    """A short table of how the file was read, before anything is trained."""
    series = frame.series
    missing = int(np.isnan(series.values).sum())
    lines = facts(series) | {
        "missing": f"{missing:,} of {series.values.size:,} values" if missing else "none",
        **{name: f"{a} to {b}" for name, (a, b) in split_dates(frame).items()},
    }
    if frame.task.train_on == "all":
        lines["scores"] = "of rows that were trained on: they tell nothing"
    return table(lines)


def facts(series: Any) -> dict[str, str]:
    """How a file was read."""
    features = ", ".join(series.names[1:]) or "none"
    target = ", ".join(series.targets or series.names[:1])
    return series.said | {"target": target, "features": features}


def ranges(series: Any) -> dict[str, str]:
    """What stands in the columns."""
    found = {}
    for name, column in zip(series.names, series.values.T, strict=True):
        lacking = int(np.isnan(column).sum())
        low, high = (np.nanmin(column), np.nanmax(column)) if lacking < len(column) else (0, 0)
        missing = f", {lacking:,} missing" if lacking else ""
        found[name] = f"{low:.6g} to {high:.6g}{missing}"
    return found


SEASONS = {"h": 24, "D": 7, "B": 5, "MS": 12, "ME": 12, "QS": 4, "QE": 4, "W": 52, "min": 60}


def start(series: Any, given: dict[str, Any]) -> str:
    """A command that trains on the series, its options by what the series is."""
    target, rows = series.values[:, 0], min(stop - start for start, stop in series.spans)
    period = SEASONS.get(series.freq.split("-")[0].lstrip("0123456789"), 1)
    options = dict(given) | {
        "task.csv": series.source,
        "task.period": period,
        "task.look_back": max(min(max(12, 2 * period), rows // 8), 1),
        "task.horizon": max(min(period, rows // 24), 1),
        "task.log": bool(np.nanmin(target) > 0),
    }
    options |= {"task.missing": "mask"} if np.isnan(series.values).any() else {}
    fields = [shlex.quote(f"--config.{name}={value}") for name, value in options.items()]
    return " ".join(["lstm-jax train --config=configs/forecast.py:series", *fields])


def table(lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


# ---------------------------------------------------------------- scores


def baselines(frame: Frame, name: str) -> dict[str, dict[str, float]]:
    """The scores of forecasts that need no network, from the same rows."""
    rows = frame.origins[name]
    truth = frames.truth(frame, rows)
    return {
        label: with_loss(scores.point(forecast, truth), frame, rows, forecast)
        for label, forecast in frames.naive(frame, rows).items()
    }


def with_loss(found: dict, frame: Frame, rows: np.ndarray, forecast: np.ndarray) -> dict:
    """The scores and, where a plain value has one, the loss of training."""
    if frame.task.objective in ("gaussian", "student"):
        return found
    total, count = 0.0, 0.0
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        errors, seen = transformed(frame, rows[part], forecast[part])
        total, count = total + float((errors * seen).sum()), count + float(seen.sum())
    return {"loss": total / max(count, 1.0)} | found


def transformed(frame: Frame, rows: np.ndarray, forecast: np.ndarray) -> tuple:
    """(training loss [n, H] of forecasts in units, which of them count)."""
    batch = windows.take_each(frame.data, rows, frame.task, np)
    fitted = frame.fitted.of(frame.data["series"][rows])
    ahead = windows.steps(frame.task)
    forecast = forecast[:, :ahead]
    with np.errstate(invalid="ignore", divide="ignore"):
        y = np.log(forecast) if frame.task.log else forecast
    y = (y - fitted.offset[:, None]) / fitted.unit[:, None]
    miss = batch["targets"] - (y - batch["base"]) / batch["factor"]
    seen = batch["observed"] * np.isfinite(miss)
    miss = np.nan_to_num(miss)
    if frame.task.objective == "squared":
        return np.square(miss), seen
    if frame.task.objective == "absolute":
        return np.abs(miss), seen
    levels, misses = np.asarray(frame.task.quantiles), miss[..., None]
    return np.maximum(levels * misses, (levels - 1) * misses).mean(axis=-1), seen


def all_scores(forward: Callable, frame: Frame) -> dict[str, dict[str, float]]:
    """{split: scores}, in float64 and in the series' units, over the whole horizon."""
    return {name: split_scores(forward, frame, name) for name in ("valid", "test")}


def split_scores(forward: Callable, frame: Frame, name: str) -> dict[str, float]:
    rows = frame.origins[name]
    truth = frames.truth(frame, rows)
    found = scores.point(frames.forecast(forward, frame, rows), truth)
    if intervals.has_intervals(frame.task):
        quantiles = frames.bands(forward, frame, frames.say(forward, frame, rows))
        found |= scores.intervals(np.asarray(quantiles), frame.task.quantiles, truth.actual)
    return found


# ---------------------------------------------------------------- files


def predict(
    forward: Callable, out_dir: Path, options: Any, frame: Frame, load: Callable
) -> list[Path]:
    """Forecasts beyond the end of the series (or of options.csv), and of the test part.

    options.horizon steps, or where it is 0: `frame.default_steps`; options.future names a file of
    the features that are known ahead.
    """
    csv_file = getattr(options, "csv", "") or ""
    series = load(frame.task, csv_file) if csv_file else frame.series
    if series.names != frame.series.names:
        raise UsageError(f"{csv_file}: columns {series.names}, expected {frame.series.names}")
    which = which_series(series, frame.series, csv_file)
    if future := getattr(options, "future", ""):
        series = read_future(future, frame.task, series)
    num_steps = getattr(options, "horizon", 0) or frames.default_steps(series, frame.task)
    if num_steps < 1:
        raise UsageError(f"horizon {num_steps}: expected a positive whole number")
    past = frames.Histories(series, which)
    forecast = frames.recursive(forward, frame, past, num_steps)
    ends = beyond(forward, frame, past)
    paths = [Path(out_dir) / "forecast.csv", Path(out_dir) / "forecast.png"]
    when = [
        dates.following(None if series.index is None else series.index[a:b], series.freq, num_steps)
        for a, b in series.spans
    ]
    write_forecast(paths[0], series, when, forecast, ends, frame.task)
    figures.beyond(frame, series, forecast[0], ends, when[0]).savefig(paths[1], dpi=120)
    return paths if csv_file else [*paths, *tested(forward, Path(out_dir), frame)]


def which_series(series: Any, known: Any, csv_file: str) -> np.ndarray:
    """The number of the trained series that each series is; their scales are its scales."""
    if len(known.ids) == 1:
        return np.zeros(len(series.ids), int)
    strange = [name for name in series.ids if name not in known.ids]
    if strange:
        raise UsageError(
            f"{csv_file}: series {strange[0]!r} was not among the {len(known.ids)} trained on, so "
            "its scale is unknown; train with it"
        )
    return np.array([known.ids.index(name) for name in series.ids])


def beyond(forward: Callable, frame: Frame, past: frames.Histories) -> np.ndarray | None:
    """[S, H, Q] quantiles of the first H steps after the end; further ones have none."""
    if not intervals.has_intervals(frame.task):
        return None
    ahead = windows.steps(frame.task)
    fitted = frame.fitted.of(past.which)
    longer = frames.extended(past.series, ahead)
    data = windows.prepare(longer, frame.task, fitted)
    ends = np.array([stop for _, stop in longer.spans]) - 1 - ahead
    said = frames.say(forward, frame._replace(fitted=fitted), ends, data)
    found = said.quantiles
    if frame.task.conformal:
        found = intervals.calibrated(found, frames.moves(forward, frame))
    return frames.units(found, said, frame._replace(fitted=fitted))


def interval_names(task: Any) -> list[str]:
    """lower 95, lower 80, upper 80, upper 95: the quantiles but for the middle."""
    levels = task.quantiles
    half = len(levels) // 2
    shares = [scores.name_of(levels[-1 - k] - levels[k]) for k in range(half)]
    return [f"lower {share}" for share in shares] + [f"upper {share}" for share in shares[::-1]]


def write_forecast(
    path: Path, series: Any, when: list, forecast: np.ndarray, ends: Any, task: Any
) -> None:
    """step, time, [series,] value and the ends of the intervals, where there are some.

    Of several targets jointly a column each.
    """
    count, half = len(series.ids) // series.joint, len(task.quantiles) // 2
    names = series.targets if series.joint > 1 else series.names[:1]
    labels = groups(series, True)[:count] if series.joint > 1 else series.ids
    header = ["step", "time", *(["series"] if count > 1 else []), *names]
    for name in names if ends is not None else ():
        header += [f"{name} {end}" if series.joint > 1 else end for end in interval_names(task)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for s, k in np.ndindex(count, forecast.shape[1]):
            row = [k + 1, when[s][k], *([labels[s]] if count > 1 else [])]
            row += [f"{value:.10g}" for value in forecast[s::count, k]]
            if ends is not None and k < ends.shape[1]:
                both = np.delete(ends[s::count, k], half, axis=-1)
                row += [f"{end:.10g}" for end in both.ravel()]
            writer.writerow(row)


def tested(forward: Callable, out_dir: Path, frame: Frame) -> list[Path]:
    """test_forecasts.csv, each forecast beside what came; the scores by step and by series."""
    rows = frame.origins["test"]
    truth = frames.truth(frame, rows)
    forecast = frames.forecast(forward, frame, rows)
    quantiles = None
    if intervals.has_intervals(frame.task):
        quantiles = frames.bands(forward, frame, frames.say(forward, frame, rows))
    paths = [out_dir / "test_forecasts.csv", out_dir / "horizon.csv"]
    test_table(frame, rows, truth, forecast, quantiles).to_csv(
        paths[0], index=False, float_format="%.10g"
    )
    steps = pd.DataFrame(scores.by_step(forecast, truth))
    steps.insert(0, "step", np.arange(1, len(steps) + 1))
    steps.to_csv(paths[1], index=False, float_format="%.6g")
    if len(frame.series.ids) > 1:
        paths.append(out_dir / "series.csv")
        by_series(frame, truth, forecast).to_csv(paths[-1], index=False, float_format="%.6g")
    return paths


def by_series(frame: Frame, truth: Any, forecast: np.ndarray) -> Any:
    """The scores of each series, or target."""
    rows = [np.flatnonzero(truth.series == k) for k in range(len(frame.series.ids))]
    found = [
        scores.point(
            forecast[own], truth._replace(actual=truth.actual[own], series=truth.series[own])
        )
        for own in rows
    ]
    return pd.DataFrame({"series": frame.series.ids, **pd.DataFrame(found)})


def test_table(frame: Frame, rows: np.ndarray, truth: Any, forecast: Any, quantiles: Any) -> Any:
    """One line for each origin and step."""
    series, (count, horizon) = frame.series, forecast.shape
    ahead = (rows[:, None] + np.arange(1, horizon + 1)).ravel()
    columns: dict[str, Any] = {}
    if len(series.ids) > 1:
        columns["series"] = np.repeat(np.array(series.ids, object)[truth.series], horizon)
    columns |= {
        "origin": np.repeat(moments(series, rows), horizon),
        "step": np.tile(np.arange(1, horizon + 1), count),
        "time": moments(series, ahead),
        "observed": truth.actual.ravel(),
        "forecast": forecast.ravel(),
    }
    if quantiles is not None:
        half = len(frame.task.quantiles) // 2
        ends = np.delete(quantiles, half, axis=-1).reshape(count * horizon, -1)
        columns |= dict(zip(interval_names(frame.task), ends.T, strict=True))
    return pd.DataFrame(columns)


def moments(series: Any, rows: np.ndarray) -> list[str]:
    if series.index is None:
        return [f"row {row}" for row in series.rows[rows]]
    return dates.labels(series.index[rows], series.freq)
