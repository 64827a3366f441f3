"""How a recurrence is run and differentiated: one file each, one contract.

    run(cell, params, carry, steps, reverse=False) -> (carry, ys)

`steps` is what `cell.project` takes, time the leading axis of every leaf. Every engine agrees with
`scan` in values and gradients (law 7); they differ in time and memory.
"""

from __future__ import annotations

from collections.abc import Callable

from lstm_jax.core import Cell, lookup
from lstm_jax.engines import associative, scan

ENGINES: dict[str, Callable] = {"scan": scan.run, "associative": associative.run}


def choose(cell: Cell, steps: int) -> tuple[str, str]:
    """The engine `auto` stands for, and why."""
    if cell.spec.linear is not None:
        return "associative", "the gates do not see h, so all steps run at once"
    return "scan", "the reference"


def pick(engine: str, cell: Cell, steps: int) -> Callable:
    """The `run` of an engine by name."""
    name = choose(cell, steps)[0] if engine == "auto" else engine
    return lookup("engine", name, ENGINES)
