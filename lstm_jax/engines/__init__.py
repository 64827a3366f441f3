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
from lstm_jax.engines.residuals import KEPT
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


NARROWING = ("deferred", "pallas")  # keep gates in fewer bits where they are told to
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
    """The `run` of an engine by name and option, as `parsed` reads them.

    `scan` stands in for an engine whose gradients cannot pass: under `jax.disable_jit`, in forward
    mode of what is `given`, and with whole numbers in the `carry`.

    Raises: UsageError for an unknown engine or option.
    """
    name, options = parsed(engine)
    if name == "auto" and cell.info.linear is not None and known(length):
        name = "associative"
    run = native.prefer if name == "auto" else ENGINES[name]
    settings: Any = jax.config
    if name in CUSTOM and (settings.jax_disable_jit or _forward(given) or not _real(carry)):
        return scan.run
    return partial(run, **options) if options else run


def parsed(engine: str) -> tuple[str, dict[str, Any]]:
    """(name, what its `run` takes besides) of NAME, `chunked:SIZE` or `deferred:TYPE`.

    Raises: UsageError for an unknown name, or an option that the engine does not have.
    """
    name, _, option = engine.partition(":")
    lookup("engine", name, dict.fromkeys(["auto", *ENGINES]))
    if not option:
        return name, {}
    if name == "chunked" and option.isdigit():
        return name, {"chunk_size": int(option)}
    if name in NARROWING and option in KEPT:
        return name, {"kept": option}
    raise UsageError(
        f"engine {engine!r}: only 'chunked' takes a size, as in 'chunked:64', and only "
        f"{' and '.join(NARROWING)} a type to keep gates in: {', '.join(KEPT)}"
    )


def _forward(tree: Any) -> bool:
    """Whether forward mode differentiates any leaf, as far as it is not hidden by `jax.jit`."""

    def pushed(leaf: Any) -> bool:
        while isinstance(leaf, Tracer) and not isinstance(leaf, JVPTracer):
            leaf = getattr(leaf, "primal", getattr(leaf, "val", None))
        return isinstance(leaf, JVPTracer)

    return any(map(pushed, jax.tree.leaves(tree)))


def _real(carry: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(carry))
