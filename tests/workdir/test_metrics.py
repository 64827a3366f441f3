"""What a run leaves: log lines that survive crashes, events that TensorBoard reads, reports."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from events import load
from ml_collections import ConfigDict

from lstm_jax.errors import UsageError
from lstm_jax.workdir import tensorboard as events
from lstm_jax.workdir.files import append
from lstm_jax.workdir.metrics import PLACE, open_writer, read_metrics


def config() -> ConfigDict:
    return ConfigDict({"seed": 3, "cell": {"name": "lstm", "hidden": 64}})


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def pairs(workdir: Path) -> list[tuple[int, str]]:
    return [(r["step"], r["split"]) for r in lines(workdir)]


# ---------------------------------------------------------------- metrics.jsonl


def test_a_line_per_log_event_with_plain_numbers(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.scalars(jnp.int32(10), "train", {"loss": jnp.float32(0.5), "n": np.int64(3)})
        writer.scalars(10, "valid", {"loss": np.nan, "rmse": np.inf, "bf": jnp.bfloat16(2)})
    assert lines(tmp_path) == [
        {"step": 10, "split": "train", "loss": 0.5, "n": 3},
        {"step": 10, "split": "valid", "loss": None, "rmse": None, "bf": 2.0},
    ]
    assert np.isnan(read_metrics(tmp_path)[1]["loss"])


def test_lines_are_on_disk_at_once(tmp_path):
    writer = open_writer(tmp_path)
    writer.scalars(1, "train", {"loss": 1.0})
    assert pairs(tmp_path) == [(1, "train")]


def test_each_step_and_split_once(tmp_path):
    writer = open_writer(tmp_path)
    writer.scalars(1, "train", {"loss": 1.0, "n": 1})
    writer.scalars(1, "train", {"loss": 2.0})
    assert lines(tmp_path) == [{"step": 1, "split": "train", "loss": 1.0, "n": 1}]
    with pytest.raises(ValueError, match="step 1 of train is logged"):
        writer.scalars(1, "train", {"rmse": 2.0})


def write_run(workdir: Path, first: int, last: int, resume_step: int = 0) -> None:
    with open_writer(workdir, resume_step=resume_step) as writer:
        for step in range(first, last + 1, 10):
            writer.scalars(step, "train", {"loss": step / 7})
            if step % 20 == 0:
                writer.scalars(step, "valid", {"loss": step / 3})


def test_any_crash_and_resume_gives_the_lines_of_an_undisturbed_run(tmp_path):
    """Cut at a random byte after the last checkpoint's lines, the file goes on from there."""
    write_run(tmp_path / "whole", 10, 200)
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    dice = random.Random(0)
    for case in range(40):
        workdir = tmp_path / str(case)
        saved = dice.randrange(0, 200, 20)
        write_run(workdir, 10, 200)
        held = sum(
            len(line) for line in whole.splitlines(True) if json.loads(line)["step"] <= saved
        )
        path = workdir / "metrics.jsonl"
        path.write_bytes(whole[: dice.randrange(held, len(whole))] + dice.choice([b"", b"\0" * 9]))
        write_run(workdir, saved + 10, 200, resume_step=saved)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 2, "spl', b"\0\0\0", b"\xff\xfe", b"[]", b'{"step": "2", "split": "train"}', b"1"],
)
def test_damaged_lines_go_and_good_ones_stay(tmp_path, torn):
    good = b'{"step": 1, "split": "train", "loss": 1.0}\n'
    again = good.replace(b"1.0", b"2.0")
    later = b'{"step": 3, "split": "train", "loss": 3.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + torn + b"\n" + later + again + torn)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 3, 1]
    open_writer(tmp_path, resume_step=3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == good + later


def test_a_resumed_run_may_say_its_last_line_again(tmp_path):
    write_run(tmp_path, 10, 40)
    writer = open_writer(tmp_path, resume_step=40)
    writer.scalars(40, "valid", {"loss": 99.0})
    writer.scalars(40, "test", {"loss": 1.0})
    assert pairs(tmp_path)[-2:] == [(40, "valid"), (40, "test")]
    assert lines(tmp_path)[-2]["loss"] == 40 / 3


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="could not create workdir"):
        open_writer(tmp_path / "file" / "run")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"could not write .*metrics\.jsonl: Is a directory"):
        append(tmp_path / "metrics.jsonl", b"x")


def test_hundreds_of_writers_hold_no_handles_and_no_threads(tmp_path):
    import threading

    threads = threading.active_count()
    opened = [open_writer(tmp_path / str(i)) for i in range(200)]
    for writer in opened:
        writer.scalars(1, "train", {"loss": 1.0})
        writer.flush(sync=False)
    assert threading.active_count() == threads
    assert not [p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in os.path.realpath(p)]


# ---------------------------------------------------------------- TensorBoard


def load_as_server(workdir: Path) -> Any:
    """The reader of the TensorBoard server, which purges by other rules than that of `load`."""
    from tensorboard.backend.event_processing import plugin_event_accumulator

    everything = {"tensors": 0}
    return plugin_event_accumulator.EventAccumulator(str(workdir), everything).Reload()


def curve(workdir: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.util import tensor_util

    points = [(e.step, e.value) for e in load(workdir).Scalars(tag)]
    events = load_as_server(workdir).Tensors(tag)
    assert points == [(e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events]
    return points


def make_figure() -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2])
    return figure


def test_tensorboard_reads_everything_back(tmp_path):
    with open_writer(tmp_path, config()) as writer:
        writer.scalars(5, "train", {"loss": np.float32(0.25), "bad": np.nan})
        writer.histograms(5, "params", {"a": np.arange(100.0), "b": (jnp.ones(3, jnp.bfloat16),)})
        path = writer.figure(5, "my figure", make_figure())
        writer.text(5, "samples", "the *quick* fox")
    read = load(tmp_path)
    assert set(read.Tags()["scalars"]) == {"train/loss", "train/bad"}
    assert np.isnan(read.Scalars("train/bad")[0].value)
    histogram = read.Histograms("params/a")[0].histogram_value
    assert (histogram.num, histogram.min, histogram.max, histogram.sum) == (100, 0, 99, 4950)
    assert sum(histogram.bucket) == 100 and "params/b/0" in read.Tags()["histograms"]
    image = read.Images("my figure")[0]
    assert image.encoded_image_string == path.read_bytes() and image.width > image.height > 50
    assert path == tmp_path / "figures" / "my_figure.png"
    text = read.Tensors("samples/text_summary")[0].tensor_proto.string_val[0]
    assert text == b"the *quick* fox"
    words = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"hidden": 64' in words and all(w.startswith("    ") for w in words.splitlines())


def test_histograms_leave_out_what_is_not_finite(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.histograms(
            1, "g", {"some": np.array([1.0, np.nan, np.inf]), "no": np.full(3, np.nan)}
        )
        writer.histograms(1, "h", {"empty": np.zeros((0, 2))})
        writer.scalars(1, "train", {"loss": 1.0})
    assert load(tmp_path).Tags()["histograms"] == ["g/some"]
    assert load(tmp_path).Histograms("g/some")[0].histogram_value.num == 1


def test_hparams_are_in_the_run_itself_with_every_type(tmp_path):
    """The group's columns too, where there is a group: test_tensorboard shows why only there."""
    from tensorboard.plugins.hparams import metadata

    (tmp_path / PLACE).write_text('{"group": "lstm_lr0.5"}')
    values = {
        "lr": np.float32(0.5), "seed": np.int64(3), "flag": np.bool_(True), "name": "lstm",
        "sizes": (1, 2), "none": None, "inf": float("inf"), "array": jnp.float32(2),
    }  # fmt: skip
    with open_writer(tmp_path) as writer:
        writer.scalars(7, "test", {"rmse": 12.0})
        writer.hparams(values, {"test/rmse": 12.0, "test/mae": np.float32(3)}, status="diverged")
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    read = load(tmp_path)
    assert read.Scalars("test/mae")[0].value == 3 and len(read.Scalars("test/rmse")) == 1
    content = {
        tag: read.SummaryMetadata(tag).plugin_data.content
        for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    }
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    shown = {k: getattr(v, str(v.WhichOneof("kind"))) for k, v in start.hparams.items()}
    assert shown == {
        "lr": 0.5, "seed": 3, "flag": True, "name": "lstm",
        "sizes": "1,2", "none": "none", "inf": "inf", "array": 2,
    }  # fmt: skip
    assert start.group_name == "lstm_lr0.5"
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == 2  # STATUS_FAILURE
    content = read.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    assert {m.name.tag for m in experiment.metric_infos} == {"test/rmse", "test/mae"}


def test_tensorboard_shows_one_curve_after_a_crash(tmp_path):
    write_run(tmp_path, 10, 100)
    (first,) = tmp_path.glob("events.*")
    first.write_bytes(first.read_bytes()[:-7])
    write_run(tmp_path, 50, 120, resume_step=40)
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert curve(tmp_path, "train/loss") == [(s, pytest.approx(s / 7)) for s in range(10, 121, 10)]


def test_an_attempt_that_died_before_its_first_checkpoint_leaves_no_trace(tmp_path):
    with open_writer(tmp_path, config()) as writer:
        for step in range(0, 50, 10):
            writer.scalars(step, "valid", {"loss": -1.0})
    with open_writer(tmp_path, config()) as writer:
        for step in range(0, 30, 10):
            writer.scalars(step, "valid", {"loss": 1.0})
    assert curve(tmp_path, "valid/loss") == [(0, 1.0), (10, 1.0), (20, 1.0)]
    assert [r["loss"] for r in lines(tmp_path)] == [1.0, 1.0, 1.0]
    assert len(load_as_server(tmp_path).Tensors("config/text_summary")) == 1


def test_attempts_are_read_in_order_though_the_clock_went_back(tmp_path, monkeypatch):
    write_run(tmp_path, 10, 40)
    monkeypatch.setattr(events.time, "time", lambda: 1e9)
    monkeypatch.setattr(events.socket, "gethostname", lambda: "another")
    write_run(tmp_path, 30, 60, resume_step=20)
    write_run(tmp_path, 50, 60, resume_step=40)
    names = [p.name for p in sorted(tmp_path.glob("events.*"))]
    assert len(names) == 3 and not names[0].endswith("another")
    assert [s for s, _ in curve(tmp_path, "train/loss")] == [10, 20, 30, 40, 50, 60]


def test_tensorboard_can_be_left_out(tmp_path):
    with open_writer(tmp_path, config(), tensorboard=False) as writer:
        writer.scalars(1, "train", {"loss": 1.0})
        writer.histograms(1, "x", {"a": np.ones(2)})
        writer.text(1, "t", "x")
        writer.hparams({"a": 1}, {"b": 2.0})
        assert writer.figure(1, "f", make_figure()).exists()
    assert not list(tmp_path.glob("events.*"))


def test_nothing_heavy_is_imported_until_it_is_used():
    heavy = "('matplotlib', 'rich', 'tensorboardX', 'tensorboard')"
    code = f"import sys, lstm_jax.workdir.metrics; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
