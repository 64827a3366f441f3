"""Trials -> a row a variant, and the words that the numbers allow.

The words, by rule:

    worse, better        Holm-adjusted p of Welch's t below 0.05 and the interval of the
                         difference without 0
    no difference shown  anything else that could be tested; beside it stands the smallest
                         difference that the design would have shown with probability 0.8
    diverges             more than half of its trials at the chosen setting diverged
    not compared         too little to say anything: the reason stands beside it
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report import statistics
from lstm_jax.report.collect import ENDED, Sweep, Trial

ALPHA = 1 - statistics.LEVEL
NOTHING = float("nan")


class Row(NamedTuple):
    """One variant of one section; NaN and "" where nothing can be said."""

    variant: str
    is_baseline: bool
    setting: str  # chosen on validation
    seeds: int  # scores at it
    trials: int
    ended: int
    diverged: float  # share of the ended trials
    valid: float  # mean at the chosen setting
    mean: float
    low: float
    high: float
    iqm: float
    parameters: int | None
    seconds: float  # mean a trial
    verdict: str
    why: str = ""
    difference: float = NOTHING  # mean - the baseline's mean
    difference_low: float = NOTHING
    difference_high: float = NOTHING
    improvement: float = NOTHING  # probability of improvement
    welch: float = NOTHING
    welch_holm: float = NOTHING
    mann_whitney: float = NOTHING
    mann_whitney_holm: float = NOTHING
    effect: float = NOTHING  # Hedges' g
    smallest: float = NOTHING  # smallest difference that the design could have shown


class Section(NamedTuple):
    """The variants that are compared with each other, the baseline first."""

    title: str
    rows: list[Row]
    chosen: dict[str, list[Trial]]  # the trials behind each row's scores
    trials: dict[str, list[Trial]]  # all trials of each variant
    sentences: list[str]
    notes: list[str]  # what is missing, and which claims are therefore not made


def analyse(sweep: Sweep) -> list[Section]:
    """A section for every value of the `by` fields; one where there are none."""
    titles = dict.fromkeys(trial.section for trial in sweep.trials)
    return [section(sweep, values) for values in titles]


def section(sweep: Sweep, values: tuple) -> Section:
    """Compare the variants of one section."""
    labels = label_variants(sweep)
    groups: dict[str, list[Trial]] = {}
    for trial in sweep.trials:
        if trial.section == values:
            groups.setdefault(labels[trial.variant], []).append(trial)
    base = labels.get(sweep.baseline, "")
    groups = {name: groups[name] for name in sorted(groups, key=lambda n: n != base)}
    chosen = {name: choose(sweep, trials) for name, trials in groups.items()}
    rows = [summarise(sweep, name, groups[name], chosen[name], name == base) for name in groups]
    rows = judge(sweep, rows, chosen)
    title = ", ".join(f"{short(f)}={v}" for f, v in zip(sweep.reading.by, values, strict=True))
    sentences = [sentence(sweep, row) for row in rows if not row.is_baseline]
    return Section(title, rows, chosen, groups, sentences, remarks(sweep, rows, chosen, groups))


# ---------------------------------------------------------------- names


def short(name: str) -> str:
    """The field without its section: optimizer.learning_rate is learning_rate."""
    return name.rpartition(".")[2]


def label_variants(sweep: Sweep) -> dict[tuple, str]:
    """A name for every variant: where it differs from the baseline."""
    same = [n for n, count in Counter(map(short, sweep.fields)).items() if count > 1]
    names = [f if short(f) in same else short(f) for f in sweep.fields]

    def label(values: tuple) -> str:
        pairs = list(zip(names, values, sweep.baseline, strict=True))
        apart = [f"{n}={plain(v)}" for n, v, b in pairs if v != b]
        return ", ".join(apart) or baseline

    own = [n for n, f in zip(names, sweep.fields, strict=True) if f in sweep.plan.baseline]
    pairs = dict(zip(names, sweep.baseline, strict=True))
    named = ", ".join(f"{n}={plain(pairs[n])}" for n in own)
    baseline = f"baseline ({named})" if named else "baseline"
    return {t.variant: label(t.variant) for t in sweep.trials}


def plain(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "/".join(map(plain, value)) or "none"
    return "default" if value == "" else str(value)


def number(value: float | None) -> str:
    """Four significant digits; nothing where there is no number."""
    known = value is not None and math.isfinite(value)
    return f"{value:.4g}".replace("e-0", "e-") if known else ""


# ---------------------------------------------------------------- which trials count


def choose(sweep: Sweep, trials: list[Trial]) -> list[Trial]:
    """The trials that speak for a variant: those of its best setting on validation.

    A setting is judged by the mean over its seeds, if it has at least half as many scores as the
    fullest one. `tenth`: the best tenth of all trials by validation, at least five (Greff et al.).
    """
    usable = [trial for trial in trials if not trial.lacks]
    sign = -1.0 if sweep.reading.choose_direction == "max" else 1.0
    if sweep.reading.select == "tenth":
        ranked = sorted(usable, key=lambda t: sign * t.valid)
        return ranked[: max(5, math.ceil(len(usable) / 10))]
    settings: dict[tuple, list[Trial]] = {}
    for trial in usable:
        settings.setdefault(trial.setting, []).append(trial)
    fullest = max(map(len, settings.values()), default=0)
    full = [found for found in settings.values() if 2 * len(found) >= fullest]
    return min(full, key=lambda found: sign * np.mean([t.valid for t in found]), default=[])


def summarise(
    sweep: Sweep, name: str, trials: list[Trial], chosen: list[Trial], is_baseline: bool
) -> Row:
    """What a variant did on its own."""
    scores = np.array([t.test for t in chosen])
    ended = [t for t in trials if t.status in ENDED]
    low, high = statistics.mean_interval(scores) if len(scores) > 1 else (NOTHING, NOTHING)
    seconds = [t.seconds for t in trials if t.seconds is not None]
    return Row(
        variant=name,
        is_baseline=is_baseline,
        setting=setting(sweep, chosen, trials),
        seeds=len(scores),
        trials=len(trials),
        ended=len(ended),
        diverged=mean([t.status == "diverged" for t in ended]),
        valid=mean([t.valid for t in chosen]),
        mean=mean(scores),
        low=low,
        high=high,
        iqm=statistics.interquartile_mean(scores) if len(scores) else NOTHING,
        parameters=next((t.parameters for t in trials if t.parameters), None),
        seconds=mean(seconds),
        verdict="baseline" if is_baseline else "not compared",
    )


def mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else NOTHING


def setting(sweep: Sweep, chosen: list[Trial], trials: list[Trial]) -> str:
    """The chosen setting in words."""
    if not chosen or not sweep.reading.tuned:
        return ""
    if sweep.reading.select == "tenth":
        return f"best {len(chosen)} of {sum(not t.lacks for t in trials)}"
    pairs = zip(sweep.reading.tuned, chosen[0].setting, strict=True)
    return ", ".join(f"{short(name)}={plain(value)}" for name, value in pairs)


# ---------------------------------------------------------------- comparisons


def judge(sweep: Sweep, rows: list[Row], chosen: dict[str, list[Trial]]) -> list[Row]:
    """Every variant against the baseline; p values adjusted over all variants of the section."""
    base = next((row for row in rows if row.is_baseline), None)
    reference = scores_of(chosen, base) if base else np.array([])
    rows = [row if row.is_baseline else compare(sweep, row, chosen, reference) for row in rows]
    welch = statistics.holm([row.welch for row in rows])
    ranks = statistics.holm([row.mann_whitney for row in rows])
    tested = sum(not math.isnan(row.welch) for row in rows)
    found = []
    for row, p, q in zip(rows, welch, ranks, strict=True):
        row = row._replace(welch_holm=p, mann_whitney_holm=q)
        if not row.is_baseline:
            sample = scores_of(chosen, row)
            least = statistics.smallest_difference(sample, reference, tested)
            row = verdict(sweep, row._replace(smallest=least), base, chosen)
        found.append(row)
    return found


def scores_of(chosen: dict[str, list[Trial]], row: Row) -> np.ndarray:
    return np.array([trial.test for trial in chosen[row.variant]])


def compare(sweep: Sweep, row: Row, chosen: dict[str, list[Trial]], reference: Any) -> Row:
    """The numbers of one comparison."""
    sample = scores_of(chosen, row)
    if not len(sample) or not len(reference):
        return row
    low, high = statistics.difference_interval(sample, reference)
    return row._replace(
        difference=float(np.mean(sample) - np.mean(reference)),
        difference_low=low,
        difference_high=high,
        improvement=statistics.improvement(sample, reference, sweep.reading.direction),
        welch=statistics.welch(sample, reference),
        mann_whitney=statistics.mann_whitney(sample, reference),
        effect=statistics.effect_size(sample, reference),
    )


def verdict(sweep: Sweep, row: Row, base: Row | None, chosen: dict[str, list[Trial]]) -> Row:
    """The word for a row, by the rules at the top."""
    diverged = mean([t.status == "diverged" for t in chosen[row.variant]])
    obstacles = (
        (base is None, "the sweep has no trial of the baseline"),
        (base is not None and not base.seeds, "the baseline has no score"),
        (not row.seeds, "it has no score"),
        (row.seeds == 1, "it has one score"),
        (base is not None and base.seeds == 1, "the baseline has one score"),
        (math.isnan(row.welch), "the scores do not vary over seeds"),
    )
    if row.seeds and diverged > 0.5:
        return row._replace(verdict="diverges", why=f"{diverged:.0%} of its chosen trials")
    why = next((reason for found, reason in obstacles if found), "")
    if why:
        return row._replace(verdict="not compared", why=why)
    without_zero = row.difference_low * row.difference_high > 0
    if row.welch_holm < ALPHA and without_zero:
        better = (row.difference < 0) == (sweep.reading.direction == "min")
        return row._replace(verdict="better" if better else "worse")
    shown = f"a difference of {number(row.smallest)} would have been shown 4 times in 5"
    return row._replace(verdict="no difference shown", why=shown)


def sentence(sweep: Sweep, row: Row) -> str:
    """One row in words."""
    metric = sweep.reading.metric
    if row.verdict == "not compared":
        return f"{row.variant}: not compared, for {row.why}."
    span = f"difference {number(row.difference)}"
    if not math.isnan(row.difference_low):
        span += f" [{number(row.difference_low)}, {number(row.difference_high)}]"
    p = f"; Holm-adjusted p {number(row.welch_holm)}" if not math.isnan(row.welch_holm) else ""
    why = f" ({row.why})" if row.why else ""
    return f"{row.variant}: {row.verdict} in {metric}{why}; {span}{p}."


# ---------------------------------------------------------------- what is missing


def remarks(sweep: Sweep, rows: list[Row], chosen: dict, groups: dict) -> list[str]:
    """What a reader must know before believing a row."""
    found = [*_missing(groups), *_choices(sweep, chosen, groups), *_opposite(sweep, rows)]
    if not any(row.is_baseline for row in rows):
        found.append("No trial of the baseline: no variant is compared, no difference is claimed.")
    few = [row.variant for row in rows if 1 < row.seeds < 5]
    if few:
        found.append(f"Fewer than 5 scores, so intervals are rough: {'; '.join(few)}.")
    single = [row.variant for row in rows if row.seeds == 1]
    if single:
        found.append(
            f"One score only, so no interval and no test: {'; '.join(single)}. "
            "Nothing is claimed of how much of it is luck."
        )
    same = [r.variant for r in rows if r.seeds > 1 and not np.ptp(scores_of(chosen, r))]
    if same:
        found.append(f"{sweep.reading.metric} is the same for every seed: {'; '.join(same)}.")
    return found


def _missing(groups: dict[str, list[Trial]]) -> list[str]:
    """Trials that do not count, by reason."""
    reasons: dict[str, list[int]] = {}
    for trials in groups.values():
        for trial in trials:
            if trial.lacks:
                reasons.setdefault(trial.lacks, []).append(trial.number)
    found = [
        f"{len(numbers)} trial{'s' * (len(numbers) > 1)} not counted, {reason}: {listed(numbers)}."
        for reason, numbers in reasons.items()
    ]
    if "pruned" in reasons:
        found.append("Pruned trials: means are over survivors, and flatter every variant.")
    diverged = [t.number for trials in groups.values() for t in trials if t.status == "diverged"]
    if diverged:
        found.append(
            f"{len(diverged)} diverged, counted with their best parameters before: "
            f"{listed(diverged)}."
        )
    return found


def listed(numbers: list[int], most: int = 12) -> str:
    more = f", and {len(numbers) - most} more" if len(numbers) > most else ""
    return "trial " + ", ".join(map(str, sorted(numbers)[:most])) + more


def _opposite(sweep: Sweep, rows: list[Row]) -> list[str]:
    """Variants that validation ranks the other way than the verdict does."""
    base = next((row for row in rows if row.is_baseline), None)
    sign = -1.0 if sweep.reading.choose_direction == "max" else 1.0
    against = {"worse": -1.0, "better": 1.0}
    names = [
        row.variant
        for row in rows
        if base and sign * (row.valid - base.valid) * against.get(row.verdict, 0.0) > 0
    ]
    if not names:
        return []
    return [
        f"{sweep.reading.choose} says the opposite of {sweep.reading.metric} for: "
        f"{'; '.join(names)}. The verdict may be one of these test data, or of how little the "
        "validation data say."
    ]


def _choices(sweep: Sweep, chosen: dict, groups: dict) -> list[str]:
    """Variants whose chosen setting is the last that was tried."""
    if sweep.reading.select != "setting" or not sweep.reading.tuned:
        return []
    found = []
    for i, name in enumerate(sweep.reading.tuned):
        edge: dict[str, list[str]] = {}
        for variant, trials in groups.items():
            tried = sorted({t.setting[i] for t in trials if isinstance(t.setting[i], int | float)})
            if len(tried) > 2 and chosen[variant]:
                value = chosen[variant][0].setting[i]
                ends = {tried[0]: "smallest", tried[-1]: "largest"}
                if value in ends:
                    edge.setdefault(ends[value], []).append(variant)
        for end, variants in edge.items():
            found.append(
                f"The {end} {short(name)} that was tried was the best for: {'; '.join(variants)}. "
                "Beyond it they might do better; nothing is claimed about that."
            )
    return found
