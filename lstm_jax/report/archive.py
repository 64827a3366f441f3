"""What a report keeps of its sweep: plan.json and trials.csv, from which it can be made again."""

from __future__ import annotations

import csv
import io
import json
from math import isfinite
from pathlib import Path
from typing import Any

from lstm_jax.errors import UsageError
from lstm_jax.report.collect import ENDED, Sweep, Trial, facts, how, identity, read_sweep, unread
from lstm_jax.sweep.define.plan import (
    MANIFEST,
    VERSION,
    Growth,
    Plan,
    plan_of,
    read_plan,
    read_versioned,
)
from lstm_jax.workdir.files import csv_text, write_text

PLAN, TRIALS = "plan.json", "trials.csv"
READ_FROM = {"read from": "plan.json and trials.csv; curves and diagnoses are with the sweep"}


def open_sweep(folder: Path) -> tuple[Sweep, dict[str, str]]:
    """A sweep and where its numbers come from, by its workdir or by the folder of its report.

    Raises:
      UsageError: the folder is neither, or a file in it is damaged.
    """
    if (folder / PLAN).exists():
        return from_report(folder)
    if not (folder / MANIFEST).exists():
        there = sorted(p.parent.name for name in (MANIFEST, PLAN) for p in folder.glob(f"*/{name}"))
        hint = f"; folders in it that do: {', '.join(there)}" if there else ""
        raise UsageError(
            f"{folder} holds no sweep: it has no {MANIFEST}, nor {PLAN} of a report{hint}"
        )
    plan = read_plan(folder)
    return read_sweep(plan, folder), facts(plan, folder)


def keep(sweep: Sweep, origin: dict[str, str], out: Path) -> None:
    """Write both files to the report's folder."""
    plan = sweep.plan._asdict() | {"grown": [more._asdict() for more in sweep.plan.grown]}
    origin = {name: value for name, value in origin.items() if name not in READ_FROM}
    found = {"version": VERSION, "plan": plan, "origin": origin, "trivial": sweep.scores}
    write_text(out / PLAN, json.dumps(found) + "\n")
    write_text(out / TRIALS, table(sweep))


def table(sweep: Sweep) -> str:
    """A row a trial: what was varied, its scores as they are judged, why it does not count."""
    rows = []
    for t in sweep.trials:
        scores = (t.valid, t.test, t.trivial, t.trivial_valid)
        rest = (int(t.is_fresh), t.parameters, t.seconds, t.ended, t.lacks)
        rows.append([t.number, t.status, *_varied(sweep.plan, t.number), *scores, *rest])
    return csv_text([heads(sweep), *rows])


def _varied(plan: Plan, number: int) -> list[str]:
    flat = plan.base | plan.trials[number]
    return ["" if flat.get(name) is None else str(flat[name]) for name in plan.varied]


def heads(sweep: Sweep) -> list[str]:
    reading = sweep.reading
    return [
        *("trial", "status", *sweep.plan.varied, reading.choose, reading.metric),
        *("trivial", f"trivial {reading.choose}", "fresh", "parameters", "seconds", "ended"),
        "not counted",
    ]


def from_report(folder: Path) -> tuple[Sweep, dict[str, str]]:
    """What `keep` has written."""
    plan, origin, scores = read_versioned(folder / PLAN, _kept)
    sweep = unread(plan)
    trials = _trials(sweep, folder / TRIALS)
    found = {sweep.reading.choose: "valid", sweep.reading.metric: "test"}
    metrics = [n for n, field in found.items() if any(isfinite(getattr(t, field)) for t in trials)]
    whole = sweep._replace(trials=trials, metrics=tuple(metrics), scores=scores)
    return whole, origin | READ_FROM


def _kept(found: dict[str, Any]) -> tuple[Plan, dict[str, str], dict[str, float]]:
    grown = tuple(Growth(**more) for more in found["plan"]["grown"])
    plan = plan_of(found["plan"])._replace(grown=grown)
    whole = {
        "report": isinstance(plan.report, dict) and isinstance(how(plan).margin, int | float),
        "registered": isinstance(plan.registered, dict),
        "trials": all(isinstance(trial, dict) for trial in plan.trials),
        "packs": all(isinstance(pack, list) for pack in plan.packs),
        "origin": all(isinstance(value, str) for value in found["origin"].values()),
        "trivial": all(isinstance(value, int | float) for value in found["trivial"].values()),
    }
    if broken := [name for name, holds in whole.items() if not holds]:
        raise ValueError(f"{', '.join(broken)} cannot be read")
    return plan, found["origin"], found["trivial"]


def _trials(sweep: Sweep, path: Path) -> list[Trial]:
    """A trial a row.

    Raises:
      UsageError: they are not those of the plan, or cannot be read.
    """
    expected = heads(sweep)
    try:
        first, *rows = csv.reader(io.StringIO(path.read_text("utf-8-sig"))) or [[]]
        if first != expected:
            raise ValueError(f"its columns are {first}, {PLAN} beside it says {expected}")
        numbers = [int(row[0]) for row in rows]
        if numbers != list(range(len(sweep.plan.trials))):
            count = len(sweep.plan.trials)
            raise ValueError(f"it has {len(rows)} trials, {PLAN} beside it has {count}, from 0 on")
        return [_trial(sweep, row) for row in rows]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _trial(sweep: Sweep, row: list[str]) -> Trial:
    number, status, *varied = row[:-9]
    valid, test, trivial, trivial_valid, _, parameters, seconds, ended, lacks = row[-9:]
    expected = _varied(sweep.plan, int(number))
    if varied != expected:
        raise ValueError(f"trial {number} has {varied}, {PLAN} beside it says {expected}")
    if not lacks and (status not in ENDED or not (valid and test)):
        raise ValueError(
            f"trial {number} is {status!r} with the scores {valid!r} and {test!r}, and nothing "
            "says why it does not count"
        )
    return Trial(
        **identity(sweep, int(number)),
        status=status,
        valid=float(valid or "nan"),
        test=float(test or "nan"),
        trivial=float(trivial or "nan"),
        trivial_valid=float(trivial_valid or "nan"),
        curve=[],
        parameters=int(parameters) if parameters else None,
        seconds=float(seconds) if seconds else None,
        ended=float(ended) if ended else None,
        looks={},
        lacks=lacks,
    )
