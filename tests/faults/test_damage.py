"""Checkpoints that were damaged on disk: every one is found, and the run ends as if none were."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import faulty
import pytest

from lstm_jax.training import train

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """A run that was killed after step 65, with checkpoints 40, 50 and 60."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        faulty.stopped_at(workdir, 65, train.train, config, patch)
    return workdir


def flip(dice: random.Random, step: Path) -> None:
    path = some_file(dice, step)
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def truncate(dice: random.Random, step: Path) -> None:
    path = some_file(dice, step)
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def zero(dice: random.Random, step: Path) -> None:
    path = some_file(dice, step)
    path.write_bytes(bytes(path.stat().st_size))


def delete(dice: random.Random, step: Path) -> None:
    some_file(dice, step).unlink()


def unmark(dice: random.Random, step: Path) -> None:
    (step / "integrity.json").unlink()


DAMAGES = (flip, truncate, zero, delete, unmark)


def some_file(dice: random.Random, step: Path) -> Path:
    files = [p for p in sorted(step.rglob("*")) if p.is_file() and p.stat().st_size]
    return dice.choice(files)


@pytest.mark.parametrize("case", faulty.cases(200, least=5))
def test_damage_is_found_and_the_run_ends_right(case, config, stopped, whole, tmp_path, capsys):
    dice, workdir = random.Random(case), tmp_path / "run"
    shutil.copytree(stopped, workdir)
    hit = [60, 50] if dice.random() < 0.2 else [60]
    for step in hit:
        DAMAGES[case % len(DAMAGES)](dice, workdir / "checkpoints" / str(step))
    train.train(config, workdir)
    said = capsys.readouterr()
    for step in hit:
        assert f"checkpoint {step} is corrupt: " in said.err
        assert (workdir / "checkpoints" / "corrupt" / f"{step}-1").is_dir()
    assert f"going on from step {min(hit) - 10}" in said.out
    lines = (workdir / "incidents.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == hit
    faulty.same(workdir, whole)
