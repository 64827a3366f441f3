"""How much VMEM a kernel needs and how much there is, before anything is compiled."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

LANES, SUBLANES = 128, 8  # a tile of 32-bit numbers
SHARE = 7 / 8  # of VMEM that a kernel may take: the rest is XLA's own
LARGEST = 8  # steps a block: their loads and stores overlap, and the code grows with them


def chip() -> Any:
    """The device that programs are made for: `jax.default_device` where one is set.

    A device of a topology (`jax.experimental.topologies`) will do.
    """
    settings: Any = jax.config
    named = settings.jax_default_device
    if isinstance(named, str):
        return jax.devices(named)[0]
    return named or jax.devices()[0]


def capacity() -> int:
    """Bytes of VMEM that a kernel may take on this chip."""
    with jax.default_device(chip()):
        return int(SHARE * pltpu.get_tpu_info().vmem_capacity_bytes)


def tiled(shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of an array in VMEM, its last two axes filled up to whole tiles."""
    *outer, rows, columns = (1, 1, *shape)
    size = jnp.dtype(dtype).itemsize
    rows = _up(rows, SUBLANES * max(4 // size, 1))
    return math.prod(outer) * rows * _up(columns, LANES) * size


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def blocks(length: int) -> list[int]:
    """Steps a block that divide the length, the largest first."""
    return [size for size in range(min(LARGEST, length), 0, -1) if length % size == 0]


def words(size: int) -> str:
    """Bytes as a message names them."""
    return f"{size / 2**20:.1f} MiB"
