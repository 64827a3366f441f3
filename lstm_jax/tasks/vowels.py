"""Who speaks? Variable-length multivariate series, one label each; Japanese Vowels by default.

Kudo, Toyama & Shimbo (1999); any pair of .ts files of the UEA archive does (task.train_file).
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
from lstm_jax.option import Option
from lstm_jax.tasks import classify, packing, readers
from lstm_jax.tasks.task import Spec, Task, sequential, shuffled, time_major

OPTIONS = (
    Option("train_file", "", 'a .ts file of your own; "": Japanese Vowels'),
    Option("test_file", "", "the test file that goes with it"),
    Option("valid_every", 5, "each fifth training example is for validation"),
    Option("readout", "last", "last | mean"),
    Option(
        "packing", "auto", "several series in one row: on | off | auto, if padding wastes a third"
    ),
    Option("label_smoothing", 0.0, "share of the target spread over all classes"),
    Option("class_weights", "none", "none | balanced"),
)


def build(config: Any) -> Task:
    """Series standardised by the training part, packed or padded to one length."""
    task, batch_size = config.task, config.train.batch_size
    if task.readout not in ("last", "mean"):
        raise UsageError(f"task.readout={task.readout!r}, expected last or mean")
    parts, names = load(task)
    lengths = [len(series) for series in parts["train"][0]]
    packed = packing.wanted(task.packing, lengths, can_pack(config))
    arrays = {name: rows(series, labels, packed) for name, (series, labels) in parts.items()}
    num_rows, _, features = arrays["train"]["inputs"].shape

    def batch(data: Any, key: Array, step: Array) -> dict:
        return take("train")(data, shuffled(key, step, num_rows, batch_size))

    splits = {
        name: sequential(take(name), len(arrays[name]["inputs"]), batch_size)
        for name in ("valid", "test")
    }
    weights = classify.class_weights(task.class_weights, parts["train"][1], len(names))
    loss = classify.make_loss(weights, task.label_smoothing)
    readout = "every" if packed else task.readout
    report = Report(parts["test"], listed(arrays["test"], packed), names)
    return Task(
        spec=Spec(features, len(names), readout=readout),
        data=arrays,
        batch=batch,
        loss=loss,
        splits=splits,
        baselines={n: scores(parts, n, len(names), loss) for n in ("valid", "test")},
        steps_per_epoch=-(-num_rows // batch_size),
        figures=lambda forward: report.figures(forward, arrays, splits["test"]),
        predict=lambda forward, out, options: report.predict(
            forward, out, options, arrays, splits["test"]
        ),
    )


def can_pack(config: Any) -> bool:
    """Packing is exact where nothing but the carry connects the steps."""
    model = config.model
    causal = not model.bidirectional and model.encoder != "conv"
    return causal and config.task.readout == "last"


def load(task: Any) -> tuple[dict[str, tuple], list[str]]:
    """{"train" | "valid" | "test": (series, labels [N] int32)} and the names of the classes."""
    if bool(task.train_file) != bool(task.test_file):
        raise UsageError("task.train_file and task.test_file go together: give both or neither")
    series, labels, names = read(task, task.train_file, "JapaneseVowels_TRAIN.ts")
    test_series, test_labels, test_names = read(task, task.test_file, "JapaneseVowels_TEST.ts")
    if names != test_names or series[0].shape[1] != test_series[0].shape[1]:
        raise UsageError(
            f"training and test files differ: classes {names} and {test_names}, "
            f"{series[0].shape[1]} and {test_series[0].shape[1]} dimensions"
        )
    if not 2 <= task.valid_every <= len(series):
        raise UsageError(f"task.valid_every={task.valid_every}, expected 2 to {len(series)}")
    held = np.arange(len(series)) % task.valid_every == task.valid_every - 1
    frames = np.concatenate([s for s, out in zip(series, held, strict=True) if not out])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0) + 1e-6
    series = [(s - mean) / deviation for s in series]
    test_series = [(s - mean) / deviation for s in test_series]
    parts = {
        "train": ([series[i] for i in np.flatnonzero(~held)], labels[~held]),
        "valid": ([series[i] for i in np.flatnonzero(held)], labels[held]),
        "test": (test_series, test_labels),
    }
    return parts, names


def read(task: Any, place: str, name: str) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """(series, labels as numbers, class names) of your file, or of the dataset's."""
    given = Path(place).expanduser()
    if place and not given.is_file():
        raise UsageError(f"{place}: no such file")
    content = files.read(given) if place else files.load("japanese_vowels", name, task.data_dir)
    series, labels, names = readers.ts(content, place or name)
    return series, np.array([names.index(label) for label in labels], np.int32), names


def rows(series: list[np.ndarray], labels: np.ndarray, packed: bool) -> dict[str, np.ndarray]:
    """Rows of `packing.lay_out`; targets are -1 but at last steps, or [R] when padded."""
    out = packing.lay_out([{"inputs": s.astype(np.float32)} for s in series], packed)
    if not packed:
        return {**out, "targets": labels}
    order = out["order"]
    return {**out, "targets": np.where(order >= 0, labels[order], -1).astype(np.int32)}


def take(name: str) -> Callable:
    """take(data, indices) -> rows by index, time-major."""

    def batch(data: dict, indices: Array) -> dict:
        wanted = ("inputs", "targets", "lengths", "mask", "resets")
        return time_major(
            {k: jnp.asarray(data[name][k])[indices] for k in wanted if k in data[name]}
        )

    return batch


def listed(arrays: dict, packed: bool) -> np.ndarray:
    """[N]: which example each prediction of `classify.predict_split` is for."""
    order = arrays["order"] if packed else np.arange(len(arrays["targets"]))
    return order[order >= 0]


def scores(parts: dict, name: str, num_classes: int, loss: Callable) -> dict:
    """Baselines on each series' mean over time."""
    means = {k: np.stack([s.mean(axis=0) for s in parts[k][0]]) for k in ("train", name)}
    train, other = ((means[k], parts[k][1]) for k in ("train", name))
    return classify.baselines(train, other, num_classes, loss)


class Report:
    """What is drawn and written about the test series."""

    def __init__(self, part: tuple, order: np.ndarray, names: list[str]):
        self.lengths = np.array([len(series) for series in part[0]])
        self.order, self.names = order, names

    def figures(self, forward: Callable, data: dict, split: Any) -> dict[str, Any]:
        """The confusion matrix, and accuracy by length."""
        probabilities, labels = classify.predict_split(forward, data, split)
        right = probabilities.argmax(axis=1) == labels
        return {
            "confusion": self.matrix(probabilities, labels),
            "accuracy_by_length": by_length(self.lengths[self.order], right),
        }

    def matrix(self, probabilities: np.ndarray, labels: np.ndarray) -> Any:
        counts = classify.confusion(labels, probabilities.argmax(axis=1), len(self.names))
        return classify.confusion_figure(counts, self.names, "test")

    def predict(
        self, forward: Callable, out_dir: Path, options: SimpleNamespace, data: dict, split: Any
    ) -> list[Path]:
        """predictions.csv with the probability of each class, and confusion.png."""
        del options
        probabilities, labels = classify.predict_split(forward, data, split)
        picture = out_dir / "confusion.png"
        self.matrix(probabilities, labels).savefig(picture, dpi=120)
        table = classify.write_predictions(
            out_dir / "predictions.csv", probabilities, labels, self.names, self.order
        )
        return [table, picture]


def by_length(lengths: np.ndarray, right: np.ndarray) -> Any:
    """Bars: how many test series there are of each length; dots: the share of them got right."""
    from matplotlib.figure import Figure  # start-up

    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    found = np.unique(lengths)
    counts = np.array([np.sum(lengths == length) for length in found])
    shares = np.array([right[lengths == length].mean() for length in found])
    highest = counts.max()
    axes.bar(found, counts / highest, color="0.85", label=f"test series (highest bar: {highest})")
    axes.plot(found, shares, "o-", label="share right")
    axes.set(
        xlabel="length (frames)", ylim=(0, 1.05), title="Test accuracy by length of the series"
    )
    axes.legend(loc="center right")
    return figure
