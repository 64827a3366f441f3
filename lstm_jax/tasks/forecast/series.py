"""Read a table of numbers over time from a CSV file, and refuse what cannot be one.

Rows are counted as an editor counts them: the header is row 1.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.errors import UsageError, unknown

MISSING = {"", "na", "nan", "n/a", "null", "none", "?"}


class Series(NamedTuple):
    """Columns over time; a missing entry is NaN."""

    names: tuple[str, ...]  # the target first, then the features
    values: np.ndarray  # [N, D] float64
    dates: tuple  # datetimes, numbers, or () where rows are only counted
    rows: tuple[int, ...]  # each entry's row in the file
    source: str


def read_series(
    path: Path | str, target: str = "", features: Sequence[str] = (), date: Sequence[str] = ()
) -> Series:
    """The target and features of a CSV file, in row order.

    target defaults to the last column. date names one column of ISO dates or numbers, or several
    of year, month, day, ...; without it a first column that begins with an ISO date is the date.
    Raises UsageError with file, row, column and what to do.
    """
    path = Path(path)
    header, records = _read_rows(path)
    target = target or header[-1]
    names = (target, *(name for name in features if name != target))
    for name in (*names, *date):
        if name not in header:
            raise UsageError(f"{path}: {unknown('column', name, header)}")
    date = tuple(date) or _find_date(header, records, names)
    values = [
        [_number(path, row, n, cells[header.index(n)]) for n in names] for row, cells in records
    ]
    dates = _read_dates(path, header, records, date) if date else ()
    rows = tuple(row for row, _ in records)
    return Series(names, np.array(values, np.float64), dates, rows, str(path))


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the non-empty records with their row numbers."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give task.csv the path of a CSV file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            lines = [
                (reader.line_num, [c.strip() for c in cells]) for cells in reader if any(cells)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a text file in UTF-8 with commas ({error})") from None
    if not lines:
        raise UsageError(f"{path}: empty; expected a header row and one row per time step")
    header, records = lines[0][1], lines[1:]
    if not records:
        raise UsageError(f"{path}: only a header row; expected one row per time step below it")
    _check_header(path, header)
    for row, cells in records:
        if len(cells) != len(header):
            raise UsageError(
                f"{path}, row {row}: {len(cells)} cells, but the header has {len(header)}; "
                "mend the row or quote the cell that holds a comma"
            )
    return header, records


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"{path}, row 1: column {name!r} appears twice; rename one")
    if all(_parses(float, name) for name in header):
        raise UsageError(f"{path}, row 1: numbers where column names belong; add a header row")


def _parses(parse, text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _number(path: Path, row: int, column: str, text: str) -> float:
    if text.lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(
            f"{path}, row {row}, column {column}: {text!r} is not a number; mend it, "
            "leave the cell empty if the value is missing, or choose other columns with "
            "task.target and task.features"
        )
    return value


def _iso(text: str) -> datetime.datetime:
    """An ISO date with optional time; a bare year and month stand for its first day."""
    return datetime.datetime.fromisoformat(text + "-01" if len(text) == 7 else text)


def _find_date(header: list[str], records: list, names: Sequence[str]) -> tuple[str, ...]:
    first = header[0]
    is_date = first not in names and _parses(_iso, records[0][1][0])
    return (first,) if is_date else ()


def _read_dates(path: Path, header: list[str], records: list, columns: Sequence[str]) -> tuple:
    """Strictly increasing dates, or UsageError naming the row that breaks the order."""
    where = [header.index(column) for column in columns]
    label = "+".join(columns)
    dates, seen = [], {}
    for row, cells in records:
        text = " ".join(cells[i] for i in where)
        date = _date(path, row, label, [cells[i] for i in where])
        if date in seen:
            raise UsageError(
                f"{path}, row {row}, column {label}: {text!r} repeats row {seen[date]}; "
                "keep one row per time step"
            )
        if dates and type(date) is not type(dates[-1]):
            raise UsageError(
                f"{path}, row {row}, column {label}: {text!r} is written unlike the dates above it"
            )
        if dates and date < dates[-1]:
            raise UsageError(
                f"{path}, row {row}, column {label}: {text!r} comes before the row above it; "
                "sort the file by date"
            )
        seen[date] = row
        dates.append(date)
    return tuple(dates)


def _date(path: Path, row: int, label: str, cells: list[str]) -> datetime.datetime | float:
    try:
        if len(cells) > 1:
            numbers = [int(cell) for cell in cells]
            return datetime.datetime(*(numbers + [1] * (3 - len(numbers))))  # type: ignore[arg-type]
        number = _parses(float, cells[0])
        return float(cells[0]) if number else _iso(cells[0]).replace(tzinfo=None)
    except (ValueError, TypeError):
        raise UsageError(
            f"{path}, row {row}, column {label}: {' '.join(cells)!r} is no date; expected "
            "YYYY-MM, YYYY-MM-DD, YYYY-MM-DD HH:MM, a number, or columns year,month,day,hour"
        ) from None


def check_missing(series: Series) -> None:
    """UsageError for the first missing value of each column, by row and column."""
    found = []
    for j, name in enumerate(series.names):
        gaps = np.flatnonzero(np.isnan(series.values[:, j]))
        if len(gaps):
            rows = ", ".join(str(series.rows[i]) for i in gaps[:5])
            more = ", ..." if len(gaps) > 5 else ""
            found.append(f"column {name}: {len(gaps)} missing (row {rows}{more})")
    if found:
        raise UsageError(
            f"{series.source}: missing values: {'; '.join(found)}; fill them in, or choose "
            "task.missing=zero, forward, linear or mask"
        )


def check_varied(series: Series) -> None:
    """UsageError for a column with one value or none: it cannot be scaled and predicts nothing."""
    for j, name in enumerate(series.names):
        seen = series.values[:, j][~np.isnan(series.values[:, j])]
        if len(seen) == 0:
            raise UsageError(f"{series.source}, column {name}: every value is missing")
        if np.all(seen == seen[0]):
            raise UsageError(
                f"{series.source}, column {name}: constant ({seen[0]:g} in every training row, "
                f"rows {series.rows[0]} to {series.rows[-1]}); leave it out of the "
                "features, or choose another target"
            )


def following(dates: Sequence, count: int) -> list[str]:
    """Labels of the `count` steps after the last date: months, a constant step, or +1, +2, ..."""
    if len(dates) < 2:
        return [f"+{k}" for k in range(1, count + 1)]
    last = dates[-1]
    if monthly(dates):
        months = [last.year * 12 + last.month - 1 + k for k in range(1, count + 1)]
        return [f"{m // 12:04d}-{m % 12 + 1:02d}" for m in months]
    gaps = sorted(b - a for a, b in itertools.pairwise(dates))
    return labels([last + k * gaps[len(gaps) // 2] for k in range(1, count + 1)])


def monthly(dates: Sequence) -> bool:
    """Whether the dates are first days of months that follow each other."""
    if not isinstance(dates[0], datetime.datetime) or {date.day for date in dates} != {1}:
        return False
    return all(28 <= (b - a).days <= 31 for a, b in itertools.pairwise(dates))


def labels(dates: Sequence) -> list[str]:
    """Dates as text, without the midnight or the first of the month that says nothing."""
    if not isinstance(dates[0], datetime.datetime):
        return [f"{date:g}" for date in dates]
    if len(dates) > 1 and monthly(dates):
        return [date.strftime("%Y-%m") for date in dates]
    midnight = all(date.hour == date.minute == date.second == 0 for date in dates)
    return [date.strftime("%Y-%m-%d" if midnight else "%Y-%m-%d %H:%M") for date in dates]
