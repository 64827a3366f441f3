"""A loop over time as one kernel of a TPU, with the contract of `lax.scan`.

One sequential grid over blocks of steps. What every step reads is copied to VMEM once, the carry
stays there, and sequences are streamed while the block before computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend.core import Var

from lstm_jax.core import Array
from lstm_jax.engines import meshes
from lstm_jax.engines.pallas import room
from lstm_jax.engines.pallas.body import Body, body_of, narrow
from lstm_jax.plugins import say

INTERPRET = False  # for tests: the kernel as JAX's operations, on any platform
SMALL = 2**14  # constants of fewer numbers are read once a block, not at every step


def scan(step: Callable, init: Any, xs: Any, reverse: bool = False) -> tuple[Any, Any]:
    """`lax.scan` by one kernel; by itself, with a line that says why, where VMEM is too small."""
    now = jax.tree.map(lambda leaf: jax.typeof(leaf).update(shape=leaf.shape[1:]), xs)
    body = body_of(step, init, now)
    given = body.constants, jax.tree.leaves(init), jax.tree.leaves(xs)
    length = given[2][0].shape[0]
    block = 1 if not length else block_of(body, length)
    if isinstance(block, str):
        say(f"engine 'pallas' runs a loop as 'deferred' does: {block}")
        return lax.scan(step, init, xs, reverse=reverse)
    carry, ys = _differentiable(Plan(body, length, block, reverse))(*given)
    return jax.tree.unflatten(body.tree, [*carry, *ys])


class Plan(NamedTuple):
    """A body, how often it runs, how many steps a block has, and the direction."""

    body: Body
    length: int
    block: int
    reverse: bool

    def at(self, block: Any) -> Any:
        """The place in the sequences of the block that is the n-th to run."""
        return self.length // self.block - 1 - block if self.reverse else block

    def places(self) -> Iterable[int]:
        """The steps of a block, in the order in which they run."""
        return range(self.block)[:: -1 if self.reverse else 1]


def block_of(body: Body, length: int) -> int | str:
    """Steps a block, the most that fit in VMEM; or how far one step is from fitting."""
    sizes = room.blocks(length)
    if INTERPRET:
        return sizes[0]
    there = room.capacity()
    fitting = [size for size in sizes if bytes_of(body, size) <= there]
    if fitting:
        return fitting[0]
    need, chip = room.words(bytes_of(body, 1)), room.chip().device_kind
    return (
        f"its kernel needs {need} of VMEM, and {chip} has {room.words(there)} to give; "
        "a smaller batch or fewer units would fit"
    )


def bytes_of(body: Body, block: int) -> int:
    """Bytes of VMEM: constants once, a carry three times, two blocks of sequences, one step."""
    constants = sum(room.tiled(*_row(v.aval)) for v in body.known)
    carry = 3 * sum(room.tiled(v.aval.shape, v.aval.dtype) for v in body.carry)
    streams = [v.aval for v in _read(body)] + [atom.aval for atom in _written(body)]
    streamed = 2 * block * sum(room.tiled(*_column(kind)) for kind in streams)
    made = [v.aval for e in body.equations for v in e.outvars]
    return constants + carry + streamed + sum(room.tiled(a.shape, a.dtype) for a in made)


def _read(body: Body) -> list[Any]:
    """The slices that the step reads."""
    inside = {v for e in body.equations for v in e.invars if isinstance(v, Var)}
    inside |= {v for v in body.results if isinstance(v, Var)}
    return [v for v in body.slices if v in inside and v.aval.size]


def _written(body: Body) -> list[Any]:
    """The outputs that hold anything."""
    return [atom for atom in body.results[len(body.carry) :] if atom.aval.size]


# In VMEM an array has two axes at least: vectors are rows, what has one number an example a column.


def _row(kind: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and type in a kernel of what every step reads."""
    return kind.shape if kind.ndim > 1 else (1, kind.size), _number(kind.dtype)


def _column(kind: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and type in a kernel of one step's slice."""
    return kind.shape if kind.ndim > 1 else (kind.size, 1), _number(kind.dtype)


def _sequence(length: int, kind: Any) -> jax.ShapeDtypeStruct:
    """All steps of a slice or an output."""
    shape, dtype = _column(kind)
    return jax.ShapeDtypeStruct((length, *shape), dtype)


def _number(dtype: Any) -> Any:
    return jnp.int32 if dtype == jnp.bool_ else dtype


def _as(x: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    x = jnp.asarray(x)
    if dtype == jnp.bool_ and x.dtype != dtype:
        x = x != 0
    x = x.astype(dtype)
    return x if x.shape == shape else x.reshape(shape)


def _differentiable(plan: Plan) -> Callable:
    """The kernel, differentiated as the loop that it stands for."""

    def loop(constants: list, carry: list, xs: list) -> Any:
        def step(carry, now):
            results = plan.body.run(constants, carry, now)
            results = [jnp.asarray(r) if r is not None else None for r in results]
            return results[: len(carry)], results[len(carry) :]

        return lax.scan(step, carry, xs, reverse=plan.reverse)

    @jax.custom_vjp
    def run(constants, carry, xs):
        return _call(plan, constants, carry, xs)

    run.defvjp(lambda *given: jax.vjp(loop, *given), lambda pull, cotangents: pull(cotangents))
    return run


def _call(plan: Plan, constants: list, carry: list, xs: list) -> tuple[list, list]:
    """(the last carry, the outputs of all steps)."""
    body = plan.body
    read = _read(body)
    pairs = [(v, x) for v, x in zip(body.slices, xs, strict=True) if v in read]
    kinds = [jax.typeof(x) for x in (*constants, *carry, *xs)]
    where = frozenset().union(*map(meshes.varying, kinds))
    thin = {} if INTERPRET else dict.fromkeys(narrow(body), jnp.bfloat16)
    known = [_as(c, *_row(v.aval)).astype(thin.get(v, _number(c.dtype)))
             for v, c in zip(body.known, constants, strict=True)]  # fmt: skip
    likes = [_sequence(plan.length, v.aval) for v, _ in pairs]
    streams = [_as(x, like.shape, like.dtype) for (_, x), like in zip(pairs, likes, strict=True)]
    outputs = [_sequence(plan.length, a.aval) for a in _written(body)]
    streamed = partial(_streamed, plan)
    out = pl.pallas_call(
        partial(_kernel, plan),
        grid=(plan.length // plan.block,),
        in_specs=[*map(_whole, known), *map(streamed, streams), *map(_whole, carry)],
        out_specs=[*map(streamed, outputs), *map(_whole, carry)],
        out_shape=[_kind(like, where) for like in (*outputs, *carry)],
        scratch_shapes=[pltpu.VMEM(like.shape, like.dtype) for like in carry],
        compiler_params=None if INTERPRET else _parameters(),
        interpret=INTERPRET,
        name="backward_in_time" if plan.reverse else "forward_in_time",
    )(*known, *streams, *carry)
    return out[len(outputs) :], _all(plan, iter(out[: len(outputs)]))


def _all(plan: Plan, written: Iterator[Array]) -> list[Array]:
    """Every output in the step's own type; one without numbers was never written."""
    kinds = [atom.aval for atom in plan.body.results[len(plan.body.carry) :]]
    none = partial(jnp.zeros, (plan.length, 0))
    given = [next(written) if kind.size else none() for kind in kinds]
    pairs = zip(given, kinds, strict=True)
    return [_as(y, (plan.length, *kind.shape), kind.dtype) for y, kind in pairs]


def _parameters() -> Any:
    return pltpu.CompilerParams(
        dimension_semantics=("arbitrary",), vmem_limit_bytes=room.capacity()
    )


def _kind(like: Any, where: frozenset[str]) -> Any:
    """The type of an output that varies over the manual axes `where`."""
    return jax.eval_shape(lambda: meshes.vary(jnp.zeros(like.shape, like.dtype), where))


def _whole(x: Any) -> Any:
    """All of an array, in VMEM from the first block to the last."""
    mode = None if INTERPRET else pl.Buffered(buffer_count=1)
    return pl.BlockSpec(x.shape, lambda block: (0,) * x.ndim, pipeline_mode=mode)


def _streamed(plan: Plan, sequence: Any) -> Any:
    """A block of steps of a sequence at a time."""
    rest = (0,) * (sequence.ndim - 1)
    return pl.BlockSpec((plan.block, *sequence.shape[1:]), lambda block: (plan.at(block), *rest))


def _kernel(plan: Plan, *refs: Any) -> None:
    """One block of steps."""
    body, given = plan.body, iter(refs)
    take = lambda n: [next(given) for _ in range(n)]  # noqa: E731
    read, count = _read(body), len(body.carry)
    known, streams, first = take(len(body.known)), take(len(read)), take(count)
    written, last, scratch = take(len(_written(body))), take(count), take(count)

    @pl.when(pl.program_id(0) == 0)
    def _():
        _store(scratch, [ref[...] for ref in first])

    def value(v: Any, ref: Any) -> Array:
        thin = ref.dtype == jnp.bfloat16
        return _as(ref[...], v.aval.shape, ref.dtype if thin else v.aval.dtype)

    pairs = list(zip(body.known, known, strict=True))
    early = {v: value(v, ref) for v, ref in pairs if v.aval.size < SMALL}
    carry = [ref[...] for ref in scratch]
    for k in plan.places():
        constants = [early[v] if v in early else value(v, ref) for v, ref in pairs]
        now = {v: _as(ref[k], v.aval.shape, v.aval.dtype)
               for v, ref in zip(read, streams, strict=True)}  # fmt: skip
        results = body.run(constants, carry, [now.get(v) for v in body.slices])
        carry, ys = results[:count], [y for y in results[count:] if y is not None]
        for ref, y in zip(written, ys, strict=True):
            ref[k] = _as(y, ref.shape[1:], ref.dtype)
    _store(scratch, carry)

    @pl.when(pl.program_id(0) == pl.num_programs(0) - 1)
    def _():
        _store(last, carry)


def _store(refs: list, values: list) -> None:
    for ref, x in zip(refs, values, strict=True):
        ref[...] = jnp.asarray(x)
