"""A workdir from a file of weights: step 0 of a run whose parameters came from elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.compute import sharding
from lstm_jax.config.fields import resolve
from lstm_jax.convert import files, runs
from lstm_jax.convert.layers import flat
from lstm_jax.core import Cell
from lstm_jax.errors import UsageError
from lstm_jax.training.program import build_program
from lstm_jax.training.state import init_state
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.manifest import write_config, write_manifest


class Imported(NamedTuple):
    """What an import found."""

    library: str  # whose names
    guessed: bool
    lacking: list[str]  # arrays that kept their initial values


def renamed(state: dict[str, Any], rename: str) -> dict[str, Any]:
    """`lstm.=rnn.,fc.=head.linear.`: names that begin so begin otherwise."""
    pairs = [pair.partition("=") for pair in rename.split(",") if pair]
    for old, equals, _ in pairs:
        if not equals or not any(name.startswith(old) for name in state):
            raise UsageError(
                f"--rename: expected OLD=NEW,OLD=NEW with beginnings of names; {old!r} begins "
                f"none of {', '.join(list(state)[:8])}"
            )

    def new(name: str) -> str:
        found = next(((o, n) for o, _, n in pairs if name.startswith(o)), ("", ""))
        return found[1] + name.removeprefix(found[0])

    return {new(name): array for name, array in state.items()}


def make(config: Any, path: Path, workdir: Path, library: str, rename: str, part: bool) -> Imported:
    """Make `workdir` from the arrays in `path`.

    Raises: UsageError for a workdir that is taken, or that lists what does not fit.
    """
    if (workdir / "config.json").exists():
        raise UsageError(f"{workdir} holds a run; name another directory with --workdir=DIR")
    arrays, notes = files.load(path)
    arrays = renamed(arrays, rename)
    sharding.configure_cpu_devices(1)
    program, hyper = build_program(config), resolve(config).hyper
    cell = runs.cell_of(config, hyper)
    state = program.jit(partial(init_state, program))(hyper)
    notes |= {"library": library} if library else {}
    params, found = parameters(cell, jax.device_get(state.params), arrays, notes, part)
    state = init_state(program, hyper, jax.tree.map(jnp.asarray, params))
    _save(program, workdir, state, path, found.library)
    return found


def parameters(
    cell: Cell, like: Any, arrays: dict[str, Any], notes: Mapping[str, Any], part: bool = False
) -> tuple[dict[str, Any], Imported]:
    """Parameters shaped `like` a model's from what `files.load` read.

    Raises: UsageError that lists what does not fit.
    """
    runs.check_options(cell, like, notes.get("layers", ()))
    unneeded = set(notes.get("optional", ())) - set(flat(like))
    arrays = {name: array for name, array in arrays.items() if name not in unneeded}
    known = notes.get("library", "")
    library = known or runs.guess(cell, like, arrays)
    params, lacking = runs.from_names(library, cell, like, arrays, part)
    return params, Imported(library, not known, lacking)


def _save(program: Any, workdir: Path, state: Any, path: Path, library: str) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, state)
    checkpoints.close()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = {"file": str(path), "sha256": digest, "library": library}
    write_manifest(workdir, program.config, imported=source, data=program.task.source)
    write_config(workdir, program.config)
