"""What a task promises, held against anybody's: `lstm-jax check FILE.py:NAME`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.tasks.task import Task


def check_task(task: Task) -> dict[str, str]:
    """{promise: what is wrong with it, "" where it is kept}."""
    promises = {
        "a batch has time first and the sizes of the spec": sizes,
        "a batch depends on (data, key, step) alone": pure,
        "the loss is finite, its own mean, and has a finite gradient": finite,
        "every split's batches serve the same loss": splits,
        "baselines stand beside splits that exist": baselines,
    }
    return {name: _said(check, task) for name, check in promises.items()}


def _said(check: Callable[[Task], str], task: Task) -> str:
    try:
        return check(task)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def batch_of(task: Task, step: int = 0) -> Any:
    return jax.jit(task.batch)(task.data, jax.random.key(0), jnp.int32(step))


def sizes(task: Task) -> str:
    inputs, spec = batch_of(task)["inputs"], task.spec
    if spec.ids:
        whole = jnp.issubdtype(inputs.dtype, jnp.integer) and inputs.ndim == 2
        return "" if whole else f"inputs are {inputs.dtype}{inputs.shape}, expected ids [T, B]"
    fits = inputs.ndim == 3 and inputs.shape[-1] == spec.in_features
    return "" if fits else f"inputs are {inputs.shape}, expected [T, B, {spec.in_features}]"


def pure(task: Task) -> str:
    first, again = batch_of(task, 3), batch_of(task, 3)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), first, again)
    return "" if all(jax.tree.leaves(same)) else "the same step gave two different batches"


def outputs_like(task: Task, batch: Any) -> jax.Array:
    """What a model that says 0.1 everywhere would put out."""
    steps, rows = batch["inputs"].shape[:2]
    shape = (steps, rows) if task.spec.readout == "every" else (rows,)
    return jnp.full((*shape, task.spec.out_features), 0.1)


def finite(task: Task) -> str:
    batch = batch_of(task)
    graded = jax.value_and_grad(task.loss, has_aux=True)
    (value, means), slope = jax.jit(graded)(outputs_like(task, batch), batch)
    if "loss" not in means:
        return f"the means are {', '.join(means)}; expected one called loss"
    mean = means["loss"].total / means["loss"].count
    if not np.isfinite(value) or not np.isfinite(slope).all():
        return f"the loss is {value}, its largest slope {jnp.abs(slope).max()}"
    close = np.isclose(value, mean, rtol=1e-4)
    return "" if close else f"the loss is {value}, but its mean says {mean}"


def splits(task: Task) -> str:
    if "valid" not in task.splits:
        return (
            f"there is no split valid, which chooses the best parameters: {', '.join(task.splits)}"
        )
    for name, (count, batch_of_split) in task.splits.items():
        batch = jax.jit(batch_of_split)(task.data, jnp.int32(count - 1))
        means = task.loss(outputs_like(task, batch), batch)[1]
        totals = {k: float(m.total) for k, m in means.items()}
        if not np.isfinite(list(totals.values())).all():
            return f"the last batch of {name} gives {totals}"
    return ""


def baselines(task: Task) -> str:
    wrong = [name for name in task.baselines if name not in task.splits]
    there = ", ".join(task.splits)
    return f"baselines of {', '.join(wrong)}; the splits are {there}" if wrong else ""
