"""All steps at once, for cells whose gates do not see h: h_t = a_t * h_{t-1} + b_t."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Cell, Hidden, Params, UsageError
from lstm_jax.steps import Masked, known


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) by an associative scan over (a, b), in O(log T) sequential rounds.

        (a2, b2) o (a1, b1) = (a2 * a1, a2 * b1 + b2)

    Raises: UsageError for a cell whose gates see h, or a T that is a symbol.
    Source: Martin & Cundy (2018), section 2.
    """
    if cell.spec.linear is None:
        raise UsageError(
            f"engine 'associative' cannot run {cell.spec.name!r}: its step t needs h of step t-1 "
            "before the gates open; use engine 'scan', or the cell 'minlstm' or 'mingru'"
        )
    if not known(steps.x.shape[0]):
        raise UsageError(
            f"engine 'associative' needs a known number of steps, given the symbolic T = "
            f"{steps.x.shape[0]}; use engine 'auto', 'deferred' or 'scan', or export a fixed T"
        )
    zs = cell.project(params, steps)
    marks = zs if isinstance(zs, Masked) else None
    a, b = cell.spec.linear(params, zs if marks is None else marks.z)
    if marks is not None:
        a, b = _hold(marks, a, b, cell.initial_carry(params, carry.h.shape[:1]).h, reverse)
    reach, hs = jax.lax.associative_scan(_compose, (a, b), reverse=reverse)
    hs = reach * carry.h + hs
    ys = hs if marks is None else jnp.where(marks.valid[..., None], hs, 0)
    return Hidden(hs[0] if reverse else hs[-1]), ys


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    return second[0] * first[0], second[0] * first[1] + second[1]


def _hold(marks: Masked, a: Array, b: Array, fresh: Array, reverse: bool) -> tuple[Array, Array]:
    """(a, b) of steps that may not count (1, 0) or that begin afresh (0, a h_0 + b)."""
    valid = marks.valid[..., None]
    a, b = jnp.where(valid, a, 1), jnp.where(valid, b, 0)
    if marks.restart is None:
        return a, b
    never = jnp.zeros_like(marks.restart[:1])
    after = [marks.restart[1:], never] if reverse else [never, marks.restart[:-1]]
    begins = jnp.concatenate(after)[..., None]
    return jnp.where(begins, 0, a), jnp.where(begins, a * fresh + b, b)
