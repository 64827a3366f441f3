"""The cells, each written like its equations.

Every constructor takes `hidden` and keyword options and returns a `Cell`. Shapes by the legend in
`core.py`: x is one step of the input [B, D], h the last output [B, H]; W is `kernel` [D, N*H], R is
`recurrent_kernel` [H, N*H], b is `bias` [N*H], one block of H columns a learned gate, in the order
in which the gates are listed. `*` is elementwise, s the logistic sigmoid, ' marks the new value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.blind import mingru, minlstm
from lstm_jax.core import Array, Carry, Cell, Hidden, Spec, UsageError, dot, lookup
from lstm_jax.exponential import slstm, stabilised
from lstm_jax.gated import gru, mgu
from lstm_jax.gates import (
    ACTIVATIONS,
    UPDATES,
    GateTable,
    activation_name,
    early,
    gate_table,
    gate_values,
    late,
    opening,
)
from lstm_jax.parts import (
    LAYER_NORMS,
    PEEPHOLES,
    Recurrent,
    bias,
    check_clip,
    check_forget_bias,
    check_hidden,
    check_peepholes,
    from_parts,
    held,
    hidden_carry,
    kernels,
    notes_of,
    spread,
    weigh,
)


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
    `learned` (the same on the gates the row still has), `full` (matrices [H, 3H], all see c).
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
    if any(getattr(gate, "activation", "") == "exp" for gate in (table.i, table.f)):
        if (peepholes, layer_norm, cell_clip, table.update) != ("none", "none", 0.0, "add"):
            raise UsageError(
                "an exp gate needs the normaliser and stabiliser of slstm, which knows no "
                "peepholes, layer_norm, cell_clip or multiplicative update; leave those out"
            )
        return stabilised("lstm", hidden, table, forget_bias, kernel_init, recurrent_init, dtype)

    learned, recurrent = table.learned(), table.recurrent()
    see = PEEPHOLES[peepholes](table, hidden, dtype)
    split = partial(jnp.split, indices_or_sections=len(learned), axis=-1)
    update, output = UPDATES[table.update], ACTIVATIONS[table.output]
    clip = (lambda c: jnp.clip(c, -cell_clip, cell_clip)) if cell_clip else (lambda c: c)
    fresh = jnp.ones if table.update == "multiply" else jnp.zeros

    def init(key, in_features):
        k_kernels, k_bias, k_peep = jax.random.split(key, 3)
        params = kernels(
            k_kernels, (in_features, learned, kernel_init), (hidden, recurrent, recurrent_init)
        )
        params["bias"] = bias(forget_bias, k_bias, learned, hidden)
        widths = (len(learned) * hidden, len(recurrent) * hidden, hidden)
        return params | see.init(k_peep) | norm.init(*widths)

    def initial_carry(params, batch_shape):
        dtype = params["kernel"].dtype
        return Carry(fresh((*batch_shape, hidden), dtype), jnp.zeros((*batch_shape, hidden), dtype))

    def project(params, xs, keys=None):
        return norm.kernel(params, dot(xs, params["kernel"], dtype)) + params["bias"]

    def recur(params, carry):
        r = dot(carry.h, params["recurrent_kernel"], dtype)
        return Recurrent(r, see.wide(params, carry.c))

    def merge(params, step, r):
        z, _, weights = notes_of(step)
        z = z + spread(norm.recurrent(params, r.h), recurrent, learned)
        return (weigh(z if r.c is None else z + r.c, weights),)

    def settle(params, carry, step, blocks):
        _, keep, weights = notes_of(step)
        z, rows = dict(zip(learned, blocks, strict=True)), see.rows(params)
        weight = dict(zip(learned, [None] * 4 if weights is None else split(weights), strict=False))

        def gates(names, c):
            seen = {k: z[k] + weigh(rows[k] * c, weight[k]) for k in names if k in rows}
            return gate_values(table, names, z | seen, see.late)

        opened = gates("ifg", carry.c)
        c = update(opened["f"], carry.c, opened["i"], keep * opened["g"])
        c = held(norm.carried(params, clip(c)))
        return opened | gates("o", c), c

    def close(params, carry, step, blocks):
        gates, c = settle(params, carry, step, blocks)
        h = gates["o"] * output(norm.branch(params, c))
        return Carry(c, h), h

    def gates_(params, carry, step, blocks):
        gates, c = settle(params, carry, step, blocks)
        return {name: jnp.broadcast_to(gate, c.shape) for name, gate in gates.items()}

    opens = (opening(table, see.late),)
    advance, opened, apart = from_parts(merge, opens, close, gates_, norm.own)
    plain = (peepholes, layer_norm, cell_clip, dtype) == ("none", "none", 0.0, None)
    plain = plain and recurrent == learned
    spec = Spec("lstm", hidden, ("c", "h"), learned, table, plain, dtype=dtype)
    return Cell(init, initial_carry, project, recur, advance, opened, spec=spec, apart=apart)


class FullGateCarry(NamedTuple):
    """The LSTM's c and h, and the gates it opened to get there."""

    c: Array
    h: Array
    i: Array
    f: Array
    o: Array


def lstm_fgr(hidden: int, *, recurrent_init: str = "per_gate", **options: Any) -> Cell:
    """LSTM with full gate recurrence: the last i, f and o feed every gate.

        z_k = x W_k + h R_k + [i f o] G_k + b_k      for k = i, f, o; z_g as in `lstm`
        c' = f * c + i * g
        h' = o * tanh(c')

    `gate_kernel` is G [3H, 3H], rows i f o, columns i f o. Takes the options of `lstm`.

    Source: Greff et al. (2017), section III, FGR; the first LSTM, Hochreiter & Schmidhuber (1997).
    """
    cell = lstm(hidden, recurrent_init=recurrent_init, **options)
    inner, learned = cell.apart, cell.spec.learned
    if inner is None or cell.spec.table is None or learned != ("i", "f", "g", "o"):
        raise UsageError(
            f"lstm_fgr with gates={options.get('gates', 'lstm')!r}: full gate recurrence feeds "
            "learned i, f and o back, without exp; choose gates='lstm' or cell 'lstm'"
        )
    feeds = ("i", "f", "o")

    def init(key, in_features):
        k_cell, k_gates = jax.random.split(key)
        draw = kernels(k_gates, (3 * hidden, feeds, "glorot"), (hidden, feeds, "zeros"))
        return cell.init(k_cell, in_features) | {"gate_kernel": draw["kernel"]}

    def initial_carry(params, batch_shape):
        c, h = cell.initial_carry(params, batch_shape)
        return FullGateCarry(c, h, *(jnp.zeros_like(h) for _ in feeds))

    def recur(params, carry):
        gates = jnp.concatenate([carry.i, carry.f, carry.o], axis=-1)
        fed = spread(dot(gates, params["gate_kernel"], options.get("dtype")), feeds, learned)
        r = cell.recur(params, carry)
        return r._replace(c=fed if r.c is None else fed + r.c)

    def close(params, carry, step, blocks):
        (c, h), y = inner.close(params, carry, step, blocks)
        gates = inner.gates(params, carry, step, blocks)
        return FullGateCarry(c, h, gates["i"], gates["f"], gates["o"]), y

    advance, opened, apart = from_parts(inner.merge, inner.opens, close, inner.gates, inner.own)
    spec = cell.spec._replace(name="lstm_fgr", carry=FullGateCarry._fields, table=None, plain=False)
    return Cell(init, initial_carry, cell.project, recur, advance, opened, spec=spec, apart=apart)


def rnn(
    hidden: int,
    *,
    activation: str = "tanh",
    kernel_init: str = "glorot",
    recurrent_init: str = "per_gate",
    dtype: Any = None,
) -> Cell:
    """The simple recurrent network.

        h' = tanh(x W + h R + b)

    `activation="relu", recurrent_init="identity"` is the IRNN of Le, Jaitly & Hinton (2015).

    Source: Elman (1990).
    """
    check_hidden(hidden, kernel_init, recurrent_init)
    activation = activation_name("activation", activation)
    squash = late(activation)

    def init(key, in_features):
        names = ("h",)
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        return params | {"bias": jnp.zeros((hidden,))}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"], dtype)

    def merge(params, step, r):
        z, _, weights = notes_of(step)
        return (weigh(z + r, weights),)

    def close(params, carry, step, blocks):
        h = notes_of(step)[1] * squash(blocks[0])
        return Hidden(h), h

    opens = ((early(activation),),)
    advance, opened, apart = from_parts(merge, opens, close, lambda params, carry, step, blocks: {})
    spec = Spec("rnn", hidden, ("h",), ("h",))
    init_h = hidden_carry(hidden)
    return Cell(init, init_h, project, recur, advance, opened, spec=spec, apart=apart)


def indrnn(
    hidden: int, *, activation: str = "relu", kernel_init: str = "glorot", dtype: Any = None
) -> Cell:
    """Independently recurrent network: every unit sees only itself.

        h' = relu(x W + u * h + b)

    u is `recurrent_kernel` [H], drawn from U(0, 1).

    Source: Li et al. (2018), eq. 2.
    """
    cell = rnn(hidden, activation=activation, kernel_init=kernel_init, dtype=dtype)

    def init(key, in_features):
        k_cell, k_u = jax.random.split(key)
        return cell.init(k_cell, in_features) | {
            "recurrent_kernel": jax.random.uniform(k_u, (hidden,))
        }

    def recur(params, carry):
        return params["recurrent_kernel"] * carry.h

    spec = cell.spec._replace(name="indrnn")
    return cell._replace(init=init, recur=recur, spec=spec)


CELLS: dict[str, Callable[..., Cell]] = {
    "lstm": lstm,
    "lstm_fgr": lstm_fgr,
    "gru": gru,
    "mgu": mgu,
    "rnn": rnn,
    "indrnn": indrnn,
    "slstm": slstm,
    "minlstm": minlstm,
    "mingru": mingru,
}
