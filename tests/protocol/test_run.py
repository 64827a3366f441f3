"""`sweep run` as a user meets it: one command from a study to its report, killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import study

from lstm_jax.sweep.define.plan import read_plan
from lstm_jax.workdir.files import read_json
from lstm_jax.workdir.lock import is_dead, owner

TRIALS = """
    yield from product(
        [{{"cell.gates": g}} for g in {gates}],
        grid({{"optimizer.learning_rate": [1e-3, 1e-2], "seed": range(2)}}),
    )
"""
JUDGED = '\nBASELINE = {"cell.gates": "lstm"}\nMARGIN, CONFIRM, BUDGET = 0.5, 3, 8\n'


def command(folder, *flags):
    argv = [sys.executable, "-m", "lstm_jax.cli", "sweep", "run", f"--study={folder / 'study'}"]
    return [*argv, f"--workdir={folder / 'w'}", *flags]


def run(folder, *flags, seconds=280):
    done = subprocess.run(
        command(folder, *flags), capture_output=True, text=True, timeout=seconds, check=False
    )
    return done.returncode, done.stdout + done.stderr


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kill_workers(workdir):
    for path in workdir.glob("packs/*/claim.*"):
        them = json.loads(path.read_text())
        if not (path.parent / "ended.json").exists() and not is_dead(them, owner()):
            os.kill(them["pid"], signal.SIGKILL)


def check(folder, said):
    plan, workdir = read_plan(folder / "w"), folder / "w"
    kinds = [more.kind for more in plan.grown]
    assert kinds.count("confirm") == 1
    assert len(set(plan.hashes)) == len(plan.trials)
    for number in range(len(plan.trials)):
        assert read_json(workdir / f"trials/{number:04d}/summary.json")["metrics"]["test"]
    page = Path(said.split()[-1])
    assert page == workdir / "report" / "report.html" and page.exists()
    rows = (workdir / "report" / "trials.csv").read_text().splitlines()
    assert len(rows) == len(plan.trials) + 1
    assert "Judged by fresh seeds alone" in page.read_text()
    assert "registered at launch" in page.read_text()


@pytest.mark.slow
def test_the_full_protocol_killed_in_the_middle(tmp_path):
    """Three variants, the grid extended, fresh seeds, a report; killed while fresh seeds run."""
    gates = ("lstm", "cifg", "nog")
    study(tmp_path / "study", trials=TRIALS.format(gates=gates), more=JUDGED)
    first = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: list((tmp_path / "w").glob("sweep.001.json")), 300)
    first.kill()
    first.wait()
    kill_workers(tmp_path / "w")
    code, said = run(tmp_path, seconds=600)
    assert code == 0, said
    assert "done before" in said
    check(tmp_path, said)
