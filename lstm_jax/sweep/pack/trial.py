"""One trial's directory while its pack trains: the same files as a single run leaves.

Left out are what would cost more than the training: figures (`lstm-jax predict` draws them from
the checkpoint) and, unless `train.histogram_every` asks for them, histograms.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from lstm_jax.config.fields import Resolved
from lstm_jax.config.options import default_config
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.files import read_json, replace_json, write_json
from lstm_jax.workdir.manifest import describe, write_config
from lstm_jax.workdir.metrics import open_writer, read_metrics

STATUS = "status.json"
OVER = ("completed", "diverged", "pruned")  # a trial that trains no more, and has its summary


class TrialRun:
    """A trial of a pack that is being trained: `number` in the sweep, its files, how far it is."""

    def __init__(self, number: int, config: Resolved, folder: Path, attempt: int, pack: int):
        self.number, self.config, self.folder = number, config, folder
        self.attempt, self.pack, self.step = attempt, pack, 0
        self.ended = ""  # completed | diverged | pruned
        self.hyper = config.hyper  # its numbers now: PBT changes them on the way
        self.latest = math.nan  # of `train.best_metric`, at the last evaluation

    def open(self, step: int) -> None:
        """Log lines after the pack's `step` are dropped: they will be written again."""
        self.writer = open_writer(self.folder, self.config, resume_step=step)
        if not (self.folder / "manifest.json").exists():
            write_config(self.folder, self.config)
            own = {"config_hash": self.config.hash, "seed": int(self.config.seed)}
            write_json(self.folder / "manifest.json", _pack_manifest() | own)
        self.say("running")

    def change(self, numbers: Mapping[str, float]) -> None:
        """Go on with other numbers."""
        self.hyper = self.hyper | {name: np.float32(v) for name, v in numbers.items()}

    def say(self, status: str, **more: Any) -> None:
        """status.json, which is what the sweep knows of a trial."""
        mark = {"attempt": self.attempt, "pack": self.pack, "heartbeat": time.time()}
        found = {"status": status, "step": self.step, **mark, **more}
        replace_json(self.folder / STATUS, found)

    def due(self, every: int) -> bool:
        """Whether the trial's step is a multiple of `every`, or its last."""
        return self.step % every == 0 or self.step >= self.config.train.num_steps

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder, keep_last=1, keep_best=0)

    def finish(
        self, status: str, state: Any, metrics: dict, baselines: dict, speed: dict, **more: Any
    ) -> Checkpoints:
        """The trial's last lines, summary and checkpoint; the checkpoint is still being written."""
        self.ended = status
        if test := metrics.get("test"):
            self.writer.scalars(int(state.best.step), "test", test)
        lines = [line for line in read_metrics(self.folder) if line["split"] == "train"]
        last = {"train": {k: v for k, v in lines[-1].items() if k != "split"}} if lines else {}
        summary = {
            "status": status,
            "step": self.step,
            "metrics": last | metrics,
            **speed,
            "config_hash": self.config.hash,
            "best_step": int(state.best.step),
            "baselines": baselines,
            "parameters": sum(np.size(leaf) for leaf in _leaves(state.params)),
            "pack": self.pack,
            **more,
        }
        scores = {f"{s}/{name}": v for s, found in metrics.items() for name, v in found.items()}
        self.writer.hparams(self.writer.varied(self.config), scores, status)
        self.writer.flush(sync=False)
        saved = self.checkpoints()
        saved.save(self.step, state, {self.config.train.best_metric: float(state.best.value)})
        write_json(self.folder / "summary.json", summary)
        return saved


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)


@functools.cache
def _pack_manifest() -> dict[str, Any]:
    """The manifest but for what differs; the whole diff stands once, in the sweep's own."""
    found = describe(default_config())
    found["git"] = {k: v for k, v in found["git"].items() if k != "diff"}
    return found


def trial_status(folder: Path, end: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """status.json of a trial: "pending" at step 0 where it was never started.

    With `end`, how its pack ended: a trial that a failed pack left behind failed with it, for the
    same reason.
    """
    found = {"status": "pending", "step": 0, "error": "", **read_json(folder / STATUS)}
    if end.get("status") == "failed" and found["status"] not in OVER:
        found |= {"status": "failed", "error": found["error"] or end.get("error", "")}
    return found
