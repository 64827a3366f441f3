"""report.html: one file that needs no network; light and dark, wide and narrow."""

from __future__ import annotations

import math
import re
from html import escape
from importlib import resources
from typing import Any

from lstm_jax.report import figures, text
from lstm_jax.report.analysis import Row, Section
from lstm_jax.report.collect import Sweep
from lstm_jax.report.names import number, plain, short
from lstm_jax.report.questions import Extra

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>
{script}</script>
</body>
</html>
"""


def html(
    sweep: Sweep,
    sections: list[Section],
    drawn: list[list[text.Saved]],
    origin: dict[str, str],
    more: list[Extra],
) -> str:
    """The whole page."""
    asides = [extra for extra in more if extra.is_aside]
    parts = [head(sweep, sections), notes(text.remarks(sweep))]
    for section, saved in zip(sections, drawn, strict=True):
        parts += [variants(sweep, section), gallery(saved)]
    parts += [besides(extra) for extra in more if not extra.is_aside]
    parts += [folded(extra.title, besides(extra)) for extra in asides]
    parts += [words(sweep), source(sweep, origin), every_trial(sweep)]
    return PAGE.format(
        policy=POLICY,
        title=escape(f"{sweep.plan.study}: report"),
        style=asset("page.css"),
        script=asset("page.js"),
        body="\n".join(filter(None, parts)),
    )


def asset(name: str) -> str:
    return resources.files("lstm_jax.report").joinpath(name).read_text(encoding="utf-8")


def head(sweep: Sweep, sections: list[Section]) -> str:
    """The question and its answer."""
    said = "".join(f"<p class=answer>{escape(text.answer(sweep, s))}</p>" for s in sections)
    return (
        f"<header><p class=kicker>{escape(sweep.plan.study)}, {escape(text.headline(sweep))}</p>"
        f"<h1>{escape(sweep.plan.question or sweep.plan.study)}</h1>{said}</header>"
    )


def source(sweep: Sweep, origin: dict[str, str]) -> str:
    """Method, and where the numbers come from."""
    rows = dict(origin)
    if sweep.scores:
        found = (f"{who} {number(value)}" for who, value in sweep.scores.items())
        rows[f"trivial scores, {sweep.reading.metric}"] = ", ".join(found)
    terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items())
    return (
        f"<section><h2>How the numbers came about</h2><p>{escape(text.method(sweep))}</p>"
        f"<dl>{terms}</dl></section>"
    )


def notes(found: list[str]) -> str:
    """What is missing, and what is therefore not claimed."""
    items = "".join(f"<li>{escape(note)}</li>" for note in found)
    return f'<ul class="notes">{items}</ul>' if items else ""


def variants(sweep: Sweep, section: Section) -> str:
    """A section's table, its notes, and the rest of its numbers behind a click."""
    title = escape(section.title or "Variants")
    name = section.title or "variants"
    rest = compared(f"{name}, all numbers", text.MORE, section)
    return (
        f"<section><h2>{title}</h2>"
        f"<p class=units>Differences in {escape(text.scale(sweep, section))}.</p>"
        f"{compared(f'{name} table', text.MAIN, section, filters=(1,))}"
        f"{notes(section.notes)}{folded('All numbers', rest)}</section>"
    )


def compared(
    name: str, columns: tuple[text.Column, ...], section: Section, filters: tuple[int, ...] = ()
) -> str:
    """A table of the section's rows."""
    rows = [
        [said(row) if c.head == "word" else cell(c.show(row), c.key(row)) for c in columns]
        for row in section.rows
    ]
    return table(name, [(c.head, c.meaning) for c in columns], rows, filters)


def said(row: Row) -> str:
    """The word's cell: its reason and its warnings stand in it."""
    below = "".join(f"<small>{escape(w)}</small>" for w in filter(None, (row.why, *row.warnings)))
    return (
        f'<td class=word data-value="{escape(row.verdict)}">'
        f"<b class={escape(row.verdict)}>{escape(row.verdict)}</b>{below}</td>"
    )


def folded(summary: str, inside: str) -> str:
    """Behind a click."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def besides(extra: Extra) -> str:
    """A section of what the study asks besides."""
    sentences = "".join(f"<li>{_sentence(s)}</li>" for s in extra.sentences)
    rows = [[cell(shown, shown) for shown in row] for row in extra.rows]
    found = table(f"{extra.title} table", [(head, "") for head in extra.heads], rows)
    return (
        f"<section><h2>{escape(extra.title)}</h2><ul class=sentences>{sentences}</ul>{found}"
        "</section>"
    )


def _sentence(sentence: str) -> str:
    """The variant stands out."""
    variant, found, rest = sentence.partition(": ")
    if not found:
        return escape(sentence)
    return f"<strong>{escape(variant)}</strong>: {escape(rest)}"


def cell(shown: str, key: Any) -> str:
    """A cell, with what it is sorted by where that is a number; NaN and None go last."""
    if isinstance(key, str):
        return f"<td>{escape(shown)}</td>"
    known = key is not None and math.isfinite(key)
    return f'<td class=n data-key="{key if known else ""}">{escape(shown)}</td>'


def table(
    name: str, heads: list[tuple[str, str]], rows: list[list[str]], filters: tuple[int, ...] = ()
) -> str:
    """A table that sorts by a click on a head and filters by a click on a value or by typing."""
    columns = "".join(
        f'<th scope=col title="{escape(meaning)}"'
        f"{' data-filter' if i in filters else ''}><button type=button>{escape(head)}</button></th>"
        for i, (head, meaning) in enumerate(heads)
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class=table aria-label="{escape(name)}"><div class=tools></div><div class=scroll>'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def gallery(saved: list[text.Saved]) -> str:
    """The figures, drawn in the page's own colours."""
    found = "".join(
        f'<figure id="{escape(figure.name)}">{inline(figure)}'
        f"<figcaption><strong>{escape(figure.title)}.</strong> {escape(figure.caption)}"
        "</figcaption></figure>"
        for figure in saved
    )
    return f"<div class=gallery>{found}</div>" if found else ""


def inline(figure: text.Saved) -> str:
    """A figure's SVG without its prologue, scaling with the page, in its colours."""
    drawing = figure.svg[figure.svg.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    label = f'<svg role="img" aria-label="{escape(figure.title)}" '
    drawing = drawing.replace("<svg ", label, 1)
    swaps = {figures.INK: "var(--ink)", figures.FAINT: "var(--faint)", figures.BASE: "var(--base)"}
    for sentinel, colour in swaps.items():
        drawing = drawing.replace(sentinel, colour)
    return drawing


def words(*sweeps: Sweep) -> str:
    """The rules behind the words, and what the columns mean."""
    found = "".join(f"<dt>{escape(w)}</dt><dd>{escape(r)}</dd>" for w, r in text.rules(*sweeps))
    columns = (*text.MAIN, *text.MORE[1:])
    heads = "".join(f"<dt>{escape(c.head)}</dt><dd>{escape(c.meaning)}</dd>" for c in columns)
    return (
        f"<section><h2>The words</h2><dl>{found}</dl>"
        f"{folded('The columns', f'<dl>{heads}</dl>')}</section>"
    )


def every_trial(sweep: Sweep) -> str:
    """One row a trial."""
    varied, reading = list(sweep.plan.varied), sweep.reading
    heads = [("trial", "its number and folder"), ("status", "how it ended")]
    heads += [(short(name), name) for name in varied]
    heads += [(reading.choose, "of the best parameters"), (reading.metric, "of the same")]
    heads += [("not counted", "why, where it does not count")]
    rows = []
    for trial in sweep.trials:
        flat = sweep.plan.base | sweep.plan.trials[trial.number]
        row = [cell(str(trial.number), trial.number), cell(trial.status, trial.status)]
        row += [_value(flat.get(name)) for name in varied]
        row += [cell(number(score), score) for score in (trial.valid, trial.test)]
        rows.append([*row, cell(trial.lacks, trial.lacks)])
    found = table("trials table", heads, rows, filters=(1,))
    return f"<section><h2>Trials</h2>{folded(f'All {len(rows)} trials', found)}</section>"


def _value(value: Any) -> str:
    number_like = isinstance(value, int | float) and not isinstance(value, bool)
    shown = plain(tuple(value) if isinstance(value, list) else value)
    return cell(shown, value if number_like else shown)
