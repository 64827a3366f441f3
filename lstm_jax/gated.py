"""Cells whose output is their memory, kept by a gate: GRU and MGU.

Written like the cells of `cells.py`, with its legend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lstm_jax.core import Array, Cell, Hidden, Spec, dot, lookup
from lstm_jax.gates import ACTIVATIONS, GATE_ACTIVATIONS, activation_name, early, late
from lstm_jax.parts import check_hidden, from_parts, hidden_carry, kernels, notes_of, weigh


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

    def reset_after(params, h, r_n, reset):
        return reset * (r_n + params["recurrent_bias"])

    def reset_before(params, h, r_n, reset):
        return dot(reset * h, params["recurrent_kernel"][:, split:], dtype)

    see = {"after": reset_after, "before": reset_before}[reset]

    def merge(params, step, r):
        z, _, weights = notes_of(step)
        z_gates, z_n = jnp.split(z, [2 * hidden], axis=-1)
        r_gates, r_n = jnp.split(r, [2 * hidden], axis=-1)
        w_gates = None if weights is None else weights[..., : 2 * hidden]
        return weigh(z_gates + r_gates, w_gates), z_n, r_n

    def settle(params, carry, step, blocks):
        _, keep, weights = notes_of(step)
        reset, update, z_n, r_n = blocks
        reset, update = squash.late(reset), squash.late(update)
        w_n = None if weights is None else weights[..., 2 * hidden :]
        n = squash.candidate(weigh(z_n + see(params, carry.h, r_n, reset), w_n))
        return {"r": reset, "z": update, "n": n}, keep

    def close(params, carry, step, blocks):
        gates, keep = settle(params, carry, step, blocks)
        h = (1.0 - gates["z"]) * keep * gates["n"] + gates["z"] * carry.h
        return Hidden(h), h

    def gates_(params, carry, step, blocks):
        return settle(params, carry, step, blocks)[0]

    opens = ((squash.early, squash.early), ("identity",), ("identity",))
    advance, opened, apart = from_parts(merge, opens, close, gates_)
    spec = Spec("gru", hidden, ("h",), names, pointwise=reset == "after")
    init_h = hidden_carry(hidden)
    return Cell(init, init_h, project, recur, advance, opened, spec=spec, apart=apart)


class Squash(NamedTuple):
    """A cell's activations: of its gates, early and what is left for late; of its candidate."""

    early: str
    late: Callable[[Array], Array]
    candidate: Callable[[Array], Array]


def _squash(gate: str, candidate: str) -> Squash:
    gate = activation_name("gate activation", gate, GATE_ACTIVATIONS)
    candidate = activation_name("candidate activation", candidate, GATE_ACTIVATIONS)
    return Squash(early(gate), late(gate), ACTIVATIONS[candidate])


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

    def merge(params, step, r):
        z, _, weights = notes_of(step)
        z_f, z_n = jnp.split(z, 2, axis=-1)
        return weigh(z_f + r, None if weights is None else weights[..., :hidden]), z_n

    def settle(params, carry, step, blocks):
        _, keep, weights = notes_of(step)
        f, z_n = squash.late(blocks[0]), blocks[1]
        w_n = None if weights is None else weights[..., hidden:]
        r_n = dot(f * carry.h, params["recurrent_kernel"][:, hidden:], dtype)
        return {"f": f, "n": squash.candidate(weigh(z_n + r_n, w_n))}, keep

    def close(params, carry, step, blocks):
        gates, keep = settle(params, carry, step, blocks)
        h = (1.0 - gates["f"]) * carry.h + gates["f"] * keep * gates["n"]
        return Hidden(h), h

    def gates_(params, carry, step, blocks):
        return settle(params, carry, step, blocks)[0]

    opens = ((squash.early,), ("identity",))
    advance, opened, apart = from_parts(merge, opens, close, gates_)
    spec = Spec("mgu", hidden, ("h",), names, pointwise=False)
    init_h = hidden_carry(hidden)
    return Cell(init, init_h, project, recur, advance, opened, spec=spec, apart=apart)
