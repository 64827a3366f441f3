"""Layer normalisation inside an LSTM: of x W, of h R, and of c'."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Params


class Norm(NamedTuple):
    """Where normalisation acts; each function is (params, x) -> x."""

    init: Callable[[int, int, int], Params]  # widths of x W, h R and c
    kernel: Callable[[Params, Array], Array]
    recurrent: Callable[[Params, Array], Array]
    carried: Callable[[Params, Array], Array]  # c' before it is carried on
    branch: Callable[[Params, Array], Array]  # c' on its way to h


def _keep(params: Params, x: Array) -> Array:
    return x


@jax.custom_jvp
def _standard(x: Array) -> Array:
    """x of mean 0 and variance 1 along the last axis."""
    return _standardise(x)[0]


def _standardise(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred * scale, scale


@_standard.defjvp
def _standard_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """dy = scale * (dx - mean(dx) - y * mean(y * dx)): two sums on the way back, too."""
    (y, scale), (dx,) = _standardise(*primals), tangents
    return y, scale * (dx - dx.mean(-1, keepdims=True) - y * (y * dx).mean(-1, keepdims=True))


def _init(kernel: int, recurrent: int, cell: int) -> Params:
    return {
        "kernel_scale": jnp.ones((kernel,)),
        "recurrent_scale": jnp.ones((recurrent,)),
        "cell_scale": jnp.ones((cell,)),
        "cell_shift": jnp.zeros((cell,)),
    }


def _kernel(params: Params, x: Array) -> Array:
    return params["kernel_scale"] * _standard(x)


def _recurrent(params: Params, x: Array) -> Array:
    return params["recurrent_scale"] * _standard(x)


def _cell(params: Params, c: Array) -> Array:
    return params["cell_scale"] * _standard(c) + params["cell_shift"]


LAYER_NORMS: dict[str, Norm] = {
    "none": Norm(lambda kernel, recurrent, cell: {}, _keep, _keep, _keep, _keep),
    "branch": Norm(_init, _kernel, _recurrent, _keep, _cell),  # Ba, Kiros & Hinton (2016)
    "recirculated": Norm(_init, _kernel, _recurrent, _cell, _keep),  # tensorflow-addons
}
