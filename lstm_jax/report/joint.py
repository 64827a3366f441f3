"""The report of several sweeps on disk: report.html, report.md, table.csv, trials.csv, figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.errors import UsageError
from lstm_jax.report import figures, page, text
from lstm_jax.report.analysis import Row
from lstm_jax.report.archive import PLAN, TRIALS, open_sweep
from lstm_jax.report.build import save_plots
from lstm_jax.report.collect import Sweep
from lstm_jax.report.figures import BLUE, FAINT, INK, LINES, Plot, canvas
from lstm_jax.report.names import percent, plain
from lstm_jax.report.register import departures, standing
from lstm_jax.report.together import (
    Joint,
    Stratum,
    answer,
    cells,
    join,
    method,
    of_gap,
    said,
    shown,
)
from lstm_jax.workdir.files import csv_text, write_text


def build_joint(workdirs: Sequence[str | Path], out: str | Path) -> Path:
    """Read the sweeps and write their common report to `out`; the path of report.html.

    Each by its workdir, or by the folder of its report.

    Raises:
      UsageError: sweeps that cannot be put together, each reason; no sweep in a workdir.
    """
    places = [str(Path(workdir)) for workdir in workdirs]
    again = next((p for p in places if places.count(p) > 1), "")
    if again:
        raise UsageError(f"{again} is named twice: its trials would count twice")
    sweeps = [open_sweep(Path(place))[0] for place in places]
    joint, out = join(sweeps, places), Path(out)
    if (out / PLAN).exists():
        raise UsageError(
            f"--out={out} holds the report of one sweep, whose {TRIALS} would be lost: name "
            "another folder"
        )
    (out / "figures").mkdir(parents=True, exist_ok=True)
    drawn = save_plots([forest(joint)], joint.strata[0].section._replace(title=""), out)
    write_text(out / "table.csv", table(joint))
    write_text(out / "trials.csv", trials(joint))
    write_text(out / "report.md", markdown(joint, drawn))
    path = out / "report.html"
    write_text(path, html(joint, drawn, places))
    return path


def names(joint: Joint) -> list[str]:
    return [stratum.name for stratum in joint.strata]


# ---------------------------------------------------------------- tables


def table(joint: Joint) -> str:
    """A row a task and variant, all numbers in full."""
    over = ("iqm_tasks", "iqm_low", "iqm_high", "better", "better_low", "better_high")
    rows = [
        [task, *found, *row.iqm, *row.improvement]
        for row in joint.overall
        for task, found in row.rows.items()
    ]
    return csv_text([["task", *Row._fields, *over], *rows])


def trials(joint: Joint) -> str:
    """Every trial of every sweep; `normalised` where it has a score, `judges` where that counts."""
    heads = ["task", "sweep", "trial", "status", "variant", *("setting", "seed", "fresh")]
    rows: list[list[Any]] = [
        [*heads, "choosing score", "score", "trivial", "normalised", "judges", "lacks"]
    ]
    for stratum in joint.strata:
        for variant, found in stratum.section.trials.items():
            judges = {t.number for t in stratum.section.chosen[variant]}
            for t in found:
                setting = "/".join(map(plain, t.setting))
                score = "" if t.lacks else float(of_gap(stratum.sweep, stratum.section, [t])[0])
                row = [stratum.name, stratum.sweep.plan.study, t.number, t.status, variant, setting]
                row += [t.seed, int(t.is_fresh), t.valid, t.test, t.trivial, score]
                rows.append([*row, int(t.number in judges), t.lacks])
    return csv_text(rows)


def in_task(row: Row | None) -> str:
    """Word and share of the gap."""
    if row is None or row.is_baseline:
        return ""
    share = f" {percent(row.share)}" if math.isfinite(row.share) else ""
    return f"{row.verdict}{share}"


# ---------------------------------------------------------------- Markdown, page


def markdown(joint: Joint, drawn: list[text.Saved]) -> str:
    """report.md."""
    tasks = names(joint)
    heads = ["variant", *tasks, "IQM", "P(better)"]
    lines = ["# Several sweeps", "", f"**{text.escape(answer(joint))}**", "", method(joint), ""]
    lines += [f"- note: {text.escape(note)}" for note in notes(joint)]
    lines += ["", text.line(heads), text.line(["---"] * len(heads))]
    for row in joint.overall:
        told = [in_task(found) for found in cells(row, tasks)]
        shares = [shown(row.iqm), shown(row.improvement)]
        lines.append(text.line([text.escape(c) for c in (row.variant, *told, *shares)]))
    for figure in drawn:
        lines += ["", f"![{figure.title}](figures/{figure.name}.svg)", "", f"*{figure.caption}*"]
    if joint.hanging:
        lines += ["", *text.extra_lines(joint.hanging)]
    for stratum in joint.strata:
        lines += ["", *text.section_lines(stratum.sweep, titled(stratum), [])]
    return "\n".join(lines) + "\n"


def notes(joint: Joint) -> list[str]:
    """How variants are named, and what each sweep's own report would say first."""
    return [
        *(
            f"{name} follows from the rest of a variant and its task, and is no part of its name"
            for name in joint.unnamed
        ),
        *(
            f"{name}: {note}"
            for name, sweep in each(joint)
            for note in dict.fromkeys([*text.remarks(sweep), *departures(sweep.plan)])
        ),
    ]


def each(joint: Joint) -> list[tuple[str, Sweep]]:
    """Every sweep once, under the name of its first task."""
    first = {id(s.sweep): s for s in reversed(joint.strata)}
    return [(s.name, s.sweep) for s in joint.strata if first[id(s.sweep)] is s]


def titled(stratum: Stratum) -> Any:
    return stratum.section._replace(title=stratum.name)


def html(joint: Joint, drawn: list[text.Saved], places: Sequence[str]) -> str:
    """The page: the answer, one narrow table, the forest, then each task behind a click."""
    parts = [
        f"<header><p class=kicker>{len(places)} sweeps: {escape(', '.join(places))}</p>"
        f"<h1>What holds over all tasks</h1><p class=answer>{escape(answer(joint))}</p></header>",
        page.notes(notes(joint)),
        f"<section><h2>Variants</h2>{over_all(joint)}</section>",
        page.gallery(drawn),
    ]
    if joint.hanging:
        parts.append(page.folded(joint.hanging.title, page.besides(joint.hanging)))
    parts += [page.folded(s.name, page.variants(s.sweep, titled(s))) for s in joint.strata]
    parts += [page.words(*(stratum.sweep for stratum in joint.strata)), source(joint)]
    return page.PAGE.format(
        policy=page.POLICY,
        title="several sweeps: report",
        style=page.asset("page.css"),
        script=page.asset("page.js"),
        body="\n".join(filter(None, parts)),
    )


def over_all(joint: Joint) -> str:
    """A row a variant: what holds over the tasks, its word in each, and the numbers over all."""
    tasks = names(joint)
    heads = [("variant", "where it differs from the baseline"), ("over all", "what holds of it")]
    heads += [(task, "its word, and the difference in % of the gap") for task in tasks]
    heads += [("IQM", "interquartile mean of normalised scores"), ("P(better)", "see below")]
    rows = []
    for row in joint.overall:
        told = [task_cell(found) for found in cells(row, tasks)]
        last = [page.cell(shown(s), s[0]) for s in (row.iqm, row.improvement)]
        first = [page.cell(row.variant, row.variant), page.cell(said(row), said(row))]
        rows.append([*first, *told, *last])
    return page.table("over all table", heads, rows, filters=(1,))


def task_cell(row: Row | None) -> str:
    """The word's cell, with its share of the gap, its reason and its warnings."""
    if row is None:
        return page.cell("", "")
    share = percent(row.share) if math.isfinite(row.share) else ""
    around = f"{share} [{percent(row.share_low)}, {percent(row.share_high)}]" if share else ""
    return page.said(row._replace(warnings=(*filter(None, (around,)), *row.warnings)))


def source(joint: Joint) -> str:
    """Method, and what was registered of each sweep."""
    rows = {name: standing(sweep.plan) for name, sweep in each(joint)}
    terms = "".join(
        f"<dt>{escape(k)}, registered</dt><dd>{escape(v)}</dd>" for k, v in rows.items() if v
    )
    return (
        f"<section><h2>How the numbers came about</h2><p>{escape(method(joint))}</p>"
        f"<dl>{terms}</dl></section>"
    )


# ---------------------------------------------------------------- figure


def forest(joint: Joint) -> Plot:
    """Interquartile means over all tasks with their intervals, and every seed by task."""
    import matplotlib  # start-up

    with matplotlib.rc_context(figures.STYLE):
        return _forest(joint)


def _forest(joint: Joint) -> Plot:
    rows = [row for row in joint.overall if math.isfinite(row.iqm[0])][::-1]
    figure, (axes,) = canvas(4.8, 1.6 + 0.42 * len(rows))
    offsets = np.linspace(0.32, 0.12, len(joint.strata))
    for i, stratum in enumerate(joint.strata):
        dots = [
            (score, y + offsets[i])
            for y, row in enumerate(rows)
            for score in stratum.scores.get(
                stratum.baseline if row.is_baseline else row.variant, ()
            )
        ]
        label = figures.text(stratum.name, 30)
        axes.plot(*zip(*dots, strict=True), ".", color=LINES[i % 10], ms=4, alpha=0.7, label=label)
    for y, row in enumerate(rows):
        colour = FAINT if row.is_baseline else BLUE
        axes.plot(row.iqm[1:], [y, y], color=colour, lw=2)
        axes.plot([row.iqm[0]], [y], "o", color=colour, ms=6)
    axes.axvline(1, color=INK, lw=1)
    axes.axvline(0, color=FAINT, lw=1, ls=":")
    low, high = limits([x for s in joint.strata for found in s.scores.values() for x in found])
    axes.set_xlim(low, high)
    for y in (y for y, row in enumerate(rows) if row.iqm[0] < low):
        axes.plot([low], [y], "<", color=BLUE, ms=6, clip_on=False)
    axes.set_yticks(range(len(rows)), [figures.text(row.variant, 26) for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.2)
    axes.set_xlabel("normalised score: 0 trivial, 1 the baseline")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    caption = (
        "Circles: interquartile mean over all tasks, with its 95 % interval. Small dots: the "
        "seeds, a colour a task. Solid line: the baseline; dotted: the strongest trivial score. "
        "What lies beyond -1 and 3 is not drawn; arrows point to circles there."
    )
    return Plot("over_all", figure, "Over all tasks", caption)


def limits(scores: Sequence[float]) -> tuple[float, float]:
    """Room for the scores, within -1 and 3."""
    return max(min(*scores, 0.0) - 0.1, -1.0), min(max(*scores, 1.0) + 0.1, 3.0)
