"""Every optimizer and schedule against optax put together by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax.config import default_config
from lstm_jax.errors import UsageError
from lstm_jax.training import optim

NUM_STEPS = 40
PARAMS = {"layer": {"kernel": jnp.arange(6.0).reshape(2, 3) / 5, "bias": jnp.ones(3)}}
BOTH = {"layer": {"kernel": True, "bias": False}}


def options(**changes) -> SimpleNamespace:
    return SimpleNamespace(**{**default_config("adding").optimizer.to_dict(), **changes})


def follow(optimizer: Any, num_steps: int = 10) -> Any:
    """Parameters after some steps down a bowl with changing slopes."""
    params: Any = PARAMS
    state = optimizer.init(PARAMS)
    for i in range(num_steps):
        slopes = jax.tree.map(lambda w, i=i: 2 * w + jnp.sin(w + i), params)
        updates, state = optimizer.update(slopes, state, params)
        params = optax.apply_updates(params, updates)
    return params


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-7)


REFERENCES = {
    "adam": ({"name": "adam"}, lambda: optax.adam(0.1)),
    "adam betas": (
        {"name": "adam", "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3},
        lambda: optax.adam(0.1, 0.8, 0.9, 1e-3),
    ),
    "adamw": (
        {"name": "adamw", "weight_decay": 0.3},
        lambda: optax.adamw(0.1, weight_decay=0.3, mask=BOTH),
    ),
    "adam with L2": (
        {"name": "adam", "weight_decay": 0.3},
        lambda: optax.chain(optax.add_decayed_weights(0.3, mask=BOTH), optax.adam(0.1)),
    ),
    "rmsprop": (
        {"name": "rmsprop", "beta2": 0.9},
        lambda: optax.rmsprop(0.1, decay=0.9, eps_in_sqrt=False),
    ),
    "rmsprop momentum": (
        {"name": "rmsprop", "beta2": 0.9, "momentum": 0.5},
        lambda: optax.rmsprop(0.1, decay=0.9, momentum=0.5, eps_in_sqrt=False),
    ),
    "sgd": ({"name": "sgd"}, lambda: optax.sgd(0.1)),
    "sgd momentum": ({"name": "sgd", "momentum": 0.9}, lambda: optax.sgd(0.1, momentum=0.9)),
    "sgd nesterov": (
        {"name": "sgd", "momentum": 0.9, "nesterov": True},
        lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "clipped": (
        {"name": "sgd", "clip_norm": 0.7},
        lambda: optax.chain(optax.clip_by_global_norm(0.7), optax.sgd(0.1)),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_optimizer_equals_optax(name):
    changes, reference = REFERENCES[name]
    config = options(learning_rate=0.1, **changes)
    same(follow(optim.build_optimizer(config, NUM_STEPS)), follow(reference()))


@pytest.mark.parametrize("name", REFERENCES)
def test_numbers_may_be_traced(name):
    config = options(learning_rate=0.1, **REFERENCES[name][0])
    numbers = ("learning_rate", "weight_decay", "clip_norm", "momentum")
    given = {k: jnp.float32(getattr(config, k)) for k in numbers if getattr(config, k)}

    def run(given):
        bound = SimpleNamespace(**{**vars(config), **given})
        return follow(optim.build_optimizer(bound, NUM_STEPS))

    same(jax.jit(run)(given), follow(optim.build_optimizer(config, NUM_STEPS)))


SCHEDULES = {
    "constant": ({}, lambda: optax.constant_schedule(0.1)),
    "piecewise": (
        {"decay_every": 7, "decay_factor": 0.2},
        lambda: optax.exponential_decay(0.1, 7, 0.2, staircase=True),
    ),
    "exponential": (
        {"decay_every": 7, "decay_factor": 0.2, "decay_start": 5},
        lambda: optax.exponential_decay(0.1, 7, 0.2, transition_begin=5),
    ),
    "cosine": (
        {"decay_factor": 0.05},
        lambda: optax.cosine_decay_schedule(0.1, NUM_STEPS, alpha=0.05),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 6])
def test_schedule_equals_optax(name, warmup):
    changes, reference = SCHEDULES[name]
    config = options(schedule=name, learning_rate=0.1, warmup_steps=warmup, **changes)
    steps = jnp.arange(NUM_STEPS)
    rates = jax.vmap(lambda step: optim.learning_rate(config, NUM_STEPS, step))(steps)
    if name == "cosine" and warmup:
        shape = optax.cosine_decay_schedule(0.1, NUM_STEPS - warmup, alpha=0.05)
        wanted = shape(jnp.maximum(steps - warmup, 0))
    else:
        wanted = jax.vmap(reference())(steps) * jnp.ones(NUM_STEPS)
    ramp = jnp.minimum(1, (steps + 1) / warmup) if warmup else 1
    np.testing.assert_allclose(rates, wanted * ramp, rtol=1e-5)


def test_the_schedule_reaches_the_parameters():
    config = options(name="sgd", schedule="piecewise", learning_rate=0.1, decay_every=3)
    reference = optax.sgd(optax.exponential_decay(0.1, 3, 0.1, staircase=True))
    same(follow(optim.build_optimizer(config, NUM_STEPS)), follow(reference))


def test_weight_decay_leaves_biases_alone():
    assert optim.decayed(PARAMS) == BOTH
    config = options(name="sgd", learning_rate=0.1, weight_decay=0.5)
    optimizer: Any = optim.build_optimizer(config, NUM_STEPS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    same(updates["layer"], {"kernel": -0.05 * PARAMS["layer"]["kernel"], "bias": jnp.zeros(3)})


def test_a_zero_leaves_no_trace():
    plain = options(name="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    assert len(jax.tree.leaves(optim.build_optimizer(plain, 1).init(PARAMS))) == 1  # the count
    momentum = options(name="sgd", learning_rate=0.1, momentum=jnp.float32(0.0))
    assert len(jax.tree.leaves(optim.build_optimizer(momentum, 1).init(PARAMS))) == 3


@pytest.mark.parametrize("field, value", [("name", "adamm"), ("schedule", "cosin")])
def test_an_unknown_optimizer_or_schedule_is_refused_by_name(field, value):
    with pytest.raises(UsageError, match="did you mean '(adam|cosine)'"):
        optim.build_optimizer(options(**{field: value}), NUM_STEPS)
