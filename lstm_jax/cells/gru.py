"""Cells whose output is their memory, kept by a gate: GRU and MGU.

Written like the cells of `lstm.py`, with its legend.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from lstm_jax.cells.activations import GATE_ACTIVATIONS, activation_name
from lstm_jax.cells.gates import Gate, Learned
from lstm_jax.cells.initializers import check_hidden, hidden_carry, kernels
from lstm_jax.core import Cell, Hidden, Info, constructor
from lstm_jax.errors import lookup
from lstm_jax.ops import dot


@constructor
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
    after = lookup("reset", reset, {"after": True, "before": False})
    gates = _gates(("r", "z", "n"), gate_activation, candidate_activation)

    def init(key, in_features):
        names = ("r", "z", "n")
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        params["bias"] = jnp.zeros((3 * hidden,))
        return params | ({"recurrent_bias": jnp.zeros((hidden,))} if after else {})

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        seen = params["recurrent_kernel"] if after else params["recurrent_kernel"][:, : 2 * hidden]
        return dot(carry.h, seen, dtype)

    def merge(params, z, r):
        z_gates, z_n = jnp.split(z, [2 * hidden], axis=-1)
        r_gates, r_n = jnp.split(r, [2 * hidden], axis=-1)
        return (z_gates + r_gates, z_n, r_n) if after else (z_gates + r_gates, z_n)

    def reset_after(params, h, gate):
        return gate("r") * (gate.raw("h R_n") + params["recurrent_bias"])

    def reset_before(params, h, gate):
        return dot(gate("r") * h, params["recurrent_kernel"][:, 2 * hidden :], dtype)

    seen_by_n = reset_after if after else reset_before

    def update(params, carry, gate):
        h, z = carry.h, gate("z")
        n = gate.open("n", seen_by_n(params, h, gate))
        h = (1.0 - z) * n + z * h
        return Hidden(h), h

    blocks = (("r", "z"), ("n",), *([("h R_n",)] if after else []))
    info = Info("gru", hidden, ("h",), gates, blocks, ("n",), pointwise=after, dtype=dtype)
    return Cell(init, hidden_carry(hidden), project, recur, merge, update, info=info)


def _gates(names: tuple[str, ...], activation: str, candidate: str) -> tuple[tuple[str, Gate], ...]:
    """The gates of those names, the candidate last."""
    activation = activation_name("gate activation", activation, GATE_ACTIVATIONS)
    candidate = activation_name("candidate activation", candidate, GATE_ACTIVATIONS)
    *gates, last = names
    return (*((name, Learned(activation)) for name in gates), (last, Learned(candidate)))


@constructor
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
    gates = _gates(("f", "n"), gate_activation, candidate_activation)

    def init(key, in_features):
        names = ("f", "n")
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        return params | {"bias": jnp.zeros((2 * hidden,))}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"][:, :hidden], dtype)

    def merge(params, z, r):
        z_f, z_n = jnp.split(z, 2, axis=-1)
        return z_f + r, z_n

    def update(params, carry, gate):
        h, f = carry.h, gate("f")
        n = gate.open("n", dot(f * h, params["recurrent_kernel"][:, hidden:], dtype))
        h = (1.0 - f) * h + f * n
        return Hidden(h), h

    info = Info(
        "mgu", hidden, ("h",), gates, (("f",), ("n",)), ("n",), pointwise=False, dtype=dtype
    )
    return Cell(init, hidden_carry(hidden), project, recur, merge, update, info=info)


CELLS = {"gru": gru, "mgu": mgu}
