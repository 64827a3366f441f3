"""A run on disk: whose it is, how far it got, and its model ready to use."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lstm_jax import plugins
from lstm_jax.compute import sharding
from lstm_jax.config.fields import Resolved, flatten, replaced, resolve
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.errors import UsageError
from lstm_jax.training.program import build_program
from lstm_jax.training.state import init_state
from lstm_jax.workdir import files
from lstm_jax.workdir.checkpoint import Checkpoints


class Run(NamedTuple):
    """A finished or interrupted run with the best parameters of its newest sound checkpoint."""

    config: Resolved
    program: Any
    hyper: dict
    params: Any
    step: int  # of the best parameters
    data: Any  # the task's data on the device


def saved_config(workdir: Path) -> Resolved:
    """The config of the run in `workdir`.

    Raises:
      UsageError: there is no run, or its config is none that this version reads.
    """
    saved = flatten(read_json(workdir / "config.json", _no_run(workdir)))
    plugins.use(workdir)
    if "task.name" not in saved:
        raise UsageError(f"{workdir / 'config.json'} has no task.name; it is no config of a run")
    return resolve(apply_overrides(default_config(saved["task.name"]), saved))


def summary(workdir: Path) -> dict[str, Any]:
    """summary.json, or {} where the run has not ended."""
    path = workdir / "summary.json"
    return read_json(path, "") if path.exists() else {}


def recorded(workdir: Path) -> dict[str, Any]:
    """manifest.json, or {} where there is none that can be read."""
    return files.read_json(workdir / "manifest.json")


def open_run(workdir: Path, check: Callable[[dict], None] = lambda source: None) -> Run:
    """The run in `workdir`, its task built and its best parameters restored.

    `check` gets to know which data these are, and may refuse them.

    Raises:
      UsageError: no run, no checkpoint that verifies, or data that is gone.
    """
    sharding.configure_cpu_devices(1)
    # It may have been trained on more devices than there are here.
    config = replaced(saved_config(workdir), {"parallel.data": 1})
    program, hyper = build_program(config), config.hyper
    check(program.task.source)
    target = jax.eval_shape(partial(init_state, program), hyper)
    restored = Checkpoints(workdir).restore(target, move=False)
    if restored is None:
        raise UsageError(f"{workdir} has no checkpoint that verifies; see lstm-jax checkpoint")
    best = restored[1].best
    data = jax.device_put(program.task.data)
    return Run(config, program, hyper, best.params, int(best.step), data)


def workdir_of(value: str, verb: str) -> Path:
    """The existing directory that --workdir names; UsageError with the runs there are."""
    if not value:
        raise UsageError(f"which run? lstm-jax {verb} --workdir=DIR{_known_runs()}")
    workdir = Path(value)
    if not workdir.is_dir():
        raise UsageError(f"no directory {value!r}{_known_runs()}")
    return workdir


def _known_runs() -> str:
    found = sorted(str(path.parent) for path in Path("runs").glob("*/config.json"))
    return f"; there are: {', '.join(found)}" if found else ""


def _no_run(workdir: Path) -> str:
    return f"{workdir} holds no run: it has no config.json{_known_runs()}"


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """An object from a file; UsageError with `missing`, or with what is wrong with it."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(missing) from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is damaged: it holds {type(value).__name__}, not an object")
    return value
