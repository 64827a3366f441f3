"""What happens where a step is not finite: `train.on_nan`, as a pure function of the state.

    stop      the state of the step before it is kept and the run ends as diverged (the default)
    skip      that step changes nothing but the count; `train.nan_limit` of them in a row diverge
    rollback  the newest checkpoint once more, the learning rate times `train.rollback_factor`;
              after `train.nan_limit` of those the run has diverged

`skip` helps against a bad batch now and then, `rollback` against steps that are too long. Because a
batch is a function of seed and step, both come out the same again to the bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.core import Array

POLICIES = ("stop", "skip", "rollback")


class Mishaps(NamedTuple):
    """What was done about steps that were not finite; part of the state, so a resume knows."""

    skipped: Array  # steps left out
    in_a_row: Array  # of these, since the last good one
    rollbacks: Array  # how often the run went back to a checkpoint


def no_mishaps() -> Mishaps:
    return Mishaps(*[jnp.int32(0)] * 3)


def select(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def settle(train: Any, state: Any, new: Any, finite: Array) -> Any:
    """`new` where it is finite; else the old state, marked bad or, under `skip`, a step further."""
    if train.on_nan != "skip":
        return select(finite, new, state)._replace(bad=state.bad | ~finite)
    row = jnp.where(finite, 0, state.mishaps.in_a_row + 1)
    mishaps = state.mishaps._replace(skipped=state.mishaps.skipped + ~finite, in_a_row=row)
    state = select(finite, new, state._replace(step=new.step))
    return state._replace(mishaps=mishaps, bad=state.bad | (row >= train.nan_limit))


def rate_factor(train: Any, mishaps: Mishaps) -> Any:
    """What rollbacks have left of the learning rate: `rollback_factor ** rollbacks`."""
    if train.on_nan != "rollback":
        return 1
    return jnp.float32(train.rollback_factor) ** mishaps.rollbacks


def may_roll_back(train: Any, state: Any) -> bool:
    """Whether the run, at this state, is to go back to a checkpoint."""
    if train.on_nan != "rollback" or not bool(state.bad):
        return False
    return int(state.mishaps.rollbacks) < train.nan_limit


def rolled_back(restored: Any, failed: Any) -> Any:
    """The restored state, which remembers one rollback more than the one that failed."""
    count = failed.mishaps.rollbacks + 1
    return restored._replace(mishaps=restored.mishaps._replace(rollbacks=count))


def revived(state: Any) -> Any:
    """A state that diverged or stopped early, as one that goes on; patience counts anew."""
    since = jnp.where(state.stopped, 0, state.best.evaluations_since)
    best = state.best._replace(evaluations_since=since)
    mishaps = state.mishaps._replace(in_a_row=state.mishaps.in_a_row * 0)
    # Each an array of its own: a chunk takes over the memory of every one.
    bad, stopped = state.bad & False, state.stopped & False
    return state._replace(bad=bad, stopped=stopped, best=best, mishaps=mishaps)


def counts(train: Any, mishaps: Mishaps) -> dict[str, Array]:
    """For log lines and the summary: what the policy counts, {} under `stop`."""
    if train.on_nan == "skip":
        return {"skipped_steps": mishaps.skipped}
    return {"rollbacks": mishaps.rollbacks} if train.on_nan == "rollback" else {}
