"""What some studies ask beside the comparison: how far each variant solves, what others found.

REPORT["solved"] = 0.1 where a study splits by a length: a seed solves a length with a score of at
most a tenth of the best trivial one; a variant does with more than half of its seeds. Beside it
the measured reach of the gradient: from where on it stays below 1e-3 of its value one step back.

REPORT["pairs"] = (("gates=cifg", "gates=nfg"),): variants that are compared with each other too, in
the same family.

REPORT["published"] = {"source": ..., "verdicts": {variant: words}, "importance": {field: words}}:
what others found, beside what is found here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.diagnostics.observe import vanishes
from lstm_jax.report import causes
from lstm_jax.report.analysis import Section
from lstm_jax.report.causes import FLOOR, FLOW
from lstm_jax.report.choices import choices
from lstm_jax.report.collect import Sweep, Trial
from lstm_jax.report.importance import importance
from lstm_jax.report.names import number, plain, short, span
from lstm_jax.report.samples import solves, units


class Extra(NamedTuple):
    """A heading, sentences, and a table of text."""

    title: str
    sentences: list[str]
    heads: list[str]
    rows: list[list[str]]
    is_aside: bool = False  # behind a click


class Attempt(NamedTuple):
    """A variant at one length."""

    length: float
    solved: int  # seeds
    seeds: int
    reach: float  # steps, inf where the gradient never vanishes, NaN where it was not measured

    @property
    def is_solved(self) -> bool:
        return self.seeds > 0 and 2 * self.solved > self.seeds


def extras(sweep: Sweep, sections: list[Section]) -> list[Extra]:
    """Those that the study asks for and that there are numbers for."""
    found = [how_far(sweep, sections)]
    if len(sections) == 1:
        found += [pairs(sweep, sections[0]), verdicts(sweep, sections[0])]
        found.append(shares(sweep, sections[0]))
    found += [inside(sweep, section) for section in sections]
    found.append(hanging(sweep, sections))
    return [extra for extra in found if extra and extra.rows]


# ---------------------------------------------------------------- how far


def how_far(sweep: Sweep, sections: list[Section]) -> Extra | None:
    """The longest length that each variant solves, beside the reach of its gradient."""
    share = sweep.plan.report.get("solved")
    if not share or len(sweep.reading.by) != 1:
        return None
    field = short(sweep.reading.by[0])
    tried = attempts(sweep, sections)
    lengths = sorted({a.length for found in tried.values() for a in found})
    heads = ["variant", f"longest {field} solved"]
    heads += [f"{what}, {field} {n:g}" for n in lengths for what in ("solved", "reach")]
    rows = [[name, longest(found), *cells(found, lengths)] for name, found in tried.items()]
    words = [f"{name}: {told(found, field)}" for name, found in tried.items()]
    rule = (
        f"A seed has solved a {field} when {sweep.reading.metric} is at most {share:g} of the best "
        f"trivial score, a variant with more than half of its seeds. Reach counts the steps back "
        f"from the loss until the gradient stays below {FLOOR:g} of its value one step back."
    )
    return Extra("How far", [*words, *agreement(tried), rule], heads, rows)


def attempts(sweep: Sweep, sections: list[Section]) -> dict[str, list[Attempt]]:
    """By variant; what in a name only repeats the length is left out of it."""
    tried: dict[str, list[Attempt]] = {}
    for section in sections:
        for row in section.rows:
            trials = section.chosen[row.variant]
            length = section.trials[row.variant][0].section[0]
            if not isinstance(length, int | float):
                continue
            parts = [p for p in row.variant.split(", ") if not p.endswith(f"={plain(length)}")]
            solved = sum(solves(sweep.reading, trial) for trial in trials)
            attempt = Attempt(float(length), solved, len(trials), reach(trials))
            tried.setdefault(", ".join(parts) or row.variant, []).append(attempt)
    return {name: sorted(found) for name, found in tried.items()}


def reach(trials: list[Trial]) -> float:
    """Median over the diagnosed trials."""
    curves = [np.asarray(t.flow[FLOW], float) for t in trials if FLOW in t.flow]
    ends = [vanishes(curve, FLOOR) for curve in curves]
    ends = [math.inf if math.isnan(end) else end for end in ends]
    return sorted(ends)[(len(ends) - 1) // 2] if ends else math.nan


def longest(found: list[Attempt]) -> str:
    solved = [attempt.length for attempt in found if attempt.is_solved]
    return f"{max(solved):g}" if solved else "none" if any(a.seeds for a in found) else ""


def cells(found: list[Attempt], lengths: list[float]) -> list[str]:
    by_length = {attempt.length: attempt for attempt in found}
    shown: list[str] = []
    for length in lengths:
        attempt = by_length.get(length)
        known = attempt is not None and attempt.seeds
        shown.append(f"{attempt.solved} of {attempt.seeds}" if attempt and known else "")
        shown.append(steps(attempt.reach) if attempt and known else "")
    return shown


def steps(reach: float) -> str:
    return "" if math.isnan(reach) else "all" if math.isinf(reach) else f"{reach:.0f}"


def told(found: list[Attempt], field: str) -> str:
    """One variant in words."""
    ended = [attempt for attempt in found if attempt.seeds]
    if not ended:
        return "no score yet."
    solved = [a for a in ended if a.is_solved]
    failed = [a for a in ended if not a.is_solved]
    if not failed:
        first = f"solves all that was tried, up to {field} {solved[-1].length:g}"
    elif solved:
        first = f"longest solved: {field} {solved[-1].length:g}"
    else:
        first = f"solves none of {field} {', '.join(f'{a.length:g}' for a in ended)}"
    return f"{first}{gradient((failed or ended)[0 if failed else -1], field)}."


def gradient(attempt: Attempt, field: str) -> str:
    """What was measured at the shortest length that failed, or at the longest."""
    if math.isnan(attempt.reach):
        return ""
    where = f"; at {field} {attempt.length:g} its gradient "
    if math.isinf(attempt.reach):
        return f"{where}never vanishes"
    return f"{where}vanishes after {attempt.reach:.0f} steps"


def agreement(tried: dict[str, list[Attempt]]) -> list[str]:
    """Whether the reach explains what is solved: four counts."""
    known = [a for found in tried.values() for a in found if a.seeds and not math.isnan(a.reach)]
    if not known:
        return ["Gradients were not measured: lstm-jax diagnose."]
    far = [a for a in known if a.reach >= a.length]
    near = [a for a in known if a.reach < a.length]
    return [
        f"Where the gradient reaches all steps, {sum(a.is_solved for a in far)} of {len(far)} are "
        f"solved; where it does not, {sum(a.is_solved for a in near)} of {len(near)}. It was "
        "measured after training."
    ]


# ---------------------------------------------------------------- inside the trials


def inside(sweep: Sweep, section: Section) -> Extra:
    """Reach and saturation over all seeds, before training and after."""
    rows = causes.rows(section)
    title = ": ".join(filter(None, ("What was measured inside", section.title)))
    return Extra(title, causes.sentences(sweep, section) if rows else [], causes.heads(), rows)


# ---------------------------------------------------------------- pairs


def pairs(sweep: Sweep, section: Section) -> Extra | None:
    """Variants against each other."""
    rows = [
        [a, b, said.word, f"{number((said.low + said.high) / 2, 3)} {span(said.low, said.high)}"]
        for (a, b), said in section.pairs.items()
    ]
    heads = ["variant", "against", "word", f"middle and interval, {units(sweep.reading)}"]
    return Extra("Against each other", [], heads, rows)


# ---------------------------------------------------------------- what hangs on a choice


def hanging(sweep: Sweep, sections: list[Section]) -> Extra | None:
    """The word of every variant under other choices of the analysis."""
    found = choices(sweep, sections)
    heads = ["variant", "as reported", *found]
    rows = []
    for i, section in enumerate(sections):
        for row in (row for row in section.rows if not row.is_baseline):
            name = ": ".join(filter(None, (section.title, row.variant)))
            words = [words[i].get(row.variant, "") for words in found.values()]
            rows.append([name, row.verdict, *words])
    firm = sum(len(set(row[1:])) == 1 for row in rows)
    words = [f"{firm} of {len(rows)} words stay the same under every choice below."]
    return Extra("What hangs on a choice", words, heads, rows, is_aside=True) if found else None


# ---------------------------------------------------------------- theirs beside ours


def verdicts(sweep: Sweep, section: Section) -> Extra | None:
    """What was published of each variant, and what is found here."""
    published: dict[str, Any] = sweep.plan.report.get("published", {})
    theirs = published.get("verdicts", {})
    rows = [
        [row.variant, str(theirs[row.variant]), row.verdict, number(row.difference)]
        for row in section.rows
        if row.variant in theirs
    ]
    heads = ["variant", "theirs", "ours", "difference"]
    return Extra("Theirs beside ours", [f"Theirs: {published.get('source', '')}."], heads, rows)


def shares(sweep: Sweep, section: Section) -> Extra | None:
    """Their importance of the hyper-parameters beside ours."""
    theirs = sweep.plan.report.get("published", {}).get("importance", {})
    ours = importance(sweep, section) if theirs else {}
    rows = [
        [short(name), str(said), f"{ours[name].share:.0%} ± {ours[name].error:.0%}"]
        for name, said in theirs.items()
        if name in ours
    ]
    words = [
        "Theirs: share of the explained variance, fANOVA. Ours: share of the variance of ranks "
        "beyond chance, main effects alone, not scaled."
    ]
    return Extra("Importance, theirs beside ours", words, ["field", "theirs", "ours"], rows)
