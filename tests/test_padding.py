"""Whatever stands where nothing counts, outputs, losses and gradients are those of zeros there."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import lstm_jax
from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.diagnostics import observe
from lstm_jax.model import model as modules
from lstm_jax.tasks import classify
from lstm_jax.tasks.language import language
from lstm_jax.tasks.music import polyphonic
from lstm_jax.tasks.synthetic import (
    adding,
    copy_memory,
    counting,
    parity,
)
from lstm_jax.tasks.task import Spec, average, label_loss, step_weights, weighed
from lstm_jax.training.program import build_task

T, B, D = 5, 4, 3
FILLS = (np.nan, np.inf, 7.0)
ID_FILLS = (-1, 7, 10**6)
LENGTHS = np.array([5, 3, 1, 0], np.int32)
HOLES = np.array([[m == "1" for m in row] for row in ("11011", "00110", "01000", "00000")]).T
MARKS = {"lengths": LENGTHS, "mask": HOLES}
QUICK = registry.QUICK


def counting_steps(mark: str) -> np.ndarray:
    return HOLES if mark == "mask" else np.arange(T)[:, None] < LENGTHS


def same(a: Any, b: Any) -> None:
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(b))
    jax.tree.map(np.testing.assert_array_equal, a, b)


# The model, over its options -------------------------------------------------------------------

OPTIONS = st.fixed_dictionaries(
    {
        "layers": st.integers(1, 2),
        "residual": st.booleans(),
        "skip": st.booleans(),
        "bidirectional": st.booleans(),
        "merge": st.sampled_from(["concat", "sum", "mul"]),
        "readout": st.sampled_from(["every", "last", "mean"]),
        "encoder": st.sampled_from(["none", "conv", "embedding", "tied"]),
    }
)


@cache
def program(options: tuple) -> tuple:
    """(run, ids): run(inputs, marks) -> (outputs, loss, gradients of parameters), compiled."""
    fields = dict(options)
    readout, encoder = fields.pop("readout"), fields.pop("encoder")
    config = default_config("adding")
    config.cell.update({"hidden": D, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.model.update({"input_noise": 0.1, "dropout": 0.2, "conv_features": (D,), **fields})
    config.model.encoder = "embedding" if encoder == "tied" else encoder
    config.model.embedding, config.model.tied = D, encoder == "tied"
    ids = config.model.encoder == "embedding"
    model = modules.build_model(config, Spec(D, D, ids=ids, readout=readout))
    hyper = resolve(config).hyper
    params = model.init(jax.random.key(0), hyper)

    def loss(params, inputs, marks):
        batch = {"inputs": inputs, **marks}
        outputs, _ = model.apply(params, hyper, batch, None, jax.random.key(1))
        weights = step_weights(marks, T, B) if readout == "every" else jnp.ones(B)
        (counted,) = weighed(weights, outputs)
        return average(jnp.square(counted - 1), weights[..., None]).total, outputs

    graded = jax.value_and_grad(loss, has_aux=True)
    run = jax.jit(lambda *args: graded(params, *args), compiler_options=QUICK)
    return run, ids


@pytest.mark.slow
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking would compile for minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(OPTIONS, st.sampled_from(["lengths", "mask"]))
def test_padded_inputs_reach_nothing(options, mark):
    run, ids = program(tuple(options.items()))
    random, counts = np.random.default_rng(0), counting_steps(mark)
    given = random.integers(0, D, (T, B)) if ids else random.normal(size=(T, B, D))
    given = given.astype(np.int32 if ids else np.float32)
    counts = counts if ids else counts[..., None]
    wanted = run(np.where(counts, given, 0), {mark: MARKS[mark]})
    for fill in ID_FILLS if ids else FILLS:
        spoiled = np.where(counts, given, np.asarray(fill, given.dtype))
        same(run(spoiled, {mark: MARKS[mark]}), wanted)


def test_a_residual_connection_and_the_mean_of_one_step():
    """The smallest case: T=2, B=1, one step that counts and NaN after it."""
    options = {"layers": 1, "residual": True, "readout": "mean", "encoder": "none"}
    run, _ = program(tuple(options.items()))
    xs = np.zeros((T, B, D), np.float32)
    xs[1:] = np.nan
    (loss, outputs), _ = run(xs, {"lengths": np.ones(B, np.int32)})
    assert np.isfinite(loss) and np.isfinite(outputs).all()


# The losses ------------------------------------------------------------------------------------


def drawn(kind: str, shape: tuple, classes: int) -> np.ndarray:
    random = np.random.default_rng(0)
    if kind == "labels":
        return random.integers(0, classes, shape).astype(np.int32)
    return random.integers(0, 2, shape).astype(np.float32)


# name: (loss, what targets are, their shape, classes or outputs)
EVERY = (T, B)
LOSSES: dict[str, tuple] = {
    "copy_memory": (copy_memory.loss, "labels", EVERY, 4),
    "counting": (counting.loss_of(9), "bits", (*EVERY, 3), 3),
    "parity": (parity.loss, "bits", EVERY, 1),
    "language": (language.make_loss(0.1), "labels", EVERY, 4),
    "polyphonic": (polyphonic.loss, "bits", (*EVERY, 88), 88),
    "packed classes": (classify.make_loss(np.ones(4), 0.1), "labels", EVERY, 4),
    "adding": (adding.loss, "bits", (B,), 1),
    "parity, last step": (parity.loss, "bits", (B,), 1),
    "temporal_order, random_data": (label_loss, "labels", (B,), 4),
    "classes": (classify.make_loss(np.ones(4), 0.1), "labels", (B,), 4),
}


WEIGHTS = np.array([1, 1, 0, 0], np.float32)
CASES = [
    (name, mark)
    for name, (_, _, shape, _) in LOSSES.items()
    for mark in (("lengths", "mask", "weights") if shape[:2] == EVERY else ("weights",))
]


@pytest.mark.parametrize("name, mark", CASES)
def test_what_has_no_weight_reaches_no_loss(name, mark):
    loss, kind, shape, size = LOSSES[name]
    marks = {mark: (MARKS | {"weights": WEIGHTS})[mark]}
    counts = WEIGHTS > 0 if mark == "weights" else counting_steps(mark)
    counts = np.broadcast_to(counts, shape[: 2 if shape[:2] == EVERY else 1])
    targets = drawn(kind, shape, size)
    outputs = np.random.default_rng(1).normal(size=(*counts.shape, size)).astype(np.float32)
    graded = jax.jit(
        lambda outputs, batch: jax.value_and_grad(loss, has_aux=True)(outputs, batch | marks),
        compiler_options=QUICK,
    )

    def filled(array: np.ndarray, fill: float) -> np.ndarray:
        where = counts.reshape(*counts.shape, *[1] * (array.ndim - counts.ndim))
        return np.where(where, array, np.asarray(fill, array.dtype))

    wanted = graded(filled(outputs, 0), {"targets": filled(targets, 0)})
    for fill, label in zip(FILLS, ID_FILLS, strict=True):
        spoiled = filled(targets, label if kind == "labels" else fill)
        same(graded(filled(outputs, fill), {"targets": spoiled}), wanted)


@pytest.mark.slow
def test_what_was_not_observed_reaches_no_forecast_loss():
    config = default_config("forecast")
    config.train.batch_size = B
    config.task.horizon = 2
    task = build_task(config)
    batch = task.batch(task.data, jax.random.key(0), jnp.int32(0))
    seen = np.ones((B, 2), bool)
    seen[1, 0] = seen[2, 1] = seen[3] = False
    outputs = np.random.default_rng(1).normal(size=(B, 2)).astype(np.float32)
    graded = jax.jit(jax.value_and_grad(task.loss, has_aux=True), compiler_options=QUICK)

    def run(fill: float):
        spoiled = {k: jnp.where(seen, batch[k], fill) for k in ("targets", "base", "actual")}
        spoiled["observed"] = jnp.asarray(seen, jnp.float32)
        return graded(np.where(seen, outputs, np.float32(fill)), batch | spoiled)

    for fill in FILLS:
        same(run(fill), run(0.0))


# Carries and diagnoses -------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("engine", ["scan", "deferred", "chunked:2", "associative"])
def test_a_carry_that_nobody_reads_reaches_no_gradient(engine, reverse):
    """That of a row without a step that counts, and of one whose first such step is a reset."""
    cell = lstm_jax.cells.minlstm(2) if engine == "associative" else lstm_jax.cells.lstm(2)
    params = registry.random_like(registry.shapes_of(cell), np.random.default_rng(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    features = params["kernel"].shape[0]
    xs = np.random.default_rng(1).normal(size=(T, 3, features)).astype(np.float32)
    mask = np.ones((T, 3), bool)
    mask[:, 1] = mask[:2, 2] = False
    resets = np.zeros((T, 3), bool)
    resets[2, 2] = True
    unread = [1] if reverse else [1, 2]  # backwards, the reset at step 2 comes last

    def loss(params, carry, xs):
        marks = {"mask": mask, "resets": resets, "reverse": reverse, "engine": engine}
        last, ys = lstm_jax.unroll(cell, params, xs, carry, **marks)
        return jnp.sum(ys**2) + jnp.sum(last.h[0]), last

    graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=QUICK)
    fresh = cell.initial_carry(params, (3,))
    (wanted, _), slopes = graded(params, fresh, xs)
    for fill in FILLS:
        carry = jax.tree.map(lambda leaf: leaf.at[np.array(unread)].set(fill), fresh)  # noqa: B023
        (value, last), found = graded(params, carry, xs)
        same((value, found), (wanted, slopes))
        assert np.array_equal(last.h[1], carry.h[1], equal_nan=True)  # held, as it was given


def test_jacobians_are_taken_where_a_carry_goes_on():
    counts = np.array([1, 1, 0, 1, 1, 1, 0, 0], bool)
    resets = np.array([1, 0, 0, 0, 1, 0, 0, 0], bool)
    found = observe._some_steps(jnp.asarray(counts), jnp.asarray(resets))
    assert set(found.tolist()) == {1, 5}
    every = observe._some_steps(jnp.ones(13, bool), None)
    assert every.tolist() == [3, 6, 9, 12]
