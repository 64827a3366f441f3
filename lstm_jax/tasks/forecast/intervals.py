"""What the network says about a step ahead: a value, quantiles, or a distribution.

    squared, absolute   the value
    quantile            its quantiles, by the pinball loss; Koenker and Bassett (1978)
    gaussian            mean and standard deviation, by their likelihood
    student             location, scale and degrees of freedom; heavier tails; Salinas et al. (2020)

Around any of them, `task.conformal` moves the ends of each interval by what the validation part
asks for; Romano, Patterson, Candes (2019), conformalized quantile regression.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.errors import UsageError, unknown

PARAMETERS = {"squared": 1, "absolute": 1, "quantile": 0, "gaussian": 2, "student": 3}
SMALLEST = 1e-3  # scale of a distribution, after the transforms
LEAST_FREEDOM = 2.0  # above it a Student t has a variance


def outputs(task: Any) -> int:
    """P: numbers that the network says about each step."""
    return PARAMETERS[task.objective] or len(task.quantiles)


def check(task: Any) -> None:
    if task.objective not in PARAMETERS:
        raise unknown("task.objective", task.objective, PARAMETERS)
    levels = list(task.quantiles)
    mirrored = np.allclose(levels, [1 - q for q in reversed(levels)], atol=1e-9)
    inside = all(0 < q < 1 for q in levels)
    if levels != sorted(set(levels)) or not inside or not mirrored or len(levels) % 2 == 0:
        raise UsageError(
            f"task.quantiles={tuple(levels)}: expected rising numbers between 0 and 1, each with "
            "its counterpart, around 0.5, as in 0.025,0.1,0.5,0.9,0.975 for intervals of 80 and "
            "95 %"
        )


def has_intervals(task: Any) -> bool:
    return task.conformal or task.objective in ("quantile", "gaussian", "student")


def middle(said: Any, task: Any) -> Any:
    """The forecast [..., H] in what the network said [..., H, P]."""
    return said[..., place(task)]


def place(task: Any) -> int:
    """Where the forecast stands among the P numbers."""
    return len(task.quantiles) // 2 if task.objective == "quantile" else 0


def loss(said: Array, targets: Array, task: Any) -> Array:
    """[B, H] from said [B, H, P] and targets [B, H]."""
    miss = targets - said[..., 0]
    if task.objective == "squared":
        return jnp.square(miss)
    if task.objective == "absolute":
        return jnp.abs(miss)
    if task.objective == "quantile":
        levels, misses = jnp.asarray(task.quantiles), targets[..., None] - said
        return jnp.mean(jnp.maximum(levels * misses, (levels - 1) * misses), axis=-1)
    scale = jax.nn.softplus(said[..., 1]) + SMALLEST
    if task.objective == "gaussian":
        return jnp.square(miss / scale) / 2 + jnp.log(scale) + math.log(2 * math.pi) / 2
    return -student_log_density(miss / scale, _freedom(said[..., 2], jax.nn.softplus)) + jnp.log(
        scale
    )


def student_log_density(z: Array, freedom: Array) -> Array:
    """log of the density of a Student t with `freedom` degrees at z."""
    half = (freedom + 1) / 2
    constant = jax.lax.lgamma(half) - jax.lax.lgamma(freedom / 2)
    constant = constant - jnp.log(freedom * math.pi) / 2
    return constant - half * jnp.log1p(jnp.square(z) / freedom)


def _freedom(raw: Any, softplus: Any) -> Any:
    return LEAST_FREEDOM + softplus(raw)


def quantiles(said: np.ndarray, task: Any) -> np.ndarray:
    """[n, H, Q] at task.quantiles, rising, before calibration; a plain value is all of them."""
    levels = np.asarray(task.quantiles)
    if task.objective == "quantile":
        return np.sort(said, axis=-1)
    if task.objective in ("squared", "absolute"):
        return np.repeat(said, len(levels), axis=-1)
    from scipy import stats  # start-up

    scale = np.logaddexp(0, said[..., 1]) + SMALLEST
    if task.objective == "gaussian":
        return said[..., :1] + scale[..., None] * stats.norm.ppf(levels)
    freedom = _freedom(said[..., 2], lambda raw: np.logaddexp(0, raw))
    return said[..., :1] + scale[..., None] * stats.t.ppf(levels, freedom[..., None])


# ---------------------------------------------------------------- calibration


def needed(share: float) -> int:
    """The fewest forecasts that a central interval of this share can be calibrated on."""
    return math.ceil(share / (1 - share) - 1e-9)


def check_calibration(count: int, task: Any, source: str) -> None:
    """Raises UsageError where the validation part is too short for the widest interval."""
    share = task.quantiles[-1] - task.quantiles[0]
    if task.conformal and count < needed(share):
        raise UsageError(
            f"{source}: task.conformal needs {needed(share)} validation forecasts for the "
            f"{100 * share:.4g} % interval, and there are {count}; raise task.valid_part or "
            "task.valid_rows, or leave the outer task.quantiles out"
        )


def calibration(found: np.ndarray, targets: np.ndarray, task: Any) -> np.ndarray:
    """How far the ends of each interval move outwards [H, Q // 2], in the space of training.

    found [n, H, Q] quantiles and targets [n, H], NaN where nothing was observed, of validation.
    """
    levels = task.quantiles
    moves = np.zeros((found.shape[1], len(levels) // 2))
    for k in range(len(levels) // 2):
        outside = np.maximum(found[..., k] - targets, targets - found[..., -1 - k])
        for h in range(found.shape[1]):
            seen = np.sort(outside[np.isfinite(outside[:, h]), h])
            rank = math.ceil((len(seen) + 1) * (levels[-1 - k] - levels[k]) - 1e-9)
            moves[h, k] = seen[min(rank, len(seen)) - 1] if len(seen) else 0.0
    return moves


def calibrated(found: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Quantiles [n, H, Q] with the ends of their intervals moved outwards."""
    half = moves.shape[1]
    shift = np.concatenate([-moves, np.zeros((len(moves), 1)), moves[:, ::-1]], axis=1)
    middle = found[..., half : half + 1]
    moved = found + shift
    low, high = np.minimum(moved[..., :half], middle), np.maximum(moved[..., half + 1 :], middle)
    return np.sort(np.concatenate([low, middle, high], axis=-1), axis=-1)
