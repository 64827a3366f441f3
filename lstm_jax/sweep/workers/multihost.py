"""A pack whose trials are each spread over the processes of one job: `--nodes` and `--tasks`.

The trials run one after the other by `train.train`, each with a batch shared by all devices of the
job, as `lstm-jax train` under `srun` would. Process 0 holds the claim and writes; the others
follow it.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from lstm_jax.compute import processes, sharding
from lstm_jax.config.fields import replaced
from lstm_jax.errors import INTERRUPTED, OK, UsageError
from lstm_jax.sweep import claims
from lstm_jax.sweep.define import names
from lstm_jax.sweep.define.plan import Plan, pack_folder, read_plan, trial_folder
from lstm_jax.sweep.pack.trial import STATUS
from lstm_jax.sweep.workers import logs
from lstm_jax.sweep.workers.stop import WAIT_SECONDS, Stop, fail, say
from lstm_jax.training import train as training
from lstm_jax.workdir.files import replace_json


def work(workdir: Path, number: int, stop: Stop) -> int:
    """Run pack `number` with all processes of this job; an exit code."""
    plan = read_plan(workdir)
    with processes.joined(trial_config(plan, plan.packs[number][0])) as place:
        first = place is None or place.index == 0
        claim = wait_for(pack_folder(workdir, number)) if first else None
        if not sharding.any_process(claim is not None):
            return OK
        if claim:
            logs.link(plan, workdir, number)
        with claim or contextlib.nullcontext():
            return run(plan, workdir, number, claim, stop)


def wait_for(folder: Path) -> Any:
    """The claim on a pack; None once it has ended. Another job that holds it may die."""
    watcher = claims.Watcher()
    while not (claim := watcher.claim(folder)) and not claims.ended(folder):
        time.sleep(WAIT_SECONDS)
    return claim


def run(plan: Plan, workdir: Path, number: int, claim: Any, stop: Stop) -> int:
    """Every trial in turn; `claim` is None in all processes but the first."""
    try:
        for trial in plan.packs[number]:
            status = train(plan, workdir, number, trial, claim)
            if sharding.any_process(status == "interrupted" or bool(stop())):
                return INTERRUPTED
    except Exception as error:
        if claim is None or processes.is_loss(error):
            raise
        say(f"pack {number}: {fail(plan, workdir, number, claim, error)}")
        raise
    if claim is not None:
        claim.end("completed")
    return OK


def train(plan: Plan, workdir: Path, number: int, trial: int, claim: Any) -> str:
    """One trial, from where it was; its status."""
    folder, config = trial_folder(workdir, trial), trial_config(plan, trial)
    mark: dict[str, Any] = {"attempt": claim and claim.attempt, "pack": number}
    if claim is not None:
        claim.check()
        names.place(folder, names.places(plan)[trial])
        replace_json(folder / STATUS, {"status": "running", "step": 0, **mark})
    summary = training.train(config, folder)
    if claim is not None:
        ended = "running" if summary["status"] == "interrupted" else summary["status"]
        replace_json(folder / STATUS, {"status": ended, "step": summary["step"], **mark})
    return summary["status"]


def trial_config(plan: Plan, trial: int) -> Any:
    """A trial's config with its batch over all devices of the job."""
    if plan.halving or plan.pbt or plan.search:
        raise UsageError(
            "HALVING, PBT and SEARCH need packs, whose trials train together: not with --nodes"
        )
    return replaced(plan.config(trial), {"parallel.data": -1, "parallel.distributed": "auto"})
