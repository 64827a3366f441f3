"""Windows of coming batches, put on the devices while they are busy with the one before.

The position is the step, so it is in every checkpoint. With several processes, or devices, each
gets only its own examples. A task whose data lies on the device is fed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lstm_jax.compute import sharding
from lstm_jax.tasks.pipeline import window
from lstm_jax.training.program import placed


class Feed:
    """`feed(step)`: the data with the window that `step` is in; the next one is on its way.

    Windows begin at multiples of `train.log_every`, where every chunk ends: none spans two.
    """

    def __init__(self, program: Any, data: dict):
        self.task, self.mesh, self.data = program.task, program.mesh, data
        self.num_steps = program.config.train.log_every
        if self.mesh is not None:
            self.places = by_example(program, program.task.data["window"]["batches"])
        self._batches: Iterator[dict] = iter(())
        self._windows: dict[int, Future] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="feed")

    def __call__(self, step: int) -> dict:
        first = step - step % self.num_steps
        if first not in self._windows:  # the start, or a resume
            self._batches = self.task.feed(first)
            self._windows = {first: self._read(first)}
        after = first + self.num_steps
        if after not in self._windows:
            self._windows = {first: self._windows[first], after: self._read(after)}
        return self.data | {"window": self._windows[first].result()}

    def _read(self, step: int) -> Future:
        batches = self._batches
        return self._reader.submit(lambda: self._place(window(batches, step, self.num_steps)))

    def _place(self, found: dict) -> dict:
        if self.mesh is None:
            return jax.device_put(found)
        return jax.tree.map(sharding.place, found, self.places)


def feeding(program: Any, data: Any) -> Callable[[int], Any]:
    """`data` of the steps from `step` on: always the same where it lies on the device."""
    return (lambda step: data) if program.task.feed is None else Feed(program, data)


def by_example(program: Any, batches: dict) -> dict:
    """The shardings of a window: whole sequences, each on the device that will train on it."""
    specs = sharding.batch_specs(jax.tree.map(lambda x: x[0], batches), program.task.spec.readout)
    places = {n: NamedSharding(program.mesh, PartitionSpec(None, *s)) for n, s in specs.items()}
    return {"first": program.whole, "batches": places}


def abstract(program: Any, hyper: Any, data: Any) -> tuple[Any, Any]:
    """(hyper, data) without values, placed as they come into a chunk."""
    shapes = placed(jax.eval_shape(lambda *leaves: leaves, hyper, data), program.whole)
    if program.task.feed is not None and program.mesh is not None:
        window = shapes[1]["window"]
        places = by_example(program, data["window"]["batches"])
        shapes[1]["window"] = jax.tree.map(placed, window, places)
    return shapes
