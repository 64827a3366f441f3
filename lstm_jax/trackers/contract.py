"""What a tracker can do, and what it is told of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.errors import UsageError
from lstm_jax.workdir.metrics import PLACE

PROJECT = "lstm-jax"
ROOM = 1 << 24  # bytes that a local store needs to begin


class Run(NamedTuple):
    """A run as trackers know it. The same folder is the same run, however often it is sent."""

    id: str  # 16 hex digits
    name: str
    group: str  # the name of its sweep, "" of a run alone
    home: Path  # where a local store lies: beside the run or its sweep
    config: dict[str, Any]  # flat: {"cell.hidden": 64}
    notes: dict[str, str]  # workdir, config_hash, commit, trial, variant
    began: float = 0.0  # seconds since 1970, of its first attempt; 0: unknown
    ended: float = 0.0  # 0 while it goes on


class Point(NamedTuple):
    """A line of metrics.jsonl: {"train/loss": 0.5}."""

    step: int
    values: dict[str, float]


def home_of(workdir: Path) -> Path:
    """Where a local store of a run, a sweep or one of its trials lies."""
    folder = workdir.resolve()
    return folder.parents[2] if (folder / PLACE).exists() else folder.parent


def nothing(*_: Any) -> None:
    """What a tracker does not do."""


class Tracker(NamedTuple):
    """Functions of one tracker; `open` gives the handle that the others take first.

    A call that returns has been accepted. Whatever it raises is said once, and sent again later.
    """

    open: Callable[[Run], Any]  # the run `Run.id`, made where it is not there
    scalars: Callable[[Any, Sequence[Point]], None]
    figure: Callable[[Any, int, str, Path], None] = nothing  # step, name, PNG
    text: Callable[[Any, int, str, str], None] = nothing  # step, name, Markdown
    summary: Callable[[Any, int, dict[str, Any]], None] = nothing  # {"best/test/rmse": 0.1}
    close: Callable[[Any, str], None] = nothing  # completed | diverged | pruned | interrupted | ...
    # {tag: steps} that it holds of these tags. None: it cannot be asked, and a kill between a
    # point that was sent and the note of it may send that point twice.
    held: Callable[[Any, Iterable[str]], dict[str, set[int]]] | None = None
    check: Callable[[Path], None] = nothing  # home; UsageError where it cannot work
    place: Callable[[Path], str] = str  # home -> where its runs lie, and how to look at them


def installed(name: str, *modules: str) -> None:
    """UsageError unless all modules of the extra `name` are there."""
    missing = [module for module in (modules or (name,)) if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"--tracker={name} needs {', '.join(missing)}: pip install 'lstm-jax[{name}]'; or run "
            f"without it and send the run later: lstm-jax track --workdir=DIR --tracker={name}"
        )


def writable(name: str, folder: Path) -> None:
    """UsageError where a local store could not be written."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise UsageError(f"--tracker={name}: {there} is not writable; {_elsewhere(name)}")
    if (free := shutil.disk_usage(there).free) < ROOM:
        raise UsageError(
            f"--tracker={name}: {there} has {free >> 20} MiB left, {ROOM >> 20} are needed; make "
            f"room, or {_elsewhere(name)}"
        )


def _elsewhere(name: str) -> str:
    return f"leave --tracker={name} out and send the run later with lstm-jax track"
