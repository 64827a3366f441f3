"""From series to windows: logarithm, differences, scaling, gaps, and the way back to units.

With y the (logarithm of the) target, s the period, o the last row seen and h = 1..H steps ahead,
the network forecasts a change against what is known at o:

    none      y[o+h]
    first     y[o+h] - y[o]
    seasonal  y[o+h] - y[o+h-ks],                      k = ceil(h / s)
    both      y[o+h] - y[o+h-ks] - (y[o] - y[o-ks])

which at h = 1 are the ordinary differences, and sees the same differences over the look-back.
Everything fitted is fitted on training rows alone, for each series by itself. All of it is computed
in float64; what goes to the device is relative to the series' own level and spread, so that float32
loses nothing of a series around a billion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast.series import Series

FILLS = ("error", "zero", "forward", "linear", "mask")
SCALINGS = ("zscore", "mean_abs", "instance", "none")
SEE_AHEAD = ("sequence", "seq2seq")  # strategies that are told of the rows which they forecast
WHOLE = ("unit_of_metrics",)  # of Fitted: one number for all series


class Scale(NamedTuple):
    """z = (x - mean) / std, by column."""

    mean: np.ndarray
    std: np.ndarray


class Fitted(NamedTuple):
    """What the rows before any training have taught, for S series."""

    offset: np.ndarray  # [S] of y
    unit: np.ndarray  # [S] of y
    inputs: Scale  # [S, D]
    targets: Scale  # [S, H], of y less offset over unit
    naive: np.ndarray  # [S] mean error of the (seasonal) naive forecast before the test, in units
    naive_squared: np.ndarray  # [S] and its mean square
    unit_of_metrics: float = 1.0  # on the device

    def of(self, which: Any) -> Fitted:
        """Those of the series numbered so."""
        which = np.asarray(which)
        parts = {
            name: Scale(*(leaf[which] for leaf in part)) if isinstance(part, Scale) else part[which]
            for name, part in self._asdict().items()
            if name not in WHOLE
        }
        return self._replace(**parts)


def steps(task: Any) -> int:
    """H: the steps that one pass of the network forecasts."""
    return 1 if task.strategy == "recursive" else task.horizon


def lost(task: Any) -> int:
    """Rows at the start that differencing and the seasonal input leave without a value."""
    differences = int(task.difference) + task.period * int(task.seasonal_difference)
    return differences + int(task.seasonal_input) * (season(task) - steps(task))


def season(task: Any) -> int:
    """k s: rows from o+H back to the same row of the last season that is known at o."""
    return task.period * -(-steps(task) // task.period)


def levels(series: Series, task: Any) -> np.ndarray:
    """y [N]: the target, or its logarithm."""
    target = series.values[:, 0]
    if not task.log:
        return target
    bad = np.flatnonzero(target <= 0)
    if len(bad):
        raise UsageError(
            f"{series.source}, row {series.rows[bad[0]]}, column {series.names[0]}: "
            f"{target[bad[0]]:g} has no logarithm; set task.log=False"
        )
    return np.log(target)


def differenced(y: np.ndarray, task: Any) -> np.ndarray:
    """The target's own history as the network sees it [N]; NaN where it is not defined."""
    for lag in (1,) * int(task.difference) + (task.period,) * int(task.seasonal_difference):
        y = np.concatenate([np.full(min(lag, len(y)), np.nan), y[lag:] - y[:-lag]])
    return y


def columns_of(series: Series, task: Any) -> np.ndarray:
    """What the network sees of one series, before scaling [N, D].

    The target's history, with `seasonal_input` what it did a season before o+H, the features.
    """
    history = differenced(levels(series, task), task)
    columns = [history]
    if task.seasonal_input:
        shift = season(task) - steps(task)
        columns.append(np.concatenate([np.full(shift, np.nan), history])[: len(history)])
    return np.column_stack([*columns, series.values[:, 1:]])


def base(y: Any, origins: Any, task: Any, xp: Any) -> Any:
    """What the forecast from each origin for h = 1..H is a change against [B, H]; see above."""

    def past(shift: int) -> Any:
        return y[xp.maximum(origins + shift, 0)]

    found = []
    for h in range(1, steps(task) + 1):
        back = task.period * -(-h // task.period)
        if task.seasonal_difference:
            found.append(past(h - back) + (past(0) - past(-back) if task.difference else 0))
        else:
            found.append(past(0) if task.difference else xp.zeros_like(past(0)))
    return xp.stack(found, axis=1)


# ---------------------------------------------------------------- fitting


def fit(series: Series, task: Any, ends: Sequence[tuple[int, int]]) -> Fitted:
    """From the rows of each series up to (the end of training, the end of validation)."""
    parts = [
        fit_one(series.part(start, train), series.part(start, before), task)
        for (start, _), (train, before) in zip(series.spans, ends, strict=True)
    ]
    offset, unit, inputs, targets, naive, squared = zip(*parts, strict=True)
    inputs, targets = (Scale(*map(np.stack, zip(*pair, strict=True))) for pair in (inputs, targets))
    whole = float(np.nanmax(np.abs(series.values[:, 0]))) if task.log else max(unit)
    offset, unit, naive, squared = map(np.array, (offset, unit, naive, squared))
    return Fitted(offset, unit, inputs, targets, naive, squared, whole)


def fit_one(train: Series, before: Series, task: Any) -> tuple:
    """(offset, unit, inputs, targets, naive, naive_squared) of one series."""
    y = levels(train, task)
    offset = float(np.nanmean(y)) if np.isfinite(y).any() else 0.0
    unit = 1.0 if task.log else float(np.nanstd(y)) or 1.0
    inputs = scale(columns_of(train, task), 0.0, 1.0, task)
    if task.scaling == "instance":
        own = 1 + int(task.seasonal_input)
        inputs.mean[:own], inputs.std[:own] = (0.0 if changes(task) else offset), unit
    zero = 0.0 if changes(task) else -offset / unit
    targets = scale(_targets((y - offset) / unit, task), zero, 1 / unit, task)
    if task.scaling == "instance":
        targets = Scale(np.zeros(steps(task)), np.ones(steps(task)))
    errors = np.abs(before.values[task.period :, 0] - before.values[: -task.period, 0])
    errors = errors[np.isfinite(errors)]
    naive = (errors.mean(), np.square(errors).mean()) if len(errors) else (np.nan, np.nan)
    return offset, unit, inputs, targets, *naive


def changes(task: Any) -> bool:
    return task.difference or task.seasonal_difference


def _targets(y: np.ndarray, task: Any) -> np.ndarray:
    """What is forecast from every row of the training part [N, H]; NaN past its end."""
    if not changes(task):
        return np.repeat(y[:, None], steps(task), axis=1)  # the series' own mean and spread
    origins = np.arange(lost(task), max(len(y), lost(task) + 1))
    ahead = origins[:, None] + np.arange(1, steps(task) + 1)
    known = np.where(ahead < len(y), y[np.minimum(ahead, len(y) - 1)], np.nan)
    return known - base(forward_fill(y[:, None])[:, 0], origins, task, np)


def scale(columns: np.ndarray, zero: float, one: float, task: Any) -> Scale:
    """By task.scaling; a raw 0 stands at `zero`, and a raw 1 is `one` wide.

    The training windows' own scales (instance) come later, on top of a z-score of the features.
    """
    seen = np.atleast_1d(np.isfinite(columns).any(axis=0))
    known = np.where(seen, columns, 0.0)
    mean, std = np.full(len(seen), zero), np.full(len(seen), one)
    if task.scaling in ("zscore", "instance"):
        mean, std = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    elif task.scaling == "mean_abs":
        std = np.nanmean(np.abs(known - zero), axis=0)
    return Scale(mean, np.where(std > 0, std, one))


# ---------------------------------------------------------------- arrays


def prepare(series: Series, task: Any, fitted: Fitted) -> dict:
    """Arrays over all N rows and S series, float64: what `take` cuts windows from."""
    parts = [
        prepare_one(series.part(*span), task, fitted.of([k])) for k, span in enumerate(series.spans)
    ]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if "next_seen" in rows:
        first = np.repeat(series.starts, [stop - start for start, stop in series.spans])
        rows["next_seen"] = rows["next_seen"] + first[:, None]
    whole = fitted.unit_of_metrics
    sizes = [stop - start for start, stop in series.spans]
    return rows | {
        "actual": np.nan_to_num(series.values[:, 0]) / whole,
        "observed": np.isfinite(series.values[:, 0]).astype(np.float64),
        "series": np.repeat(np.arange(len(sizes)), sizes),
        "shift": fitted.targets.mean,
        "factor": fitted.targets.std,
        "unit": fitted.unit if task.log else fitted.unit / whole,
        "naive": np.nan_to_num(fitted.naive) / whole,
        "known": known_columns(series, task),
        "each": np.arange(series.joint) * (len(series.values) // series.joint),
        "columns": np.array(columns(series, task)),
    }


def prepare_one(series: Series, task: Any, fitted: Fitted) -> dict:
    y = (levels(series, task) - fitted.offset[0]) / fitted.unit[0]
    z = (columns_of(series, task) - fitted.inputs.mean[0]) / fitted.inputs.std[0]
    found = {"inputs": fill(z, task), "y": np.nan_to_num(forward_fill(y[:, None])[:, 0])}
    if task.missing == "linear":
        found |= {"forward": np.nan_to_num(forward_fill(z)), "next_seen": _next_seen(z)}
    return found


def on_device(data: dict) -> dict:
    """float32 and int32."""
    return {
        name: array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        for name, array in data.items()
    }


def fill(z: np.ndarray, task: Any) -> np.ndarray:
    """Gaps closed the way `task.missing` says [N, D or 3 D]; zero is the training mean.

    mask: the last value seen, and for each column whether it was seen and
    log(1 + steps since), the inputs of GRU-D: Che et al. (2018).
    """
    if task.missing == "zero":
        filled = np.nan_to_num(z)
    elif task.missing == "linear":
        filled = _interpolate(z)
    else:
        filled = np.nan_to_num(forward_fill(z))
    if task.missing == "mask":
        seen = ~np.isnan(z)
        filled = np.column_stack([filled, seen, np.log1p(_since_seen(seen))])
    return filled


def num_inputs(series: Series, task: Any) -> int:
    """D: the columns, for `mask` as many masks and times, of SEE_AHEAD what is past or future."""
    return len(columns(series, task))


def columns(series: Series, task: Any) -> list[int]:
    """Which of K targets' inputs, side by side, the network sees: features of the first alone."""
    count, blocks = len(series.names) + int(task.seasonal_input), 3 if task.missing == "mask" else 1
    size = count * blocks + (task.strategy in SEE_AHEAD)
    own = [b * count + j for b in range(blocks) for j in range(1 + int(task.seasonal_input))]
    return [*range(size), *(k * size + j for k in range(1, series.joint) for j in own)]


def first_columns(series: Series, task: Any) -> tuple[int, ...]:
    """Where each target's own history stands among the D inputs."""
    size = num_inputs(series._replace(joint=1), task)
    own = (1 + int(task.seasonal_input)) * (3 if task.missing == "mask" else 1)
    return (0, *(size + own * k for k in range(series.joint - 1)))


def bases(rows: np.ndarray, series: Series) -> np.ndarray:
    """Rows of the first target, one for each row of time that `rows` of any target stand in."""
    return rows if series.joint == 1 else np.unique(rows % (len(series.values) // series.joint))


def known_columns(series: Series, task: Any) -> np.ndarray:
    """[D] 1 for the inputs whose future is known: those of `task.known_future`, the calendar."""
    known = [0.0] * (1 + int(task.seasonal_input))
    known += [float(name in series.known) for name in series.names[1:]]
    return np.array(known + [0.0] * (2 * len(known) if task.missing == "mask" else 0))


def forward_fill(x: np.ndarray) -> np.ndarray:
    """The last value seen [N, D]; NaN before the first."""
    rows = np.where(~np.isnan(x), np.arange(len(x))[:, None], 0)
    return np.take_along_axis(x, np.maximum.accumulate(rows, axis=0), axis=0)


def _next_seen(x: np.ndarray) -> np.ndarray:
    """Row of the next value seen, itself included [N, D]; N where there is none."""
    rows = np.where(~np.isnan(x), np.arange(len(x))[:, None], len(x))
    return np.minimum.accumulate(rows[::-1], axis=0)[::-1]


def _since_seen(seen: np.ndarray) -> np.ndarray:
    """Steps since each column was last seen [N, D]; 0 at a row that has it."""
    rows = np.arange(len(seen))[:, None]
    return rows - np.maximum.accumulate(np.where(seen, rows, 0), axis=0)


def _interpolate(x: np.ndarray) -> np.ndarray:
    """Straight lines across the gaps [N, D]; 0 where a column has nothing at all."""
    rows, filled = np.arange(len(x)), np.zeros_like(x)
    for j in range(x.shape[1]):
        seen = ~np.isnan(x[:, j])
        if seen.any():
            filled[:, j] = np.interp(rows, rows[seen], x[seen, j])
    return filled


# ---------------------------------------------------------------- windows


def take(data: dict, origins: Any, task: Any, xp: Any = jnp) -> dict:
    """Windows that end at `origins` [B], with what follows them; by `xp`, JAX's NumPy or NumPy.

    Of K targets jointly (`origins` are the first one's rows) the inputs stand side by side, and all
    else is [B, K H].
    """
    each, count = data["each"], len(origins)
    if len(each) == 1:
        return take_each(data, origins, task, xp)
    found = take_each(data, (origins[:, None] + xp.asarray(each)).reshape(-1), task, xp)
    inputs = found.pop("inputs")
    wide = {
        name: xp.broadcast_to(array, (len(array), steps(task))).reshape(count, -1)
        for name, array in found.items()
    }
    inputs = inputs.reshape(len(inputs), count, -1)[..., xp.asarray(data["columns"])]
    return {"inputs": inputs} | wide


def take_each(data: dict, origins: Any, task: Any, xp: Any = jnp) -> dict:
    """`take`, every target by itself.

    A line across a gap may end after the origin, in the future: there the last value seen stands
    in for it.
    """
    index = origins - task.look_back + 1 + xp.arange(task.look_back)[:, None]
    inputs = xp.asarray(data["inputs"])[index]
    if "forward" in data:
        known = xp.asarray(data["next_seen"])[index] <= origins[:, None]
        inputs = xp.where(known, inputs, xp.asarray(data["forward"])[index])
    y, which = xp.asarray(data["y"]), xp.asarray(data["series"])[origins]
    ahead = xp.minimum(origins[:, None] + xp.arange(1, steps(task) + 1), len(y) - 1)
    shift, factor, unit, naive = (
        xp.asarray(data[name])[which] for name in ("shift", "factor", "unit", "naive")
    )
    start = base(y, origins, task, xp)
    if task.scaling == "instance":
        inputs, shift, factor = by_window(inputs, task, xp)
    if task.strategy in SEE_AHEAD:
        inputs = with_future(inputs, xp.asarray(data["inputs"])[ahead.T], data["known"], xp)
    return {
        "inputs": inputs,
        "base": start + shift,
        "factor": factor,
        "targets": (y[ahead] - start - shift) / factor,
        "actual": xp.asarray(data["actual"])[ahead],
        "observed": xp.asarray(data["observed"])[ahead],
        "unit": unit[:, None],
        "naive": naive[:, None],
    }


def by_step(targets: Any, task: Any) -> Any:
    """[B, K H] -> [H, B, K]."""
    return targets.reshape(len(targets), -1, steps(task)).transpose(2, 0, 1)


def by_example(targets: Any) -> Any:
    """[H, B, K] -> [B, K H]."""
    return targets.transpose(1, 2, 0).reshape(targets.shape[1], -1)


def by_window(inputs: Any, task: Any, xp: Any) -> tuple[Any, Any, Any]:
    """(inputs, shift [B, H], factor [B, H]): the target by its own mean and spread in the window.

    Where the network sees changes, by their spread alone. Kim et al. (2022), reversible instance
    normalisation.
    """
    own = 1 + int(task.seasonal_input)
    mean = xp.zeros(inputs.shape[1]) if changes(task) else xp.mean(inputs[..., 0], axis=0)
    std = xp.sqrt(xp.var(inputs[..., 0], axis=0) + 1e-5)
    target = (inputs[..., :own] - mean[:, None]) / std[:, None]
    inputs = xp.concatenate([target, inputs[..., own:]], axis=-1)
    shape = (inputs.shape[1], steps(task))
    return inputs, xp.broadcast_to(mean[:, None], shape), xp.broadcast_to(std[:, None], shape)


def with_future(inputs: Any, later: Any, known: Any, xp: Any) -> Any:
    """[T + H, B, D + 1]: the past, and of the future what is known; the last column says which."""
    both = xp.concatenate([inputs, later * known])
    future = (xp.arange(len(both)) >= len(inputs)).astype(both.dtype)
    flag = xp.broadcast_to(future[:, None, None], (*both.shape[:2], 1))
    return xp.concatenate([both, flag], axis=-1)


def to_units(outputs: np.ndarray, batch: dict, task: Any, fitted: Fitted) -> np.ndarray:
    """Forecasts in the target's own units [B, H, ...], float64; `fitted` of each of the B."""

    def wide(array: np.ndarray) -> np.ndarray:
        return array.reshape(*array.shape, *[1] * (outputs.ndim - array.ndim))

    y = wide(batch["base"]) + outputs.astype(np.float64) * wide(batch["factor"])
    y = wide(fitted.offset) + wide(fitted.unit) * y
    return np.exp(y) if task.log else y
