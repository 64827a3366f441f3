"""Temporal order: which of X and Y came at two (or three) distant places among distractors?

Hochreiter & Schmidhuber (1997), tasks 6a (two places, 4 classes) and 6b (three, 8 classes).
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
from lstm_jax.tasks.task import Spec, Task, generated, label_loss

DISTRACTORS = 4  # a b c d = 0..3
X, START, END = 4, 6, 7  # Y = X + 1
STARTS = {2: (0.1, 0.5), 3: (0.1, 0.33, 0.66)}  # where each tenth of the sequence begins


OPTIONS = (
    Option("length", 100, "T, steps of a sequence"),
    Option("places", 2, "2: task 6a, 4 classes; 3: task 6b, 8 classes"),
    Option("eval_size", 1000, "examples in each of the fixed validation and test sets", SIZE),
)


def example(key: Array, length: int, places: int) -> dict:
    """inputs [T, 8] one-hot, target [] int32: the X/Y pattern read as a binary number."""
    noise_key, place_key, symbol_key = jax.random.split(key, 3)
    symbols = jax.random.randint(noise_key, (length,), 0, DISTRACTORS)
    starts = jnp.array([int(start * length) for start in STARTS[places]])
    where = starts + jax.random.randint(place_key, (places,), 0, length // 10)
    bits = jax.random.bernoulli(symbol_key, 0.5, (places,)).astype(jnp.int32)
    symbols = symbols.at[where].set(X + bits).at[0].set(START).at[-1].set(END)
    target = jnp.sum(bits * 2 ** jnp.arange(places))
    return {"inputs": jax.nn.one_hot(symbols, 8), "targets": target.astype(jnp.int32)}


def build(config: Any) -> Task:
    """Fresh sequences at every step; validation and test sets come from seeds of their own."""
    length, places = config.task.length, config.task.places
    if places not in STARTS:
        raise UsageError(f"task.places={places}: expected 2 (task 6a) or 3 (task 6b)")
    if length < 10:
        raise UsageError(f"task.length={length}: temporal order needs at least 10 steps")
    classes = 2**places
    spec = Spec(in_features=8, out_features=classes, readout="last")
    trivial = {"chance": {"loss": math.log(classes), "accuracy": 1 / classes}}
    one = partial(example, length=length, places=places)
    return generated(config, one, label_loss, spec, trivial)
