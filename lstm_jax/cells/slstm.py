"""The LSTM with exponential gates: a normaliser and a stabiliser keep them finite.

Written like the cells of `lstm.py`, with its legend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.cells.activations import activation
from lstm_jax.cells.gates import GateTable, check_apart, gate_table, spread
from lstm_jax.cells.initializers import bias, check_bias, check_hidden, kernels
from lstm_jax.core import Array, Cell, Info, constructor
from lstm_jax.errors import UsageError
from lstm_jax.ops import dot, held


class Stabilised(NamedTuple):
    """sLSTM's carry: cell c and normaliser n, both scaled by exp(-m), and the output h."""

    c: Array
    n: Array
    m: Array
    h: Array


def _log_sigmoid(u: Array) -> Array:
    """log s(u); its error is absolute, as that of an exponent may be, and log is a cheap log1p."""
    return jnp.minimum(u, 0.0) - jnp.log(1.0 + jnp.exp(-jnp.abs(u)))


LOG_GATES = {"exp": lambda u: u, "sigmoid": _log_sigmoid}


@constructor
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


def stabilised(
    name: str,
    hidden: int,
    table: GateTable,
    forget_bias: Any,
    kernel_init: str,
    recurrent_init: str,
    dtype: Any,
) -> Cell:
    """The gate-table LSTM whose i and f are exponentials, or sigmoids, known by logarithms."""
    check_logarithms(table)
    learned, recurrent = table.learned(), table.recurrent()
    log_i, log_f = (LOG_GATES[getattr(gate, "activation")] for gate in (table.i, table.f))  # noqa: B009
    squash = activation(table.output)

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

    def merge(params, z, r):
        return z + r

    def update(params, carry, gate):
        i, f, m = stabilise(log_i(gate.raw("i")), log_f(gate.raw("f")) + carry.m)
        gate.record(i=i, f=f)
        c = held(f * carry.c + i * gate("g"))
        n = held(f * carry.n + i)
        h = gate("o") * squash(c / n)
        return Stabilised(c, n, m, h), h

    info = Info(name, hidden, Stabilised._fields, table.gates(), (learned,), ("i", "f"))
    return Cell(init, initial_carry, project, recur, merge, update, info=info._replace(dtype=dtype))


def stabilise(new: Array, old: Array) -> tuple[Array, Array, Array]:
    """exp(new - m), exp(old - m), m = max(new, old): one is 1, the other what they are apart."""
    ahead = new - old
    behind = ahead < 0
    smaller = jnp.exp(jnp.where(behind, ahead, -ahead))
    return (
        jnp.where(behind, smaller, 1.0),
        jnp.where(behind, 1.0, smaller),
        jnp.where(behind, old, new),
    )


def check_logarithms(table: GateTable) -> None:
    """Raises UsageError for an input or forget gate whose logarithm is not stable."""
    for gate in (table.i, table.f):
        if getattr(gate, "activation", "") not in LOG_GATES:
            raise UsageError(
                f"exp gating works on logarithms of both i and f: {gate} has none that is "
                f"stable; choose exp or sigmoid for both (known: {', '.join(LOG_GATES)})"
            )
    check_apart(table, "exp gating")


CELLS = {"slstm": slstm}
