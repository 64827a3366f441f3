"""What a run shows while it trains: a bar on a terminal, few lines elsewhere, a closing table."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from lstm_jax.compute.compile_cache import compilations
from lstm_jax.tasks.task import LARGER_IS_BETTER
from lstm_jax.terminal import GAP, Bar, clock, say_above, speed, start_live

_LINES = 20  # of a run, when output is no terminal,
_LINE_SECONDS = 60.0  # but one at least this often
_COMPILE_SECONDS = 1.0  # compiling for less is not worth a line
_SHORT = 0.5  # seconds of a phase that nobody needs to see


class Progress:
    """A bar with steps/s, time left and the latest values; plain lines when output is no terminal.

    with Progress(1000) as bar: bar.update(50, loss=0.3)
    """

    def __init__(self, total: int, start: int = 0, *, file: TextIO | None = None):
        self.total = total
        self._file, self._live = file or sys.stdout, None
        self._phase: tuple[str, float] | None = None  # what is being done, and since when
        self._compiling = 0.0  # seconds that count for no rate
        self._values: dict[str, tuple[int, float]] = {}  # name: (step, value)
        self._printed = (float("-inf"), -1)  # when, and the how-manieth of _LINES parts
        self.begin(start)

    def __enter__(self) -> Progress:
        self._live = self._live or start_live(self._file, self._bar)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, step: int) -> None:
        """Training starts, or starts again, at this step."""
        self._step, self._began = step, (self._now(), step)
        self._marks: deque[tuple[float, int]] = deque(maxlen=20)

    def update(self, step: int, **values: Any) -> None:
        """Say how far the run is; a value stays on show until it is given again."""
        self._step = step
        self._marks.append((self._now(), step))
        # Not in place: the thread that draws the bar may be reading.
        self._values = self._values | {name: (step, float(v)) for name, v in values.items()}
        if self._live is not None:
            self._live.refresh()
        elif self._is_due(step):
            count = f"step {step:>{len(str(self.total))}}/{self.total}"
            self._print(GAP.join([count, *self._losses(), *self._speed()]))

    def message(self, text: str) -> None:
        """A line above the bar."""
        if self._live is not None:
            say_above(self._live, text)
        else:
            self._print(text)

    @contextlib.contextmanager
    def phase(self, what: str, doing: str = "", worth: float = _COMPILE_SECONDS) -> Iterator[None]:
        """Shows what is being done; afterwards a line if it compiled for `worth` seconds."""
        compiled, began, outer = compilations(), time.monotonic(), self._phase
        shown_alone = self._live is None
        self._phase = doing or what, began
        self.__enter__()
        try:
            yield
        finally:
            self._phase = outer
            if shown_alone:
                self.close(erase=True)
        seconds = time.monotonic() - began
        if compilations() > compiled:
            self._compiling += seconds
            if seconds >= worth:
                self.message(f"compiled the {what} in {seconds:.1f} s")

    def during(self, what: str, function: Callable) -> Callable:
        """`function`, every call of it a phase."""

        def call(*arguments: Any) -> Any:
            with self.phase(what):
                return function(*arguments)

        return call

    def close(self, erase: bool = False) -> None:
        if self._live is not None:
            self._live.transient = erase
            self._live.stop()
        self._live = None

    @property
    def rate(self) -> float:
        """Steps per second over the last 20 updates, without the first and without compiling."""
        marks = self._marks if len(self._marks) > 1 else [self._began, *self._marks]
        (t0, s0), (t1, s1) = marks[0], marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    def _now(self) -> float:
        return time.monotonic() - self._compiling

    def _bar(self) -> Bar:
        speed, count = self._speed(), f"{self._step:,}/{self.total:,}"
        what, since = self._phase or ("", time.monotonic())
        if (seconds := time.monotonic() - since) > _SHORT:
            speed = [f"{what} {clock(seconds)}"]
        return Bar(self._step, self.total, [count, *speed, *self._losses()])

    def _losses(self) -> list[str]:
        """The values, each with its step where that is not the last one."""
        steps = {
            step: "" if step == self._step else f" (step {step})"
            for step, _ in self._values.values()
        }
        return [f"{name} {value:.4g}{steps[step]}" for name, (step, value) in self._values.items()]

    def _speed(self) -> list[str]:
        rate, left = self.rate, self.total - self._step
        if not rate:
            return [f"{clock(self._now() - self._began[0])} so far"]
        since = self._now() - self._marks[-1][0]
        eta = [f"ETA {clock(max(left / rate - since, 0))}"] if left else []
        return [speed(rate, "steps"), *eta]

    def _is_due(self, step: int) -> bool:
        now, part = time.monotonic(), step * _LINES // max(self.total, 1)
        due = part != self._printed[1] or now - self._printed[0] > _LINE_SECONDS
        if due:
            self._printed = (now, part)
        return due

    def _print(self, line: str) -> None:
        print(line, file=self._file, flush=True)


# ---------------------------------------------------------------- the closing table

WIDEST = 7  # columns; where there are more, what no baseline has goes below the table


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
    if line := tensorboard_line(workdir):
        print(line, file=file, flush=True)


def tensorboard_line(workdir: Any) -> str:
    """The command that shows a run's curves, where it has some and TensorBoard is installed."""
    curves = any(Path(workdir).rglob("events.out.*"))
    there = curves and importlib.util.find_spec("tensorboard") is not None
    return f"\ntensorboard --logdir {shlex.quote(str(workdir))}" if there else ""


def _print_table(split: str, name: str, rows: Mapping[str, Mapping[str, float]], file: Any) -> None:
    from rich import box  # start-up
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = _columns(name, rows)
    others = {column for row in rows if row != name for column in rows[row]}
    alone = [c for c in columns if c not in others] if len(columns) > WIDEST and others else []
    columns = [column for column in columns if column not in alone]
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
    if alone:
        told = (f"{column} {rows[name][column]:.4g}" for column in alone)
        print(f"  {name}: {', '.join(told)}\n", file=file)


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
    from rich.text import Text  # start-up

    if value is None:
        return Text("")
    # Bold needs a terminal; a file gets a star.
    mark = "" if terminal else ("*" if value == best else " ")
    return Text(f"{value:.4g}{mark}", "bold" if value == best else "")
