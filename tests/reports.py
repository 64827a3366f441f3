"""Sweeps that were never run: plans with made-up results, for the tests of reports."""

import json

import numpy as np
from sweeps import study

from lstm_jax.sweep.define.plan import make_plan, trial_folder, write_plan
from lstm_jax.sweep.define.study import load_study

TRIALS = """
    yield from product(
        [{"cell.gates": g} for g in ("lstm", "nfg", "cifg")],
        grid({"optimizer.learning_rate": [1e-3, 1e-2, 1e-1], "seed": range(5)}),
    )
"""
SHIFTS = {"lstm": 0.0, "nfg": 0.5, "cifg": 0.0}


def sweep(
    folder, trials=TRIALS, more='\nBASELINE = {"cell.gates": "lstm"}\n', results=None, config=""
):
    """The workdir of a made-up sweep; `results(plan, trial) -> outcome | None` (never begun)."""
    study(folder / "study", trials=trials, more=more, config=config)
    workdir = folder / "sweep"
    plan = write_plan(make_plan(load_study(str(folder / "study"))), workdir)
    fill(plan, workdir, results or outcome)
    return plan, workdir


def fill(plan, workdir, results):
    for trial in range(len(plan.trials)):
        found = results(plan, trial)
        if found is not None:
            write(trial_folder(workdir, trial), **found)


def outcome(plan, trial):
    """Validation is best at a rate of 1e-2, `nfg` is worse by 0.5, seeds differ by 0.1."""
    flat = plan.base | plan.trials[trial]
    noise = 0.1 * np.random.default_rng(trial).standard_normal()
    far = abs(np.log10(flat["optimizer.learning_rate"]) + 2)
    score = 1.0 + SHIFTS.get(flat["cell.gates"], 0.0) + far + noise
    return {"valid": {"loss": score, "rmse": score}, "test": {"loss": score + 0.1, "rmse": score}}


def write(
    folder,
    valid=None,
    test=None,
    status="completed",
    curve=(3.0, 2.0),
    summary=True,
    trivial=4.0,
    of_valid=None,
    parameters=1233,
):
    """The files of one trial."""
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": status, "step": 20}))
    lines = [{"step": 10 * (i + 1), "split": "valid", "loss": v} for i, v in enumerate(curve)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {k: v for k, v in (("valid", valid), ("test", test)) if v is not None}
    baselines = {"test": {"always <0>": {"loss": trivial}}}
    if of_valid is not None:
        baselines["valid"] = {"always <0>": {"loss": of_valid}}
    if summary:
        found = {"status": status, "step": 20, "metrics": metrics, "baselines": baselines}
        found |= {"parameters": parameters, "wall_seconds": 30.0}
        (folder / "summary.json").write_text(json.dumps(found))
