"""Arrays of one unroll on a mesh: laid out alike, and varying alike inside `jax.shard_map`.

A scan wants its carry to come back with the type it went in with, and on a mesh with explicit or
manual axes a type says where an array lies. A fresh carry lies nowhere in particular.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lstm_jax.core import Array


def manual() -> bool:
    """Whether this is the inside of a `jax.shard_map`."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def alike(xs: Array, params: Any, carry: Any, steps: Any) -> tuple[Any, Any, Any]:
    """(params, carry, steps) that vary alike, the carry and the steps laid out as the batch of xs.

    A parameter that varies nowhere is made to: the transpose of that sums its gradient.
    """
    where = jax.typeof(xs).sharding
    if where.spec[1] is not None:
        rows = PartitionSpec(where.spec[1])
        params = jax.tree.map(lambda leaf: on_mesh(leaf, where), params)
        carry = jax.tree.map(lambda leaf: laid_out(leaf, where, rows), carry)
        steps = jax.tree.map(lambda leaf: laid_out(leaf, where, where.spec[:2]), steps)
    given = params, carry, steps
    axes = frozenset().union(*map(varying, map(jax.typeof, jax.tree.leaves(given))))
    return jax.tree.map(lambda leaf: vary(leaf, axes), given)


def laid_out(leaf: Array, where: Any, spec: Any) -> Array:
    """The array with the `spec` of its leading axes on the mesh of `where`; the others whole."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf  # what is drawn from keys takes the place of what it meets
    spec = PartitionSpec(*spec, *[None] * (leaf.ndim - len(spec)))
    return jax.sharding.reshard(leaf, NamedSharding(where.mesh, spec))


def on_mesh(leaf: Any, where: Any) -> Any:
    """The leaf on the mesh of `where`: as it lies, or whole where it lies on none.

    The transpose of a product has to know how to sum over devices.
    """
    kind = jax.typeof(leaf).sharding
    return leaf if kind.mesh == where.mesh else laid_out(jnp.asarray(leaf), where, ())


def varying(kind: Any) -> frozenset[str]:
    """The manual axes over which arrays of this type differ."""
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma


def vary(leaf: Any, axes: frozenset[str]) -> Any:
    """The leaf, varying over all of `axes`."""
    missing = tuple(sorted(axes - varying(jax.typeof(leaf))))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf


def zeros(kind: Any) -> Array:
    """Zeros of an abstract type, laid out and varying as it says."""
    leaf = jnp.zeros(kind.shape, kind.dtype)
    if any(axis is not None for axis in kind.sharding.spec):
        leaf = laid_out(leaf, kind.sharding, kind.sharding.spec)
    return vary(leaf, varying(kind))


def alike_all(tree: Any) -> Any:
    """The tree with every leaf varying over all the manual axes that any of them varies over."""
    axes = frozenset().union(*(varying(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)))
    return jax.tree.map(lambda leaf: vary(leaf, axes), tree)
