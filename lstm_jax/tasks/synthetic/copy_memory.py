"""Copy memory: ten symbols, T blanks, a delimiter, then the ten symbols again.

Hochreiter & Schmidhuber (1997); lengths as in Arjovsky et al. (2016): T + 20 steps in all.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.errors import UsageError
from lstm_jax.option import SIZE, Option
from lstm_jax.tasks.task import (
    Spec,
    Task,
    average,
    cross_entropy,
    generated,
    ratio,
    target_weights,
    weighed,
)

SYMBOLS = 8  # 1..8; 0 is the blank, 9 the delimiter
RECALLED = 10  # symbols to remember


OPTIONS = (
    Option("length", 50, "T: steps between the symbols and their recall"),
    Option("eval_size", 1000, "examples in each of the fixed validation and test sets", SIZE),
)


def example(key: Array, length: int) -> dict:
    """inputs [T+20, 10] one-hot, targets [T+20] int32: blank, and the symbols at the end."""
    symbols = jax.random.randint(key, (RECALLED,), 1, SYMBOLS + 1)
    blanks = jnp.zeros(length - 1, jnp.int32)
    cue = jnp.zeros(RECALLED + 1, jnp.int32).at[0].set(SYMBOLS + 1)
    inputs = jnp.concatenate([symbols, blanks, cue])
    targets = jnp.concatenate([jnp.zeros(length + RECALLED, jnp.int32), symbols])
    return {"inputs": jax.nn.one_hot(inputs, SYMBOLS + 2), "targets": targets}


def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
    """Cross-entropy over all T+20 steps; accuracy over the ten recalled symbols."""
    weights = target_weights(batch)
    outputs, targets = weighed(weights, outputs, batch["targets"])
    mean = average(cross_entropy(outputs, targets), weights)
    right = (jnp.argmax(outputs, axis=-1) == targets)[-RECALLED:].astype(jnp.float32)
    return ratio(mean), {"loss": mean, "accuracy": average(right, weights[-RECALLED:])}


def build(config: Any) -> Task:
    """Fresh sequences at every step; validation and test sets come from seeds of their own."""
    length = config.task.length
    if length < 1:
        raise UsageError(f"task.length={length}: copy memory needs at least 1 step in between")
    spec = Spec(in_features=SYMBOLS + 2, out_features=SYMBOLS + 1)
    steps = length + 2 * RECALLED
    trivial = {"no memory": {"loss": RECALLED * math.log(SYMBOLS) / steps, "accuracy": 1 / SYMBOLS}}
    return generated(config, partial(example, length=length), loss, spec, trivial)
