"""The gate-table LSTM differentiated by hand: any row at the standard row's cost.

With a_k the opened gates and s = output(c'), cotangents of what comes after the step on the right:

    dc += dh * o * s'                      s' and every act' written in the activated value
    da = (dc * g, dc * c, dc * i, dh * s)  for i f g o
    dz = da * act'
    dc <- dc * f      dh <- dz R^T         to the step before
    dR = sum_t h_{t-1}^T dz_t              one matmul, after the scan
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.core import Array, Carry, Cell, Params
from lstm_jax.gates import (
    ACTIVATIONS,
    UPDATES,
    Coupled,
    GateTable,
    activate,
    columns,
    split_gates,
)
from lstm_jax.steps import Masked, select

# act'(z) written in a = act(z); at a corner, the slope JAX takes there.
SLOPES = {
    "sigmoid": lambda a: a * (1.0 - a),
    "hard_sigmoid": lambda a: jnp.where((a > 0.0) & (a < 1.0), 1.0 / 6.0, 0.0),
    "tanh": lambda a: 1.0 - a * a,
    "relu": lambda a: jnp.where(a > 0.0, 1.0, 0.0),
    "relu1": lambda a: jnp.where((a > 0.0) & (a < 1.0), 1.0, 0.0),
    "softsign": lambda a: (1.0 - jnp.abs(a)) ** 2,
    "identity": jnp.ones_like,
    "one": jnp.zeros_like,
}


def serves(cell: Cell, zs: Any) -> bool:
    """Whether the closed form covers this cell and these projected steps."""
    table = cell.spec.table
    if not cell.spec.plain or table.update != "add":
        return False
    if not {*names(table), table.output} <= set(SLOPES):
        return False
    marks = isinstance(zs, Masked)
    return isinstance(zs.z if marks else zs, jax.Array) and not (marks and zs.restart is not None)


def names(table: GateTable) -> tuple[str, ...]:
    """The learned gates' activations, in kernel order."""
    return tuple(getattr(table, k).activation for k in table.learned())


def run(cell: Cell, params: Params, carry: Carry, zs: Any, reverse: bool) -> Any:
    """(carry, ys) of the gate-table LSTM over projected steps."""
    valid, z = (zs.valid, zs.z) if isinstance(zs, Masked) else (None, zs)
    return _loop(cell.spec.table, reverse)(params["recurrent_kernel"], carry, z, valid)


def _loop(table: GateTable, reverse: bool) -> Any:
    learned, acts, output = table.learned(), names(table), ACTIVATIONS[table.output]
    shifted = [k for k in "ifo" if getattr(getattr(table, k), "shift", 0.0)]
    update = UPDATES[table.update]

    def forward(kernel, carry, zs, valid):
        def step(carry, now):
            z, counts = now
            z = z + carry.h @ kernel
            a = activate(acts, z)
            gates = split_gates(table, "ifgo", learned, z, a)
            c = update(gates["f"], carry.c, gates["i"], gates["g"])
            h = gates["o"] * output(c)
            saved = (carry, a, {k: gates[k] for k in shifted})
            if counts is None:
                return Carry(c, h), (h, saved)
            return select(counts, Carry(c, h), carry), (jnp.where(counts[:, None], h, 0), saved)

        last, (ys, saved) = lax.scan(step, carry, (zs, valid), reverse=reverse)
        return (last, ys), (kernel, saved, valid)

    @jax.custom_vjp
    def loop(kernel, carry, zs, valid):
        return forward(kernel, carry, zs, valid)[0]

    def backward(residuals, cotangents):
        kernel, (carries, activated, extra), valid = residuals
        transposed = kernel.T

        def step(after, now):
            (carry, a, values), dy, counts = now
            gates = split_gates(table, "ifgo", learned, a, a) | values
            dh = after.h + dy
            dz, dc = _pointwise(table, carry.c, gates, a, dh, after.c)
            if counts is not None:
                keep = counts[:, None]
                dz = jnp.where(keep, dz, 0)
                held = select(counts, jax.tree.map(jnp.zeros_like, after), after)
                return Carry(jnp.where(keep, dc, held.c), dz @ transposed + held.h), dz
            return Carry(dc, dz @ transposed), dz

        dlast, dys = cotangents
        now = ((carries, activated, extra), dys, valid)
        dfirst, dzs = lax.scan(step, dlast, now, reverse=not reverse)
        dkernel = jnp.tensordot(carries.h, dzs, ((0, 1), (0, 1)))
        none = None if valid is None else np.zeros(valid.shape, jax.dtypes.float0)
        return dkernel, dfirst, dzs, none

    loop.defvjp(forward, backward)
    return loop


def _pointwise(
    table: GateTable, c: Array, gates: dict, a: Array, dh: Array, dc: Array
) -> tuple[Array, Array]:
    """dz of the learned gates [B, N*H] and dc of the old cell."""
    s = ACTIVATIONS[table.output](gates["f"] * c + gates["i"] * gates["g"])
    dc = dc + dh * gates["o"] * SLOPES[table.output](s)
    da = {"i": dc * gates["g"], "f": dc * c, "g": dc * gates["i"], "o": dh * s}
    coupled = [(k, gate) for k in "ifo" if isinstance(gate := getattr(table, k), Coupled)]
    extra = {}
    for k, gate in coupled:
        if gate.shift:
            extra[gate.to] = -da[k] * SLOPES[getattr(table, gate.to).activation](1.0 - gates[k])
        else:
            da[gate.to] = da[gate.to] - da[k]
    dz = jnp.concatenate([da[k] for k in table.learned()], axis=-1) * slopes(names(table), a)
    if extra:
        zero = jnp.zeros_like(c)
        dz = dz + jnp.concatenate([extra.get(k, zero) for k in table.learned()], axis=-1)
    return dz, dc * gates["f"]


def slopes(acts: tuple[str, ...], a: Array) -> Array:
    """act'(z) of every block of a = act(z) [..., N*H], selected by column."""
    first, *others = dict.fromkeys(acts)
    slope = SLOPES[first](a)
    for other in others:
        slope = jnp.where(columns([name == other for name in acts], a), SLOPES[other](a), slope)
    return slope
