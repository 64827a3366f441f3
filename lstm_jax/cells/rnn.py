"""The simple recurrent networks, written like the cells of `lstm.py`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells.activations import activation_name
from lstm_jax.cells.gates import Learned
from lstm_jax.cells.initializers import check_hidden, hidden_carry, kernels
from lstm_jax.core import Cell, Hidden, Info, constructor
from lstm_jax.ops import dot


@constructor
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

    def init(key, in_features):
        names = ("h",)
        params = kernels(key, (in_features, names, kernel_init), (hidden, names, recurrent_init))
        return params | {"bias": jnp.zeros((hidden,))}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"], dtype) + params["bias"]

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"], dtype)

    def merge(params, z, r):
        return z + r

    def update(params, carry, gate):
        h = gate("h")
        return Hidden(h), h

    gates = (("h", Learned(activation)),)
    info = Info("rnn", hidden, ("h",), gates, (("h",),), dtype=dtype)
    return Cell(init, hidden_carry(hidden), project, recur, merge, update, info=info)


@constructor
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
        recurrent = {"recurrent_kernel": jax.random.uniform(k_u, (hidden,))}
        return cell.init(k_cell, in_features) | recurrent

    def recur(params, carry):
        return params["recurrent_kernel"] * carry.h

    return cell._replace(init=init, recur=recur, info=cell.info._replace(name="indrnn"))


CELLS = {"rnn": rnn, "indrnn": indrnn}
