"""Dates of rows: from text to stamps, their frequency, their gaps, and how they go on."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from lstm_jax.errors import UsageError

DAYS = (
    "%d{0}%m{0}%Y", "%m{0}%d{0}%Y", "%Y{0}%m{0}%d", "%d{0}%m{0}%y", "%m{0}%d{0}%y", "%m{0}%Y",
    "%d{0}%b{0}%Y", "%d{0}%b{0}%y", "%b{0}%Y", "%b{0}%y", "%d{0}%B{0}%Y", "%B{0}%Y",
    "%Y{0}%b", "%Y{0}%b{0}%d",
)  # fmt: skip
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
FORMATS = tuple(
    day.format(mark) + time
    for mark in ("/", "-", ".", " ")
    for day in DAYS
    for time in TIMES
) + ("%b %d, %Y", "%B %d, %Y", "%Y-%m-%d %H", "%Y/%m/%d %H")  # fmt: skip
ISO = r"\d{4}-\d{2}(-\d{2}([T ]\d{2}(:\d{2}(:\d{2}([.,]\d+)?)?)? ?(Z|[+-]\d{2}:?(\d{2})?)?)?)?"
OFFSET = r"\d ?(Z|[+-]\d{2}:?\d{0,2})$"
QUARTER = r"\d{4}[- ]?Q[1-4]"
EPOCHS = {10: "s", 13: "ms", 16: "us", 19: "ns"}  # digits between 2001 and 2286
NAMED = ("date", "time", "timestamp", "datetime", "ds", "epoch", "unix", "year", "month", "day")
SECONDS = ("s", "ms", "us", "ns")
PARTS = ("year", "month", "day", "hour", "minute", "second")
SAMPLE = 100  # cells that a format has to fit before the whole column is tried
RUN = 9  # stamps without a gap that show a frequency; more than a week


def shape(text: str) -> str:
    """Digits, letters and what stands between them: 3 May 2020 and %d %b %Y are alike."""
    digits = re.sub(r"%[^bBp]|\d+", "0", re.sub(r"%[bBp]", "a", text))
    return re.sub(r"[^\W\d_]+", "a", digits)


BY_SHAPE = itertools.groupby(sorted(FORMATS, key=shape), key=shape)
OF_SHAPE = {name: list(formats) for name, formats in BY_SHAPE}


@functools.lru_cache(10_000)
def is_date(cell: str) -> bool:
    """Whether a cell is a date, and no number."""
    if re.fullmatch(ISO, cell) or re.fullmatch(QUARTER, cell):
        return True
    if not re.search(r"\d", cell) or not re.search(r"[/\-. ]", cell.strip()) or len(cell) > 40:
        return False
    if re.fullmatch(r"[+-]?[\d.]+", cell) and cell.count(".") < 2:
        return False
    return bool(fitting(pd.Series([cell], dtype=object)))


def parse(cells: pd.Series, written: str) -> tuple[pd.Index | None, str]:
    """(stamps or numbers, the format that they are written in); (None, "") where they are neither.

    `written` is task.date_format: a strptime format, s, ms, us, ns, excel, or "" to recognise it.

    Raises:
      UsageError: days and months could change places.
    """
    if written:
        return by_format(cells, written), written
    head = cells.iloc[:SAMPLE]
    if head.str.fullmatch(r"-?\d+(\.\d+)?").all():
        return numeric(cells)
    if head.str.fullmatch(ISO).all():
        return iso(cells), "ISO 8601"
    if cells.str.fullmatch(QUARTER).all():
        quarters = cells.str.replace(r"[- ]", "", regex=True)
        return pd.PeriodIndex(quarters, freq="Q").to_timestamp(), "quarters"
    found = {name: by_format(cells, name) for name in fitting(cells)}
    found = {name: index for name, index in found.items() if index is not None}
    if len({tuple(index[:SAMPLE]) for index in found.values()}) > 1:
        ways = " or ".join(f"task.date_format={name!r}" for name in found)
        raise UsageError(f"{cells.iloc[0]!r} may be day or month first; set {ways}")
    return next(((index, name) for name, index in found.items()), (None, ""))


def fitting(cells: pd.Series) -> list[str]:
    """The formats that all of the first cells are written in."""
    head = cells.iloc[:SAMPLE]
    likely = OF_SHAPE.get(shape(head.iloc[0]), ())
    return [name for name in likely if by_format(head, name) is not None]


def by_format(cells: pd.Series, written: str) -> pd.Index | None:
    """Stamps, or None where a cell is written otherwise."""
    try:
        if written == "excel":
            days = pd.to_datetime(pd.to_numeric(cells), unit="D", origin="1899-12-30")
            return pd.DatetimeIndex(days)
        if written in EPOCHS.values():
            return pd.DatetimeIndex(pd.to_datetime(pd.to_numeric(cells), unit=written))
        return pd.DatetimeIndex(pd.to_datetime(cells, format=written))
    except (ValueError, OverflowError, TypeError):
        return None


def iso(cells: pd.Series) -> pd.DatetimeIndex | None:
    """Stamps; of those with an offset from UTC the last one's is kept for all."""
    try:
        offset, first = (re.search(OFFSET, cells.iloc[i][10:]) for i in (-1, 0))
        if bool(offset) != bool(first):
            return None
        index = pd.DatetimeIndex(pd.to_datetime(cells, format="ISO8601", utc=bool(offset)))
        last = pd.Timestamp(cells.iloc[-1].replace(",", "."))
        return index.tz_convert(last.tz) if offset else index
    except (ValueError, OverflowError):
        return None


def numeric(cells: pd.Series) -> tuple[pd.Index | None, str]:
    """Digits: YYYYMMDD, a year, seconds or parts of them since 1970, or just numbers."""
    values = pd.to_numeric(cells, errors="coerce")
    if not np.isfinite(values).all():
        return None, ""
    lengths = set(np.char.str_len(np.abs(values).astype(np.int64).to_numpy().astype(str)))
    if lengths == {8} and (index := by_format(cells, "%Y%m%d")) is not None:
        return index, "YYYYMMDD"
    if lengths == {4} and values.between(1500, 2200).all():
        return pd.DatetimeIndex(pd.to_datetime(cells, format="%Y")), "years"
    if len(lengths) == 1 and (unit := EPOCHS.get(*lengths)):
        return pd.DatetimeIndex(pd.to_datetime(values, unit=unit)), f"{unit} since 1970"
    return pd.Index(values.to_numpy(np.float64)), "numbers"


def of_parts(cells: list[pd.Series]) -> pd.Index | None:
    """Stamps from columns year, month, day, hour, ... of whole numbers."""
    if not all(part.str.fullmatch(r"\d+").all() for part in cells):
        return None
    names = PARTS[: len(cells)]
    frame = {name: part.astype(int) for name, part in zip(names, cells, strict=False)}
    first = {name: 1 for name in PARTS[:3] if name not in frame}
    try:
        return pd.DatetimeIndex(pd.to_datetime(pd.DataFrame(frame).assign(**first)))
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- frequency


def frequency(index: pd.Index) -> str:
    """The offset alias that every stamp lies on, gaps or not; "" where there is none."""
    if not isinstance(index, pd.DatetimeIndex) or len(index) < 3:
        return ""
    if whole := pd.infer_freq(index):
        return whole
    starts = np.unique(np.linspace(0, max(len(index) - RUN, 0), 50).astype(int))
    found = Counter(pd.infer_freq(index[i : i + RUN]) for i in starts)
    common = [name for name, _ in found.most_common() if name]
    return next((name for name in [*common, *plain_step(index)] if lies_on(index, name)), "")


def plain_step(index: pd.DatetimeIndex) -> list[str]:
    """The most common step, where it is that of most stamps."""
    steps, counts = np.unique(np.diff(index.asi8), return_counts=True)
    step = steps[np.argmax(counts)]
    if 2 * counts.max() < len(index) or step <= 0:
        return []
    return [to_offset(pd.Timedelta(int(step), unit=index.unit)).freqstr]


def lies_on(index: pd.DatetimeIndex, name: str) -> bool:
    """Whether the stamps lie on the calendar, and fill at least a third of it."""
    every = pd.date_range(index[0], index[-1], freq=name)
    return len(every) <= 3 * len(index) and bool(index.isin(every).all())


def gaps(index: pd.Index, freq: str) -> pd.Index:
    """The stamps that the calendar has and the file has not."""
    if not freq or len(index) < 2:
        return index[:0]
    return pd.date_range(index[0], index[-1], freq=freq).difference(index)


def after(index: pd.Index, freq: str, count: int) -> pd.Index:
    """The `count` stamps after the last: of the calendar, by the median step, or 1, 2, ..."""
    if freq:
        return pd.date_range(index[-1], periods=count + 1, freq=freq)[1:]
    if len(index) < 2:
        return pd.Index([index[-1]] * count)
    if isinstance(index, pd.DatetimeIndex):
        step = pd.Timedelta(int(np.median(np.diff(index.asi8))), unit=index.unit)
        return pd.DatetimeIndex([index[-1] + step * k for k in range(1, count + 1)])
    return pd.Index(index[-1] + np.median(np.diff(index.to_numpy())) * np.arange(1, count + 1))


def following(index: pd.Index | None, freq: str, count: int) -> list[str]:
    """Labels of the `count` steps after the last stamp; +1, +2, ... where none are known."""
    if index is None or len(index) < 2 or (not freq and isinstance(index, pd.DatetimeIndex)):
        return [f"+{k}" for k in range(1, count + 1)]
    return labels(after(index, freq, count), freq)


# ---------------------------------------------------------------- the calendar as a feature

CYCLES = {  # of task.calendar: what of a stamp, and its period
    "hour": (lambda index: index.hour + index.minute / 60, 24),
    "weekday": (lambda index: index.dayofweek, 7),
    "day": (lambda index: index.day - 1, 31),
    "month": (lambda index: index.month - 1, 12),
    "yearday": (lambda index: index.dayofyear - 1, 365.25),
}


def calendar_names(parts: Any) -> tuple[str, ...]:
    """The columns of task.calendar."""
    return tuple(f"{wave} {part}" for part in parts for wave in ("sin", "cos"))


def calendar(index: pd.Index, names: Any) -> np.ndarray:
    """[N, D] what the columns `names` are at these stamps; NaN for those of no calendar."""
    columns = [_cycle(index, *name.partition(" ")[::2]) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((len(index), 0))


def _cycle(index: pd.Index, wave: str, part: str) -> np.ndarray:
    if wave not in ("sin", "cos") or part not in CYCLES or not isinstance(index, pd.DatetimeIndex):
        return np.full(len(index), np.nan)
    count, period = CYCLES[part]
    angle = 2 * np.pi * np.asarray(count(index)) / period
    return np.sin(angle) if wave == "sin" else np.cos(angle)


def labels(index: Any, freq: str = "") -> list[str]:
    """Stamps as text, without the midnight, the seconds or the day that say nothing."""
    if not isinstance(index, pd.DatetimeIndex):
        return [f"{number:g}" for number in index]
    if freq == "MS":
        return list(index.strftime("%Y-%m"))
    clock = index.hour * 3600 + index.minute * 60 + index.second
    unit = freq.lstrip("0123456789")
    time = " %H:%M" if clock.any() or unit in ("h", "min", *SECONDS) else ""
    time += ":%S" if unit in SECONDS or (clock % 60).any() else ""
    zone = "%z" if index.tz is not None else ""
    texts = index.strftime(f"%Y-%m-%d{time}{zone}")
    return [re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text) for text in texts]


def name_of(freq: str) -> str:
    """The offset in words, where it is a common one."""
    words = {
        "D": "daily", "h": "hourly", "min": "each minute", "s": "each second", "B": "weekdays",
        "MS": "months", "ME": "month ends", "W": "weekly", "Y": "years", "Q": "quarters",
    }  # fmt: skip
    short = freq.split("-")[0]
    short = {"QS": "Q", "QE": "Q", "YS": "Y", "YE": "Y"}.get(short, short)
    return f"{words[short]} ({freq})" if short in words else freq
