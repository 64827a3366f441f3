"""Small data sets of every format that a task reads."""

from __future__ import annotations

import struct
from pathlib import Path

import jax
import numpy as np

RANDOM = np.random.default_rng(0)


def write_idx(place: Path, array: np.ndarray) -> None:
    codes = {"uint8": 8, "int8": 9, "int32": 12}
    head = struct.pack(">HBB", 0, codes[str(array.dtype)], array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    place.write_bytes(head + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes())


def write_images(folder: Path, side: int = 28, train: int = 60, test: int = 10) -> str:
    for part, size in (("train", train), ("t10k", test)):
        images = RANDOM.integers(0, 256, (size, side, side)).astype(np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        labels = (np.arange(size) % 10).astype(np.uint8)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return str(folder)


def write_ts(
    place: Path,
    lengths: tuple[int, ...] = (3, 9, 4, 2, 7, 3, 3, 2),
    dimensions: int = 2,
    head: str = "",
) -> str:
    cases = []
    for i, length in enumerate(lengths):
        values = RANDOM.normal(size=(dimensions, length)).round(3)
        columns = ":".join(",".join(map(str, column)) for column in values)
        cases.append(f"{columns}:{'ab'[i % 2]}")
    head = head or "@problemName toy\n@classLabel true a b\n@data"
    place.write_text(head + "\n" + "\n".join(cases) + "\n")
    return str(place)


def write_text(place: Path, times: int = 40) -> str:
    place.write_text("the cat sat on the mat\nthe dog sat on the cat\n" * times)
    return str(place)


def compiled(task):
    """The task, each of its functions one program."""
    splits = {k: split._replace(batch=jax.jit(split.batch)) for k, split in task.splits.items()}
    return task._replace(batch=jax.jit(task.batch), loss=jax.jit(task.loss), splits=splits)
