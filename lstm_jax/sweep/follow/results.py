"""One row a trial: results.csv, and results.parquet where pyarrow is installed."""

from __future__ import annotations

import csv
import importlib
import io
import json
from pathlib import Path
from typing import Any

from lstm_jax.sweep.claims import ended
from lstm_jax.sweep.define.plan import Plan, pack_folder, trial_folder
from lstm_jax.sweep.pack.trial import trial_status
from lstm_jax.workdir.files import read_json, replacing, to_json, write_text
from lstm_jax.workdir.metrics import read_metrics

FIRST = ("trial", "pack", "status", "step", "attempt")


def results(plan: Plan, workdir: Path) -> list[dict[str, Any]]:
    """A row for every trial of the plan, begun or not."""
    packs = plan.pack_of()
    return [row(plan, workdir, trial, packs[trial]) for trial in range(len(plan.trials))]


def row(plan: Plan, workdir: Path, trial: int, pack: int) -> dict[str, Any]:
    """What was varied, `split/metric` of the best parameters, `last split/metric` of the last."""
    folder = trial_folder(workdir, trial)
    status = trial_status(folder, ended(pack_folder(workdir, pack)))
    summary = read_json(folder / "summary.json")
    flat = plan.base | plan.trials[trial]
    found = {"trial": trial, "pack": pack, "status": status["status"], "step": status["step"]}
    found |= {"attempt": status.get("attempt", 0)}
    found |= {name: _plain(flat.get(name)) for name in plan.varied}
    found["best_step"] = summary.get("best_step")
    tested = {s: m for s, m in summary.get("metrics", {}).items() if s != "train"}
    found |= {f"{s}/{name}": v for s, metrics in tested.items() for name, v in metrics.items()}
    found |= last(folder) if status["step"] else {}
    found |= {name: summary.get(name) for name in ("wall_seconds", "parameters")}
    return found | {"error": status["error"]}


def last(folder: Path) -> dict[str, Any]:
    """The newest training and validation lines."""
    newest = {line["split"]: line for line in read_metrics(folder) if line["split"] != "test"}
    return {
        f"last {split}/{name}": value
        for split, line in newest.items()
        for name, value in line.items()
        if name not in ("step", "split", "steps_per_second")
    }


def _plain(value: Any) -> Any:
    return (
        value if isinstance(value, bool | int | float | str | None) else json.dumps(to_json(value))
    )


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every name that a row has, in the order of first appearance."""
    return list(dict.fromkeys([*FIRST, *(name for row in rows for name in row)]))


def write_results(plan: Plan, workdir: Path) -> Path:
    """results.csv and, with pyarrow, results.parquet, each replaced atomically; the csv's path."""
    rows = results(plan, workdir)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = workdir / "results.csv"
    write_text(path, text.getvalue())
    write_parquet(rows, path.with_suffix(".parquet"))
    return path


def write_parquet(rows: list[dict[str, Any]], path: Path) -> bool:
    """False, and no file, where pyarrow is missing: pip install 'lstm-jax[parquet]'."""
    try:
        pyarrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    except ImportError:
        return False
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns(rows)})
    with replacing(path) as tmp:
        parquet.write_table(table, tmp)
    return True
