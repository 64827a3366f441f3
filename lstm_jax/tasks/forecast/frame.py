"""A series with its splits and scales, and what a network says about its future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import baselines, dates, intervals, scores, windows
from lstm_jax.tasks.forecast.series import Series, known_names, of_known

SIZES = (16, 256, 2048)  # windows that the network is asked about at once: programs compiled


class Frame(NamedTuple):
    """A series and everything that was derived from it."""

    series: Series
    task: Any
    fitted: windows.Fitted
    data: dict  # float64, what windows are cut from
    edges: list[tuple[int, int, int, int]]  # of each series: start, validation, test, end
    origins: dict[str, np.ndarray]  # rows after which a forecast is made, by split
    linear: dict[str, np.ndarray] = {}  # weights of the linear baselines


class Said(NamedTuple):
    """What a network says from n origins, and what came."""

    quantiles: np.ndarray  # [n, H, Q] in the space of training, before calibration
    middle: np.ndarray  # [n, H] the forecast itself, likewise
    batch: dict  # the windows without their inputs, [n, ...]
    series: np.ndarray  # [n] number of the series


# ---------------------------------------------------------------- splits


def edges(series: Series, task: Any) -> list[tuple[int, int, int, int]]:
    """First row of each series, of its validation part and of its test part, and its end.

    Raises:
      UsageError: a part is too short for a window, with the number that would do.
    """
    return [edge(series, k, *span, task) for k, span in enumerate(series.spans)]


def edge(series: Series, k: int, start: int, stop: int, task: Any) -> tuple[int, int, int, int]:
    rows = stop - start
    test = cut(series, start, stop, task.test_from, task.test_rows, task.test_part)
    valid = cut(series, start, test, task.valid_from, task.valid_rows, task.valid_part)
    needed = windows.lost(task) + task.look_back + windows.steps(task)
    source = series.source + (f", series {series.ids[k]}" if len(series.ids) > 1 else "")
    if valid - start < needed or not valid < test < stop:
        raise UsageError(
            f"{source}: {rows} rows leave {max(valid - start, 0)} for training, {test - valid} for "
            f"validation and {stop - test} for the test, but one window needs {needed} (look_back "
            f"{task.look_back} + horizon {windows.steps(task)} + {windows.lost(task)} for "
            "differences); give more rows or lower task.look_back"
        )
    for name, size in (("valid", test - valid), ("test", stop - test)):
        if size < task.horizon:
            raise UsageError(
                f"{source}: the {name} part has {size} rows, and task.horizon={task.horizon} needs "
                f"as many; set task.{name}_rows={task.horizon} or more, or lower task.horizon"
            )
    return start, valid, test, stop


def cut(series: Series, start: int, stop: int, date: str, rows: int, part: float) -> int:
    """Where the last part of rows start .. stop begins: by date, else by count, else by share."""
    if not date:
        return stop - (rows or round((stop - start) * part))
    if not isinstance(series.index, pd.DatetimeIndex):
        raise UsageError(f"{series.source}: a split by date ({date}) needs a date column")
    try:
        moment = pd.Timestamp(date)
    except ValueError:
        raise UsageError(f"{date!r} is no date; expected YYYY-MM-DD, or with HH:MM") from None
    if series.index.tz is not None and moment.tz is None:
        moment = moment.tz_localize(series.index.tz)
    return start + int(series.index[start:stop].searchsorted(moment))


def origins(series: Series, task: Any, found: list[tuple[int, int, int, int]]) -> dict:
    """Rows after which a forecast is made, by the part that all of its H rows fall into.

    So no row is the target of two parts, unless task.train_on=all trains on every row there is.
    """
    observed = np.isfinite(series.values[:, 0])
    parts: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    for start, valid, test, stop in found:
        first = start + windows.lost(task) + task.look_back - 1
        trained = stop if task.train_on == "all" else valid
        places = {"train": (first, trained), "valid": (valid - 1, test), "test": (test - 1, stop)}
        for name, (low, high) in places.items():
            ahead = windows.steps(task) if name == "train" else task.horizon
            rows = np.arange(max(low, first), high - ahead)
            if name == "test" and task.origins:
                rows = rows[
                    np.unique(np.linspace(0, len(rows) - 1, task.origins).round().astype(int))
                ]
            seen = observed[rows[:, None] + np.arange(1, ahead + 1)].any(axis=1)
            parts[name].append(rows[seen])
    joined = {name: np.concatenate(rows) for name, rows in parts.items()}
    for place, name in enumerate(joined):
        if not len(joined[name]):
            low, high = found[0][place], found[0][place + 1] - 1
            raise UsageError(
                f"{series.source}, column {series.names[0]}: no value in the {name} part (rows "
                f"{series.rows[low]} to {series.rows[high]}) can be forecast; give more rows or "
                "change task.test_part and task.valid_part"
            )
    return joined


def train_origins(found: list[tuple[int, int, int, int]], task: Any) -> np.ndarray:
    """Every row with a whole window before and task.horizon training rows after it."""
    parts = [
        np.arange(start + task.look_back - 1, valid - task.horizon) for start, valid, *_ in found
    ]
    return np.concatenate(parts)


# ---------------------------------------------------------------- asking


def answers(outputs: Any, task: Any) -> Any:
    """[B, K H, P] of outputs: [B, K H P], or [H, B, K P] below what is said of the past."""
    size = intervals.outputs(task)
    if task.strategy not in windows.SEE_AHEAD:
        return outputs.reshape(len(outputs), -1, size)
    ahead = outputs[-windows.steps(task) :]
    ahead = ahead.reshape(*ahead.shape[:2], -1, size).transpose(1, 2, 0, 3)
    return ahead.reshape(len(ahead), -1, size)


def ask(forward: Callable, data: dict, rows: np.ndarray, task: Any) -> tuple[np.ndarray, dict]:
    """(what the network says [n, H, P], the windows without inputs) from each of n origins."""
    count = len(data["each"])
    if count > 1:
        which, row = np.divmod(rows, len(data["y"]) // count)
        base, place = np.unique(row, return_inverse=True)
        said, batch = ask_once(forward, data, base, task)
        alone = {name: of_target(array, which, place, count) for name, array in batch.items()}
        return of_target(said, which, place, count), alone
    return ask_once(forward, data, rows, task)


def of_target(array: np.ndarray, which: np.ndarray, place: np.ndarray, count: int) -> np.ndarray:
    """[m, K H, ...] -> [n, H, ...]: of target `which` [n] what was said at `place` [n]."""
    return array.reshape(len(array), count, -1, *array.shape[2:])[place, which]


def ask_once(forward: Callable, data: dict, rows: np.ndarray, task: Any) -> tuple[np.ndarray, dict]:
    """`ask`, of K targets jointly: [n, K H, P]."""
    size = next((size for size in SIZES if size >= len(rows)), SIZES[-1])
    said, batches = [], []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk))])
        batch = windows.take(data, padded, task, np)
        outputs, _ = forward({"inputs": batch.pop("inputs").astype(np.float32)})
        said.append(np.asarray(answers(np.asarray(outputs), task), np.float64)[: len(chunk)])
        batches.append({name: array[: len(chunk)] for name, array in batch.items()})
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    return np.concatenate(said), joined


def say(forward: Callable, frame: Frame, rows: np.ndarray, data: dict | None = None) -> Said:
    """One pass of the network from each origin."""
    data = frame.data if data is None else data
    said, batch = ask(forward, data, rows, frame.task)
    middle = intervals.middle(said, frame.task)
    return Said(intervals.quantiles(said, frame.task), middle, batch, data["series"][rows])


def units(values: np.ndarray, said: Said, frame: Frame) -> np.ndarray:
    """Forecasts [n, H] or quantiles [n, H, Q] in the series' units."""
    return windows.to_units(values, said.batch, frame.task, frame.fitted.of(said.series))


def moves(forward: Callable, frame: Frame) -> np.ndarray:
    """How far the validation part moves the ends of each interval [H, Q // 2]."""
    said = say(forward, frame, frame.origins["valid"])
    seen = np.where(said.batch["observed"] > 0, said.batch["targets"], np.nan)
    return intervals.calibration(said.quantiles, seen, frame.task)


def bands(forward: Callable, frame: Frame, said: Said) -> np.ndarray | None:
    """[n, H, Q] quantiles in the series' units; None where the network says but one value."""
    if not intervals.has_intervals(frame.task):
        return None
    found = said.quantiles
    if frame.task.conformal:
        found = intervals.calibrated(found, moves(forward, frame))
    return units(found, said, frame)


# ---------------------------------------------------------------- over the horizon


def forecast(forward: Callable, frame: Frame, rows: np.ndarray) -> np.ndarray:
    """[n, H] in units, over the whole task.horizon from each origin."""
    if frame.task.strategy == "recursive" and frame.task.horizon > 1:
        base, count = windows.bases(rows, frame.series), frame.series.joint
        every = (frame.data["each"][:, None] + base).ravel() if count > 1 else rows
        found = recursive(forward, frame, histories(frame, every), frame.task.horizon)
        return found if count == 1 else found[np.searchsorted(every, rows)]
    said = say(forward, frame, rows)
    return units(said.middle, said, frame)


def truth(frame: Frame, rows: np.ndarray) -> scores.Truth:
    """What came after each origin, in float64 as in the file."""
    ahead = rows[:, None] + np.arange(1, frame.task.horizon + 1)
    actual = frame.series.values[ahead, 0]
    fitted = frame.fitted
    return scores.Truth(actual, frame.data["series"][rows], fitted.naive, fitted.naive_squared)


def naive(frame: Frame, rows: np.ndarray) -> dict[str, np.ndarray]:
    """{baseline: [n, H]} from each origin, of those that every series has."""
    which, found = frame.data["series"][rows], {}
    for k in np.unique(which):
        start, valid, _, stop = frame.edges[k]
        own, values = rows[which == k] - start, frame.series.values[start:stop, 0]
        for name, part in baselines.forecasts(values, own, valid - start, frame.task).items():
            found.setdefault(name, []).append(part)
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    fitted = frame.fitted.of(which)
    for name, y in baselines.linear(frame.data["y"], rows, frame.linear, frame.task).items():
        y = fitted.offset[:, None] + fitted.unit[:, None] * y
        joined[name] = np.exp(y) if frame.task.log else y
    return {name: values for name, values in joined.items() if len(values) == len(rows)}


class Histories(NamedTuple):
    """Short series, each of which ends where a forecast begins."""

    series: Series
    which: np.ndarray  # the number of the series that each is of


def histories(frame: Frame, rows: np.ndarray) -> Histories:
    """Of each origin the rows that one window needs."""
    needed = windows.lost(frame.task) + frame.task.look_back
    index = rows[:, None] - needed + 1 + np.arange(needed)
    series, told = frame.series, rows if frame.series.known else ()
    stamps = None if series.index is None else series.index[index.ravel()]
    short = series._replace(
        values=series.values[index.ravel()], index=stamps, rows=series.rows[index.ravel()],
        ids=tuple(map(str, rows)), starts=tuple(range(0, index.size, needed)),
        future=tuple(known_after(series, row, frame.task.horizon) for row in told),
    )  # fmt: skip
    return Histories(short, frame.data["series"][rows])


def known_after(series: Series, row: int, count: int) -> np.ndarray:
    """[count, D - 1] the features of the rows after `row`, NaN in those that nobody knows ahead."""
    return of_known(series.values[row + 1 : row + 1 + count, 1:], series.names[1:], series.known)


def recursive(forward: Callable, frame: Frame, past: Histories, num_steps: int) -> np.ndarray:
    """The values after the end of each series [S, num_steps], each fed back as if it were seen.

    Raises:
      UsageError: further columns would have to be known in the future, or a series is too short.
    """
    task, series = frame.task, past.series
    check_future(series, task, num_steps)
    needed = windows.lost(task) + task.look_back
    shortest = min(stop - start for start, stop in series.spans)
    if shortest < needed:
        raise UsageError(f"{series.source}: {shortest} rows, but one window needs {needed}")
    fitted, found = frame.fitted.of(past.which), []
    own = frame._replace(fitted=fitted)
    ahead = windows.steps(task)
    while len(found) < num_steps:
        longer = extended(series, ahead)
        data = windows.prepare(longer, task, fitted)
        ends = np.array([stop for _, stop in longer.spans]) - 1 - ahead
        said = say(forward, own, ends, data)
        values = units(said.middle, said, own)
        found.extend(values.T)
        series = with_values(longer, values)
    return np.stack(found[:num_steps], axis=1)


def check_future(series: Series, task: Any, num_steps: int) -> None:
    unknown = [name for name in series.names[1:] if name not in series.known]
    if num_steps > windows.steps(task) and unknown:
        raise UsageError(
            f"horizon {num_steps}: this model looks {windows.steps(task)} steps ahead, and to go "
            f"further it would need the future of {', '.join(unknown)}; ask for at most "
            f"{windows.steps(task)}, or train with --config.task.horizon={num_steps}"
        )
    known, rows = known_names(series, task), known_rows(series)
    ahead = windows.steps(task)
    needed = (
        num_steps if task.strategy in windows.SEE_AHEAD else ahead * (-(-num_steps // ahead) - 1)
    )
    if known and rows < needed:
        most = rows if task.strategy in windows.SEE_AHEAD else ahead + rows // ahead * ahead
        raise UsageError(
            f"{series.source}: {num_steps} steps need {', '.join(known)} in {needed} rows after "
            f"{series.moment(len(series.values) - 1)}, and it is known in {rows}; add rows without "
            f"a target below the others, or give --future=FILE{f', or ask for {most}' * (most > 0)}"
        )


def known_rows(series: Series) -> int:
    """Rows after the end of every series in which the features known ahead are given."""
    return min(map(len, series.future), default=0)


def default_steps(series: Series, task: Any) -> int:
    """Two seasons of a series alone, else the horizon, or as far as its features are known."""
    free = all(name in series.known for name in series.names[1:])
    rows = known_rows(series)
    if not known_names(series, task):
        return max(2 * task.period, task.horizon) if free else task.horizon
    if task.strategy in windows.SEE_AHEAD:
        return (rows if free else min(rows, task.horizon)) or task.horizon
    return max(rows, task.horizon) if free else task.horizon


def extended(series: Series, count: int) -> Series:
    """`count` more rows below each series, empty but for the calendar and what is known ahead."""
    parts, stamps = [], []
    future = series.future or (np.empty((0, len(series.names) - 1)),) * len(series.ids)
    for (start, stop), ahead in zip(series.spans, future, strict=True):
        later = np.full((count, series.values.shape[1]), np.nan)
        later[: len(ahead), 1:] = ahead[:count]
        if series.index is not None:
            index = series.index[start:stop]
            after = dates.after(index, series.freq, count)
            stamps.append(index.append(after))
            calendar = dates.calendar(after, series.names[1:])
            later[:, 1:] = np.where(np.isnan(calendar), later[:, 1:], calendar)
        parts.append(np.concatenate([series.values[start:stop], later]))
    sizes = [len(part) for part in parts]
    index = stamps[0].append(stamps[1:]) if stamps else None
    starts = tuple(np.cumsum([0, *sizes])[:-1].tolist())
    values = np.concatenate(parts)
    return series._replace(
        values=values, index=index, rows=np.zeros(len(values), int), starts=starts,
        future=tuple(ahead[count:] for ahead in future),
    )  # fmt: skip


def with_values(series: Series, found: np.ndarray) -> Series:
    """The last rows of each series [S, count] filled with what was forecast."""
    values = series.values.copy()
    for (_, stop), one in zip(series.spans, found, strict=True):
        values[stop - len(one) : stop, 0] = one
    return series._replace(values=values)
