"""The cells, each written like its equations.

Every constructor takes `hidden` and keyword options and returns a `Cell`. Shapes by the legend in
`core.py`: x is one step of the input [B, D], h the last output [B, H]; W is `kernel` [D, N*H], R is
`recurrent_kernel` [H, N*H], b is `bias` [N*H], one block of H columns a learned gate, in the order
in which the gates are listed. `*` is elementwise, s the logistic sigmoid, ' marks the new value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.blind import mingru, minlstm
from lstm_jax.core import Array, Carry, Cell, Hidden, Spec, UsageError, dot, lookup
from lstm_jax.exponential import slstm, stabilised
from lstm_jax.gates import (
    ACTIVATIONS,
    GATE_ACTIVATIONS,
    UPDATES,
    GateTable,
    gate_table,
)
from lstm_jax.parts import (
    LAYER_NORMS,
    PEEPHOLES,
    bias,
    check_clip,
    check_forget_bias,
    check_hidden,
    check_peepholes,
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
        r = norm.recurrent(params, dot(carry.h, params["recurrent_kernel"], dtype))
        return see.recur(params, carry.c, spread(r, recurrent, learned))

    def opened(params, carry, step, r):
        z, keep, weights = notes_of(step)

        def remember(i, f, g):
            return norm.carried(params, clip(update(f, carry.c, i, keep * g)))

        return see.opened(params, carry.c, z + r, weights, remember)

    def advance(params, carry, step, r):
        gates, c = opened(params, carry, step, r)
        h = gates["o"] * output(norm.branch(params, c))
        return Carry(c, h), h

    def gates_(params, carry, step, r):
        gates, c = opened(params, carry, step, r)
        return {name: jnp.broadcast_to(gate, c.shape) for name, gate in gates.items()}

    plain = (peepholes, layer_norm, cell_clip, dtype) == ("none", "none", 0.0, None)
    plain = plain and recurrent == learned
    spec = Spec("lstm", hidden, ("c", "h"), learned, table, plain, dtype=dtype)
    return Cell(init, initial_carry, project, recur, advance, gates_, spec=spec)


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
    if cell.spec.table is None or cell.spec.learned != ("i", "f", "g", "o"):
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
        fed = dot(gates, params["gate_kernel"], options.get("dtype"))
        return cell.recur(params, carry) + spread(fed, feeds, cell.spec.learned)

    def advance(params, carry, step, r):
        (c, h), y = cell.advance(params, carry, step, r)
        gates = cell.gates(params, carry, step, r)
        return FullGateCarry(c, h, gates["i"], gates["f"], gates["o"]), y

    spec = cell.spec._replace(name="lstm_fgr", carry=FullGateCarry._fields, table=None, plain=False)
    return cell._replace(
        init=init, initial_carry=initial_carry, recur=recur, advance=advance, spec=spec
    )


def gru(
    hidden: int,
    *,
    reset: str = "after",
    gate_activation: str = "sigmoid",
    candidate_activation: str = "tanh",
    kernel_init: str = "glorot",
    recurrent_init: str = "per_gate",
    dtype: Any = None,
) -> Cell:
    """Gated recurrent unit, gates in the order r z n.

        r = s(x W_r + h R_r + b_r)
        z = s(x W_z + h R_z + b_z)
        n = tanh(x W_n + r * (h R_n + a) + b_n)        reset="after" (torch, keras, cuDNN)
        n = tanh(x W_n + (r * h) R_n + b_n)            reset="before" (the paper)
        h' = (1 - z) * n + z * h

    a is `recurrent_bias` [H], with reset="after" only.

    Source: Cho et al. (2014), eq. 5-8; reset after: the convention of cuDNN.
    """
    check_hidden(hidden, kernel_init, recurrent_init)
    split = lookup("reset", reset, {"after": 3, "before": 2}) * hidden
    names = ("r", "z", "n")
    squash = _squash(gate_activation, candidate_activation)

    def init(key, in_features):
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        params["bias"] = jnp.zeros((3 * hidden,))
        return params | ({"recurrent_bias": jnp.zeros((hidden,))} if reset == "after" else {})

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"][:, :split], dtype)

    def reset_after(params, h, z_n, r_n, reset):
        return z_n + reset * (r_n + params["recurrent_bias"])

    def reset_before(params, h, z_n, r_n, reset):
        return z_n + dot(reset * h, params["recurrent_kernel"][:, split:], dtype)

    see = {"after": reset_after, "before": reset_before}[reset]

    def opened(params, carry, step, r):
        z, keep, weights = notes_of(step)
        z_gates, z_n = jnp.split(z, [2 * hidden], axis=-1)
        r_gates, r_n = jnp.split(r, [2 * hidden], axis=-1)
        w_gates, w_n = (None, None) if weights is None else jnp.split(weights, [2 * hidden], -1)
        gates = squash.gates(weigh(z_gates + r_gates, w_gates))
        reset, update = jnp.split(gates, 2, axis=-1)
        n = squash.candidate(weigh(see(params, carry.h, z_n, r_n, reset), w_n))
        return {"r": reset, "z": update, "n": n}, keep

    def advance(params, carry, step, r):
        gates, keep = opened(params, carry, step, r)
        h = (1.0 - gates["z"]) * keep * gates["n"] + gates["z"] * carry.h
        return Hidden(h), h

    def gates_(params, carry, step, r):
        return opened(params, carry, step, r)[0]

    spec = Spec("gru", hidden, ("h",), names, pointwise=reset == "after")
    return Cell(init, hidden_carry(hidden), project, recur, advance, gates_, spec=spec)


class Squash(NamedTuple):
    """A cell's two kinds of activation: of its gates, and of its candidate."""

    gates: Callable[[Array], Array]
    candidate: Callable[[Array], Array]


def _squash(gate: str, candidate: str) -> Squash:
    choices = {name: ACTIVATIONS[name] for name in GATE_ACTIVATIONS}
    return Squash(
        lookup("gate activation", gate, choices),
        lookup("candidate activation", candidate, choices),
    )


def mgu(
    hidden: int,
    *,
    gate_activation: str = "sigmoid",
    candidate_activation: str = "tanh",
    kernel_init: str = "glorot",
    recurrent_init: str = "per_gate",
    dtype: Any = None,
) -> Cell:
    """Minimal gated unit: one gate both forgets and resets. Gates in the order f n.

        f = s(x W_f + h R_f + b_f)
        n = tanh(x W_n + (f * h) R_n + b_n)
        h' = (1 - f) * h + f * n

    Source: Zhou et al. (2016), eq. 6.
    """
    check_hidden(hidden, kernel_init, recurrent_init)
    names = ("f", "n")
    squash = _squash(gate_activation, candidate_activation)

    def init(key, in_features):
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        return params | {"bias": jnp.zeros((2 * hidden,))}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"][:, :hidden], dtype)

    def opened(params, carry, step, r):
        z, keep, weights = notes_of(step)
        z_f, z_n = jnp.split(z, 2, axis=-1)
        w_f, w_n = (None, None) if weights is None else jnp.split(weights, 2, axis=-1)
        f = squash.gates(weigh(z_f + r, w_f))
        r_n = dot(f * carry.h, params["recurrent_kernel"][:, hidden:], dtype)
        return {"f": f, "n": squash.candidate(weigh(z_n + r_n, w_n))}, keep

    def advance(params, carry, step, r):
        gates, keep = opened(params, carry, step, r)
        h = (1.0 - gates["f"]) * carry.h + gates["f"] * keep * gates["n"]
        return Hidden(h), h

    def gates_(params, carry, step, r):
        return opened(params, carry, step, r)[0]

    spec = Spec("mgu", hidden, ("h",), names, pointwise=False)
    return Cell(init, hidden_carry(hidden), project, recur, advance, gates_, spec=spec)


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
    squash = lookup("activation", activation, ACTIVATIONS)

    def init(key, in_features):
        names = ("h",)
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        return params | {"bias": jnp.zeros((hidden,))}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"], dtype)

    def advance(params, carry, step, r):
        z, keep, weights = notes_of(step)
        h = keep * squash(weigh(z + r, weights))
        return Hidden(h), h

    def gates_(params, carry, step, r):
        return {}

    spec = Spec("rnn", hidden, ("h",), ("h",))
    return Cell(init, hidden_carry(hidden), project, recur, advance, gates_, spec=spec)


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
