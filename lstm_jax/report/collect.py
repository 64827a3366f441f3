"""What a sweep's files say: a `Trial` each, whatever state the sweep is in."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report.statistics import TRIM
from lstm_jax.sweep import claims
from lstm_jax.sweep.define import names
from lstm_jax.sweep.define.names import SEED
from lstm_jax.sweep.define.plan import Plan, pack_folder, trial_folder
from lstm_jax.sweep.pack.trial import OVER, trial_status
from lstm_jax.tasks.task import LARGER_IS_BETTER
from lstm_jax.workdir.files import read_json
from lstm_jax.workdir.metrics import read_metrics

SUMMARY = "summary.json"
UPDATES = "valid/updates_to_solve"  # of the validation curve: the first step that is solved
MARGIN = 0.05
READ = ("flow/carry", "shut/", "open/")  # of a diagnosis
ENDED = ("completed", "diverged")


class Reading(NamedTuple):
    """How a report reads the trials: the study's REPORT with what it leaves out."""

    choose: str  # "valid/loss": chooses among settings
    metric: str  # "test/loss": what is compared
    direction: str  # min | max, of `metric`
    choose_direction: str
    tuned: tuple[str, ...]  # fields that every variant may choose for itself
    by: tuple[str, ...]  # fields that split the report into sections
    select: str  # setting | tenth | all; for the table of choices: second | common
    scale: str  # linear | log | rank | solved
    margin: float  # share of the gap between the strongest trivial score and the baseline
    limit: float  # scores beyond it were not followed: censored there
    solved: float  # share of the trivial score that counts as solved
    block: Any  # fields whose values pair trials; {variant: fields} where not all are paired
    confirm: int  # fresh seeds that are to judge
    budget: int  # trials that may be added to those of the launch, beside those
    fresh: tuple  # seeds that judge and choose nothing
    early: tuple  # those of them whose spread said how many more there are to be
    trim: float  # share that is left out at either end
    drawn: tuple[str, ...]  # fields whose values were drawn: no grid that could go on


class Trial(NamedTuple):
    """One trial; `valid` and `test` are NaN where there is no score."""

    number: int
    status: str
    section: tuple  # values of the `by` fields
    variant: tuple  # values of the fields that name a variant
    setting: tuple  # values of the tuned fields
    seed: Any
    is_fresh: bool  # its seed judges, and chose nothing
    valid: float
    test: float
    trivial: float  # the strongest trivial score that compares with `test`
    trivial_valid: float  # the one that compares with `valid`
    curve: list[tuple[int, float]]  # of the choosing metric on the validation split
    parameters: int | None
    seconds: float | None  # of its pack, divided by the pack's trials
    ended: float | None  # when, by its worker's clock
    looks: dict[int, dict[str, Any]]  # its diagnoses by step, 0 at initialisation
    lacks: str  # why it does not count, "" where it does

    @property
    def flow(self) -> dict[str, Any]:
        """The arrays of its newest diagnosis."""
        return self.looks[max(self.looks)] if self.looks else {}


class Sweep(NamedTuple):
    """A sweep read from its workdir."""

    plan: Plan
    reading: Reading
    fields: tuple[str, ...]  # that name a variant
    baseline: tuple  # the baseline's values of them
    trials: list[Trial]
    metrics: tuple[str, ...]  # every split/metric that a trial has
    scores: dict[str, float]  # trivial scores on the same split and metric


def read_sweep(plan: Plan, workdir: Path) -> Sweep:
    """Every trial of the plan, begun or not."""
    sweep = unread(plan)
    reading, packs, first = sweep.reading, plan.pack_of(), {}
    trials, metrics, scores = [], {}, {}
    for number in range(len(plan.trials)):
        folder = trial_folder(workdir, number)
        summary = read_json(folder / SUMMARY)
        metrics |= dict.fromkeys(_names(summary))
        metrics |= {UPDATES: None} if summary and reading.metric == UPDATES else {}
        scores |= _trivial(summary, reading.metric)
        pack = packs[number]
        status = trial_status(folder, claims.ended(pack_folder(workdir, pack)))
        twin = first.setdefault(plan.hashes[number], number)
        size = len(plan.packs[pack])
        trial = _trial(sweep, number, folder, summary, status, size)
        if twin != number and not trial.lacks:
            trial = trial._replace(lacks=f"the same config as trial {twin}")
        trials.append(trial)
    return sweep._replace(trials=trials, metrics=tuple(metrics), scores=scores)


def unread(plan: Plan) -> Sweep:
    """The sweep without its trials."""
    fields, flat = names.variant_fields(plan), plan.base | plan.baseline
    baseline = tuple(_hashable(flat.get(name)) for name in fields)
    return Sweep(plan, how(plan), fields, baseline, [], (), {})


def identity(sweep: Sweep, number: int) -> dict[str, Any]:
    """What the plan alone says of a trial."""
    flat = sweep.plan.base | sweep.plan.trials[number]
    reading, seed = sweep.reading, _hashable(flat.get(SEED))
    named = {"section": reading.by, "variant": sweep.fields, "setting": reading.tuned}
    values = {k: tuple(_hashable(flat.get(n)) for n in fields) for k, fields in named.items()}
    return values | {"number": number, "seed": seed, "is_fresh": seed in reading.fresh}


def added(plan: Plan) -> str:
    """Trials by what added them."""
    counts: Counter[str] = Counter()
    for more in plan.grown:
        counts[more.kind] += len(more.trials)
    return "; ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def how(plan: Plan) -> Reading:
    """The study's REPORT; a field that the baseline names is a variant's, never tuned."""
    given, name = plan.report, plan.metric.partition("/")[2]
    metric = given.get("metric", f"test/{name}")
    shown = metric.partition("/")[2]
    usual = "max" if shown in LARGER_IS_BETTER else "min"
    same = plan.direction if shown == name else usual
    return Reading(
        choose=plan.metric if plan.metric.startswith("valid/") else f"valid/{name}",
        metric=metric,
        direction=given.get("direction", same),
        choose_direction=plan.direction,
        scale=given.get("scale", "linear"),
        margin=given.get("margin", MARGIN),
        limit=given.get("limit", unsolved(plan) if metric == UPDATES else math.inf),
        solved=given.get("solved", 0.0),
        block=given.get("block", ()),
        confirm=given.get("confirm", 0),
        budget=given.get("budget", plan.meant),
        fresh=tuple(given.get("fresh", ())),
        early=early(plan),
        trim=TRIM,
        drawn=tuple(plan.drawn),
        tuned=names.tuned(plan),
        by=names.sections(plan),
        select=given.get("select", "setting"),
    )


def early(plan: Plan) -> tuple:
    """The fresh seeds that judged before any were added for the width of an interval."""
    added = [m.fresh for m in plan.grown if m.fresh]
    new = {seed for seeds in added for seed in seeds}
    named = tuple(seed for seed in plan.report.get("fresh", ()) if seed not in new)
    return named or tuple(next(iter(added), ()))


def _trial(sweep, number, folder, summary, found, size) -> Trial:
    reading, seconds = sweep.reading, summary.get("wall_seconds")
    trivial = strongest(summary, reading.metric, reading.direction)
    trivial_valid = strongest(summary, reading.choose, reading.choose_direction)
    valid, test = _score(summary, reading.choose), _score(summary, reading.metric)
    curve = _curve(folder, reading.choose.partition("/")[2])
    if reading.metric == UPDATES and summary:
        test, trivial = updates_to_solve(curve, reading, trivial_valid), reading.limit
    status = found["status"]
    if status == "diverged":
        valid = worse(valid, trivial_valid, reading.choose_direction)
        test = worse(test, trivial, reading.direction)
    return Trial(
        **identity(sweep, number),
        status=status,
        valid=valid,
        test=test,
        trivial=trivial,
        trivial_valid=trivial_valid,
        curve=curve,
        parameters=summary.get("parameters"),
        seconds=None if seconds is None else seconds / max(size, 1),
        ended=found.get("heartbeat") if status in OVER else None,
        looks=_looks(folder),
        lacks=_lacks(status, found["error"], summary, reading, valid, test),
    )


def unsolved(plan: Plan) -> float:
    """What a run counts with that never solves its task: the evaluation after its last one."""
    return float(plan.base["train.num_steps"] + plan.base["train.eval_every"])


def updates_to_solve(curve: list[tuple[int, float]], reading: Reading, trivial: float) -> float:
    """The first evaluation at which validation is at most `solved` of the trivial score.

    Censored at the limit; as coarse as `train.eval_every`.
    """
    steps = (step for step, value in curve if value <= reading.solved * trivial)
    return min(float(next(steps, reading.limit)), reading.limit)


def strongest(summary: dict[str, Any], metric: str, direction: str) -> float:
    """The best trivial score on a split and metric, NaN where there is none."""
    scores = _trivial(summary, metric).values()
    return (min if direction == "min" else max)(scores, default=math.nan)


def worse(score: float, trivial: float, direction: str) -> float:
    """What a diverged trial counts with: the trivial score, or its own where that is worse."""
    pick = max if direction == "min" else min
    return pick((v for v in (score, trivial) if math.isfinite(v)), default=math.nan)


def _lacks(
    status: str, error: str, summary: dict, reading: Reading, valid: float, test: float
) -> str:
    if status not in ENDED:
        return f"{status}: {error.splitlines()[0]}" if error else status
    if not summary:
        return "its summary.json is missing or damaged"
    for name, value in ((reading.choose, valid), (reading.metric, test)):
        if not math.isfinite(value):
            return f"no finite {name}"
    return ""


def _score(summary: dict[str, Any], metric: str) -> float:
    split, _, name = metric.partition("/")
    value = _dict(_dict(summary.get("metrics")).get(split)).get(name)
    return float(value) if isinstance(value, int | float) else float("nan")


def _names(summary: dict[str, Any]) -> list[str]:
    found = _dict(summary.get("metrics"))
    return [f"{s}/{name}" for s, m in found.items() if s != "train" for name in _dict(m)]


def _trivial(summary: dict[str, Any], metric: str) -> dict[str, float]:
    split, _, name = metric.partition("/")
    found = _dict(_dict(summary.get("baselines")).get(split))
    return {who: float(_dict(s)[name]) for who, s in found.items() if name in _dict(s)}


def _curve(folder: Path, name: str) -> list[tuple[int, float]]:
    lines = [line for line in read_metrics(folder) if line["split"] == "valid"]
    found = [(line["step"], line.get(name)) for line in lines]
    return [(s, float(v)) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _looks(folder: Path) -> dict[int, dict[str, Any]]:
    """What reports read of every readable diagnosis, by step."""
    found: dict[int, dict[str, Any]] = {}
    for path in sorted((folder / "diagnostics").glob("step_*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = [name for name in arrays if name.partition("/")[2].startswith(READ)]
                found[int(path.stem.removeprefix("step_"))] = {n: arrays[n] for n in names}
        except (OSError, ValueError, zipfile.BadZipFile):
            continue
    return found


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return str(value) if isinstance(value, dict) else value


def facts(plan: Plan, workdir: Path) -> dict[str, str]:
    """Where the numbers come from: commit, device, versions, seeds, time; what is known of it."""
    manifests = (trial_folder(workdir, n) / "manifest.json" for n in range(len(plan.trials)))
    found = next(filter(None, map(read_json, manifests)), {})
    git, device = _dict(found.get("git")), _dict(found.get("devices"))
    commit = f"{git.get('commit', '')}{' with changes' if git.get('dirty') else ''}"
    hardware = f"{device.get('count', '?')} {device.get('kind', '?')}" if device else ""
    versions = _dict(found.get("versions"))
    seeds = dict.fromkeys(str((plan.base | trial).get(SEED)) for trial in plan.trials)
    summaries = [read_json(trial_folder(workdir, pack[0]) / SUMMARY) for pack in plan.packs]
    walls = [s["wall_seconds"] for s in summaries if s.get("wall_seconds")]
    rows = {
        "command": plan.command,
        "added since": added(plan),
        "commit": commit,
        "device": hardware,
        "versions": ", ".join(f"{k} {versions[k]}" for k in ("jax", "lstm-jax") if k in versions),
        "seeds": ", ".join(seeds) if len(seeds) <= 12 else f"{len(seeds)} different",
        "packs": f"{len(plan.packs)}, wall time {sum(walls):,.0f} s in all" if walls else "",
        "written": str(found.get("created", ""))[:10],
    }
    return {name: value for name, value in rows.items() if value}
