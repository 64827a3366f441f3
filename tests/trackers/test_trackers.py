"""The contract of trackers, on a fake one in a user's own file: each point once, whatever dies."""

import importlib.util
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tracked

from lstm_jax import cli
from lstm_jax.errors import UsageError
from lstm_jax.trackers import TRACKERS, Tracker, chosen, contract, follow, send
from lstm_jax.trackers import mlflow as mlflow_tracker
from lstm_jax.trackers import wandb as weights_and_biases
from lstm_jax.workdir.metrics import read_metrics

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "notebook.py"


pytestmark = pytest.mark.usefixtures("no_parts")


def named(name="NOTEBOOK", workdir=Path("x")):
    return chosen(f"{FILE}:{name}", workdir)[0]


def check_once(folder, name=None):
    """Everything that metrics.jsonl says is in the notebook, once."""
    records = tracked.notebooks(folder.parent)[name or folder.name]
    found = tracked.points(records)
    assert set(found) == tracked.wanted(read_metrics(folder))
    assert set(found.values()) == {1}
    return records


@pytest.mark.parametrize("name", ["NOTEBOOK", "FORGETFUL", "REDRAWN"])
def test_every_line_once_and_what_closes_a_run(tmp_path, name):
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20))
    assert send.send(named(name), folder, {}) == 4
    assert send.send(named(name), folder, {}) == 0
    tracked.log(folder, tracked.lines(30, 40) + tracked.lines(30, splits=["test"]))
    tracked.end(folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "curves.png").write_bytes(b"png")
    (folder / "incidents.jsonl").write_text('{"what": "rollback"}\n')
    number = send.send(named(name), folder, {})
    assert number == (9 if name == "REDRAWN" else 5)
    records = check_once(folder)
    assert records[0] == {"run": "a", "group": "", "hidden": 8}
    if name == "FORGETFUL":
        return
    assert {"figure": "curves", "at": 40, "bytes": 3} in records
    assert {r["text"] for r in records if "text" in r} == {"command", "incidents"}
    best = {"run/status": "completed", "run/best_step": 30, "run/parameters": 9}
    best |= {"run/wall_seconds": 5.0, "best/valid/loss": 0.2, "best/test/loss": 0.3}
    assert {"summary": best, "at": 40} in records
    assert records[-1] == {"closed": "completed"}


def test_a_resumed_run_repeats_nothing(tmp_path):
    """Lines after the checkpoint are dropped and written again; some had been sent."""
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20, 30))
    opened = {}
    send.send(named(), folder, opened, last=False)
    tracked.log(folder, tracked.lines(10), mode="w")
    assert send.send(named(), folder, opened, last=False) == 0
    tracked.log(folder, tracked.lines(20, 30, 40))
    assert send.send(named(), folder, opened, last=False) == 2
    check_once(folder)


@pytest.mark.parametrize("name", ["NOTEBOOK", "REDRAWN"])
@pytest.mark.parametrize("accepted", range(0, 5))
def test_killed_between_the_tracker_and_the_cursor(tmp_path, name, accepted):
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20))
    tracker = named(name)
    send.send(tracker, folder, {}, last=False)
    tracked.log(folder, tracked.lines(30, 40))
    cursor = send.read_cursor(tracker, folder)
    new = read_metrics(folder)[4 : 4 + accepted]
    handle = tmp_path / "notebook" / f"{cursor['id']}.jsonl"
    tracker.tracker.scalars(handle, [send.point(line) for line in new])  # and then kill -9
    send.send(tracker, folder, {})
    check_once(folder)


def test_a_tracker_that_is_full_half_way(tmp_path, monkeypatch):
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20, 30, 40))
    monkeypatch.setenv("FULL_AT", "30")
    with pytest.raises(OSError):
        send.send(named(), folder, {})
    monkeypatch.delenv("FULL_AT")
    assert send.send(named(), folder, {}) == 4
    check_once(folder)


def test_the_same_workdir_is_the_same_run(tmp_path):
    a, b = tracked.run(tmp_path / "a"), tracked.run(tmp_path / "b")
    again = tracked.run(tmp_path / "c", created="2026-02-02T00:00:00Z")
    other = tracked.run(tmp_path / "d", config_hash="decade")
    assert len({send.identity(folder) for folder in (a, b, again, other)}) == 4
    before = send.identity(a)
    earlier = [{"created": tracked.MANIFEST["created"]}]
    tracked.run(a, created="2026-01-05T00:00:00Z", earlier=earlier)  # resumed
    assert send.identity(a) == before
    tracked.log(a, tracked.lines(10))
    send.send(named(), a, {})
    moved = Path(shutil.move(a, tmp_path / "moved"))
    assert send.read_cursor(named(), moved)["id"] == before


def test_another_place_gets_everything(tmp_path):
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20))
    send.send(named(), folder, {})
    there = named()._replace(tracker=named().tracker._replace(place=lambda home: "elsewhere"))
    assert send.read_cursor(there, folder)["sent"] == {}
    assert send.read_cursor(there, folder)["id"] == send.read_cursor(named(), folder)["id"]


def test_trials_are_runs_in_a_group(tmp_path):
    workdir = tracked.sweep(tmp_path / "lr")
    tracked.end(workdir / "trials" / "0000")
    opened = {}
    assert send.send(named(), workdir, opened, last=False) == 12
    assert [folder.name for folder in opened] == ["0001", "0002"]
    found = tracked.notebooks(tmp_path)
    assert sorted(found) == ["cifg_s0", "cifg_s1", "cifg_s2"]
    assert {records[0]["group"] for records in found.values()} == {"lr"}
    assert found["cifg_s0"][-1] == {"closed": "completed"}
    for n in range(3):
        folder = workdir / "trials" / f"{n:04d}"
        assert set(tracked.points(found[f"cifg_s{n}"])) == tracked.wanted(read_metrics(folder))
    notes = send.run_of(workdir / "trials" / "0001", "x").notes
    assert (notes["variant"], notes["trial"]) == ("cifg", "0001")


def test_following_sends_while_it_trains_and_what_is_left(tmp_path, capsys):
    folder = tmp_path / "a"
    with follow.following([named()], folder, seconds=0.05):
        time.sleep(0.1)  # nothing there yet
        tracked.run(folder, tracked.lines(10))
        until = time.monotonic() + 20
        while not tracked.notebooks(tmp_path) and time.monotonic() < until:
            time.sleep(0.02)
        assert tracked.notebooks(tmp_path)["a"]
        with pytest.raises(UsageError, match="another process sends"), send.alone(named(), folder):
            pass
        tracked.log(folder, tracked.lines(20, 30))
        tracked.end(folder, "diverged", 30)
    assert check_once(folder)[-1] == {"closed": "diverged"}
    assert "6 lines sent" in capsys.readouterr().out


def test_a_tracker_that_fails_or_hangs_stops_nothing(tmp_path, monkeypatch, capsys):
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20))
    monkeypatch.setenv("FULL_AT", "20")
    monkeypatch.setattr(follow, "LAST_SECONDS", 0.3)
    both = [named(), named("HANGING")]
    began = time.monotonic()
    with follow.following(both, folder, seconds=0.01):
        time.sleep(0.2)
    assert time.monotonic() - began < 5
    said = capsys.readouterr().err
    assert said.count("No space left") == 2  # once, and at the end how to send it
    assert f"lstm-jax track --workdir={folder} --tracker={FILE}:NOTEBOOK" in said
    assert "HANGING: no answer" in said
    monkeypatch.delenv("FULL_AT")
    send.send(named(), folder, {})
    check_once(folder)


def test_a_run_that_goes_on_is_not_ended(tmp_path):
    folder = tracked.run(tmp_path / "a", tracked.lines(10))
    tracked.end(folder, "interrupted", 10)
    assert send.ending(folder, last=False) == ""
    assert send.ending(folder, last=True) == "interrupted 10"
    (folder / "status.json").write_text('{"status": "running"}')
    assert send.ending(folder, last=True) == "running 10"
    tracked.end(folder, "pruned", 20)
    assert send.ending(folder, last=False) == "pruned 20"


def test_the_verb(tmp_path, capsys, monkeypatch):
    folder = tracked.run(tmp_path / "a", tracked.lines(10, 20))
    reference = f"--tracker={FILE}:NOTEBOOK"
    monkeypatch.setenv("FULL_AT", "20")
    assert cli.main(["track", f"--workdir={folder}", reference]) == 2
    assert "notebook.py" in capsys.readouterr().err
    monkeypatch.delenv("FULL_AT")
    assert cli.main(["track", f"--workdir={folder}", reference]) == 0
    assert "2 lines of a run sent" in capsys.readouterr().out
    check_once(folder)
    for argv, words in (
        ([f"--workdir={folder}"], "--tracker=mlflow|wandb|trackio"),
        ([f"--workdir={tmp_path}", reference], "holds no run and no sweep"),
        ([reference], "which run?"),
        ([f"--workdir={folder}", "--tracker=mlfow"], "did you mean 'mlflow'?"),
        ([f"--workdir={folder}", f"--tracker={FILE}:not_a_tracker"], "expected a Tracker"),
    ):
        assert cli.main(["track", *argv]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_training_with_a_tracker(tmp_path, capsys):
    argv = [f"--config={ROOT / 'configs/adding.py'}:smoke", f"--workdir={tmp_path / 'a'}"]
    argv += [f"--tracker={FILE}:NOTEBOOK", "--config.train.num_steps=40"]
    assert cli.main(["train", *argv]) == 0
    records = check_once(tmp_path / "a")
    assert records[-1] == {"closed": "completed"}
    assert {"learning_curves"} <= {r.get("figure") for r in records}
    assert cli.main(["train", *argv]) == 0  # completed: nothing to train, nor to send
    assert tracked.notebooks(tmp_path)["a"] == records
    assert cli.main(["train", argv[0], f"--workdir={tmp_path / 'b'}", "--tracker=nosuch"]) == 2
    assert not (tmp_path / "b").exists()
    assert "unknown tracker 'nosuch'" in capsys.readouterr().err


# ---------------------------------------------------------------- before anything runs


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(contract, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=f"pip install 'lstm-jax\\[{name}\\]'"):
        chosen(name, tmp_path / "a")


class Store:
    """Of MLflow: a file that is made step by step."""

    def __init__(self, tracking_uri):
        self.path = Path(tracking_uri.removeprefix("sqlite:///"))

    def search_experiments(self, max_results):
        if not self.path.is_absolute():
            raise ValueError("nonsense. And much more of it\nin several lines")
        self.path.write_text("half of the tables")
        if "FULL_AT" in os.environ:
            raise OSError(28, "No space left on device")
        self.path.write_text("all tables")


def test_a_store_of_mlflow_appears_whole(tmp_path, monkeypatch):
    """What a kill leaves of one that is being made is no store."""
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Store))
    uri, path = mlflow_tracker.uri_of(tmp_path), tmp_path / "mlflow.db"
    monkeypatch.setenv("FULL_AT", "1")
    with pytest.raises(OSError):
        mlflow_tracker._client(uri)
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("FULL_AT")
    mlflow_tracker._client(uri)
    assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, "all tables")]
    path.write_text("with runs")
    mlflow_tracker._create(SimpleNamespace(MlflowClient=Store), path)  # another was first
    assert path.read_text() == "with runs"


def test_no_password_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host:5/db")
    assert mlflow_tracker.place(tmp_path).endswith("postgresql://me:***@host:5/db")
    assert mlflow_tracker.shown("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_when_a_run_began_and_ended(tmp_path):
    """By its own clock, however much later it is sent; one that goes on has no end."""
    earlier = [{"created": "2026-01-01T00:00:00Z"}]
    git = {"commit": "c0ffee"}
    folder = tracked.run(tmp_path / "a", created="2026-01-02T00:00:00Z", earlier=earlier, git=git)
    found = send.run_of(folder, "x")
    assert (found.began, found.ended) == (1767225600.0, 0.0)
    assert found.notes["commit"] == "c0ffee"
    tracked.end(folder)
    assert send.run_of(folder, "x").ended == 1767225600.0 + 86400 + 5
    (folder / "manifest.json").write_text("{}")
    assert send.run_of(folder, "x")[-2:] == (0.0, 0.0)


@pytest.fixture
def all_installed(monkeypatch):
    monkeypatch.setattr(contract, "find_spec", lambda module: importlib.util.find_spec("json"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")


@pytest.mark.parametrize(
    ("name", "environment", "words"),
    [
        ("mlflow", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:{port}"}, "no server at http://127"),
        ("wandb", {"WANDB_MODE": "online"}, "nobody is logged in; run `wandb login`"),
        (
            "wandb",
            {"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:{port}"},
            "does not answer",
        ),
        ("wandb", {"WANDB_MODE": "disabled"}, "WANDB_MODE='disabled': expected online or offline"),
        ("mlflow", {"MLFLOW_TRACKING_URI": "htp://a"}, "htp://a: nonsense; expected http://HOST"),
    ],
)
def test_not_logged_in_or_not_there(tmp_path, monkeypatch, all_installed, name, environment, words):
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Store))
    for key, value in environment.items():
        monkeypatch.setenv(key, value.format(port=free_port()))
    with pytest.raises(UsageError, match=words):
        chosen(name, tmp_path / "a")


@pytest.mark.parametrize("name", TRACKERS)
def test_a_disk_that_is_full(tmp_path, monkeypatch, all_installed, name):
    usage = shutil.disk_usage(tmp_path)._replace(free=3 << 20)
    monkeypatch.setattr(contract.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match="has 3 MiB left, 16 are needed"):
        chosen(name, tmp_path / "a")


def test_wandb_is_offline_unless_logged_in(tmp_path, monkeypatch, all_installed):
    assert weights_and_biases.mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert weights_and_biases.mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert weights_and_biases.mode() == "offline"


def test_a_tracker_may_do_no_more_than_take_scalars(tmp_path):
    found = []
    least = Tracker(open=lambda run: run.name, scalars=lambda run, points: found.extend(points))
    folder = tracked.run(tmp_path / "a", tracked.lines(10))
    tracked.end(folder)
    assert send.send(named()._replace(tracker=least), folder, {}) == 2
    assert [p.step for p in found] == [10, 10]
