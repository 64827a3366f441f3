"""From a series to windows: logarithm, differences, z-score, gaps, and the way back to units.

With y the (logarithm of the) target, s the period, o the last month seen and h = 1..H steps ahead,
the network forecasts a change against what is known at o:

    none      y[o+h]
    first     y[o+h] - y[o]
    seasonal  y[o+h] - y[o+h-ks],                      k = ceil(h / s)
    both      y[o+h] - y[o+h-ks] - (y[o] - y[o-ks])

which at h = 1 are the ordinary differences, and sees the same differences over the look-back.
Everything fitted (means, standard deviations) is fitted on training rows alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast.series import Series

FILLS = ("error", "zero", "forward", "linear", "mask")


class Scale(NamedTuple):
    """z = (x - mean) / std, by column."""

    mean: np.ndarray
    std: np.ndarray


class Fitted(NamedTuple):
    """What the training part has taught before any training: the two scales."""

    inputs: Scale  # [D]
    targets: Scale  # [H]


def lost(task: Any) -> int:
    """Rows at the start that differencing and the seasonal input leave without a value."""
    differences = int(task.difference) + task.period * int(task.seasonal_difference)
    return differences + int(task.seasonal_input) * (season(task) - task.horizon)


def season(task: Any) -> int:
    """k s: rows from o+H back to the same row of the last season that is known at o."""
    return task.period * -(-task.horizon // task.period)


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


def target_inputs(y: np.ndarray, task: Any) -> np.ndarray:
    """The target's history [N, 1], and with `seasonal_input` what it did a season before o+H."""
    history = differenced(y, task)
    if not task.seasonal_input:
        return history[:, None]
    shift = season(task) - task.horizon
    earlier = np.concatenate([np.full(shift, np.nan), history])[: len(history)]
    return np.stack([history, earlier], axis=1)


def base(y: np.ndarray, task: Any) -> np.ndarray:
    """What the forecast from origin o for h = 1..H is a change against [N, H]; see above."""
    filled, rows = forward_fill(y[:, None])[:, 0], np.arange(len(y))
    columns = []

    def past(shift: int) -> np.ndarray:
        return filled[np.maximum(rows + shift, 0)]

    for h in range(1, task.horizon + 1):
        back = task.period * -(-h // task.period)
        column = np.zeros(len(y))
        if task.seasonal_difference:
            column = past(h - back) + (past(0) - past(-back) if task.difference else 0)
        elif task.difference:
            column = past(0)
        columns.append(column)
    return np.stack(columns, axis=1)


def ahead(x: np.ndarray, horizon: int) -> np.ndarray:
    """x[o+h] for h = 1..H [N, H]; NaN past the end."""
    padded = np.concatenate([x, np.full(horizon, np.nan)])
    return np.stack([padded[h : h + len(x)] for h in range(1, horizon + 1)], axis=1)


def fit(series: Series, task: Any, train_rows: int) -> Fitted:
    """Scales from the first `train_rows` rows."""
    y = levels(series, task)[:train_rows]
    columns = np.column_stack([target_inputs(y, task), series.values[:train_rows, 1:]])
    changes = ahead(y, task.horizon) - base(y, task)
    changes[: lost(task)] = np.nan
    return Fitted(_scale(columns, task), _scale(changes, task))


def _scale(columns: np.ndarray, task: Any) -> Scale:
    if not task.standardize:
        return Scale(np.zeros(columns.shape[1]), np.ones(columns.shape[1]))
    std = np.nanstd(columns, axis=0)
    return Scale(np.nanmean(columns, axis=0), np.where(std > 0, std, 1.0))


def prepare(series: Series, task: Any, fitted: Fitted) -> dict:
    """Device arrays over all N rows: what `take` cuts windows from."""
    y = levels(series, task)
    columns = np.column_stack([target_inputs(y, task), series.values[:, 1:]])
    z = (columns - fitted.inputs.mean) / fitted.inputs.std
    actual = ahead(series.values[:, 0], task.horizon)
    start = base(y, task)
    targets = (ahead(y, task.horizon) - start - fitted.targets.mean) / fitted.targets.std
    data = {
        "inputs": fill(z, task),
        "base": np.nan_to_num(start),
        "targets": np.nan_to_num(targets),
        "actual": np.nan_to_num(actual),
        "observed": np.isfinite(targets),
    }
    data = {name: array.astype(np.float32) for name, array in data.items()}
    if task.missing == "linear":
        data["forward"] = np.nan_to_num(forward_fill(z)).astype(np.float32)
        data["next_seen"] = _next_seen(z).astype(np.int32)
    return data


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
    """D: the columns, and for `mask` as many masks and times."""
    columns = len(series.names) + int(task.seasonal_input)
    return columns * (3 if task.missing == "mask" else 1)


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


def take(data: dict, origins: Any, look_back: int, xp: Any = jnp) -> dict:
    """Windows that end at `origins` [B], with what follows them; by `xp`, JAX's NumPy or NumPy.

    A line across a gap may end after the origin, in the future: there the last value seen stands
    in for it.
    """
    index = origins - look_back + 1 + xp.arange(look_back)[:, None]
    inputs = xp.asarray(data["inputs"])[index]
    if "forward" in data:
        known = xp.asarray(data["next_seen"])[index] <= origins[:, None]
        inputs = xp.where(known, inputs, xp.asarray(data["forward"])[index])
    after = {k: xp.asarray(data[k])[origins] for k in ("base", "targets", "actual", "observed")}
    return {"inputs": inputs, **after}


def to_units(outputs: Any, start: Any, task: Any, fitted: Fitted, xp: Any = jnp) -> Any:
    """Forecasts in the target's own units [..., H] from outputs and `base`."""
    y = start + outputs * fitted.targets.std + fitted.targets.mean
    return xp.exp(y) if task.log else y
