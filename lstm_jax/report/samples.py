"""Which trials speak for a variant, their scores on the scale, and the test that suits them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report import statistics
from lstm_jax.report.collect import UPDATES, Reading, Sweep, Trial
from lstm_jax.report.names import listed, plain, short
from lstm_jax.report.statistics import NOTHING, Comparison

Settings = dict[tuple, list[Trial]]
FROM_ONE = ("first_failing_n", "updates_to_solve", "perplexity")
RANGES = {"accuracy": (0.0, 1.0)} | dict.fromkeys(FROM_ONE, (1.0, math.inf))
UNITS = {"log": "doublings of {}", "solved": "share of seeds that solve", "rank": "{}"}


def units(reading: Reading) -> str:
    """Of a difference on the scale."""
    return UNITS.get(reading.scale, "{}").format(reading.metric)


def mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else NOTHING


# ---------------------------------------------------------------- which trials speak


def settings(trials: list[Trial]) -> Settings:
    """Trials by setting, without those that repeat another's config."""
    found: Settings = {}
    for trial in trials:
        if not trial.lacks.startswith("the same config"):
            found.setdefault(trial.setting, []).append(trial)
    return found


def eligible(found: Settings) -> Settings:
    """The settings of which every seed has a score: survivors do not speak for a setting."""
    return {s: trials for s, trials in found.items() if not any(t.lacks for t in trials)}


def choose(sweep: Sweep, trials: list[Trial], common: tuple = ()) -> list[Trial]:
    """The trials that choose: those of the best setting by mean validation score.

    `tenth`: the best tenth of all trials by validation, at least five (Greff et al.); `all`: every
    trial, for a random search whose draws the variants share. For the table of choices, `second`:
    the second-best setting; `common`: the one given.
    """
    reading = sweep.reading
    sign = -1.0 if reading.choose_direction == "max" else 1.0
    tuning = [t for t in trials if not t.is_fresh]
    usable = [t for t in tuning if not t.lacks]
    if reading.select == "all":
        return usable
    if reading.select == "tenth":
        return sorted(usable, key=lambda t: sign * t.valid)[: max(5, math.ceil(len(usable) / 10))]
    found = eligible(settings(tuning))
    if reading.select == "common":
        return found.get(common, [])
    ranked = sorted(found.values(), key=lambda f: sign * np.mean([t.valid for t in f]))
    return next(iter(ranked[1 if reading.select == "second" else 0 :]), [])


def judging(sweep: Sweep, trials: list[Trial], chosen: list[Trial]) -> list[Trial]:
    """The trials that judge: the fresh seeds at the chosen setting where the sweep has any."""
    if not chosen or not any(t.is_fresh for t in sweep.trials):
        return chosen
    judges = [t for t in trials if t.is_fresh and t.setting == chosen[0].setting]
    order = {seed: i for i, seed in enumerate(sweep.reading.fresh)}
    return sorted(judges, key=lambda t: order[t.seed])


class Edge(NamedTuple):
    """A tuned field whose chosen value is the last one that was tried."""

    field: str
    tried: list[int | float]  # ascending
    is_largest: bool


def at_edges(reading: Reading, trials: list[Trial], chosen: list[Trial]) -> list[Edge]:
    """The edges of the grid that a variant's chosen setting stands at."""
    if reading.select != "setting" or not chosen:
        return []
    found = []
    for i, name in enumerate(reading.tuned):
        values = {t.setting[i] for t in trials if name not in reading.drawn}
        tried = sorted(v for v in values if isinstance(v, int | float))
        value = chosen[0].setting[i]
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            found.append(Edge(name, tried, value == tried[-1]))
    return found


def setting(sweep: Sweep, chosen: list[Trial]) -> str:
    """The chosen setting in words."""
    if not chosen or not sweep.reading.tuned:
        return ""
    if sweep.reading.select in ("tenth", "all"):
        return "best " * (sweep.reading.select == "tenth") + f"{len(chosen)} draws"
    pairs = zip(sweep.reading.tuned, chosen[0].setting, strict=True)
    return ", ".join(f"{short(name)}={plain(value)}" for name, value in pairs)


# ---------------------------------------------------------------- scores on the scale


def values(reading: Reading, trials: list[Trial]) -> np.ndarray:
    """Scores as they are compared: log2 of them, solved or not, cut at the limit."""
    raw = np.array([t.test for t in trials], float)
    if reading.scale == "solved":
        return np.array([solves(reading, t) for t in trials], float)
    cut = np.minimum(raw, reading.limit)
    return log2(cut) if reading.scale == "log" else cut


def solves(reading: Reading, trial: Trial) -> bool:
    """Whether a trial solved its task: at most a share of the trivial score, before the limit."""
    if reading.metric == UPDATES:
        return trial.test < reading.limit
    return trial.test <= reading.solved * trial.trivial


def log2(raw: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(raw)


def aim(reading: Reading) -> str:
    """min or max of `values`."""
    return "max" if reading.scale == "solved" else reading.direction


def sign(direction: str) -> float:
    """1 where less is better, -1 where more is."""
    return -1.0 if direction == "max" else 1.0


def centre(reading: Reading, trials: list[Trial]) -> statistics.Mean:
    """The typical score on the scale."""
    found = values(reading, trials)
    if len(found) < 2:
        return statistics.Mean(mean(found), NOTHING, NOTHING)
    return statistics.mean_of(found, reading.trim)


def mean_span(sweep: Sweep, trials: list[Trial]) -> tuple[float, float, float]:
    """(typical score, low, high) of 95 %, in the metric's own units and within its range."""
    reading = sweep.reading
    if reading.scale == "solved" and trials:
        solved = values(reading, trials)
        low, high = statistics.wilson(int(solved.sum()), len(solved))
        return mean(solved), low, high
    found = centre(reading, trials)
    low, high = (
        statistics.t_interval(found, statistics.ALPHA) if len(trials) > 1 else (NOTHING,) * 2
    )
    back = np.exp2 if reading.scale == "log" else np.asarray
    least, most = bounds(sweep)
    low, high = np.clip([float(back(low)), float(back(high))], least, most)
    return float(back(found.estimate)), float(low), float(high)


def bounds(sweep: Sweep) -> tuple[float, float]:
    """The range of the metric; one that is not known is never negative if no score is."""
    scores = [t.test for t in sweep.trials if math.isfinite(t.test)]
    usual = 0.0 if scores and min(scores) >= 0 else -math.inf, math.inf
    low, high = RANGES.get(sweep.reading.metric.partition("/")[2], usual)
    return low, min(high, sweep.reading.limit)


# ---------------------------------------------------------------- gap and failures


class Gap(NamedTuple):
    """From the strongest trivial score to the baseline's, on the scale; NaN where unknown."""

    trivial: float  # on the scale
    baseline: float
    size: float  # above 0 where the baseline has learned something
    margin: float


def gap(reading: Reading, baseline: list[Trial]) -> Gap:
    """The gap, and the margin that is a share of it."""
    if reading.scale == "solved":
        return Gap(0.0, mean(values(reading, baseline)), 1.0, reading.margin)
    trivial = next((t.trivial for t in baseline), NOTHING)
    trivial = float(log2(trivial)) if reading.scale == "log" else trivial
    base = float(centre(reading, baseline).estimate)
    size = (trivial - base) * (1 if reading.direction == "min" else -1)
    return Gap(trivial, base, size, reading.margin * size if size > 0 else NOTHING)


def failures(reading: Reading, trials: list[Trial], room: Gap) -> int:
    """Seeds that failed: not solved, or nearer to the trivial score than to the baseline."""
    if reading.solved:
        return sum(not solves(reading, t) for t in trials)
    if not room.size > 0:
        return 0
    far = np.abs(values(reading, trials) - room.baseline)
    wrong = (values(reading, trials) > room.baseline) == (reading.direction == "min")
    return int(np.sum((far > room.size / 2) & wrong))


# ---------------------------------------------------------------- the test


def compare(
    sweep: Sweep, variant: str, ours: list[Trial], theirs: list[Trial]
) -> tuple[Comparison | None, str]:
    """(the comparison, "") or (None, why there is none)."""
    reading = sweep.reading
    why = obstacle(reading, ours, theirs)
    if why:
        return None, why
    fields = block_of(reading, variant)
    if fields:
        ours, theirs, why = partners(sweep, fields, ours, theirs)
        if why:
            return None, why
    x, y = values(reading, ours), values(reading, theirs)
    if reading.scale == "solved":
        return statistics.by_counts(x, y), ""
    if reading.scale == "rank":
        return statistics.by_ranks(x, y), ""
    test = statistics.by_pairs if fields else statistics.by_means
    return test(x, y, reading.trim, (early(reading, ours), early(reading, theirs))), ""


def early(reading: Reading, trials: list[Trial]) -> int:
    """How many of the first trials said how many more there were to be; all where none did."""
    count = sum(t.seed in reading.early for t in trials)
    return count if count > 1 else len(trials)


def seed_differences(
    sweep: Sweep, variant: str, ours: list[Trial], theirs: list[Trial]
) -> np.ndarray:
    """Every seed less its partner's score, or less the baseline's typical one."""
    fields = block_of(sweep.reading, variant)
    if fields:
        ours, theirs, _ = partners(sweep, fields, ours, theirs)
        return values(sweep.reading, ours) - values(sweep.reading, theirs)
    return values(sweep.reading, ours) - centre(sweep.reading, theirs).estimate


def obstacle(reading: Reading, ours: list[Trial], theirs: list[Trial]) -> str:
    """Why two samples cannot be compared."""
    for who, trials in (("the baseline", theirs), ("it", ours)):
        lacking = [t for t in trials if t.lacks]
        if not trials:
            return f"{who} has no setting with a score for every seed"
        if lacking:
            numbers = listed([t.number for t in lacking])
            return f"{who} lacks a fresh seed ({lacking[0].lacks}): {numbers}"
        if len(trials) == 1:
            return f"{who} has one score"
        bad = [t.number for t in trials if not math.isfinite(values(reading, [t])[0])]
        if bad:
            return f"a log scale needs positive scores: {listed(bad)}"
    return ""


def block_of(reading: Reading, variant: str) -> tuple[str, ...]:
    """The fields whose values pair this variant's trials with the baseline's."""
    given = reading.block
    given = given.get(variant, ()) if isinstance(given, Mapping) else given
    return (given,) if isinstance(given, str) else tuple(given)


def partners(
    sweep: Sweep, fields: tuple[str, ...], ours: list[Trial], theirs: list[Trial]
) -> tuple[list[Trial], list[Trial], str]:
    """Both samples in the order of their blocks, or what is wrong with those."""
    a, b = (blocks(sweep, fields, trials) for trials in (ours, theirs))
    named = ", ".join(map(short, fields))
    if len(a) < len(ours) or len(b) < len(theirs):
        return [], [], f"BLOCK {named} does not tell its trials apart: name more fields"
    alone = [key for key in dict.fromkeys((*a, *b)) if key not in a or key not in b]
    if alone:
        shown = ", ".join("/".join(map(plain, key)) for key in alone[:5])
        return [], [], f"{len(alone)} blocks have no partner, {named} {shown}: run those trials"
    return list(a.values()), [b[key] for key in a], ""


def blocks(sweep: Sweep, fields: tuple[str, ...], trials: list[Trial]) -> dict[tuple, Trial]:
    flat = ((t, sweep.plan.base | sweep.plan.trials[t.number]) for t in trials)
    return {tuple(found.get(name) for name in fields): t for t, found in flat}
