"""Where workers run. A launcher is a class `Launcher(options)`, or a user's own, FILE.py:NAME, with

    FLAGS                    the flags that are its own; `options` has their values
    submit(workdir, packs)   start workers for these packs
    poll() -> list[str]      look after them; the jobs that are queued or alive ([]: all are gone)
    cancel()                 Ctrl-C: tell them to save and stop, and wait until they have

and, where it can,

    describe(workdir, packs) -> str   --dry-run: what `submit` would start
    take_back(workdir)                `sweep cancel`, of a launch of any process: what is queued
    grow(packs)                       what a search has asked for and has not ended: look after it,
                                      and start workers for what is `unclaimed`

What became of a pack is never asked of a launcher: the pack's files say it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_jax import plugins
from lstm_jax.errors import UsageError
from lstm_jax.option import Flag
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder
from lstm_jax.workdir.files import read_json, write_json

LAUNCHERS = {
    "local": "lstm_jax.sweep.workers.launchers.local",
    "slurm": "lstm_jax.sweep.workers.launchers.slurm",
    "ray": "lstm_jax.sweep.workers.launchers.ray",
}
SHARED = (
    Flag("workers", 0, "local: processes (0: one per GPU, or one); slurm, ray: packs at a time"),
    Flag("cpus", 0, "slurm, ray: cores a pack (0: the cluster's default)"),
)
LAUNCH = Path("logs", "launch.json")  # how a sweep was launched last


def find(name: str) -> Any:
    """The class of the launcher `name`, or that of FILE.py:NAME."""
    found = plugins.find("launcher", name, LAUNCHERS, "a class with submit, poll, cancel", fits)
    return importlib.import_module(found).Launcher if isinstance(found, str) else found


def fits(part: Any) -> bool:
    return isinstance(part, type) and all(hasattr(part, w) for w in ("submit", "poll", "cancel"))


def flags(*names: str) -> tuple[Flag, ...]:
    """Those of every launcher of the package, and of the user's own among `names`."""
    own = [name for name in names if plugins.is_reference(name)]
    found = {flag.name: flag for flag in SHARED}
    for name in [*LAUNCHERS, *own]:
        for flag in getattr(find(name), "FLAGS", ()):
            if flag.name in found:
                raise UsageError(
                    f"launcher {name}: its flag --{flag.name} is there already; rename it"
                )
            found[flag.name] = flag
    return tuple(found.values())


def make(name: str, options: dict[str, Any]) -> Any:
    """The launcher `name`; UsageError for an unknown one, or if its cluster is not there."""
    return find(name)(options)


def described(name: str, options: dict[str, Any], workdir: Path, packs: Sequence[int]) -> str:
    """What a launch would start; UsageError of a launcher that cannot say."""
    launcher = make(name, options)
    if not hasattr(launcher, "describe"):
        raise UsageError(f"--dry-run: launcher {name} does not say what it would start")
    return launcher.describe(workdir, list(packs))


def remember(workdir: Path, options: dict[str, Any]) -> None:
    """For who takes jobs back or submits them again, in another process."""
    (workdir / LAUNCH).parent.mkdir(parents=True, exist_ok=True)
    write_json(workdir / LAUNCH, options)


def unclaimed(workdir: Path, packs: Sequence[int]) -> list[int]:
    """Those that no worker has ever begun."""
    return [n for n in packs if not claims.attempts(pack_folder(workdir, n))]


def take_back(workdir: Path) -> None:
    """What is queued leaves the queue, where the launcher of the last launch can do that."""
    name = read_json(workdir / LAUNCH).get("launcher", "local")
    if take := getattr(find(name), "take_back", None):
        take(workdir)
