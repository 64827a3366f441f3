"""What is known of the future: features told ahead, decoders that are fed it, joint targets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import forecast, frame, series

N, AHEAD = 60, 9
V = 20 + 5 * np.sin(np.arange(N) / 3)
HOLIDAY = (np.arange(N + AHEAD) * 7 % 5).astype(float)
DAYS = np.datetime64("2020-01-01") + np.arange(N + AHEAD)
KNOWN = {"target": "v", "features": "holiday", "known_future": "holiday"}
PLAIN = {"log": False, "difference": False, "scaling": "none", "period": 7, "look_back": 4}


def config_of(**fields) -> ConfigDict:
    config = ConfigDict({"task": default_config("forecast").task, "train": {"batch_size": 8}})
    config.task.update({**PLAIN, **fields})
    return config


def lines(start: int, stop: int, ids: str = "") -> list[str]:
    """date,v,holiday; no v after the end."""
    values = [f"{v!r}" for v in V.tolist()] + [""] * AHEAD
    return [f"{ids}{DAYS[i]},{values[i]},{HOLIDAY[i]:g}" for i in range(start, stop)]


def write(path, header: str, rows: list[str]) -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def says_holiday(batch, carry=None):
    """At every step the holiday that it is shown there."""
    return batch["inputs"][..., 1:2], carry


def says_last_holiday(batch, carry=None):
    return batch["inputs"][-1][:, 1:2], carry


def predicted(task: Any, out, column: int = 2, **options) -> np.ndarray:
    paths = task.predict(says_holiday, out, SimpleNamespace(**{"horizon": 0, "csv": ""} | options))
    return np.genfromtxt(paths[0], delimiter=",", skip_header=1, usecols=(column,))


# ---------------------------------------------------------------- known future features


def test_rows_without_a_target_are_the_future_of_what_is_known_ahead(tmp_path):
    path = write(tmp_path / "a.csv", "date,v,holiday", lines(0, N + AHEAD))
    task = forecast.build(config_of(csv=path, strategy="sequence", horizon=4, **KNOWN))
    assert "9 rows without a target, to 2020-03-09" in task.understood
    assert task.source["splits"]["test"][1] == "2020-02-29"
    found = predicted(task, tmp_path)  # as far as it is known
    np.testing.assert_allclose(found, HOLIDAY[N:])


def test_the_future_out_of_a_second_file(tmp_path):
    path = write(tmp_path / "a.csv", "date,v,holiday", lines(0, N))
    future = [line.replace(",,", ",") for line in lines(N, N + AHEAD)]
    overlapping = [f"{DAYS[N - 1]},3", *future[:7]]  # what is past is left out
    other = write(tmp_path / "b.csv", "date,holiday", overlapping)
    task = forecast.build(config_of(csv=path, strategy="sequence", horizon=4, **KNOWN))
    np.testing.assert_allclose(predicted(task, tmp_path, future=other), HOLIDAY[N:][:7])
    np.testing.assert_allclose(predicted(task, tmp_path, future=other, horizon=6), HOLIDAY[N:][:6])
    words = r"9 steps need holiday in 9 rows after 2020-02-29, and it is known in 7.*ask for 7"
    with pytest.raises(UsageError, match=words):
        predicted(task, tmp_path, future=other, horizon=9)
    with pytest.raises(UsageError, match=r"4 steps need holiday.*known in 0.*--future=FILE$"):
        predicted(task, tmp_path)


BAD = {
    "gap": ("date,holiday", ["2020-03-01,1", "2020-03-03,1"], r"row 3, column date: '2020-03-03'"),
    "late": ("date,holiday", ["2020-03-02,1"], r"row 2.*where '2020-03-01' is the next step"),
    "past": ("date,holiday", ["2020-02-02,1"], r"no row after 2020-02-29, the end of"),
    "empty": ("date,holiday", ["2020-03-01,1", "2020-03-02,"], r"row 3, column holiday: no value"),
    "column": ("date,holidays", ["2020-03-01,1"], r"unknown column 'holiday'.*'holidays'"),
    "no dates": ("w,holiday", ["a,1", "b,2"], r"no column of dates, and .*a.csv has one"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_future_that_does_not_follow_is_refused(tmp_path, name):
    header, rows, words = BAD[name]
    path = write(tmp_path / "a.csv", "date,v,holiday", lines(0, N))
    options = config_of(csv=path, strategy="sequence", horizon=2, **KNOWN).task
    other = write(tmp_path / "b.csv", header, rows)
    with pytest.raises(UsageError, match=words) as error:
        series.read_future(other, options, forecast.load(options))
    assert other in str(error.value)


def test_a_future_with_a_hole_is_refused_and_one_without_the_option_explained(tmp_path):
    rows = lines(0, N + AHEAD)
    rows[N + 2] = f"{DAYS[N + 2]},,"
    path = write(tmp_path / "a.csv", "date,v,holiday", rows)
    with pytest.raises(UsageError, match=r"a.csv, row 64, column holiday: no value in a row of th"):
        forecast.load(config_of(csv=path, **KNOWN).task)
    path = write(tmp_path / "a.csv", "date,v,holiday", lines(0, N + AHEAD))
    with pytest.raises(UsageError, match=r"9 missing.*are the future of features that task.known"):
        forecast.load(config_of(csv=path, **{**KNOWN, "known_future": ""}).task)
    with pytest.raises(UsageError, match=r"knows no feature ahead; train with task.known_future="):
        series.read_future(path, config_of().task, forecast.load(config_of().task))


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_what_is_fed_back_goes_with_what_is_known(tmp_path, strategy):
    """One step at a time, the network says the holiday before: from the series, then its future."""
    path = write(tmp_path / "a.csv", "date,v,holiday", lines(0, N + AHEAD))
    horizon = 1 if strategy == "direct" else 5
    made = forecast.framed(config_of(csv=path, strategy=strategy, horizon=horizon, **KNOWN).task)
    past = frame.Histories(made.series, np.array([0]))
    found = frame.recursive(says_last_holiday, made, past, AHEAD)
    np.testing.assert_allclose(found[0], HOLIDAY[N - 1 : N + AHEAD - 1])
    rows = made.origins["test"]
    wanted = HOLIDAY[rows[:, None] + np.arange(horizon)]
    np.testing.assert_allclose(frame.forecast(says_last_holiday, made, rows), wanted)


def test_each_series_has_a_future_of_its_own(tmp_path):
    rows = lines(0, N, "s1,") + lines(10, N - 10, "s2,")
    path = write(tmp_path / "a.csv", "id,date,v,holiday", rows)
    fields = {"series_id": "id", "strategy": "sequence", "horizon": 2, **KNOWN}
    task = forecast.build(config_of(csv=path, **fields))
    ahead = [
        f"s1,{DAYS[N]},5",
        f"s1,{DAYS[N + 1]},6",
        f"s2,{DAYS[N - 10]},7",
        f"s2,{DAYS[N - 9]},8",
    ]
    other = write(tmp_path / "b.csv", "id,date,holiday", ahead)
    values = predicted(task, tmp_path, column=3, future=other)
    np.testing.assert_allclose(values, [5, 6, 7, 8])
    other = write(tmp_path / "b.csv", "id,date,holiday", ahead[:2])
    with pytest.raises(UsageError, match="no row of series 's2'"):
        predicted(task, tmp_path, future=other)
