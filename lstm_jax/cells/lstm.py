"""The long short-term memory.

Every constructor of a cell takes `hidden` and keyword options and returns a `Cell`. Shapes by the
legend in `core.py`: x is one step of the input [B, D], h the last output [B, H]; W is `kernel`
[D, N*H], R is `recurrent_kernel` [H, N*H], b is `bias` [N*H], one block of H columns a learned
gate, in the order in which the gates are listed. `*` is elementwise, s the logistic sigmoid,
' marks the new value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.cells.activations import activation
from lstm_jax.cells.gates import UPDATES, GateTable, gate_table, spread
from lstm_jax.cells.initializers import (
    bias,
    check_forget_bias,
    check_hidden,
    kernels,
)
from lstm_jax.cells.layer_norm import LAYER_NORMS
from lstm_jax.cells.peepholes import PEEPHOLES, check_peepholes
from lstm_jax.cells.slstm import stabilised
from lstm_jax.core import Array, Carry, Cell, Info, constructor
from lstm_jax.errors import UsageError, lookup
from lstm_jax.ops import dot, held


@constructor
def lstm(
    hidden: int,
    *,
    gates: str | GateTable = "lstm",
    gate_activation: str | Mapping[str, str] = "",
    candidate_activation: str = "",
    output_activation: str = "",
    peepholes: str = "none",
    forget_bias: Any = 1.0,
    kernel_init: str = "glorot",
    recurrent_init: str = "per_gate",
    layer_norm: str = "none",
    cell_clip: float = 0.0,
    dtype: Any = None,
) -> Cell:
    """Long short-term memory, every design choice a switch.

        i = s(x W_i + h R_i + b_i)
        f = s(x W_f + h R_f + b_f)
        g = tanh(x W_g + h R_g + b_g)
        o = s(x W_o + h R_o + b_o)
        c' = f * c + i * g
        h' = o * tanh(c')

    `gates`: a row of `gates.GATES` or a `GateTable`; the activations replace the row's own, and an
    `exp` input or forget gate brings the normaliser and stabiliser of `slstm`.
    `peepholes`: `diagonal` (i and f see c, o sees c'; `peephole_kernel` [3, H], order i f o),
    `diagonal_remaining` (the same on the gates the row still has), `full` (matrices [H, 3H], all
    see c).
    `forget_bias`: a number, or an initialiser from `initializers.BIASES`.
    `layer_norm`: of x W and h R, and of c' on its way to h (`branch`) or as carried on too
    (`recirculated`). `cell_clip`: c' held within [-k, k]; 0 for free. `dtype`: what matmuls compute
    in, summed in the parameters' type; c and h keep the parameters' type.

    Raises: UsageError for unknown names and for choices that contradict each other.
    Source: Hochreiter & Schmidhuber (1997); Gers, Schmidhuber & Cummins (2000), the forget gate.
    """
    check_hidden(hidden, kernel_init, recurrent_init)
    table = gate_table(gates, gate_activation, candidate_activation, output_activation)
    check_peepholes(peepholes, gates, table)
    check_forget_bias(forget_bias, gates, table)
    check_clip(cell_clip)
    norm = lookup("layer_norm", layer_norm, LAYER_NORMS)
    extras = (peepholes, layer_norm, cell_clip)
    if "exp" in (getattr(gate, "activation", "") for gate in (table.i, table.f)):
        check_exp(*extras, table)
        return stabilised("lstm", hidden, table, forget_bias, kernel_init, recurrent_init, dtype)
    learned, recurrent = table.learned(), table.recurrent()
    join, squash = UPDATES[table.update], activation(table.output)
    clip = (lambda c: jnp.clip(c, -cell_clip, cell_clip)) if cell_clip else (lambda c: c)
    fresh = jnp.ones if table.update == "multiply" else jnp.zeros

    def init(key, in_features):
        k_kernels, k_bias, _ = jax.random.split(key, 3)
        inputs, hiddens = (in_features, learned, kernel_init), (hidden, recurrent, recurrent_init)
        params = kernels(k_kernels, inputs, hiddens)
        params["bias"] = bias(forget_bias, k_bias, learned, hidden)
        return params | norm.init(len(learned) * hidden, len(recurrent) * hidden, hidden)

    def initial_carry(params, batch_shape):
        shape, dtype = (*batch_shape, hidden), params["kernel"].dtype
        return Carry(fresh(shape, dtype), jnp.zeros(shape, dtype))

    def project(params, xs, keys=None):  # x W + b
        return norm.kernel(params, dot(xs, params["kernel"], dtype)) + params["bias"]

    def recur(params, carry):  # h R
        return dot(carry.h, params["recurrent_kernel"], dtype)

    def merge(params, z, r):  # u = x W + h R + b
        return z + spread(norm.recurrent(params, r), recurrent, learned)

    def update(params, carry, gate):
        c = carry.c
        i, f, g = gate("i", c), gate("f", c), gate("g", c)  # s(u_i), s(u_f), tanh(u_g)
        c = join(f * c, i * g)  # c' = f * c + i * g
        c = held(norm.carried(params, clip(c)))
        o = gate("o", c)  # s(u_o)
        h = o * squash(norm.branch(params, c))  # h' = o * tanh(c')
        return Carry(c, h), h

    plain = (*extras, dtype) == ("none", "none", 0.0, None) and recurrent == learned
    info = Info("lstm", hidden, Carry._fields, table.gates(), (learned,))
    info = info._replace(table=table, plain=plain, dtype=dtype)
    cell = Cell(init, initial_carry, project, recur, merge, update, info=info)
    return PEEPHOLES[peepholes](cell)


class FullGateCarry(NamedTuple):
    """The LSTM's c and h, and the gates it opened to get there."""

    c: Array
    h: Array
    i: Array
    f: Array
    o: Array


@constructor
def lstm_fgr(
    hidden: int, *, recurrent_init: str = "per_gate", peepholes: str = "none", **options: Any
) -> Cell:
    """LSTM with full gate recurrence: the last i, f and o feed every gate.

        z_k = x W_k + h R_k + [i f o] G_k + b_k      for k = i, f, o; z_g as in `lstm`
        c' = f * c + i * g
        h' = o * tanh(c')

    `gate_kernel` is G [3H, 3H], rows i f o, columns i f o. Takes the options of `lstm`.

    Source: Greff et al. (2017), section III, FGR; the first LSTM, Hochreiter & Schmidhuber (1997).
    """
    cell = lstm(hidden, recurrent_init=recurrent_init, **options)
    feeds, learned, dtype = ("i", "f", "o"), cell.info.learned, cell.info.dtype
    if cell.info.table is None or learned != ("i", "f", "g", "o"):
        raise UsageError(
            f"lstm_fgr with gates={options.get('gates', 'lstm')!r}: full gate recurrence feeds "
            "learned i, f and o back, without exp; choose gates='lstm' or cell 'lstm'"
        )
    see = lookup("peepholes", peepholes, PEEPHOLES)
    of_h, join, inner = cell.recur, cell.merge, cell.update

    def init(key, in_features):
        k_cell, k_gates = jax.random.split(key)
        draw = kernels(k_gates, (3 * hidden, feeds, "glorot"), (hidden, feeds, "zeros"))
        return see(cell).init(k_cell, in_features) | {"gate_kernel": draw["kernel"]}

    def initial_carry(params, batch_shape):
        c, h = cell.initial_carry(params, batch_shape)
        return FullGateCarry(c, h, *(jnp.zeros_like(h) for _ in feeds))

    def recur(params, carry):
        gates = jnp.concatenate([carry.i, carry.f, carry.o], axis=-1)
        return of_h(params, carry), dot(gates, params["gate_kernel"], dtype)

    def merge(params, z, r):
        from_h, from_gates = r
        return join(params, z, from_h) + spread(from_gates, feeds, learned)

    def update(params, carry, gate):
        (c, h), y = inner(params, carry, gate)
        i, f, o = gate("i", carry.c), gate("f", carry.c), gate("o", c)
        return FullGateCarry(c, h, i, f, o), y

    info = cell.info._replace(name="lstm_fgr", carry=FullGateCarry._fields, table=None, plain=False)
    fgr = see(Cell(init, initial_carry, cell.project, recur, merge, update, info=info))
    return fgr._replace(init=init)


def check_exp(peepholes: str, layer_norm: str, cell_clip: float, table: GateTable) -> None:
    """Raises UsageError for an exp gate beside what sLSTM does not have."""
    if (peepholes, layer_norm, cell_clip, table.update) != ("none", "none", 0.0, "add"):
        raise UsageError(
            "an exp gate needs the normaliser and stabiliser of slstm, which knows no "
            "peepholes, layer_norm, cell_clip or multiplicative update; leave those out"
        )


def check_clip(cell_clip: float) -> None:
    """Raises UsageError for a clip that holds nothing."""
    if not cell_clip >= 0:
        raise UsageError(f"cell_clip={cell_clip}: expected a bound above 0, or 0 for none")


CELLS = {"lstm": lstm, "lstm_fgr": lstm_fgr}
