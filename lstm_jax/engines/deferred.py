"""The parameter gradient deferred: the reverse scan carries only the carry's own cotangents.

Autodiff of `lax.scan` reads and writes every parameter's gradient at every step. Here the reverse
scan emits the cotangents of what enters the step, and each parameter's gradient is one matmul a
block of steps. What is saved is one array a gate: slices of a wider one would keep the backward
loop from vectorising. Time runs in blocks, so that on a CPU neither a block's input projection nor
its share of the gradients leaves the cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from lstm_jax.core import Apart, Cell, Params, Turned, cores, parts_of
from lstm_jax.gates import open_blocks, open_each, shut_blocks
from lstm_jax.meshes import zeros
from lstm_jax.parts import bare, refill
from lstm_jax.steps import even_size, join_steps, known, split_steps

WHOLE = 4  # a sequence of so many blocks is run as one
NARROW = 16  # so few input features are projected step by step
LARGE, ROWS = 2**20, 32  # a matrix of so many numbers times so few rows goes features first
LANES = 16  # float32 numbers in a CPU's vector: batches of whole ones may be the last axis


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) with `scan`'s values, and gradients by a reverse scan of the step's own VJP.

    Second derivatives work reverse over reverse; forward mode does not pass a custom VJP, `pick`
    takes `scan` for it.
    """
    length, batch = steps.x.shape[:2]
    size = block_size(length, batch * columns(params))
    # A transform's `project` may close over traced rates, which a custom VJP must not.
    inside = parts_of(cell) is not None and not cell.spec.transforms
    loop = _loop(cell, reverse, inside)

    def block(carry, part):
        zs = cell.project(params, part)
        return loop(params, carry, part if inside else bare(zs), refill(zs, ()))

    if size is length or size == length:
        return block(carry, steps)
    last, ys = lax.scan(block, carry, split_steps(steps, size), reverse=reverse)
    return last, join_steps(ys, length)


def block_size(length: int, width: int) -> int:
    """Steps a block: all of them but for long sequences on a CPU."""
    if not known(length, width):
        return length
    if jax.default_backend() != "cpu" or length * width <= WHOLE * room():
        return max(length, 1)
    return even_size(length, room() // width)


def columns(params: Params) -> int:
    """Pre-activations a step: the bias's, or those of the widest parameter where there is none."""
    if "bias" in params:
        return params["bias"].size
    return max([1, *(jnp.shape(leaf)[-1] for leaf in jax.tree.leaves(params) if jnp.ndim(leaf))])


def room() -> int:
    """Pre-activations a block on a CPU: what stays in a core's cache, 512 KiB in float32.

    A device with cores to spare multiplies on all of them, and gains more by larger products.
    """
    return 2**20 if spare() else 2**17


def spare() -> bool:
    """Whether a device has more than one of the CPU's cores."""
    return cores() > jax.local_device_count()


def whole(cell: Cell) -> Apart:
    """A cell that does not tell its parts: z and r as they are, and all of the step in `close`."""
    full, recur = cell.advance, cell.recur

    def merge(params, step, r):
        return bare(step), *jax.tree.leaves(r)

    def close(params, carry, step, blocks):
        z, *r = blocks
        shape = jax.eval_shape(recur, params, carry)
        return full(
            params, carry, refill(step, z), jax.tree.unflatten(jax.tree.structure(shape), r)
        )

    return Apart(merge, (), close, cell.gates, cell.advance)


def _loop(cell: Cell, reverse: bool, inside: bool) -> Any:
    """`lax.scan` of the cell's step over a source and the notes on it, with the deferred VJP.

    The source is the inputs where they are projected `inside`, else the projected sequence.
    """
    # Not the cell: its `init` may hold a traced forget bias, which must not outlive its trace.
    apart, recur = parts_of(cell) or whole(cell), cell.recur
    of_inputs = cell.project if inside else None
    of_all = recur if parts_of(cell) else jax.vmap(recur, (None, 0))
    plain = inside and cell.spec.plain
    late = any(group.count("identity") > 1 for group in apart.opens)
    large = _large if parts_of(cell) else lambda params, carry: ()

    def project(params, source):
        return bare(of_inputs(params, source)) if of_inputs else source

    def batch_last(params, carry, source):
        """A forward pass of arrays [F, B] where steps have [B, F]."""
        matrices = ("kernel", "recurrent_kernel")
        turned = {k: Turned(lax.optimization_barrier(params[k].T)) for k in matrices}
        shape = (params["bias"].size, source.x.shape[1])
        bias = lax.optimization_barrier(jnp.broadcast_to(params["bias"][:, None], shape))

        def example(bias, carry, now):
            own = turned | {"bias": bias}
            wides = apart.merge(own, project(own, now), recur(own, carry))
            return apart.close(own, carry, (), open_each(apart.opens, wides))

        def step(carry, now):
            new, y = jax.vmap(example, -1, -1)(bias, carry, jax.tree.map(jnp.transpose, now))
            return new, y.T

        last, ys = lax.scan(step, jax.tree.map(jnp.transpose, carry), source, reverse=reverse)
        return jax.tree.map(jnp.transpose, last), ys

    def forward(params, carry, source, notes, keep=True):
        entering = inside and _entering(source.x.shape[-1], keep)
        own = {k: params[k] for k in apart.own}
        turned = {k: Turned(lax.optimization_barrier(w.T)) for k, w in large(params, carry)}

        def step(carry, now):
            at, z, note = now
            if entering:
                z = project(params, z)
            elif late:
                z = _copied(z, at)
            merge = lambda own, z, r: apart.merge(params | own, refill(note, z), r)  # noqa: E731
            wides, pull = jax.vjp(merge, own, z, recur(params | turned, carry))
            blocks = open_blocks(apart.opens, wides)
            new, y = apart.close(params, carry, note, blocks)
            return new, (y, (carry, blocks, pull) if keep else ())

        source = source if entering else project(params, source)
        times = jnp.arange(jax.tree.leaves(source)[0].shape[0])
        last, (ys, saved) = lax.scan(step, carry, (times, source, notes), reverse=reverse)
        return (last, ys), saved

    @jax.custom_vjp
    def loop(params, carry, source, notes):
        if plain and not jax.tree.leaves(notes) and _last(*carry.h.shape):
            return batch_last(params, carry, source)
        return forward(params, carry, source, notes, keep=False)[0]

    def remembering(*given):
        params, carry, source, notes = custom_vjp_primal_tree_values(given)
        wanted = jax.tree.map(lambda leaf: leaf.perturbed, given[3])
        out, saved = forward(params, carry, source, notes)
        return out, (params, source if inside else (), *_parted(notes, wanted), saved)

    def backward(residuals, cotangents):
        params, source, asked, fixed, (carries, blocks, pulls) = residuals
        dlast, dys = jax.tree.map(_dense, cotangents)
        # Matrices transposed once, not at every step; the product with a turned one needs none.
        flat = {k: lax.optimization_barrier(w.T) for k, w in params.items() if _matrix(w)}
        few = large(params, dlast)

        def step(dcarry, now):
            carry, note, rest, blocks, pull, dy = now
            close = lambda c, n, b: apart.close(params, c, _joined(n, rest), b)  # noqa: E731
            direct, dnote, dblocks = jax.vjp(close, carry, note, blocks)[1]((dcarry, dy))
            dwides = shut_blocks(apart.opens, blocks, dblocks)
            upright = params | {k: w.T for k, w in flat.items()}
            upright |= {k: Turned(w.T) for k, w in few}
            (through,) = jax.vjp(partial(recur, upright), carry)[1](pull(dwides)[2])
            return jax.tree.map(jnp.add, direct, through), (dwides, dnote, dcarry)

        given = (carries, asked, fixed, blocks, pulls, dys)
        dfirst, (dwides, dnotes, dcarries) = lax.scan(step, dlast, given, reverse=not reverse)
        down, dzs, drs = jax.vmap(lambda pull, dwide: pull(dwide))(pulls, dwides)
        now = (carries, _joined(asked, fixed), blocks)
        dparams = _parameters(of_all, apart, params, now, (drs, dcarries, dys))
        dparams |= {k: dparams[k] + d.sum(0) for k, d in down.items()}
        if not inside:
            return dparams, dfirst, dzs, dnotes
        of_x = lambda params, x: project(params, source._replace(x=x))  # noqa: E731
        dprojected, dx = jax.vjp(of_x, params, source.x)[1](dzs)
        dsource = jax.tree.map(lambda _: None, source)._replace(x=dx)
        return jax.tree.map(_plus, dparams, dprojected), dfirst, dsource, dnotes

    loop.defvjp(remembering, backward, symbolic_zeros=True)
    return loop


def _entering(features: int, keep: bool) -> bool:
    """Whether steps project their own input, in one loop without z.

    On a CPU that is sooner for few features, and for a forward pass with no core to spare, which
    is then a single loop of products too small to be shared out.
    """
    if jax.default_backend() != "cpu":
        return False
    return features <= NARROW or not (keep or spare())


def _copied(z: Any, at: Any) -> Any:
    """z, on a CPU as a value in memory.

    Gates sliced one by one out of what the loop slices out of a sequence are not vectorised by
    XLA:CPU, and a conditional is all that it does not fuse with them; `at` is never below 0.
    """
    if jax.default_backend() != "cpu":
        return z
    return lax.cond(at >= 0, lambda z: z, lambda z: jax.tree.map(jnp.zeros_like, z), z)


def _last(batch: int, units: int) -> bool:
    """Whether a forward pass takes the batch as the last axis.

    On a CPU that saves laying h R out anew, and gates are whole rows. With cores to spare it pays
    for products worth sharing out, without them only up to where XLA shares them out all the same.
    """
    if jax.default_backend() != "cpu" or not known(batch) or batch % LANES:
        return False
    return batch * units >= 2**13 if spare() else batch == 2 * LANES and 128 <= units < 512


def _large(params: Params, carry: Any) -> list[tuple[str, Any]]:
    """The matrices that a CPU multiplies sooner features first: large ones, by few rows."""
    rows = jax.tree.leaves(carry)[0].shape[0]
    if jax.default_backend() != "cpu" or not known(rows) or rows > ROWS:
        return []
    return [(k, w) for k, w in params.items() if _matrix(w) and w.size >= LARGE]


def _matrix(w: Any) -> bool:
    """Whether a parameter is one: a cell may keep a tree of them under a name, or whole numbers."""
    return getattr(w, "ndim", 0) == 2 and jnp.issubdtype(w.dtype, jnp.inexact)


def _parameters(recur: Any, apart: Apart, params: Params, now: tuple, cotangents: tuple) -> Params:
    """Every parameter's gradient from all steps of the block at once."""
    carries, notes, blocks = now
    drs, dcarries, dys = cotangents

    def all_steps(params):
        r = recur(params, carries)
        return r, jax.vmap(apart.close, (None, 0, 0, 0))(params, carries, notes, blocks)

    return jax.vjp(all_steps, params)[1]((drs, (dcarries, dys)))[0]


def _dense(cotangent: Any) -> Any:
    """A cotangent as an array, where JAX only says that it is zero."""
    kind: Any = getattr(cotangent, "aval", None)
    return zeros(kind) if isinstance(cotangent, SymbolicZero) else cotangent


def _plus(a: Any, b: Any) -> Any:
    """a + b; whole numbers have no gradient, which JAX writes as float0."""
    return a if a.dtype == jax.dtypes.float0 else a + b


def _parted(tree: Any, wanted: Any) -> tuple[Any, Any]:
    """(the wanted leaves, the others), None in the place of what the other has."""
    some = jax.tree.map(lambda leaf, take: leaf if take else None, tree, wanted)
    others = jax.tree.map(lambda leaf, take: None if take else leaf, tree, wanted)
    return some, others


def _joined(some: Any, others: Any) -> Any:
    """What `_parted` took apart."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, some, others, is_leaf=lambda leaf: leaf is None
    )
