"""Random features and random labels of any size: for throughput runs and smoke tests.

The pool of examples is fixed, so a model that is large enough can learn it by heart; on the test
examples nothing beats chance.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.option import SIZE, Option
from lstm_jax.tasks.task import Spec, Task, label_loss, sequential, shuffled

OPTIONS = (
    Option("length", 100, "T, steps of a sequence", SIZE),
    Option("features", 10, "D, features of a step", SIZE),
    Option("classes", 10, "labels drawn evenly", SIZE),
    Option("examples", 1024, "training examples", SIZE),
    Option("eval_size", 256, "examples in each of the validation and test sets", SIZE),
)


def pool(seed: int, size: int, length: int, features: int, classes: int) -> dict:
    """features [N, T, D] standard normal float32, labels [N] int32."""
    rng = np.random.default_rng(seed)
    return {
        "features": rng.standard_normal((size, length, features), np.float32),
        "labels": rng.integers(classes, size=size, dtype=np.int32),
    }


def take(pool: dict, indices: Array) -> dict:
    inputs = jnp.swapaxes(jnp.asarray(pool["features"])[indices], 0, 1)
    return {"inputs": inputs, "targets": jnp.asarray(pool["labels"])[indices]}


def build(config: Any) -> Task:
    """Three pools from seeds 0, 1, 2; training examples in a new order each epoch."""
    task, batch_size = config.task, config.train.batch_size
    sizes = {"train": task.examples, "valid": task.eval_size, "test": task.eval_size}
    shape = (task.length, task.features, task.classes)

    def batch(data: dict, key: Array, step: Array) -> dict:
        return take(data["train"], shuffled(key, step, task.examples, batch_size))

    def split(name: str) -> Any:
        return sequential(lambda data, i: take(data[name], i), sizes[name], batch_size)

    trivial = {"chance": {"loss": math.log(task.classes), "accuracy": 1 / task.classes}}
    return Task(
        spec=Spec(task.features, task.classes, readout="last"),
        data={name: pool(seed, size, *shape) for seed, (name, size) in enumerate(sizes.items())},
        batch=batch,
        loss=label_loss,
        splits={name: split(name) for name in ("valid", "test")},
        baselines={"valid": trivial, "test": trivial},
        steps_per_epoch=-(-task.examples // batch_size),
    )
