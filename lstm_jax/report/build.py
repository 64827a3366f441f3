"""A report of a sweep on disk: report.html, report.md, tables, plan.json, figures."""

from __future__ import annotations

import io
import re
from pathlib import Path

from lstm_jax.report import figures, page, search, text
from lstm_jax.report.analysis import Row, Section, analyse
from lstm_jax.report.archive import keep, open_sweep
from lstm_jax.report.collect import Sweep
from lstm_jax.report.questions import extras
from lstm_jax.report.register import standing
from lstm_jax.sweep.define.plan import Plan
from lstm_jax.workdir.files import csv_text, write_text

COORDINATES = re.compile(r'(?<= )(?:d|x|y)="[^"]*"')  # a hundredth of a point is enough


def build_report(workdir: str | Path, out: str | Path = "") -> Path:
    """Read the sweep in `workdir`, in whatever state it is; the path of report.html.

    `workdir` may be the folder of a report too. `out` is where the files go, WORKDIR/report by
    default.

    Raises:
      UsageError: no sweep in `workdir`, or `out` cannot be written.
    """
    workdir = Path(workdir)
    sweep, origin = open_sweep(workdir)
    out = Path(out or workdir / "report")
    (out / "figures").mkdir(parents=True, exist_ok=True)
    sections = analyse(sweep)
    drawn = [save_plots(plots(sweep, section), section, out) for section in sections]
    more = [*search.extras(sweep, sections), *extras(sweep, sections)]
    keep(sweep, origin, out)
    origin |= registered(sweep.plan)
    write_text(out / "table.csv", table(sections))
    write_text(out / "report.md", text.markdown(sweep, sections, drawn, origin, more))
    path = out / "report.html"
    write_text(path, page.html(sweep, sections, drawn, origin, more))
    return path


def plots(sweep: Sweep, section: Section) -> list[figures.Plot]:
    """Those of every sweep, after those of a search."""
    import matplotlib  # start-up

    with matplotlib.rc_context(figures.STYLE):
        own = search.plots(sweep, section)
    return [*own, *figures.plots(sweep, section)]


def registered(plan: Plan) -> dict[str, str]:
    found = standing(plan)
    return {"registered at launch": found} if found else {}


def table(sections: list[Section]) -> str:
    """A row a variant, all numbers in full."""
    rows = [[section.title, *row] for section in sections for row in section.rows]
    return csv_text([["section", *Row._fields], *rows])


def save_plots(plots: list[figures.Plot], section: Section, out: Path) -> list[text.Saved]:
    """Every plot as SVG and PNG on white; what the page needs of it."""
    import matplotlib  # start-up

    saved = []
    for plot in plots:
        prefix = f"{slug(section.title)}_" if section.title else ""
        name = prefix + plot.name
        # Identifiers are hashes salted by the name, so figures can share a page.
        with matplotlib.rc_context(figures.STYLE | {"svg.hashsalt": name}):
            stream = io.StringIO()
            plot.figure.draw_without_rendering()
            plot.figure.set_layout_engine("none")  # laid out once for both files
            plot.figure.savefig(stream, format="svg", metadata={"Date": None})
            plot.figure.savefig(out / "figures" / f"{name}.png", dpi=200, facecolor="white")
        drawing = COORDINATES.sub(_rounded, stream.getvalue())
        white = drawing.replace("<svg ", '<svg style="background: white" ', 1)
        write_text(out / "figures" / f"{name}.svg", white)
        saved.append(text.Saved(name, plot.title, plot.caption, drawing))
    return saved


def _rounded(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])


def slug(title: str) -> str:
    """A title as a file's name."""
    return re.sub(r"[^\w.-]+", "-", title).strip("-") or "section"
