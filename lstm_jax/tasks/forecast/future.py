"""The future of features that are known ahead, out of a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lstm_jax.errors import UsageError, unknown
from lstm_jax.tasks.forecast import dates, dialect
from lstm_jax.tasks.forecast.series import (
    Series,
    check_future_cells,
    find_date,
    known_names,
    named_columns,
    panel,
    stamps,
)


def read_future(path: Path | str, task: Any, series: Series) -> Series:
    """The series with the future of task.known_future out of a second file.

    A row of it for each step after the end of the series; earlier ones are left out.

    Raises:
      UsageError: file, row, column and what to do.
    """
    path, known = Path(path), known_names(series, task)
    if not known:
        raise UsageError(
            f"{path}: this model knows no feature ahead; train with task.known_future=NAME"
        )
    table = dialect.read_table(path, task)
    for name in known:
        if name not in table.cells.columns:
            raise UsageError(f"{path}: {unknown('column', name, list(table.cells.columns))}")
    date = named_columns(path, table, task.date) or find_date(table, task)
    identity = named_columns(path, table, task.series_id)
    values, _ = dialect.numbers(table, known, task)
    index = stamps(table, date, task)[0] if date else None
    ids = table.cells[identity[0]].to_numpy(object) if identity else np.full(len(values), "")
    later = panel(Series(known, values, index, table.rows, str(path)), ids, table, date)
    check_future_cells(later, 0, len(values), range(len(known)))
    spans = dict(zip(later.ids, later.spans, strict=True))
    parts = []
    for span, group in zip(series.spans, groups(series, bool(identity)), strict=True):
        if group not in spans:
            raise UsageError(f"{path}: no row of series {group!r}; give its future too")
        rows = rows_after(series.part(*span), later, spans[group], "+".join(date))
        part = np.full((len(rows), len(series.names) - 1), np.nan)
        part[:, [series.names.index(name) - 1 for name in known]] = later.values[rows]
        parts.append(part)
    return series._replace(future=tuple(parts))


def groups(series: Series, identified: bool) -> tuple[str, ...]:
    """What task.series_id says of each series; "" where it says nothing."""
    if not identified:
        return ("",) * len(series.ids)
    if not series.targets:
        return series.ids
    count = len(series.ids) // len(series.targets)
    return tuple(name.removesuffix(f" {series.targets[0]}") for name in series.ids[:count]) * len(
        series.targets
    )


def rows_after(one: Series, later: Series, span: tuple[int, int], label: str) -> np.ndarray:
    """The rows of `later` after the end of a series, one for each step.

    Raises:
      UsageError: there is none, or the row that is not the next step.
    """
    rows = np.arange(*span)
    if one.index is None:
        return rows
    if later.index is None:
        raise UsageError(
            f"{later.source}: no column of dates, and {one.source} has one; add it, or name it by "
            "task.date"
        )
    if str(later.index.dtype) != str(one.index.dtype) and zone(later) != zone(one):
        raise UsageError(
            f"{later.source}, column {label}: dates {zone(later)}, but those of {one.source} are "
            f"{zone(one)}; write both alike"
        )
    rows = rows[np.asarray(later.index[rows] > one.index[-1])]
    if not len(rows):
        raise UsageError(
            f"{later.source}, column {label}: no row after {one.moment(len(one.rows) - 1)}, the "
            f"end of {one.source}; give one for each step that follows"
        )
    wanted = dates.after(one.index, one.freq, len(rows))
    wrong = np.flatnonzero(np.asarray(later.index[rows] != wanted))
    if len(wrong) and (one.freq or not isinstance(one.index, pd.DatetimeIndex)):
        row, right = int(rows[wrong[0]]), dates.labels(wanted[wrong[:1]], one.freq)[0]
        raise UsageError(
            f"{later.source}, row {later.rows[row]}, column {label}: {later.moment(row)!r} where "
            f"{right!r} is the next step; give one row for each step after the end of "
            f"{one.source}"
        )
    return rows


def zone(series: Series) -> str:
    """What kind of dates these are."""
    if not isinstance(series.index, pd.DatetimeIndex):
        return "plain numbers"
    return "without an offset from UTC" if series.index.tz is None else "with an offset from UTC"
