"""statistics, words and figures of a sweep, finished or not, as one page.

  lstm-jax report --workdir=sweeps/airline_lr

Writes WORKDIR/report: report.html (one file, works offline), report.md, table.csv and figures as
SVG and PNG. docs/reports.md says how to read it.
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.errors import OK, UsageError
from lstm_jax.report import build_report

FLAGS = (
    Flag("workdir", "", "the sweep", path=True),
    Flag("out", "", "folder to write to (default: WORKDIR/report)", path=True),
)


def run(arguments: Arguments) -> int:
    """Build, then print where the page is."""
    no_words(arguments)
    flags = arguments.flags
    if not flags.workdir:
        found = sorted(str(path.parent) for path in Path("sweeps").glob("*/sweep.json"))
        there = f"; there are: {', '.join(found)}" if found else ""
        raise UsageError(f"which sweep? lstm-jax report --workdir=DIR{there}")
    print(build_report(flags.workdir, flags.out))
    return OK
