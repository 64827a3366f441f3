"""A sweep on its course: run what is planned, look what it still needs, add that, again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lstm_jax.errors import OK, UsageError
from lstm_jax.protocol.steps import CONFIRM, NARROW, WIDEN, Step, next_step
from lstm_jax.report import register
from lstm_jax.report.collect import ENDED, read_sweep
from lstm_jax.sweep import asks, claims
from lstm_jax.sweep.define.plan import Plan, grow, pack_folder, read_plan, write_growth
from lstm_jax.sweep.pack.cost import grown

# What `sweep run` goes through, in this order.
COURSE = (WIDEN, CONFIRM, NARROW)
HEADS = {
    WIDEN: "beyond the edges of the grid",
    CONFIRM: "fresh seeds",
    NARROW: "fresh seeds, until every interval is narrower than the margin",
}


def follow(
    workdir: Path, kinds: Sequence[str], launch: Callable[[Plan], int], budget: int = 0
) -> int:
    """Until nothing is left to run or to add; an exit code.

    The files say how far it is, so after any interruption the same call goes on. A budget of 0 is
    the study's.
    """
    while True:
        plan = read_plan(workdir)
        if not is_done(plan, workdir):
            code, plan = launch(plan), read_plan(workdir)  # a search has grown it
            if code != OK or not is_done(plan, workdir):
                return code
        sweep = read_sweep(plan, workdir)
        most = budget or sweep.reading.budget
        step = next_step(sweep, kinds, most)
        tell(step)
        if not step.trials:
            return OK
        ended = sum(trial.status in ENDED for trial in sweep.trials)
        add(plan, workdir, step, budget=most, ended=ended)


def amend(plan: Plan, now: Plan, workdir: Path, allowed: bool) -> Plan:
    """The sweep judged as the study says now, which its report will say; the plan then.

    Raises:
      UsageError: the study judges otherwise than at launch, and that is not `allowed`.
    """
    found = register.changes(register.register(plan), register.register(now))
    if not found:
        return plan
    words = "\n".join(f"  {line}" for line in found)
    if any(line.startswith("choose ") for line in found):
        raise UsageError(f"METRIC has changed since launch; use another --workdir:\n{words}")
    if not allowed:
        raise UsageError(
            f"the study has changed since {workdir} was launched:\n{words}\n"
            "put it back; or pass --amend to judge the sweep by it, and the report will say so; "
            "another preset or study is another sweep: --workdir=DIR"
        )
    report = register.entries(now, [line.partition(" ")[0] for line in found])
    ended = sum(trial.status in ENDED for trial in read_sweep(plan, workdir).trials)
    print(f"judged otherwise from now on, and the report says so:\n{words}", flush=True)
    return write_growth(plan, grow(plan, "amend", [], report=report, ended=ended), workdir)


def is_done(plan: Plan, workdir: Path) -> bool:
    """Whether every pack has ended and none has failed, and a search has asked for all it may."""
    ends = (claims.ended(pack_folder(workdir, n)) for n in range(len(plan.packs)))
    return all(end.get("status") == "completed" for end in ends) and not asks.is_open(plan)


def add(plan: Plan, workdir: Path, step: Step, **more: int) -> Plan:
    """The step's trials in a manifest of their own, in packs that fit in memory."""
    fresh = [seed for seed in step.fresh if seed not in plan.report.get("fresh", ())]
    return write_growth(plan, grown(plan, step.kind, step.trials, fresh=fresh, **more), workdir)


def tell(step: Step) -> None:
    """What is added and why, or why nothing is."""
    if step.trials:
        print(f"\n{HEADS[step.kind]}: {len(step.trials)} trials more", flush=True)
    for line in step.said:
        print(f"  {line}", flush=True)
