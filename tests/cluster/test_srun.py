"""Two processes of one run under a real `srun`: they find each other, stop together, and go on."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from sweeps import lines, planned, summary

from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder
from lstm_jax.training import train
from lstm_jax.training.check import load_config
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.metrics import read_metrics

from . import slurm

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not slurm.is_installed() or os.geteuid() != 0, reason="needs root, SLURM"),
]
PROGRAM = str(Path(sys.executable).parent / "lstm-jax")
CONFIG = """
import os, signal
from lstm_jax.config import default_config
from lstm_jax.training.journal import Journal

trained = Journal.trained

def stopping(self, state, metrics):
    trained(self, state, metrics)
    if self.step == 25 and os.environ.get("STOP", "none") == os.environ.get("SLURM_PROCID"):
        os.kill(os.getpid(), signal.SIGTERM)

Journal.trained = stopping

def get_config(arg=""):
    config = default_config("adding")
    config.task.update({"length": 12, "eval_size": 21})
    config.cell.hidden = 4
    config.train.update({"num_steps": 60, "batch_size": 8, "log_every": 5})
    config.train.update({"eval_every": 20, "checkpoint_every": 20})
    config.parallel.data = -1
    return config
"""


@pytest.fixture(scope="module")
def cluster():
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    with slurm.cluster(root) as found:
        yield found
    shutil.rmtree(root, ignore_errors=True)


def srun(cluster, root, workdir, **environment):
    argv = ["srun", "-n", "2", "--time=10", PROGRAM, "train", f"--config={root / 'config.py'}"]
    return subprocess.run(
        [*argv, f"--workdir={root / workdir}"],
        env={**cluster.env, "JAX_NUM_CPU_DEVICES": "1", **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_srun_trains_stops_and_goes_on(cluster, tmp_path):
    """Against one process; with SIGTERM to the second of the two on the way."""
    (tmp_path / "config.py").write_text(CONFIG)
    done = srun(cluster, tmp_path, "asked", STOP="1")
    assert done.returncode == 4, done.stderr
    assert "interrupted at step 25" in done.stdout
    assert Checkpoints(tmp_path / "asked").steps()[-1].step == 25
    done = srun(cluster, tmp_path, "asked")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 of 2 processes" in done.stdout and "going on from step 25" in done.stdout

    config = load_config(str(tmp_path / "config.py"), {"parallel.data": 1})
    train.train(config, tmp_path / "alone")
    ours, alone = (read_metrics(tmp_path / name) for name in ("asked", "alone"))
    assert [(x["step"], x["split"]) for x in ours] == [(x["step"], x["split"]) for x in alone]
    for a, b in zip(ours, alone, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


def test_a_sweep_of_trials_over_two_processes(cluster, tmp_path):
    """Each trial of the pack by both processes of the job; results as of any sweep."""
    seeds = '    yield from grid({"seed": range(2)})'
    planned(tmp_path / "study", tmp_path / "w", trials=seeds, config="")
    argv = [PROGRAM, "sweep", "resume", f"--workdir={tmp_path / 'w'}", "--launcher=slurm"]
    done = subprocess.run(
        [*argv, "--cpus=1", "--tasks=2"],
        env={**cluster.env, "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    logs = "\n".join(p.read_text()[-3000:] for p in (tmp_path / "w/logs/slurm").glob("*.out"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert claims.ended(pack_folder(tmp_path / "w", 0))["status"] == "completed"
    for trial in range(2):
        assert summary(tmp_path / "w", trial)["status"] == "completed"
        assert max(line["step"] for line in lines(tmp_path / "w", trial)) == 40
        manifest = tmp_path / "w" / "trials" / f"{trial:04d}" / "manifest.json"
        assert json.loads(manifest.read_text())["devices"]["processes"] == 2
