"""A program is that of the platform that it is lowered for, wherever it is traced."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import export

import lstm_jax
from lstm_jax.cells import lstm
from lstm_jax.engines import cudnn, deferred, native
from lstm_jax.engines.layouts import in_order
from lstm_jax.engines.native import build
from lstm_jax.ops import by_platform, traced_for, tracing_for
from lstm_jax.testing import QUICK, close

T, B, D, H = 12, 4, 3, 8


@pytest.fixture
def every_way(monkeypatch):
    """Small sizes take all the ways that large ones take on a CPU."""
    monkeypatch.setattr(deferred, "room", lambda: 2 * B * 4 * H)
    monkeypatch.setattr(deferred, "WHOLE", 1)
    monkeypatch.setattr(deferred, "LARGE", 1)


def gradient(engine: str) -> Any:
    cell = lstm(H)

    def loss(params, xs):
        return (lstm_jax.unroll(cell, params, xs, engine=engine)[1] ** 2).sum()

    return jax.grad(loss, (0, 1))


def operations(function: Any, platform: str) -> Counter[str]:
    """The operations of the exported program."""
    params = jax.eval_shape(lambda key: lstm(H).init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((T, B, D), jnp.float32)
    found = export.export(jax.jit(function), platforms=[platform])(params, xs)
    return counted(found.mlir_module())


def counted(text: str) -> Counter[str]:
    """What computes: of the way that is not taken there are constants left, which nothing reads."""
    found = re.findall(r"stablehlo\.(\w+)", text)
    names = "while", "dot_general", "tanh", "transpose", "dynamic_slice", "custom_call"
    return Counter(name for name in found if name in (*names, "optimization_barrier"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["deferred", "scan"])
def test_exported_on_a_cpu_for_a_tpu_it_is_the_tpus(engine, every_way):
    function = gradient(engine)
    exported = {p: operations(function, p) for p in ("cpu", "tpu", "cuda")}
    alone = {p: operations(traced_for(p, function), p) for p in ("cpu", "tpu")}
    for platform, found in alone.items():
        assert exported[platform] == found
    assert exported["tpu"] == exported["cuda"]
    if engine == "deferred":
        # A CPU's has loops over blocks of steps around those over time.
        assert (exported["cpu"]["while"], exported["tpu"]["while"]) == (4, 2)


@pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "it compiles")
def test_compiled_code_stays_on_the_cpu(monkeypatch):
    monkeypatch.setenv("LSTM_JAX_NATIVE", "1")
    function = gradient("auto")
    shapes = jax.eval_shape(lambda key: lstm(H).init(key, D), jax.random.key(0))
    traced = jax.jit(function).trace(shapes, jax.ShapeDtypeStruct((T, B, D), jnp.float32))
    texts = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu")}
    assert "lstm_jax_native" in texts["cpu"] and "lstm_jax_native" not in texts["tpu"]
    found = counted(texts["tpu"])
    assert found.pop("custom_call"), "layouts, which an export leaves to the compiler"
    assert found == operations(traced_for("tpu", gradient("deferred")), "tpu")


@pytest.mark.slow
def test_a_gradient_by_the_way_of_another_platform(every_way):
    """On this host, as what an accelerator runs: the same numbers."""
    params, xs = lstm(H).init(jax.random.key(0), D), jax.random.normal(jax.random.key(1), (T, B, D))
    ways = (traced_for(p, gradient("deferred")) for p in ("cpu", "tpu"))
    here, there = (jax.jit(way, compiler_options=QUICK)(params, xs) for way in ways)
    close(here, there, 1e-5)


def test_the_platform_that_is_handed_down_decides():
    def way(x):
        return by_platform(lambda x: x + 1, lambda x: x - 1, x)

    assert (way(0), jax.jit(way)(0)) == (1, 1)
    with tracing_for("tpu"):
        assert way(0) == -1
        assert native.place() == "it runs on a CPU and this is tpu"
        assert "needs an NVIDIA GPU and this is tpu" in cudnn.refusal(lstm(H), None)
    with tracing_for("gpu"):
        assert not cudnn.refusal(lstm(H), None)
    assert way(0) == 1


def test_an_axis_that_devices_share_is_not_laid_out():
    """The compiler would gather it: in a layout there is no such axis."""
    x = jax.ShapeDtypeStruct((2, T, B, H), jnp.float32)
    found = []
    for name in (None, "data"):
        run = jax.jit(jax.vmap(in_order, spmd_axis_name=name))
        text = run.trace(x).lower(lowering_platforms=("tpu",)).as_text()
        found.append(text.count("LayoutConstraint"))
    assert found == [1, 0]
