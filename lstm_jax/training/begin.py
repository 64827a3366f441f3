"""How a run begins: afresh, where it stopped, past its end, or with another run's weights.

What is in the workdir decides. A run that goes on may change the options marked `midway`; each
change is a line of incidents.jsonl. Everything here reads; the journal writes.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lstm_jax import plugins
from lstm_jax.config.fields import Resolved, flatten, replaced
from lstm_jax.config.options import marked
from lstm_jax.errors import UsageError
from lstm_jax.training import saved as runs
from lstm_jax.workdir import seal
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.seal import CheckpointMismatch

NOTHING = "(no such field)"


class Begin(NamedTuple):
    """What a run finds when it begins."""

    changes: dict[str, tuple]  # {field: (there, here)}, of a run that goes on under another config
    reopen: bool  # it had ended, and is to go on
    source: dict[str, Any]  # the run whose weights it starts from; {}: none
    data: dict[str, Any] = {}  # which data it trains on, by the task
    understood: str = ""  # what the task made of them


AS_IT_WAS = Begin({}, False, {})

# ---------------------------------------------------------------- on, with changes


def changes(config: Resolved, workdir: Path) -> dict[str, tuple]:
    """{field: (there, here)} where the run in `workdir` has another config.

    On which devices it is computed may differ: the options marked `placement`.
    """
    path = workdir / "config.json"
    if not path.exists():
        return {}
    theirs, ours = flatten(runs.read_json(path, "")), json.loads(json.dumps(config.flat))
    names = sorted({*theirs, *ours}.difference(marked("placement", config.task.name)))
    pairs = {n: (theirs.get(n, NOTHING), ours.get(n, NOTHING)) for n in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def check_same(config: Resolved, workdir: Path) -> None:
    """Raises UsageError when `workdir` holds a run of another config: what differs, what to do."""
    if found := changes(config, workdir):
        raise refusal(config, found, workdir)


def check_goes_on(config: Resolved, workdir: Path, named: bool, reopen: bool) -> None:
    """Raises UsageError unless a run in `workdir` may go on under this config.

    More steps always may. What else is marked `midway` may where the user `named` the workdir: the
    default one may hold a run that nobody thought of.
    """
    found, may = changes(config, workdir), marked("midway", config.task.name)
    before, after = found.get("train.num_steps", (0, 0))
    shortened = before > after and not reopen
    if shortened or not set(found) <= set(may if named else ["train.num_steps"]):
        raise refusal(config, found, workdir)
    if found and not (reopen or after) and is_finished(workdir):
        raise UsageError(
            f"{workdir} completed at step {runs.summary(workdir)['step']}, so {_listed(found)} "
            "would change nothing; --extend=STEPS goes on with it for so many steps"
        )


def check_data(found: dict[str, Any], workdir: Path, may: bool) -> None:
    """Raises UsageError where the run in `workdir` was made with other data than these.

    Of a task that says which its data are; `may` is --changed_data.
    """
    known = runs.recorded(workdir).get("data", {})
    if may or not known or not found or known == found:
        return
    lines = [f"the data are not those that {workdir} was made with:"]
    for name in sorted({*known, *found}):
        if known.get(name) != found.get(name):
            lines += [f"  {name}: {known.get(name)} there, {found.get(name)} here"]
    lines += ["bring the old file back, start a new run, or say --changed_data to go on with these"]
    raise UsageError("\n".join(lines))


def refusal(config: Resolved, found: dict[str, tuple], workdir: Path) -> UsageError:
    """What differs, and which command does what may have been meant."""
    lines = [f"{workdir} holds a run of another config:"]
    lines += [f"  {name}: {there} there, {here} here" for name, (there, here) in found.items()]
    lines += [f"to go on with that run as it is: lstm-jax train --workdir={workdir}"]
    before, after = found.get("train.num_steps", (0, 0))
    may = marked("midway", config.task.name)
    midway = {n: pair for n, pair in found.items() if n in may and n != "train.num_steps"}
    if set(found) <= set(may) and midway and before <= after:
        lines += [f"to go on with that run under {_listed(midway)}: add --workdir={workdir}"]
    elif before <= after and not _reshapes(found):
        lines += [f"to start from its weights: another --workdir=DIR and --init_from={workdir}"]
    lines += ["to start afresh elsewhere, name another directory with --workdir=DIR"]
    return UsageError("\n".join(lines))


def _listed(found: dict[str, tuple]) -> str:
    return " and ".join(f"{name}={here}" for name, (_, here) in found.items())


def _reshapes(found: dict[str, tuple]) -> bool:
    """Whether the other run's weights are likely to be of other shapes."""
    return any(name.startswith(("cell.", "model.")) or name == "task.name" for name in found)


def incidents(workdir: Path) -> list[dict[str, Any]]:
    """The lines of incidents.jsonl; torn ones are left out."""
    path, found = workdir / "incidents.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


# ---------------------------------------------------------------- past the end


def is_finished(workdir: Path) -> bool:
    """Whether the run in `workdir` completed under the config that lies there."""
    found, config = runs.summary(workdir), runs.saved_config(workdir)
    return (found.get("status"), found.get("config_hash")) == ("completed", config.hash)


def extended(config: Resolved, workdir: Path, more: int) -> tuple[Resolved, bool]:
    """(config, whether the run is reopened) with `more` steps after the end of the run there.

    A run that has not finished goes on to its end first, so that the same command may be given
    again after it was interrupted.

    Raises:
      UsageError: nothing to extend, a run that diverged, no number of steps.
    """
    if more < 1:
        raise UsageError(f"--extend={more}: expected how many more steps, at least 1")
    saved, found = runs.saved_config(workdir), runs.summary(workdir)
    if found.get("status") == "diverged":
        raise UsageError(
            f"{workdir} diverged after step {found['step']} and would again; go on from there "
            "with --config.optimizer.learning_rate=SMALLER instead of --extend"
        )
    finished = is_finished(workdir)
    steps = found["step"] + more if finished else saved.train.num_steps
    if not finished:
        print(
            f"{workdir} has not finished its {steps} steps: it goes on to there; give --extend "
            "again once it has"
        )
    return replaced(config, {"train.num_steps": steps}), finished


# ---------------------------------------------------------------- another run's weights


def source_of(workdir: Path, init_from: str, optimizer: bool) -> dict[str, Any]:
    """Where the run in `workdir` starts from: as asked, or as its manifest says; {}: afresh.

    Raises:
      UsageError: no run there, or `workdir` holds one that started from somewhere else.
    """
    if optimizer and not init_from:
        raise UsageError("--init_optimizer goes with --init_from=RUN: whose optimizer?")
    asked: dict[str, Any] = {}
    if init_from:
        path = runs.workdir_of(init_from, "train --init_from")
        with plugins.apart():
            runs.saved_config(path)
        asked = {"run": str(path.resolve()), "optimizer": optimizer}
    if not (workdir / "config.json").exists():
        return asked
    known = runs.recorded(workdir).get("init_from", {})
    if asked and asked != {name: known.get(name) for name in asked}:
        began = f"from {known['run']}" if known else "afresh"
        raise UsageError(
            f"{workdir} holds a run that started {began}; --init_from={init_from} starts a new "
            "one: name another directory with --workdir=DIR"
        )
    return known


def inherited(source: dict[str, Any], like: Any, workdir: Path) -> tuple[dict, dict]:
    """({"params": ..., "opt_state": ...}, the source with step and digest) for a state `like` ours.

    The best parameters; with its optimizer the newest ones, which its averages belong to. Nothing
    is read, and nothing returned but the source, where `workdir` has a checkpoint to go on from.

    Raises:
      UsageError: no checkpoint that verifies; CheckpointMismatch: weights of other shapes.
    """
    if Checkpoints(workdir).listed():
        return {}, source
    folder = Path(source["run"])
    found = Checkpoints(folder).leaves()
    if found is None:
        raise UsageError(f"{folder} has no checkpoint that verifies; see lstm-jax checkpoint")
    step, digest, leaves = found
    parts = {"params": ("params" if source["optimizer"] else "best/params", like.params)}
    if source["optimizer"]:
        parts["opt_state"] = ("opt_state", like.opt_state)
    else:
        step = int(leaves["best/step"])
    taken = {name: _taken(leaves, prefix, part, folder) for name, (prefix, part) in parts.items()}
    return taken, {**source, "step": step, "digest": digest}


def _taken(leaves: dict[str, Any], prefix: str, like: Any, folder: Path) -> Any:
    """The part of a saved state under `prefix`, as a tree like `like`."""
    own = {n.removeprefix(f"{prefix}/"): x for n, x in leaves.items() if n.startswith(f"{prefix}/")}
    wanted = seal.flatten(like)
    if lines := seal.differences(wanted, own):
        raise CheckpointMismatch(
            f"the {'optimizer' if prefix == 'opt_state' else 'weights'} of {folder} do not fit:\n"
            + "\n".join(lines)
            + "\n--init_from needs the same cell, model and sizes of the task, and "
            "--init_optimizer the same optimizer"
        )
    ordered = iter([own[path] for path in wanted])
    return jax.tree.map(lambda _: next(ordered), like)
