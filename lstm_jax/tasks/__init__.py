"""Tasks by name. Each module has its rows `OPTIONS` and `build(config) -> Task`.

A task of your own is its `build`, FILE.py:build; its rows are the `OPTIONS` of the same file.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lstm_jax.errors import UsageError
from lstm_jax.option import Option
from lstm_jax.plugins import find, is_reference, source
from lstm_jax.tasks import mnist, vowels
from lstm_jax.tasks.forecast import forecast as forecast_task
from lstm_jax.tasks.language import language as language_task
from lstm_jax.tasks.music import polyphonic
from lstm_jax.tasks.synthetic import (
    adding,
    copy_memory,
    counting,
    parity,
    random_data,
    temporal_order,
)

TASKS = {
    "adding": adding,
    "copy_memory": copy_memory,
    "counting": counting,
    "forecast": forecast_task,
    "language": language_task,
    "mnist": mnist,
    "parity": parity,
    "polyphonic": polyphonic,
    "random_data": random_data,
    "temporal_order": temporal_order,
    "vowels": vowels,
}


def task_of(name: str) -> Any:
    """The `OPTIONS` and `build` of a task.

    Raises:
      UsageError: nobody knows the task, or it is none.
    """
    found = find("task", name, TASKS, "a function build(config) -> Task")
    if not is_reference(name):
        return found
    module = source(name.rpartition(":")[0]).module
    rows = getattr(found, "OPTIONS", getattr(module, "OPTIONS", ()))
    if not isinstance(rows, tuple) or not all(isinstance(row, Option) for row in rows):
        raise UsageError(f"{module.__file__}: OPTIONS={rows!r}: expected a tuple of Option(...)")
    return SimpleNamespace(OPTIONS=rows, build=found)
