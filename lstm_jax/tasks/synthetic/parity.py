"""Parity: is the number of ones so far odd? A two-state machine that never forgets.

Hochreiter & Schmidhuber (1997) ask only after the last step; asking at every step is the default
here, because the gradient then has something to climb. task.every_step=False asks as they did.
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
from lstm_jax.tasks.task import Spec, Task, average, generated, ratio, target_weights, weighed

OPTIONS = (
    Option("length", 50, "T, steps of a sequence"),
    Option("every_step", True, "ask after every step; False: only after the last"),
    Option("eval_size", 1000, "examples in each of the fixed validation and test sets", SIZE),
)


def example(key: Array, length: int, every_step: bool) -> dict:
    """inputs [T, 1] of -1 and 1; targets [T] (or [] for the last step only) of 0 and 1."""
    bits = jax.random.bernoulli(key, 0.5, (length,)).astype(jnp.int32)
    parity = (jnp.cumsum(bits) % 2).astype(jnp.float32)
    inputs = (2 * bits - 1).astype(jnp.float32)[:, None]
    return {"inputs": inputs, "targets": parity if every_step else parity[-1]}


def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
    """Bernoulli negative log-likelihood in nats; outputs [T, B, 1] or [B, 1]."""
    weights = target_weights(batch)
    logits, targets = weighed(weights, outputs[..., 0], batch["targets"])
    nll = jax.nn.softplus(logits) - targets * logits
    right = ((logits > 0) == (targets > 0.5)).astype(jnp.float32)
    mean = average(nll, weights)
    return ratio(mean), {"loss": mean, "accuracy": average(right, weights)}


def build(config: Any) -> Task:
    """Fresh sequences at every step; validation and test sets come from seeds of their own."""
    length, every_step = config.task.length, config.task.every_step
    if length < 1:
        raise UsageError(f"task.length={length}: parity needs at least 1 step")
    spec = Spec(1, 1, readout="every" if every_step else "last")
    trivial = {"chance": {"loss": math.log(2), "accuracy": 0.5}}
    one = partial(example, length=length, every_step=every_step)
    return generated(config, one, loss, spec, trivial)
