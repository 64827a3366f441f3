"""What a time loop keeps for its backward pass, and how it is written.

Gates may be kept in fewer bits. An h that is what the step puts out need not be kept: it stands in
ys. A GPU launches a kernel for every array that a step writes: there all of them are one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lstm_jax.core import Array
from lstm_jax.engines.layouts import in_order
from lstm_jax.ops import platform

KEPT = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}  # what gates may be kept in


class Kept(NamedTuple):
    """What a step puts out and keeps; of its carries the leaves that nothing else says, else None.

    The carry that enters a step is the one that left the step before, and y may say some of it.
    """

    y: Any
    entered: Any = ()
    left: Any = ()
    blocks: tuple[Array, ...] = ()


def keep(kind: str, once: bool, carry: Any, new: Any, y: Any, blocks: tuple[Array, ...]) -> Kept:
    """What a step from `carry` to `new` keeps.

    `kind`: the type for gates, by name. `once`: an h that stands in ys is not kept again.
    """
    if kind:
        blocks = tuple(block.astype(KEPT[kind]) for block in blocks)
    gpu = platform() == "gpu"
    said = jax.tree.map(lambda leaf: once and leaf is y, new)
    entered = jax.tree.map(lambda leaf, found: None if found or gpu else leaf, carry, said)
    left = jax.tree.map(lambda leaf, found: None if found or not gpu else leaf, new, said)
    return Kept(y, entered, left, blocks)


def settled(kept: Any, once: bool) -> tuple[Any, Any]:
    """(ys, what the backward pass needs) of what all steps kept."""
    ys = opened(kept).y
    if isinstance(kept, Packed):  # XLA for GPUs fails to fuse a slice with some products of it
        ys = lax.optimization_barrier(ys)
    return ys, kept if once else without_y(kept)


def without_y(kept: Any) -> Any:
    """What the steps of the backward pass read; of one array it is a part."""
    return kept if isinstance(kept, Packed) else kept._replace(y=())


def shifted(kept: Kept, first: Any, reverse: bool) -> Any:
    """What `entered` lacks, of all steps: a step later than it left, `first` in front of it."""

    def before(entered: Any, left: Any, start: Array) -> Any:
        if entered is not None:
            return None
        seen = kept.y if left is None else left
        parts = (seen[1:], start[None]) if reverse else (start[None], seen[:-1])
        return in_order(jnp.concatenate(parts))

    return jax.tree.map(before, kept.entered, kept.left, first, is_leaf=lambda leaf: leaf is None)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Arrays [..., B, F], those of one type side by side in one."""

    wide: tuple[Array, ...]
    tree: Any = field(metadata={"static": True})
    places: tuple[tuple[int, int, int], ...] = field(metadata={"static": True})


def packed(tree: Any) -> Any:
    """The arrays of the tree packed on a GPU, where all are [B, F]; elsewhere as they are."""
    leaves, shape = jax.tree.flatten(tree)
    if platform() != "gpu" or any(leaf.shape[:-1] != leaves[0].shape[:1] for leaf in leaves):
        return tree
    kinds = list(dict.fromkeys(leaf.dtype for leaf in leaves))
    ends, places = [0] * len(kinds), []
    for leaf in leaves:
        n = kinds.index(leaf.dtype)
        places.append((n, ends[n], ends[n] + leaf.shape[-1]))
        ends[n] += leaf.shape[-1]
    alike = [[leaf for leaf in leaves if leaf.dtype == kind] for kind in kinds]
    wide = tuple(jnp.concatenate(group, axis=-1) for group in alike)
    return Packed(wide, shape, tuple(places))


def opened(given: Any) -> Any:
    """What was `packed`."""
    if not isinstance(given, Packed):
        return given
    leaves = [given.wide[n][..., start:end] for n, start, end in given.places]
    return jax.tree.unflatten(given.tree, leaves)
