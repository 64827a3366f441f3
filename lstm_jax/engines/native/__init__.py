"""A whole sequence in one call of compiled code, on a CPU.

The products are written once, for vectors of any width (sequence.h). What a cell does with its
pre-activations is read from its own `update` and its VJP, written as C and compiled when it is
first met: a cell that somebody wrote this morning runs as fast as the standard one. Forward and
backward are a custom call each, over all steps, with a team of threads that meets only where
it must.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Cell, Params, noted
from lstm_jax.engines import deferred, meshes
from lstm_jax.engines.masking import Step, known, stepping
from lstm_jax.engines.native import build, call
from lstm_jax.engines.native.call import Given
from lstm_jax.engines.native.design import Design, design
from lstm_jax.engines.native.lanes import Unsupported
from lstm_jax.errors import UsageError
from lstm_jax.ops import Known, by_platform, platform


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) of all steps by compiled code.

    Sizes that are symbols, and a batch laid out over an explicit mesh, are left to `deferred`.

    Raises: UsageError where it cannot serve, with the engines that can.
    """
    if beyond(steps):
        return deferred.run(cell, params, carry, steps, reverse)
    found = plan(cell, params, carry, steps)
    if isinstance(found, str):
        raise UsageError(f"engine 'native' cannot serve: {found}; use 'auto' or 'deferred'")
    return serve(found, cell, params, carry, steps, reverse)


def prefer(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) by compiled code where it can, else by `deferred`."""
    found = plan(cell, params, carry, steps)
    if isinstance(found, str):
        return deferred.run(cell, params, carry, steps, reverse)
    here = partial(serve, found, cell, reverse=reverse)
    elsewhere = partial(deferred.run, cell, reverse=reverse)
    return by_platform(here, elsewhere, params, carry, steps)


def refusal(cell: Cell, features: int = 1) -> str:
    """Why the code cannot run this cell here; empty where it can."""
    params = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (1,)), params)
    steps = Step(jax.ShapeDtypeStruct((1, 1, features), jnp.float32))
    found = plan(stepping(cell), params, carry, steps)
    return found if isinstance(found, str) else ""


def plan(cell: Cell, params: Params, carry: Any, steps: Any) -> Design | str:
    """How the code runs this, or why it cannot."""
    why = place() or types(params, carry) or beyond(steps) or build.missing()
    if why:
        return why
    try:
        made = design(cell, params, carry, steps)
        build.cell(call.code(made).text)
        return made
    except Unsupported as error:
        return f"cell {cell.info.name!r} {error}"
    except build.Failed as error:
        return str(error)
    except Exception as error:  # a stranger's cell: what is wrong with it, other engines say
        return f"cell {cell.info.name!r} could not be read ({type(error).__name__}: {error})"


def place() -> str:
    """Why no code runs here; empty where it does."""
    return "" if platform() == "cpu" else f"it runs on a CPU and this is {platform()}"


def beyond(steps: Any) -> str:
    """What XLA's programs can do with these steps and one call cannot; empty for nothing."""
    if not known(*steps.x.shape):
        return "a size is a symbol"
    if any(axis is not None for axis in _spec(steps.x)):
        return "the batch is laid out over an explicit mesh"
    return ""


def _spec(x: Any) -> Any:
    sharding = getattr(x, "sharding", None) if isinstance(x, jax.ShapeDtypeStruct) else None
    return getattr(sharding or jax.typeof(x).sharding, "spec", ())


def types(params: Params, carry: Any) -> str:
    """Why no code runs for numbers of these types."""
    leaves = [*jax.tree.leaves(params), *jax.tree.leaves(carry)]
    kinds = {str(leaf.dtype) for leaf in leaves}
    wide = {kind for kind in kinds if kind != "float32" and "int" not in kind}
    return f"it computes in float32 and this is {min(wide)}" if wide else ""


def serve(made: Design, cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool) -> Any:
    """(carry, ys): everything but the time loop as JAX operations, differentiated by JAX."""
    leaves = jax.tree.leaves(params)
    x, W, b, notes = _source(made, cell, params, steps)
    given = Given(
        x,
        W,
        b,
        leaves[made.matrix] if made.fed >= 0 else None,
        tuple(jax.tree.leaves(carry)),
        _rows(made, leaves),
        _notes(made, notes),
    )
    given = meshes.alike_all(given)
    y, last = call.sequence(call.static(made, given, reverse), given)
    return jax.tree.unflatten(jax.tree.structure(carry), last), y


def _source(made: Design, cell: Cell, params: Params, steps: Any) -> tuple[Array, Any, Any, Any]:
    """(x, W, b, notes), or (z, None, None, notes) where JAX projects."""
    if made.kernel < 0:
        z, notes = noted(cell.project(params, steps))
        return jnp.concatenate(jax.tree.leaves(z), -1), None, None, notes
    leaves = jax.tree.leaves(params)
    W = leaves[made.kernel]
    bias = leaves[made.bias] if made.bias >= 0 else jnp.zeros(W.shape[1:], W.dtype)
    matrix = Known(jnp.zeros((*steps.x.shape[:2], *W.shape[1:]), W.dtype))
    _, notes = noted(cell.project(params | {"kernel": matrix}, steps))
    (x,) = matrix.seen
    return x.astype(W.dtype), W, bias, notes


def _rows(made: Design, leaves: list) -> Any:
    """The parameters [P, H] that act on single units."""

    def row(leaf: int, at: tuple) -> Array:
        value = leaves[leaf]
        if value.ndim and value.shape[-1] % made.hidden == 0:
            blocks = value.reshape(*value.shape[:-1], -1, made.hidden)
            return blocks[at]
        return jnp.broadcast_to(value[at], (made.hidden,))

    return jnp.stack([row(*key) for key in made.params]) if made.params else None


def _notes(made: Design, notes: Any) -> tuple[Array, ...]:
    """What rides along, [T, B or 1, H or 1] each."""
    leaves = jax.tree.leaves(notes)

    def one(leaf: int, at: tuple, alike: bool) -> Array:
        value = leaves[leaf].astype(jnp.float32)
        if alike:
            value = value[(slice(None), slice(None), *at[1:])] if len(at) else value[:, None]
            return value[..., None]
        blocks = value.reshape(*value.shape[:-1], -1, made.hidden)
        return blocks[(slice(None), slice(None), *at[1:])]

    pairs = zip(made.notes, made.alike, strict=True)
    return tuple(one(leaf, at, alike) for (leaf, at), alike in pairs)
