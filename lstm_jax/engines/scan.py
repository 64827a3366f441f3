"""The reference: `lax.scan` of the step, differentiated by JAX."""

from __future__ import annotations

from typing import Any

from jax import lax

from lstm_jax.core import Cell, Params


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) of `advance(params, carry, z, recur(params, carry))` over projected steps."""

    def step(carry, z):
        return cell.advance(params, carry, z, cell.recur(params, carry))

    return lax.scan(step, carry, cell.project(params, steps), reverse=reverse)
