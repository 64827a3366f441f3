"""Words and bars for a terminal: durations, rates, and a bar that wraps on whole words."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

GAP = "  "


def clock(seconds: float | None) -> str:
    """0:07, 12:34, 1:02:03; nothing where nobody knows."""
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def speed(rate: float, unit: str) -> str:
    """1,234 steps/s, 2.5 steps/s, and below one a second 40 s/step."""
    digits = 0 if max(rate, 1 / rate) >= 10 else 1
    return f"{rate:,.{digits}f} {unit}/s" if rate >= 1 else f"{1 / rate:,.{digits}f} s/{unit[:-1]}"


# ---------------------------------------------------------------- a terminal's bar


class Bar(NamedTuple):
    """A bar and words beside it, for rich; on a narrow terminal whole words go below it."""

    done: int
    total: int
    words: Sequence[str]
    label: str = ""

    NARROW, WIDE = 8, 40  # columns of the bar itself

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.progress_bar import ProgressBar  # start-up
        from rich.table import Table
        from rich.text import Text

        label = [self.label] if self.label else []
        taken = sum(len(word) + len(GAP) for word in [*label, " " * self.NARROW])
        first, *more = filled(self.words, options.max_width, taken)
        width = options.max_width - len(first) - taken + self.NARROW
        row = Table.grid(padding=(0, len(GAP), 0, 0), pad_edge=False)
        bar = ProgressBar(self.total, self.done, width=max(min(width, self.WIDE), 1))
        row.add_row(*map(Text, label), bar, Text(first, no_wrap=True))
        yield row
        yield from (Text(line, no_wrap=True) for line in more)


def filled(words: Sequence[str], width: int, taken: int) -> list[str]:
    """Lines of whole words, `taken` columns of the first being in use."""
    whole = GAP.join(word.replace(" ", "\xa0") for word in words)
    indent = " " * min(taken, width - 1)
    lines = textwrap.wrap(whole, width, initial_indent=indent, break_on_hyphens=False)
    return [line.strip(" ").replace("\xa0", " ") for line in lines]


def start_live(file: TextIO, render: Callable) -> Any:
    """A rich Live that draws what `render` returns twice a second; None where nothing can move."""
    if not file.isatty():
        return None
    from rich.console import Console  # start-up
    from rich.live import Live

    console = Console(file=file)
    if console.is_dumb_terminal:
        return None
    render = unwrapped(console, render)
    live = Live(console=console, get_renderable=render, refresh_per_second=2)
    live.start(refresh=True)
    return live


def say_above(live: Any, text: str) -> None:
    """A line above what `live` draws; never while its thread draws, which would erase the line."""
    with live._lock:
        live.console.print(text, markup=False, highlight=False)


def unwrapped(console: Any, render: Callable) -> Callable:
    """`render`, once what a terminal that became narrower has wrapped is erased.

    Rich erases as many rows as it drew; by then they are more.
    """
    drawn: list[int] = []  # columns of every row

    def draw() -> Any:
        rows = sum(max(-(-columns // console.width), 1) for columns in drawn)
        console.file.write("\r\x1b[2K\x1b[1A" * (rows - len(drawn)))
        found = render()
        lines = console.render_lines(found, pad=False)
        drawn[:] = [sum(segment.cell_length for segment in line) for line in lines]
        return found

    return draw
