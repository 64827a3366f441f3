"""Configs with mistakes in them: a message that names the field, or a run that works."""

from __future__ import annotations

import random
import resource
import signal
from functools import partial
from pathlib import Path

import faulty
import jax
import pytest

from lstm_jax import cli
from lstm_jax.compute import memory
from lstm_jax.config.fields import flatten
from lstm_jax.config.overrides import read_config
from lstm_jax.training import train

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2] / "configs"
NAMES = ("adding", "airline", "copy_memory", "counting", "parity", "random_data", "temporal_order")
BATCH = 10
SECONDS = 300

WORDS = ("", "abc", "None", "tru", "../../x", "a;b", "ключ", "a" * 300, "[1,2", "{}", "%s", "'")
NUMBERS = ("0", "-1", "-0.5", "0.5", "1", "1.5", "2", "3", "7", "1000", "1e6", "1e30", "1e400")
EDGES = ("nan", "inf", "-inf", "2147483647", "2147483648", "-2147483649", "1e19", "0x10", "1_0")


class Ready(BaseException):
    """Everything was built and traced; nothing was created."""


def mutation(dice: random.Random, flat: dict) -> tuple[str, str, str]:
    """(field that is meant, field as written, value)."""
    field = dice.choice(sorted(flat))
    value = str(flat[field]) if dice.random() < 0.2 else dice.choice(WORDS + NUMBERS + EDGES)
    if dice.random() > 0.25:
        return field, field, value
    i = dice.randrange(len(field))
    typo = dice.choice((field[:i] + field[i + 1 :], field[:i] + "x" + field[i:], field[::-1]))
    return field, typo, value


@pytest.fixture
def prepared(monkeypatch):
    """`train` up to the moment when it would create something, without compiling."""

    def traced(program, run_chunk, run_short, progress):
        def chunk(num_steps, *like):
            memory.check_arrays(like, 1, program.config)
            jax.eval_shape(partial(run_chunk, num_steps=num_steps), *like)

        return chunk

    def ready(*_):
        raise Ready

    monkeypatch.setattr(train, "ahead_of_time", traced)
    monkeypatch.setattr(train, "Journal", ready)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def late(number, frame):
    raise TimeoutError(f"no answer within {SECONDS} s")


def judge(spec: str, written: str, value: str, workdir: Path, capsys) -> str:
    """ready | refused; fails on anything else."""
    argv = ["train", f"--config={spec}", f"--config.{written}={value}", f"--workdir={workdir}"]
    signal.alarm(SECONDS)
    try:
        code = cli.main(argv)
    except Ready:
        return "ready"
    finally:
        signal.alarm(0)
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said, f"{argv[1:3]}: {code}\n{said[-2000:]}"
    section, _, leaf = written.rpartition(".")
    name = section if leaf == "name" else leaf
    assert name in said or name.replace("_", " ") in said, f"{argv[1:3]}: {said}"
    return "refused"


@pytest.mark.parametrize("batch", faulty.cases(1000 // BATCH, least=5))
def test_a_mutated_config_is_refused_by_name_or_runs(batch, prepared, tmp_path, capsys):
    signal.signal(signal.SIGALRM, late)
    for case in range(batch * BATCH, (batch + 1) * BATCH):
        dice = random.Random(case)
        spec = f"{ROOT / dice.choice(NAMES)}.py:smoke"
        _, written, value = mutation(dice, flatten(read_config(spec)))
        judge(spec, written, value, tmp_path / "run", capsys)
        assert not (tmp_path / "run").exists()
