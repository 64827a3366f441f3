"""Counting: say after each symbol of a^n b^n (or a^n b^n c^n) which symbols may come next.

Gers & Schmidhuber (2001). Learned on short n; a word counts as accepted when every set along it is
right, and the score is the smallest n that is not: Weiss et al. (2018), Suzgun et al. (2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.errors import UsageError
from lstm_jax.option import Option
from lstm_jax.tasks.task import (
    Mean,
    Spec,
    Split,
    Task,
    average,
    example_weights,
    fresh_batch,
    ratio,
    sequential,
    step_weights,
    time_major,
    weighed,
)

OPTIONS = (
    Option("letters", 2, "2: a^n b^n, 3: a^n b^n c^n"),
    Option("train_max", 49, "largest n in training and validation"),
    Option("test_max", 500, "largest n in the test"),
)


def word(n: Array, letters: int, longest: int) -> dict:
    """S a^n b^n ... padded to n = longest.

    inputs [T, letters+1] one-hot of S a b (c), targets [T, letters+1] of 0 and 1 for a b (c) and
    the end, lengths [] int32.
    """
    step = jnp.arange(1 + letters * longest)
    letter = (step - 1) // n  # -1 stands for S, the letters count from 0
    ends = step % n == 0
    upcoming = jnp.where((letter < 0) | ends, letter + 1, letter)
    targets = jax.nn.one_hot(upcoming, letters + 1)
    either = jax.nn.one_hot(0, letters + 1) + jax.nn.one_hot(1, letters + 1)
    targets = jnp.where((letter == 0)[:, None], either, targets)
    inputs = jax.nn.one_hot(letter + 1, letters + 1)
    return {"inputs": inputs, "targets": targets, "lengths": jnp.int32(1 + letters * n)}


def loss_of(test_max: int) -> Callable:
    """loss(outputs [T, B, O], batch): Bernoulli nats per output; accuracy is whole words.

    Where the batch says its `sizes` [B], also how many words were rejected, by n; the first size
    that the split does not try counts as rejected.
    """

    def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
        weights = step_weights(batch, *outputs.shape[:2])
        outputs, targets = weighed(weights, outputs, batch["targets"])
        mean = average(jax.nn.softplus(outputs) - targets * outputs, weights[..., None])
        wrong = ((outputs > 0) != (targets > 0.5)).any(axis=-1) & (weights > 0)
        accepted = ~wrong.any(axis=0)
        counted = example_weights(batch, accepted.shape[0])
        means = {"loss": mean, "accuracy": average(accepted.astype(jnp.float32), counted)}
        if "sizes" in batch:
            by_size = jnp.zeros(test_max + 2).at[batch["sizes"]].add(counted * ~accepted)
            by_size = by_size.at[batch["untried"]].add(counted)
            means["rejected"] = Mean(by_size, jnp.sum(counted))
        return ratio(mean), means

    return loss


def summarize(metrics: dict) -> dict:
    """rejected [n] -> first_failing_n, one more than the largest where none failed."""
    metrics = dict(metrics)
    if "rejected" in metrics:
        metrics["first_failing_n"] = jnp.argmax(metrics.pop("rejected") > 0).astype(jnp.float32)
    return metrics


def memoryless(letters: int, longest: int) -> float:
    """The loss of the best guess from the current letter alone, over n = 1..longest."""
    sizes = np.arange(1, longest + 1)
    p = 1 / np.mean(sizes)  # that a letter is the last of its kind
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p) if p < 1 else 0.0
    unsure = (letters - 1) * sizes.sum() * 2 * entropy
    return float(unsure / (np.sum(1 + letters * sizes) * (letters + 1)))


def build(config: Any) -> Task:
    """Random n at every step; validation n = 1..train_max, test n = 1..test_max."""
    task, batch_size = config.task, config.train.batch_size
    letters, train_max, test_max = task.letters, task.train_max, task.test_max
    if letters not in (2, 3):
        raise UsageError(f"task.letters={letters}: expected 2 (a^n b^n) or 3 (a^n b^n c^n)")
    if not 1 <= train_max <= test_max:
        raise UsageError(
            f"task.train_max={train_max}, task.test_max={test_max}: expected "
            "1 <= train_max <= test_max"
        )

    def example(key: Array) -> dict:
        n = jax.random.randint(key, (), 1, train_max + 1)
        return word(n, letters, train_max)

    splits = {
        "valid": every_size(letters, train_max, batch_size),
        "test": every_size(letters, test_max, batch_size),
    }
    return Task(
        spec=Spec(letters + 1, letters + 1),
        data={},
        batch=fresh_batch(example, batch_size),
        loss=loss_of(test_max),
        summarize=summarize,
        splits=splits,
        baselines={
            name: {"memoryless": {"loss": memoryless(letters, longest), "first_failing_n": 1}}
            for name, longest in (("valid", train_max), ("test", test_max))
        },
        figures=lambda forward: {"accuracy_by_length": figure(forward, splits["test"], task)},
    )


def every_size(letters: int, longest: int, batch_size: int) -> Split:
    """One word for each n = 1..longest."""

    def take(data: Any, indices: Array) -> dict:
        del data
        batch = time_major(jax.vmap(lambda n: word(n, letters, longest))(indices + 1))
        return {**batch, "sizes": indices + 1, "untried": jnp.full_like(indices, longest + 1)}

    return sequential(take, longest, batch_size)


def figure(forward: Callable, split: Split, task: Any) -> Any:
    """The share of right sets along each word, by n; at 1 the word is accepted."""
    from matplotlib.figure import Figure  # start-up

    @jax.jit
    def right_steps(batch: dict, outputs: Array) -> Array:
        weights = step_weights(batch, *batch["targets"].shape[:2])
        right = ((outputs > 0) == (batch["targets"] > 0.5)).all(axis=-1) * weights
        return right.sum(axis=0) / batch["lengths"]

    sizes, shares, batch_of = [], [], jax.jit(partial(split.batch, {}))
    for index in range(split.num_batches):
        batch = batch_of(jnp.int32(index))
        outputs, _ = forward(batch)
        kept = np.asarray(batch["weights"]) > 0
        sizes.append(np.asarray(batch["sizes"])[kept])
        shares.append(np.asarray(right_steps(batch, outputs))[kept])
    n, share = np.concatenate(sizes), np.concatenate(shares)
    failing = n[share < 1]
    language = "a^n b^n" if task.letters == 2 else "a^n b^n c^n"
    verdict = f"first failing n = {failing[0]}" if len(failing) else f"right up to n = {n[-1]}"
    canvas = Figure(figsize=(9, 4.5), layout="constrained")
    axes = canvas.subplots()
    axes.axvspan(1, task.train_max, color="0.9", label="n in training")
    axes.plot(n, share, color="C0", label="share of steps that are right")
    if len(failing):
        axes.axvline(failing[0], color="C1", ls="--", lw=1, label="first failing n")
    axes.set(xlabel="n", ylabel="share of right steps", ylim=(min(0.9, share.min()) - 0.02, 1.02))
    axes.set_title(f"{language}: {verdict}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right")
    return canvas
