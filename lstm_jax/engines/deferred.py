"""The parameter gradient deferred: the reverse scan carries only the carry's own cotangents.

Autodiff of `lax.scan` reads and writes every parameter's gradient at every step. Here the reverse
scan emits the cotangents of what enters the step, and each parameter's gradient is one matmul a
block of steps. What is saved is one array a gate: slices of a wider one would keep the backward
loop from vectorising. Time runs in blocks, so that on a CPU neither a block's input projection nor
its share of the gradients leaves the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from lstm_jax.cells.activations import open_blocks, open_each, shut_blocks
from lstm_jax.cells.gates import gates_of, opening, wides
from lstm_jax.core import Array, Cell, Params, noted
from lstm_jax.engines.layouts import in_order
from lstm_jax.engines.masking import even_size, join_steps, known, split_steps
from lstm_jax.engines.meshes import zeros
from lstm_jax.engines.residuals import Kept, keep, opened, packed, settled, shifted, without_y
from lstm_jax.ops import Turned, by_platform, cores, handed_down, platform, traced_for

WHOLE = 4  # a sequence of so many blocks is run as one
NARROW = 16  # so few input features are projected step by step
LARGE, ROWS = 2**20, 32  # a matrix of so many numbers times so few rows goes features first
LANES = 16  # float32 numbers in a CPU's vector: batches of whole ones may be the last axis


def run(
    cell: Cell,
    params: Params,
    carry: Any,
    steps: Any,
    reverse: bool = False,
    scan: Callable[..., Any] = lax.scan,
    kept: str = "",
) -> Any:
    """(carry, ys) with `scan`'s values, and gradients by a reverse scan of the step's own VJP.

    Second derivatives work reverse over reverse; forward mode does not pass a custom VJP, `pick`
    takes `scan` for it. `scan`: what runs both time loops, with the contract of `lax.scan`.
    `kept`: the type of `residuals.KEPT` that gates wait for the backward pass in.
    """
    way = partial(_run, cell, reverse=reverse, scan=scan, kept=kept)
    return by_platform(way, way, params, carry, steps)


def _run(
    cell: Cell,
    params: Params,
    carry: Any,
    steps: Any,
    reverse: bool,
    scan: Callable[..., Any],
    kept: str,
) -> Any:
    """`run` on the platform that is handed down."""
    length = steps.x.shape[0]
    size = block_size(length, _width(cell, params, steps))
    # A transform's `project` may close over traced rates, which a custom VJP must not.
    inside = not cell.info.transforms
    loop = _loop(cell, reverse, inside, scan, kept)

    def block(carry, part):
        z, notes = noted(cell.project(params, part))
        return loop(params, carry, part if inside else z, notes)

    if size is length or size == length:
        return block(carry, steps)
    last, ys = lax.scan(block, carry, split_steps(steps, size), reverse=reverse)
    return last, join_steps(ys, length)


def _width(cell: Cell, params: Params, steps: Any) -> int:
    """Numbers in one projected step of the whole batch."""
    z, _ = jax.eval_shape(lambda: noted(cell.project(params, steps)))
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(z))


def block_size(length: int, width: int) -> int:
    """Steps a block: all of them but for long sequences on a CPU."""
    if not known(length, width):
        return length
    if not for_cpu() or length * width <= WHOLE * room():
        return max(length, 1)
    return even_size(length, room() // width)


def room() -> int:
    """Pre-activations a block on a CPU: what stays in a core's cache, 512 KiB in float32.

    A device with cores to spare multiplies on all of them, and gains more by larger products.
    """
    return 2**20 if spare() else 2**17


def for_cpu() -> bool:
    """Whether the program that is being traced is a CPU's."""
    return platform() == "cpu"


def spare() -> bool:
    """Whether a device has more than one of the CPU's cores."""
    return cores() > jax.local_device_count()


class Parts(NamedTuple):
    """What the loop runs of a cell. Not the cell itself: its `init` may hold a traced forget bias,
    which must not outlive its trace."""

    project: Callable[..., Any] | None  # None: the source is projected already
    recur: Callable[..., Any]
    merge: Callable[..., tuple[Array, ...]]
    update: Callable[..., Any]
    opens: tuple[tuple[str, ...], ...]
    plain: bool
    scan: Callable[..., Any]
    kept: str

    @property
    def once(self) -> bool:
        """Whether an h that stands in ys is not kept again: there it takes a copy to shift it.

        A CPU does so where it is to save memory; beside kernels the TPU's compiler takes more
        memory for the shift than it saves.
        """
        return self.scan is lax.scan and (bool(self.kept) or not for_cpu())

    def z(self, params: Params, source: Any) -> Any:
        """The projected source."""
        return noted(self.project(params, source))[0] if self.project else source


def _parts(cell: Cell, inside: bool, scan: Callable[..., Any], kept: str) -> Parts:
    info, merge, update = cell.info, cell.merge, cell.update

    def update_of(params, carry, notes, blocks):
        return update(params, carry, gates_of(info, blocks, notes))

    return Parts(
        cell.project if inside else None,
        cell.recur,
        lambda params, z, r: wides(merge(params, z, r)),
        update_of,
        opening(info),
        inside and info.plain,
        scan,
        kept,
    )


def _loop(cell: Cell, reverse: bool, inside: bool, scan: Callable[..., Any], kept: str) -> Any:
    """`scan` of the cell's step over a source and the notes on it, with the deferred VJP.

    The source is the inputs where they are projected `inside`, else the projected sequence.
    """
    parts = _parts(cell, inside, scan, kept)
    # JAX traces each of the three when it needs it: each is for the platform of now.
    here = partial(traced_for, handed_down())

    @jax.custom_vjp
    @here
    def loop(params, carry, source, notes):
        if parts.plain and not jax.tree.leaves(notes) and _last(*carry.h.shape):
            return _batch_last(parts, params, carry, source, reverse)
        return _forward(parts, params, carry, source, notes, reverse, keeps=False)[0]

    @here
    def remembering(*given):
        params, carry, source, notes = custom_vjp_primal_tree_values(given)
        wanted = jax.tree.map(lambda leaf: leaf.perturbed, given[3])
        out, saved = _forward(parts, params, carry, source, notes, reverse, keeps=True)
        given = source if inside else (), *_parted(notes, wanted)
        return out, (params, carry, *given, saved)

    @here
    def backward(given, cotangents):
        return _backward(parts, given, cotangents, reverse)

    loop.defvjp(remembering, backward, symbolic_zeros=True)
    return loop


def _batch_last(
    parts: Parts, params: Params, carry: Any, source: Any, reverse: bool
) -> tuple[Any, Any]:
    """A forward pass of arrays [F, B] where steps have [B, F]."""
    matrices = ("kernel", "recurrent_kernel")
    turned = {k: Turned(lax.optimization_barrier(params[k].T)) for k in matrices}
    shape = (params["bias"].size, source.x.shape[1])
    bias = lax.optimization_barrier(jnp.broadcast_to(params["bias"][:, None], shape))

    def example(bias, carry, now):
        own = turned | {"bias": bias}
        u = parts.merge(own, parts.z(own, now), parts.recur(own, carry))
        return parts.update(own, carry, {}, open_each(parts.opens, u))

    def step(carry, now):
        new, y = jax.vmap(example, -1, -1)(bias, carry, jax.tree.map(jnp.transpose, now))
        return new, y.T

    last, ys = lax.scan(step, jax.tree.map(jnp.transpose, carry), source, reverse=reverse)
    return jax.tree.map(jnp.transpose, last), ys


def _forward(
    parts: Parts, params: Params, carry: Any, source: Any, notes: Any, reverse: bool, keeps: bool
) -> tuple[Any, Any]:
    """((last, ys), saved): the loop, and if it `keeps` what its backward pass needs."""
    entering = parts.project is not None and _entering(source.x.shape[-1], keeps)
    late = any(group.count("identity") > 1 for group in parts.opens)
    turned = {k: Turned(lax.optimization_barrier(w.T)) for k, w in _large(params, carry)}

    def step(carry, now):
        at, z, note = now
        if entering:
            z = parts.z(params, z)
        elif late:
            z = _copied(z, at)
        r = parts.recur(params | turned, carry)
        own = _read(parts.merge, params, z, r)
        merge = lambda own, z, r: parts.merge(params | own, z, r)  # noqa: E731
        u, pull = jax.vjp(merge, own, z, r)
        blocks = open_blocks(parts.opens, u)
        new, y = parts.update(params, carry, note, blocks)
        if not keeps:
            return new, (Kept(y), ())
        return new, (packed(keep(parts.kept, parts.once, carry, new, y, blocks)), pull)

    if not entering:
        z = parts.z(params, source)
        source = z if for_cpu() else in_order(z)
    times = jnp.arange(jax.tree.leaves(source)[0].shape[0])
    last, out = parts.scan(step, carry, (times, source, notes), reverse=reverse)
    kept, pulls = out if for_cpu() else in_order(out)
    ys, kept = settled(kept, parts.once)
    return (last, ys), (kept, pulls)


def _backward(parts: Parts, given: tuple, cotangents: Any, reverse: bool) -> tuple[Any, ...]:
    """Cotangents of (params, carry, source, notes): a loop that carries the carry's alone."""
    params, first, source, asked, fixed, (saved, pulls) = given
    dlast, dys = jax.tree.map(_dense, cotangents)
    before, saved = shifted(opened(saved), first, reverse), without_y(saved)
    kind = jax.tree.leaves(dlast)[0].dtype

    def read(saved, before):
        kept = opened(saved)
        return _joined(kept.entered, before), tuple(b.astype(kind) for b in kept.blocks)

    carries, blocks = read(saved, before)
    # Matrices transposed once, not at every step; the product with a turned one needs none.
    flat = {k: lax.optimization_barrier(w.T) for k, w in params.items() if _matrix(w)}
    few = _large(params, dlast)

    kept = _updating(parts, params, (carries, _joined(asked, fixed), blocks))

    def step(dcarry, now):
        saved, before, note, rest, pull, dy = now
        carry, blocks = read(saved, before)
        update = lambda c, n, b: parts.update(params, c, _joined(n, rest), b)  # noqa: E731
        direct, dnote, dblocks = jax.vjp(update, carry, note, blocks)[1]((dcarry, dy))
        du = shut_blocks(parts.opens, blocks, dblocks)
        upright = params | {k: w.T for k, w in flat.items()}
        upright |= {k: Turned(w.T) for k, w in few}
        (through,) = jax.vjp(partial(parts.recur, upright), carry)[1](pull(du)[2])
        return jax.tree.map(jnp.add, direct, through), (du, dnote, dcarry if kept else ())

    sequences = (saved, before, asked, fixed, pulls, dys)
    dfirst, out = parts.scan(step, dlast, sequences, reverse=not reverse)
    dus, dnotes, dcarries = out if for_cpu() else in_order(out)
    down, dzs, drs = jax.vmap(lambda pull, du: pull(du))(pulls, dus)
    now = (carries, _joined(asked, fixed), blocks)
    dparams = _parameters(parts, params, now, (drs, (dcarries, dys) if kept else ()))
    dparams |= {k: dparams[k] + d.sum(0) for k, d in down.items()}
    if parts.project is None:
        return dparams, dfirst, dzs, dnotes
    of_x = lambda params, x: parts.z(params, source._replace(x=x))  # noqa: E731
    dprojected, dx = jax.vjp(of_x, params, source.x)[1](dzs)
    dsource = jax.tree.map(lambda _: None, source)._replace(x=dx)
    return jax.tree.map(_plus, dparams, dprojected), dfirst, dsource, dnotes


def _read(merge: Callable, params: Params, z: Any, r: Any) -> Params:
    """The parameters that `merge` reads: the only ones that it has gradients for."""
    jaxpr = jax.make_jaxpr(lambda params: merge(params, z, r))(params).jaxpr
    used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    read = [id(variable) in used for variable in jaxpr.invars]
    marked = jax.tree.unflatten(jax.tree.structure(params), read)
    return {name: params[name] for name in params if any(jax.tree.leaves(marked[name]))}


def _updating(parts: Parts, params: Params, now: tuple) -> bool:
    """Whether `update` reads a parameter, whose gradient then takes the carry's cotangents."""
    carry, notes, blocks = jax.tree.map(lambda leaf: leaf[0], now)
    return bool(_read(lambda p, c, b: parts.update(p, c, notes, b), params, carry, blocks))


def _entering(features: int, keep: bool) -> bool:
    """Whether steps project their own input, in one loop without z.

    On a CPU that is sooner for few features, and for a forward pass with no core to spare, which
    is then a single loop of products too small to be shared out.
    """
    if not for_cpu():
        return False
    return features <= NARROW or not (keep or spare())


def _copied(z: Any, at: Any) -> Any:
    """z, on a CPU as a value in memory.

    Gates sliced one by one out of what the loop slices out of a sequence are not vectorised by
    XLA:CPU, and a conditional is all that it does not fuse with them; `at` is never below 0.
    """
    if not for_cpu():
        return z
    return lax.cond(at >= 0, lambda z: z, lambda z: jax.tree.map(jnp.zeros_like, z), z)


def _last(batch: int, units: int) -> bool:
    """Whether a forward pass takes the batch as the last axis.

    On a CPU that saves laying h R out anew, and gates are whole rows. With cores to spare it pays
    for products worth sharing out, without them only up to where XLA shares them out all the same.
    """
    if not for_cpu() or not known(batch) or batch % LANES:
        return False
    return batch * units >= 2**13 if spare() else batch == 2 * LANES and 128 <= units < 512


def _large(params: Params, carry: Any) -> list[tuple[str, Any]]:
    """The matrices that a CPU multiplies sooner features first: large ones, by few rows."""
    rows = jax.tree.leaves(carry)[0].shape[0]
    if not for_cpu() or not known(rows) or rows > ROWS:
        return []
    return [(k, w) for k, w in params.items() if _matrix(w) and w.size >= LARGE]


def _matrix(w: Any) -> bool:
    """Whether a parameter is one: a cell may keep a tree of them under a name, or whole numbers."""
    return getattr(w, "ndim", 0) == 2 and jnp.issubdtype(w.dtype, jnp.inexact)


def _parameters(parts: Parts, params: Params, now: tuple, cotangents: tuple) -> Params:
    """Every parameter's gradient from all steps of the block at once."""
    carries, notes, blocks = now
    drs, dupdated = cotangents

    def all_steps(params):
        r = parts.recur(params, carries)
        updated = jax.vmap(parts.update, (None, 0, 0, 0))(params, carries, notes, blocks)
        return r, updated if jax.tree.leaves(dupdated) else ()

    return jax.vjp(all_steps, params)[1]((drs, dupdated))[0]


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
