"""What classification tasks share: loss, baselines, confusion matrix, predictions."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.errors import UsageError
from lstm_jax.tasks.task import Split, average, cross_entropy, ratio, target_weights, weighed

CLASS_WEIGHTS = ("none", "balanced")


def class_weights(kind: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[O] weights of the loss: ones, or `balanced`, N / (O count), so that every class counts."""
    if kind not in CLASS_WEIGHTS:
        raise UsageError(f"task.class_weights={kind!r}, expected one of {', '.join(CLASS_WEIGHTS)}")
    if kind == "none":
        return np.ones(num_classes, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise UsageError(f"task.label_smoothing={smoothing}, expected at least 0 and below 1")


def smoothed(logits: Array, labels: Array, smoothing: float) -> Array:
    """Cross-entropy to (1 - s) onehot + s / O, nats; logits [..., O], labels [...].

    Szegedy et al. (2016), section 7.
    """
    hard = cross_entropy(logits, labels)
    if smoothing == 0:
        return hard
    uniform = -jnp.mean(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True), axis=-1)
    return (1 - smoothing) * hard + smoothing * uniform


def make_loss(weights: np.ndarray, smoothing: float) -> Callable:
    """loss(outputs, batch): outputs [..., O], targets [...] int32, -1 where there is none.

    Metrics: loss (weighted, smoothed), nll (neither), accuracy.
    """
    check_smoothing(smoothing)

    def loss(outputs: Array, batch: dict) -> tuple[Array, dict]:
        given = label_weights(batch)
        outputs, labels = weighed(given, outputs, batch["targets"])
        mean = average(smoothed(outputs, labels, smoothing), given * jnp.asarray(weights)[labels])
        right = jnp.argmax(outputs, axis=-1) == labels
        nll = average(cross_entropy(outputs, labels), given)
        accuracy = average(right.astype(jnp.float32), given)
        return ratio(mean), {"loss": mean, "nll": nll, "accuracy": accuracy}

    return loss


def label_weights(batch: dict) -> Array:
    """[T, B] or [B]: the weights of the targets, 0 where there is no label."""
    return jnp.where(batch["targets"] >= 0, target_weights(batch), 0)


def baselines(train: tuple, other: tuple, num_classes: int, loss: Callable) -> dict:
    """Two trivial rules on (features [N, F], labels [N]), scored by the task's own `loss`.

    The classes' frequencies, whose best guess is the commonest class; and the nearest class mean,
    as sure as Gaussians of one common variance around these means are.
    """
    counts = np.bincount(train[1], minlength=num_classes)
    frequencies = np.log(np.maximum(counts, 0.5) / counts.sum())
    centroids = nearest_centroid(train[0], train[1], num_classes)
    spread = max(float(np.mean((train[0] - centroids[train[1]]) ** 2)), 1e-12)
    logits = {
        "majority class": np.broadcast_to(frequencies, (len(other[1]), num_classes)),
        "nearest centroid": -distances(other[0], centroids) / (2 * spread),
    }
    return {name: scored(loss, found, other[1]) for name, found in logits.items()}


def scored(loss: Callable, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics of logits [N, O], as the model's are computed."""
    batch = {"targets": jnp.asarray(labels, jnp.int32)}
    return {k: float(ratio(v)) for k, v in loss(jnp.asarray(logits, jnp.float32), batch)[1].items()}


def nearest_centroid(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[O, F]: the mean of each class, far away for a class without examples."""
    means = np.full((num_classes, features.shape[1]), 1e6, np.float32)
    for label in np.unique(labels):
        means[label] = features[labels == label].mean(axis=0)
    return means


def distances(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """[N, O]: squared distances less the part that all centroids share."""
    return np.sum(centroids.astype(np.float32) ** 2, axis=1) - 2 * features @ centroids.T


def predict_split(forward: Callable, data: Any, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities [N, O], labels [N]) of a split, in its order."""
    all_logits, all_labels = [], []
    data, batch_of = jax.device_put(data), jax.jit(split.batch)  # one program, not one an operation
    for index in range(split.num_batches):
        batch = batch_of(data, jnp.int32(index))
        logits = np.asarray(forward(batch)[0])
        targets = np.asarray(batch["targets"])
        real = np.asarray(label_weights(batch)) > 0
        # Transposed, so that packed sequences come row by row, the order they are listed in.
        all_logits.append(np.swapaxes(logits, 0, -2)[real.T] if logits.ndim > 2 else logits[real])
        all_labels.append(targets.T[real.T])
    logits = np.concatenate(all_logits).astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), np.concatenate(all_labels)


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """[O, O] counts, true class by predicted class."""
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def confusion_figure(counts: np.ndarray, names: list[str], title: str) -> Any:
    """Rows the true class, colours the share of it, numbers the counts."""
    from matplotlib.figure import Figure  # start-up

    size = 2.5 + 0.42 * len(names)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        if count:
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    right = np.trace(counts) / max(counts.sum(), 1)
    axes.set(xlabel="predicted", ylabel="true", title=f"{title}: {100 * right:.2f} % right")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def write_predictions(
    path: Path, probabilities: np.ndarray, labels: np.ndarray, names: list[str], order: np.ndarray
) -> Path:
    """CSV: index in the split, true and predicted class, the probability of each class."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["index", "label", "predicted", *(f"p({name})" for name in names)])
        for place in np.argsort(order):
            chances = probabilities[place]
            found = [names[labels[place]], names[int(np.argmax(chances))]]
            writer.writerow([int(order[place]), *found, *(f"{p:.6f}" for p in chances)])
    return path
