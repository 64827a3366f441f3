"""How many kernels a time step of a layer launches on an H100, counted in what XLA compiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from aot import hlo, topology

import lstm_jax
from lstm_jax.cells import lstm
from lstm_jax.ops import tracing_for

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif("cuda" not in topology.installed(), reason="XLA for CUDA is not installed"),
]

T, B, D, H = 128, 64, 128, 512
# (forward, backward), at most; `chunked` runs forward once more, before it runs backward.
KERNELS = {
    "scan": (15, 8),
    "deferred": (4, 6),
    "deferred:bfloat16": (5, 6),
    "chunked": (4, 6, 4),
}


def made(engine: str):
    """The gradient of a layer, compiled for one GPU."""
    cell, device = lstm(H), topology.devices("cuda")[0]
    place = jax.sharding.SingleDeviceSharding(device)

    def like(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=place)

    def loss(params, xs):
        return jnp.sum(lstm_jax.unroll(cell, params, xs, engine=engine)[1] ** 2)

    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((T, B, D), jnp.float32)
    with jax.default_device(device), tracing_for("gpu"):
        traced = jax.jit(jax.grad(loss, (0, 1))).trace(jax.tree.map(like, params), like(xs))
        return traced.lower(lowering_platforms=("cuda",)).compile()


@pytest.mark.parametrize("engine", KERNELS)
def test_kernels_a_step(engine):
    found = hlo.kernels(made(engine).as_text() or "")
    assert len(found) == len(KERNELS[engine])
    assert all(n <= most for n, most in zip(found, KERNELS[engine], strict=True)), found
