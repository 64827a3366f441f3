"""Several sweeps as one answer: normalised scores, one family, what holds over all tasks.

A *stratum* is a task: a sweep, or a section of one. In it a score is normalised, on the sweep's
scale:

    (score - trivial) / (baseline - trivial)

so that 0 is the strongest trivial score and 1 the baseline's typical one, whatever the metric.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.report import statistics
from lstm_jax.report.analysis import Row, Section, analyse_all
from lstm_jax.report.choices import choices_of_all
from lstm_jax.report.collect import Sweep, Trial
from lstm_jax.report.names import label_variants, number, plain, short
from lstm_jax.report.questions import Extra
from lstm_jax.report.samples import aim, sign, values
from lstm_jax.report.statistics import BETTER, EQUIVALENT, NOTHING, WORSE

Span = tuple[float, float, float]  # estimate, low, high


class Stratum(NamedTuple):
    """A task."""

    name: str
    sweep: Sweep
    section: Section
    scores: dict[str, np.ndarray]  # normalised, by variant; without those that nothing judges

    @property
    def baseline(self) -> str:
        return next((row.variant for row in self.section.rows if row.is_baseline), "")


class Overall(NamedTuple):
    """A variant over all tasks that have it."""

    variant: str
    is_baseline: bool
    rows: dict[str, Row]  # by stratum
    iqm: Span
    improvement: Span


class Joint(NamedTuple):
    """Several sweeps, judged as one family."""

    strata: list[Stratum]
    overall: list[Overall]
    hanging: Extra | None
    unnamed: list[str]  # fields of variants that are in no name, since they follow from the rest


def join(sweeps: Sequence[Sweep], places: Sequence[str]) -> Joint:
    """The sweeps put together; `places` says where each is.

    Raises:
      UsageError: why they cannot be, all reasons.
    """
    full, sweeps = sweeps, alike(sweeps)
    judged = analyse_all(sweeps)
    at = {id(sweep): place for sweep, place in zip(sweeps, places, strict=True)}
    found = [(at[id(sweep)], sweep, section) for sweep, section in judged]
    reasons = [*lone(found), *clashes(found)]
    if reasons:
        lines = "\n".join(f"  {reason}" for reason in dict.fromkeys(reasons))
        raise UsageError(f"these sweeps cannot be put together:\n{lines}")
    names = strata_names(judged)
    strata = [
        Stratum(name, sweep, section, normalised(sweep, section))
        for name, (sweep, section) in zip(names, judged, strict=True)
    ]
    unnamed = [name for name in full[0].fields if name not in sweeps[0].fields]
    return Joint(strata, overall(strata), hanging(sweeps, strata), unnamed)


# ---------------------------------------------------------------- one name on all tasks


def alike(sweeps: Sequence[Sweep]) -> Sequence[Sweep]:
    """Without the fields of variants that follow from the rest and keep the same ones apart.

    At matched counts of parameters the hidden size follows from the cell and the task.
    """
    if len(set(map(task_fields, sweeps))) < len(sweeps):
        return sweeps  # on one task it makes two variants
    for field in sweeps[0].fields:
        if all(field in sweep.fields for sweep in sweeps):
            fewer = [without(sweep, field) for sweep in sweeps]
            lost = any(variants(a) != variants(b) for a, b in zip(sweeps, fewer, strict=True))
            sweeps = fewer if not lost and len(labels(fewer)) < len(labels(sweeps)) else sweeps
    return sweeps


def without(sweep: Sweep, field: str) -> Sweep:
    """The sweep with variants that this field does not name."""
    at = sweep.fields.index(field)
    fields, baseline = (v[:at] + v[at + 1 :] for v in (sweep.fields, sweep.baseline))
    trials = [t._replace(variant=t.variant[:at] + t.variant[at + 1 :]) for t in sweep.trials]
    return sweep._replace(fields=fields, baseline=baseline, trials=trials)


def variants(sweep: Sweep) -> int:
    return len({trial.variant for trial in sweep.trials})


def labels(sweeps: Sequence[Sweep]) -> set[str]:
    return {label for sweep in sweeps for label in label_variants(sweep).values()}


# ---------------------------------------------------------------- what cannot be put together


def lone(found: list[tuple[str, Sweep, Section]]) -> list[str]:
    """What is wrong with a sweep on its own: nothing can be normalised."""
    reasons = []
    for place, _, section in found:
        base = next((row for row in section.rows if row.is_baseline), None)
        if base is None or not base.seeds:
            reasons.append(f"{place}: no score of the baseline; run it, or leave the sweep out")
        elif not section.gap.size > 0:
            why = next((n for n in section.notes if "margin" in n), "the gap is not known")
            reasons.append(f"{place}: its scores cannot be normalised. {why}")
    return reasons


def clashes(found: list[tuple[str, Sweep, Section]]) -> list[str]:
    """What is wrong between two of them."""
    reasons = []
    for i, (here, ours, our_section) in enumerate(found):
        for there, theirs, their_section in found[:i]:
            if here == there:
                continue
            pair = f"{there} and {here}"
            reasons += [f"{pair}: {why}" for why in baselines_apart(ours, theirs)]
            if task_of(ours, our_section) == task_of(theirs, their_section):
                two = ((theirs, their_section), (ours, our_section))
                reasons += [f"{pair}, the same task: {why}" for why in same_task(*two)]
    return reasons


def baselines_apart(ours: Sweep, theirs: Sweep) -> list[str]:
    """Fields of a variant in which the baselines differ."""
    a, b = (sweep.plan.base | sweep.plan.baseline for sweep in (theirs, ours))
    fields = dict.fromkeys((*ours.fields, *theirs.fields))
    apart = [f"{n} {plain(a.get(n))} there, {plain(b.get(n))} here" for n in fields
             if str(a.get(n)) != str(b.get(n)) and n in a and n in b]  # fmt: skip
    return [f"their baselines differ: {'; '.join(apart)}"] if apart else []


def task_of(sweep: Sweep, section: Section) -> tuple:
    """What makes two sweeps' tasks the same: every task field, and the section."""
    return (*task_fields(sweep), section.title)


def task_fields(sweep: Sweep) -> tuple:
    found = {n: str(v) for n, v in sweep.plan.base.items() if n.startswith("task.")}
    return tuple(sorted(found.items()))


def same_task(theirs: tuple[Sweep, Section], ours: tuple[Sweep, Section]) -> list[str]:
    """Why two sweeps of one task do not make one stratum."""
    (a, their_section), (b, our_section) = theirs, ours
    reasons = []
    for name in ("metric", "scale", "direction", "margin"):
        x, y = getattr(a.reading, name), getattr(b.reading, name)
        if x != y:
            reasons.append(f"different {name}s, {x} and {y}")
    varied = {*a.plan.varied, *b.plan.varied}
    flat = [n for n in a.plan.base if n not in varied and not n.startswith("task.")]
    apart = [n for n in flat if str(a.plan.base[n]) != str(b.plan.base.get(n))]
    if apart:
        shown = ", ".join(f"{n} {a.plan.base[n]} and {b.plan.base.get(n)}" for n in apart[:4])
        reasons.append(f"trained differently: {shown}")
    if a.scores != b.scores and a.scores and b.scores:
        reasons.append(f"other data: their trivial scores are {_shown(a)} and {_shown(b)}")
    both = [
        row.variant for row in our_section.rows
        if not row.is_baseline and row.variant in their_section.trials
    ]  # fmt: skip
    if both:
        reasons.append(f"both have {', '.join(both[:4])}: which counts? leave one out")
    return reasons


def _shown(sweep: Sweep) -> str:
    return ", ".join(f"{who} {number(value)}" for who, value in sweep.scores.items())


def strata_names(judged: Sequence[tuple[Sweep, Section]]) -> list[str]:
    """The task's name, where it differs, its section; the study where that is not enough."""
    words = []
    for sweep, section in judged:
        task = str(sweep.plan.base["task.name"])
        apart = differing([s for s, _ in judged if s.plan.base["task.name"] == task])
        own = [f"{short(name)}={plain(sweep.plan.base[name])}" for name in apart[:2]]
        words.append(", ".join(filter(None, (task, *own, section.title))))
    counts = Counter(words)
    studies = [sweep.plan.study for sweep, _ in judged]
    named = [
        f"{word} ({study})" if counts[word] > 1 else word
        for word, study in zip(words, studies, strict=True)
    ]
    again = Counter(named)
    return [f"{n} {i + 1}" if again[n] > 1 else n for i, n in enumerate(named)]


def differing(sweeps: Sequence[Sweep]) -> list[str]:
    """Task fields in which sweeps of one task differ."""
    names = [n for n in sweeps[0].plan.base if n.startswith("task.")]
    return [n for n in names if len({str(s.plan.base.get(n)) for s in sweeps}) > 1]


# ---------------------------------------------------------------- over all tasks


def normalised(sweep: Sweep, section: Section) -> dict[str, np.ndarray]:
    """By variant: 0 the strongest trivial score, 1 the baseline's typical one."""
    judges = {name: [t for t in ts if not t.lacks] for name, ts in section.chosen.items()}
    return {name: of_gap(sweep, section, ts) for name, ts in judges.items() if ts}


def of_gap(sweep: Sweep, section: Section, trials: list[Trial]) -> np.ndarray:
    return (
        -sign(aim(sweep.reading))
        * (values(sweep.reading, trials) - section.gap.trivial)
        / section.gap.size
    )


def overall(strata: list[Stratum]) -> list[Overall]:
    """A row a variant, the baseline first."""
    names = dict.fromkeys(name for s in strata for name in s.section.trials if name != s.baseline)
    found = [over_tasks(strata, name, False) for name in names]
    return [over_tasks(strata, "", True), *found]


def over_tasks(strata: list[Stratum], variant: str, is_baseline: bool) -> Overall:
    """One variant; the baseline counts once a task, however many sweeps of it there are."""
    seen, rows, ours, theirs = set(), {}, [], []
    for stratum in strata:
        name = stratum.baseline if is_baseline else variant
        row = next((r for r in stratum.section.rows if r.variant == name), None)
        if row is None:
            continue
        rows[stratum.name] = row
        task = task_of(stratum.sweep, stratum.section)
        if name in stratum.scores and task not in seen:
            seen.add(task)
            ours.append(stratum.scores[name])
            theirs.append(stratum.scores[stratum.baseline])
    nothing: Span = (NOTHING, NOTHING, NOTHING)
    return Overall(
        "baseline" if is_baseline else variant,
        is_baseline,
        rows,
        statistics.stratified_iqm(ours) if ours else nothing,
        statistics.stratified_improvement(ours, theirs) if ours and not is_baseline else nothing,
    )


def hanging(sweeps: Sequence[Sweep], strata: list[Stratum]) -> Extra | None:
    """Every word of the family under other choices of the analysis."""
    found = choices_of_all(sweeps, [s.section for s in strata])
    heads = ["variant", "task", "as reported", *found]
    rows = [
        [row.variant, s.name, row.verdict, *(w[i].get(row.variant, "") for w in found.values())]
        for i, s in enumerate(strata)
        for row in s.section.rows
        if not row.is_baseline
    ]
    firm = sum(len(set(filter(None, row[2:]))) == 1 for row in rows)
    words = [f"{firm} of {len(rows)} words stay the same under every choice below."]
    return Extra("What hangs on a choice", words, heads, rows, is_aside=True) if found else None


# ---------------------------------------------------------------- in words


def firm(row: Overall) -> dict[str, list[str]]:
    """The tasks of each word that says something."""
    words = (WORSE, BETTER, EQUIVALENT)
    found = {w: [name for name, r in row.rows.items() if r.verdict == w] for w in words}
    return {word: tasks for word, tasks in found.items() if tasks}


def said(row: Overall) -> str:
    """The word that holds over all tasks, or that there is none."""
    words, held = {found.verdict for found in row.rows.values()}, firm(row)
    if len(words) == 1:
        return words.pop()
    if BETTER in held and WORSE in held:
        return "depends on the task"
    return f"{next(iter(held))} on some" if held else "undecided"


def answer(joint: Joint) -> str:
    """One sentence: every variant under what holds of it over the tasks."""
    groups: dict[str, list[str]] = {}
    for row in joint.overall[1:]:
        groups.setdefault(said(row), []).append(f"{row.variant}{_where(row)}")
    order = ["worse", "better", "depends on the task", "worse on some", "better on some"]
    order += ["equivalent", "equivalent on some", "undecided"]
    parts = [f"{w.capitalize()}: {'; '.join(groups[w])}." for w in order if w in groups]
    tasks = len({task_of(s.sweep, s.section) for s in joint.strata})
    plural = "s" if tasks > 1 else ""
    return f"Over {tasks} task{plural}, against the baseline. {' '.join(parts)}"


def _where(row: Overall) -> str:
    """On which tasks, where it is not the same on all."""
    held = {word: ", ".join(tasks) for word, tasks in firm(row).items()}
    if not held or len({found.verdict for found in row.rows.values()}) == 1:
        return ""
    if len(held) == 1:
        return f" ({', '.join(held.values())})"
    return f" ({'; '.join(f'{word} on {tasks}' for word, tasks in held.items())})"


def shown(span: Span, digits: int = 2) -> str:
    """An estimate with its interval."""
    if math.isnan(span[0]):
        return ""
    around = "" if math.isnan(span[1]) else f" [{span[1]:.{digits}f}, {span[2]:.{digits}f}]"
    return f"{span[0]:.{digits}f}{around}"


def method(joint: Joint) -> str:
    """How the numbers came about."""
    count = sum(not row.is_baseline for s in joint.strata for row in s.section.rows)
    metrics = dict.fromkeys(
        f"{s.name} {short(s.sweep.reading.metric)} ({s.sweep.reading.scale})" for s in joint.strata
    )
    return (
        f"Metrics: {'; '.join(metrics)}. A score is normalised within its task: 0 is the strongest "
        "trivial score, 1 the baseline's typical one. Interquartile mean: of all normalised "
        "scores, every task weighing the same; P(better): that a run beats one of the baseline, "
        "mean over tasks; both with 95 % intervals by 2,000 bootstrap samples drawn within tasks. "
        f"Words: one family of {count} comparisons over all tasks, Holm's procedure once."
    )


def cells(row: Overall, names: Sequence[str]) -> list[Any]:
    """The row of each task, None where the variant was not tried."""
    return [row.rows.get(name) for name in names]
