"""How a recurrence is run and differentiated: one file each, one contract.

    run(cell, params, carry, steps, reverse=False) -> (carry, ys)

`steps` is what `cell.project` takes, time the leading axis of every leaf. Every engine agrees with
`scan` in values and gradients (law 7); they differ in time and memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.interpreters.ad import JVPTracer

from lstm_jax.core import Cell
from lstm_jax.engines import associative, chunked, cudnn, deferred, native, pallas, scan
from lstm_jax.engines.masking import known
from lstm_jax.errors import UsageError, lookup

ENGINES: dict[str, Callable] = {
    "scan": scan.run,
    "deferred": deferred.run,
    "chunked": chunked.run,
    "associative": associative.run,
    "cudnn": cudnn.run,
    "native": native.run,
    "pallas": pallas.run,
}


# Their gradients are a custom VJP, which some of what JAX does cannot pass: there it is `scan`.
CUSTOM = ("auto", "deferred", "chunked", "native", "pallas")


def choose(cell: Cell, length: Any = 1) -> tuple[str, str]:
    """The engine `auto` stands for with so many steps, and why."""
    if cell.info.linear is not None and known(length):
        return "associative", "the gates do not see h, so all steps run at once"
    why = native.refusal(cell)
    if not why:
        return "native", "compiled code for this cell, all steps in one call"
    name, reason = _without_native(cell)
    return name, f"{reason}. Not native: {why}"


def _without_native(cell: Cell) -> tuple[str, str]:
    if cell.info.learned:
        return "deferred", "backward gate by gate, parameter gradients as matmuls after it"
    return "deferred", "backward of the step in one piece, parameter gradients after it"


def pick(engine: str, cell: Cell, given: Any = (), carry: Any = (), length: Any = 1) -> Callable:
    """The `run` of an engine by name; `chunked:SIZE` sets the chunk.

    `scan` stands in for an engine whose gradients cannot pass: under `jax.disable_jit`, in forward
    mode of what is `given`, and with whole numbers in the `carry`.

    Raises: UsageError for an unknown engine or a SIZE that is no whole number.
    """
    name = engine
    if engine == "auto" and cell.info.linear is not None and known(length):
        name = "associative"
    name, _, size = name.partition(":")
    run = lookup("engine", name, {"auto": native.prefer, **ENGINES})
    if size and (name != "chunked" or not size.isdigit()):
        raise UsageError(f"engine {engine!r}: only 'chunked' takes a size, as in 'chunked:64'")
    settings: Any = jax.config
    if name in CUSTOM and (settings.jax_disable_jit or _forward(given) or not _real(carry)):
        return scan.run
    return partial(run, chunk_size=int(size)) if size else run


def _forward(tree: Any) -> bool:
    """Whether forward mode differentiates any leaf, as far as it is not hidden by `jax.jit`."""

    def pushed(leaf: Any) -> bool:
        while isinstance(leaf, Tracer) and not isinstance(leaf, JVPTracer):
            leaf = getattr(leaf, "primal", getattr(leaf, "val", None))
        return isinstance(leaf, JVPTracer)

    return any(map(pushed, jax.tree.leaves(tree)))


def _real(carry: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(carry))
