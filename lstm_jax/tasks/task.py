"""What a task is: sizes, data on the device, pure batches, a loss, evaluation splits, baselines.

A batch is a pure function of (data, key, step). Example i of step s is keyed by its global index
g = s B + i, so neither a resume nor another number of devices changes a single example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Decoding(NamedTuple):
    """How layers of their own go on from the carry of those that have read the rest of a batch.

    At each of the last `steps` the decoder sees the inputs and, behind them, what it said at the
    step before: the outputs numbered `fed`. It starts with the inputs numbered `start` of the last
    step read. In training a share `forced` of steps is fed batch["targets"] [H, B, len(fed)].
    """

    steps: int  # H
    fed: tuple[int, ...]
    start: tuple[int, ...]
    forced: float = 0.0


class Spec(NamedTuple):
    """The sizes a model has to fit."""

    in_features: int  # D, or the vocabulary size when ids
    out_features: int  # O
    ids: bool = False  # inputs are integer ids [T, B] instead of reals [T, B, D]
    readout: str = "every"  # every | last | mean
    stateful: bool = False  # truncated BPTT: the carry goes from batch to batch
    decoding: Decoding | None = None  # outputs are those of a decoder, [H, B, O]


class Mean(NamedTuple):
    """A mean that adds exactly across batches and devices."""

    total: Array
    count: Array


class Split(NamedTuple):
    """An evaluation split: every example (or token) exactly once; padding has weight 0."""

    num_batches: int
    batch: Callable  # (data, index) -> batch, pure and jittable


def identity(metrics: dict) -> dict:
    return metrics


class Task(NamedTuple):
    """Everything the trainer needs to know about a problem; see the fields' comments."""

    spec: Spec
    data: Any  # pytree of numpy arrays, put on the device once
    batch: Callable  # (data, key, step) -> batch, pure and jittable; folds the step in itself
    loss: Callable  # (outputs, batch) -> (scalar, {name: Mean})
    summarize: Callable = identity  # {name: mean} -> final metrics, e.g. rmse = sqrt(loss)
    splits: dict = {}  # "valid", "test" (and "train" where cheap)
    baselines: dict = {}  # {"test": {"persistence": {"rmse": 48.0}}}
    steps_per_epoch: int = 0
    figures: Callable | None = None  # (forward) -> {name: Figure}
    predict: Callable | None = None  # (forward, out_dir, options) -> list of paths written
    samples: Callable | None = None  # (forward, key) -> str
    scores: Callable | None = None  # (forward) -> {split: {metric: float}} in float64, at the end
    understood: str = ""  # what was made of the data: printed before training
    source: dict = {}  # which data these are: kept in the manifest, and compared by a resume
    feed: Callable | None = None  # (step) -> iterator of batches, read on the host: `pipeline`


def average(values: Array, weights: Array) -> Mean:
    """Weighted mean; weights broadcast from the right, and values of weight 0 may be anything."""
    weights = jnp.broadcast_to(weights, values.shape).astype(values.dtype)
    return Mean(jnp.sum(jnp.where(weights != 0, values * weights, 0)), jnp.sum(weights))


def weighed(weights: Array, *arrays: Array) -> tuple[Array, ...]:
    """Arrays [..., *] with zeros where their weight [...] is 0.

    A loss begins with it: NaN that does not count would be NaN in the gradient, by 0 * NaN.
    """

    def clear(array: Array) -> Array:
        counts = weights.reshape(*weights.shape, *[1] * (array.ndim - weights.ndim)) != 0
        return jnp.where(counts, array, 0)

    return tuple(map(clear, arrays))


def ratio(mean: Mean) -> Array:
    """total / count, and 0 for an empty mean (a batch of nothing but padding)."""
    return mean.total / jnp.maximum(mean.count, 1e-12)


def example_weights(batch: dict, size: int) -> Array:
    """[B] float32: the batch's weights, or ones."""
    return batch.get("weights", jnp.ones(size, jnp.float32))


def step_weights(batch: dict, num_steps: int, size: int) -> Array:
    """[T, B] float32: example weights, zero past `lengths` and where `mask` is False."""
    weights = jnp.broadcast_to(example_weights(batch, size), (num_steps, size))
    if "lengths" in batch:
        weights = weights * (jnp.arange(num_steps)[:, None] < batch["lengths"])
    if "mask" in batch:
        weights = weights * batch["mask"]
    return weights


def target_weights(batch: dict) -> Array:
    """[T, B] or [B] float32, as the batch's targets are."""
    shape = batch["targets"].shape
    return step_weights(batch, *shape) if len(shape) == 2 else example_weights(batch, *shape)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label]; logits [..., O], labels [...] int32 -> [...] nats."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def label_loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
    """Cross-entropy, nats, and accuracy; outputs [..., O], targets [...] int32."""
    weights = target_weights(batch)
    outputs, targets = weighed(weights, outputs, batch["targets"])
    mean = average(cross_entropy(outputs, targets), weights)
    right = (jnp.argmax(outputs, axis=-1) == targets).astype(jnp.float32)
    return ratio(mean), {"loss": mean, "accuracy": average(right, weights)}


def global_indices(step: Array | int, batch_size: int) -> Array:
    """[B] uint32: g = step B + i."""
    start = jnp.asarray(step, jnp.uint32) * jnp.uint32(batch_size)
    return start + jnp.arange(batch_size, dtype=jnp.uint32)


def example_keys(key: Array, step: Array | int, batch_size: int) -> Array:
    """One key per example, folded with its global index."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(global_indices(step, batch_size))


def fresh_batch(example: Callable, batch_size: int) -> Callable:
    """batch(data, key, step) from example(key) -> dict of arrays with time first.

    Arrays of rank 2 and up come out time-major [T, B, ...], scalars as [B]; a rank-1 array is
    a sequence and becomes [T, B].
    """

    def batch(data: Any, key: Array, step: Array) -> dict:
        del data
        return time_major(jax.vmap(example)(example_keys(key, step, batch_size)))

    return batch


def time_major(batch: dict) -> dict:
    """[B, T, ...] -> [T, B, ...] for every array of rank two and up."""
    return {k: jnp.swapaxes(v, 0, 1) if v.ndim > 1 else v for k, v in batch.items()}


def permuted(key: Array, index: Array, size: int) -> Array:
    """Where `index` goes in the random permutation of range(size) named by `key`.

    A Feistel network on the smallest even number of bits, walked until it lands below size:
    a bijection for any round function, and no sort of the whole range.
    Black & Rogaway (2002), Ciphers with arbitrary finite domains.
    """
    half = max(1, math.ceil(math.log2(max(size, 2)) / 2))
    low = jnp.uint32((1 << half) - 1)
    round_keys = jax.random.bits(key, (6,), jnp.uint32)

    def shuffle(x: Array) -> Array:
        left, right = x >> half, x & low
        for i in range(6):
            left, right = right, left ^ (_mix(right ^ round_keys[i]) & low)
        return (left << half) | right

    first = shuffle(jnp.asarray(index, jnp.uint32))
    walked = jax.lax.while_loop(lambda x: x >= size, shuffle, first)
    return walked.astype(jnp.int32)


def _mix(x: Array) -> Array:
    """The 32-bit finaliser of MurmurHash3."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def shuffled(key: Array, step: Array | int, size: int, batch_size: int) -> Array:
    """[B] int32 indices into `size` examples: a new order each epoch, each example once per epoch.

    Batches run over the epoch's end, so nothing is dropped when B does not divide size.
    """

    def pick(index: Array) -> Array:
        return permuted(jax.random.fold_in(key, index // size), index % size, size)

    return jax.vmap(pick)(global_indices(step, batch_size))


def sequential(take: Callable, size: int, batch_size: int) -> Split:
    """Split over examples 0 .. size-1 in order; take(data, indices) -> batch.

    The last batch is padded with the last example at weight 0.
    """

    def batch(data: Any, index: Array) -> dict:
        indices = index * batch_size + jnp.arange(batch_size)
        weights = (indices < size).astype(jnp.float32)
        return {**take(data, jnp.minimum(indices, size - 1)), "weights": weights}

    return Split(-(-size // batch_size), batch)


def fixed_split(example: Callable, seed: int, size: int, batch_size: int) -> Split:
    """Split of `size` generated examples that depend on `seed` alone, never on the run's key."""

    def take(data: Any, indices: Array) -> dict:
        del data
        key = jax.random.key(seed)
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
        return time_major(jax.vmap(example)(keys))

    return sequential(take, size, batch_size)


def generated(
    config: Any, example: Callable, loss: Callable, spec: Spec, baselines: dict[str, dict]
) -> Task:
    """Task of fresh example(key)s at every step, evaluated on `task.eval_size` fixed ones."""
    size, batch_size = config.task.eval_size, config.train.batch_size
    return Task(
        spec=spec,
        data={},
        batch=fresh_batch(example, batch_size),
        loss=loss,
        splits={
            name: fixed_split(example, seed, size, batch_size)
            for seed, name in enumerate(("valid", "test"), 1)
        },
        baselines={"valid": baselines, "test": baselines},
    )


LARGER_IS_BETTER = frozenset({"accuracy", "first_failing_n"})
