"""Cells whose gates do not see h: linear in the carry, so that all T steps can run at once.

Written like the cells of `cells.py`, with its legend.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.core import Cell, Hidden, Spec, dot
from lstm_jax.parts import bias, check_bias, check_hidden, hidden_carry, kernels, notes_of, weigh


def minlstm(
    hidden: int, *, forget_bias: Any = 1.0, kernel_init: str = "glorot", dtype: Any = None
) -> Cell:
    """Minimal LSTM: gates that see only x, so all T steps at once. Gates in the order i f g.

        i = s(x W_i + b_i)      f = s(x W_f + b_f)      g = x W_g + b_g
        h' = f / (f + i) * h + i / (f + i) * g

    Source: Feng et al. (2024), section 3.2.
    """

    def linear(params, step):
        z_i, z_f, g, keep = blocks(step)
        # f / (f + i), also where both underflow.
        odds = jax.nn.log_sigmoid(z_f) - jax.nn.log_sigmoid(z_i)
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * keep * g

    def blocks(step):
        z, keep, weights = notes_of(step)
        return *jnp.split(weigh(z, weights), 3, axis=-1), keep

    def opened(step):
        z_i, z_f, g, keep = blocks(step)
        return {"i": jax.nn.sigmoid(z_i), "f": jax.nn.sigmoid(z_f), "g": g}, keep

    return _blind(
        "minlstm", hidden, ("i", "f", "g"), forget_bias, kernel_init, dtype, linear, opened
    )


def mingru(hidden: int, *, kernel_init: str = "glorot", dtype: Any = None) -> Cell:
    """Minimal GRU: a gate that sees only x, so all T steps at once. Gates in the order z n.

        z = s(x W_z + b_z)      n = x W_n + b_n
        h' = (1 - z) * h + z * n

    Source: Feng et al. (2024), section 3.1.
    """

    def linear(params, step):
        gates, keep = opened(step)
        return 1.0 - gates["z"], gates["z"] * keep * gates["n"]

    def opened(step):
        z, keep, weights = notes_of(step)
        z = weigh(z, weights)
        return {"z": jax.nn.sigmoid(z[..., :hidden]), "n": z[..., hidden:]}, keep

    return _blind("mingru", hidden, ("z", "n"), 0.0, kernel_init, dtype, linear, opened)


def _blind(name, hidden, names, forget_bias, kernel_init, dtype, linear, opened) -> Cell:
    """A cell whose gates do not see h: h' = a * h + b with (a, b) = linear(params, step)."""
    check_hidden(hidden, kernel_init)
    check_bias(forget_bias)

    def init(key, in_features):
        k_kernel, k_bias = jax.random.split(key)
        inputs = (in_features, names, kernel_init)
        kernel = kernels(k_kernel, inputs, (hidden, (), "zeros"))["kernel"]
        return {"kernel": kernel, "bias": bias(forget_bias, k_bias, names, hidden)}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return ()

    def advance(params, carry, step, r):
        a, b = linear(params, step)
        h = a * carry.h + b
        return Hidden(h), h

    def gates(params, carry, step, r):
        return opened(step)[0]

    spec = Spec(name, hidden, ("h",), names, linear=linear)
    return Cell(init, hidden_carry(hidden), project, recur, advance, gates, spec=spec)
