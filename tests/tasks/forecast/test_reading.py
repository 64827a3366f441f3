"""Series files as people have them: what is read, what is said of it, what is refused.

Each file holds the same 80 values over time, so what is right is known.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import dates, forecast
from lstm_jax.tasks.forecast.series import followed, read_rows, read_series

DEFAULTS = {option.name: option.default for option in forecast.OPTIONS}
V = [round(20 + 5 * np.sin(i / 3) + i % 7, 2) for i in range(80)]
DAYS = list(pd.date_range("2020-01-01", periods=80))
NEXT_DAYS = ["2020-03-21", "2020-03-22"]


def table(header: str, *columns: Sequence[Any], delimiter: str = ",") -> str:
    rows = [delimiter.join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([header, *rows]) + "\n"


def stamped(freq: str, start: str, written: str, tz: str | None = None) -> list[str]:
    return list(pd.date_range(start, periods=80, freq=freq, tz=tz).strftime(written))


ISO = [f"{day:%Y-%m-%d}" for day in DAYS]
HOURS = stamped("h", "2020-01-01", "%Y-%m-%d %H:%M")
BERLIN = [
    stamp.isoformat(sep=" ")
    for stamp in pd.date_range("2020-10-24 00:00", periods=80, freq="h", tz="UTC").tz_convert(
        "Europe/Berlin"
    )
]
FILES: dict[str, tuple[str | bytes, list[str], str]] = {  # text, the next two stamps, what is said
    "semicolon": (table("date;v", ISO, V, delimiter=";"), NEXT_DAYS, "semicolon"),
    "tab": (table("date\tv", ISO, V, delimiter="\t"), NEXT_DAYS, "tab"),
    "decimal comma": (
        table("date;v", ISO, [str(v).replace(".", ",") for v in V], delimiter=";"),
        NEXT_DAYS,
        "decimal point",
    ),
    "latin-1": (table("date,Tempér", ISO, V).encode("latin-1"), NEXT_DAYS, "cp1252"),
    "utf-16": (table("date,v", ISO, V).encode("utf-16"), NEXT_DAYS, "utf-16"),
    "day first": (table("date,v", [f"{d:%d/%m/%Y}" for d in DAYS], V), NEXT_DAYS, "%d/%m/%Y"),
    "dots": (table("date,v", [f"{d:%d.%m.%Y}" for d in DAYS], V), NEXT_DAYS, "%d.%m.%Y"),
    "newest first": (
        table("Date,Close", [f"{d:%m/%d/%Y}" for d in DAYS[::-1]], V[::-1]),
        NEXT_DAYS,
        "turned round",
    ),
    "YYYYMMDD": (table("date,v", [f"{d:%Y%m%d}" for d in DAYS], V), NEXT_DAYS, "YYYYMMDD"),
    "month names": (
        table("month,v", stamped("MS", "2014-01-01", "%b %Y"), V),
        ["2020-09", "2020-10"],
        "%b %Y",
    ),
    "epoch": (
        table("timestamp,v", [1577836800 + 3600 * i for i in range(80)], V),
        ["2020-01-04 08:00", "2020-01-04 09:00"],
        "s since 1970",
    ),
    "across a change of the clocks": (
        table("time,v", BERLIN, V),
        ["2020-10-27 09:00+01:00", "2020-10-27 10:00+01:00"],
        "hourly",
    ),
    "quarters": (
        table("date,v", stamped("QS", "2000-01-01", "%Y-%m-%d"), V),
        ["2020-01-01", "2020-04-01"],
        "quarters",
    ),
    "month ends": (
        table("date,v", stamped("ME", "2014-01-31", "%Y-%m-%d"), V),
        ["2020-09-30", "2020-10-31"],
        "month ends",
    ),
    "years": (table("year,v", range(1930, 2010), V), ["2010-01-01", "2011-01-01"], "years"),
    "weekdays": (
        table("date,v", stamped("B", "2020-01-01", "%Y-%m-%d"), V),
        ["2020-04-22", "2020-04-23"],
        "weekdays",
    ),
    "date and time": (
        table("Date,Time,v", [h[:10] for h in HOURS], [h[11:] for h in HOURS], V),
        ["2020-01-04 08:00", "2020-01-04 09:00"],
        "Date+Time",
    ),
    "seconds": (
        table("time,v", stamped("s", "2020-01-01", "%Y-%m-%d %H:%M:%S"), V),
        ["2020-01-01 00:01:20", "2020-01-01 00:01:21"],
        "each second",
    ),
    "preamble": (
        "Data Source,World\n\nLast Updated,2020-01-01\n\n" + table("date,v", ISO, V),
        NEXT_DAYS,
        "4 lines",
    ),
    "trailing commas": (
        table("date,v,,", ISO, V, [""] * 80, [""] * 80),
        NEXT_DAYS,
        "daily",
    ),
    "no dates": (table("v", V), ["+1", "+2"], "none found: file order"),
}  # fmt: skip


@pytest.fixture
def read(tmp_path) -> Callable[..., Any]:
    def reads(text: str | bytes, **options: Any) -> Any:
        path = tmp_path / "a.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_series(path, SimpleNamespace(**(DEFAULTS | options)))

    return reads


def coming(series: Any, count: int = 2) -> list[str]:
    return dates.following(series.index, series.freq, count)


@pytest.mark.parametrize("name", FILES)
def test_files_as_people_have_them(read, name):
    text, following, word = FILES[name]
    series = read(text)
    np.testing.assert_array_equal(series.values[:, 0], V)
    assert coming(series) == following
    assert word in str(series.said)


def test_weekdays_go_on_over_the_weekend(read):
    series = read(table("date,v", stamped("B", "2020-01-01", "%Y-%m-%d"), V))
    assert coming(series, 4)[2:] == ["2020-04-24", "2020-04-27"]


def test_thousands_in_quotes(read):
    series = read(table("date,v", ISO, [f'"{1000 * v:,.0f}"' for v in V]))
    np.testing.assert_allclose(series.values[:, 0], np.round(1000 * np.array(V)))


def test_what_may_be_thousands_or_a_decimal_comma_is_refused(read):
    text = table("date;v", ISO, [f"{1000 * v:,.0f}" for v in V], delimiter=";")
    with pytest.raises(UsageError, match=r"row 2.*'20,000'.*set task.decimal=, or task.thousands="):
        read(text)
    assert read(text, decimal=",").values[0, 0] == 20
    assert read(text, thousands=",").values[0, 0] == 20000


def test_days_and_months_that_could_change_places_are_refused(read):
    text = table("date,v", ["01/01/2020", "02/01/2020", "03/01/2020"], [1, 2, 3])
    with pytest.raises(UsageError, match=r"may be day or month first; set task.date_format='%d/%m"):
        read(text)
    assert read(text, date_format="%m/%d/%Y").freq == "MS"
    assert read(text, date_format="%d/%m/%Y").freq == "D"


def test_a_file_without_a_header_loses_no_row(read):
    text = "2019-12-31,19.5\n" + table("2020-01-01,20.0", ISO[1:], V[1:])
    with pytest.raises(UsageError, match=r"row 1: dates and numbers.*task.header=none"):
        read(text)
    series = read(text, header="none")
    assert len(series.values) == 81 and series.names == ("column 2",)


def test_blank_lines_of_a_single_column_are_missing_values(read):
    cells = [*map(str, V[:30]), "", "", *map(str, V[32:])]
    series = read(table("v", cells) + "\n\n")
    assert len(series.values) == 80
    assert np.flatnonzero(np.isnan(series.values[:, 0])).tolist() == [30, 31]
    assert series.rows[30] == 32


@pytest.mark.parametrize("marker", ["-", "#N/A", "n/a", ".", "?"])
def test_markers_of_missing_values(read, marker):
    series = read(table("date,v", ISO, [*V[:29], marker, *V[30:]]))
    assert np.flatnonzero(np.isnan(series.values[:, 0])).tolist() == [29]


def test_a_marker_of_your_own(read):
    text = table("date,v", ISO, [*V[:29], "-999", *V[30:]])
    assert np.nanmin(read(text).values) == -999
    assert np.nanmin(read(text, missing_markers=("-999",)).values) == min(V)


def test_gaps_are_named_and_an_option_says_what_is_done(read):
    keep = [i for i, day in enumerate(DAYS) if day.day not in (5, 6, 7, 20)]
    text = table("date,v", [ISO[i] for i in keep], [V[i] for i in keep])
    with pytest.raises(UsageError, match=r"11 daily \(D\) stamps.*2020-01-05.*task.gaps=asfreq"):
        read(text)
    whole, ignored = read(text, gaps="asfreq"), read(text, gaps="ignore")
    assert np.isnan(whole.values).sum() == 11 and len(ignored.values) == len(keep)
    assert coming(whole) == coming(ignored) == ["2020-03-20", "2020-03-21"]
    assert "11 stamps" in whole.said["gaps"]


def test_repeated_dates(read):
    text = table("date,v", ["2020-01-01", "2020-01-02", "2020-01-02", "2020-01-03"], [1, 2, 4, 5])
    with pytest.raises(UsageError, match=r"row 4.*repeats row 3.*task.duplicates=first or mean"):
        read(text)
    assert read(text, duplicates="first").values[:, 0].tolist() == [1, 2, 5]
    assert read(text, duplicates="mean").values[:, 0].tolist() == [1, 3, 5]


PANEL = table("store,date,v", ["s1"] * 80 + ["s2"] * 80, ISO * 2, [100 + v for v in V] + V)


def test_several_series_are_never_joined(read):
    with pytest.raises(UsageError, match=r"row 82.*repeats row 2.*task.series_id=store"):
        read(PANEL)
    series = read(PANEL, series_id="store")
    assert series.ids == ("s1", "s2") and series.spans == [(0, 80), (80, 160)]
    np.testing.assert_array_equal(series.values[80:, 0], V)


def test_several_targets_are_so_many_series(read):
    series = read(table("date,a,b", ISO, V, V[::-1]), target="a,b")
    assert series.ids == ("a", "b") and series.names == ("value",)
    np.testing.assert_array_equal(series.values[:, 0], V + V[::-1])


WIDE = 'id,V1,V2,V3,V4\n"a",1,2,3,\n"b",5,6,,\n'


def test_a_series_in_each_row_goes_on_in_another_file(read, tmp_path):
    """As M4 gives its series: ragged, and what is to be forecast in a file of its own."""
    options = SimpleNamespace(**DEFAULTS)
    for name, text in (("train", WIDE), ("test", "id,V1\nb,7\na,4\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    series, later = (read_rows(tmp_path / f"{n}.csv", options) for n in ("train", "test"))
    whole = followed(series, later)
    assert whole.values[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert whole.ids == ("a", "b") and whole.spans == [(0, 4), (4, 7)]
    assert whole.moment(6) == "3"
    (tmp_path / "test.csv").write_text("id,V1\nc,7\na,4\n")
    with pytest.raises(UsageError, match="series 'b' is in one of the two files only"):
        followed(series, read_rows(tmp_path / "test.csv", options))


STRANGE = ["Temp (°C), mean", "a/b", "<script>alert(1)</script>", "日本", "$x_1$ % {y}"]


@pytest.mark.parametrize("name", STRANGE)
def test_every_name_can_be_target_or_feature(read, name):
    header = ",".join(["date", *(f'"{n}"' for n in STRANGE), "v"])
    text = table(header, ISO, V, V, V, V, V, V)
    assert read(text, target=name).names == (name,)
    assert read(text, features=f'"{name}",v').names[1:] == (name,)
    assert read(text, features=name, target="v").names == ("v", name)


def test_a_time_zone_for_local_dates(read):
    local = [stamp[:16] for stamp in BERLIN]
    with pytest.raises(UsageError, match="repeats row"):
        read(table("time,v", local, V))
    series = read(table("time,v", local, V), time_zone="Europe/Berlin")
    assert coming(series) == ["2020-10-27 09:00+01:00", "2020-10-27 10:00+01:00"]


def test_year_month_day_hour_in_columns_and_quoted_cells(read):
    text = 'no,year,month,day,hour,"pm 2.5"\n1,2010,1,1,0,"3"\n2,2010,1,1,1, 4\n'
    series = read(text, target="pm 2.5", date="year,month,day,hour")
    assert list(series.index) == [datetime.datetime(2010, 1, 1, hour) for hour in (0, 1)]
    assert series.values[:, 0].tolist() == [3, 4]


def test_comments_and_excel_dates(read):
    text = "# by hand\n" + table("day,v", [43831, 43832, 43833], [1, 2, 3])
    text += "# the end\n"
    series = read(text, comment="#", date="day", date_format="excel")
    assert series.index[0] == pd.Timestamp("2020-01-01") and len(series.values) == 3


def test_labels_say_no_more_than_they_have_to():
    assert dates.labels(pd.DatetimeIndex(["2000-01-01", "2000-01-02"]), "D")[0] == "2000-01-01"
    assert dates.labels(pd.Index([3.0])) == ["3"]
    assert dates.following(pd.Index([1.0, 3.0]), "", 1) == ["5"]
    assert dates.following(None, "", 2) == ["+1", "+2"]
