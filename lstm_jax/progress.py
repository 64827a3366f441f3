"""What a run shows while it trains: a bar on a terminal, few lines elsewhere, a closing table."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

LARGER_IS_BETTER = frozenset({"accuracy", "first_failing_n"})
_LINES = 20  # of a run, when output is no terminal,
_LINE_SECONDS = 60.0  # but one at least this often


class Progress:
    """Bar with the latest values, steps/s and time left; plain lines when output is no terminal.

    with Progress(1000) as bar: bar.update(50, loss=0.3)
    """

    def __init__(self, total: int, start: int = 0, *, file: TextIO | None = None):
        self.total = total
        self._file = file or sys.stdout
        self._began = (time.monotonic(), start)
        self._marks: deque[tuple[float, int]] = deque(maxlen=20)
        self._printed = (float("-inf"), -1)  # when, and the how-manieth of _LINES parts
        self._values: dict[str, float] = {}
        self._bar = _make_bar(self._file, total, start) if self._file.isatty() else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, step: int, **values: Any) -> None:
        """Say how far the run is; a value stays on show until it is given again."""
        self._marks.append((time.monotonic(), step))
        self._values |= {name: float(value) for name, value in values.items()}
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, note=self._note())
            self._bar.refresh()
        elif self._is_due(step):
            self._print(f"step {step:>{len(str(self.total))}}/{self.total}  {self._note()}")

    def message(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._print(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Steps per second over the last 20 updates, without the first, which compiles."""
        marks = self._marks if len(self._marks) > 1 else [self._began, *self._marks]
        (t0, s0), (t1, s1) = marks[0], marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    def _note(self) -> str:
        shown = [f"{name} {value:.4g}" for name, value in self._values.items()]
        left = self.total - (self._marks[-1][1] if self._marks else self._began[1])
        time_left = f"{left / self.rate:.0f}" if self.rate else ""
        eta = [f"ETA {_clock(int(time_left))}"] if time_left and left else []
        return "  ".join([*shown, f"{self.rate:,.0f} steps/s", *eta])

    def _is_due(self, step: int) -> bool:
        now, part = time.monotonic(), step * _LINES // max(self.total, 1)
        due = part != self._printed[1] or now - self._printed[0] > _LINE_SECONDS
        if due:
            self._printed = (now, part)
        return due

    def _print(self, line: str) -> None:
        print(line, file=self._file, flush=True)


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _make_bar(file: TextIO, total: int, start: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = [BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[note]}")]
    # No refresh thread: it would take time from the training between two updates.
    bar = RichProgress(*columns, console=Console(file=file), auto_refresh=False, expand=True)
    bar.add_task("train", total=total, completed=start, note="compiling")
    return bar


# ---------------------------------------------------------------- the closing table


def closing_table(
    metrics: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]],
    workdir: str | Path,
    *,
    name: str = "model",
    file: TextIO | None = None,
) -> None:
    """Print, per split, the model beside its baselines, best first, and how to start TensorBoard.

    `metrics` is {split: {metric: value}}, `baselines` {split: {baseline: {metric: value}}}.
    Rows are sorted by the first metric that the baselines share with the model; the best of a
    column is bold.
    """
    file = file or sys.stdout
    for split in (s for s in metrics if s != "train" and metrics[s]):
        rows = {name: dict(metrics[split]), **baselines.get(split, {})}
        _print_table(split, name, rows, file)
    print(f"\ntensorboard --logdir {shlex.quote(str(workdir))}", file=file, flush=True)


def _print_table(split: str, name: str, rows: Mapping[str, Mapping[str, float]], file: Any) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = _columns(name, rows)
    best = {column: _best(column, rows) for column in columns}
    table = Table(box=box.SIMPLE_HEAD, title=f"{split} split", title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for row in sorted(rows, key=lambda row: _rank(columns[0], rows[row])):
        cells = [_cell(rows[row].get(c), best[c], file.isatty()) for c in columns]
        table.add_row(Text(row, "bold" if row == name else ""), *cells)
    # A pipe has no width: let the table take what it needs.
    Console(file=file, width=None if file.isatty() else 120).print(table)


def _columns(name: str, rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The model's metrics; those that a baseline has too come first."""
    shared = [c for row in rows if row != name for c in rows[row] if c in rows[name]]
    return list(dict.fromkeys([*shared, *rows[name]]))


def _rank(column: str, row: Mapping[str, float]) -> float:
    """Smaller is better; what is missing or not a number comes last."""
    value = float(row.get(column, math.nan))
    if math.isnan(value):
        return math.inf
    return -value if column in LARGER_IS_BETTER else value


def _best(column: str, rows: Mapping[str, Mapping[str, float]]) -> float:
    found = [row[column] for row in rows.values() if column in row]
    return min(found, key=lambda value: _rank(column, {column: value}))


def _cell(value: float | None, best: float, terminal: bool) -> Any:
    from rich.text import Text

    if value is None:
        return Text("")
    # Bold needs a terminal; a file gets a star.
    mark = "" if terminal else ("*" if value == best else " ")
    return Text(f"{value:.4g}{mark}", "bold" if value == best else "")
