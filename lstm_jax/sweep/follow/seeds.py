"""Each variant's mean and spread over seeds, as runs of TensorBoard beside those of its trials."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from lstm_jax.sweep.define.names import FOLDER, group_names
from lstm_jax.sweep.define.plan import Plan, trial_folder
from lstm_jax.workdir import tensorboard
from lstm_jax.workdir.metrics import read_metrics

MEAN = "mean"  # the folder of these runs
CATEGORY = "mean over seeds, and one standard deviation to either side"

Curves = dict[str, dict[int, list[float]]]  # {"valid/loss": {step: values, one a trial}}


def write_means(plan: Plan, workdir: Path) -> list[Path]:
    """A run a variant that has more than one trial, written afresh; their folders.

    Trials that have no finite value at a step are left out there; `spread/valid/loss/trials`
    counts those behind a mean.
    """
    groups = defaultdict(list)
    for trial, name in enumerate(group_names(plan)):
        groups[name].append(trial_folder(workdir, trial))
    found = {name: curves(folders) for name, folders in groups.items() if len(folders) > 1}
    return [write(workdir / FOLDER / MEAN / name, seen) for name, seen in found.items() if seen]


def curves(folders: list[Path]) -> Curves:
    """The finite values of every metric at every step; of the test, at the mean best step."""
    logged = [read_metrics(folder) for folder in folders]
    tested = [line for lines in logged if (line := _newest_test(lines))]
    best = round(statistics.fmean(line["step"] for line in tested)) if tested else 0
    others = (line for lines in logged for line in lines if line["split"] != "test")
    found: Curves = defaultdict(lambda: defaultdict(list))
    for line in (*others, *({**line, "step": best} for line in tested)):
        for name, value in line.items():
            if _is_shown(line["split"], name, value):
                found[f"{line['split']}/{name}"][line["step"]].append(float(value))
    return found


def _newest_test(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((line for line in reversed(lines) if line["split"] == "test"), None)


def _is_shown(split: str, name: str, value: Any) -> bool:
    """Of training the loss alone: what else is logged there describes the run."""
    known = name == "loss" if split == "train" else name not in ("step", "split")
    return known and isinstance(value, int | float) and math.isfinite(value)


def write(folder: Path, found: Curves) -> Path:
    """One event file, newer than those it replaces: a TensorBoard that is open takes it up."""
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob("events.*"))
    file = tensorboard.EventFile(folder)
    charts = {tag: list(spread(tag, [0.0]))[:3] for tag in sorted(found)}
    file.add(0, tensorboard.margins(CATEGORY, charts))
    for tag, points in found.items():
        for step in sorted(points):
            file.add(step, tensorboard.scalars(spread(tag, points[step])))
    file.flush()
    for path in old:
        path.unlink(missing_ok=True)
    return folder


def spread(tag: str, values: list[float]) -> dict[str, float]:
    """Mean, one sample standard deviation to either side, and how many trials there are."""
    mean = statistics.fmean(values)
    half = statistics.stdev(values) if len(values) > 1 else 0.0
    around = {"low": mean - half, "high": mean + half, "trials": len(values)}
    return {f"{MEAN}/{tag}": mean} | {f"spread/{tag}/{part}": v for part, v in around.items()}
