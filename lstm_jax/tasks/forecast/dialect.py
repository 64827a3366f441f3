"""How a text file writes its table: encoding, delimiter, header row, decimals, missing markers.

What no option settles is recognised, and said. What could be read in two ways is refused. Rows are
counted as an editor counts them: the first line is row 1.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lstm_jax.errors import UsageError, unknown
from lstm_jax.tasks.forecast import dates

MISSING = frozenset(
    {"", "na", "nan", "n/a", "#n/a", "#na", "null", "none", "nil", "?", "-", "--", ".", "<na>"}
)
DELIMITERS = (",", ";", "\t", "|")
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "white space"}
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
HEAD = 60  # lines that delimiter and header are recognised by
MARKED = r"\d[,.'\s\u00a0]\d"  # more than one number's digits and one point
THREES = r"[+-]?\d{1,3}(?:%s\d{3})+"  # groups of three digits


class Table(NamedTuple):
    """The cells of a file as text, column by column."""

    path: Path
    cells: pd.DataFrame
    rows: np.ndarray  # each line's row in the file
    said: dict[str, str]  # how it is written
    delimiter: str
    missing: frozenset[str]


def read_table(path: Path, task: Any) -> Table:
    """All cells of a file, stripped; columns without a name and a value are left out.

    Raises:
      UsageError: file, row, column and the option that settles it.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give task.csv the path of a CSV file")
    text, encoding = decode(path, task.encoding)
    lines = text.split("\n", HEAD + 1)[:HEAD]
    if not text.strip():
        raise UsageError(f"{path}: empty; expected a header row and one row per time step")
    delimiter = {"\\t": "\t", "tab": "\t"}.get(task.delimiter, task.delimiter)
    delimiter = delimiter or delimiter_of(lines)
    missing = MISSING | {marker.lower() for marker in task.missing_markers}
    skipped = task.skip_rows if task.skip_rows >= 0 else preamble(lines, delimiter, missing)
    header = header_of(path, lines, skipped, delimiter, task.header, missing)
    first = skipped + (task.header != "none")  # lines before the values
    cells = parse(path, text, header, first, delimiter)
    cells, rows, blank = without_blanks(cells, first, task.comment)
    if not len(cells):
        raise UsageError(f"{path}: only a header row; expected one row per time step below it")
    said = {"encoding": encoding, "delimiter": NAMES.get(delimiter, repr(delimiter))}
    said |= {"skipped above the header": f"{skipped} lines"} if skipped else {}
    said |= {"blank lines left out": str(blank)} if blank else {}
    return Table(path, named(path, cells, skipped + 1), rows, said, delimiter, missing)


def decode(path: Path, encoding: str) -> tuple[str, str]:
    """The text of a file, with "\\n" line ends, and its encoding."""
    content = path.read_bytes()
    mark = next((name for mark, name in MARKS.items() if content.startswith(mark)), "")
    for name in (encoding,) if encoding else (mark,) if mark else ("utf-8", "cp1252", "latin-1"):
        try:
            text = content.decode(name)
        except LookupError:
            raise UsageError(f"task.encoding={encoding!r}: Python knows no such encoding") from None
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"), name
    raise UsageError(
        f"{path}: not text in {encoding or mark or 'UTF-8'}; expected a CSV file; "
        "task.encoding names another encoding"
    )


def split(lines: list[str], delimiter: str) -> list[list[str]]:
    """The cells of each line."""
    if delimiter == " ":
        return [line.split() for line in lines]
    read = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        return [[cell.strip() for cell in cells] for cells in read]
    except csv.Error:
        return []


def delimiter_of(lines: list[str]) -> str:
    """The delimiter that gives most lines the same number of cells, and then the most cells."""

    def score(delimiter: str) -> tuple[float, int]:
        widths = Counter(len(cells) for cells in split(lines, delimiter) if any(cells))
        width, count = max(widths.items(), key=lambda item: item[1], default=(0, 0))
        return (count / max(widths.total(), 1) if width > 1 else 0.0, width)

    best = max(DELIMITERS, key=score)
    return best if score(best)[0] > 0 else ","


def is_value(cell: str) -> bool:
    """Whether a cell holds a number or a date."""
    number = re.fullmatch(r"[+-]?[\d.,'\s]*\d[\d.,'\s]*(e[+-]?\d+)?%?", cell, re.IGNORECASE)
    return bool(number) or dates.is_date(cell)


def preamble(lines: list[str], delimiter: str, missing: frozenset[str]) -> int:
    """Lines above the header: the first line of names with two lines of values right below it."""
    table = split(lines, delimiter)
    widths = Counter(len(cells) for cells in table if any(cells))
    width = max(widths, key=lambda w: widths[w], default=1)

    def is_data(i: int) -> bool:
        return i < len(table) and len(table[i]) == width and any(map(is_value, table[i]))

    for i, cells in enumerate(table if width > 1 else []):
        names = len(cells) == width and not any(map(is_value, cells)) and any(cells)
        if names and is_data(i + 1) and (is_data(i + 2) or i + 2 >= len(table)):
            return i
    return next((i for i, line in enumerate(lines) if line.strip()), 0) if width > 1 else 0


def header_of(
    path: Path, lines: list[str], skipped: int, delimiter: str, header: str, missing: frozenset[str]
) -> list[str]:
    """The names of the columns.

    Raises:
      UsageError: the header row holds values, so that its row of the series would be lost.
    """
    if header not in ("auto", "first", "none"):
        raise unknown("task.header", header, ("auto", "first", "none"))
    cells = (split(lines[skipped : skipped + 1], delimiter) or [[]])[0]
    if header == "none":
        return [f"column {k}" for k in range(1, len(cells) + 1)]
    if header == "auto" and cells and all(is_value(c) or c.lower() in missing for c in cells):
        kinds = "dates and numbers" if any(map(dates.is_date, cells)) else "numbers"
        raise UsageError(
            f"{path}, row {skipped + 1}: {kinds} where column names belong; add a header row, or "
            "set task.header=none (no header: the columns are called column 1, ...) or "
            "task.header=first (these are names)"
        )
    return cells


def parse(path: Path, text: str, header: list[str], first: int, delimiter: str) -> pd.DataFrame:
    """The cells below the header, numbered columns, by pandas."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame = pd.read_csv(
                io.StringIO(text),
                sep=r"\s+" if delimiter == " " else delimiter,
                header=None,
                names=range(len(header)),
                skiprows=first,
                dtype=object,
                na_filter=False,
                skip_blank_lines=False,
                skipinitialspace=True,
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=range(len(header)))
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
        raise UsageError(f"{path}{ragged(str(error), first, len(header))}") from None
    if not isinstance(frame.index, pd.RangeIndex):
        cells = len(header) + frame.index.nlevels
        raise UsageError(f"{path}{ragged(f'line {1}, saw {cells}', first, len(header))}")
    frame.columns = pd.Index(header, dtype=object)
    return frame


def ragged(error: str, first: int, width: int) -> str:
    """What pandas says of a row with too many cells, with its row in the file."""
    found = re.search(r"line (\d+), saw (\d+)", error)
    if not found:
        return f": cannot be read as a table ({error.strip()}); task.delimiter names the delimiter"
    line = int(found[1]) + (first if "Expected" not in error else 0)
    return (
        f", row {line}: {found[2]} cells, but the header has {width}; mend the row, quote the "
        "cell that holds a delimiter, or set task.delimiter or task.skip_rows"
    )


def without_blanks(
    cells: pd.DataFrame, first: int, comment: str
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """(the rows that hold something, their rows in the file, how many blank ones lay between).

    In a single column a blank line between others is a missing value.
    """
    rows = np.arange(len(cells)) + first + 1
    keep = np.ones(len(cells), bool)
    if comment and len(cells):
        keep = ~cells.iloc[:, 0].str.startswith(comment).to_numpy(bool)
    full = (cells != "").any(axis=1).to_numpy(bool) & keep
    last = len(full) - int(np.argmax(full[::-1])) if full.any() else 0
    inside = (np.arange(len(cells)) < last) & keep
    chosen = inside if cells.shape[1] == 1 else full
    return cells[chosen], rows[chosen], int((inside & ~chosen).sum())


def named(path: Path, cells: pd.DataFrame, row: int) -> pd.DataFrame:
    """Columns with a name each; those without a name and a value go."""
    names = [str(name) for name in cells.columns]
    empty = [not name and not (cells.iloc[:, k] != "").any() for k, name in enumerate(names)]
    cells = cells.loc[:, ~np.array(empty)]
    names = [name or f"column {k + 1}" for k, name in enumerate(names) if not empty[k]]
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"{path}, row {row}: column {name!r} appears twice; rename one")
    cells.columns = pd.Index(names, dtype=object)
    return cells


# ---------------------------------------------------------------- numbers


def numbers(table: Table, names: tuple[str, ...], task: Any) -> tuple[np.ndarray, dict[str, str]]:
    """The columns `names` [N, D] float64, NaN where missing, and how they are written.

    Raises:
      UsageError: a cell is no number, or all could be two.
    """
    cells = [table.cells[name] for name in names]
    read = [pd.to_numeric(column, errors="coerce") for column in cells]
    decimal, thousands = task.decimal, task.thousands
    if not (decimal or thousands):
        odd = pd.concat([c[values.isna()] for c, values in zip(cells, read, strict=True)])
        decimal, thousands = convention(table, odd[odd.str.contains(MARKED, regex=True)])
    thousands = thousands or {",": ".", ".": ","}.get(task.decimal, "")
    if thousands or decimal not in ("", "."):
        read = [plain(column, decimal or ".", thousands) for column in cells]
    columns = [number(table, *column) for column in zip(names, cells, read, strict=True)]
    said = {"decimal point": decimal or "."} | ({"thousands": thousands} if thousands else {})
    return np.stack(columns, axis=1), said if said != {"decimal point": "."} else {}


def convention(table: Table, texts: pd.Series) -> tuple[str, str]:
    """(decimal point, thousands) of cells that hold more than digits and points."""
    if not len(texts):
        return "", ""
    for mark in ("\u00a0", " ", "'"):
        if texts.str.contains(mark, regex=False).any():
            return ("," if texts.str.contains(",").any() else "."), mark
    both = texts[texts.str.contains(".", regex=False)]
    if len(both):
        last = both.iloc[0]
        return (",", ".") if last.rfind(",") > last.rfind(".") else (".", ",")
    if not texts.str.fullmatch(THREES % ",").all():
        return ",", ""
    if table.delimiter != "," and not (texts.str.count(",") > 1).any():
        raise UsageError(
            f"{table.path}, row {table.rows[0]}: {texts.iloc[0]!r} may be thousands or a decimal "
            "comma; set task.decimal=, or task.thousands=,"
        )
    return ".", ","


@functools.cache
def numeric_markers(missing: frozenset[str]) -> np.ndarray:
    """The markers that are numbers, as -999 may be."""
    texts = pd.Series(sorted(missing), dtype=object)
    return pd.to_numeric(texts, errors="coerce").dropna().to_numpy()


def plain(cells: pd.Series, decimal: str, thousands: str) -> pd.Series:
    """The numbers of cells that are written so; NaN where one is not."""
    written = cells.str.replace(thousands, "", regex=False) if thousands else cells
    written = written.str.replace(decimal, ".", regex=False) if decimal != "." else written
    return pd.to_numeric(written, errors="coerce")


def number(table: Table, name: str, cells: pd.Series, read: pd.Series) -> np.ndarray:
    """One column as float64, NaN where a cell says that it is missing."""
    values = read.to_numpy(np.float64, copy=True)
    marks = numeric_markers(table.missing)
    values[np.isin(values, marks)] = np.nan
    odd = np.flatnonzero(~np.isfinite(values))
    if not len(odd):
        return values
    texts = cells.iloc[odd].str.strip()
    bad = ~texts.str.lower().isin(table.missing).to_numpy(bool)
    bad &= ~np.isin(read.to_numpy()[odd], marks)
    if bad.any():
        row, text = odd[bad][0], texts[bad].iloc[0]
        raise UsageError(
            f"{table.path}, row {table.rows[row]}, column {name}: {text!r} is not a number; mend "
            "it, leave the cell empty if the value is missing or name its marker in "
            "task.missing_markers, or choose other columns with task.target and task.features"
        )
    values[odd] = np.nan
    return values
