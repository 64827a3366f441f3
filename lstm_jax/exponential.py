"""The LSTM with exponential gates: a normaliser and a stabiliser keep them finite.

Written like the cells of `cells.py`, with its legend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Cell, Spec, UsageError, dot
from lstm_jax.gates import ACTIVATIONS, GateTable, gate_table, gate_values, opening
from lstm_jax.parts import (
    bias,
    check_apart,
    check_bias,
    check_hidden,
    from_parts,
    held,
    kernels,
    notes_of,
    spread,
    weigh,
)


class Stabilised(NamedTuple):
    """sLSTM's carry: cell c and normaliser n, both scaled by exp(-m), and the output h."""

    c: Array
    n: Array
    m: Array
    h: Array


def _log_sigmoid(z: Array) -> Array:
    """log s(z); its error is absolute, as that of an exponent may be, and log is a cheap log1p."""
    return jnp.minimum(z, 0.0) - jnp.log(1.0 + jnp.exp(-jnp.abs(z)))


LOG_GATES = {"exp": lambda z: z, "sigmoid": _log_sigmoid}


def slstm(
    hidden: int,
    *,
    gate_activation: str | Mapping[str, str] = "",
    candidate_activation: str = "",
    output_activation: str = "identity",
    forget_bias: Any = 1.0,
    kernel_init: str = "glorot",
    recurrent_init: str = "per_gate",
    dtype: Any = None,
) -> Cell:
    """LSTM with exponential gating, a normaliser n and a stabiliser m (one head).

        log i = z_i      log f = log s(z_f)      g = tanh(z_g)      o = s(z_o)
        m' = max(log f + m, log i)
        c' = exp(log f + m - m') * c + exp(log i - m') * g
        n' = exp(log f + m - m') * n + exp(log i - m')
        h' = o * c' / n'

    with z_k = x W_k + h R_k + b_k. `gate_activation` may choose `exp` or `sigmoid` for i and f;
    by default i is exp, f and o are sigmoid. `output_activation` acts on c' / n'.

    Source: Beck et al. (2024), xLSTM, eq. 8-17.
    """
    check_hidden(hidden, kernel_init, recurrent_init)
    check_bias(forget_bias)
    table = slstm_table(gate_activation, candidate_activation, output_activation)
    return stabilised("slstm", hidden, table, forget_bias, kernel_init, recurrent_init, dtype)


def slstm_table(
    gate_activation: str | Mapping[str, str] = "",
    candidate_activation: str = "",
    output_activation: str = "identity",
) -> GateTable:
    """The gates of `slstm`."""
    wanted = gate_activation or {}
    if not isinstance(wanted, str):
        wanted = {"i": "exp", **wanted}
    return gate_table("lstm", wanted, candidate_activation, output_activation)


def stabilised(name, hidden, table, forget_bias, kernel_init, recurrent_init, dtype) -> Cell:
    learned, recurrent = table.learned(), table.recurrent()
    for gate in (table.i, table.f):
        if getattr(gate, "activation", "") not in LOG_GATES:
            raise UsageError(
                f"exp gating works on logarithms of both i and f: {gate} has none that is "
                f"stable; choose exp or sigmoid for both (known: {', '.join(LOG_GATES)})"
            )
    check_apart(table, "exp gating")
    log_i, log_f = LOG_GATES[table.i.activation], LOG_GATES[table.f.activation]
    output, late = ACTIVATIONS[table.output], ("i", "f")

    def init(key, in_features):
        k_kernels, k_bias = jax.random.split(key)
        inputs, hiddens = (in_features, learned, kernel_init), (hidden, recurrent, recurrent_init)
        params = kernels(k_kernels, inputs, hiddens)
        return params | {"bias": bias(forget_bias, k_bias, learned, hidden)}

    def initial_carry(params, batch_shape):
        zero = jnp.zeros((*batch_shape, hidden), params["kernel"].dtype)
        # An empty memory has no scale yet: the first input gate sets it.
        return Stabilised(zero, zero, jnp.full_like(zero, -1e30), zero)

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return spread(dot(carry.h, params["recurrent_kernel"], dtype), recurrent, learned)

    def merge(params, step, r):
        z, _, weights = notes_of(step)
        return (weigh(z + r, weights),)

    def settle(params, carry, step, blocks):
        z = dict(zip(learned, blocks, strict=True))
        log_new, log_old = log_i(z["i"]), log_f(z["f"]) + carry.m
        # Less their maximum m', one of the two is 0 and the other what they are apart.
        ahead = log_new - log_old
        behind = ahead < 0
        smaller = jnp.exp(jnp.where(behind, ahead, -ahead))
        i, f = jnp.where(behind, smaller, 1.0), jnp.where(behind, 1.0, smaller)
        m = jnp.where(behind, log_old, log_new)
        return {"i": i, "f": f, **gate_values(table, "go", z, late)}, m

    def close(params, carry, step, blocks):
        gates, m = settle(params, carry, step, blocks)
        c = held(gates["f"] * carry.c + gates["i"] * notes_of(step)[1] * gates["g"])
        n = held(gates["f"] * carry.n + gates["i"])
        h = gates["o"] * output(c / n)
        return Stabilised(c, n, m, h), h

    def gates_(params, carry, step, blocks):
        gates, m = settle(params, carry, step, blocks)
        return {name: jnp.broadcast_to(gate, m.shape) for name, gate in gates.items()}

    advance, opened, apart = from_parts(merge, (opening(table, late),), close, gates_)
    spec = Spec(name, hidden, Stabilised._fields, learned)
    return Cell(init, initial_carry, project, recur, advance, opened, spec=spec, apart=apart)
