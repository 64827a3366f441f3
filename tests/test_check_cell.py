"""`check_cell` and `lstm-jax check`: what breaks a law is found, at the smallest sizes that do."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import Cell, cli
from lstm_jax.cells import rnn
from lstm_jax.config import default_config
from lstm_jax.tasks.contract import check_task
from lstm_jax.tasks.task import Mean
from lstm_jax.testing import RUNS, Broken, check_cell
from lstm_jax.training.program import build_task

OWN = Path(__file__).parent / "own" / "mine.py"


def changed(change):
    """A simple recurrent network whose step's (params, carry, y) are what `change` makes of it."""

    def make(hidden: int) -> Cell:
        cell = rnn(hidden)

        def update(params, carry, gate):
            return change(params, *cell.update(params, carry, gate))

        return cell._replace(update=update)

    return make


def mixed(params, carry, y):
    return carry, y + jnp.mean(y, axis=0)  # the rows of a batch see each other


def widened(params, carry, y):
    return carry._replace(h=carry.h.astype("float64")), y


def stopped(params, carry, y):
    return carry, jax.lax.stop_gradient(y)


def torn(params, carry, y):
    return carry, y @ y


FAULTS = {
    mixed: ("law 3: a batch is its rows, at T=1 B=2 D=1 H=1", "law 1: values of a Python loop"),
    stopped: ("laws 1 and 5: gradients of difference quotients, at T=1 B=1 D=1 H=1",),
    widened: ("law 6: one trace, carry types a fixed point, at T=1 B=1 D=1 H=1",),
    torn: (f"{RUNS}, at T=1 B=2 D=1 H=1",),
}


SOME = [f if f is torn else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS]


@pytest.mark.parametrize("fault", SOME, ids=lambda f: f.__name__)
def test_what_breaks_a_law_is_found_at_its_smallest(fault):
    with pytest.raises(Broken) as broken:
        check_cell(changed(fault))
    for words in FAULTS[fault]:
        assert words in str(broken.value)


@pytest.mark.slow
def test_a_reference_that_differs_is_law_one(capsys):
    def reference(params, carry, x):
        h = jnp.tanh(x @ params["kernel"])  # forgets to look at h
        return carry._replace(h=h), h

    with pytest.raises(Broken, match="law 1: values of a Python loop, at T=1 B=1 D=1 H=1"):
        check_cell(rnn, reference)


@pytest.mark.slow
def test_a_check_on_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("cell", "task", "study"):
        assert cli.main(["new", kind, f"my{kind}"]) == 0
    assert cli.main(["check", "mycell.py:mycell", "--reference=mycell.py:reference"]) == 0
    assert cli.main(["check", "mytask.py:mytask"]) == 0
    assert cli.main(["sweep", "plan", "--study=mystudy:smoke", "--nomeasure"]) == 0
    said = capsys.readouterr().out
    assert "all laws are kept, beside its reference" in said
    assert "kept    every split's batches serve the same loss" in said
    assert "12 trials in 3 packs" in said
    took = re.search(r"in (\d+) s", said)
    assert took and int(took[1]) < 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mygate.py:mygate", "mygate.py:swish", f"{OWN}:leaky", "gru"])
def test_what_else_may_be_checked(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "gate", "mygate"]) == 0
    assert cli.main(["check", name]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["check"], "check what? lstm-jax check FILE.py:NAME"),
        (["check", "lsmt"], "did you mean 'lstm'?"),
        (["check", f"{OWN}:OPTIONS"], "it is a tuple, expected a constructor"),
        (["new", "cell"], "expected a kind and a name"),
        (["new", "cel", "a"], "did you mean 'cell'?"),
        (["new", "cell", "a-b"], "'a-b' is no name in Python"),
        (["new", "cell", "there"], "there.py exists already"),
    ],
)
def test_wrong_words(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.py").touch()
    assert cli.main(argv) == 2
    assert words in capsys.readouterr().err


# ---------------------------------------------------------------- tasks


@pytest.mark.slow
def test_the_promises_of_a_task():
    config = default_config("adding")
    config.task.length, config.task.eval_size, config.train.batch_size = 4, 8, 4
    task = build_task(config)
    assert not any(check_task(task).values())

    def loss(outputs, batch):
        return jnp.log(outputs.sum() * 0), {"mse": Mean(outputs.sum(), jnp.float32(1))}

    def steps_first(data, key, step):
        return {"inputs": jnp.zeros((4, 2))}

    broken = {
        "sizes": (task._replace(batch=steps_first), "inputs are (4, 2), expected [T, B, 2]"),
        "loss": (task._replace(loss=loss), "the means are mse; expected one called loss"),
        "valid": (task._replace(splits={"test": task.splits["test"]}), "no split valid"),
        "baselines": (task._replace(baselines={"tset": {}}), "baselines of tset"),
    }
    for wrong, words in broken.values():
        assert words in " ".join(check_task(wrong).values())
