"""The reference: `lax.scan` of the step, differentiated by JAX."""

from __future__ import annotations

from typing import Any

from jax import lax

from lstm_jax.cells.gates import step
from lstm_jax.core import Cell, Params, noted


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) of the cell's step over projected steps."""

    def body(carry, now):
        return step(cell, params, carry, *now)

    return lax.scan(body, carry, noted(cell.project(params, steps)), reverse=reverse)
