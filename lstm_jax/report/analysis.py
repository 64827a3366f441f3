"""Trials -> a row a variant, and the word that the numbers allow.

    better, worse   the interval of the difference to the baseline leaves out 0
    equivalent      it is inside the margin
    undecided       anything else; where nothing could be compared, the reason stands beside it

The intervals have the level at which Holm's procedure tested them, over every comparison of the
sweep, and the word is read off the interval: see `statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.report import statistics
from lstm_jax.report.collect import ENDED, Sweep, Trial
from lstm_jax.report.names import label_variants, listed, number, percent, short, span
from lstm_jax.report.samples import (
    Gap,
    aim,
    at_edges,
    bounds,
    choose,
    compare,
    eligible,
    failures,
    gap,
    judging,
    mean,
    mean_span,
    setting,
    settings,
    units,
)
from lstm_jax.report.statistics import BETTER, NOTHING, UNDECIDED, WORSE, Verdict

FEW = 5  # seeds


class Row(NamedTuple):
    """One variant of one section; NaN and "" where nothing can be said."""

    variant: str
    is_baseline: bool
    setting: str  # chosen on validation
    seeds: int  # scores at it
    trials: int
    ended: int
    diverged: int  # of the scores
    failed: int  # of the scores: not solved, or nearer to trivial than to the baseline
    valid: float  # mean at the chosen setting
    mean: float  # trimmed; in the metric's own units, whatever the scale
    low: float
    high: float
    iqm: float
    parameters: int | None
    seconds: float  # mean a trial
    verdict: str
    why: str = ""
    warnings: tuple[str, ...] = ()
    difference: float = NOTHING  # to the baseline, on the scale
    difference_low: float = NOTHING
    difference_high: float = NOTHING
    share: float = NOTHING  # the same as a share of the gap
    share_low: float = NOTHING
    share_high: float = NOTHING
    level: float = NOTHING  # confidence of the interval
    different: float = NOTHING  # Holm-adjusted p
    alike: float = NOTHING  # of the two one-sided tests
    improvement: float = NOTHING  # probability that a run beats a run of the baseline


class Section(NamedTuple):
    """The variants that are compared with each other, the baseline first."""

    title: str
    rows: list[Row]
    chosen: dict[str, list[Trial]]  # the trials behind each row's scores
    trials: dict[str, list[Trial]]  # all trials of each variant
    sentences: list[str]
    notes: list[str]  # what is missing, and which claims are therefore not made
    gap: Gap
    pairs: dict[tuple[str, str], Verdict]  # of the study's `pairs`


def analyse(sweep: Sweep) -> list[Section]:
    """A section for every value of the `by` fields; one where there are none."""
    return [section for _, section in analyse_all([sweep])]


def analyse_all(sweeps: Sequence[Sweep]) -> list[tuple[Sweep, Section]]:
    """The sections of several sweeps, judged as one family."""
    drafts = [(sweep, section) for sweep in sweeps for section in sections_of(sweep)]
    return [(sweep, complete(sweep, section)) for sweep, section in judge(drafts)]


def sections_of(sweep: Sweep) -> list[Section]:
    """The sweep's sections before their verdicts."""
    titles = dict.fromkeys(trial.section for trial in sweep.trials)
    return [draft(sweep, values) for values in titles]


# ---------------------------------------------------------------- rows without words


def draft(sweep: Sweep, values: tuple) -> Section:
    """A section before its verdicts."""
    groups = group(sweep, values)
    chosen = chosen_trials(sweep, groups)
    base = label_variants(sweep).get(sweep.baseline, "")
    room = gap(sweep.reading, chosen.get(base, []))
    rows = [summarise(sweep, n, groups[n], chosen[n], room, n == base) for n in groups]
    title = ", ".join(f"{short(f)}={v}" for f, v in zip(sweep.reading.by, values, strict=True))
    return Section(title, rows, chosen, groups, [], [], room, {})


def group(sweep: Sweep, values: tuple) -> dict[str, list[Trial]]:
    """The trials of a section by variant, the baseline first."""
    labels, groups = label_variants(sweep), {}
    for trial in sweep.trials:
        if trial.section == values:
            groups.setdefault(labels[trial.variant], []).append(trial)
    base = labels.get(sweep.baseline, "")
    return {name: groups[name] for name in sorted(groups, key=lambda n: n != base)}


def chosen_trials(sweep: Sweep, groups: dict[str, list[Trial]]) -> dict[str, list[Trial]]:
    """The trials that judge each variant."""
    own = sweep._replace(reading=sweep.reading._replace(select="setting"))
    best = choose(own, next(iter(groups.values())))  # of the baseline, for `common`
    common = best[0].setting if best else ()
    return {
        name: judging(sweep, trials, choose(sweep, trials, common))
        for name, trials in groups.items()
    }


def summarise(
    sweep: Sweep, name: str, trials: list[Trial], judges: list[Trial], room: Gap, is_baseline: bool
) -> Row:
    """What a variant did on its own."""
    judges = [t for t in judges if not t.lacks]
    scores = np.array([t.test for t in judges])
    middle, low, high = mean_span(sweep, judges)
    return Row(
        variant=name,
        is_baseline=is_baseline,
        setting=setting(sweep, judges),
        seeds=len(scores),
        trials=len(trials),
        ended=sum(t.status in ENDED for t in trials),
        diverged=sum(t.status == "diverged" for t in judges),
        failed=failures(sweep.reading, judges, room),
        valid=mean([t.valid for t in judges]),
        mean=middle,
        low=low,
        high=high,
        iqm=statistics.interquartile_mean(scores) if len(scores) else NOTHING,
        parameters=next((t.parameters for t in (*judges, *trials) if t.parameters), None),
        seconds=mean([t.seconds for t in trials if t.seconds is not None]),
        verdict="baseline" if is_baseline else UNDECIDED,
    )


# ---------------------------------------------------------------- verdicts


def judge(drafts: Sequence[tuple[Sweep, Section]]) -> list[tuple[Sweep, Section]]:
    """Every variant against its baseline, and the studies' pairs: one family over all drafts."""
    asked = [
        (i, a, b) for i, (sweep, section) in enumerate(drafts) for a, b in questions(sweep, section)
    ]
    found = {
        (i, a, b): compare(drafts[i][0], a, drafts[i][1].chosen[a], drafts[i][1].chosen.get(b, []))
        for i, a, b in asked
    }
    able = {key: comparison for key, (comparison, _) in found.items() if comparison}
    margins = [drafts[i][1].gap.margin for i, _, _ in able]
    aims = [aim(drafts[i][0].reading) for i, _, _ in able]
    verdicts = statistics.judge(list(able.values()), margins, aims)
    said = dict(zip(able, verdicts, strict=True))
    return [
        (
            sweep,
            answer(
                sweep,
                section,
                {key[1:]: (said.get(key), *found[key]) for key in asked if key[0] == i},
            ),
        )
        for i, (sweep, section) in enumerate(drafts)
    ]


def questions(sweep: Sweep, section: Section) -> list[tuple[str, str]]:
    """(variant, against whom)."""
    names = [row.variant for row in section.rows]
    base = next((row.variant for row in section.rows if row.is_baseline), "")
    pairs = [tuple(p) for p in sweep.plan.report.get("pairs", ()) if set(p) <= set(names)]
    own = [(name, base) for name in names if name != base]
    return list(dict.fromkeys([*own, *pairs]))


def answer(sweep: Sweep, section: Section, found: dict) -> Section:
    """The section with its verdicts."""
    base = next((row for row in section.rows if row.is_baseline), None)
    against = base.variant if base else ""
    rows = []
    for row in section.rows:
        said, comparison, why = found.get((row.variant, against), (None, None, ""))
        if base is not None and said is not None and comparison is not None:
            row = fill(sweep, section, row, base, comparison.estimate, said)
        elif not row.is_baseline:
            row = row._replace(why=why if base else "the sweep has no trial of the baseline")
        rows.append(row)
    own = {(row.variant, against) for row in rows}
    pairs = {pair: said for pair, (said, *_) in found.items() if said and pair not in own}
    return section._replace(rows=rows, pairs=pairs)


def fill(sweep: Sweep, section: Section, row: Row, base: Row, estimate: Any, said: Verdict) -> Row:
    """A row with the verdict of its comparison."""
    low, high = clipped(sweep, said)
    size = section.gap.size if section.gap.size > 0 else NOTHING
    ours, theirs = (np.array([t.test for t in section.chosen[r.variant]]) for r in (row, base))
    return row._replace(
        verdict=said.word,
        difference=float(estimate),
        difference_low=low,
        difference_high=high,
        share=float(estimate) / size,
        share_low=low / size,
        share_high=high / size,
        level=said.level,
        different=said.different,
        alike=said.alike,
        improvement=statistics.improvement(ours, theirs, sweep.reading.direction),
    )


def clipped(sweep: Sweep, said: Verdict) -> tuple[float, float]:
    """The interval of a difference within what the metric's range allows."""
    low, high = bounds(sweep)
    most = high - low if sweep.reading.scale == "linear" else math.inf
    return max(said.low, -most), min(said.high, most)


# ---------------------------------------------------------------- words


def complete(sweep: Sweep, section: Section) -> Section:
    """Warnings, sentences and notes."""
    base = next((row for row in section.rows if row.is_baseline), None)
    rows = [
        row._replace(warnings=tuple(caution(sweep, section, row, base))) for row in section.rows
    ]
    section = section._replace(rows=rows)
    sentences = [sentence(sweep, row) for row in rows if not row.is_baseline]
    return section._replace(sentences=sentences, notes=remarks(sweep, section))


def sentence(sweep: Sweep, row: Row) -> str:
    """One row in words."""
    if math.isnan(row.difference):
        return f"{row.variant}: undecided, not compared: {row.why}."
    where = span(row.difference_low, row.difference_high)
    of_gap = f", {percent(row.share)} of the gap" if math.isfinite(row.share) else ""
    words = (
        f"{row.variant}: {row.verdict}; {number(row.difference, 3)} {where} {units(sweep.reading)}"
    )
    return f"{words}{of_gap}{''.join(f'; {w}' for w in row.warnings)}."


def caution(sweep: Sweep, section: Section, row: Row, base: Row | None) -> list[str]:
    """What a reader must know before believing this row's word."""
    reading, judges = sweep.reading, section.chosen[row.variant]
    left = [t for t in section.trials[row.variant] if t.lacks]
    cut = sum(t.test >= reading.limit for t in judges)
    fail = "unsolved" if reading.solved else "nearer to trivial than to the baseline"
    found = {
        f"{row.failed} of {row.seeds} seeds {fail}": row.failed > 0,
        f"{row.diverged} of {row.seeds} seeds diverged": row.diverged > 0,
        f"{cut} of {row.seeds} at the limit of {number(reading.limit)}": cut > 0,
        f"only {row.seeds} seeds": 1 < row.seeds < FEW,
        "validation says the opposite": opposite(sweep, row, base),
        "the same score for every seed": row.seeds > 1 and not np.ptp([t.test for t in judges]),
        f"{len(left)} trials without a score": bool(left) and bool(judges),
    }
    return [
        *edges(sweep, section, row.variant),
        *(words for words, holds in found.items() if holds),
    ]


def opposite(sweep: Sweep, row: Row, base: Row | None) -> bool:
    """Whether validation ranks this variant the other way than the verdict does."""
    sign = -1.0 if sweep.reading.choose_direction == "max" else 1.0
    against = {WORSE: -1.0, BETTER: 1.0}.get(row.verdict, 0.0)
    return base is not None and sign * (row.valid - base.valid) * against > 0


def edges(sweep: Sweep, section: Section, variant: str) -> list[str]:
    """The tuned values that were the last ones tried: beyond them it might do better."""
    found = at_edges(sweep.reading, section.trials[variant], section.chosen[variant])
    return [
        f"{'largest' if edge.is_largest else 'smallest'} {short(edge.field)} tried"
        for edge in found
    ]


def remarks(sweep: Sweep, section: Section) -> list[str]:
    """What concerns the section as a whole."""
    base = next((row for row in section.rows if row.is_baseline), None)
    found = [*_missing(section), *_gap(sweep, section, base)]
    if base is None:
        found.append("No trial of the baseline: no variant is compared, no difference is claimed.")
    single = [row.variant for row in section.rows if row.seeds == 1]
    if single:
        found.append(
            f"One score only, so no interval and no test: {'; '.join(single)}. "
            "Nothing is claimed of how much of it is luck."
        )
    return found


def _gap(sweep: Sweep, section: Section, base: Row | None) -> list[str]:
    """Why nothing can be called equivalent, where nothing can."""
    if base is None or math.isnan(base.mean) or section.gap.size > 0:
        return []
    if math.isnan(section.gap.trivial):
        return [
            f"No trivial score of {sweep.reading.metric} is known, so there is no margin and "
            "nothing can be called equivalent: let the task's baselines carry that metric."
        ]
    trivial = next(t.trivial for t in section.chosen[base.variant])
    return [
        f"The baseline ({number(base.mean)}) is no better than the strongest trivial score "
        f"({number(trivial)}): it has learned nothing that a trivial rule does not know, there is "
        "no margin and nothing can be called equivalent. Train it longer or choose its rate better."
    ]


def _missing(section: Section) -> list[str]:
    """Trials that do not count, by reason, and the settings that they rule out."""
    reasons: dict[str, list[int]] = {}
    for trial in (t for trials in section.trials.values() for t in trials if t.lacks):
        reasons.setdefault(trial.lacks, []).append(trial.number)
    found = [
        f"{len(numbers)} trial{'s' * (len(numbers) > 1)} not counted, {reason}: {listed(numbers)}."
        for reason, numbers in reasons.items()
    ]
    found_settings = [settings(trials) for trials in section.trials.values()]
    lost = sum(len(s) - len(eligible(s)) for s in found_settings)
    if lost:
        found.append(f"{lost} settings cannot be chosen: a seed of theirs has no score.")
    diverged = [t.number for ts in section.trials.values() for t in ts if t.status == "diverged"]
    if diverged:
        found.append(
            f"{len(diverged)} diverged, counted with the trivial score or their own where that is "
            f"worse: {listed(diverged)}."
        )
    return found
