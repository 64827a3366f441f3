"""The step of a loop as a list of equations: what a kernel runs, and what is done once before it.

The step is whatever a cell's `merge` and `update`, or the VJP of them, traces to. Calls are opened,
identities and arrays without numbers go, and what depends on no step moves out of the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, Var

from lstm_jax.core import Array
from lstm_jax.engines.meshes import alike_all
from lstm_jax.ops import needed

SAME = ("optimization_barrier", "copy", "copy_p", "pvary", "pcast", "reduce_precision")
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2")
CALLS += ("remat", "checkpoint")
GROWTH = 4  # what is so many times as large as what it is made of stays in the loop


class Body(NamedTuple):
    """Equations over what every step reads, the carry and one step's slice of the sequences."""

    equations: list[Any]
    known: list[Any]
    constants: list[Array]  # the values of `known`
    carry: list[Any]
    slices: list[Any]
    results: list[Any]  # the carry's, then the outputs'
    tree: Any  # of (carry, outputs)

    def run(self, constants: list, carry: list, slices: list) -> list:
        """One step."""
        names = [*self.known, *self.carry, *self.slices]
        env: dict = dict(zip(names, [*constants, *carry, *slices], strict=True))
        evaluate(self.equations, env)
        return [value(env, atom) for atom in self.results]


def body_of(step: Callable, carry: Any, now: Any) -> Body:
    """The body of `step(carry, now) -> (carry, out)`, given abstract arrays."""
    leaves, tree = jax.tree.flatten((carry, now))
    closed, out = jax.make_jaxpr(lambda *a: step(*jax.tree.unflatten(tree, a)), return_shape=True)(
        *leaves
    )
    count, size = len(closed.consts), len(jax.tree.leaves(carry))
    flat = lambda *a: opened(closed.jaxpr, a[:count], a[count:])  # noqa: E731
    again = jax.make_jaxpr(flat)(*map(_plain, [*closed.consts, *leaves]))
    jaxpr = again.jaxpr
    given = [*jaxpr.constvars, *jaxpr.invars[:count]]
    env = dict(zip(given, [*again.consts, *closed.consts], strict=True))
    early, late = parted(needed(jaxpr), given)
    evaluate(early, env)
    read = {v for e in late for v in e.invars if isinstance(v, Var)}
    read |= {v for v in jaxpr.outvars if isinstance(v, Var)}
    known = [v for v in env if v in read and v.aval.size]
    entering = jaxpr.invars[count:]
    carried, slices = entering[:size], entering[size:]
    constants = [jnp.asarray(env[v]) for v in known]
    results = list(jaxpr.outvars)
    return Body(late, known, constants, carried, slices, results, jax.tree.structure(out))


def _plain(leaf: Any) -> Any:
    """The type of an array, wherever on a mesh it varies: inside a kernel there is no mesh."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def value(env: dict, atom: Any) -> Any:
    if isinstance(atom, Literal):
        return atom.val
    return env[atom] if atom.aval.size else None


def evaluate(equations: list, env: dict) -> None:
    """Every equation's outputs into `env`."""
    for e in equations:
        made = outputs(e, [value(env, v) for v in e.invars])
        env.update(zip(e.outvars, made, strict=True))


def outputs(e: Any, values: list) -> list:
    params, values = e.params, alike_all(values)
    if e.primitive.name == "dot_general" and values[0].dtype != values[1].dtype:
        values, params = _narrowed(e, values)
    out = e.primitive.bind(*values, **params)
    return out if e.primitive.multiple_results else [out]


def _narrowed(e: Any, values: list) -> tuple[list, dict]:
    """A product with a matrix of `narrow`: both operands as bfloat16, the sum as it was."""
    kind = e.outvars[0].aval.dtype
    return [v.astype(jnp.bfloat16) for v in values], e.params | {"preferred_element_type": kind}


def narrow(body: Body) -> list[Any]:
    """The constants that only products of default precision read, in float32.

    A TPU multiplies them as bfloat16 all the same, and loads half as much.
    """
    read = [v for v in body.known if v.aval.dtype == jnp.float32 and v.aval.ndim == 2]
    other = {v for e in body.equations if not _default(e) for v in e.invars if isinstance(v, Var)}
    other |= {v for v in body.results if isinstance(v, Var)}
    return [v for v in read if v not in other]


def _default(e: Any) -> bool:
    """Whether it is a product of float32 at a TPU's default precision."""
    if e.primitive.name != "dot_general":
        return False
    asked = e.params["precision"]
    plain = asked is None or set(asked) <= {None, lax.Precision.DEFAULT}
    return plain and all(v.aval.dtype == jnp.float32 for v in (*e.invars, *e.outvars))


def opened(jaxpr: Any, constants: Any, arguments: Any) -> list:
    """The values of a jaxpr, with calls opened, identities gone and splits as slices."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else env[atom]

    for e in jaxpr.eqns:
        made = _opened(e, [read(v) for v in e.invars])
        env.update(zip(e.outvars, made, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _opened(e: Any, values: list) -> list:
    name = e.primitive.name
    if name in SAME and _same(e):
        return values
    if name in CALLS:
        inner = e.params.get("jaxpr") or e.params["call_jaxpr"]
        closed = inner if hasattr(inner, "consts") else ClosedJaxpr(inner, ())
        return opened(closed.jaxpr, closed.consts, values)
    if all(not v.aval.size for v in e.outvars):
        return [jnp.zeros(v.aval.shape, v.aval.dtype) for v in e.outvars]
    if name == "split":
        return list(_slices(values[0], e.params["sizes"], e.params["axis"]))
    if name == "concatenate":
        full = [v for v in values if v.size]
        return [lax.concatenate(full, e.params["dimension"]) if len(full) > 1 else full[0]]
    return outputs(e, values)


def _same(e: Any) -> bool:
    """Whether it leaves its operand as it is: not if it rounds to less than the type has."""
    if e.primitive.name != "reduce_precision":
        return True
    kind = jnp.finfo(e.invars[0].aval.dtype)
    return (e.params["exponent_bits"], e.params["mantissa_bits"]) == (kind.nexp, kind.nmant)


def _slices(x: Array, sizes: tuple[int, ...], axis: int) -> Iterator[Array]:
    at = 0
    for size in sizes:
        whole = size == x.shape[axis]
        yield x if whole else lax.slice_in_dim(x, at, at + size, axis=axis)
        at += size


def parted(equations: list, given: list[Any]) -> tuple[list, list]:
    """(the equations of `given` alone, the others); a broadcast stays with the others."""
    known, early, late = set(given), [], []
    for e in equations:
        sources = [v for v in e.invars if isinstance(v, Var)]
        if sources and known.issuperset(sources) and not _grows(e, sources):
            early.append(e)
            known.update(e.outvars)
        else:
            late.append(e)
    return early, late


def _grows(e: Any, sources: list[Any]) -> bool:
    made = sum(math.prod(v.aval.shape) for v in e.outvars)
    return made > GROWTH * sum(math.prod(v.aval.shape) for v in sources)
