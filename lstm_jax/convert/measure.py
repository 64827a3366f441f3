"""What an exported model scores on its run's own splits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.errors import UsageError
from lstm_jax.training.journal import exact
from lstm_jax.training.saved import Run
from lstm_jax.training.train import average

FORWARD = {".onnx": "lstm_jax.convert.onnx.export", ".stablehlo": "lstm_jax.convert.stablehlo"}


def measure(path: Path, loaded: Run) -> dict[str, dict[str, float]]:
    """{split: {metric: value}} of the model in a file, by the run's task and data.

    Raises: UsageError for a file that is missing or of another kind.
    """
    if not path.is_file():
        raise UsageError(f"--model: no file {str(path)!r}")
    if path.suffix not in FORWARD:
        raise UsageError(f"--model={path}: expected one of {', '.join(FORWARD)}")
    forward = importlib.import_module(FORWARD[path.suffix]).forward(path, loaded)  # optional
    found = {split: _split(loaded, forward, split) for split in loaded.program.task.splits}
    return exact(jax.tree.map(float, found), loaded.program.task, forward)


def _split(loaded: Run, forward: Callable, split: str) -> dict[str, Any]:
    """Every example once, batch after batch, as `train.evaluate` does."""
    task = loaded.program.task
    num_batches, batch_of = task.splits[split]
    batch_at, loss = jax.jit(batch_of), jax.jit(lambda *given: task.loss(*given)[1])
    sums, carry = None, None
    for index in range(num_batches):
        batch = batch_at(loaded.data, jnp.int32(index))
        outputs, carry = forward(batch, carry if task.spec.stateful else None)
        means = loss(jnp.asarray(outputs), batch)
        sums = means if sums is None else jax.tree.map(jnp.add, sums, means)
    return task.summarize(average(sums or {}))
