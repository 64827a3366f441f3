"""The parameter gradient deferred: the reverse scan carries only the carry's own cotangents.

Autodiff of `lax.scan` reads and writes every parameter's gradient at every step. Here the reverse
scan emits the cotangents of z and r, and each parameter's gradient is one large matmul after it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.core import Cell, Params
from lstm_jax.engines import closed_form


def run(cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False) -> Any:
    """(carry, ys) with `scan`'s values, and gradients by a reverse scan of the step's own VJP.

    The gate-table LSTM takes its closed form. Second derivatives work reverse over reverse;
    forward mode does not pass a custom VJP, use engine `scan` for it.
    """
    if closed_form.serves(cell, steps):
        return closed_form.run(cell, params, carry, steps, reverse)
    return _loop(cell, reverse)(params, carry, cell.project(params, steps))


def _loop(cell: Cell, reverse: bool) -> Any:
    """`lax.scan` of the cell's step over zs, with the deferred VJP."""

    def forward(params, carry, zs):
        def step(carry, z):
            r = cell.recur(params, carry)
            new, y = cell.advance(params, carry, z, r)
            return new, (y, carry, r)

        last, (ys, carries, rs) = lax.scan(step, carry, zs, reverse=reverse)
        return (last, ys), (params, carries, zs, rs)

    @jax.custom_vjp
    def loop(params, carry, zs):
        return forward(params, carry, zs)[0]

    def backward(saved, cotangents):
        params, carries, zs, rs = saved
        dlast, dys = cotangents

        def step(dcarry, now):
            carry, z, r, dy = now
            _, pull = jax.vjp(lambda c, z, r: cell.advance(params, c, z, r), carry, z, r)
            direct, dz, dr = pull((dcarry, dy))
            _, pull_recur = jax.vjp(lambda c: cell.recur(params, c), carry)
            before = jax.tree.map(jnp.add, direct, pull_recur(dr)[0])
            return before, (_smooth(dz), dr, dcarry)

        back = (carries, zs, rs, dys)
        dfirst, (dzs, drs, dcarries) = lax.scan(step, dlast, back, reverse=not reverse)
        dparams = _parameters(cell, params, (carries, zs, rs), (drs, dcarries, dys))
        return dparams, dfirst, _whole(zs, dzs)

    loop.defvjp(forward, backward)
    return loop


def _parameters(cell: Cell, params: Params, now: tuple, cotangents: tuple) -> Params:
    """Every parameter's gradient from all T steps at once."""
    carries, zs, rs = now
    drs, dcarries, dys = cotangents

    def all_steps(params):
        r = jax.vmap(cell.recur, (None, 0))(params, carries)
        return r, jax.vmap(cell.advance, (None, 0, 0, 0))(params, carries, zs, rs)

    return jax.vjp(all_steps, params)[1]((drs, (dcarries, dys)))[0]


def _smooth(dz: Any) -> list:
    """The cotangents that are numbers: those of masks and marks are not."""
    return [leaf for leaf in jax.tree.leaves(dz) if leaf.dtype != jax.dtypes.float0]


def _whole(zs: Any, dzs: list) -> Any:
    """dzs put back among the places of zs that have none."""
    given = iter(dzs)
    leaves, tree = jax.tree.flatten(zs)
    return tree.unflatten(
        next(given)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
        else np.zeros(leaf.shape, jax.dtypes.float0)
        for leaf in leaves
    )
