"""A cell over steps that may not count, or after which a fresh sequence begins."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Cell


class Step(NamedTuple):
    """What enters one step: input, keys, whether it counts, whether a fresh start follows it."""

    x: Any
    keys: Any = None
    valid: Any = None
    restart: Any = None


class Masked(NamedTuple):
    """A projected step that may not count."""

    z: Any
    valid: Array
    restart: Array


def stepping(cell: Cell) -> Cell:
    """The cell over `Step`s: it projects their x, and holds or restarts where they say so."""

    def project(params, step):
        zs = cell.project(params, step.x, step.keys)
        return zs if step.valid is None else Masked(zs, step.valid, step.restart)

    def advance(params, carry, step, r):
        if not isinstance(step, Masked):
            return cell.advance(params, carry, step, r)
        new, y = cell.advance(params, carry, step.z, r)
        new = select(step.valid, new, carry)
        if step.restart is not None:
            new = select(step.restart, cell.initial_carry(params, step.valid.shape), new)
        return new, jax.tree.map(lambda leaf: jnp.where(step.valid[:, None], leaf, 0), y)

    return cell._replace(project=project, advance=advance)


def select(where: Array, yes: Any, no: Any) -> Any:
    """`yes` for the examples `where` [B] is True, `no` for the others."""
    return jax.tree.map(lambda a, b: jnp.where(where[:, None], a, b), yes, no)
