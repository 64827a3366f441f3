"""Commands under a pseudo-terminal, and what somebody who sits at it sees."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence

CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])")
CUT = re.compile(r"\x1b(\[\??[\d;]*)?$")  # the beginning of one, whose rest is still to be read


class Screen:
    """Rows of text as a terminal of so many columns keeps them, scrolled-off ones included."""

    def __init__(self, columns: int):
        self.columns, self.rows, self.at = columns, [""], (0, 0)
        self._cut = ""
        self.widest = 0  # columns that were in use at any time since the last resize
        self.wrapped = 0  # lines that did not fit

    def write(self, text: str) -> None:
        text = self._cut + text
        self._cut = found[0] if (found := CUT.search(text)) else ""
        text = text.removesuffix(self._cut)
        while text:
            if found := CONTROL.match(text):
                self._control(*found.groups())
                text = text[found.end() :]
            else:
                self._put(text[0])
                text = text[1:]

    def resize(self, columns: int) -> None:
        """Rows that are too long go on in the next one, as in most terminals."""
        rows: list[str] = []
        for i, line in enumerate(self.rows):
            rows += [line[at : at + columns] for at in range(0, max(len(line), 1), columns)]
            if i == self.at[0]:
                self.at = len(rows) - 1, min(self.at[1], columns)
        self.rows, self.columns, self.widest, self.wrapped = rows, columns, 0, 0

    def _put(self, char: str) -> None:
        row, column = self.at
        if char == "\r":
            self.at = row, 0
        elif char == "\n":
            self.at = row + 1, column
        else:
            if column == self.columns:
                row, column, self.wrapped = row + 1, 0, self.wrapped + 1
            self._reach(row)
            line = self.rows[row].ljust(column)
            self.rows[row] = line[:column] + char + line[column + 1 :]
            self.at, self.widest = (row, column + 1), max(self.widest, column + 1)
        self._reach(self.at[0])

    def _reach(self, row: int) -> None:
        self.rows += [""] * (row + 1 - len(self.rows))

    def _control(self, count: str, what: str) -> None:
        row, column = self.at
        if what == "A":
            self.at = max(row - int(count or 1), 0), column
        elif what == "K" and count == "2":
            self.rows[row] = ""

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self.rows)


class Terminal:
    """`argv` under a pseudo-terminal of so many columns."""

    def __init__(self, argv: Sequence[str], columns: int, **environment: str):
        self.master, slave = pty.openpty()
        self._slave, self.screen, self.seen = slave, Screen(columns), [""]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._set_size(columns)
        clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        clean |= {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=clean | environment,
            start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for handle in (self.master, self._slave):
            os.close(handle)

    def _set_size(self, columns: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def resize(self, columns: int) -> None:
        self._set_size(columns)
        self.process.send_signal(signal.SIGWINCH)
        self.screen.resize(columns)

    def until(self, condition: Callable[[str], object], seconds: float = 300.0) -> str:
        """Read until the screen is as wanted, or the process has ended; the screen."""
        end = time.monotonic() + seconds
        while not condition(str(self.screen)):
            ended = self.process.poll() is not None
            if not self._read() and ended:
                break
            assert time.monotonic() < end, f"waited in vain:\n{self.screen}"
        return str(self.screen)

    def finish(self, seconds: float = 300.0) -> tuple[int, str]:
        """(exit code, the screen at the end)."""
        self.until(lambda screen: False, seconds)
        return self.process.wait(), str(self.screen)

    def _read(self) -> bool:
        if not select.select([self.master], [], [], 0.1)[0]:
            return False
        with contextlib.suppress(OSError):
            text = self._decoder.decode(os.read(self.master, 1 << 12))
            for frame in re.split(r"(?=\r)", text):  # a bar is drawn anew from the line's start
                self.screen.write(frame)
                self.seen += [str(self.screen)] if str(self.screen) != self.seen[-1] else []
            return True
        return False
