"""Array operations that cells and engines share: products, weighted gradients, counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def off(value: Any) -> bool:
    """Whether a number is absent from the program: a Python 0, never an array."""
    return isinstance(value, (int, float)) and value == 0


def cores() -> int:
    """The CPU's cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# The platform that what is being traced is for; empty where only its lowering will tell.
_platform: ContextVar[str] = ContextVar("platform", default="")


@contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """What is traced inside is for this platform alone: "cpu", "gpu" or "tpu"."""
    before = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(before)


def traced_for(platform: str, function: Callable) -> Callable:
    """`function`, traced for this platform whenever that happens."""

    def traced(*args: Any, **kwargs: Any) -> Any:
        with tracing_for(platform):
            return function(*args, **kwargs)

    named = getattr(function, "func", function)  # of a partial
    traced.__name__ = getattr(named, "__name__", "traced")
    return traced


def handed_down() -> str:
    """The platform that `tracing_for` said, or nothing."""
    return _platform.get()


def platform() -> str:
    """The platform of what is being traced: the one handed down, else the host's."""
    return handed_down() or jax.default_backend()


def by_platform(cpu: Callable, other: Callable, *arguments: Any) -> Any:
    """`cpu(*arguments)` in a program for a CPU, `other(*arguments)` in one for anything else.

    Where no platform is handed down both are traced, and the lowering takes one: a program
    exported on one platform for another is the other's.
    """
    known = handed_down()
    if known:
        return (cpu if known == "cpu" else other)(*arguments)
    host = jax.default_backend()
    elsewhere = "other" if host == "cpu" else host  # most likely what it will run on
    ways = {"cpu": traced_for("cpu", cpu), "default": traced_for(elsewhere, other)}
    return jax.lax.platform_dependent(*arguments, **ways)


def needed(jaxpr: Any) -> list[Any]:
    """The equations that lead to a result or have an effect; what holds no number leads nowhere."""
    wanted, kept = {id(v) for v in jaxpr.outvars}, []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or wanted & {
            id(v) for v in equation.outvars if getattr(v.aval, "size", 1)
        }:
            kept.append(equation)
            wanted |= {id(v) for v in equation.invars}
    return kept[::-1]


def count(params: Any) -> int:
    """Number of numbers in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turned:
    """A matrix w [K, N] that `dot` multiplies features first, `(w^T x^T)^T`, given as `t` = w^T.

    XLA:CPU lays the second operand of a product out anew every time; so that is x, not w.
    """

    t: Array

    def __getitem__(self, at: tuple) -> Turned:
        rows, columns = at
        return Turned(self.t[columns, rows])

    def __rmatmul__(self, x: Array) -> Array:
        return dot(x, self)

    def __jax_array__(self) -> Array:
        return self.t.T


@jax.tree_util.register_pytree_node_class
class Known:
    """A matrix in the place of W whose one product `x @ w` is given; `seen` holds that x."""

    def __init__(self, product: Array) -> None:
        self.product, self.dtype = product, product.dtype
        self.seen: list[Array] = []

    def __rmatmul__(self, x: Array) -> Array:
        return self.multiplied(x)

    def multiplied(self, x: Array, dtype: Any = None) -> Array:
        if self.seen or dtype is not None:
            raise TypeError("only one product is known, and only in the type of its factors")
        self.seen.append(x)
        return self.product

    def tree_flatten(self) -> tuple[tuple, None]:
        return (self.product,), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: tuple) -> Known:
        return cls(*leaves)


def dot(x: Array, w: Array | Turned | Known, dtype: Any = None) -> Array:
    """`x @ w`; with `dtype`, operands are cast to it and products summed in `w`'s own type."""
    if isinstance(w, Turned):
        # The barriers keep the compiler from turning the product back.
        turned = jax.lax.optimization_barrier(x.T)
        return jax.lax.optimization_barrier(dot(w.t, turned, dtype)).T
    if isinstance(w, Known):
        return w.multiplied(x, dtype)
    straight = partial(_matmul, dtype=dtype)
    if x.ndim > 2 and _mergeable(x):
        return by_platform(partial(_merged, dtype=dtype), straight, x, w)
    return straight(x, w)


def _merged(x: Array, w: Array, dtype: Any) -> Array:
    """Of two axes to sum over, the gradient of w would make XLA:CPU transpose a copy."""
    found = _matmul(x.reshape(-1, x.shape[-1]), w, dtype)
    return found.reshape(*x.shape[:-1], w.shape[-1])


def _matmul(x: Array, w: Array, dtype: Any) -> Array:
    if dtype is None:
        return jnp.matmul(x, w)
    return jnp.matmul(x.astype(dtype), w.astype(dtype), preferred_element_type=w.dtype)


def _mergeable(x: Array) -> bool:
    """Whether the leading axes may become one: none lies on an explicit axis of a mesh."""
    return all(axis is None for axis in jax.typeof(x).sharding.spec)


def weigh(x: Array, weight: Any) -> Array:
    """x with its gradient multiplied by `weight`, None for 1."""
    return x if weight is None else _weigh(x, weight)


@jax.custom_jvp
def _weigh(x: Array, weight: Array) -> Array:
    return x


@_weigh.defjvp
def _weigh_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (x, weight), (dx, _) = primals, tangents
    return x, weight * dx


def held(c: Array) -> Array:
    """c, bit for bit, as a value that the compiler computes once: not again for every reader."""
    kind = jnp.finfo(c.dtype)
    return jax.lax.reduce_precision(c, kind.nexp, kind.nmant)
