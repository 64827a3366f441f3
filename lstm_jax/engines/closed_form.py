"""The gate-table LSTM differentiated by hand: any row at the standard row's cost.

With a_k the opened gates and s = output(c'), cotangents of what comes after the step on the right:

    dc += dh * o * s'                      s' and every act' written in the activated value
    da = (dc * g, dc * c, dc * i, dh * s)  for i f g o
    dz = da * act'
    dc <- dc * f      dh <- dz R^T         to the step before
    dR = sum_t h_{t-1}^T dz_t              one matmul a block of steps

Time runs in blocks: a block's input projection before its steps, its share of the parameters'
gradients after them, so that on a CPU neither leaves the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.core import Array, Carry, Cell, Params
from lstm_jax.gates import (
    ACTIVATIONS,
    UPDATES,
    Constant,
    Coupled,
    Gate,
    GateTable,
    activate,
    split_gates,
)
from lstm_jax.steps import even_size, join_steps, select, split_steps

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


BLOCK = 2**17  # pre-activations a block on a CPU: 512 KiB in float32


class Weights(NamedTuple):
    """W [D, N*H], R [H, N*H], b [N*H]."""

    kernel: Array
    recurrent: Array
    bias: Array


def serves(cell: Cell, steps: Any) -> bool:
    """Whether the closed form covers this cell and these steps."""
    table = cell.spec.table
    if not cell.spec.plain or table.update != "add" or steps.restart is not None:
        return False
    return {*names(table), table.output} <= set(SLOPES)


def names(table: GateTable) -> tuple[str, ...]:
    """The learned gates' activations, in kernel order."""
    return tuple(getattr(table, k).activation for k in table.learned())


def run(cell: Cell, params: Params, carry: Carry, steps: Any, reverse: bool) -> Any:
    """(carry, ys) of the gate-table LSTM, block by block over time."""
    length, batch = steps.x.shape[:2]
    size = block_size(length, batch * params["bias"].size)
    x, _, valid, _ = split_steps(steps, size)
    if valid is not None:
        x = jnp.where(valid[..., None], x, 0)
    weights = Weights(params["kernel"], params["recurrent_kernel"], params["bias"])
    last, ys = _loop(cell.spec.table, reverse)(weights, carry, x, valid)
    return last, join_steps(ys, length)


def block_size(length: int, width: int) -> int:
    """Steps a block: all of them but on a CPU, where a block's pre-activations stay in cache."""
    if jax.default_backend() != "cpu":
        return max(length, 1)
    return even_size(length, BLOCK // width)


def _loop(table: GateTable, reverse: bool) -> Any:
    learned, acts, output = table.learned(), names(table), ACTIVATIONS[table.output]
    shifted = [k for k in "ifo" if getattr(getattr(table, k), "shift", 0.0)]
    update = UPDATES[table.update]

    def forward(weights, carry, xs, valid):
        def step(carry, now):
            z, counts = now
            z = z + carry.h @ weights.recurrent
            a = activate(acts, z)
            gates = split_gates(table, "ifgo", learned, z, a)
            c = update(gates["f"], carry.c, gates["i"], gates["g"])
            h = gates["o"] * output(c)
            # One array a gate: slices of a wider one keep the backward loop from vectorising.
            saved = (carry, {k: gates[k] for k in (*learned, *shifted)})
            if counts is None:
                return Carry(c, h), (h, saved)
            return select(counts, Carry(c, h), carry), (jnp.where(counts[:, None], h, 0), saved)

        def block(carry, part):
            x, counts = part
            return lax.scan(
                step, carry, (x @ weights.kernel + weights.bias, counts), reverse=reverse
            )

        last, (ys, saved) = lax.scan(block, carry, (xs, valid), reverse=reverse)
        return (last, ys), (weights, xs, valid, saved)

    @jax.custom_vjp
    def loop(weights, carry, xs, valid):
        return forward(weights, carry, xs, valid)[0]

    def backward(residuals, cotangents):
        weights, xs, valid, saved = residuals
        back = lax.optimization_barrier(weights.recurrent.T)  # transposed once, not every step

        def step(after, now):
            (carry, values), dy, counts = now
            dz, dc = _pointwise(table, carry.c, values, after.h + dy, after.c)
            if counts is None:
                return Carry(dc, dz @ back), dz
            dz = jnp.where(counts[:, None], dz, 0)
            return select(counts, Carry(dc, dz @ back), after), dz

        def block(state, part):
            after, sums = state
            x, counts, kept, dy = part
            before, dz = lax.scan(step, after, (kept, dy, counts), reverse=not reverse)
            seen = Weights(_product(x, dz), _product(kept[0].h, dz), dz.sum((0, 1)))
            return (before, jax.tree.map(jnp.add, sums, seen)), dz @ weights.kernel.T

        dlast, dys = cotangents
        start = dlast, jax.tree.map(jnp.zeros_like, weights)
        (dfirst, sums), dxs = lax.scan(block, start, (xs, valid, saved, dys), reverse=not reverse)
        none = None if valid is None else np.zeros(valid.shape, jax.dtypes.float0)
        return sums, dfirst, dxs, none

    loop.defvjp(forward, backward)
    return loop


def _product(a: Array, b: Array) -> Array:
    """sum over time and batch of a^T b."""
    return jnp.tensordot(a, b, ((0, 1), (0, 1)))


def _pointwise(
    table: GateTable, c: Array, values: dict, dh: Array, dc: Array
) -> tuple[Array, Array]:
    """dz of the learned gates [B, N*H] and dc of the old cell, from the saved gates [B, H]."""
    gates = {k: _gate(getattr(table, k), values, k) for k in "ifgo"}
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
    slopes = {k: SLOPES[getattr(table, k).activation](values[k]) for k in table.learned()}
    dz = [da[k] * slope + extra.get(k, 0.0) for k, slope in slopes.items()]
    return jnp.concatenate(dz, axis=-1), dc * gates["f"]


def _gate(gate: Gate, values: dict, name: str) -> Any:
    """A gate's value: saved, one minus the gate it is coupled to, or constant."""
    if name in values:
        return values[name]
    return 1.0 - values[gate.to] if isinstance(gate, Coupled) else cast(Constant, gate).value
