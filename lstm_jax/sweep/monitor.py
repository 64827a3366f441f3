"""What a launch does while workers work: look after them, show progress, stop on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lstm_jax.cli import INTERRUPTED, OK, USAGE_ERROR
from lstm_jax.sweep import claims, status
from lstm_jax.sweep.names import FOLDER
from lstm_jax.sweep.plan import Plan, pack_folder
from lstm_jax.sweep.results import write_results
from lstm_jax.sweep.seeds import write_means

POLL_SECONDS = 0.5
LINE_SECONDS = 30.0


class Interrupt:
    """SIGINT and SIGTERM as a flag; the second SIGINT raises."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> Interrupt:
        self._old = {n: signal.signal(n, self._catch) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: Any) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def monitor(plan: Plan, workdir: Path, launcher: Any, wait: bool = True) -> int:
    """Submit what has not ended and, with `wait`, stay until it has; an exit code."""
    watcher = claims.Watcher()
    left = [n for n in range(len(plan.packs)) if not claims.ended(pack_folder(workdir, n))]
    with Interrupt() as interrupt, Display(plan, workdir) as display:
        if left:
            launcher.submit(workdir, left)
        if not wait:
            return OK
        while alive := launcher.poll():
            display.update(status.packs(plan, workdir, watcher), alive)
            if interrupt.seen:
                display.say("stopping: workers save after their chunk (Ctrl-C again: at once)")
                launcher.cancel()
                break
            time.sleep(POLL_SECONDS)
        found = status.packs(plan, workdir, watcher)
        display.update(found, [])
    return closing(plan, workdir, found)


def closing(plan: Plan, workdir: Path, found: list[status.PackStatus]) -> int:
    """Results, the headline, what failed, what to do next."""
    path = write_results(plan, workdir)
    write_means(plan, workdir)
    print(status.headline(plan, workdir, found))
    for line in status.failures(found):
        print(line)
    print(f"{path}\ntensorboard --logdir {workdir / FOLDER}", flush=True)
    if any(p.state in ("pending", "running") for p in found):
        print(f"not done; to go on: lstm-jax sweep resume --workdir={workdir}")
        return INTERRUPTED
    if any(p.state == "failed" for p in found):
        print(f"to run failed packs again: lstm-jax sweep retry --workdir={workdir}")
        return USAGE_ERROR
    return OK


class Display:
    """A bar a pack on a terminal; elsewhere a line when a pack changes, and one now and then."""

    def __init__(self, plan: Plan, workdir: Path):
        self.plan, self.workdir, self.bars = plan, workdir, {}
        self._states: dict[int, str] = {}
        self._line = time.monotonic()
        self._rich = _bars() if sys.stdout.isatty() else None

    def __enter__(self) -> Display:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich:
            self._rich.stop()

    def say(self, text: str) -> None:
        if self._rich:
            self._rich.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def update(self, found: list[status.PackStatus], alive: list[str]) -> None:
        for pack in found:
            if pack.state != self._states.get(pack.number, "pending"):
                self._states[pack.number] = pack.state
                if pack.state == "failed":
                    self.say(f"pack {pack.number}: failed: {pack.error}")
                elif not self._rich:
                    self.say(self.line(pack))
            if self._rich and pack.state != "pending":
                self.bar(pack)
        late = time.monotonic() - self._line > LINE_SECONDS
        if late and not self._rich:
            self._line = time.monotonic()
            self.say(status.headline(self.plan, self.workdir, found))

    def bar(self, pack: status.PackStatus) -> None:
        assert self._rich
        if pack.number not in self.bars:
            self.bars[pack.number] = self._rich.add_task("", total=pack.num_steps, note="")
        step = pack.num_steps if pack.state == "completed" else pack.step
        note = self.note(pack)
        self._rich.update(
            self.bars[pack.number],
            description=f"pack {pack.number}",
            completed=step,
            total=pack.num_steps,
            note=note,
        )

    def note(self, pack: status.PackStatus) -> str:
        words = [f"{pack.trials} trials"]
        if pack.state == "running":
            words.append(f"{pack.rate:,.0f} trial-steps/s" if pack.rate else "compiling")
            words += [f"ETA {clock}"] if (clock := status.clock(pack.seconds_left)) else []
        else:
            words.append(pack.state)
        words += [f"best {pack.best:.4g}"] if pack.best is not None else []
        return "  ".join(words)

    def line(self, pack: status.PackStatus) -> str:
        return f"pack {pack.number}: {pack.state}, step {pack.step}, {self.note(pack)}"


def _bars() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = ["{task.description}", BarColumn(), MofNCompleteColumn()]
    return Progress(*columns, TextColumn("{task.fields[note]}"))


def watch(plan: Plan, workdir: Path, seconds: float = 2.0) -> int:
    """The status table, drawn again until all has ended."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    watcher = claims.Watcher()
    with Live(auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            found = status.packs(plan, workdir, watcher)
            words = [status.headline(plan, workdir, found), *status.failures(found)]
            live.update(Group(status.table(plan, found), Text("\n".join(words))), refresh=True)
            if all(p.state in ("completed", "failed") for p in found):
                break
            time.sleep(seconds)
    return OK


def take_back(workdir: Path) -> None:
    """Queued SLURM jobs of this sweep are cancelled; running ones save first, as if preempted."""
    for record in sorted((workdir / "logs").glob("slurm-*.json")):
        job = str(claims.read_json(record).get("job", ""))
        with contextlib.suppress(OSError):
            subprocess.run(["scancel", "--state=PENDING", job], check=False, capture_output=True)
