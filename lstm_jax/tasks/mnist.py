"""Handwritten digits as sequences: 28 rows of 28 pixels, or 784 pixels, in order or permuted.

Le et al. (2015), section 4.2, for pixel by pixel and permuted; any four IDX files of 28 x 28
images with labels 0 .. 9 do (task.folder).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data import files
from lstm_jax.errors import UsageError
from lstm_jax.option import NOT_NEGATIVE, Option
from lstm_jax.tasks import classify, readers
from lstm_jax.tasks.task import Spec, Split, Task, sequential, shuffled

ORDERS = ("rows", "pixels")
PERMUTATIONS = ("none", "random", "janet")
NAMES = [str(digit) for digit in range(10)]
SIDE = 28


OPTIONS = (
    Option("order", "rows", "rows: 28 steps of 28 pixels | pixels: 784 steps of one"),
    Option("permutation", "none", "of the pixels: none | random | janet (the one in JANET's code)"),
    Option("permutation_seed", 0, "of `random`", NOT_NEGATIVE),
    Option("readout", "last", "last | mean"),
    Option("valid_size", 5000, "taken from the end of the training images"),
    Option("train_size", 0, "training images used; 0: all that are left", NOT_NEGATIVE),
    Option("eval_size", 0, "images of each evaluation split used; 0: all", NOT_NEGATIVE),
    Option("label_smoothing", 0.0, "share of the target spread over all classes"),
    Option("class_weights", "none", "none | balanced"),
    Option("folder", "", "four IDX files of your own, named as MNIST's, packed or not"),
)


def build(config: Any) -> Task:
    """60,000 images to train and validate on, 10,000 to test; no augmentation."""
    task, batch_size = config.task, config.train.batch_size
    check(task)
    parts = split(task, *load(task))
    train_images, train_labels = parts["train"]
    arrays = {f"{name}_images": images for name, (images, _) in parts.items()}
    arrays |= {f"{name}_labels": labels for name, (_, labels) in parts.items()}
    arrays["permutation"] = permutation(task)
    size = len(train_images)

    def batch(data: Any, key: Array, step: Array) -> dict:
        return take("train", task.order)(data, shuffled(key, step, size, batch_size))

    splits = {
        name: sequential(take(name, task.order), len(parts[name][0]), batch_size)
        for name in ("valid", "test")
    }
    weights = classify.class_weights(task.class_weights, train_labels, 10)
    loss = classify.make_loss(weights, task.label_smoothing)
    features = SIDE if task.order == "rows" else 1
    return Task(
        spec=Spec(features, 10, readout=task.readout),
        data=arrays,
        batch=batch,
        loss=loss,
        splits=splits,
        baselines={name: scores(parts, name, loss) for name in ("valid", "test")},
        steps_per_epoch=-(-size // batch_size),
        figures=lambda forward: figures(forward, arrays, splits["test"]),
        predict=lambda forward, out, options: predict(forward, out, options, arrays, splits),
    )


def check(task: Any) -> None:
    for field, known in (("order", ORDERS), ("permutation", PERMUTATIONS)):
        if task[field] not in known:
            raise UsageError(f"task.{field}={task[field]!r}, expected one of {', '.join(known)}")
    if task.readout not in ("last", "mean"):
        raise UsageError(f"task.readout={task.readout!r}, expected last or mean")


def load(task: Any) -> tuple[np.ndarray, ...]:
    """(images [N, 784] uint8, labels [N] int32) to train on, and the same to test on."""
    out = []
    for part in ("train", "t10k"):
        images = idx_file(task, f"{part}-images-idx3-ubyte", (None, SIDE, SIDE))
        name = f"{part}-labels-idx1-ubyte"
        labels = idx_file(task, name, (None,))
        check_labels(labels, len(images), name)
        out += [images.reshape(len(images), -1), labels.astype(np.int32)]
    return tuple(out)


def idx_file(task: Any, name: str, shape: tuple) -> np.ndarray:
    """One IDX file: from task.folder as it is, else the verified one of MNIST."""
    if not task.folder:
        return readers.idx(files.load("mnist", name, task.data_dir), name, shape)
    places = [Path(task.folder).expanduser() / (name + suffix) for suffix in ("", ".gz")]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise UsageError(f"{places[0]}: no such file, packed or not; task.folder needs all four")
    return readers.idx(files.read(place), str(place), shape)


def check_labels(labels: np.ndarray, num_images: int, name: str) -> None:
    if len(labels) != num_images:
        raise UsageError(f"{name}: {len(labels):,} labels for {num_images:,} images")
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if wrong.size:
        raise UsageError(f"{name}: label {labels[wrong[0]]} at item {wrong[0]:,}, expected 0 to 9")


def split(task: Any, images, labels, test_images, test_labels) -> dict[str, tuple]:
    """{"train" | "valid" | "test": (images, labels)}."""
    size = len(images) - task.valid_size
    if task.valid_size < 1 or size < 1:
        raise UsageError(
            f"task.valid_size={task.valid_size}: expected 1 to {len(images) - 1:,}, "
            f"out of {len(images):,} training images"
        )
    first = task.train_size or size
    some = task.eval_size or max(len(images), len(test_images))
    return {
        "train": (images[:size][:first], labels[:size][:first]),
        "valid": (images[size:][:some], labels[size:][:some]),
        "test": (test_images[:some], test_labels[:some]),
    }


def permutation(task: Any) -> np.ndarray:
    """[784] int32: which pixel comes at each position."""
    pixels = SIDE * SIDE
    if task.permutation == "random":
        order = np.random.default_rng(task.permutation_seed).permutation(pixels)
    elif task.permutation == "janet":
        name = "pmnist_permutation_mask.npy"
        order = readers.npy(files.load("mnist_permutation", name, task.data_dir), name)
    else:
        order = np.arange(pixels)
    if sorted(order.tolist()) != list(range(pixels)):
        raise UsageError(f"the permutation file is no permutation of 0 .. {pixels - 1}")
    return order.astype(np.int32)


def take(name: str, order: str) -> Callable:
    """take(data, indices) -> inputs [28, B, 28] or [784, B, 1] in 0 .. 1, targets [B]."""

    def batch(data: dict, indices: Array) -> dict:
        images = jnp.asarray(data[f"{name}_images"])[indices]
        pixels = images[:, data["permutation"]].astype(jnp.float32) / 255
        shape = (SIDE, SIDE) if order == "rows" else (SIDE * SIDE, 1)
        inputs = jnp.swapaxes(pixels.reshape(-1, *shape), 0, 1)
        return {"inputs": inputs, "targets": jnp.asarray(data[f"{name}_labels"])[indices]}

    return batch


def scores(parts: dict, name: str, loss: Callable) -> dict:
    """Baselines of a split; 10,000 training images are enough for a class mean."""
    train_images, train_labels = (array[:10_000] for array in parts["train"])
    images, labels = parts[name]
    train = train_images.astype(np.float32) / 255, train_labels
    return classify.baselines(train, (images.astype(np.float32) / 255, labels), 10, loss)


def figures(forward: Callable, data: dict, test: Split) -> dict[str, Any]:
    """The confusion matrix, and the images that the model is most sure and wrong about."""
    probabilities, labels = classify.predict_split(forward, data, test)
    counts = classify.confusion(labels, probabilities.argmax(axis=1), 10)
    return {
        "confusion": classify.confusion_figure(counts, NAMES, "test"),
        "mistakes": mistakes(data["test_images"], probabilities, labels),
    }


def mistakes(images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> Any:
    from matplotlib.figure import Figure  # start-up

    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-sure[wrong])][:24]
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    figure.suptitle("Most confidently wrong test images: true > predicted (probability)")
    for axes, index in zip(np.ravel(figure.subplots(4, 6)), wrong, strict=False):
        axes.imshow(images[index].reshape(SIDE, SIDE), cmap="gray_r")
        label = f"{labels[index]} > {predicted[index]} ({sure[index]:.2f})"
        axes.set_title(label, fontsize=9)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def predict(
    forward: Callable, out_dir: Path, options: SimpleNamespace, data: dict, splits: dict
) -> list[Path]:
    """predictions.csv with the probability of each class, and confusion.png."""
    del options
    probabilities, labels = classify.predict_split(forward, data, splits["test"])
    counts = classify.confusion(labels, probabilities.argmax(axis=1), 10)
    picture = out_dir / "confusion.png"
    classify.confusion_figure(counts, NAMES, "test").savefig(picture, dpi=120)
    table = classify.write_predictions(
        out_dir / "predictions.csv", probabilities, labels, NAMES, np.arange(len(labels))
    )
    return [table, picture]
