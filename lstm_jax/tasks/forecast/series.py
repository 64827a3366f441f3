"""One or many series of numbers over time out of a CSV file, and what was understood of it."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lstm_jax.errors import UsageError, unknown
from lstm_jax.tasks.forecast import dates, dialect
from lstm_jax.tasks.forecast.dialect import Table

LARGEST = 1e36  # of a value, so that its errors can be reported in float32


class Series(NamedTuple):
    """Columns over time, series below series; a missing entry is NaN."""

    names: tuple[str, ...]  # the target first, then the features
    values: np.ndarray  # [N, D] float64
    index: Any  # a pandas Index, of each row: stamps, numbers, or None where rows are only counted
    rows: np.ndarray  # of each entry, in the file; 0 where `task.gaps=asfreq` put it in
    source: str
    ids: tuple[str, ...] = ("",)  # S names of series
    starts: tuple[int, ...] = (0,)  # [S] first row of each
    freq: str = ""  # an offset alias of pandas, "" where none was found
    said: dict[str, str] = {}  # what was understood, for people
    sha256: str = ""
    known: tuple[str, ...] = ()  # features whose future is known
    future: tuple[np.ndarray, ...] = ()  # [S] of [F, D - 1], the features of the rows that follow
    targets: tuple[str, ...] = ()  # where there are several: series of each, target by target
    joint: int = 1  # K of them are said at once: the same rows of K series, N / K apart

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(first row, row after the last) of each series."""
        return list(zip(self.starts, (*self.starts[1:], len(self.values)), strict=True))

    def part(self, start: int, stop: int) -> Series:
        """Some rows as a series of their own."""
        index = None if self.index is None else self.index[start:stop]
        rows = self.rows[start:stop]
        return self._replace(
            values=self.values[start:stop], index=index, rows=rows, starts=(0,), future=(), joint=1
        )

    def moment(self, row: int) -> str:
        """A row as a person names it."""
        if self.index is None:
            return f"row {self.rows[row]}"
        return dates.labels(self.index[[row]], self.freq)[0]


def read_series(path: Path | str, task: Any) -> Series:
    """The target and the features of a CSV file, in order of time.

    Raises:
      UsageError: file, row, column and what to do.
    """
    path = Path(path)
    table = dialect.read_table(path, task)
    date = named_columns(path, table, task.date) or find_date(table, task)
    identity = named_columns(path, table, task.series_id)
    targets, features = roles(path, table, task, (*date, *identity))
    names = (*targets, *(name for name in features if name not in targets))
    values, written = dialect.numbers(table, names, task)
    check_size(table, names, values)
    index, date_said = stamps(table, date, task) if date else (None, "none found: file order")
    ids = table.cells[identity[0]].to_numpy(object) if identity else np.full(len(values), "")
    said = {"file": str(path), **table.said, **written, "dates": date_said}
    series = Series(names, values, index, table.rows, str(path), said=said, sha256=digest(path))
    series = regular(panel(series, ids, table, date), task, table, "+".join(date))
    series = with_future(series, known_names(series, task), len(targets))
    if task.joint and len(targets) < 2:
        raise UsageError(
            f"{path}: task.joint=True joins several targets, and there is one, "
            f"{', '.join(targets)}; name them, as in task.target=a,b, or set task.joint=False"
        )
    return side_by_side(series, len(targets), task.joint) if len(targets) > 1 else series


def read_rows(path: Path | str, task: Any) -> Series:
    """A file with a series in each row: its name, then its values; empty cells end it.

    Raises:
      UsageError: file, row, column and what to do.
    """
    path = Path(path)
    table = dialect.read_table(path, task)
    names = tuple(table.cells.columns[1:])
    values, written = dialect.numbers(table, names, task)
    check_size(table, names, values)
    ids = tuple(table.cells.iloc[:, 0].str.strip())
    sizes = [int(np.max(np.flatnonzero(np.isfinite(row)), initial=-1)) + 1 for row in values]
    for row, size in enumerate(sizes):
        if not size or ids.index(ids[row]) != row:
            what = "has no values" if not size else "appears twice"
            raise UsageError(f"{path}, row {table.rows[row]}: series {ids[row]!r} {what}")
    said = {"file": str(path), **table.said, **written, "series": f"{len(ids)}, one in each row"}
    said |= {"lengths": f"{min(sizes):,} to {max(sizes):,}", "dates": "none: values are counted"}
    return Series(
        names=("value",),
        values=np.concatenate([row[:size] for row, size in zip(values, sizes, strict=True)])[
            :, None
        ],
        index=counted(sizes),
        rows=np.repeat(table.rows, sizes),
        source=str(path),
        ids=ids,
        starts=tuple(np.cumsum([0, *sizes])[:-1].tolist()),
        said=said,
        sha256=digest(path),
    )


def followed(series: Series, later: Series) -> Series:
    """Each series with the values of the same name below its own.

    Raises:
      UsageError: the files hold other series.
    """
    if set(series.ids) != set(later.ids):
        strange = sorted(set(series.ids) ^ set(later.ids))[0]
        raise UsageError(f"{later.source}: series {strange!r} is in one of the two files only")
    places = {name: span for name, span in zip(later.ids, later.spans, strict=True)}
    spans = [(own, places[name]) for name, own in zip(series.ids, series.spans, strict=True)]

    def joined(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [part for (a, b), (c, d) in spans for part in (ours[a:b], theirs[c:d])]
        )

    sizes = [b - a + d - c for (a, b), (c, d) in spans]
    return series._replace(
        values=joined(series.values, later.values),
        index=counted(sizes),
        rows=joined(series.rows, later.rows),
        starts=tuple(np.cumsum([0, *sizes])[:-1].tolist()),
        said=series.said | {"followed by": later.source},
        sha256=f"{series.sha256} {later.sha256}",
    )


def counted(sizes: list[int]) -> pd.Index:
    """1, 2, ... of each series."""
    return pd.Index(np.concatenate([np.arange(1.0, size + 1) for size in sizes]))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- columns


def named_columns(path: Path, table: Table, text: str) -> tuple[str, ...]:
    """The columns that an option names: one whole name, or several as a line of CSV.

    Raises:
      UsageError: there is no such column.
    """
    known = list(table.cells.columns)
    if text.strip() in known:
        return (text.strip(),)
    lines = list(csv.reader([text], skipinitialspace=True)) if text.strip() else [[]]
    names = tuple(name.strip() for name in lines[0] if name.strip())
    for name in names:
        if name not in known:
            raise UsageError(f"{path}: {unknown('column', name, known)}")
    return names


def roles(
    path: Path, table: Table, task: Any, taken: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(targets, features): the target is the last column that is nothing else."""
    free = [name for name in table.cells.columns if name not in taken]
    targets = named_columns(path, table, task.target) or tuple(free[-1:])
    if not targets:
        raise UsageError(f"{path}: no column is left to forecast beside {', '.join(taken)}")
    return targets, named_columns(path, table, task.features)


def find_date(table: Table, task: Any) -> tuple[str, ...]:
    """The column of dates: the first one that holds nothing else, and a time of day beside it."""
    asked = {name.strip() for name in (task.target, *task.target.split(","))}
    names = [name for name in table.cells.columns if name not in asked]
    for k, name in enumerate(names if table.cells.shape[1] > 1 else []):
        head = table.cells[name].iloc[: dates.SAMPLE].str.strip()
        first = k == 0 or name.lower() in dates.NAMED
        dated = head.map(dates.is_date)  # one that is none among them is refused later
        if (dated.iloc[0] and dated.mean() >= 0.5) or (first and stamped(head, name, task)):
            clocks = [n for n in names if n != name and is_clock(table.cells[n].iloc[: len(head)])]
            return (name, *(clocks[:1] if head.str.len().max() <= 11 else ()))
    return ()


def stamped(head: pd.Series, name: str, task: Any) -> bool:
    """Whether digits are dates: YYYYMMDD, an epoch, or years where the column says so."""
    if task.date_format:
        return dates.by_format(head, task.date_format) is not None
    if not head.str.fullmatch(r"\d+(\.\d+)?").all():
        return False
    kind = dates.numeric(head)[1]
    return kind != "numbers" and (kind != "years" or "year" in name.lower())


def is_clock(cells: pd.Series) -> bool:
    return bool(cells.str.fullmatch(r"\s*\d{1,2}:\d{2}(:\d{2})?\s*([AaPp][Mm])?\s*").all())


def check_size(table: Table, names: Sequence[str], values: np.ndarray) -> None:
    large = np.argwhere(np.abs(np.nan_to_num(values)) > LARGEST)
    if len(large):
        row, column = large[0]
        raise UsageError(
            f"{table.path}, row {table.rows[row]}, column {names[column]}: "
            f"{values[row, column]:g} is beyond {LARGEST:g}, where errors overflow; divide the "
            "column by a power of ten"
        )


def stamps(table: Table, columns: Sequence[str], task: Any) -> tuple[pd.Index, str]:
    """The stamps of all rows, and how they are written.

    Raises:
      UsageError: the row and the cell that is no date.
    """
    parts = [table.cells[name] for name in columns]
    label = "+".join(columns)
    whole = dates.of_parts(parts) if len(parts) > 1 and not task.date_format else None
    if whole is not None:
        return whole, f"{label}, as numbers"
    cells = parts[0]
    for part in parts[1:]:
        cells = cells + " " + part
    index, written = dates.parse(cells, task.date_format)
    if index is None:
        cells = cells.str.strip()
        index, written = dates.parse(cells, task.date_format)
    if index is None:
        raise bad_date(table, cells, label, task)
    if task.time_zone and isinstance(index, pd.DatetimeIndex):
        index = localized(table, index, label, task.time_zone)
    zone = f", {index.tz}" if isinstance(index, pd.DatetimeIndex) and index.tz else ""
    return index, f"{label}, {written}{zone}"


def bad_date(table: Table, cells: pd.Series, label: str, task: Any) -> UsageError:
    """The first cell that is no date, or is written unlike those above it."""
    bad = len(cells) - 1
    low, high = 0, len(cells)
    while low < high:  # the shortest beginning that cannot be read
        middle = (low + high) // 2
        found = dates.parse(cells.iloc[: middle + 1], task.date_format)[0]
        low, high = (middle + 1, high) if found is not None else (low, middle)
        bad = min(low, len(cells) - 1)
    alone = dates.parse(cells.iloc[[bad]], task.date_format)[0] is not None
    why = "is written unlike the dates above it" if alone and bad else "is no date that is known"
    return UsageError(
        f"{table.path}, row {table.rows[bad]}, column {label}: {cells.iloc[bad]!r} {why}; mend "
        "it, or name how all are written, as in task.date_format=%d.%m.%Y (also: s, ms, us, ns "
        "since 1970, excel)"
    )


def localized(table: Table, index: pd.DatetimeIndex, label: str, zone: str) -> pd.DatetimeIndex:
    try:
        return (
            index.tz_localize(zone, ambiguous="infer")
            if index.tz is None
            else index.tz_convert(zone)
        )
    except Exception as error:  # pytz, zoneinfo and pandas each have their own
        raise UsageError(
            f"{table.path}, column {label}: task.time_zone={zone!r} does not fit: {error}"
        ) from None


# ---------------------------------------------------------------- order, duplicates, gaps


def panel(series: Series, ids: np.ndarray, table: Table, date: Sequence[str]) -> Series:
    """Series below series, each in order of time; newest first is turned round, and said.

    Raises:
      UsageError: the dates of one series go back and forth.
    """
    names = tuple(dict.fromkeys(ids))
    groups, turned = [np.flatnonzero(ids == name) for name in names], False
    if len(names) > 1:
        codes = pd.Categorical(ids, categories=names).codes
        order = np.argsort(codes, kind="stable")
        groups = np.split(order, np.searchsorted(codes[order], np.arange(1, len(names))))
    if series.index is not None:
        backwards = [falls(series.index[group]) for group in groups]
        groups = [g[::-1] if back else g for g, back in zip(groups, backwards, strict=True)]
        turned = any(backwards)
    starts = tuple(np.cumsum([0, *map(len, groups)])[:-1].tolist())
    order = np.concatenate(groups)
    index = None if series.index is None else series.index[order]
    said = series.said | ({"order": "newest row first; turned round"} if turned else {})
    said |= {"series": str(len(names))} if len(names) > 1 else {}
    return series._replace(
        values=series.values[order], index=index, rows=series.rows[order],
        ids=names, starts=starts, said=said,
    )  # fmt: skip


def falls(index: pd.Index) -> bool:
    return len(index) > 1 and index.is_monotonic_decreasing and not index.is_monotonic_increasing


def regular(series: Series, task: Any, table: Table, label: str) -> Series:
    """One row per step: duplicates and gaps dealt with as the options say.

    Raises:
      UsageError: what is wrong, where, and the options that settle it.
    """
    if series.index is None:
        return series._replace(said=series.said | {"rows": f"{len(series.values):,}"})
    parts = [
        without_gaps(unique(series.part(*span), task, table, label), task, label)
        for span in series.spans
    ]
    freqs = {part.freq for part in parts}
    index = parts[0].index
    for part in parts[1:]:
        index = index.append(part.index)
    told = parts[0].said if len(parts) == 1 else {"frequency": ", ".join(map(dates.name_of, freqs))}
    first, last = dates.labels(pd.Index([index.min(), index.max()]), parts[0].freq)
    said = series.said | {"rows": f"{len(index):,}", "from": first, "to": last} | told
    return series._replace(
        values=np.concatenate([part.values for part in parts]),
        index=index,
        rows=np.concatenate([part.rows for part in parts]),
        starts=tuple(np.cumsum([0, *(len(part.values) for part in parts)])[:-1].tolist()),
        freq=freqs.pop() if len(freqs) == 1 else "",
        said=said,
    )


def unique(part: Series, task: Any, table: Table, label: str) -> Series:
    """One row for each stamp, the stamps rising."""
    twice = part.index.duplicated()
    if twice.any() and task.duplicates == "error":
        raise repeated(part, int(np.argmax(twice)), table, label, task)
    steps = np.diff(part.index.asi8 if isinstance(part.index, pd.DatetimeIndex) else part.index)
    if (steps < 0).any():
        row = int(np.argmax(steps < 0)) + 1
        raise UsageError(
            f"{part.source}, row {part.rows[row]}, column {label}: {part.moment(row)!r} comes "
            f"before the row above it; sort the file by date{which_series(table, task)}"
        )
    if not twice.any():
        return part
    frame = pd.DataFrame(part.values, index=part.index).groupby(level=0, sort=True)
    values = (frame.mean() if task.duplicates == "mean" else frame.head(1)).to_numpy()
    said = {"duplicates": f"{twice.sum()} stamps repeat: {task.duplicates} taken"}
    return part._replace(values=values, index=part.index[~twice], rows=part.rows[~twice], said=said)


def repeated(part: Series, row: int, table: Table, label: str, task: Any) -> UsageError:
    earlier = int(np.argmax(part.index == part.index[row]))
    return UsageError(
        f"{part.source}, row {part.rows[row]}, column {label}: {part.moment(row)!r} repeats row "
        f"{part.rows[earlier]}; keep one row per time step, or set task.duplicates=first or "
        f"mean{which_series(table, task)}"
    )


def which_series(table: Table, task: Any) -> str:
    """The column of words that may name the series."""
    if task.series_id:
        return ""
    words = [
        name
        for name in table.cells.columns
        if 1 < table.cells[name].nunique() <= len(table.cells) // 2
        and not table.cells[name].map(dialect.is_value).any()
    ]
    return f"; where these are several series, set task.series_id={words[0]}" if words else ""


def without_gaps(part: Series, task: Any, label: str) -> Series:
    """Every stamp of the calendar that the stamps lie on, or the rows as they are."""
    if not isinstance(part.index, pd.DatetimeIndex):
        return part._replace(said=part.said | {"frequency": "numbers"})
    freq = dates.frequency(part.index)
    lacking = dates.gaps(part.index, freq)
    if not freq and len(part.index) > 2 and task.gaps != "ignore":
        raise UsageError(
            f"{part.source}, column {label}: the steps between dates are irregular (around "
            f"{part.index[1] - part.index[0]} at first); resample the file, or set "
            "task.gaps=ignore to take the rows as equally far apart"
        )
    said = part.said | {"frequency": dates.name_of(freq) or "irregular: rows are counted"}
    if not len(lacking):
        return part._replace(freq=freq, said=said)
    shown = ", ".join(dates.labels(lacking[:4], freq)) + (", ..." if len(lacking) > 4 else "")
    if task.gaps == "error":
        raise UsageError(
            f"{part.source}, column {label}: {len(lacking)} {dates.name_of(freq)} stamps are not "
            f"there: {shown}; set task.gaps=asfreq (they become missing values, see task.missing) "
            "or task.gaps=ignore (rows count as equally far apart)"
        )
    said |= {"gaps": f"{len(lacking)} stamps not there ({shown}): {task.gaps}"}
    part = part._replace(freq=freq, said=said)
    return filled_in(part) if task.gaps == "asfreq" else part


def filled_in(part: Series) -> Series:
    """The whole calendar, NaN where the file has no row."""
    whole = pd.date_range(part.index[0], part.index[-1], freq=part.freq)
    where = part.index.get_indexer(whole)
    values = np.where((where >= 0)[:, None], part.values[where], np.nan)
    return part._replace(values=values, index=whole, rows=np.where(where >= 0, part.rows[where], 0))


def side_by_side(series: Series, count: int, joint: bool) -> Series:
    """Several target columns as so many series of one target; all have the features."""
    columns = [[k, *range(count, series.values.shape[1])] for k in range(count)]
    ids = tuple(
        f"{one}{' ' if one else ''}{series.names[k]}" for k in range(count) for one in series.ids
    )
    size = len(series.values)
    index = None if series.index is None else series.index.append([series.index] * (count - 1))
    return series._replace(
        names=("value", *series.names[count:]),
        values=np.concatenate([series.values[:, c] for c in columns]),
        index=index,
        rows=np.tile(series.rows, count),
        ids=ids,
        starts=tuple(start + k * size for k in range(count) for start in series.starts),
        said=series.said | {"series": f"{len(ids)}, one for each target{', jointly' * joint}"},
        future=series.future * count,
        targets=series.names[:count],
        joint=count if joint else 1,
    )


def before(series: Series, date: str) -> Series:
    """The rows before a date.

    Raises:
      UsageError: there are no dates, or this is none.
    """
    if not isinstance(series.index, pd.DatetimeIndex):
        raise UsageError(f"{series.source}: task.until={date!r} needs a date column")
    try:
        moment = pd.Timestamp(date).tz_localize(series.index.tz)
    except (ValueError, TypeError):
        raise UsageError(f"task.until={date!r} is no date; expected YYYY-MM-DD") from None
    keep = np.asarray(series.index < moment)
    sizes = [int(keep[start:stop].sum()) for start, stop in series.spans]
    return series._replace(
        values=series.values[keep],
        index=series.index[keep],
        rows=series.rows[keep],
        starts=tuple(np.cumsum([0, *sizes])[:-1].tolist()),
        said=series.said | {"left out": f"{int((~keep).sum()):,} rows from {date} on"},
        future=() if (~keep).any() else series.future,
    )


def with_calendar(series: Series, task: Any) -> Series:
    """The series with the inputs that are known ahead: the calendar, and task.known_future."""
    known = known_names(series, task)
    for part in task.calendar:
        if part not in dates.CYCLES:
            raise unknown("task.calendar", part, dates.CYCLES)
    names = dates.calendar_names(task.calendar)
    if names and not isinstance(series.index, pd.DatetimeIndex):
        raise UsageError(f"{series.source}: task.calendar={task.calendar} needs a date column")
    columns = dates.calendar(series.index, names) if names else series.values[:, :0]
    values = np.concatenate([series.values, columns], axis=1)
    future = tuple(
        np.pad(f, ((0, 0), (0, len(names))), constant_values=np.nan) for f in series.future
    )
    return series._replace(
        names=series.names + names, values=values, known=(*known, *names), future=future
    )


# ---------------------------------------------------------------- the future of features


def known_names(series: Series, task: Any) -> tuple[str, ...]:
    """The features of task.known_future.

    Raises:
      UsageError: one is no feature.
    """
    line = next(csv.reader([task.known_future], skipinitialspace=True), [])
    known = tuple(name.strip() for name in line if name.strip())
    for name in known:
        if name not in series.names[1:]:
            raise UsageError(f"{series.source}: {unknown('feature', name, series.names[1:])}")
    return known


def with_future(series: Series, known: tuple[str, ...], targets: int) -> Series:
    """The rows at the end without a target, where `known` features stand in them, as the future.

    Raises:
      UsageError: the row and column of a known feature that has no value there.
    """
    if not known:
        return series
    columns = [series.names.index(name) for name in known]
    seen = np.isfinite(series.values)
    parts, kept = [], np.ones(len(seen), bool)
    for start, stop in series.spans:
        full = np.flatnonzero(seen[start:stop, :targets].any(axis=1))
        end = start + int(full[-1]) + 1 if len(full) else stop
        end = end if seen[end:stop, columns].any() else stop
        check_future_cells(series, end, stop, columns)
        kept[end:stop] = False
        parts.append(of_known(series.values[end:stop, targets:], series.names[targets:], known))
    if kept.all():
        return series
    sizes = [int(kept[start:stop].sum()) for start, stop in series.spans]
    index, shortest = None if series.index is None else series.index[kept], min(map(len, parts))
    said = {"rows": f"{sum(sizes):,}", "future": f"{shortest:,} rows without a target"}
    if index is not None and series.index is not None:
        said |= {"to": dates.labels(pd.Index([index.max()]), series.freq)[0]}
        said["future"] += f", to {dates.labels(pd.Index([series.index.max()]), series.freq)[0]}"
    return series._replace(
        values=series.values[kept],
        index=index,
        rows=series.rows[kept],
        starts=tuple(np.cumsum([0, *sizes])[:-1].tolist()),
        said=series.said | said,
        future=tuple(parts),
    )


def of_known(values: np.ndarray, names: Sequence[str], known: tuple[str, ...]) -> np.ndarray:
    """Features [F, D - 1], NaN in those whose future is not known."""
    return np.where([name in known for name in names], values, np.nan)


def check_future_cells(series: Series, start: int, stop: int, columns: Sequence[int]) -> None:
    lacking = np.argwhere(~np.isfinite(series.values[start:stop, list(columns)]))
    if len(lacking):
        row, column = start + lacking[0][0], columns[lacking[0][1]]
        raise UsageError(
            f"{series.source}, row {series.rows[row] or series.moment(row)}, column "
            f"{series.names[column]}: no value in a row of the future; task.known_future needs one "
            "in every row after the last target"
        )


# ---------------------------------------------------------------- checks


def check_missing(series: Series) -> None:
    """UsageError for the first missing value of each column, by row and column."""
    found = []
    for j, name in enumerate(series.names):
        gaps = np.flatnonzero(np.isnan(series.values[:, j]))
        if len(gaps):
            rows = ", ".join(str(series.rows[i] or series.moment(i)) for i in gaps[:5])
            more = ", ..." if len(gaps) > 5 else ""
            found.append(f"column {name}: {len(gaps)} missing (row {rows}{more})")
    if found:
        raise UsageError(
            f"{series.source}: missing values: {'; '.join(found)}; fill them in, or choose "
            f"task.missing=zero, forward, linear or mask{at_the_end(series)}"
        )


def at_the_end(series: Series) -> str:
    """What rows at the end may be that have all but the target."""
    bare = np.isnan(series.values[-1, 0]) and np.isfinite(series.values[-1, 1:]).any()
    return (
        "; rows at the end without a target are the future of features that task.known_future names"
        if bare
        else ""
    )


def check_varied(series: Series, train: Sequence[tuple[int, int]]) -> None:
    """UsageError for a column with one value or none in training rows: nothing can be learned."""
    inside = np.concatenate([np.arange(*span) for span in train])
    for j, name in enumerate(series.names):
        column = series.values[inside, j]
        seen = column[~np.isnan(column)]
        if len(seen) == 0:
            raise UsageError(f"{series.source}, column {name}: every value is missing")
        if np.all(seen == seen[0]):
            raise UsageError(
                f"{series.source}, column {name}: constant ({seen[0]:g} in every training row, "
                f"rows {series.rows[inside[0]]} to {series.rows[inside[-1]]}); leave it out of the "
                "features, or choose another target"
            )
