"""A task's training batches read on the host, for data that does not fit on the device.

The task says `feed(step) -> iterator of batches from that step on`, and its `batch` reads from a
window of coming steps that the trainer puts on the devices: see `lstm_jax.training.feed`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from lstm_jax.core import Array
from lstm_jax.errors import UsageError


def from_window(data: dict, key: Array, step: Array) -> dict:
    """A task's `batch` where its `feed` is used."""
    del key
    window = data["window"]
    return jax.tree.map(lambda leaf: leaf[step - window["first"]], window["batches"])


def window(batches: Iterable[dict], first: int, num_steps: int) -> dict:
    """The next `num_steps` batches, stacked [S, ...], on the host."""
    found = list(itertools.islice(batches, num_steps))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    return {"first": np.int32(first), "batches": stacked}


def read(source: Any, start: int) -> Iterator[dict]:
    """`source[0], source[1], ...` over and over from item `start`, by Grain's threads.

    Raises:
      UsageError: Grain is not installed.
    """
    try:
        import grain  # optional
    except ImportError:
        raise UsageError("task.pipeline=grain needs Grain: pip install 'lstm-jax[grain]'") from None
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=64)
    items = iter(grain.MapDataset.source(source).repeat().to_iter_dataset(options))
    items.set_state({"next_index": int(start)})
    return items
