"""What the stores of real trackers hold, read with their own packages.

    python tests/looks.py NAME HOME

prints JSON: {run: {"points": {tag: [[step, value], ...]}, "status", "config", "group", "files"}}.
trackio chooses its folder when it is imported, so a test looks in a process of its own.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Found = dict[str, dict[str, Any]]


def mlflow(home: Path) -> Found:
    client = importlib.import_module("mlflow").MlflowClient(f"sqlite:///{home}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "lstm-jax"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    found: Found = {}
    for run in [run for run in runs if "cell.hidden" in run.data.params]:
        history = {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}
        assert run.info.run_name not in found, "a run twice"
        found[run.info.run_name] = {
            "points": {k: [(m.step, m.value) for m in h] for k, h in history.items()},
            "status": run.info.status,
            "config": run.data.params,
            "group": run.data.tags.get("lstm_jax.group", ""),
            "files": [f.path for f in client.list_artifacts(run.info.run_id, "figures")],
        }
    return found


def wandb(home: Path) -> Found:
    """The files that `wandb sync` would send."""
    found: Found = {}
    for path in sorted(home.glob("wandb/offline-run-*/*.wandb")):
        name, run = _offline_run(path)
        assert name not in found, f"two folders of {name}"
        found[name] = run
    return found


def _offline_run(path: Path) -> tuple[str, dict[str, Any]]:
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    points, config, name, group, status = defaultdict(list), {}, "", "", None
    for record in map(proto.Record.FromString, _records(path.read_bytes())):
        if record.HasField("run") and record.run.display_name:
            name, group = record.run.display_name, record.run.run_group
            updates = record.run.config.update
            config |= {u.key: json.loads(u.value_json) for u in updates if u.key}
        items = record.history.item
        row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
        for key in row.keys() - {"step"}:
            if not key.startswith("_"):
                points[key].append((row["step"], row[key]))
        if record.HasField("exit"):
            status = record.exit.exit_code
    files = [str(p) for p in path.parent.glob("files/media/images/figures/*.png")]
    words = {"points": points, "status": status, "config": config, "group": group, "files": files}
    return name, words


def _records(data: bytes) -> Iterator[bytes]:
    """LevelDB's log format: blocks of 32 KiB, headers of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def trackio(home: Path) -> Found:
    """Of TRACKIO_DIR."""
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    found: Found = {}
    for run in importlib.import_module("trackio").Api().runs("lstm-jax"):
        points = defaultdict(list)
        for row in storage.get_logs("lstm-jax", run.name, run_id=run.id):
            for key in row.keys() - {"step", "timestamp"}:
                points[key].append((row["step"], row[key]))
        assert run.name not in found, "a run twice"
        found[run.name] = {
            "points": points,
            "status": "",
            "config": {k: v for k, v in run.config.items() if not k.startswith("_")},
            "group": run.config["_Group"] or "",
            "files": [k for k in points if k.startswith("figures/")],
        }
    return found


LOOKS = {"mlflow": mlflow, "wandb": wandb, "trackio": trackio}

if __name__ == "__main__":
    print(json.dumps(LOOKS[sys.argv[1]](Path(sys.argv[2]))))
