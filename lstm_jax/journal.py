"""What a run leaves outside the device: log lines, checkpoints, figures, a summary, its status.

The loop in `train` calls one method per event. A run stops for one reason, its `status`:

    running -> completed | diverged | interrupted (SIGINT, SIGTERM, SIGUSR1, SIGUSR2) | failed
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from lstm_jax.checkpoint import Checkpoints
from lstm_jax.config import config_hash, flatten
from lstm_jax.core import count
from lstm_jax.progress import LARGER_IS_BETTER, Progress, closing_table
from lstm_jax.writers import (
    learning_curves,
    open_writer,
    read_metrics,
    write_config,
    write_json,
    write_manifest,
)

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
SUMMARY = "summary.json"
ADVICE = """diverged: step {next} was not finite. The state of step {step} is kept.
What helps, most likely first:
  --config.optimizer.learning_rate={rate:.3g}   a third of what it was
  --config.optimizer.clip_norm=1.0   no gradient is longer than this
  --config.optimizer.warmup_steps={warmup}   a gentle start"""


def finished(config: Any, workdir: str | Path) -> dict | None:
    """The summary of a run that completed here with this very config, else None."""
    path = Path(workdir) / SUMMARY
    summary = json.loads(path.read_text()) if path.exists() else {}
    if (summary.get("status"), summary.get("config_hash")) != ("completed", config_hash(config)):
        return None
    print(f"{workdir}: completed at step {summary['step']}; nothing to do")
    return summary


class Journal:
    """One run's workdir while it trains: `with Journal(config, workdir) as run`."""

    def __init__(self, config: Any, workdir: str | Path):
        self.config, self.workdir, self.status = config, Path(workdir), "running"
        self.step, self.steps_done, self.seconds = 0, 0, 0.0
        self._began, self._took = time.perf_counter(), 0.0
        self._handlers: dict[int, Any] = {}
        train = config.train
        self.checkpoints = Checkpoints(
            self.workdir,
            train.keep_last,
            train.keep_best,
            train.keep_every,
            metric=train.best_metric,
            larger_is_better=train.best_metric in LARGER_IS_BETTER,
        )

    # ------------------------------------------------------------ start and stop

    def __enter__(self) -> Journal:
        for name in SIGNALS:
            with contextlib.suppress(ValueError):  # not the main thread: signals are not ours
                number = getattr(signal, name)
                self._handlers[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if kind is not None and issubclass(kind, Exception):
            self.status = "failed"
            with contextlib.suppress(OSError, ValueError):  # a full disk may be what went wrong
                self.summarize({}, error=f"{kind.__name__}: {error}")

    def _interrupt(self, number: int, frame: Any) -> None:
        """Stop after the running chunk; a second SIGINT stops at once."""
        if self.status == "running":
            self.status = "interrupted"
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def restore(self, target: Any) -> Any:
        """The newest sound state like `target`, or None; log lines after it are dropped."""
        self.step, state = self.checkpoints.restore(target) or (0, None)
        self.writer = open_writer(self.workdir, self.config, resume_step=self.step)
        write_config(self.workdir, self.config)
        write_manifest(self.workdir, self.config)
        self.progress = Progress(self.config.train.num_steps, self.step)
        if self.step:
            self.progress.message(f"going on from step {self.step} in {self.workdir}")
        return state

    def goes_on(self, state: Any) -> bool:
        """Whether another chunk is to be run."""
        bad, stopped = jax.device_get((state.bad, state.stopped))
        if self.status == "running" and bad:
            self.status = "diverged"
        elif self.status == "running" and (stopped or self.step >= self.config.train.num_steps):
            self.status = "completed"
        return self.status == "running"

    # ------------------------------------------------------------ events

    @contextlib.contextmanager
    def clock(self) -> Iterator[None]:
        """Times a chunk."""
        began = time.perf_counter()
        yield
        self._took = time.perf_counter() - began

    def trained(self, state: Any, metrics: dict) -> None:
        """A chunk is done: its log line, with the steps per second."""
        step, metrics = jax.device_get((state.step, metrics))
        steps = int(step) - self.step
        if steps:
            self.step, self.steps_done = int(step), self.steps_done + steps
            self.seconds += self._took
            metrics = metrics | {"steps_per_second": steps / self._took}
            self.writer.scalars(self.step, "train", metrics)
            self.progress.update(self.step, loss=metrics["loss"])

    def validated(self, metrics: dict, task: Any, forward: Callable) -> None:
        """An evaluation is done: its log line, and for a language model some text."""
        self.writer.scalars(self.step, "valid", metrics)
        name = self.config.train.best_metric
        self.progress.update(self.step, **{f"valid {name}": metrics[name]})
        if task.samples:
            key = jax.random.fold_in(jax.random.key(self.config.seed), self.step)
            self.writer.text(self.step, "samples", task.samples(forward, key))

    def histograms(self, **trees: Any) -> None:
        """How the numbers of each array are spread."""
        for tag, tree in trees.items():
            self.writer.histograms(self.step, tag, tree)

    def due(self, every: int) -> bool:
        """Whether this step is a multiple of `every`, or the run's last."""
        return self.step % every == 0 or self.step >= self.config.train.num_steps

    def save(self, state: Any) -> None:
        """A checkpoint; what was logged before it is on disk before it."""
        self.writer.flush()
        metric, value = self.config.train.best_metric, float(state.best.value)
        self.checkpoints.save(self.step, state, {metric: value})

    # ------------------------------------------------------------ the end

    def finish(self, state: Any, task: Any, forward: Callable, evaluate: Callable) -> dict:
        """Test the best parameters, draw, sum up; the summary."""
        metrics = {}
        if self.status != "interrupted":
            metrics = jax.tree.map(float, jax.device_get(evaluate()))
            self.writer.scalars(self.step, "test", metrics.get("test", {}))
            self.draw(task, forward)
        summary = self.summarize(
            metrics,
            best_step=int(state.best.step),
            baselines=task.baselines,
            parameters=count(state.params),
        )
        self.checkpoints.close()
        self.writer.close()
        self.progress.close()
        self.say(summary)
        return summary

    def draw(self, task: Any, forward: Callable) -> None:
        """The task's figures with the best parameters, and the learning curves."""
        figures = task.figures(forward) if task.figures else {}
        figures["learning_curves"] = learning_curves(self.workdir)
        for name, figure in figures.items():
            self.writer.figure(self.step, name, figure)

    def summarize(self, metrics: dict, **more: Any) -> dict:
        """summary.json and the row of TensorBoard's HParams; metrics of the best parameters."""
        lines = [line for line in read_metrics(self.workdir) if line["split"] == "train"]
        last = {"train": {k: v for k, v in lines[-1].items() if k != "split"}} if lines else {}
        summary = {
            "status": self.status,
            "step": self.step,
            "metrics": last | metrics,
            "steps_per_second": self.steps_done / self.seconds if self.seconds else None,
            "wall_seconds": time.perf_counter() - self._began,
            "config_hash": config_hash(self.config),
            **more,
        }
        write_json(self.workdir / SUMMARY, summary)
        scores = {f"{s}/{name}": v for s, found in metrics.items() for name, v in found.items()}
        if metrics:
            self.writer.hparams(flatten(self.config), scores, self.status)
        return summary

    def say(self, summary: dict) -> None:
        """How it ended, in the words of a user."""
        config, tested = self.config, summary["metrics"]
        if self.status == "diverged":
            numbers = {"rate": config.optimizer.learning_rate / 3, "step": self.step}
            warmup = max(config.train.num_steps // 20, 1)
            print(ADVICE.format(next=self.step + 1, warmup=warmup, **numbers), flush=True)
        if self.status == "interrupted":
            print(f"interrupted at step {self.step}; the same command goes on from there")
            return
        closing_table(tested, summary["baselines"], self.workdir, name=config.cell.name)
