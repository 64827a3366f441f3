"""Workdirs by hand, as runs and sweeps leave them, and what a notebook holds of them."""

import json
from collections import Counter
from pathlib import Path

CONFIG = {"cell": {"hidden": 8, "gates": "lstm"}, "train": {"num_steps": 40}, "seed": 0}
MANIFEST = {"created": "2026-01-01T00:00:00Z", "config_hash": "c0ffee", "command": ["lstm-jax"]}


def lines(*steps, splits=("train", "valid")):
    return [
        {"step": step, "split": split, "loss": 1.0 / step, "rmse": 2.0 / step}
        for step in steps
        for split in splits
    ]


def log(folder, records, mode="a"):
    with (folder / "metrics.jsonl").open(mode) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def run(folder, records=(), **manifest):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | manifest))
    log(folder, records)
    return folder


def end(folder, status="completed", step=40):
    metrics = {"train": {"loss": 0.1}, "valid": {"loss": 0.2}, "test": {"loss": 0.3, "rmse": None}}
    found = {"status": status, "step": step, "metrics": metrics, "best_step": 30, "parameters": 9}
    found["wall_seconds"] = 5.0
    (folder / "summary.json").write_text(json.dumps(found))


def sweep(workdir, trials=3):
    for n in range(trials):
        folder = run(workdir / "trials" / f"{n:04d}", lines(10, 20), config_hash=f"hash{n}")
        place = {
            "events": f"../../tensorboard/cifg_s{n}",
            "group": "cifg",
            "fields": ["cell.gates"],
        }
        (folder / "tensorboard.json").write_text(json.dumps(place))
    (workdir / "sweep.json").write_text("{}")
    return workdir


def notebooks(home):
    """{run: its records} of the fake tracker's store."""
    found = {}
    for path in sorted((Path(home) / "notebook").glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found[records[0]["run"]] = records
    return found


def points(records):
    """How often each (step, tag) is there."""
    return Counter((r["step"], r["tag"]) for r in records if "tag" in r)


def wanted(records):
    return {
        (r["step"], f"{r['split']}/{k}") for r in records for k in r if k not in ("step", "split")
    }
