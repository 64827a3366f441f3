"""statistics, words and figures of a sweep, finished or not, as one page.

  lstm-jax report --workdir=sweeps/airline_lr
  lstm-jax report sweeps/jsb sweeps/adding sweeps/counting --out=reports/cells
  lstm-jax report sweeps/airline_lr/report --out=reports/airline_lr     from its tables alone

Writes WORKDIR/report: report.html (one file, works offline), report.md, table.csv, trials.csv,
plan.json and figures as SVG and PNG. The folder of a report stands for its sweep: plan.json and
trials.csv are enough to judge again, without curves and diagnoses. Several sweeps are judged as
one family of comparisons, in normalised scores, and their report goes to --out. docs/reports.md
says how to read it.
"""

from __future__ import annotations

from pathlib import Path

from lstm_jax.commands.arguments import Arguments, Flag
from lstm_jax.errors import OK, UsageError
from lstm_jax.report import build_joint, build_report

FLAGS = (
    Flag("workdir", "", "the sweep; several as words: report sweeps/a sweeps/b", path=True),
    Flag("out", "", "folder to write to (default: WORKDIR/report; needed for several)", path=True),
)


def run(arguments: Arguments) -> int:
    """Build, then print where the page is."""
    flags, words = arguments.flags, list(arguments.words)
    if flags.workdir and not Path(flags.workdir).is_dir():
        raise UsageError(f"--workdir={flags.workdir} is no folder; expected a sweep or its report")
    strange = next((word for word in words if not Path(word).is_dir()), "")
    if strange:
        hint = f"; did you mean --{strange}?" if "=" in strange else ""
        raise UsageError(f"report: {strange!r} is no folder; expected sweeps or reports{hint}")
    workdirs = [*filter(None, [flags.workdir]), *words]
    if not workdirs:
        found = sorted(str(path.parent) for path in Path("sweeps").glob("*/sweep.json"))
        there = f"; there are: {', '.join(found)}" if found else ""
        raise UsageError(f"which sweep? lstm-jax report --workdir=DIR{there}")
    if len(workdirs) == 1:
        print(build_report(workdirs[0], flags.out))
        return OK
    if not flags.out:
        raise UsageError("the report of several sweeps needs a folder of its own: --out=DIR")
    print(build_joint(workdirs, flags.out))
    return OK
