"""The adding problem: remember two marked numbers among T and return their sum.

Hochreiter & Schmidhuber (1997), task 4; positions as in Bai et al. (2018): two distinct steps
drawn from the whole sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.errors import UsageError
from lstm_jax.option import SIZE, Option
from lstm_jax.tasks.task import Spec, Task, average, generated, ratio, target_weights, weighed

OPTIONS = (
    Option("length", 100, "T, steps of a sequence"),
    Option("eval_size", 1000, "examples in each of the fixed validation and test sets", SIZE),
)


def example(key: Array, length: int) -> dict:
    """inputs [T, 2] = (value in [0, 1), marker), target [] = sum of the marked two."""
    value_key, first_key, gap_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (length,))
    first = jax.random.randint(first_key, (), 0, length)
    second = (first + jax.random.randint(gap_key, (), 1, length)) % length
    steps = jnp.arange(length)
    markers = ((steps == first) | (steps == second)).astype(jnp.float32)
    return {"inputs": jnp.stack([values, markers], axis=-1), "targets": jnp.sum(values * markers)}


def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
    """Mean squared error; outputs [B, 1], targets [B]."""
    weights = target_weights(batch)
    outputs, targets = weighed(weights, outputs, batch["targets"])
    mean = average(jnp.square(outputs[:, 0] - targets), weights)
    return ratio(mean), {"loss": mean}


def build(config: Any) -> Task:
    """Fresh sequences at every step; validation and test sets come from seeds of their own."""
    length = config.task.length
    if length < 2:
        raise UsageError(f"task.length={length}: the adding problem needs at least 2 steps")
    spec = Spec(in_features=2, out_features=1, readout="last")
    trivial = {"always 1": {"loss": 1 / 6}}  # variance of a sum of two uniforms
    return generated(config, partial(example, length=length), loss, spec, trivial)
