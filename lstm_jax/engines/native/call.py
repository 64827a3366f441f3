"""The two custom calls as JAX operations: shapes, batching, and what stands in for them elsewhere.

On a CPU they lower to the compiled code. For another platform, and in an exported program, which
another machine may load, they lower to the same graphs as JAX operations, step by step.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from lstm_jax.core import Array
from lstm_jax.engines.meshes import zeros
from lstm_jax.engines.native import build
from lstm_jax.engines.native.design import Design
from lstm_jax.engines.native.emit import Function, Place, function
from lstm_jax.ops import cores

ROWS = 512  # examples x steps whose cotangents are kept in the cache going back
SMALL = 2**22  # multiplications that are not worth waking another core


class Given(NamedTuple):
    """What a sequence reads. Where `W` is None, `x` is what was projected, z."""

    x: Array  # [T, B, D], or z [T, B, n*H]
    W: Any  # [D, n*H]
    b: Any  # [n*H]
    R: Any  # [H, n*H], None for a cell without
    carry: tuple[Array, ...]  # [B, H] each
    param: Any  # [P, H], None for none
    notes: tuple[Array, ...]  # [T, B or 1, H or 1] each


class Static(NamedTuple):
    """What is known of a call before it runs; compares by content."""

    design: Design
    reverse: bool
    cell: int  # as `build.cell` numbers it
    spilled: int  # vectors that its code keeps between passes
    structure: Any  # of `Given`
    keep: bool = False
    wants_x: bool = True

    def __hash__(self) -> int:
        return hash((self.cell, self.reverse, self.structure, self.keep, self.wants_x))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Static) and self[1:] == other[1:]


def static(design: Design, given: Given, reverse: bool) -> Static:
    """The call for a design, its code compiled."""
    made = code(design)
    return Static(design, reverse, build.cell(made.text), made.spilled, jax.tree.structure(given))


def sequence(call: Static, given: Given) -> tuple[Array, tuple[Array, ...]]:
    """(ys [T, B, H], the last carry), with its gradients.

    Second derivatives are those of the graphs as JAX operations.
    """

    @jax.custom_vjp
    def run(given):
        return _forward(call, given)[:2]

    def remembering(given):
        values = custom_vjp_primal_tree_values(given)
        asked = Asked(any(leaf.perturbed for leaf in given.notes), given.x.perturbed)
        y, last, kept = _remembering(call._replace(keep=not asked.notes), values)
        return (y, last), (values, y, kept, asked)

    def backward(saved, cotangents):
        values, y, kept, asked = saved
        dy, dlast = jax.tree.map(_dense, cotangents)
        if asked.notes:
            return (reference_backward(call, values, dy, dlast),)
        return (_backward(call._replace(wants_x=asked.x), values, y, kept, dy, dlast),)

    run.defvjp(remembering, backward, symbolic_zeros=True)
    return run(given)


@jax.tree_util.register_static
class Asked(NamedTuple):
    """The gradients that are wanted besides those of parameters and carry."""

    notes: bool
    x: bool


def _dense(cotangent: Any) -> Any:
    kind: Any = getattr(cotangent, "aval", None)
    return zeros(kind) if isinstance(cotangent, SymbolicZero) else cotangent


# The calls --------------------------------------------------------------------------------------


def _forward(call: Static, given: Given) -> tuple[Array, tuple, Any]:
    y, *rest = forward_p.bind(*jax.tree.leaves(given), call=call)
    carries = len(given.carry)
    return y, tuple(rest[:carries]), rest[carries] if call.keep else None


def _remembering(call: Static, given: Given) -> tuple[Array, tuple, Any]:
    """`_forward`, for who differentiates a gradient."""

    @jax.custom_vjp
    def run(given):
        return _forward(call, given)

    def again(given, cotangents):
        dy, dlast, _ = cotangents  # what depends on residuals is told by `_backward` of `given`
        return (reference_backward(call, given, dy, dlast),)

    run.defvjp(lambda given: (run(given), given), again)
    return run(given)


def _backward(call: Static, given: Given, y: Array, kept: Array, dy: Array, dlast: tuple) -> Given:
    @jax.custom_vjp
    def run(given, y, kept, dy, dlast):
        leaves = [*jax.tree.leaves(given), y, kept, dy, *dlast]
        return _unflat(call, given, backward_p.bind(*leaves, call=call))

    def remembering(given, y, kept, dy, dlast):
        return run(given, y, kept, dy, dlast), (given, y, kept, dy, dlast)

    def again(saved, cotangents):
        given, y, kept, dy, dlast = saved
        back = lambda *of: reference_backward(call, *of)  # noqa: E731
        dgiven, ddy, ddlast = jax.vjp(back, given, dy, dlast)[1](cotangents)
        return dgiven, jnp.zeros_like(y), jnp.zeros_like(kept), ddy, ddlast

    run.defvjp(remembering, again)
    return run(given, y, kept, dy, dlast)


def _unflat(call: Static, given: Given, results: list[Array]) -> Given:
    """The cotangents of `Given` from the call's results; zeros of what nobody wants."""
    rest = list(results)
    carry = tuple(rest.pop(0) for _ in given.carry)
    W = b = R = param = None
    if given.W is not None:
        W, b = rest.pop(0), rest.pop(0)
    x = rest.pop(0) if given.W is None or call.wants_x else jnp.zeros_like(given.x)
    if given.R is not None:
        R = rest.pop(0)
    if given.param is not None:
        param = rest.pop(0)
    return Given(x, W, b, R, carry, param, tuple(map(jnp.zeros_like, given.notes)))


def _results(call: Static, kinds: list[Any], ahead: bool) -> list[tuple[int, ...]]:
    """The shapes of the results for operands of these shapes, without trials."""
    given = jax.tree.unflatten(call.structure, kinds[: call.structure.num_leaves])
    (T, B), H = given.x[:2], call.design.hidden
    carries = [(B, H) for _ in given.carry]
    if ahead:
        kept = [(kept_size(call.design, T, B),)] if call.keep else []
        return [(T, B, H), *carries, *kept]
    inside = [given.W, given.b] if given.W is not None else []
    x = [given.x] if call.wants_x or given.W is None else []
    return [*carries, *inside, *x, *(s for s in (given.R, given.param) if s is not None)]


def kept_size(design: Design, T: int, B: int) -> int:
    """Floats of the residuals: as `Plan::kept` of sequence.h counts them."""
    lanes = build.target().lanes
    cells = T * -(-design.hidden // lanes) * B * lanes
    apart = len(design.carry) - (design.fed >= 0)
    fed = T * B * design.hidden if design.fed >= 0 and not design.same else 0
    return cells * (len(design.kept) + apart) + fed


def _ranks(call: Static, ahead: bool) -> list[int]:
    """The axes of every operand, trials aside."""
    shape = jax.tree.unflatten(call.structure, range(call.structure.num_leaves))
    matrices = [2] * (shape.R is not None)
    inside = [2, 1] if shape.W is not None else []
    own = [3, *inside, *matrices, *[2] * len(shape.carry)]
    own += [2] * (shape.param is not None) + [3] * len(shape.notes)
    return own if ahead else [*own, 3, 1, 3, *[2] * len(shape.carry)]


def _plan(call: Static, shapes: list[tuple[int, ...]], cores: int) -> np.ndarray:
    """The numbers of a call in the order in which calls.cc reads them."""
    design = call.design
    given = jax.tree.unflatten(call.structure, shapes[: call.structure.num_leaves])
    T, B, D = given.x
    inside = given.W is not None
    work = T * B * (design.hidden * len(design.of_r) + D * len(design.of_z)) * design.hidden
    threads = cores if work > SMALL else 1
    numbers = [call.cell, T, B, D, design.hidden, call.reverse, call.keep, threads, inside,
               call.wants_x, len(design.of_z), design.only_x, design.both, len(design.carry),
               design.fed, design.same, len(design.params), len(design.notes), len(design.kept),
               ROWS, design.mixes, call.spilled]  # fmt: skip
    numbers += [*design.of_z, *design.of_r, *design.straight]
    for shape in given.notes:
        _, b, u = shape
        numbers += [b * u, u if b > 1 else 0, int(u > 1)]
    return np.array(numbers, np.int64)


# As primitives ----------------------------------------------------------------------------------


def _make(name: str, ahead: bool) -> Primitive:
    primitive = Primitive(f"lstm_jax_native_{name}")
    primitive.multiple_results = True

    def abstract(*kinds: Any, call: Static) -> list[Any]:
        axes = kinds[0].ndim - 3
        lead = [max(kind.shape[k] for kind in kinds) for k in range(axes)]
        shapes = [kind.shape[axes:] for kind in kinds]
        like = kinds[0]
        return [
            like.update(
                shape=(*lead, *shape), dtype=jnp.float32, sharding=_nowhere(like, shape, axes)
            )
            for shape in _results(call, shapes, ahead)
        ]

    def batch(arguments: Any, axes: Any, call: Static) -> Any:
        moved = [
            x[None] if axis is None else jnp.moveaxis(x, axis, 0)
            for x, axis in zip(arguments, axes, strict=True)
        ]
        out = primitive.bind(*moved, call=call)
        return out, [0] * len(out)

    def lower(context: Any, *operands: Any, call: Static) -> Any:
        axes = context.avals_in[0].ndim - 3
        shapes = [kind.shape[axes:] for kind in context.avals_in]
        plan = _plan(call, shapes, max(1, cores() // _devices(context)[0]))
        return jax.ffi.ffi_lowering(f"lstm_jax_native_{name}")(context, *operands, plan=plan)

    def over_trials(run: Any, *operands: Any, call: Static) -> list[Array]:
        return _over_trials(partial(run, call), operands[0].ndim - 3, operands)

    stand_in = partial(over_trials, _stand_in_forward if ahead else _stand_in_backward)
    counted = partial(over_trials, _stand_in_forward if ahead else _counted_backward)
    elsewhere = mlir.lower_fun(stand_in, multiple_results=True)

    def on_cpu(context: Any, *operands: Any, call: Static) -> Any:
        exported = context.module_context.lowering_parameters.for_export
        # XLA knows no way to share the call among devices: it would have each do all of it.
        count, each_its_own = _devices(context)
        here = not exported and (count == 1 or each_its_own)
        return (lower if here else elsewhere)(context, *operands, call=call)

    setattr(primitive, "counted", counted)  # noqa: B010  for compute.flops
    primitive.def_abstract_eval(abstract)
    primitive.def_impl(partial(_run_alone, primitive))
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, elsewhere)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    return primitive


def _devices(context: Any) -> tuple[int, bool]:
    """(the devices of a program, whether each runs its own part, as in `jax.shard_map`)."""
    known = context.module_context.axis_context
    mesh = getattr(known, "mesh", None)
    if mesh is not None:
        return mesh.size, set(known.manual_axes) == set(mesh.axis_names)
    return getattr(known, "num_devices", None) or 1, False


def _nowhere(like: Any, shape: tuple, axes: int) -> Any:
    """The sharding of a result: `native` serves no array that lies on an explicit mesh."""
    return like.sharding.update(spec=(None,) * (axes + len(shape)))


def _run_alone(primitive: Primitive, *operands: Array, call: Static) -> Any:
    return jax.jit(partial(primitive.bind, call=call))(*operands)


def _over_trials(run: Any, axes: int, operands: tuple) -> list[Array]:
    """`run` under so many `vmap`; an operand with one trial serves all of them."""
    if not axes:
        return run(*operands)
    sizes = [x.shape[0] for x in operands]
    alike = [x[0] if size == 1 else x for x, size in zip(operands, sizes, strict=True)]
    inner = lambda *some: tuple(_over_trials(run, axes - 1, some))  # noqa: E731
    if max(sizes) == 1:
        return [out[None] for out in inner(*alike)]
    return list(jax.vmap(inner, [None if s == 1 else 0 for s in sizes])(*alike))


def _stand_in_forward(call: Static, *leaves: Array) -> list[Array]:
    given = jax.tree.unflatten(call.structure, leaves)
    y, last = reference(call, given)
    T, B = given.x.shape[:2]
    kept = [jnp.zeros((kept_size(call.design, T, B),), y.dtype)] if call.keep else []
    return [y, *last, *kept]


def _stand_in_backward(call: Static, *leaves: Array) -> list[Array]:
    return _back(reference_backward, call, *leaves)


def _counted_backward(call: Static, *leaves: Array) -> list[Array]:
    """The operations of the way back alone: what the way ahead has kept is there."""

    def run(call: Static, given: Given, dy: Array, dlast: tuple) -> Given:
        kept = jax.eval_shape(lambda: _scan(call, given)[1][1])
        return _cotangents(
            call, given, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), kept), dy, dlast
        )

    return _back(run, call, *leaves)


def _back(run: Any, call: Static, *leaves: Array) -> list[Array]:
    count, carries = call.structure.num_leaves, len(call.design.carry)
    given = jax.tree.unflatten(call.structure, leaves[:count])
    dy, dlast = leaves[count + 2], tuple(leaves[count + 3 : count + 3 + carries])
    d = run(call, given, dy, dlast)
    inside = [d.W, d.b] if d.W is not None else []
    x = [d.x] if call.wants_x or d.W is None else []
    return [*d.carry, *inside, *x, *(v for v in (d.R, d.param) if v is not None)]


forward_p = _make("forward", ahead=True)
backward_p = _make("backward", ahead=False)


# The graphs as JAX operations ---------------------------------------------------------------------


def reference(call: Static, given: Given) -> tuple[Array, tuple[Array, ...]]:
    """What `sequence` computes, by `lax.scan` over the graph of the step."""
    last, (y, _) = _scan(call, given)
    return y, last


def _projected(given: Given) -> Array:
    return given.x if given.W is None else given.x @ given.W + given.b


def _blocks(array: Any, count: int) -> list[Array]:
    return list(jnp.split(array, count, -1)) if count else []


def _sums(design: Design, z: Array, h: Any, R: Any) -> list[Array]:
    """The pre-activations of a step."""
    zs = _blocks(z, 1 + max(design.of_z))
    rs = _blocks(h @ R, 1 + max(design.of_r)) if design.fed >= 0 else []
    add = lambda j, k: zs[j] + rs[k] if min(j, k) >= 0 else (zs[j] if j >= 0 else rs[k])  # noqa: E731
    return [add(j, k) for j, k in zip(design.of_z, design.of_r, strict=True)]


def _scan(call: Static, given: Given) -> Any:
    """(last, (ys, (carries, pre-activations)))."""
    design = call.design

    def step(carry, now):
        z, notes = now
        h = carry[design.fed] if design.fed >= 0 else None
        sums = _sums(design, z, h, given.R)
        inputs = _inputs(given, carry=carry, a=sums, note=notes)
        outputs = [*design.carry, design.y]
        like = carry[0]
        out = design.forward.evaluate(outputs, inputs, like.dtype)
        *new, y = [jnp.broadcast_to(v, like.shape) for v in out]
        return tuple(new), (y, (carry, sums))

    return lax.scan(step, given.carry, (_projected(given), given.notes), reverse=call.reverse)


def _inputs(given: Given, **lists: Any) -> Any:
    """The array of a graph's input, by its key."""

    def of(key: tuple) -> Any:
        kind, *rest = key
        if kind == "param":
            return given.param[rest[0]]
        return lists[kind] if not rest else lists[kind][rest[0]]

    return of


def reference_backward(call: Static, given: Given, dy: Array, dlast: tuple) -> Given:
    """The cotangents of what `sequence` reads, by a reverse scan over the graph of the VJP."""
    return _cotangents(call, given, _scan(call, given)[1][1], dy, dlast)


def _cotangents(call: Static, given: Given, kept: tuple, dy: Array, dlast: tuple) -> Given:
    """`reference_backward` from the carries and pre-activations of every step."""
    design, (carries, sums) = call.design, kept

    def step(down, now):
        carry, sums, notes, dy = now
        ahead = _inputs(given, carry=carry, a=sums, note=notes)
        like = carry[0]
        kept = design.forward.evaluate(design.kept, ahead, like.dtype)
        inputs = _inputs(given, carry=carry, note=notes, kept=kept, dcarry=down, dy=dy)
        outputs = [*design.da, *design.dcarry, *design.dparam, *design.dnote]
        found = design.backward.evaluate(outputs, inputs, like.dtype)
        found = [jnp.broadcast_to(v, like.shape) for v in found]
        cut = np.cumsum([len(design.da), len(design.dcarry), len(design.dparam)])
        da, dcarry, dparam = (found[a:b] for a, b in zip([0, *cut[:2]], cut, strict=True))
        if design.fed >= 0:
            dcarry[design.fed] = dcarry[design.fed] + _columns(design.of_r, da) @ given.R.T
        return tuple(dcarry), (da, [v.sum(0) for v in dparam], found[cut[2] :])

    times = (carries, sums, given.notes, dy)
    first, (da, dparam, dnotes) = lax.scan(step, dlast, times, reverse=not call.reverse)
    pull = jax.vjp(lambda x, W, b: _projected(given._replace(x=x, W=W, b=b)), *given[:3])[1]
    dx, dW, db = pull(_columns(design.of_z, da))
    dR = param = None
    if given.R is not None:
        dR = jnp.einsum("tbh,tbn->hn", carries[design.fed], _columns(design.of_r, da))
    if given.param is not None:
        param = jnp.stack([v.sum(0) for v in dparam])
    notes = tuple(_sum_to(d, n.shape) for d, n in zip(dnotes, given.notes, strict=True))
    return Given(dx, dW, db, dR, first, param, notes)


def _columns(of: tuple[int, ...], da: list[Array]) -> Array:
    """The cotangent of z, or of h R, from those of the pre-activations."""
    pairs = sorted((block, n) for n, block in enumerate(of) if block >= 0)
    return jnp.concatenate([da[n] for _, n in pairs], -1)


def _sum_to(array: Array, shape: tuple) -> Array:
    axes = tuple(k for k, size in enumerate(shape) if size == 1 != array.shape[k])
    return array.sum(axes, keepdims=True)


# Code -------------------------------------------------------------------------------------------


def code(design: Design) -> Function:
    """The cell as C: one step of a tile with residuals and without, and the way back.

    Streams as sequence.h lists them; pre-activations, parameters and what is kept are one each.
    """
    carries, notes = len(design.carry), len(design.notes)
    alike = [("note", k) for k in range(notes) if design.alike[k]]
    inputs = {("carry", k): Place(1 + k) for k in range(carries)}
    inputs |= {("param", k): Place(1 + carries, k) for k in range(len(design.params))}
    inputs |= {("note", k): Place(2 + carries + k) for k in range(notes)}
    at = 2 + carries + notes
    ahead = inputs | {("a", j): Place(0, j) for j in range(len(design.of_z))}
    stores = [(Place(at + k), node) for k, node in enumerate(design.carry)
              if not (k == design.fed and design.same)]  # fmt: skip
    stores.append((Place(at + carries), design.y))
    kept = [(Place(at + carries + 1, k), node) for k, node in enumerate(design.kept)]
    back = inputs | {("kept", k): Place(0, k) for k in range(len(design.kept))}
    back |= {("dcarry", k): Place(at + k) for k in range(carries)} | {("dy",): Place(at + carries)}
    at += carries + 1
    down = [(Place(at + 1 + k), node) for k, node in enumerate(design.dcarry)
            if k != design.fed or design.straight[k]]  # fmt: skip
    da = [(Place(at, k), node) for k, node in enumerate(design.da)]
    sums = [(Place(at + 1 + carries, k), node) for k, node in enumerate(design.dparam)]
    # The carries go where those before them lie.
    late = len(stores) - 1
    made = [
        function("keep", design.forward, ahead, [*stores, *kept], alike=alike, late=late),
        function("plain", design.forward, ahead, stores, alike=alike, late=late),
        function("back", design.backward, back, [*down, *da], sums, alike, late=len(down)),
    ]
    text = "\n".join(['#include "lanes.h"\n', *(one.text for one in made)])
    return Function(text, max(one.spilled for one in made))
