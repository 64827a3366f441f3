"""Gradient checkpointing in time: only one carry a chunk is kept, the rest is run again.

Residuals of T steps shrink to those of one chunk and T / chunk carries: O(sqrt T) for chunks of
sqrt T, at about one more forward pass. Inputs are projected chunk by chunk too.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from lstm_jax.core import Cell, Params
from lstm_jax.engines import deferred
from lstm_jax.engines.masking import even_size, join_steps, known, split_steps
from lstm_jax.errors import UsageError

SYMBOLIC = 64  # steps a chunk where nobody knows T


def run(
    cell: Cell, params: Params, carry: Any, steps: Any, reverse: bool = False, chunk_size: int = 0
) -> Any:
    """(carry, ys) in chunks of `chunk_size` steps; 0 for about the square root of T.

    A T that the chunk does not divide is padded with steps that do not count, which is exact.
    """
    length = jax.tree.leaves(steps)[0].shape[0]
    size = chunk_size or even_chunk(length)
    if known(length) and not 1 <= size <= max(length, 1):
        raise UsageError(f"chunk_size={size} with T={length}: expected 1..T, or 0 for sqrt(T)")
    chunks = split_steps(steps, size)

    @jax.checkpoint
    def chunk(carry, part):
        return deferred.run(cell, params, carry, part, reverse)

    last, ys = lax.scan(chunk, carry, chunks, reverse=reverse)
    return last, jax.tree.map(lambda leaf: join_steps(leaf, length), ys)


def even_chunk(length: Any) -> int:
    """About the square root of T, where T is known."""
    return even_size(length, 2 * round(length**0.5)) if known(length) else SYMBOLIC
