"""What is known of the future: features told ahead, decoders that are fed it, joint targets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from lstm_jax import cli
from lstm_jax.config import default_config
from lstm_jax.convert.export import FORMATS
from lstm_jax.errors import UsageError
from lstm_jax.tasks.forecast import forecast, frame, future, said
from lstm_jax.tasks.task import Decoding, Spec

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
    ahead = [line.replace(",,", ",") for line in lines(N, N + AHEAD)]
    overlapping = [f"{DAYS[N - 1]},3", *ahead[:7]]  # what is past is left out
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
        future.read_future(other, options, forecast.load(options))
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
        future.read_future(path, config_of().task, forecast.load(config_of().task))


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


# ---------------------------------------------------------------- several targets at once

A, B = V, 100 + np.cos(np.arange(N) / 5)
JOINT = {"target": "a,b", "joint": True, "features": "holiday", "horizon": 3}


def two(tmp_path, **fields) -> ConfigDict:
    rows = [f"{DAYS[i]},{A[i]!r},{B[i]!r},{HOLIDAY[i]:g}" for i in range(N)]
    rows = [row.replace("np.float64(", "").replace(")", "") for row in rows]
    path = write(tmp_path / "two.csv", "date,a,b,holiday", rows)
    return config_of(csv=path, **{**JOINT, **fields})


def says_both(strategy: str):
    """Of target k, h steps ahead: what it was last, and 10 k + h."""

    def forward(batch, carry=None):
        second = {"direct": 2, "sequence": 3, "recursive": 1}[strategy]
        last = batch["inputs"][3][:, [0, second]]
        added = 10 * np.arange(2)[:, None] + np.arange(1, 2 if strategy == "recursive" else 4)
        said = last[:, :, None] + added  # [B, K, H]
        if strategy != "sequence":
            return said.reshape(len(said), -1), carry
        return said.transpose(2, 0, 1), carry

    return forward


@pytest.mark.parametrize("strategy", ["direct", "sequence", "recursive"])
def test_one_network_says_all_targets_of_a_row(tmp_path, strategy):
    fields = {"strategy": strategy} | ({"features": ""} if strategy == "recursive" else {})
    config = two(tmp_path, **fields)
    made, task = forecast.framed(config.task), forecast.build(config)
    rows = made.origins["test"]
    network = says_both(strategy)
    found = frame.forecast(network, made, rows)
    steps, second = np.arange(1, 4), rows >= N
    last = np.concatenate([A, B])[rows][:, None]
    added = np.where(second[:, None], 11 * steps if strategy == "recursive" else 10 + steps, steps)
    np.testing.assert_allclose(found, last + added, rtol=1e-6)
    assert task.data["origins"]["test"].max() < N and second.sum() == len(rows) / 2
    score = said.split_scores(network, made, "test")["mae"]
    truth = np.concatenate([A, B])[rows[:, None] + steps]
    assert score == pytest.approx(np.abs(last + added - truth).mean(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["direct", "sequence", "seq2seq"])
def test_the_loss_is_the_mean_over_targets_and_steps(tmp_path, strategy):
    """By the batch that the network sees, against the series itself."""
    task = forecast.build(two(tmp_path, strategy=strategy))
    each = strategy != "direct"
    assert task.spec.in_features == 3 + each and task.spec.out_features == (2 if each else 6)
    batch = task.splits["test"].batch(task.data, 0)
    size = batch["inputs"].shape[1]
    ahead = task.data["origins"]["test"][:size, None] + np.arange(1, 4)
    truth = np.stack([A[ahead], B[ahead]], 1)  # [B, K, H]
    inputs = np.asarray(batch["inputs"])
    np.testing.assert_allclose(inputs[3][:, 0], A[ahead[:, 0] - 1], rtol=1e-6)
    np.testing.assert_allclose(inputs[3][:, 2 + each], B[ahead[:, 0] - 1], rtol=1e-6)
    miss = np.random.default_rng(0).normal(size=truth.shape)
    outputs = truth + miss
    outputs = outputs.transpose(2, 0, 1) if each else outputs.reshape(size, -1)
    means = task.loss(np.asarray(outputs, np.float32), batch)[1]
    assert float(means["loss"].total / means["loss"].count) == pytest.approx(
        np.square(miss).mean(), rel=1e-4
    )
    if strategy == "seq2seq":
        assert task.spec.decoding == (3, (0, 1), (0, 3), 0.0)
        np.testing.assert_allclose(batch["targets"], truth.transpose(2, 0, 1), rtol=1e-6)


def test_joint_forecasts_have_a_column_for_each_target(tmp_path):
    fields = {"conformal": True, "valid_rows": 14, "quantiles": (0.1, 0.5, 0.9)}
    task = forecast.build(two(tmp_path, **fields))
    assert task.predict
    paths = task.predict(says_both("direct"), tmp_path, SimpleNamespace(horizon=0, csv=""))
    lines = [line.split(",") for line in paths[0].read_text().splitlines()]
    ends = ["a lower 80", "a upper 80", "b lower 80", "b upper 80"]
    assert lines[0] == ["step", "time", "a", "b", *ends] and len(lines) == 4
    found = np.array([line[2:] for line in lines[1:]], float)
    np.testing.assert_allclose(found[:, 0], A[-1] + np.arange(1, 4), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], B[-1] + 10 + np.arange(1, 4), rtol=1e-6)
    assert (found[:, 2] <= found[:, 0]).all() and (found[:, 5] >= found[:, 1]).all()
    table = {line.split(",")[0] for line in paths[-1].read_text().splitlines()}
    assert paths[-1].name == "series.csv" and table == {"series", "a", "b"}
    assert "jointly" in task.understood
    with pytest.raises(UsageError, match=r"there is one, a; name them, as in task.target=a,b"):
        forecast.load(two(tmp_path, target="a").task)


# ---------------------------------------------------------------- from end to end


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_a_decoder_is_not_exported_as_something_else(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    loaded: Any = SimpleNamespace(
        config=SimpleNamespace(
            cell=SimpleNamespace(dtype="float32"), model=SimpleNamespace(encoder="none")
        ),
        program=SimpleNamespace(
            task=SimpleNamespace(spec=Spec(2, 1, decoding=Decoding(3, (), ())))
        ),
    )
    with pytest.raises(UsageError, match="a decoder.*task.strategy=sequence is the nearest"):
        FORMATS[form].write(loaded, tmp_path / "model")


@pytest.mark.slow
def test_a_joint_decoder_is_trained_asked_and_diagnosed(tmp_path, capsys):
    config = two(tmp_path, strategy="seq2seq", known_future="holiday", teacher_forcing=0.5)
    fields = [
        f"--config.task.{name}={getattr(config.task, name)}"
        for name in (*PLAIN, *JOINT, "csv", "strategy", "known_future", "teacher_forcing")
    ]
    run = f"--workdir={tmp_path / 'run'}"
    base = ["--config=configs/forecast.py:series,smoke", "--config.task.date=date", *fields]
    assert cli.main(["train", *base, "--config.task.objective=quantile", run]) == 0
    other = write(
        tmp_path / "b.csv", "date,holiday", [f"{DAYS[N + k]},{HOLIDAY[N + k]}" for k in range(5)]
    )
    assert cli.main(["predict", run, f"--future={other}"]) == 0
    lines = (tmp_path / "run/predictions/forecast.csv").read_text().splitlines()
    assert len(lines) == 6 and lines[0].startswith("step,time,a,b,a lower 95")
    assert cli.main(["evaluate", run]) == 0 and cli.main(["diagnose", run]) == 0
    assert "layer_0/lyapunov" in capsys.readouterr().out
