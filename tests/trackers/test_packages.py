"""The real packages, offline, each in a process of its own: every point once after retries."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
EVERY = {"train/loss": 4, "train/rmse": 4, "valid/loss": 4, "valid/rmse": 4, "test/loss": 1}

SENDING = """
import matplotlib.image, numpy, tracked
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
"""
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


@pytest.mark.parametrize("name", CASES)
def test_a_real_tracker(tmp_path, monkeypatch, name):
    """A run in two attempts, killed before its cursor was written; then a sweep."""
    pytest.importorskip(name)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    look, status = CASES[name]
    code = (SENDING + look).format(home=tmp_path, name=name)
    code += "\nimport json; print('FOUND', json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.partition("FOUND ")[2])
    assert sorted(found) == ["a", "cifg_s0", "cifg_s1", "cifg_s2"]
    points = {tag: steps for tag, steps in found["a"]["points"].items() if tag in EVERY}
    assert {tag: sorted(steps) for tag, steps in points.items()} == {
        tag: [10, 20, 30, 40] if count == 4 else [30] for tag, count in EVERY.items()
    }
    assert [found["a"][k] for k in ("status", "hidden", "group")] == [status, "8", ""]
    assert len(found["a"]["files"]) == 1
    assert found["cifg_s1"]["group"] == "lr"
    assert sorted(found["cifg_s1"]["points"]["train/loss"]) == [10, 20]
