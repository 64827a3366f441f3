"""How a forecaster is judged: no row in two splits, the field's scores, baselines, intervals."""

from __future__ import annotations

import importlib.util
import time
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from lstm_jax.config import default_config
from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import baselines, forecast, frame, intervals, said, scores

N = 120
WAVES = 20 + 5 * np.sin(np.arange(N) / 3) + np.arange(N) % 7
PLAIN = {"log": False, "difference": False, "period": 7, "look_back": 6}


def config_of(**fields) -> ConfigDict:
    config = ConfigDict({"task": default_config("forecast").task, "train": {"batch_size": 8}})
    config.task.update(fields)
    return config


def framed(tmp_path, values: np.ndarray = WAVES, **fields) -> frame.Frame:
    return forecast.framed(config_of(csv=write(tmp_path, values), **{**PLAIN, **fields}).task)


def write(tmp_path, values: np.ndarray, name: str = "a.csv") -> str:
    days = np.datetime64("2020-01-01") + np.arange(len(values))
    lines = [
        f"{day},{value!r}" for day, value in zip(days, np.asarray(values).tolist(), strict=True)
    ]
    (tmp_path / name).write_text("\n".join(["date,v", *lines]) + "\n")
    return str(tmp_path / name)


def last_value(task: Any):
    """A network that says: every step as the last input."""

    def forward(batch, carry=None):
        count = frame.windows.steps(task) * intervals.outputs(task)
        return np.repeat(batch["inputs"][-1][:, :1], count, axis=1), carry

    return forward


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    "fields", [{}, {"horizon": 12, "valid_rows": 14}, {"horizon": 5, "origins": 3}]
)
def test_no_row_is_the_target_of_two_splits(tmp_path, fields):
    made = framed(tmp_path, **fields)
    steps = np.arange(1, made.task.horizon + 1)
    seen = {name: set((rows[:, None] + steps).ravel()) for name, rows in made.origins.items()}
    assert not seen["train"] & seen["valid"] and not seen["valid"] & seen["test"]
    _, valid, test, stop = made.edges[0]
    assert max(seen["train"]) < valid <= min(seen["valid"]) and max(seen["valid"]) < test
    assert max(seen["test"]) == stop - 1


def test_origins_are_spread_over_the_test(tmp_path):
    made = framed(tmp_path, horizon=5, origins=3)
    assert made.origins["test"].tolist() == [79, 97, 114]


def test_splits_by_number_and_by_date(tmp_path):
    by_rows = framed(tmp_path, test_rows=20, valid_rows=10).edges
    by_date = framed(tmp_path, test_from="2020-04-10", valid_from="2020-03-31").edges
    assert by_rows == by_date == [(0, 90, 100, 120)]
    assert framed(tmp_path, until="2020-04-10").edges[0][3] == 100


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"horizon": 15, "valid_rows": 10}, r"valid part has 10 rows.*task.valid_rows=15"),
        ({"test_from": "soon"}, "'soon' is no date"),
        ({"quantiles": (0.9, 0.5, 0.1)}, "expected rising numbers"),
        ({"quantiles": (0.1, 0.5, 0.8)}, "each with its counterpart"),
        ({"objective": "quantile", "strategy": "recursive"}, "task.strategy=direct for intervals"),
        ({"conformal": True}, r"needs 19 validation forecasts for the 95 % interval.*there are 10"),
        ({"models": ("ETS",)}, "unknown task.models 'ETS'"),
        ({"known_future": "w"}, "unknown feature 'w'"),
        ({"calendar": ("weeks",)}, "unknown task.calendar 'weeks'"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path, fields, words):
    with pytest.raises(UsageError, match=words):
        framed(tmp_path, **fields)


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_their_definitions():
    """Of the M4 and M5 papers, computed by hand."""
    actual = np.array([[1.0, 2.0], [4.0, np.nan]])
    truth = scores.Truth(actual, np.array([0, 1]), np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    found = scores.point(np.array([[2.0, 2.0], [2.0, 9.0]]), truth)
    assert found["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert found["mae"] == pytest.approx(1)
    assert found["smape"] == pytest.approx((200 / 3 + 0 + 400 / 6) / 3)
    assert found["mase"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["rmsse"] == pytest.approx((np.sqrt(0.5) + 1) / 2)


def test_pinball_loss_and_coverage():
    levels, normal = (0.1, 0.5, 0.9), np.random.default_rng(0).normal(size=(4000, 1))
    right = np.broadcast_to(stats.norm.ppf(levels), (4000, 1, 3))
    found = scores.intervals(right, levels, normal)
    assert found["coverage_80"] == pytest.approx(0.8, abs=0.02)
    assert found["width_80"] == pytest.approx(2 * stats.norm.ppf(0.9))
    wrong = scores.intervals(right + 0.5, levels, normal)
    assert found["pinball"] < wrong["pinball"] and found["crps"] == 2 * found["pinball"]


def test_a_level_of_a_billion_changes_no_score(tmp_path):
    """float32 holds a billion to 64 units."""
    levels = {}
    for level in (0, 1e9):
        task = forecast.build(config_of(csv=write(tmp_path, level + np.round(WAVES, 2)), **PLAIN))
        assert task.scores
        found = task.scores(last_value(config_of(**PLAIN).task))["test"]
        levels[level] = {"network": found, **task.baselines["test"]}
    assert len(levels[0]) == 7
    for name in levels[0]:
        for metric in ("rmse", "mae", "mase", "rmsse"):
            small, large = (levels[level][name][metric] for level in (0, 1e9))
            assert small > 0.001 and large == pytest.approx(small, rel=1e-4), (name, metric)


def test_series_of_different_size_weigh_alike_in_mase(tmp_path):
    lines = ["id,date,v"]
    days = np.datetime64("2020-01-01") + np.arange(N)
    for name, size in (("small", 1), ("large", 1000)):
        lines += [f"{name},{d},{size * v!r}" for d, v in zip(days, WAVES.tolist(), strict=True)]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    made = forecast.framed(config_of(csv=str(tmp_path / "p.csv"), series_id="id", **PLAIN).task)
    one = framed(tmp_path)
    both, alone = (said.baselines(f, "test")["persistence"] for f in (made, one))
    assert both["mase"] == pytest.approx(alone["mase"])
    assert both["rmse"] > 500 * alone["rmse"]
    for start, _, _, stop in made.edges:  # no window crosses from one series to the next
        for rows in made.origins.values():
            own = rows[(rows >= start) & (rows < stop)]
            assert own.min() - made.task.look_back + 1 >= start and own.max() + 1 < stop
    assert made.edges[1][0] == N


# ---------------------------------------------------------------- baselines


def test_baselines_carry_the_loss_of_the_whole_horizon(tmp_path):
    made = framed(tmp_path, horizon=4, scaling="none")
    found = said.baselines(made, "valid")
    assert set(found) >= {"persistence", "seasonal-naive", "linear autoregression"}
    for score in found.values():
        assert score["loss"] == pytest.approx(score["rmse"] ** 2)


def test_the_autoregression_is_fitted_on_what_the_network_sees(tmp_path):
    values = WAVES + np.random.default_rng(0).normal(size=N)
    one = said.baselines(framed(tmp_path, values), "valid")["linear autoregression"]
    changed = values.copy()
    changed[-1] += 50  # of the test part
    changed[72] += 1e-9  # of the validation part, hardly
    two = said.baselines(framed(tmp_path, changed), "valid")["linear autoregression"]
    assert one["rmse"] == pytest.approx(two["rmse"], rel=1e-6)
    origins, task = np.arange(70, 79), SimpleNamespace(period=7, horizon=1, log=False)
    late = values.copy()
    late[70:] = late[70:][::-1]
    first, second = (
        np.asarray(baselines.linear_autoregression(v, origins[:1] - 1, 70, task))
        for v in (values, late)
    )
    np.testing.assert_allclose(first, second)


def test_the_autoregression_knows_a_season_of_any_length():
    """A year of hours: the memory of 25 columns, and what followed a year ago is seen."""
    season, began = 8760, time.monotonic()
    values = np.tile(np.random.default_rng(0).normal(size=season).cumsum(), 4)[:30_000]
    task = SimpleNamespace(period=season, horizon=2, log=False)
    found = baselines.linear_autoregression(values, np.arange(29_000, 29_900), 28_000, task)
    assert found is not None
    np.testing.assert_allclose(found[:, 1], values[29_002:29_902], atol=1e-6)
    assert time.monotonic() - began < 20


def test_statistical_models_stand_beside_the_network_where_they_are_installed(tmp_path):
    fields = {"models": ("AutoETS", "AutoTheta"), "origins": 2, "valid_rows": 3}
    if importlib.util.find_spec("statsforecast") is None:
        with pytest.raises(UsageError, match=r"pip install 'lstm-jax\[forecast\]'"):
            framed(tmp_path, **fields)
        return
    found = said.baselines(framed(tmp_path, **fields), "test")
    assert found["AutoTheta"]["mase"] > 0 and found["AutoETS"]["rmse"] < 10


@pytest.mark.parametrize("name", ["nlinear", "dlinear"])
def test_linear_maps_are_least_squares_of_the_window(name):
    """For a line through two waves both are exact; with noise as scikit would have it."""
    rng, task = np.random.default_rng(0), SimpleNamespace(look_back=5, horizon=2)
    y = np.sin(np.arange(90) / 4) + 0.1 * rng.normal(size=90)
    rows, asked = np.arange(4, 60), np.arange(70, 88)
    weights = baselines.fit_linear(y, rows, task)
    last = y[rows][:, None] * (name == "nlinear")
    design = np.column_stack([y[rows[:, None] - np.arange(5)] - last, np.ones(len(rows))])
    wanted = np.linalg.pinv(design, rcond=1e-8) @ (y[rows[:, None] + [1, 2]] - last)
    found = baselines.linear(y, asked, weights, task)[name]
    last = y[asked][:, None] * (name == "nlinear")
    design = np.column_stack([y[asked[:, None] - np.arange(5)] - last, np.ones(len(asked))])
    np.testing.assert_allclose(found, design @ wanted + last, atol=1e-4)


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("objective", ["quantile", "gaussian", "student"])
def test_losses_are_least_where_the_distribution_is_right(objective):
    """Of 2000 draws, against the same with another centre, and against SciPy's densities."""
    options = config_of(objective=objective, quantiles=(0.1, 0.5, 0.9)).task
    rng = np.random.default_rng(0)
    draws = (1 + 0.5 * rng.standard_t(4, (2000, 1))).astype(np.float32)
    scale = np.log(np.expm1(0.5 - intervals.SMALLEST))
    freedom = np.log(np.expm1(4 - intervals.LEAST_FREEDOM))
    right = {
        "quantile": 1 + 0.5 * stats.t.ppf((0.1, 0.5, 0.9), 4),
        "gaussian": [1, scale],
        "student": [1, scale, freedom],
    }[objective]
    right = np.broadcast_to(np.asarray(right, np.float32), (2000, 1, len(right)))
    found = np.asarray(intervals.loss(jnp.asarray(right), jnp.asarray(draws), options))
    off = right + np.array([0.3] + [0.3 * (objective == "quantile")] * (right.shape[-1] - 1))
    worse = intervals.loss(jnp.asarray(off, jnp.float32), jnp.asarray(draws), options)
    assert found.mean() < np.asarray(worse).mean()
    if objective != "quantile":
        z = (draws - 1) / 0.5
        density = stats.norm.logpdf(z) if objective == "gaussian" else stats.t.logpdf(z, 4)
        wanted = np.log(0.5) - density
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    quantiles = intervals.quantiles(right.astype(np.float64), options)
    assert (np.diff(quantiles, axis=-1) > 0).all()


def test_calibrated_intervals_hold_what_they_promise():
    """Too narrow and too wide ones, by fresh draws; each step ahead by itself."""
    options = config_of(quantiles=(0.025, 0.1, 0.5, 0.9, 0.975)).task
    rng, spread = np.random.default_rng(0), np.array([1.0, 3.0])
    past, coming = (spread * rng.normal(size=(3000, 2)) for _ in range(2))
    for width in (0.0, 0.3, 9.0):
        said_ = width * np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * np.ones((3000, 2, 1))
        moves = intervals.calibration(said_, past, options)
        found = scores.intervals(intervals.calibrated(said_, moves), options.quantiles, coming)
        assert found["coverage_80"] == pytest.approx(0.8, abs=0.02) or width == 9.0
        assert found["coverage_95"] == pytest.approx(0.95, abs=0.02) or width == 9.0
    assert intervals.needed(0.95) == 19 and intervals.needed(0.8) == 4


def test_intervals_are_scored_written_and_drawn(tmp_path):
    fields = {"conformal": True, "valid_rows": 30, "horizon": 3, "quantiles": (0.1, 0.5, 0.9)}
    made = framed(tmp_path, **fields)
    network = last_value(made.task)
    found = said.split_scores(network, made, "test")
    assert 0.5 < found["coverage_80"] <= 1 and found["width_80"] > 0
    options = SimpleNamespace(csv="", horizon=5)
    paths = said.predict(network, tmp_path, options, made, forecast.load)
    lines = [line.split(",") for line in paths[0].read_text().splitlines()]
    assert lines[0] == ["step", "time", "v", "lower 80", "upper 80"]
    assert float(lines[1][3]) < float(lines[1][2]) < float(lines[1][4])
    assert len(lines[3]) == 5 and len(lines[4]) == 3  # beyond the horizon there are none
    assert [path.name for path in paths[2:]] == ["test_forecasts.csv", "horizon.csv"]
    tested = paths[2].read_text().splitlines()
    assert tested[0] == "origin,step,time,observed,forecast,lower 80,upper 80"
    assert len(tested) == 1 + 3 * len(made.origins["test"])
    steps = [line.split(",")[0] for line in paths[3].read_text().splitlines()]
    assert steps == ["step", "1", "2", "3"]


# ---------------------------------------------------------------- strategies


def test_a_recursive_network_is_judged_over_the_whole_horizon(tmp_path):
    """The last change again and again: a straight line goes on for ever."""
    line = 10 + 2.0 * np.arange(N)
    fields = {"strategy": "recursive", "horizon": 9, "difference": True, "scaling": "none"}
    made = framed(tmp_path, line, **fields)
    found = said.split_scores(last_value(made.task), made, "test")
    assert found["rmse"] < 1e-4 and frame.windows.steps(made.task) == 1


def test_a_sequence_sees_what_is_known_of_the_future_and_nothing_else(tmp_path):
    days = np.datetime64("2020-01-01") + np.arange(N)
    rows = [
        f"{d},{v!r},{i % 5},{i % 3}"
        for i, (d, v) in enumerate(zip(days, WAVES.tolist(), strict=True))
    ]
    (tmp_path / "f.csv").write_text("\n".join(["date,v,holiday,secret", *rows]))
    fields = {"target": "v", "features": "holiday,secret", "known_future": "holiday"}
    fields |= {"strategy": "sequence", "horizon": 4, "calendar": ("weekday",)}
    options = config_of(csv=str(tmp_path / "f.csv"), **{**PLAIN, **fields}).task
    made = forecast.framed(options)
    batch = frame.windows.take(made.data, made.origins["test"][:2], options, np)
    inputs, names = batch["inputs"], made.series.names
    assert inputs.shape == (6 + 4, 2, 6) and names[1:3] == ("holiday", "secret")
    assert (inputs[6:, :, [0, 2]] == 0).all() and (inputs[6:, :, 5] == 1).all()
    ahead = made.origins["test"][:2] + np.arange(1, 5)[:, None]
    np.testing.assert_array_equal(inputs[6:, :, 1], made.data["inputs"][ahead, 1])
    with pytest.raises(UsageError, match="future of secret"):
        frame.check_future(made.series, options, 5)
