"""The forecast task: reading series, transforms and their inverse, gaps, baselines, forecasts."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import forecast, frame, windows


def config_of(**fields) -> ConfigDict:
    config = ConfigDict({"task": default_config("forecast").task, "train": {"batch_size": 16}})
    config.task.update(fields)
    return config


def build(**fields) -> Any:
    return forecast.build(config_of(**fields))


def write(path, text: str) -> str:
    path.write_text(text)
    return str(path)


def monthly(values, columns=("value",)) -> str:
    """A CSV of months from 2000 on."""
    rows = [",".join(["month", *columns])]
    for k, row in enumerate(np.reshape(values, (len(values), -1))):
        rows.append(",".join([f"{2000 + k // 12}-{k % 12 + 1:02d}", *(f"{v}" for v in row)]))
    return "\n".join(rows) + "\n"


PLAIN = {"log": False, "difference": False, "period": 1, "look_back": 3}
WAVES = 20 + 5 * np.sin(np.arange(60) / 3) + np.arange(60) % 7


# ---------------------------------------------------------------------------------------------
# Airline


def test_the_embedded_series_is_box_and_jenkins():
    series = forecast.load(config_of().task)
    assert series.values.shape == (144, 1)
    assert series.values[[0, 95, 96, 143], 0].tolist() == [112, 278 + 28, 315, 432]
    assert series.names == ("Passengers",)
    assert series.index[0] == pd.Timestamp(1949, 1, 1) and series.freq == "MS"


def test_airline_baselines_are_the_measured_ones():
    scores = build().baselines["test"]
    rmse = {name: round(score["rmse"], 1) for name, score in scores.items()}
    assert rmse == {
        "persistence": 48.0,
        "seasonal-naive": 41.9,
        "seasonal-naive x growth": 15.6,
        "linear autoregression": 13.8,
        "dlinear": 19.5,
        "nlinear": 20.9,
    }


def test_airline_is_split_96_and_48_and_validation_comes_from_training():
    origins = build().data["origins"]
    assert (origins["test"] + 1).tolist() == list(range(96, 144))
    assert (origins["valid"] + 1).tolist() == list(range(84, 96))
    assert origins["train"].max() + 1 == 83


TRANSFORMS = [
    {"log": False, "difference": False, "scaling": "none"},
    {"log": False, "difference": False, "scaling": "mean_abs"},
    {"log": False, "difference": False, "scaling": "instance", "horizon": 2},
    {"scaling": "instance", "seasonal_difference": True, "horizon": 2},
    {"log": True, "difference": False},
    {"log": True, "difference": True},
    {"log": False, "difference": True, "horizon": 3},
    {"seasonal_difference": True, "difference": False},
    {"seasonal_difference": True, "horizon": 14, "valid_rows": 16},
    {"seasonal_difference": True, "seasonal_input": True},
]


def perfect(task: Any) -> dict:
    """The means of the first test batch where the network says what is right."""

    def means(data):
        batch = task.splits["test"].batch(data, 0)
        return task.loss(batch["targets"], batch)[1]

    return jax.jit(means, compiler_options={"xla_backend_optimization_level": 0})(task.data)


@pytest.mark.parametrize("fields", TRANSFORMS)
def test_a_perfect_model_has_no_error_in_passengers(fields):
    """The inverse of every transform: the right outputs give back the series, to its last digit."""
    made = forecast.framed(config_of(**fields).task)
    assert float(perfect(build(**fields))["mae"].total) < 1e-4  # of the largest value
    rows = made.origins["test"]
    batch = windows.take(made.data, rows, made.task, np)
    units = windows.to_units(batch["targets"], batch, made.task, made.fitted.of(0 * rows))
    np.testing.assert_allclose(units, frame.truth(made, rows).actual, rtol=1e-12)


def silent(batch, carry=None):
    """A model that says 0."""
    return np.zeros((batch["inputs"].shape[1], 1), np.float32), carry


def test_a_silent_model_repeats_what_is_known():
    """Zero change: persistence, the last season, the last season with its growth."""
    known = {
        "persistence": {"difference": True},
        "seasonal-naive": {"difference": False, "seasonal_difference": True},
        "seasonal-naive x growth": {"difference": True, "seasonal_difference": True},
    }
    for name, fields in known.items():
        task = build(scaling="none", **fields)
        found, wanted = task.scores(silent)["test"], task.baselines["test"][name]
        for metric, value in found.items():
            assert value == pytest.approx(wanted[metric], 1e-6), metric


def test_windows_hold_the_past_and_nothing_of_the_future():
    made = forecast.framed(config_of(**PLAIN, scaling="none").task)
    series, origins = made.series.values[:, 0], made.origins["test"][:16]
    batch = windows.take(made.data, origins, made.task, np)
    for column, origin in enumerate(origins):
        np.testing.assert_allclose(batch["inputs"][:, column, 0], series[origin - 2 : origin + 1])


def test_the_scale_is_fitted_on_the_training_part_alone(tmp_path):
    loud = np.concatenate([WAVES[:34], 1000 * WAVES[34:]])
    quiet, loud = (
        build(csv=write(tmp_path / f"{k}.csv", monthly(v)), test_part=0.3, valid_part=0.2, **PLAIN)
        for k, v in enumerate((WAVES, loud))
    )
    np.testing.assert_allclose(quiet.data["inputs"][:30], loud.data["inputs"][:30], rtol=1e-6)
    train = quiet.data["inputs"][:34]
    assert abs(train.mean()) < 1e-5 and train.std() == pytest.approx(1, rel=1e-4)


def test_the_seasonal_input_is_what_happened_a_season_before_the_forecast():
    task = build(scaling="none", seasonal_input=True)
    inputs = task.data["inputs"]
    np.testing.assert_allclose(inputs[30:, 1], inputs[19:-11, 0], rtol=1e-6)


# ---------------------------------------------------------------------------------------------
# Forecasts and files


def last_value(batch, carry=None):
    """A model that says: as the last input."""
    return batch["inputs"][-1][:, :1], carry


def test_recursive_forecasts_feed_on_themselves(tmp_path):
    """The model that repeats the last change goes on along a straight line."""
    path = write(tmp_path / "line.csv", monthly(10 + 2.0 * np.arange(40)))
    made = forecast.framed(config_of(csv=path, log=False, scaling="none", look_back=4).task)
    ahead = frame.recursive(last_value, made, frame.Histories(made.series, np.array([0])), 5)
    np.testing.assert_allclose(ahead[0], 10 + 2.0 * np.arange(40, 45))


def test_predict_writes_csv_and_png_beyond_the_end(tmp_path):
    task = build()
    paths = task.predict(last_value, tmp_path, SimpleNamespace(horizon=5, csv=""))
    with paths[0].open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "time", "Passengers"]
    assert [row[1] for row in rows[1:]] == [f"1961-{m:02d}" for m in range(1, 6)]
    assert paths[1].read_bytes()[:4] == b"\x89PNG"


def test_predict_from_another_file_uses_the_training_scale(tmp_path):
    path = write(tmp_path / "p.csv", monthly(WAVES))
    other = write(tmp_path / "q.csv", monthly(2 * WAVES))
    task = build(csv=path, log=False, difference=False, period=12, look_back=3)
    paths = task.predict(last_value, tmp_path, SimpleNamespace(horizon=1, csv=other))
    value = float(paths[0].read_text().splitlines()[1].split(",")[2])
    assert value == pytest.approx(2 * WAVES[-1], rel=0.1)


def test_predict_cannot_know_the_future_of_other_columns(tmp_path):
    path = write(tmp_path / "two.csv", monthly(np.stack([WAVES, WAVES**2], 1), ("a", "b")))
    task = build(csv=path, target="b", features="a", log=False, look_back=3)
    with pytest.raises(UsageError, match=r"future of a; ask for at most 1"):
        task.predict(last_value, tmp_path, SimpleNamespace(horizon=3, csv=""))


def test_figures_are_drawn_with_the_split_marked():
    figures = build().figures(last_value)
    assert sorted(figures) == ["one_step_ahead", "recursive"]
    for figure in figures.values():
        legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert "test begins" in legend and "observed" in legend


# ---------------------------------------------------------------------------------------------
# Gaps


GAPS = WAVES.copy()
GAPS[[5, 10, 11, 12, 40, 41]] = np.nan


def gapped(tmp_path, missing: str, **fields):
    text = monthly(GAPS).replace("nan", "NA")
    path = write(tmp_path / "gaps.csv", text)
    return build(csv=path, missing=missing, scaling="none", **PLAIN, **fields)


def test_missing_values_are_reported_by_row_and_column(tmp_path):
    with pytest.raises(UsageError, match=r"column value: 6 missing \(row 7, 12, 13, 14, 42, ...\)"):
        gapped(tmp_path, "error")


def test_four_ways_to_close_a_gap(tmp_path):
    zero = gapped(tmp_path, "zero").data["inputs"][:, 0]
    forward = gapped(tmp_path, "forward").data["inputs"][:, 0]
    linear = gapped(tmp_path, "linear").data["inputs"][:, 0]
    mask = gapped(tmp_path, "mask").data["inputs"]
    np.testing.assert_allclose(zero[10:13], 0)
    np.testing.assert_allclose(forward[10:13], WAVES[9], rtol=1e-6)
    np.testing.assert_allclose(linear[10:13], np.linspace(WAVES[9], WAVES[13], 5)[1:4], rtol=1e-6)
    np.testing.assert_allclose(mask[8:14, 0], [*WAVES[8:10], *[WAVES[9]] * 3, WAVES[13]], rtol=1e-6)
    np.testing.assert_array_equal(mask[8:14, 1], [1, 1, 0, 0, 0, 1])
    np.testing.assert_allclose(mask[8:14, 2], np.log1p([0, 0, 1, 2, 3, 0]), rtol=1e-6)


def test_a_line_across_a_gap_does_not_look_into_the_future(tmp_path):
    """Windows that end inside the gap see the last value, not the way to the next one."""
    task = gapped(tmp_path, "linear")
    options = config_of(**PLAIN).task
    inside = windows.take(task.data, np.array([11]), options, np)["inputs"][:, 0, 0]
    np.testing.assert_allclose(inside, [WAVES[9]] * 3, rtol=1e-6)
    after = windows.take(task.data, np.array([13]), options, np)["inputs"][:, 0, 0]
    np.testing.assert_allclose(after, np.linspace(WAVES[9], WAVES[13], 5)[2:], rtol=1e-6)


@pytest.mark.parametrize("missing", ["zero", "forward", "linear", "mask"])
def test_nothing_missing_is_ever_scored_or_nan(tmp_path, missing):
    task = gapped(tmp_path, missing, test_part=0.4)
    scored = {name: rows + 1 for name, rows in task.data["origins"].items()}
    assert not set(np.flatnonzero(np.isnan(GAPS))) & set(np.concatenate(list(scored.values())))
    options = config_of(missing=missing, **PLAIN).task
    batch = windows.take(task.data, task.data["origins"]["train"], options, np)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(batch))
    assert task.spec.in_features == batch["inputs"].shape[-1]


def test_gaps_at_the_very_start(tmp_path):
    values = WAVES.copy()
    values[:4] = np.nan
    path = write(tmp_path / "late.csv", monthly(values))
    for missing in ("zero", "forward", "linear", "mask"):
        task = build(csv=path, missing=missing, **{**PLAIN, "difference": True})
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(task.data))
        assert np.isfinite(perfect(task)["loss"].total)


# ---------------------------------------------------------------------------------------------
# Files that are no series


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


GOOD = [f"2000-{m:02d}-01,{m * m}" for m in range(1, 13)]
BAD_FILES = {
    "empty": ("", r"empty; expected a header row"),
    "header only": ("date,v\n", r"only a header row"),
    "no header": (lines("1,2", "3,4"), r"row 1: numbers where column names belong"),
    "twice": (lines("v,v", "1,2"), r"column 'v' appears twice"),
    "ragged": (lines("date,v", GOOD[0], "2000-02-01,4,5"), r"row 3: 3 cells, but the header has 2"),
    "word": (lines("date,v", *GOOD[:2], "2000-03-01,x9"), r"row 4, column v: 'x9' is not a number"),
    "infinite": (lines("date,v", GOOD[0], "2000-02-01,inf"), r"row 3, column v: 'inf' is not"),
    "repeated": (
        lines("date,v", *GOOD[:3], GOOD[1]),
        r"row 5, column date: '2000-02-01' repeats row 3",
    ),
    "unsorted": (lines("date,v", GOOD[0], GOOD[2], GOOD[1]), r"row 4, column date: .*comes before"),
    "no date": (lines("date,v", GOOD[0], "soon,4"), r"row 3, column date: 'soon' is no date"),
    "mixed dates": (lines("date,v", GOOD[0], "7,4"), r"row 3, column date: '7' is written unlike"),
    "short": (lines("date,v", *GOOD), r"12 rows leave 7 for training.*one window needs 14"),
    "constant": (lines("v", *["5"] * 60), r"column v: constant \(5 in every training row, rows 2"),
    "negative": (lines("v", *["5", "-1"] * 30), r"row 3, column v: -1 has no logarithm"),
    "gap": (lines("date,v", GOOD[0], "2000-02-01,", GOOD[2]), r"column v: 1 missing \(row 3\)"),
    "huge": (lines("date,v", GOOD[0], "2000-02-01,2e38"), r"row 3, column v: 2e\+38 is beyond"),
    "irregular": (
        lines("date,v", GOOD[0], "2000-02-03,4", "2000-02-19,4", "2000-05-01,5"),
        r"column date: the steps between dates are irregular.*task.gaps=ignore",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_with_file_row_and_column(tmp_path, name):
    text, words = BAD_FILES[name]
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(UsageError, match=words) as error:
        build(csv=path)
    assert path in str(error.value)


def test_missing_files_and_columns(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        build(csv=str(tmp_path / "nowhere.csv"))
    path = write(tmp_path / "a.csv", monthly(WAVES))
    with pytest.raises(UsageError, match="unknown column 'valu'; did you mean 'value'"):
        build(csv=path, target="valu")
    (tmp_path / "b.csv").write_bytes(b"month,\0")
    with pytest.raises(UsageError, match=r"not text in UTF-8.*task.encoding"):
        build(csv=str(tmp_path / "b.csv"))


def test_all_values_missing_in_the_test_part(tmp_path):
    values = WAVES.copy()
    values[40:] = np.nan
    path = write(tmp_path / "a.csv", monthly(values))
    with pytest.raises(UsageError, match=r"no value in the test part \(rows 42 to 61\)"):
        build(csv=path, missing="zero", **PLAIN)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"missing": "forwards"}, "unknown task.missing 'forwards'; did you mean 'forward'"),
        ({"objective": "l2"}, "unknown task.objective 'l2'"),
        ({"look_back": 0}, "task.look_back=0"),
        ({"horizon": -1}, "task.horizon=-1"),
        ({"test_part": 1.5}, "task.test_part=1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        build(**fields)


def test_multivariate_inputs_put_the_target_first(tmp_path):
    values = np.stack([WAVES, WAVES**2, -WAVES], 1)
    path = write(tmp_path / "m.csv", monthly(values, ("a", "b", "c")))
    task = build(csv=path, target="b", features="c, a", scaling="none", **PLAIN)
    assert task.spec.in_features == 3
    np.testing.assert_allclose(task.data["inputs"], values[:, [1, 2, 0]], rtol=1e-6)


def test_a_csv_named_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv", monthly(WAVES))
    assert build(csv="~/a.csv", **PLAIN).spec.in_features == 1
    assert build(csv="a.csv", data_dir="~", **PLAIN).spec.in_features == 1


def test_a_csv_below_the_data_directory(tmp_path):
    write(tmp_path / "a.csv", monthly(WAVES))
    assert build(csv="a.csv", data_dir=str(tmp_path), **PLAIN).spec.in_features == 1
