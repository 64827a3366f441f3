"""A cell over steps that may not count, or after which a fresh sequence begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Cell, note


class Step(NamedTuple):
    """What enters one step: input, keys, whether it counts, whether a fresh start follows it."""

    x: Any
    keys: Any = None
    valid: Any = None
    restart: Any = None


def stepping(cell: Cell) -> Cell:
    """The cell over `Step`s: it projects their x, and holds or restarts where they say so."""

    # Not the cell, for the reason `deferred` gives.
    of_inputs, inner, fresh = cell.project, cell.update, cell.initial_carry

    def project(params, step):
        if step.valid is None:
            return of_inputs(params, step.x, step.keys)
        # Whatever stands in the padding, NaN included, must not reach a gradient: 0 * NaN is NaN.
        x = jnp.where(step.valid[..., None], step.x, 0)
        return note(of_inputs(params, x, step.keys), valid=step.valid, restart=step.restart)

    def update(params, carry, gate):
        new, y = inner(params, carry, gate)
        valid, restart = marks(gate.notes)
        if valid is None:
            return new, y
        new = select(valid, new, carry)
        if restart is not None:
            new = select(restart, fresh(params, valid.shape), new)
        return new, jax.tree.map(lambda leaf: jnp.where(valid[:, None], leaf, 0), y)

    return cell._replace(project=project, update=update)


def marks(notes: Mapping[str, Any]) -> tuple[Any, Any]:
    """(valid, restart) of steps that may not count, None where all do."""
    return notes.get("valid"), notes.get("restart")


def select(where: Array, yes: Any, no: Any) -> Any:
    """`yes` for the examples `where` [B] is True, `no` for the others."""
    return jax.tree.map(lambda a, b: jnp.where(where[:, None], a, b), yes, no)


def known(*sizes: Any) -> bool:
    """Whether the sizes are numbers: in an export they may be symbols, which compare with none."""
    return all(isinstance(size, int) for size in sizes)


def even_size(length: int, most: int) -> int:
    """A block size up to `most`: one that divides `length` where one is above half of `most`."""
    most = max(1, min(length, most))
    even = max(size for size in range(1, most + 1) if length % size == 0)
    return even if 2 * even > most else most


def split_steps(steps: Any, size: int) -> Any:
    """Steps [T, ...] as blocks [n, size, ...], the last filled up with steps that do not count."""
    blocks = -(-steps.x.shape[0] // size)
    steps = pad(steps, blocks * size - steps.x.shape[0])
    return jax.tree.map(lambda leaf: leaf.reshape(blocks, size, *leaf.shape[1:]), steps)


def join_steps(ys: Array, length: int) -> Array:
    """The first `length` steps of blocks [n, size, ...], as one sequence again."""
    return ys.reshape(ys.shape[0] * ys.shape[1], *ys.shape[2:])[:length]


def pad(steps: Any, extra: int) -> Any:
    """`extra` more steps at the end that do not count."""
    if known(extra) and not extra:
        return steps
    valid = jnp.ones_like(steps.x[..., 0], bool) if steps.valid is None else steps.valid
    last = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[-1:], (extra, *leaf.shape[1:])),
        steps._replace(valid=valid),
    )
    none = jnp.zeros_like(last.valid)
    last = last._replace(valid=none, restart=None if steps.restart is None else none)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), steps._replace(valid=valid), last)
