"""Real inputs, on which an exported model is held to the run's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.training.saved import Run

# What a batch says of its steps, and the types that files take.
MARKS = {"lengths": np.int32, "mask": np.bool_, "resets": np.bool_}


def sample(loaded: Run) -> dict[str, np.ndarray]:
    """The first batch of the validation split."""
    _, batch_of = loaded.program.task.splits["valid"]
    batch = jax.jit(batch_of)(loaded.data, jnp.int32(0))
    return {k: np.asarray(v) for k, v in batch.items()}


def cut(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with fewer examples, and fewer steps where no length is known."""
    size = max(1, batch["inputs"].shape[1] // 2)
    steps = batch["inputs"].shape[0] if "lengths" in batch else max(1, len(batch["inputs"]) - 1)
    return {
        k: v[:size] if k == "lengths" else v[:steps, :size]
        for k, v in batch.items()
        if k in ("inputs", *MARKS)
    }


def feeds(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """A task's batch as the file takes it."""
    inputs = np.asarray(batch["inputs"])
    own = {"inputs": inputs.astype(np.int32 if inputs.dtype.kind in "iu" else np.float32)}
    return own | {k: np.asarray(batch[k], kind) for k, kind in MARKS.items() if k in batch}


def difference(found: Any, expected: Any) -> float:
    expected = np.asarray(expected)
    return float(np.max(np.abs(found - expected) / np.maximum(np.abs(expected), 1), initial=0.0))


def sizes(batch: dict[str, Any]) -> str:
    """T and B in words."""
    return f"T={batch['inputs'].shape[0]}, B={batch['inputs'].shape[1]}"
