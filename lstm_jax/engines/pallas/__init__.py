"""`deferred`, its two time loops as one kernel each, on a TPU. Experimental.

The kernel's body is what the cell's own `merge` and `update` trace to: an ablation written this
morning is served as the standard cell is.
"""

from __future__ import annotations

from typing import Any

from lstm_jax.core import Cell, Params
from lstm_jax.engines import deferred
from lstm_jax.engines.native import beyond
from lstm_jax.errors import UsageError
from lstm_jax.ops import platform, tracing_for


def refusal() -> str:
    """Why no kernel runs here; empty where it does."""
    from lstm_jax.engines.pallas import kernel  # start-up: Pallas

    here = "tpu" if kernel.INTERPRET else platform()
    return "" if here == "tpu" else f"it needs a TPU and this is {here}"


def run(
    cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False, kept: str = ""
) -> Any:
    """(carry, ys) by `deferred`, each of its loops one kernel.

    Sizes that are symbols, and a batch laid out over an explicit mesh, are left to `deferred`; so
    is a loop that VMEM has no room for, with a line that says so.

    Raises: UsageError where there is no TPU, with the engines that can serve.
    """
    from lstm_jax.engines.pallas import kernel  # start-up: Pallas

    why = refusal()
    if why:
        raise UsageError(
            f"engine 'pallas' cannot serve: {why}; use 'auto', 'deferred', 'native' or 'scan'"
        )
    if beyond(steps):
        return deferred.run(cell, params, carry, steps, reverse, kept=kept)
    with tracing_for("tpu"):
        return deferred.run(cell, params, carry, steps, reverse, scan=kernel.scan, kept=kept)
