"""All steps at once, for cells whose gates do not see h: h_t = a_t * h_{t-1} + b_t."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells.activations import open_blocks
from lstm_jax.cells.gates import gates_of, opening, wides
from lstm_jax.core import Array, Cell, Hidden, Params, noted
from lstm_jax.engines.masking import known, marks
from lstm_jax.errors import UsageError


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) by an associative scan over (a, b), in O(log T) sequential rounds.

        (a2, b2) o (a1, b1) = (a2 * a1, a2 * b1 + b2)

    Raises: UsageError for a cell whose gates see h, or a T that is a symbol.
    Source: Martin & Cundy (2018), section 2.
    """
    if cell.info.linear is None:
        raise UsageError(
            f"engine 'associative' cannot run {cell.info.name!r}: its step t needs h of step t-1 "
            "before the gates open; use engine 'scan', or the cell 'minlstm' or 'mingru'"
        )
    if not known(steps.x.shape[0]):
        raise UsageError(
            f"engine 'associative' needs a known number of steps, given the symbolic T = "
            f"{steps.x.shape[0]}; use engine 'auto', 'deferred' or 'scan', or export a fixed T"
        )
    z, notes = noted(cell.project(params, steps))
    u = wides(cell.merge(params, z, ()))
    gate = gates_of(cell.info, open_blocks(opening(cell.info), u), notes)
    a, b = cell.info.linear(gate)
    valid, restart = marks(notes)
    if valid is not None:
        fresh = cell.initial_carry(params, carry.h.shape[:1]).h
        a, b = _hold(valid, restart, a, b, fresh, reverse)
    reach, hs = jax.lax.associative_scan(_compose, (a, b), reverse=reverse)
    hs = reach * carry.h + hs
    ys = hs if valid is None else jnp.where(valid[..., None], hs, 0)
    return Hidden(hs[0] if reverse else hs[-1]), ys


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    return second[0] * first[0], second[0] * first[1] + second[1]


def _hold(
    valid: Array, restart: Any, a: Array, b: Array, fresh: Array, reverse: bool
) -> tuple[Array, Array]:
    """(a, b) of steps that may not count (1, 0) or that begin afresh (0, a h_0 + b)."""
    valid = valid[..., None]
    a, b = jnp.where(valid, a, 1), jnp.where(valid, b, 0)
    if restart is None:
        return a, b
    never = jnp.zeros_like(restart[:1])
    after = [restart[1:], never] if reverse else [never, restart[:-1]]
    begins = jnp.concatenate(after)[..., None]
    return jnp.where(begins, 0, a), jnp.where(begins, a * fresh + b, b)
