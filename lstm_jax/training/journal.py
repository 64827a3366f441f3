"""What a run leaves outside the device: log lines, checkpoints, figures, a summary, its status.

The loop in `train` calls one method per event. A run stops for one reason, its `status`:

    running -> completed | diverged | interrupted (SIGINT, SIGTERM, SIGUSR1, SIGUSR2) | failed

What went wrong on the way and was dealt with is a line of incidents.jsonl: a damaged checkpoint, a
rollback, skipped steps, a step that took very long.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lstm_jax.compute import processes, sharding
from lstm_jax.config.fields import replaced, resolve
from lstm_jax.diagnostics import observe
from lstm_jax.errors import INTERRUPTED
from lstm_jax.ops import count
from lstm_jax.tasks.task import LARGER_IS_BETTER
from lstm_jax.training import advice, nonfinite, optim, saved
from lstm_jax.training.begin import AS_IT_WAS, Begin
from lstm_jax.training.watch import Alarms, Strict, Watchdog, asked_to_stop, leak_checks
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.console import Progress, closing_table
from lstm_jax.workdir.curves import learning_curves
from lstm_jax.workdir.files import append, write_json
from lstm_jax.workdir.lock import Lock
from lstm_jax.workdir.manifest import write_config, write_manifest
from lstm_jax.workdir.metrics import open_writer, read_metrics

SUMMARY, INCIDENTS = "summary.json", "incidents.jsonl"
DIVERGED = """diverged: step {next} was not finite{tried}{reason}. The state of step {step} is kept.
What helps, most likely first:
  {lines}"""


def finished(config: ConfigDict, workdir: str | Path) -> dict | None:
    """The summary of a run that completed here with this very config, else None."""
    summary = saved.summary(Path(workdir))
    if (summary.get("status"), summary.get("config_hash")) != ("completed", resolve(config).hash):
        return None
    print(f"{workdir}: completed at step {summary['step']}; nothing to do")
    return summary


def exact(metrics: dict, task: Any, forward: Callable) -> dict:
    """The metrics, those that the task computes in float64 from the forecasts in their place."""
    found = task.scores(forward) if task.scores else {}
    return metrics | {split: metrics.get(split, {}) | more for split, more in found.items()}


class Journal:
    """One run's workdir while it trains: `with Journal(config, workdir) as run`."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: str | Path,
        why: str = "",
        begins: Begin = AS_IT_WAS,
        progress: Progress | None = None,
    ):
        self.config, self.workdir, self.status = resolve(config), Path(workdir), "running"
        self.progress = progress or Progress(config.train.num_steps)
        self._losses: dict[str, float] = {}
        self.why, self.begins = why, begins  # it runs on so many devices; it goes on from there
        self.step, self.steps_done, self.seconds, self._skipped = 0, 0, 0.0, 0
        self._began, self._look = time.perf_counter(), None
        self.advice = advice.Report("", [])  # for a run that diverged
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
        train = self.config.train
        with contextlib.ExitStack() as guards:
            self.workdir = guards.enter_context(processes.own_folder(self.workdir))
            self.lock = guards.enter_context(Lock(self.workdir))
            alarms = guards.enter_context(Alarms())
            grace = asked_to_stop(alarms, train.grace_seconds, self._leave)
            self.asked = guards.enter_context(grace)
            self.watchdog, self.strict = Watchdog(alarms, self._slow), Strict(train.strict)
            guards.enter_context(leak_checks(train.strict))
            self._guards = guards.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._guards:
            self.progress.close()
            with contextlib.suppress(Exception):  # no save may outlive the lock
                self.checkpoints.close()
            if kind is not None and issubclass(kind, Exception):
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A last word; a full disk may be what went wrong."""
        self.status = "interrupted" if processes.is_loss(error) else "failed"
        self.lock.give_room()
        with contextlib.suppress(OSError, ValueError):
            self.summarize({}, error=f"{type(error).__name__}: {error}")

    def _leave(self) -> None:
        """The grace time is over and the chunk is not: the newest checkpoint has to do."""
        self.step, self.status = max(self.checkpoints.listed(), default=0), "interrupted"
        grace = self.config.train.grace_seconds
        with contextlib.suppress(OSError, ValueError):
            self.summarize({})
        self.progress.close()
        print(
            f"interrupted: the running chunk did not end within train.grace_seconds={grace:g}; the "
            f"same command goes on from step {self.step}. A smaller train.log_every ends sooner",
            file=sys.stderr,
            flush=True,
        )
        os._exit(INTERRUPTED)

    def restore(self, target: Any) -> Any:
        """The newest sound state like `target`, or None; log lines after it are dropped."""
        self.step, state = self.checkpoints.restore(target) or (0, None)
        first = not hasattr(self, "writer")
        self.writer = open_writer(self.workdir, self.config, resume_step=self.step)
        if first:
            if self.begins.understood:
                self.progress.message(self.begins.understood)
            self.progress.message(sharding.table(self.config, self.why))
            state = self._goes_on_otherwise(state)
            write_config(self.workdir, self.config)
            begins = self.begins
            write_manifest(self.workdir, self.config, init_from=begins.source, data=begins.data)
        for step, why, moved in self.checkpoints.skipped:
            self.record("corrupt checkpoint", step=step, why=why, moved_to=moved and moved.name)
        self.checkpoints.skipped.clear()
        if self.step:
            self.progress.message(f"going on from step {self.step} in {self.workdir}")
        self.progress.begin(self.step)
        self.progress.__enter__()
        return state

    def _goes_on_otherwise(self, state: Any) -> Any:
        """The state of a run that goes on under another config or past its end, as one that may.

        What this leaves on disk, and in which order, lets the same command be killed and repeated.
        """
        changes, reopen, source, *_ = self.begins
        if state is None:
            if source:
                self.progress.message(f"starting from {source['run']}, step {source['step']}")
            return None
        if not (changes or reopen):
            return state
        if any(jax.device_get((state.bad, state.stopped))):
            state = nonfinite.revived(state)
            self.save(state)
            self.checkpoints.wait()
        rates = self._rates(changes)
        told = {name: list(pair) for name, pair in changes.items()}
        self.record("goes on", step=self.step, changes=told, learning_rate=rates)
        for name, (there, here) in changes.items():
            self.progress.message(f"{name}: {there} up to step {self.step}, {here} from there on")
        if rates[0] != rates[1]:
            words = f"schedule {self.config.optimizer.schedule} of {self.config.train.num_steps}"
            self.progress.message(
                f"learning rate, by the {words} steps: {rates[0]:.4g} before, {rates[1]:.4g} now"
            )
        if jax.process_index() == 0:
            (self.workdir / SUMMARY).unlink(missing_ok=True)
        return state

    def _rates(self, changes: dict[str, tuple]) -> list[float]:
        """The learning rate at this step by the config before the changes, and by that of now."""
        before = replaced(self.config, {name: there for name, (there, _) in changes.items()})
        return [
            float(optim.learning_rate(c.optimizer, c.train.num_steps, self.step))
            for c in (before, self.config)
        ]

    def goes_on(self, state: Any) -> bool:
        """Whether another chunk is to be run; every process of the run gives the same answer."""
        bad, stopped = jax.device_get((state.bad, state.stopped))
        if bad:
            self.status = "diverged"
        elif stopped or self.step >= self.config.train.num_steps:
            self.status = "completed"
        elif sharding.any_process(bool(self.asked)):
            self.status = "interrupted"
        return self.status == "running"

    def rolls_back(self, state: Any) -> bool:
        """Whether the state is not finite and the newest checkpoint is to be tried once more."""
        if not nonfinite.may_roll_back(self.config.train, state):
            return False
        count = int(state.mishaps.rollbacks) + 1
        self.progress.message(f"step {self.step + 1} was not finite: rollback {count}")
        self.record("rollback", step=self.step, rollbacks=count)
        return True

    # ------------------------------------------------------------ events

    @contextlib.contextmanager
    def chunk(self, num_steps: int) -> Iterator[None]:
        """Watches and times a chunk of that many steps."""
        with self.strict("a chunk of steps"), self.watchdog.watch(num_steps):
            yield

    def trained(self, state: Any, metrics: dict) -> None:
        """A chunk is done: its log line, with the steps per second."""
        step, metrics = jax.device_get((state.step, metrics))
        steps, took = int(step) - self.step, self.watchdog.took
        if steps:
            self.step, self.steps_done = int(step), self.steps_done + steps
            self.seconds += took
            metrics = metrics | {"steps_per_second": steps / took}
            self.writer.scalars(self.step, "train", metrics)
            self._losses = {"loss": metrics["loss"]}
            if not self.due(self.config.train.eval_every):  # else `validated` says both at once
                self.progress.update(self.step, **self._losses)
        if (skipped := int(metrics.get("skipped_steps", 0))) > self._skipped:
            self.record("skipped steps", step=self.step, skipped_steps=skipped)
            self._skipped = skipped

    def _slow(self, how: str, seconds: float, usual: float) -> None:
        """The watchdog's report; while the steps are running it comes from another thread."""
        words = "are still running after" if how == "running" else "took"
        self.progress.message(
            f"the steps after {self.step} {words} {seconds:.1f} s; {usual:.2g} s are usual"
        )
        if how == "done":
            self.record("slow steps", step=self.step, seconds=seconds, usual_seconds=usual)

    def record(self, what: str, **facts: Any) -> None:
        """A line of incidents.jsonl."""
        if jax.process_index() == 0:
            line = json.dumps({"what": what, **facts, "time": time.time()})
            append(self.workdir / INCIDENTS, (line + "\n").encode())

    def validated(self, metrics: dict, task: Any, forward: Callable) -> None:
        """An evaluation is done: its log line, and for a language model some text."""
        self.writer.scalars(self.step, "valid", metrics)
        self.writer.baselines(self.step, task.baselines.get("valid", {}))
        name = self.config.train.best_metric
        self.progress.update(self.step, **self._losses, **{f"valid {name}": metrics[name]})
        if task.samples:
            key = jax.random.fold_in(jax.random.key(self.config.seed), self.step)
            self.writer.text(self.step, "samples", task.samples(forward, key))

    def histograms(self, **trees: Any) -> None:
        """How the numbers of each array are spread."""
        for tag, tree in trees.items():
            self.writer.histograms(self.step, tag, tree)

    def diagnose(self, program: Any, params: Any, hyper: dict, data: Any) -> None:
        """Every `train.diagnose_every` steps: how gradients, gates and memory behave."""
        every = self.config.train.diagnose_every
        if every and self.due(every):
            self._look = self._look or observe.observer(program)
            found = self._look(params, hyper, data)
            if jax.process_index() == 0:
                observe.write(found, self.writer, self.step)

    def due(self, *periods: int) -> bool:
        """Whether this step is a multiple of one of them that is not 0, or the run's last."""
        at = any(every and self.step % every == 0 for every in periods)
        return at or self.step >= self.config.train.num_steps

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
            with self.progress.phase("test"):
                metrics = jax.tree.map(float, jax.device_get(evaluate()))
                metrics = exact(metrics, task, forward)
            self.writer.scalars(int(state.best.step), "test", metrics.get("test", {}))
            with self.progress.phase("figures"):
                self.draw(task, forward)
        self.checkpoints.close()  # a save that failed must not be called a completed run
        summary = self.summarize(
            metrics,
            best_step=int(state.best.step),
            baselines=task.baselines,
            parameters=count(state.params),
            **({"reason": self.advice.reason} if self.status == "diverged" else {}),
            **jax.device_get(nonfinite.counts(self.config.train, state.mishaps)),
        )
        self.writer.close()
        self.progress.close()
        self.say(summary)
        return summary

    def draw(self, task: Any, forward: Callable) -> None:
        """The task's figures with the best parameters, and the learning curves."""
        figures = task.figures(forward) if task.figures else {}
        figures["learning_curves"] = learning_curves(
            self.workdir, best_metric=self.config.train.best_metric
        )
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
            "config_hash": self.config.hash,
            **more,
        }
        write_json(self.workdir / SUMMARY, summary)
        scores = {f"{s}/{name}": v for s, found in metrics.items() for name, v in found.items()}
        if metrics:
            self.writer.hparams(self.writer.varied(self.config), scores, self.status)
        return summary

    def say(self, summary: dict) -> None:
        """How it ended, in the words of a user."""
        config, tested = self.config, summary["metrics"]
        if self.status == "diverged":
            rolled = summary.get("rollbacks", 0)
            tried = f", nor after {rolled} rollbacks" if rolled else ""
            reason = self.advice.reason and f": {self.advice.reason}"
            words = {"tried": tried, "reason": reason, "lines": "\n  ".join(self.advice.lines)}
            print(DIVERGED.format(next=self.step + 1, step=self.step, **words), flush=True)
        if self.status == "completed" and not summary["best_step"]:
            print(
                f"no evaluation had a finite {config.train.best_metric}: the parameters kept are "
                "those of step 0",
                flush=True,
            )
        if self.status == "interrupted":
            print(f"interrupted at step {self.step}; the same command goes on from there")
            return
        closing_table(tested, summary["baselines"], self.workdir, name=config.cell.name)
