"""Every cell, gate row, option and transform in every engine, lowered for TPU and CUDA.

No compiler of theirs is needed for that, and no device.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
import registry
from registry import B, D, T

import lstm_jax
from lstm_jax.engines import ENGINES, native
from lstm_jax.engines.native import build
from lstm_jax.ops import tracing_for

pytestmark = pytest.mark.aot

PLATFORMS = ("tpu", "cuda")
# A GPU has to be there for `jax.experimental.rnn`: it asks cuDNN how much room a call needs.
ELSEWHERE = ("cudnn", "pallas")  # test_pallas.py compiles those kernels


def serves(engine: str, case: registry.Case) -> bool:
    if engine == "associative":
        return case.build().info.linear is not None
    if engine == "chunked":
        return case in registry.CHUNKED
    if engine == "native":
        return case in registry.PLAIN and not build.missing() and not native.refusal(case.build())
    return engine not in ELSEWHERE


def programs(case: registry.Case, engine: str) -> Any:
    """(forward, gradient, gradient with every mark) of one run of the cell."""
    cell, keys = case.build(), registry.keys_of(case)

    def forward(params, xs, **marks):
        return lstm_jax.unroll(cell, params, xs, key=keys, engine=engine, **marks)

    def loss(params, xs, marks):
        carry, ys = forward(params, xs, **marks)
        return (ys**2).sum() + sum(jnp.tanh(leaf).sum() for leaf in jax.tree.leaves(carry))

    def all_three(params, xs, marks):
        slope = jax.grad(loss, (0, 1))
        return forward(params, xs), slope(params, xs, {}), slope(params, xs, marks)

    return all_three


def shapes(case: registry.Case) -> tuple:
    cell = case.build()
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    flags = jax.ShapeDtypeStruct((T, B), jnp.bool_)
    marks = {"lengths": jax.ShapeDtypeStruct((B,), jnp.int32), "mask": flags, "resets": flags}
    return params, jax.ShapeDtypeStruct((T, B, D), jnp.float32), marks


CASES = [(case, engine) for case in registry.CASES for engine in ENGINES if serves(engine, case)]


@pytest.mark.parametrize(("case", "engine"), CASES, ids=str)
def test_lowers(case, engine):
    """The plain cells with no platform handed down: as a user of this host exports them."""
    with tracing_for("" if case in registry.PLAIN else "tpu"):
        traced = jax.jit(programs(case, engine)).trace(*shapes(case))
    for platform in PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "lstm_jax_native" not in text, "compiled code of this host's"
