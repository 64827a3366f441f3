"""The real packages, offline, each in a process of its own: every point once after retries."""

import json
import os
import subprocess
import sys

import pytest
import tracked

from lstm_jax.trackers import send

pytestmark = pytest.mark.slow
EVERY = {"train/loss": 4, "train/rmse": 4, "valid/loss": 4, "valid/rmse": 4, "test/loss": 1}
PNG = (
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d4944415478da63fccfc0f01f0005050101afe5b6d10000000049454e44ae426082"
)

MLFLOW = """
import mlflow
from collections import Counter
client = mlflow.MlflowClient(tracking_uri="sqlite:///{home}/mlflow.db")
(experiment,) = [e for e in client.search_experiments() if e.name == "lstm-jax"]
runs = [r for r in client.search_runs([experiment.experiment_id]) if "cell.hidden" in r.data.params]
found = {{}}
for run in runs:
    history = {{k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}}
    found[run.info.run_name] = {{
        "points": {{k: [m.step for m in h] for k, h in history.items()}},
        "status": run.info.status,
        "hidden": run.data.params["cell.hidden"],
        "group": run.data.tags.get("lstm_jax.group", ""),
        "files": [f.path for f in client.list_artifacts(run.info.run_id, "figures")],
    }}
"""
WANDB = """
import glob, json, os, struct
from collections import defaultdict
from wandb.proto import wandb_internal_pb2 as proto

def records(path):  # LevelDB's log format: blocks of 32 KiB, headers of 7 bytes
    data, at, whole = open(path, "rb").read(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield proto.Record.FromString(whole)
            whole = b""

found = {{}}
for path in glob.glob("{home}/wandb/offline-run-*/*.wandb"):
    points, name, group, hidden, status = defaultdict(list), "", "", "", None
    for record in records(path):
        if record.HasField("run") and record.run.display_name:
            name, group = record.run.display_name, record.run.run_group
            for update in record.run.config.update:
                if update.key == "cell.hidden":
                    hidden = update.value_json
        row = {{(i.key or "/".join(i.nested_key)): json.loads(i.value_json)
               for i in record.history.item}}
        for key in row.keys() - {{"step"}}:
            if not key.startswith("_"):
                points[key].append(row["step"])
        if record.HasField("exit"):
            status = record.exit.exit_code
    assert name not in found, "two folders of one run"
    files = glob.glob(os.path.dirname(path) + "/files/media/images/figures/*.png")
    found[name] = {{"points": points, "status": status, "hidden": hidden, "group": group,
                   "files": files}}
"""
TRACKIO = """
from collections import defaultdict
import trackio
from trackio.sqlite_storage import SQLiteStorage
found = {{}}
for run in trackio.Api().runs("lstm-jax"):
    points = defaultdict(list)
    for row in SQLiteStorage.get_logs("lstm-jax", run.name, run_id=run.id):
        for key in row.keys() - {{"step", "timestamp"}}:
            points[key].append(row["step"])
    files = [k for k in points if k.startswith("figures/")]
    found[run.name] = {{"points": points, "status": "", "hidden": str(run.config["cell.hidden"]),
                       "group": run.config["_Group"] or "", "files": files}}
"""
CASES = {"mlflow": (MLFLOW, "FINISHED"), "wandb": (WANDB, 0), "trackio": (TRACKIO, "")}


def python(code, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def track(folder, name):
    argv = ["track", f"--workdir={folder}", f"--tracker={name}"]
    return python(f"from lstm_jax import cli; assert cli.main({argv}) == 0")


@pytest.mark.parametrize("name", CASES)
def test_a_real_tracker(tmp_path, monkeypatch, name):
    """A run in two attempts, killed before its cursor was written; then a sweep."""
    pytest.importorskip(name)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder, workdir = tracked.run(tmp_path / "a", tracked.lines(10, 20)), tmp_path / "lr"
    assert "4 points" in track(folder, name)
    cursor = folder / send.FOLDER / name / send.CURSOR
    before = cursor.read_text()
    tracked.log(folder, tracked.lines(30, 40) + [{"step": 30, "split": "test", "loss": None}])
    tracked.end(folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "curves.png").write_bytes(bytes.fromhex(PNG))
    track(folder, name)
    cursor.write_text(before)  # as if killed before it was written
    track(folder, name)
    tracked.sweep(workdir)
    track(workdir, name)
    assert "0 points" in track(workdir, name)
    look, status = CASES[name]
    say = "\nimport json; print('FOUND', json.dumps(found))"
    found = json.loads(python(look.format(home=tmp_path) + say).partition("FOUND ")[2])
    assert sorted(found) == ["a", "cifg_s0", "cifg_s1", "cifg_s2"]
    points = {tag: steps for tag, steps in found["a"]["points"].items() if tag in EVERY}
    assert {tag: sorted(steps) for tag, steps in points.items()} == {
        tag: [10, 20, 30, 40] if count == 4 else [30] for tag, count in EVERY.items()
    }
    assert [found["a"][k] for k in ("status", "hidden", "group")] == [status, "8", ""]
    assert len(found["a"]["files"]) == 1
    assert found["cifg_s1"]["group"] == "lr"
    assert sorted(found["cifg_s1"]["points"]["train/loss"]) == [10, 20]
