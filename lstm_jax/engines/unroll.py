"""Unroll a cell over time: lengths, masks, resets and direction under one rule.

At every step, a sequence in the batch either counts or it does not. Where it does not (`mask`
False, or at or beyond its length) nothing happens at all: the carry is held, the output is zero,
a reset is ignored. Where it does, a reset first puts the carry back to the cell's initial one.
`reverse` runs from the last step to the first, and a reset still marks the first step of a
segment in time, so every segment is reversed on its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from lstm_jax.core import Array, Cell, Keys, Params
from lstm_jax.engines import meshes, pick
from lstm_jax.engines.masking import Step, known, select, stepping
from lstm_jax.errors import UsageError

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # tests check what the annotations say
    from jaxtyping import Bool, Float, Int, Num, Shaped


def unroll(
    cell: Cell,
    params: Mapping[str, Any],
    xs: Num[ArrayLike, "T B D"],
    carry: Any = None,
    *,
    lengths: Int[ArrayLike, " B"] | None = None,
    mask: Bool[ArrayLike, "T B"] | None = None,
    resets: Bool[ArrayLike, "T B"] | None = None,
    reverse: bool = False,
    key: Array | Keys | None = None,
    engine: str = "auto",
) -> tuple[Any, Float[Array, "T B H"]]:
    """Run `cell` over a time-major sequence.

        c_t, h_t = step(params, (c_{t-1}, h_{t-1}), x_t)      t = 1 .. T

    Args:
      params: what `cell.init` returns; any mapping will do, its leaves JAX's or NumPy's.
      xs: [T, B, D]. carry: what to start from; None for `cell.initial_carry`.
      lengths: [B] ints in 0..T. mask: [T, B] bools, True where the step counts; holes are fine.
      resets: [T, B] bools, True where a fresh sequence begins.
      key: one PRNG key, or [B] of them (one an example), or `Keys`; None is deterministic: no
        dropout, zoneout at its expectation. With `rbg` keys what one example draws depends on
        the others of its batch and on how an engine cuts time: a batch is not its rows, and
        engines and devices differ. The default `threefry2x32` has no such ties.
      engine: a name from `engines.ENGINES` (`chunked:SIZE` sets the chunk), or `auto`. Under
        `jax.disable_jit`, `jax.jvp` and `jax.jacfwd` an engine with its own gradients runs as
        `scan`. Forward mode of a function already under `jax.jit` needs engine="scan": there
        JAX refuses the custom VJP of the others.

    Returns:
      (carry, ys): the last carry, an LSTM's as `Carry(c, h)`, and ys [T, B, H].

    Raises:
      UsageError: shapes or types that do not fit, an engine that cannot serve this cell.
    """
    return _run(cell, params, xs, carry, (lengths, mask, resets), reverse, key, engine)


def _run(
    cell: Cell,
    params: Mapping[str, Any],
    xs: ArrayLike,
    carry: Any,
    marks: tuple[Any, Any, Any],
    reverse: bool,
    key: Array | Keys | None,
    engine: str,
) -> tuple[Any, Any]:
    """`unroll`, of a cell that may say anything at a step."""
    xs = jnp.asarray(xs)
    params = check_params(cell, params, xs)
    steps, batch = xs.shape[0], xs.shape[1]
    fresh = cell.initial_carry(params, (batch,))
    carry = fresh if carry is None else check_carry(carry, fresh)
    valid, restart, unread = _marks(steps, batch, *marks, reverse)
    keys, start = make_keys(key, batch), carry
    if unread is not None:  # whatever stands in it must not reach a gradient: 0 * NaN is NaN
        carry = select(unread, fresh, start)
    timed = None if keys is None else _step_keys(keys.example, steps)
    inputs = Step(xs, timed, valid, restart)
    given = meshes.alike(xs, cell.prepare(params, keys), carry, inputs)
    run = partial(pick(engine, cell, given, carry, steps), stepping(cell), reverse=reverse)
    # Outside `jit`, JAX's shard_map knows no custom VJP of the kind that `deferred` has.
    last, ys = jax.jit(run)(*given) if meshes.manual() else run(*given)
    return last if valid is None else select(jnp.any(valid, axis=0), last, start), ys


def trace(
    cell: Cell,
    params: Mapping[str, Any],
    xs: Num[ArrayLike, "T B D"],
    carry: Any = None,
    *,
    lengths: Int[ArrayLike, " B"] | None = None,
    mask: Bool[ArrayLike, "T B"] | None = None,
    resets: Bool[ArrayLike, "T B"] | None = None,
    reverse: bool = False,
    key: Array | Keys | None = None,
) -> dict[str, Shaped[Array, "T B _"]]:
    """Every gate and every carry entry over time, {name: [T, B, H]}, from the same scan.

    Takes the options of `unroll`, but no engine. `c` and `h` are those after the step; gates of
    steps that do not count are zero.
    """

    def update(params, carry, gate):
        seen: dict[str, Any] = {}
        new, _ = cell.update(params, carry, gate._replace(seen=seen))
        gates = {name: seen[name] if name in seen else gate(name) for name in gate.table}
        shape = next(iter(gate.blocks.values())).shape
        spread = {name: jnp.broadcast_to(value, shape) for name, value in gates.items()}
        return new, {**spread, **new._asdict()}

    traced = cell._replace(update=update)
    marks = (lengths, mask, resets)
    return _run(traced, params, xs, carry, marks, reverse, key, "scan")[1]


def make_keys(key: Array | Keys | None, batch: int) -> Keys | None:
    """One key for the batch and one an example, from whichever was given."""
    if key is None:
        return None
    for part in key if isinstance(key, Keys) else (key,):
        check_key(part, batch)
    if isinstance(key, Keys):
        return key
    if jnp.ndim(key):
        return Keys(key[0], key)
    return Keys(key, jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch)))


def _step_keys(keys: Array, steps: int) -> Array:
    """[T, B] keys, one a step and example."""
    at = jax.vmap(jax.random.fold_in, (0, None))
    return jax.vmap(at, (None, 0))(keys, jnp.arange(steps))


def _marks(steps, batch, lengths, mask, resets, reverse):
    """(valid, restart, unread): where steps count, after which a fresh start follows, and which
    examples [B] never read the carry they were given."""
    valid = None
    if mask is not None:
        valid = check_marks("mask", mask, steps, batch)
    if lengths is not None:
        within = jnp.arange(steps)[:, None] < check_lengths(lengths, steps, batch)
        valid = within if valid is None else valid & within
    if resets is None:
        return valid, None, None if valid is None else ~jnp.any(valid, axis=0)
    resets = check_marks("resets", resets, steps, batch)
    valid = jnp.ones_like(resets) if valid is None else valid
    resets = resets & valid
    never = jnp.zeros_like(resets[:1])
    counted = jnp.cumsum(valid, axis=0)
    empty = counted[-1] == 0
    if reverse:  # nothing is left to start afresh before the first step that counts
        return valid, resets & (counted > 1), empty
    begins = jnp.any(resets & (counted == 1), axis=0)
    return valid, jnp.concatenate([resets[1:], never]), begins | empty


# The boundary ----------------------------------------------------------------------------------


def check_inputs(params: Params, xs: Array) -> None:
    """Raises UsageError unless xs is [T, B, D] with the D the parameters were made for."""
    if xs.ndim != 3:
        raise UsageError(
            f"xs has shape {xs.shape}; expected [T, B, D], time first. "
            "One sequence [T, D] becomes a batch of one by xs[:, None]"
        )
    if 0 in xs.shape:
        raise UsageError(
            f"xs has shape {xs.shape}; expected at least one step, example and feature"
        )
    kernel = params.get("kernel")
    if kernel is not None and jnp.ndim(kernel) == 2 and kernel.shape[0] != xs.shape[2]:
        raise UsageError(
            f"xs has shape {xs.shape}, D = {xs.shape[2]}; expected D = {kernel.shape[0]}, which "
            f"the parameters were made for. Use cell.init(key, {xs.shape[2]}) for these inputs"
        )
    if kernel is not None and _joint(xs.dtype, kernel.dtype) != kernel.dtype:
        raise UsageError(
            f"xs has dtype {xs.dtype}, wider than the parameters' {kernel.dtype}; expected inputs "
            f"no wider than those: pass xs.astype({kernel.dtype})"
        )


def _joint(*types: Any) -> Any:
    """The type that JAX gives a mix of these, also where the user forbids mixing."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*types)


def check_params(cell: Cell, params: Any, xs: Array) -> Params:
    """The parameters as a dict of JAX's arrays, if they are those of this cell for these xs."""
    if not isinstance(params, Mapping):
        raise UsageError(
            f"params is {_named(params)}; expected the dict of arrays that "
            f"cell.init(key, {xs.shape[-1]}) returns"
        )
    params = _unfrozen(params)
    check_inputs(params, xs)
    if known(xs.shape[2]):
        expected = jax.eval_shape(lambda key: cell.init(key, xs.shape[2]), jax.random.key(0))
        _check_leaves(cell, _leaves(params), _leaves(expected))
    return params


def _unfrozen(params: Mapping) -> Params:
    def plain(leaf: Any) -> Any:
        if isinstance(leaf, Mapping):
            return _unfrozen(leaf)
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

    return {name: plain(leaf) for name, leaf in params.items()}


def _leaves(params: Params) -> dict[str, Any]:
    """{"kernel": leaf, "kernels/w": leaf, ...}."""
    pairs = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}


def _check_leaves(cell: Cell, given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UsageError for parameters that the cell lacks or cannot use, or of several types.

    Whole numbers besides are let through: a counter learns nothing that would go unnoticed.
    """
    name = f"{cell.info.name!r} with hidden={cell.info.hidden} and its options"
    fix = "pass what the init of this very cell returns, or the cell that made these params"
    real = {k: v for k, v in given.items() if jnp.issubdtype(jnp.result_type(v), jnp.inexact)}
    lacking, besides = sorted({*expected} - {*given}), sorted({*real} - {*expected})
    if lacking or besides:
        wrong = [f"no {', '.join(lacking)}"] * bool(lacking)
        wrong += [f"the unknown {', '.join(besides)}"] * bool(besides)
        raise UsageError(
            f"params has {' and '.join(wrong)}; expected {', '.join(sorted(expected))} for the "
            f"cell {name}: {fix}"
        )
    for key, like in expected.items():
        if jnp.shape(given[key]) != like.shape:
            raise UsageError(
                f"params[{key!r}] has shape {jnp.shape(given[key])}; expected {like.shape} for "
                f"the cell {name}: {fix}"
            )
    types = {str(jnp.result_type(given[k])): k for k in reversed(expected) if k in real}
    if len(types) > 1 and len({v.dtype for k, v in expected.items() if k in real}) == 1:
        mixed = " and ".join(f"{dtype} ({key})" for dtype, key in sorted(types.items()))
        widest = str(_joint(*types))
        raise UsageError(
            f"params mix {mixed}; expected one dtype: "
            f"jax.tree.map(lambda leaf: leaf.astype({widest!r}), params)"
        )


def check_key(key: Any, batch: int) -> None:
    """Raises UsageError unless `key` is one typed PRNG key, or one an example."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise UsageError(
            f"key is {jax.typeof(key) if isinstance(key, jax.Array) else repr(key)}; expected a "
            "typed PRNG key: jax.random.key(seed), or jax.random.wrap_key_data(raw) of a raw one"
        )
    if key.shape not in ((), (batch,)):
        raise UsageError(
            f"key has shape {key.shape}; expected one key, or one an example, [B] = {(batch,)}: "
            f"jax.random.split(key, {batch})"
        )


def check_carry(carry: Any, fresh: Any) -> Any:
    """The carry, if its structure and shapes are those of a fresh one."""
    names = ", ".join(f"{name}=..." for name in getattr(fresh, "_fields", ()))
    expected = f"{_named(fresh)}: pass {type(fresh).__name__}({names})"
    if type(carry) in (tuple, list) and names:
        raise UsageError(
            f"carry is {_named(carry)}, which hides the order of its entries: (c, h) in this "
            f"library, (h, c) in torch and keras; expected {expected}"
        )
    if type(carry) is type(fresh) and any(leaf is None for leaf in carry):
        raise UsageError(f"carry holds None; expected arrays in {expected}")
    if jax.tree.structure(carry) != jax.tree.structure(fresh):
        raise UsageError(f"carry is {_named(carry)}; expected {expected}")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(carry)]
    wanted = [jnp.shape(leaf) for leaf in jax.tree.leaves(fresh)]
    if shapes != wanted:
        raise UsageError(
            f"carry has shapes {shapes}; expected {wanted}, in the order {type(fresh).__name__}"
            f"{getattr(fresh, '_fields', '')}"
        )
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), carry, fresh)


def _named(value: Any) -> str:
    """A value as a message names it: its type, and the names or the shape it has."""
    fields = getattr(value, "_fields", None)
    if fields is not None:
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, (tuple, list)):
        return f"a plain {type(value).__name__} of {len(value)}"
    if hasattr(value, "shape"):
        return f"an array of shape {value.shape}"
    return repr(value) if value is None else f"a {type(value).__name__}"


def check_marks(name: str, marks: Any, steps: int, batch: int) -> Array:
    """The [T, B] bools, or UsageError."""
    marks = jnp.asarray(marks)
    if marks.shape != (steps, batch):
        hint = "; it looks batch-major, transpose it" if marks.shape == (batch, steps) else ""
        raise UsageError(
            f"{name} has shape {marks.shape}; expected [T, B] = {(steps, batch)}{hint}"
        )
    if marks.dtype != jnp.bool_:
        raise UsageError(f"{name} has dtype {marks.dtype}; expected bool: pass {name} != 0")
    return marks


def check_lengths(lengths: Any, steps: int, batch: int) -> Array:
    """The [B] ints, or UsageError; values are checked where they are known."""
    values = lengths if isinstance(lengths, Tracer) else np.asarray(lengths)
    if values.shape != (batch,):
        swapped = values.shape == (steps,)
        hint = "; xs looks batch-major, pass jnp.swapaxes(xs, 0, 1)" if swapped else ""
        raise UsageError(f"lengths has shape {values.shape}; expected [B] = {(batch,)}{hint}")
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise UsageError(f"lengths has dtype {values.dtype}; expected whole numbers")
    if not isinstance(values, Tracer) and known(steps):
        outside = [int(n) for n in values if not 0 <= n <= steps]
        if outside:
            raise UsageError(
                f"lengths holds {outside[0]}; expected 0..T = 0..{steps}, zero being legal"
            )
    return jnp.asarray(lengths, int)
