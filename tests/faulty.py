"""Runs that are killed, starved and lied to: how the tests of faults start and judge them.

FAULTS is how much is done: a percentage of the counts in notes/faults.md, or "full".
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.metrics import read_metrics

CONFIG = str(Path(__file__).parent / "faults" / "config.py")
FAULTS = os.environ.get("FAULTS", "5")
WAIT_SECONDS = 300.0

# Where a run can be when it is hit, and the function whose call says that it is there.
STAGES = {
    "start": ("lstm_jax.training.journal", "Journal", "restore"),
    "step": ("lstm_jax.training.journal", "Journal", "chunk"),
    "log": ("lstm_jax.workdir.metrics", "Writer", "scalars"),
    "eval": ("lstm_jax.training.journal", "Journal", "validated"),
    "save": ("lstm_jax.workdir.checkpoint", "Checkpoints", "_write"),
    "finish": ("lstm_jax.training.journal", "Journal", "finish"),
}
PRELOAD = [
    "lstm_jax.cli",
    "lstm_jax.commands.train",
    "lstm_jax.workdir.tensorboard",
    "lstm_jax.tasks",
    "lstm_jax.training.train",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "orbax.checkpoint",
    "rich.table",
    "tensorboardX",
    "faulty",
]


def cases(full: int, least: int = 1) -> range:
    """The cases of a fault that has `full` of them, as far as FAULTS asks for them."""
    return range(full if FAULTS == "full" else max(full * int(FAULTS) // 100, least))


# ---------------------------------------------------------------- processes


@functools.cache
def server() -> Any:
    """Processes that begin with everything imported: 100 kills would else be 100 imports."""
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_NUM_CPU_DEVICES"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class Attempt:
    """`lstm-jax train` in a process of its own; `seen` counts how often it came by each stage."""

    def __init__(self, workdir: Path, *argv: str, config: str = CONFIG):
        self.log = workdir.with_name(workdir.name + ".log")
        self.seen = server().RawArray("q", len(STAGES))
        words = ["train", f"--config={config}", f"--workdir={workdir}", *argv]
        self.process = server().Process(target=_main, args=(words, self.seen, str(self.log)))
        self.process.start()
        self.began = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid

    def reach(self, stage: str, times: int = 1) -> None:
        """Wait until it has come by that stage so often."""
        index = list(STAGES).index(stage)
        while self.seen[index] < times:
            if not self.process.is_alive():
                raise AssertionError(f"ended before {stage} {times}: {self.words()}")
            if time.monotonic() - self.began > WAIT_SECONDS:
                self.process.kill()
                raise AssertionError(f"{stage} {times} not reached: {self.words()}")
            time.sleep(0.0005)

    def hit(self, number: int) -> int:
        """Send a signal; the exit code (negative: the signal that ended it)."""
        if self.process.is_alive():
            os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        self.process.join(WAIT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"hangs: {self.words()}")
        return self.process.exitcode

    def words(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _main(argv: list[str], seen: Any, log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for index, (module, owner, name) in enumerate(STAGES.values()):
        _count(getattr(__import__(module, fromlist=[owner]), owner), name, seen, index)
    from lstm_jax import cli

    code = cli.main(argv)
    sys.stdout.flush()
    os._exit(code)


def _count(owner: Any, name: str, seen: Any, index: int) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def counted(*args: Any, **kwargs: Any) -> Any:
        seen[index] += 1
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def run(workdir: Path, *argv: str, config: str = CONFIG) -> str:
    """Train to the end; what was printed."""
    attempt = Attempt(workdir, *argv, config=config)
    assert attempt.wait() == 0, attempt.words()
    return attempt.words()


def moment(case: int) -> tuple[str, int, float]:
    """A stage, how many times it is passed, and seconds after that: another one for every case."""
    dice, stage = random.Random(case), list(STAGES)[case % len(STAGES)]
    most = {"start": 1, "step": 20, "log": 30, "eval": 10, "save": 10, "finish": 1}[stage]
    wait = {"start": 0.5, "finish": 0.5}.get(stage, 0.03)
    return stage, dice.randint(1, most), dice.uniform(0, wait)


# ---------------------------------------------------------------- judging


def ended(workdir: Path) -> tuple[str, list[dict]]:
    """(digest of the last checkpoint, log lines without what depends on the clock)."""
    last = Checkpoints(workdir).steps()[-1]
    assert (last.step, last.status) == (100, "ok")
    lines = [{k: v for k, v in r.items() if k != "steps_per_second"} for r in read_metrics(workdir)]
    return last.digest, sorted(lines, key=lambda line: (line["step"], line["split"]))


def curve(workdir: Path, tag: str = "train/loss") -> list[int]:
    """The steps of one curve, as TensorBoard reads it."""
    from tensorboard.backend.event_processing import event_accumulator

    read = event_accumulator.EventAccumulator(str(workdir), {"scalars": 0}).Reload()
    return [event.step for event in read.Scalars(tag)]


def summary(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "summary.json").read_text())


def same(workdir: Path, whole: Path) -> None:
    """The run ended as the undisturbed one did: digest, log lines, curve."""
    assert ended(workdir) == ended(whole)
    pairs = [(line["step"], line["split"]) for line in read_metrics(workdir)]
    assert len(pairs) == len(set(pairs)), "a line twice"
    assert curve(workdir) == list(range(5, 101, 5))
    assert summary(workdir)["status"] == "completed"


def stopped_at(workdir: Path, step: int, train: Callable, config: Any, patch: Any) -> None:
    """Train in this process and stop as kill -9 would, right after the chunk up to `step`."""
    from lstm_jax.training.journal import Journal

    trained = Journal.trained

    def stopping(self: Any, state: Any, metrics: dict) -> None:
        trained(self, state, metrics)
        if self.step == step:
            raise Killed

    with patch.context() as inner:
        inner.setattr(Journal, "trained", stopping)
        try:
            train(config, workdir)
        except Killed:
            return
    raise AssertionError(f"it never came to step {step}")


class Killed(BaseException):
    """What nobody catches."""
