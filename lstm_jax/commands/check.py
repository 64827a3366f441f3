"""hold a cell, a gate table, an activation or a task of your own to what it has to keep.

  lstm-jax check leaky.py:leaky                                 the seven laws of a cell
  lstm-jax check leaky.py:leaky --reference=leaky.py:reference  ... beside its step in NumPy
  lstm-jax check lazy.py:lazy                                   a gate table, in the LSTM
  lstm-jax check lazy.py:swish                                  an activation, as its candidate's
  lstm-jax check marked.py:marked                               a task: batches, loss, splits

`lstm-jax new` writes such files.
A reference is `reference(params, carry, x) -> (carry, y)` in NumPy, for one example. What is
broken is shown at the smallest sizes that break it. Exit codes: 0 all is kept, 2 something is not.
"""

from __future__ import annotations

import inspect
import time
from functools import partial
from typing import Any

import jax

from lstm_jax import plugins
from lstm_jax.cells import CELLS, lstm
from lstm_jax.cells.gates import GATES, GateTable
from lstm_jax.commands.arguments import Arguments, Flag
from lstm_jax.config.options import default_config
from lstm_jax.core import Cell
from lstm_jax.errors import OK, USAGE_ERROR, UsageError
from lstm_jax.tasks.contract import check_task
from lstm_jax.testing import Broken, check_cell
from lstm_jax.training.program import build_task

FLAGS = (
    Flag("reference", "", "of a cell: its step once more in NumPy, FILE.py:NAME"),
    Flag("keyed", False, "with the cell's randomness on"),
    Flag("bent", False, "the cell's gradients are meant to differ from those of its values"),
    Flag("redrawn", False, "with --keyed: randomness is drawn anew at every step"),
)
EXPECTED = (
    "a constructor (hidden, *, ...) -> Cell, a GateTable, an activation u -> a, or a task's build"
)


def run(arguments: Arguments) -> int:
    """Check every word."""
    if not arguments.words:
        raise UsageError("check what? lstm-jax check FILE.py:NAME")
    codes = [check(word, arguments.flags) for word in arguments.words]
    return max(codes)


def check(name: str, flags: Any) -> int:
    """Say what the part was taken for, then what it keeps."""
    part = plugins.find("part", name, {**GATES, **CELLS}, EXPECTED, _is_part)
    if _first(part) == "config":
        print(f"{name}: a task")
        return told(check_task(build_task(default_config(name))))
    kind, cell = as_cell(part)
    print(f"{name}: {kind}")
    return laws(cell, flags)


def as_cell(part: Any) -> tuple[str, Any]:
    """(what it is, the cell or the constructor that the laws are tried on)."""
    if isinstance(part, GateTable):
        return "a gate table, in the LSTM", partial(lstm, gates=part)
    if isinstance(part, Cell) or _first(part) == "hidden":
        return "a cell", part
    return "an activation, as the LSTM's candidate", partial(lstm, candidate_activation=part)


def laws(cell: Any, flags: Any) -> int:
    find = partial(plugins.find, "reference", table={}, expected="(params, carry, x) -> (carry, y)")
    reference = find(name=flags.reference) if flags.reference else None
    key = jax.random.key(0) if flags.keyed else None
    began = time.perf_counter()
    try:
        kept = check_cell(cell, reference, key=key, bent=flags.bent, redrawn=flags.redrawn)
    except Broken as broken:
        print(f"{broken}")
        return USAGE_ERROR
    loop = "its reference" if reference else "its own step, for want of a --reference"
    print("\n".join(f"  kept    {law}" for law in kept))
    print(f"all laws are kept, beside {loop}, in {time.perf_counter() - began:.0f} s")
    return OK


def told(promises: dict[str, str]) -> int:
    for promise, wrong in promises.items():
        print(f"  broken  {promise}: {wrong}" if wrong else f"  kept    {promise}")
    return USAGE_ERROR if any(promises.values()) else OK


def _is_part(part: Any) -> bool:
    return isinstance(part, GateTable | Cell) or callable(part)


def _first(part: Any) -> str:
    """The name of a function's first parameter, which says what kind of part it is."""
    if not callable(part):
        return ""
    return next(iter(inspect.signature(part).parameters), "")
