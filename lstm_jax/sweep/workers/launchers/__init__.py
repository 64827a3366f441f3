"""Where workers run. A launcher is a module with `Launcher(options)`, and that has three methods:

    submit(workdir, packs)   start workers for these packs
    poll() -> list[str]      look after them; the jobs that are queued or alive ([]: all are gone)
    cancel()                 tell them to save and stop, and wait until they have

What became of a pack is never asked of a launcher: the pack's files say it.
"""

from __future__ import annotations

import importlib
from typing import Any

from lstm_jax.errors import lookup

LAUNCHERS = {
    "local": "lstm_jax.sweep.workers.launchers.local",
    "slurm": "lstm_jax.sweep.workers.launchers.slurm",
    "ray": "lstm_jax.sweep.workers.launchers.ray",
}


def make(name: str, options: dict[str, Any]) -> Any:
    """The launcher `name`; UsageError for an unknown one, or if its cluster is not there."""
    module = importlib.import_module(lookup("launcher", name, LAUNCHERS))
    return module.Launcher(options)
