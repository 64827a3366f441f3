"""The report in Markdown, and the words that the page shares with it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

from lstm_jax.report.analysis import Section, number
from lstm_jax.report.collect import Sweep
from lstm_jax.report.importance import available
from lstm_jax.report.questions import Extra


class Saved(NamedTuple):
    """A figure on disk: figures/NAME.svg and .png."""

    name: str
    title: str
    caption: str
    svg: str


class Column(NamedTuple):
    """A column of the comparison table: its head, what it means, a row's text and sort key."""

    head: str
    meaning: str
    show: Any
    key: Any


def _span(mean: float, low: float, high: float) -> str:
    if not math.isfinite(mean):
        return ""
    interval = f" [{number(low)}, {number(high)}]" if math.isfinite(low) else ""
    return number(mean) + interval


def _worded(head: str, meaning: str, field: str) -> Column:
    return Column(head, meaning, lambda r: getattr(r, field), lambda r: getattr(r, field))


def _numeric(head: str, meaning: str, field: str) -> Column:
    return Column(head, meaning, lambda r: number(getattr(r, field)), lambda r: getattr(r, field))


COLUMNS = (
    _worded("variant", "where it differs from the baseline", "variant"),
    _worded("verdict", "by the rules below", "verdict"),
    Column(
        "test [95 %]",
        "mean over seeds at the chosen setting, bootstrap interval",
        lambda r: _span(r.mean, r.low, r.high),
        lambda r: r.mean,
    ),
    Column(
        "difference [95 %]",
        "mean less the baseline's, bootstrap interval",
        lambda r: _span(r.difference, r.difference_low, r.difference_high),
        lambda r: r.difference,
    ),
    _worded("setting", "chosen on validation", "setting"),
    _numeric("seeds", "scores behind the mean", "seeds"),
    _numeric("IQM", "interquartile mean over seeds", "iqm"),
    _numeric("P(better)", "probability that a run beats a run of the baseline", "improvement"),
    _numeric("Welch p", "two-sided, Holm-adjusted over the variants", "welch_holm"),
    _numeric("rank-sum p", "Mann-Whitney, two-sided, Holm-adjusted", "mann_whitney_holm"),
    _numeric("g", "effect size: Hedges' g", "effect"),
    _numeric("detectable", "smallest true difference found in 4 of 5 such studies", "smallest"),
    Column(
        "diverged",
        "share of its ended trials",
        lambda r: f"{r.diverged:.0%}" if math.isfinite(r.diverged) else "",
        lambda r: r.diverged,
    ),
    Column(
        "parameters",
        "numbers that are learned",
        lambda r: f"{r.parameters:,}" if r.parameters else "",
        lambda r: r.parameters,
    ),
    _numeric("seconds", "a trial: its pack's wall time by the pack's trials", "seconds"),
)  # fmt: skip

RULES = (
    ("worse, better", "Holm-adjusted p of Welch's t below 0.05, and the interval without 0"),
    (
        "no difference shown",
        "tested and neither; beside it the true difference that Welch's t would have found in 4 "
        "of 5 such studies, at the spread seen and 0.05 shared among all variants",
    ),
    ("diverges", "more than half of the trials at its chosen setting diverged"),
    ("not compared", "too little to say anything, for the reason given"),
)


def method(sweep: Sweep) -> str:
    """How the numbers came about, in a paragraph."""
    reading = sweep.reading
    tuned = ", ".join(reading.tuned)
    chosen = {
        "setting": f"Every variant chooses for itself ({tuned}): the setting with the best mean "
        f"{reading.choose} over its seeds."
        if tuned
        else "No field is tuned: every variant has one setting.",
        "tenth": f"Trials are drawn at random ({tuned or 'no field is tuned'}); the best tenth of "
        f"each variant by {reading.choose}, at least five, stands for it.",
    }[reading.select]
    best = "smaller" if reading.direction == "min" else "larger"
    return (
        f"{chosen} Compared is {reading.metric} of the best parameters at it; {best} is better. "
        "Intervals: percentile bootstrap over seeds, 20,000 resamples, stretched to the width of a "
        "t interval."
    )


def headline(sweep: Sweep) -> str:
    """Trials by state."""
    counts = Counter(trial.status for trial in sweep.trials)
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    return f"{len(sweep.trials)} trials: {states}"


def remarks(sweep: Sweep) -> list[str]:
    """What concerns the whole report."""
    found, names = [], sweep.metrics
    for metric in dict.fromkeys((sweep.reading.choose, sweep.reading.metric)):
        if names and metric not in names:
            found.append(
                f"No trial has {metric}, so nothing is compared; there are: {', '.join(names)}. "
                "The study's METRIC and REPORT say what is read."
            )
    if not names:
        found.append("No trial has ended yet: there are no scores.")
    if not sweep.reading.tuned and sweep.reading.select == "setting":
        found.append(
            "Every variant ran at one setting: what it would do at a learning rate of its own is "
            "not known."
        )
    if not available():
        found.append(
            "Importance of the hyper-parameters is left out: pip install 'lstm-jax[report]'."
        )
    return found


def markdown(
    sweep: Sweep,
    sections: list[Section],
    drawn: list[list[Saved]],
    origin: dict[str, str],
    more: list[Extra],
) -> str:
    """report.md."""
    lines = [f"# {_escape(sweep.plan.study)}", "", _escape(sweep.plan.question), ""]
    lines += [f"{headline(sweep)}. {method(sweep)}", ""]
    lines += [f"- {name}: {_escape(value)}" for name, value in origin.items()]
    lines += [f"- note: {_escape(note)}" for note in remarks(sweep)]
    if sweep.scores:
        lines.append(f"- trivial scores, {sweep.reading.metric}: {trivial(sweep)}")
    for extra in more:
        lines += ["", *_extra(extra)]
    for section, saved in zip(sections, drawn, strict=True):
        lines += ["", *_section(section, saved)]
    lines += ["", "## The words", ""]
    lines += [f"- *{word}*: {rule}." for word, rule in RULES]
    lines += [f"- {column.head}: {column.meaning}." for column in COLUMNS]
    return "\n".join(lines) + "\n"


def trivial(sweep: Sweep) -> str:
    return ", ".join(f"{_escape(who)} {number(value)}" for who, value in sweep.scores.items())


def _extra(extra: Extra) -> list[str]:
    lines = [f"## {_escape(extra.title)}", ""]
    lines += [f"- {_escape(sentence)}" for sentence in extra.sentences]
    lines += ["", _line(list(map(_escape, extra.heads))), _line(["---"] * len(extra.heads))]
    return lines + [_line(list(map(_escape, row))) for row in extra.rows]


def _section(section: Section, saved: list[Saved]) -> list[str]:
    lines = [f"## {_escape(section.title) or 'Variants'}", ""]
    lines += [f"- {_escape(sentence)}" for sentence in section.sentences]
    lines += ["", _line([c.head for c in COLUMNS]), _line(["---"] * len(COLUMNS))]
    lines += [_line([_escape(column.show(row)) for column in COLUMNS]) for row in section.rows]
    lines += ["", *(f"- {_escape(note)}" for note in section.notes)]
    for figure in saved:
        lines += ["", f"![{figure.title}](figures/{figure.name}.svg)", "", f"*{figure.caption}*"]
    return lines


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: Any) -> str:
    """Text that Markdown, and the HTML within it, takes as it is."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "*": "\\*", "`": "\\`"}
    flat = " ".join(str(text).split())
    return "".join(marks.get(character, character) for character in flat)
