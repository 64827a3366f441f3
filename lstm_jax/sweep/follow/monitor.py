"""What a launch does while workers work: look after them, show progress, stop on Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lstm_jax import signals
from lstm_jax.errors import INTERRUPTED, OK, USAGE_ERROR
from lstm_jax.sweep import asks, claims
from lstm_jax.sweep.define.names import FOLDER
from lstm_jax.sweep.define.plan import Plan, pack_folder, read_plan
from lstm_jax.sweep.follow import status
from lstm_jax.sweep.follow.results import write_results
from lstm_jax.sweep.follow.seeds import write_means
from lstm_jax.sweep.workers.stop import Stop
from lstm_jax.terminal import Bar, clock, say_above, speed, start_live
from lstm_jax.workdir.console import tensorboard_line

POLL_SECONDS = 0.5
LINE_SECONDS = 30.0


def monitor(plan: Plan, workdir: Path, launcher: Any, wait: bool = True) -> int:
    """Submit what has not ended and, with `wait`, stay until it has; an exit code."""
    plan, watcher = asks.go_on(plan, workdir), claims.Watcher()
    left = unended(plan, workdir)
    over = set(range(len(plan.packs))) - set(left)
    with signals.asked() as asked, Display(plan, workdir, over) as display:
        stop = Stop(workdir, asked)
        if left:
            launcher.submit(workdir, left)
        if not wait:
            return OK
        while left:
            plan = look_after(plan, workdir, launcher, display, watcher, asked)
            # Its workers are gone. Those of a search may have died before they asked.
            before, plan = plan, plan if stop() else asks.go_on(plan, workdir)
            if plan is before:
                break
            launcher.submit(workdir, unended(plan, workdir))
        found = status.packs(plan, workdir, watcher)
        display.update(found, plan)
    return closing(plan, workdir, found) or (INTERRUPTED if asked else OK)


def look_after(
    plan: Plan, workdir: Path, launcher: Any, display: Display, watcher: Any, asked: list[str]
) -> Plan:
    """Until the launcher has no worker left, or Ctrl-C; the plan then."""
    try:
        while launcher.poll():
            before, plan = plan, newest(plan, workdir)
            if len(plan.packs) > len(before.packs):
                display.say(asks.news(plan, workdir))
            if plan.search and hasattr(launcher, "grow"):
                launcher.grow(unended(plan, workdir))
            display.update(status.packs(plan, workdir, watcher), plan)
            if asked:
                display.say("stopping: workers save after their chunk (Ctrl-C again: at once)")
                launcher.cancel()
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:  # a second one, before the first was looked for
        launcher.cancel()
        raise
    return newest(plan, workdir)


def unended(plan: Plan, workdir: Path) -> list[int]:
    return [n for n in range(len(plan.packs)) if not claims.ended(pack_folder(workdir, n))]


def newest(plan: Plan, workdir: Path) -> Plan:
    """The plan with what its search has asked for since."""
    return read_plan(workdir) if asks.is_open(plan) else plan


def closing(plan: Plan, workdir: Path, found: list[status.PackStatus]) -> int:
    """Results, the headline, what failed, what to do next."""
    path = write_results(plan, workdir)
    write_means(plan, workdir)
    print(status.headline(plan, workdir, found))
    for line in [*status.best_setting(plan, found), *status.failures(found)]:
        print(line)
    print(f"{path}{tensorboard_line(workdir / FOLDER)}", flush=True)
    if any(p.state in ("pending", "running") for p in found):
        print(f"not done; to go on: lstm-jax sweep resume --workdir={workdir}")
        return INTERRUPTED
    if any(p.state == "failed" for p in found):
        print(f"to run failed packs again: lstm-jax sweep retry --workdir={workdir}")
        return USAGE_ERROR
    if asks.is_open(plan):
        print(f"the search has more to ask; to go on: lstm-jax sweep resume --workdir={workdir}")
        return INTERRUPTED
    return OK


class Display:
    """Bars of the running packs on a terminal; lines when a pack changes, elsewhere also others."""

    def __init__(self, plan: Plan, workdir: Path, over: Collection[int] = ()):
        self.plan, self.workdir = plan, workdir
        self._found: list[status.PackStatus] = []
        self._states: dict[int, str] = {}
        self._over = over  # packs that had ended before: nothing to say of them
        self._began: dict[int, float] = {}  # when a pack was first seen running
        self._compiled: set[tuple[int, int]] = set()
        self._headline, self._line = "", time.monotonic()
        self._live: Any = None

    def __enter__(self) -> Display:
        self._live = start_live(sys.stdout, self._bars)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.transient = True  # what remains is said in lines
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        if self._live:
            say_above(self._live, text)
        else:
            print(text, flush=True)

    def update(self, found: list[status.PackStatus], plan: Plan | None = None) -> None:
        """Show this state of the packs, of a plan that may have grown."""
        self.plan = plan or self.plan
        self._found, self._headline = found, status.headline(self.plan, self.workdir, found)
        for pack in found:
            if pack.number not in self._over:
                self._say_changes(pack)
        if self._live:
            self._live.refresh()
        elif time.monotonic() - self._line > LINE_SECONDS:
            self._line = time.monotonic()
            self.say(self._headline)

    def _say_changes(self, pack: status.PackStatus) -> None:
        """How long an attempt compiled, once it is known, and a state that is new."""
        before = self._states.get(pack.number, "pending")
        self._states[pack.number] = pack.state
        attempt = pack.number, pack.attempt
        seen_running = "running" in (before, pack.state)
        if seen_running and pack.compile_seconds and attempt not in self._compiled:
            self._compiled.add(attempt)
            seconds = f"{pack.compile_seconds:.1f} s"
            self.say(f"pack {pack.number}: compiled the training steps in {seconds}")
        if pack.state != before:
            self._began[pack.number] = time.monotonic()
            if pack.state == "failed":
                self.say(f"pack {pack.number}: failed: {pack.error}")
            elif pack.state != "running" or not self._live:
                self.say(self.line(pack))

    def _bars(self) -> Any:
        from rich.console import Group  # start-up
        from rich.text import Text

        running = [p for p in self._found if p.state == "running"]
        bars = [Bar(p.step, p.num_steps, self.words(p), label=f"pack {p.number}") for p in running]
        return Group(Text(self._headline or "starting"), *bars)

    def words(self, pack: status.PackStatus) -> list[str]:
        """What there is to say of a pack, the most important first."""
        words = [f"{pack.step:,}/{pack.num_steps:,}"]
        if pack.state == "running" and pack.rate:
            words += [f"ETA {clock(pack.seconds_left)}", speed(pack.rate, "trial-steps")]
        elif pack.state == "running":
            since = time.monotonic() - self._began.get(pack.number, time.monotonic())
            words.append(f"compiling {clock(since)}")
        words.append(f"{pack.trials} trial{'s' if pack.trials != 1 else ''}")
        words += [f"loss {pack.loss:.4g}"] if pack.loss is not None else []
        return words + ([f"best {pack.best:.4g}"] if pack.best is not None else [])

    def line(self, pack: status.PackStatus) -> str:
        return "  ".join([f"pack {pack.number}: {pack.state}", *self.words(pack)])


def watch(plan: Plan, workdir: Path, seconds: float = 1.0) -> int:
    """What a launch shows, until all has ended; Ctrl-C leaves the sweep alone."""
    watcher = claims.Watcher()
    with contextlib.suppress(KeyboardInterrupt), Display(plan, workdir) as display:
        while True:
            plan = newest(plan, workdir)
            found = status.packs(plan, workdir, watcher)
            display.update(found, plan)
            if all(p.state in ("completed", "failed") for p in found) and not waits(plan, found):
                break
            time.sleep(seconds)
    for line in [status.headline(plan, workdir, found), *status.failures(found)]:
        print(line, flush=True)
    return OK


def waits(plan: Plan, found: list[status.PackStatus]) -> bool:
    """Whether a search will ask for more: nothing of it has failed."""
    return asks.is_open(plan) and not any(p.state == "failed" for p in found)
