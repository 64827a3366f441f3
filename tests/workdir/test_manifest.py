"""What a run says of itself: valid JSON, written whole, and where it came from."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lstm_jax.errors import UsageError
from lstm_jax.training import saved
from lstm_jax.training.journal import finished
from lstm_jax.workdir import files, manifest
from lstm_jax.workdir.files import write_json


def config() -> ConfigDict:
    return ConfigDict(
        {"seed": 3, "task": {"name": "adding"}, "cell": {"name": "lstm", "hidden": 64}}
    )


def test_json_is_valid_whatever_goes_in(tmp_path):
    value = {
        "nan": float("nan"), "inf": np.float32("-inf"), "i": np.int64(1), "b": np.bool_(True),
        "a": jnp.arange(2), "t": (1, 2), "path": Path("x"), 5: None,
        "bf": jnp.ones(1, jnp.bfloat16),
    }  # fmt: skip
    write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "nan": None, "inf": None, "i": 1, "b": True,
        "a": [0, 1], "t": [1, 2], "path": "x", "bf": [1.0], "5": None,
    }  # fmt: skip


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        write_json(tmp_path / "x.json", 2)
    assert os.listdir(tmp_path) == ["x.json"] and (tmp_path / "x.json").read_text() == "1\n"


@pytest.mark.parametrize("write", [files.write_text, files.write_bytes, files.replace_json])
def test_a_file_is_the_old_or_the_new_one_and_nothing_lies_beside_it(tmp_path, monkeypatch, write):
    old, new = {"write_bytes": (b"1", b"2")}.get(write.__name__, ("1", "2"))
    place = tmp_path / "x.json"
    write(place, old)

    def full(*_):
        raise OSError(28, "No space left on device")

    before = place.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        with pytest.raises((UsageError, OSError), match="No space left"):
            write(place, new)
    assert place.read_bytes() == before
    write(place, new)
    assert place.read_bytes() == before.replace(b"1", b"2") and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_is_not_created_again(tmp_path, monkeypatch, links):
    def without_links(*_):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(files.os, "link", without_links)
    assert files.create_json(tmp_path / "x.json", {"a": 1})
    assert not files.create_json(tmp_path / "x.json", {"a": 2})
    assert files.read_json(tmp_path / "x.json") == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff", "[" * 99_999])
@pytest.mark.parametrize("read", [files.read_json, lambda place: saved.recorded(place.parent)])
def test_a_damaged_file_reads_as_none(tmp_path, read, text):
    place = tmp_path / "manifest.json"
    assert read(place) == {}
    place.write_text(text, encoding="latin-1")
    assert read(place) == {}


def test_a_damaged_summary_is_named_before_a_run_goes_on(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UsageError, match=r"summary\.json is damaged"):
        finished(config(), tmp_path)


def test_the_manifest_says_where_a_run_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    argv = ["/somewhere/bin/lstm-jax", "train", "--config=configs/airline.py"]
    written = manifest.write_manifest(tmp_path, config(), argv, attempt=2)
    read = json.loads((tmp_path / "manifest.json").read_text())
    assert read == json.loads(json.dumps(written))
    assert read["command"] == ["lstm-jax", "train", "--config=configs/airline.py"]
    assert read["seed"] == 3 and read["attempt"] == 2 and len(read["config_hash"]) >= 16
    assert read["versions"]["jax"] and read["versions"]["python"]
    assert read["devices"]["backend"] == "cpu" and read["devices"]["count"] >= 1
    assert read["flags"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert set(read["git"]) >= {"commit", "dirty", "diff"}
    assert str(Path(manifest.__file__).parent.parent) not in json.dumps(read["command"])


def test_config_json_is_the_resolved_config(tmp_path):
    manifest.write_config(tmp_path, config())
    assert json.loads((tmp_path / "config.json").read_text()) == config().to_dict()


def test_a_checkout_is_known_by_its_commit_and_its_diff(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    source = tmp_path / "manifest.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(manifest, "__file__", str(source))
    fresh = manifest.git_state.__wrapped__
    assert fresh()["commit"] == ""
    git("init", "-q")
    git("add", "manifest.py")
    git("commit", "-q", "-m", "one")
    assert len(fresh()["commit"]) == 40 and fresh()["dirty"] is False and fresh()["diff"] == ""
    source.write_text("x = 2\n")
    assert fresh()["dirty"] is True and "+x = 2" in fresh()["diff"]
