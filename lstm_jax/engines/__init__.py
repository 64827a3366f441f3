"""How a recurrence is run and differentiated: one file each, one contract.

    run(cell, params, carry, steps, reverse=False) -> (carry, ys)

`steps` is what `cell.project` takes, time the leading axis of every leaf. Every engine agrees with
`scan` in values and gradients (law 7); they differ in time and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lstm_jax.core import Cell
from lstm_jax.engines import associative, chunked, cudnn, deferred, scan
from lstm_jax.errors import UsageError, lookup

ENGINES: dict[str, Callable] = {
    "scan": scan.run,
    "deferred": deferred.run,
    "chunked": chunked.run,
    "associative": associative.run,
    "cudnn": cudnn.run,
}


def choose(cell: Cell) -> tuple[str, str]:
    """The engine `auto` stands for, and why."""
    if cell.info.linear is not None:
        return "associative", "the gates do not see h, so all steps run at once"
    if cell.info.learned:
        return "deferred", "backward gate by gate, parameter gradients as matmuls after it"
    return "deferred", "backward of the step in one piece, parameter gradients after it"


def pick(engine: str, cell: Cell) -> Callable:
    """The `run` of an engine by name; `chunked:SIZE` sets the chunk.

    Raises: UsageError for an unknown engine or a SIZE that is no whole number.
    """
    name = choose(cell)[0] if engine == "auto" else engine
    name, _, size = name.partition(":")
    run = lookup("engine", name, {"auto": None, **ENGINES})
    if not size:
        return run
    if name != "chunked" or not size.isdigit():
        raise UsageError(f"engine {engine!r}: only 'chunked' takes a size, as in 'chunked:64'")
    return partial(run, chunk_size=int(size))
