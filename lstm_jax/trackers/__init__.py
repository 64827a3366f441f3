"""Where results are looked for: MLflow, W&B, trackio or a tracker of a user's own.

`contract` says what a tracker can do, `send` passes on what metrics.jsonl holds, `follow` does so
while a run trains.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

from lstm_jax import plugins
from lstm_jax.trackers.contract import Tracker, home_of

__all__ = ["TRACKERS", "Named", "Tracker", "chosen"]

TRACKERS = {
    "mlflow": "lstm_jax.trackers.mlflow",
    "wandb": "lstm_jax.trackers.wandb",
    "trackio": "lstm_jax.trackers.trackio",
}


class Named(NamedTuple):
    """A tracker and what the command line calls it."""

    name: str
    tracker: Tracker


def chosen(names: str, workdir: Path) -> list[Named]:
    """The trackers of `--tracker=A,B`; UsageError for one that is unknown or that cannot work."""
    words = [word.strip() for word in names.split(",") if word.strip()]
    found = [Named(word, find(word)) for word in dict.fromkeys(words)]
    for _, tracker in found:
        tracker.check(home_of(workdir))
    return found


def find(name: str) -> Tracker:
    """The tracker `name`, or that of FILE.py:NAME."""
    part = plugins.find("tracker", name, TRACKERS, "a Tracker", lambda x: isinstance(x, Tracker))
    return importlib.import_module(part).TRACKER if isinstance(part, str) else part
