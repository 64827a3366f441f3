"""The seven laws of a cell, over every row of the registry, and on cells that break them.

The laws stand in `lstm_jax.testing`, where anybody's cell is held to them. One compiled function a
case serves most of them: what differs between them is data. LAWS=6 runs every sixth case.
"""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import pytest
import registry

from lstm_jax.engines import deferred, native, residuals
from lstm_jax.engines.native import build
from lstm_jax.engines.pallas import kernel
from lstm_jax.ops import tracing_for
from lstm_jax.testing import close, laws, poisoned

pytestmark = pytest.mark.usefixtures("strict_types")

B = registry.B


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def unkept():
    """No program here is compiled twice: to keep it would take longer than it saves."""
    name = "jax_persistent_cache_min_compile_time_secs"
    usual = getattr(jax.config, name)
    jax.config.update(name, 60.0)
    yield
    jax.config.update(name, usual)


@pytest.mark.parametrize("case", registry.CASES[:: int(os.environ.get("LAWS", 1))], ids=str)
def test_laws(case, subtests, monkeypatch):
    lab = registry.lab_of(case)
    for name, law in laws(lab, registry.engines(case)):
        with subtests.test(name):
            law()
    if case in registry.KERNELS:
        with subtests.test("law 7: a kernel agrees with scan"):
            law_kernels(lab, monkeypatch)
    if case in registry.KEPT:
        with subtests.test("law 7: what a GPU keeps"):
            law_kept(lab, monkeypatch)


def law_kernels(lab, monkeypatch):
    """Engine `pallas` as JAX's operations: values and gradients, NaN in the padding."""
    monkeypatch.setattr(kernel, "INTERPRET", True)
    monkeypatch.setattr(kernel.room, "LARGEST", 2)
    found = lab.graded("pallas")(*poisoned(lab.data))
    close(found, lab.found, 1e-9, "((carry, ys), gradients)")


def law_kept(lab, monkeypatch):
    """Engine `deferred` as on a GPU, every carry and gate of a step in one array."""
    monkeypatch.setitem(residuals.KEPT, "bfloat16", jnp.float64)
    with tracing_for("gpu"):
        found = lab.graded("deferred:bfloat16")(*poisoned(lab.data))
    close(found, lab.found, 1e-9, "((carry, ys), gradients)")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [c for c in registry.CASES[::4] if c not in registry.KEPT], ids=str
)
def test_what_other_variants_keep(case, monkeypatch):
    law_kept(registry.lab_of(case), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("case", registry.covering(but=registry.KERNELS), ids=str)
def test_kernels_of_every_variant(case, monkeypatch):
    law_kernels(registry.lab_of(case), monkeypatch)


UNKEYED = [case for case in registry.CASES if not case.keyed]


@pytest.mark.parametrize("case", UNKEYED, ids=str)
def test_native_serves_all_but_further_products(case):
    if why := build.missing():
        pytest.skip(why)
    with jax.enable_x64(False):
        assert bool(native.refusal(case.build())) == registry.beyond_native(case)


EVERY_MARK = ("lengths", "mask", "resets")
BACKWARDS = [
    ("lstm", ()),
    ("lstm", EVERY_MARK),
    ("lstm-gates=janet", ("lengths",)),
    ("slstm", EVERY_MARK),
    ("minlstm", ()),
    ("minlstm", EVERY_MARK),
]


@pytest.mark.parametrize(("name", "marks"), BACKWARDS, ids=str)
def test_engines_agree_in_reverse(name, marks, subtests, monkeypatch):
    steps = 2 * B * 3 * registry.H  # two or three steps a block
    monkeypatch.setattr(deferred, "room", lambda: steps)
    monkeypatch.setattr(deferred, "WHOLE", 1)
    lab = registry.lab_of(registry.by_name[name])
    given = [getattr(lab.data, mark) for mark in marks]
    expected = lab.graded("scan", marks, reverse=True)(*lab.data[:3], *given)
    for engine in ("deferred", "chunked:4", "associative"):
        if engine == "associative" and lab.cell.info.linear is None:
            continue
        with subtests.test(engine):
            run = lab.graded(engine, marks, reverse=True)
            close(run(*lab.data[:3], *given), expected, 1e-9)
