"""A cell from one function: any step at all, in every engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.core import Cell, Info, Params, constructor


@constructor
def from_step(
    step: Callable[[Params, Any, Any], tuple[Any, Any]],
    init: Callable[..., Params],
    initial_carry: Callable[..., Any],
    *,
    name: str = "custom",
) -> Cell:
    """A cell given as `step(params, carry, x) -> (carry, y)`, its equations in one piece.

        c_t, y_t = step(params, c_{t-1}, x_t)

    `init(key, in_features) -> params` and `initial_carry(params, batch_shape) -> carry`, a
    NamedTuple, are as in `Cell`; the carry gets the parameters' floating type. Engines know
    nothing of its gates and differentiate the step as a whole: right everywhere, and slower than a
    cell in `recur`, `merge` and `update`.
    """

    def project(params, xs, keys=None):
        return xs

    def recur(params, carry):
        return ()

    def merge(params, z, r):
        return z

    def update(params, carry, gate):
        return step(params, carry, gate.raw("x"))

    def start(params, batch_shape):
        dtype = jnp.result_type(*([a for a in jax.tree.leaves(params) if _is_real(a)] or [float]))
        carry = initial_carry(params, batch_shape)
        return jax.tree.map(lambda a: jnp.asarray(a, dtype) if _is_real(a) else a, carry)

    fields = _fields(init, initial_carry)
    info = Info(name, 0, fields, blocks=(("x",),), late=("x",), pointwise=False)
    return Cell(init, start, project, recur, merge, update, info=info)


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _fields(init: Callable, initial_carry: Callable) -> tuple[str, ...]:
    """The names of the carry's entries, from shapes alone: JAX need not start for them."""
    carry: Any = jax.eval_shape(lambda: initial_carry(init(jax.random.key(0), 1), (1,)))
    return carry._fields
