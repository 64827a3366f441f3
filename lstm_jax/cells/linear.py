"""Cells whose gates do not see h: linear in the carry, so that all T steps can run at once.

Written like the cells of `lstm.py`, with its legend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from lstm_jax.cells.gates import Gate, Learned
from lstm_jax.cells.initializers import bias, check_bias, check_hidden, hidden_carry, kernels
from lstm_jax.core import Cell, Hidden, Info, constructor
from lstm_jax.ops import dot


@constructor
def minlstm(
    hidden: int, *, forget_bias: Any = 1.0, kernel_init: str = "glorot", dtype: Any = None
) -> Cell:
    """Minimal LSTM: gates that see only x, so all T steps at once. Gates in the order i f g.

        i = s(x W_i + b_i)      f = s(x W_f + b_f)      g = x W_g + b_g
        h' = f / (f + i) * h + i / (f + i) * g

    Source: Feng et al. (2024), section 3.2.
    """

    def linear(gate):
        # f / (f + i), also where both underflow.
        odds = jax.nn.log_sigmoid(gate.raw("f")) - jax.nn.log_sigmoid(gate.raw("i"))
        return jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds) * gate("g")

    gates = (("i", Learned()), ("f", Learned()), ("g", Learned("identity")))
    info = Info("minlstm", hidden, ("h",), gates, (("i", "f", "g"),), ("i", "f"))
    return _linear(info._replace(linear=linear, dtype=dtype), forget_bias, kernel_init)


@constructor
def mingru(hidden: int, *, kernel_init: str = "glorot", dtype: Any = None) -> Cell:
    """Minimal GRU: a gate that sees only x, so all T steps at once. Gates in the order z n.

        z = s(x W_z + b_z)      n = x W_n + b_n
        h' = (1 - z) * h + z * n

    Source: Feng et al. (2024), section 3.1.
    """

    def linear(gate):
        z = gate("z")
        return 1.0 - z, z * gate("n")

    gates: tuple[tuple[str, Gate], ...] = (("z", Learned()), ("n", Learned("identity")))
    info = Info("mingru", hidden, ("h",), gates, (("z", "n"),), linear=linear, dtype=dtype)
    return _linear(info, 0.0, kernel_init)


def _linear(info: Info, forget_bias: Any, kernel_init: str) -> Cell:
    """The cell h' = a * h + b with (a, b) = linear(gate)."""
    hidden, names, dtype = info.hidden, info.learned, info.dtype
    check_hidden(hidden, kernel_init)
    check_bias(forget_bias)
    linear: Callable = info.linear  # type: ignore[assignment]

    def init(key, in_features):
        k_kernel, k_bias = jax.random.split(key)
        inputs = (in_features, names, kernel_init)
        kernel = kernels(k_kernel, inputs, (hidden, (), "zeros"))["kernel"]
        return {"kernel": kernel, "bias": bias(forget_bias, k_bias, names, hidden)}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return ()

    def merge(params, z, r):
        return z

    def update(params, carry, gate):
        a, b = linear(gate)
        h = a * carry.h + b
        return Hidden(h), h

    return Cell(init, hidden_carry(hidden), project, recur, merge, update, info=info)


CELLS = {"minlstm": minlstm, "mingru": mingru}
