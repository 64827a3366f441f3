"""The real packages, offline, each in a process of its own: every point once after retries."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
EVERY = {"train/loss": 4, "train/rmse": 4, "valid/loss": 4, "valid/rmse": 4, "test/loss": 1}

SENDING = """
import json, looks, matplotlib.image, numpy, tracked
from pathlib import Path
from lstm_jax.trackers import chosen
from lstm_jax.trackers.send import CURSOR, FOLDER, send

home = Path("{home}")
folder, workdir = tracked.run(home / "a", tracked.lines(10, 20)), home / "lr"
(named,) = chosen("{name}", folder)
assert send(named, folder, {{}}) == 4
cursor = folder / FOLDER / "{name}" / CURSOR
before = cursor.read_text()
tracked.log(folder, tracked.lines(30, 40) + [{{"step": 30, "split": "test", "loss": None}}])
tracked.end(folder)
(folder / "figures").mkdir()
matplotlib.image.imsave(folder / "figures" / "curves.png", numpy.eye(8))
send(named, folder, {{}})
cursor.write_text(before)  # as if killed before it was written
send(named, folder, {{}})
assert send(named, folder, {{}}) == 0
tracked.sweep(workdir)
assert send(named, workdir, {{}}) == 12
assert send(named, workdir, {{}}) == 0
print("FOUND", json.dumps(looks.LOOKS["{name}"](home)))
"""
CASES = {"mlflow": "FINISHED", "wandb": 0, "trackio": ""}


@pytest.mark.parametrize("name", CASES)
def test_a_real_tracker(tmp_path, monkeypatch, name):
    """A run in two attempts, killed before its cursor was written; then a sweep."""
    pytest.importorskip(name)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code = SENDING.format(home=tmp_path, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.partition("FOUND ")[2])
    assert sorted(found) == ["a", "cifg_s0", "cifg_s1", "cifg_s2"]
    assert steps_of(found["a"], EVERY) == {
        tag: [10, 20, 30, 40] if count == 4 else [30] for tag, count in EVERY.items()
    }
    assert [found["a"][k] for k in ("status", "group")] == [CASES[name], ""]
    assert found["a"]["points"]["run/parameters"] == [[40, 9]] if name != "wandb" else True
    assert len(found["a"]["files"]) == 1
    assert found["cifg_s1"]["group"] == "lr"
    assert steps_of(found["cifg_s1"], ["train/loss"]) == {"train/loss": [10, 20]}
    assert str(found["cifg_s1"]["config"]["cell.hidden"]) == "8"


def steps_of(run, tags):
    points = {tag: many for tag, many in run["points"].items() if tag in tags}
    return {tag: sorted(step for step, _ in many) for tag, many in points.items()}
