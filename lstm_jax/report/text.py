"""The report in Markdown, and the words that the page shares with it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

from lstm_jax.report import search
from lstm_jax.report.analysis import Row, Section
from lstm_jax.report.collect import Sweep
from lstm_jax.report.names import number, percent, plain, span
from lstm_jax.report.questions import Extra
from lstm_jax.report.register import departures
from lstm_jax.report.samples import units
from lstm_jax.report.statistics import BETTER, EQUIVALENT, UNDECIDED, WORSE


class Saved(NamedTuple):
    """A figure on disk: figures/NAME.svg and .png."""

    name: str
    title: str
    caption: str
    svg: str


class Column(NamedTuple):
    """A column of a comparison table: its head, what it means, a row's text and sort key."""

    head: str
    meaning: str
    show: Any
    key: Any


def _spanned(middle: float, low: float, high: float) -> str:
    return " ".join(filter(None, (number(middle, 3), span(low, high))))


def _worded(head: str, meaning: str, field: str) -> Column:
    return Column(head, meaning, lambda r: getattr(r, field), lambda r: getattr(r, field))


def _numeric(head: str, meaning: str, field: str) -> Column:
    return Column(head, meaning, lambda r: number(getattr(r, field)), lambda r: getattr(r, field))


def _shares(row: Row) -> str:
    if not math.isfinite(row.share):
        return ""
    return f"{percent(row.share)} [{percent(row.share_low)}, {percent(row.share_high)}]"


VARIANT = _worded("variant", "where it differs from the baseline", "variant")
MAIN = (
    VARIANT,
    _worded(
        "word", "by the rules below, with what should be known before it is believed", "verdict"
    ),
    Column(
        "difference",
        "to the baseline, with the interval that the word is read off; its units stand above",
        lambda r: _spanned(r.difference, r.difference_low, r.difference_high),
        lambda r: r.difference,
    ),
    Column(
        "% of gap",
        "the same, of the gap between the strongest trivial score and the baseline",
        _shares,
        lambda r: r.share,
    ),
    _worded("setting", "chosen on validation", "setting"),
    _numeric("seeds", "scores behind the word", "seeds"),
)
MORE = (
    VARIANT,
    Column(
        "score [95 %]",
        "20 % trimmed mean over seeds at the chosen setting (of logarithms on a log scale), and "
        "its interval, not adjusted",
        lambda r: _spanned(r.mean, r.low, r.high),
        lambda r: r.mean,
    ),
    _numeric("IQM", "interquartile mean over seeds", "iqm"),
    Column(
        "level",
        "confidence of the difference's interval: where Holm's procedure tested it",
        lambda r: f"{100 * r.level:.2f} %" if math.isfinite(r.level) else "",
        lambda r: r.level,
    ),
    _numeric("p different", "that there is no difference, Holm-adjusted", "different"),
    _numeric("p alike", "that it is as large as the margin, Holm-adjusted", "alike"),
    _numeric("P(better)", "probability that a run beats a run of the baseline", "improvement"),
    _numeric(
        "failed", "seeds not solved, or nearer to the trivial score than to the baseline", "failed"
    ),
    _numeric("diverged", "of the scores", "diverged"),
    Column(
        "parameters",
        "numbers that are learned",
        lambda r: f"{r.parameters:,}" if r.parameters else "",
        lambda r: r.parameters,
    ),
    _numeric("seconds", "a trial: its pack's wall time by the pack's trials", "seconds"),
)

RULES = (
    ("better, worse", "the interval of the difference leaves out 0"),
    ("equivalent", "the interval is inside the margin, {margin} to either side of 0"),
    ("undecided", "neither; where nothing could be compared, the reason stands beside it"),
)
TESTS = {
    "linear": "20 % trimmed means: the best and the worst of five seeds are left out (Yuen's test)",
    "log": "20 % trimmed means of log2 scores (Yuen's test)",
    "rank": "the pseudo-median of paired differences (Wilcoxon's signed ranks)",
    "solved": "the share of seeds that solve it (Boschloo's exact test, Newcombe's interval)",
}


def rules(*sweeps: Sweep) -> list[tuple[str, str]]:
    margins = dict.fromkeys(f"{sweep.reading.margin:.3g}" for sweep in sweeps)
    margin = " or, by sweep, ".join(margins) + " of the gap"
    return [(word, rule.format(margin=margin)) for word, rule in RULES]


def method(sweep: Sweep) -> str:
    """How the numbers came about, in a paragraph."""
    reading = sweep.reading
    tuned = ", ".join(reading.tuned)
    chosen = {
        "tenth": f"Trials are drawn at random ({tuned or 'no field is tuned'}); the best tenth of "
        f"each variant by {reading.choose}, at least five, stands for it.",
        "all": f"Trials are drawn at random ({tuned or 'no field is tuned'}); all of them count.",
    }.get(
        reading.select,
        f"Every variant chooses for itself ({tuned}): the setting with the best mean "
        f"{reading.choose} over its seeds, if none of them lacks a score."
        if tuned
        else "No field is tuned: every variant has one setting.",
    )
    best = "smaller" if reading.direction == "min" else "larger"
    paired = ", paired by " + plain(reading.block) if reading.block else ""
    fresh = "fresh seeds alone" if reading.fresh else "the same seeds"
    return (
        f"{chosen} Judged by {fresh}: {reading.metric} of the best parameters; {best} is better. "
        f"Compared: {TESTS[reading.scale]}{paired}. Intervals are of the level at which Holm's "
        f"procedure tested them; 5 % in all for every claim of better or worse in this report, and "
        "5 % for every claim of equivalence."
    )


def answer(sweep: Sweep, section: Section) -> str:
    """The sentence that answers the question: every variant under its word."""
    if found := search.answer(sweep, section):
        return found
    groups: dict[str, list[str]] = {}
    for row in (row for row in section.rows if not row.is_baseline):
        share = f" ({percent(row.share)} of the gap)" if math.isfinite(row.share) else ""
        extent = share if row.verdict in (BETTER, WORSE) else ""
        groups.setdefault(row.verdict, []).append(f"{row.variant}{extent}")
    order = [w for w in (WORSE, BETTER, EQUIVALENT, UNDECIDED) if w in groups]
    parts = [f"{word.capitalize()}: {'; '.join(groups[word])}." for word in order]
    base = next((row for row in section.rows if row.is_baseline), None)
    against = f"Against {base.variant}" if base else "No baseline"
    where = f"At {section.title}, against the baseline" if section.title else against
    return f"{where}, in {sweep.reading.metric}. {' '.join(parts) or 'Nothing to compare.'}"


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
    return found + _seeds(sweep) + departures(sweep.plan)


def _seeds(sweep: Sweep) -> list[str]:
    """Whether seeds that chose nothing judge."""
    reading = sweep.reading
    if reading.confirm and not any(t.is_fresh for t in sweep.trials):
        return [
            f"CONFIRM={reading.confirm}, but no fresh seed has been run: what follows is judged by "
            "the seeds that chose the settings, and is exploratory."
        ]
    if reading.tuned and not reading.fresh and reading.select == "setting":
        return [
            "Exploratory: the seeds that chose a setting also judge it, which makes false claims a "
            "little more frequent than stated. Fresh seeds settle it: CONFIRM in the study."
        ]
    return []


def markdown(
    sweep: Sweep,
    sections: list[Section],
    drawn: list[list[Saved]],
    origin: dict[str, str],
    more: list[Extra],
) -> str:
    """report.md."""
    lines = [f"# {escape(sweep.plan.study)}", "", escape(sweep.plan.question), ""]
    lines += [f"**{escape(answer(sweep, section))}**\n" for section in sections]
    lines += [f"{headline(sweep)}. {method(sweep)}", ""]
    lines += [f"- {name}: {escape(value)}" for name, value in origin.items()]
    lines += [f"- note: {escape(note)}" for note in remarks(sweep)]
    if sweep.scores:
        lines.append(f"- trivial scores, {sweep.reading.metric}: {trivial(sweep)}")
    for extra in more:
        lines += ["", *extra_lines(extra)]
    for section, saved in zip(sections, drawn, strict=True):
        lines += ["", *section_lines(sweep, section, saved)]
    lines += ["", "## The words", ""]
    lines += [f"- *{word}*: {rule}." for word, rule in rules(sweep)]
    lines += [f"- {column.head}: {column.meaning}." for column in (*MAIN, *MORE[1:])]
    return "\n".join(lines) + "\n"


def trivial(sweep: Sweep) -> str:
    return ", ".join(f"{escape(who)} {number(value)}" for who, value in sweep.scores.items())


def extra_lines(extra: Extra) -> list[str]:
    lines = [f"## {escape(extra.title)}", ""]
    lines += [f"- {escape(sentence)}" for sentence in extra.sentences]
    lines += ["", line(list(map(escape, extra.heads))), line(["---"] * len(extra.heads))]
    return lines + [line(list(map(escape, row))) for row in extra.rows]


def section_lines(sweep: Sweep, section: Section, saved: list[Saved]) -> list[str]:
    lines = [f"## {escape(section.title) or 'Variants'}", ""]
    lines += [f"Differences in {escape(scale(sweep, section))}.", ""]
    lines += _table(MAIN, section, worded) + [""]
    lines += [f"- {escape(note)}" for note in section.notes] + [""]
    lines += _table(MORE, section, lambda row: row.verdict)
    for figure in saved:
        lines += ["", f"![{figure.title}](figures/{figure.name}.svg)", "", f"*{figure.caption}*"]
    return lines


def _table(columns: tuple[Column, ...], section: Section, told: Any) -> list[str]:
    shown = [
        [escape(told(row) if c.head == "word" else c.show(row)) for c in columns]
        for row in section.rows
    ]
    heads = [line([c.head for c in columns]), line(["---"] * len(columns))]
    return heads + [line(cells) for cells in shown]


def worded(row: Row) -> str:
    """The word with its reason and its warnings."""
    return "; ".join(filter(None, (row.verdict, row.why, *row.warnings)))


def scale(sweep: Sweep, section: Section) -> str:
    """The units of a difference, and what the gap is."""
    size, margin = section.gap.size, section.gap.margin
    found = units(sweep.reading)
    if not size > 0:
        return found
    return f"{found}; gap {number(size, 3)}, margin {number(margin, 3)}"


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escape(text: Any) -> str:
    """Text that Markdown, and the HTML within it, takes as it is."""
    marks = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "*": "\\*", "`": "\\`"}
    flat = " ".join(str(text).split())
    return "".join(marks.get(character, character) for character in flat)
