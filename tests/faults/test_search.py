"""A search whose launcher, worker or both are killed -9, again and again: nobody notices."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import faulty
import looks
import pytest
import sweeps
import tracked

from lstm_jax.sweep.define.plan import read_plan
from lstm_jax.workdir.metrics import read_metrics

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "trackers" / "notebook.py"
WORKER = "lstm_jax.sweep.workers.worker"
VICTIMS = ("both", "launcher", "worker")
SEARCH = """
from lstm_jax.sweep import choice, log_uniform, uniform
HALVING = {{"rungs": ({rung}, {rung} * 2), "keep": 0.5, "across": True}}
SEARCH = {{
    "sampler": "tpe", "trials": {trials}, "batch": 4, "space": {{
        "optimizer.learning_rate": log_uniform(1e-4, 1e-1), "optimizer.momentum": uniform(0.1, 0.9),
    }},
}}
"""
CONFIG = """
config.cell.hidden = 4
config.train.num_steps = {rung} * 4
config.train.log_every = config.train.eval_every = {rung} // 10
config.train.checkpoint_every = {rung} // 2
"""
KILLS = len(faulty.cases(10))
TRIALS, RUNG = (8, 250) if KILLS < 5 else (40, 1500)


@pytest.fixture
def trackers(tmp_path, monkeypatch):
    """The fake one, and the real ones that are installed; all offline, in this folder."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_DIR", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path]))
    return [name for name in looks.LOOKS if find_spec(name)]


@pytest.fixture
def whole(tmp_path, trackers):
    """The same search, undisturbed."""
    pytest.importorskip("optuna")
    workdir = tmp_path / "whole"
    size = {"rung": RUNG, "trials": TRIALS}
    config, more = CONFIG.format(**size), SEARCH.format(**size)
    sweeps.planned(tmp_path / "study", workdir, trials="    yield {}", config=config, more=more)
    subprocess.run([sys.executable, "-m", WORKER, str(workdir)], check=True)
    return workdir


def launch(workdir: Path, trackers: list[str], log: Path) -> subprocess.Popen:
    names = ",".join([f"{OWN}:NOTEBOOK", *trackers])
    words = [f"--study={workdir.parent / 'study'}", f"--workdir={workdir}", f"--tracker={names}"]
    argv = [sys.executable, "-m", "lstm_jax.cli", "sweep", "launch", *words]
    with log.open("a") as file:
        return subprocess.Popen(argv, stdout=file, stderr=file, start_new_session=True)


def logged(workdir: Path) -> int:
    paths = workdir.glob("trials/*/metrics.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in paths)


def has_sent(workdir: Path, trackers: list[str], launcher: subprocess.Popen) -> bool:
    """Whether this launch has sent something to every tracker, or is over."""
    began = Path(f"/proc/{launcher.pid}").stat().st_mtime if launcher.poll() is None else 0.0
    newest = {name: 0.0 for name in trackers}
    for path in workdir.glob("trials/*/tracked/*/cursor.json"):
        if json.loads(path.read_text())["sent"]:
            name = path.parent.name
            newest[name] = max(newest.get(name, 0.0), path.stat().st_mtime)
    return not began or all(newest[name] > began for name in trackers)


def reach(lines: int, workdir: Path, ready: Callable[[], bool], log: Path) -> None:
    """Wait until so many lines are logged, and for what else there is to wait."""
    until = time.monotonic() + faulty.WAIT_SECONDS
    while logged(workdir) < lines or not ready():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)


def kill(victim: str, launcher: subprocess.Popen, workdir: Path, dice: random.Random) -> list[int]:
    """The processes that were hit."""
    there = sorted(sweeps.workers(workdir))
    hit = {"launcher": [], "worker": there[:1] and [dice.choice(there)], "both": there}[victim]
    hit += [launcher.pid] if victim != "worker" and launcher.poll() is None else []
    for pid in hit:
        os.kill(pid, signal.SIGKILL)
    return hit


def points_of(workdir: Path) -> dict[str, set[tuple[str, int, float]]]:
    """{run: {(tag, step, value)}} of all trials, by the names that trackers give them."""
    found = {}
    for folder in sorted(workdir.glob("trials/*")):
        name = Path(json.loads((folder / "tensorboard.json").read_text())["events"]).name
        lines = read_metrics(folder)
        found[name] = {
            (f"{line['split']}/{k}", line["step"], v)
            for line in lines
            for k, v in line.items()
            if k not in ("step", "split", "steps_per_second")
        }
    return found


def looked(name: str, home: Path) -> looks.Found:
    argv = [sys.executable, str(ROOT / "tests" / "looks.py"), name, str(home)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def noted(home: Path) -> looks.Found:
    """What the fake tracker holds."""
    found = {}
    for name, records in tracked.notebooks(home).items():
        points = defaultdict(list)
        for record in records:
            if "tag" in record:
                points[record["tag"]].append((record["step"], record["value"]))
        found[name] = {"points": points, "group": records[0]["group"]}
    return found


def each_once(found: looks.Found, workdir: Path) -> None:
    """Every point of the search is there, once, and with its value."""
    wanted = points_of(workdir)
    assert set(found) == set(wanted)
    for name, run in found.items():
        points = [(tag, *point) for tag, many in run["points"].items() for point in many]
        twice = [place for place, n in Counter(p[:2] for p in points).items() if n > 1]
        assert not twice, f"{name}: {twice}"
        lacking = [point for point in wanted[name] if point not in points]
        assert not lacking, f"{name}: {lacking}"
        assert run["group"] == workdir.name


def killed(workdir: Path, trackers: list[str], log: Path, total: int) -> str:
    """Launch, and again after every kill of the launch; what all of them said."""
    dice, launcher = random.Random(0), launch(workdir, trackers, log)
    for number in range(KILLS):
        share = 0.95 * (number + dice.random()) / KILLS
        has_told = partial(has_sent, workdir, trackers, launcher)
        reach(int(share * total), workdir, has_told if number % 2 else lambda: True, log)
        time.sleep(dice.uniform(0, 0.5))
        victim = VICTIMS[number % len(VICTIMS)]
        hit = kill(victim, launcher, workdir, dice)
        print(f"kill {number}: {victim} {hit} at {logged(workdir)} of {total} lines")
        assert hit, log.read_text()
        if launcher.pid in hit:
            launcher.wait()
            launcher = launch(workdir, trackers, log)
    assert launcher.wait(faulty.WAIT_SECONDS) == 0, log.read_text()
    return log.read_text()


def ordered(workdir: Path, trial: int) -> list[dict]:
    """A test's line stands at the step of the best weights, and may have been written before."""
    return sorted(sweeps.lines(workdir, trial), key=lambda line: (line["step"], line["split"]))


def test_a_search_that_is_killed_again_and_again(tmp_path, trackers, whole):
    workdir = tmp_path / "killed"
    print(killed(workdir, trackers, tmp_path / "launch.log", logged(whole)))
    a, b = read_plan(whole), read_plan(workdir)
    assert (b.trials, b.hashes, b.packs) == (a.trials, a.hashes, a.packs)
    assert sweeps.digests(workdir) == sweeps.digests(whole)
    for trial in range(len(a.trials)):
        assert ordered(workdir, trial) == ordered(whole, trial)
    each_once(noted(tmp_path), workdir)
    for name in trackers:
        each_once(looked(name, tmp_path), workdir)
