"""What a sweep looks like from its files alone; no launcher need be alive, nor a clock be right."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import Plan, pack_folder, trial_folder
from lstm_jax.sweep.pack.trial import trial_status
from lstm_jax.terminal import clock, speed
from lstm_jax.workdir.files import read_json

STATES = ("pending", "running", "completed", "diverged", "pruned", "failed")


class PackStatus(NamedTuple):
    """One pack, as its files say."""

    number: int
    state: str  # pending | running | completed | failed
    trials: int
    attempt: int
    step: int
    num_steps: int
    ended: int  # trials that train no more
    rate: float  # trial-steps per second
    compile_seconds: float
    loss: float | None  # of the last training steps, mean over the trials that still train
    best: float | None
    best_trial: int | None
    error: str
    log: list[str]
    owner: str

    @property
    def done(self) -> float:
        """The part of its steps that are done."""
        return 1.0 if self.state == "completed" else self.step / max(self.num_steps, 1)

    @property
    def seconds_left(self) -> float | None:
        if self.state != "running" or not self.rate:
            return None
        return (self.num_steps - self.step) * (self.trials - self.ended) / self.rate


def packs(plan: Plan, workdir: Path, watcher: claims.Watcher) -> list[PackStatus]:
    return [pack_status(plan, workdir, n, watcher) for n in range(len(plan.packs))]


def pack_status(plan: Plan, workdir: Path, number: int, watcher: claims.Watcher) -> PackStatus:
    folder = pack_folder(workdir, number)
    attempt = claims.attempts(folder)
    end = claims.ended(folder)
    found = end or read_json(folder / "heartbeat.json")
    state = end.get("status") or watcher.state(folder)
    them = read_json(folder / f"claim.{attempt}") if attempt else {}
    owner = f"{them.get('host', '?')}:{them.get('pid', '?')}" if attempt else ""
    return PackStatus(
        number=number,
        state=state,
        trials=found.get("trials", len(plan.packs[number])),
        attempt=attempt,
        step=found.get("step", 0),
        num_steps=found.get("num_steps", plan.base["train.num_steps"]),
        ended=found.get("ended", 0),
        rate=found.get("trial_steps_per_second") or 0.0,
        compile_seconds=found.get("compile_seconds") or 0.0,
        loss=found.get("loss"),
        best=found.get("best"),
        best_trial=found.get("best_trial"),
        error=found.get("error", ""),
        log=found.get("log", []),
        owner=owner,
    )


def trials(plan: Plan, workdir: Path, found: list[PackStatus]) -> Counter[str]:
    """Trials by state.

    One that says "running" in a pack that nobody runs is pending; so is one that failed in a pack
    that is to be run again.
    """
    counts: Counter[str] = Counter()
    for pack in found:
        for trial in plan.packs[pack.number]:
            end = {"status": pack.state, "error": pack.error}
            state = trial_status(trial_folder(workdir, trial), end)["status"]
            again = pack.state not in ("completed", "failed") and state == "failed"
            if again or (pack.state != "running" and state == "running"):
                state = "pending"
            counts[state] += 1
    return counts


def best(plan: Plan, found: list[PackStatus]) -> tuple[float, int] | None:
    """(value, trial) of the best trial so far by the study's metric."""
    scored = [(p.best, p.best_trial) for p in found if p.best is not None]
    scored = [(v, t) for v, t in scored if t is not None and math.isfinite(v)]
    choose = max if plan.direction == "max" else min
    return choose(scored) if scored else None


def best_setting(plan: Plan, found: list[PackStatus]) -> list[str]:
    """What was drawn for the best trial so far, in a line; no line where nothing was drawn."""
    scored = best(plan, found)
    if not scored or not plan.drawn:
        return []
    drawn = {n: plan.trials[scored[1]].get(n) for n in plan.drawn if n in plan.trials[scored[1]]}
    pairs = (f"{n}={v:.4g}" if isinstance(v, float) else f"{n}={v}" for n, v in drawn.items())
    return [f"best setting: {', '.join(pairs)}"]


def seconds_left(found: list[PackStatus]) -> float | None:
    """At the present rate: trial-steps left, by all running packs' trial-steps a second."""
    rate = sum(p.rate for p in found if p.state == "running")
    left = sum(
        (p.num_steps - p.step) * p.trials for p in found if p.state in ("running", "pending")
    )
    return left / rate if rate else None


# ---------------------------------------------------------------- for people


def headline(plan: Plan, workdir: Path, found: list[PackStatus]) -> str:
    """One line: trials by state, the best so far, the time left."""
    counts = trials(plan, workdir, found)
    states = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
    scored = best(plan, found)
    score = f"; best {plan.metric} {scored[0]:.4g} (trial {scored[1]})" if scored else ""
    eta = clock(seconds_left(found))
    return f"{len(plan.trials)} trials: {states}{score}{f'; ETA {eta}' if eta else ''}"


def table(plan: Plan, found: list[PackStatus]) -> Any:
    """A row a pack."""
    from rich import box  # start-up
    from rich.table import Table

    rows = Table(box=box.SIMPLE_HEAD)
    for name in ("pack", "state", "trials", "step", "still train", "speed", "ETA", "best"):
        rows.add_column(name, justify="left" if name == "state" else "right")
    rows.add_column("attempt", justify="right")
    rows.add_column("worker")
    for p in found:
        running = p.state == "running"
        rows.add_row(
            str(p.number),
            p.state,
            str(p.trials),
            f"{p.step:,}/{p.num_steps:,}",
            str(p.trials - p.ended) if running else "",
            speed(p.rate, "trial-steps") if running and p.rate else "",
            clock(p.seconds_left),
            "" if p.best is None else f"{p.best:.4g}",
            str(p.attempt or ""),
            p.owner if running else "",
        )
    return rows


def failures(found: list[PackStatus], lines: int = 4) -> list[str]:
    """Failed packs by reason, each reason with the last lines of one log."""
    reasons: dict[str, list[PackStatus]] = {}
    for pack in found:
        if pack.state == "failed":
            reasons.setdefault(pack.error, []).append(pack)
    said = []
    for error, failed in reasons.items():
        numbers = ", ".join(str(p.number) for p in failed)
        said.append(f"failed, pack{'s' if len(failed) > 1 else ''} {numbers}: {error}")
        said += [f"    {line}" for line in failed[0].log[-lines:]]
    return said


def show(plan: Plan, workdir: Path, found: list[PackStatus], file: Any = None) -> None:
    """The table, then the headline and what failed."""
    from rich.console import Console  # start-up

    file = file or sys.stdout
    console = Console(file=file, width=None if file.isatty() else 120)
    console.print(table(plan, found))
    for line in [headline(plan, workdir, found), *failures(found)]:
        print(line, file=file)
