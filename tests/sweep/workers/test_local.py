"""The local launcher as a user meets it: processes, Ctrl-C, kill -9, and going on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweeps import asked_to_stop, digests, held, lines, planned, stepping, workers

from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder, read_plan
from lstm_jax.sweep.workers.worker import work

PROGRAM = str(Path(sys.executable).parent / "lstm-jax")
TRIALS = '    yield from grid({"cell.gates": ("lstm", "cifg"), "seed": range(3)})'
CONFIG = "config.train.num_steps = 400\nconfig.train.log_every = config.train.eval_every = 10\n"
CONFIG += "config.train.checkpoint_every = 20"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    planned(root / "study", root / "w", trials=TRIALS, config=CONFIG)
    assert work(root / "w") == 0
    return root / "w"


def start(word, workdir, *flags):
    argv = [PROGRAM, "sweep", word, f"--workdir={workdir}", *flags]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def fresh(undisturbed, tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    shutil.copy(undisturbed / "sweep.json", workdir)
    return workdir


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def check_same(workdir, undisturbed):
    assert digests(workdir) == digests(undisturbed)
    for trial in range(6):
        assert lines(workdir, trial) == lines(undisturbed, trial)
    for number in range(2):
        assert claims.ended(pack_folder(workdir, number))["status"] == "completed"
    rows = (workdir / "results.csv").read_text().splitlines()
    assert len(rows) == 7


@pytest.mark.slow
def test_launch_from_nothing_to_results(undisturbed, tmp_path):
    workdir = tmp_path / "w"
    study = undisturbed.parent / "study"
    process = start("launch", workdir, f"--study={study}")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "6 trials in 2 packs of 3" in out
    assert "6 completed; best valid/loss" in out
    check_same(workdir, undisturbed)
    again = start("launch", workdir, f"--study={study}")
    out, _ = again.communicate(timeout=100)
    assert again.returncode == 0
    assert "2 of them done before" in out


@pytest.mark.slow
def test_ctrl_c_saves_and_resume_goes_on(undisturbed, tmp_path):
    workdir = fresh(undisturbed, tmp_path)
    process = start("resume", workdir)
    until(lambda: stepping(workdir))
    with held(workdir) as pids:
        process.send_signal(signal.SIGINT)
        until(lambda: all(map(asked_to_stop, pids)))
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 4, out
    assert "sweep resume" in out
    assert not workers(workdir)
    attempts = [claims.attempts(pack_folder(workdir, n)) for n in range(2)]
    assert sum(attempts) >= 1
    process = start("resume", workdir)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    check_same(workdir, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(undisturbed, tmp_path):
    workdir = fresh(undisturbed, tmp_path)
    process = start("resume", workdir)
    until(lambda: stepping(workdir))
    for pid in workers(workdir):
        os.kill(pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    check_same(workdir, undisturbed)


@pytest.mark.slow
def test_workers_outlive_their_launcher_and_two_launchers_share(undisturbed, tmp_path):
    workdir = fresh(undisturbed, tmp_path)
    first = start("resume", workdir)
    until(lambda: stepping(workdir))
    with held(workdir):
        first.kill()
        first.communicate()
        assert workers(workdir)
    others = [start("resume", workdir) for _ in range(2)]
    for other in others:
        out, _ = other.communicate(timeout=300)
        assert other.returncode == 0, out
    check_same(workdir, undisturbed)
    assert [claims.attempts(pack_folder(workdir, n)) for n in range(2)] == [1, 1]


@pytest.mark.slow
def test_cancel_stops_workers_wherever_they_are(tmp_path):
    workdir = tmp_path / "w"  # a sweep that cannot end before it is cancelled
    planned(tmp_path / "study", workdir, trials=TRIALS, config=CONFIG.replace("400", "1000000"))
    process = start("resume", workdir)
    until(lambda: stepping(workdir))
    done = start("cancel", workdir)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0, out
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 4, out
    assert not workers(workdir)


@pytest.mark.slow
def test_a_pack_that_kills_its_workers_fails_and_can_be_retried(undisturbed, tmp_path):
    workdir = fresh(undisturbed, tmp_path)
    plan = read_plan(workdir)
    process = start("resume", workdir)
    first = pack_folder(workdir, 0)
    for attempt in range(1, 4):
        until(lambda a=attempt: (first / f"claim.{a}").exists())
        os.kill(json.loads((first / f"claim.{attempt}").read_text())["pid"], signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert "3 workers ended by signal SIGKILL; out of memory?" in out
    assert claims.ended(pack_folder(workdir, 1))["status"] == "completed"
    assert len(plan.packs) == 2
    process = start("retry", workdir)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "1 failed packs to run again" in out
    check_same(workdir, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(20))
def test_kills_at_random_moments(undisturbed, tmp_path, seed):
    """Launcher or worker, kill -9 or Ctrl-C, two to four times, then left alone."""
    rng = random.Random(seed)
    workdir = fresh(undisturbed, tmp_path)
    for _ in range(rng.randint(2, 4)):
        process = start("resume", workdir)
        time.sleep(rng.uniform(0.5, 9.0))
        blow(rng, process, workdir)
    process = start("resume", workdir)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    check_same(workdir, undisturbed)


def blow(rng, launcher, workdir):
    kind = rng.choice(["launcher", "workers", "both", "ctrl-c"])
    if kind == "ctrl-c":
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=200)
        return
    if kind in ("launcher", "both"):
        launcher.kill()
        launcher.communicate()
    if kind in ("workers", "both"):
        for pid in workers(workdir):
            os.kill(pid, signal.SIGKILL)
    if kind == "workers":  # its launcher goes on with another; stop it, so that we go on
        time.sleep(rng.uniform(0, 3))
        launcher.kill()
        launcher.communicate()
