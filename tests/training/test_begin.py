"""How a run begins: on with changes, past its end, from another run's weights; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lstm_jax import cli
from lstm_jax.training.begin import incidents
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.metrics import read_metrics

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'adding.py'}:smoke"
SMALL = {
    "task.length": 6,
    "task.eval_size": 10,
    "cell.hidden": 4,
    "cell.recurrent_init": "uniform",
    "cell.kernel_init": "uniform",
    "train.batch_size": 4,
    "train.log_every": 5,
    "train.eval_every": 5,
    "parallel.data": 1,
}


def fields(**changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config.{name}={value}" for name, value in changes.items()]


def fresh(workdir, *argv, **changes):
    """Exit code of a run of the small config."""
    return go(CONFIG, *fields(**(SMALL | changes)), f"--workdir={workdir}", *argv)


def go(*argv):
    return cli.main(["train", *map(str, argv)])


def leaves(workdir):
    found = Checkpoints(workdir).leaves()
    assert found
    return found[2]


def digests(workdir):
    return {info.step: info.digest for info in Checkpoints(workdir).steps()}


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """20 steps of the small config."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert fresh(workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """30 steps in one go."""
    workdir = tmp_path_factory.mktemp("longer") / "run"
    assert fresh(workdir, train__num_steps=30) == 0
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


# ---------------------------------------------------------------- past the end


@pytest.mark.slow
def test_the_workdir_alone_is_enough(run, capsys):
    assert go(f"--workdir={run}") == 0
    assert "completed at step 20; nothing to do" in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints" / "20")
    (run / "summary.json").unlink()
    whole = read_metrics(run)
    assert go(f"--workdir={run}") == 0
    assert "going on from step 10" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(run)] == [line["step"] for line in whole]
    assert not incidents(run)


def test_a_workdir_without_a_run(tmp_path, capsys):
    assert go(f"--workdir={tmp_path}") == 2
    assert "holds no run to go on with" in capsys.readouterr().err
    assert go() == 2
    assert "--workdir=DIR" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--extend=10"], fields(train__num_steps=30)])
def test_a_finished_run_goes_on_as_if_it_had_been_longer(run, longer, how, capsys):
    assert go(f"--workdir={run}", *how) == 0
    assert "train.num_steps: 20 up to step 20, 30 from there on" in capsys.readouterr().out
    assert digests(run)[30] == digests(longer)[30], "to the bit"
    assert (summary(run)["status"], summary(run)["step"]) == ("completed", 30)
    (line,) = incidents(run)
    assert (line["what"], line["step"]) == ("goes on", 20)
    assert line["changes"] == {"train.num_steps": [20, 30]}
    assert json.loads((run / "config.json").read_text())["train"]["num_steps"] == 30
    pairs = [(ln["step"], ln["split"]) for ln in read_metrics(run)]
    assert len(pairs) == len(set(pairs)) and (30, "test") in pairs
    assert go(f"--workdir={run}") == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_extend_again_after_a_kill_ends_where_it_should(run, longer, monkeypatch, capsys):
    from lstm_jax.training.journal import Journal

    class Killed(BaseException):
        pass

    def kill(self, state, metrics):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "trained", kill)
        with pytest.raises(Killed):
            go(f"--workdir={run}", "--extend=10")
    assert not (run / "summary.json").exists(), "no report takes it for completed"
    assert go(f"--workdir={run}", "--extend=10") == 0
    assert "has not finished its 30 steps" in capsys.readouterr().out
    assert digests(run)[30] == digests(longer)[30]


@pytest.mark.slow
def test_a_cosine_is_stretched_and_says_so(tmp_path, capsys):
    cosine = {"optimizer__schedule": "cosine", "optimizer__learning_rate": 0.01}
    assert fresh(tmp_path / "run", **cosine) == 0
    assert go(f"--workdir={tmp_path / 'run'}", "--extend=20") == 0
    out = capsys.readouterr().out
    # Half of 40 steps: f + (1 - f) / 2 with f = 0.1, of 0.01.
    assert "schedule cosine of 40 steps: 0.001 before, 0.0055 now" in out
    rates = {ln["step"]: ln["learning_rate"] for ln in read_metrics(tmp_path / "run")
             if ln["split"] == "train"}  # fmt: skip
    steps = np.arange(20, 25)
    wanted = 0.01 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * steps / 40)))
    np.testing.assert_allclose(rates[25], wanted.mean(), rtol=1e-4)


@pytest.mark.slow
def test_a_run_that_stopped_early_is_extended(tmp_path):
    workdir = tmp_path / "run"
    early = {"train__patience": 1, "train__num_steps": 400, "optimizer__learning_rate": 0.3}
    assert fresh(workdir, **early) == 0
    stopped = summary(workdir)["step"]
    assert stopped < 400
    assert go(f"--workdir={workdir}", "--extend=5") == 0
    assert summary(workdir)["step"] == stopped + 5


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--extend=-5"], "at least 1"),
        (["--extend=5", "--config.train.num_steps=40"], "give one"),
        (["--config.optimizer.learning_rate=0.1"], "--extend=STEPS"),
        (["--config.train.num_steps=10"], "20 there, 10 here"),
        (["--config.cell.hidden=5"], "4 there, 5 here"),
        (["--init_optimizer"], "--init_from=RUN"),
    ],
)
def test_what_a_finished_run_refuses(finished, argv, words, capsys):
    assert go(f"--workdir={finished}", *argv) == 2
    assert words in capsys.readouterr().err
    assert not incidents(finished) and summary(finished)["step"] == 20


# ---------------------------------------------------------------- on, with changes


def interrupted(run):
    """As if the run had been stopped at step 10."""
    shutil.rmtree(run / "checkpoints" / "20")
    (run / "summary.json").unlink()


@pytest.mark.slow
def test_another_learning_rate_midway(run, capsys):
    interrupted(run)
    assert go(f"--workdir={run}", "--config.optimizer.learning_rate=0.001") == 0
    assert "optimizer.learning_rate: 0.005 up to step 10, 0.001" in capsys.readouterr().out
    (line,) = incidents(run)
    assert (line["step"], line["changes"]) == (10, {"optimizer.learning_rate": [0.005, 0.001]})
    rates = [ln["learning_rate"] for ln in read_metrics(run) if ln["split"] == "train"]
    np.testing.assert_allclose(rates, [0.005, 0.005, 0.001, 0.001])
    again = run.parent / "again"
    assert go(f"--reproduce={run}", f"--workdir={again}") == 2
    assert "learning_rate: 0.005 up to step 10, 0.001 from there on" in capsys.readouterr().out


def test_the_default_workdir_is_not_gone_on_with_by_accident(run, capsys, monkeypatch):
    interrupted(run)
    monkeypatch.setattr("lstm_jax.commands.train.default_workdir", lambda spec: str(run))
    changed = fields(**(SMALL | {"optimizer__learning_rate": 0.001}))
    assert go(CONFIG, *changed) == 2
    err = capsys.readouterr().err
    assert "optimizer.learning_rate: 0.005 there, 0.001 here" in err
    assert f"under optimizer.learning_rate=0.001: add --workdir={run}" in err


@pytest.mark.slow
def test_a_diverged_run_goes_on_with_a_smaller_rate(tmp_path, capsys):
    workdir = tmp_path / "run"
    wild = {"optimizer__name": "sgd", "optimizer__clip_norm": 0, "optimizer__learning_rate": 1e30}
    assert fresh(workdir, **wild) == 3
    assert go(f"--workdir={workdir}", "--extend=5") == 2
    assert "learning_rate=SMALLER" in capsys.readouterr().err
    assert go(f"--workdir={workdir}", "--config.optimizer.learning_rate=1e-9") in (0, 3)
    assert incidents(workdir)[0]["changes"] == {"optimizer.learning_rate": [1e30, 1e-9]}


def test_refusals_say_what_does_it(run, capsys):
    assert fresh(run, seed=4) == 2
    err = capsys.readouterr().err
    assert f"lstm-jax train --workdir={run}" in err and f"--init_from={run}" in err
    assert fresh(run, cell__hidden=5) == 2
    assert "--init_from" not in capsys.readouterr().err, "weights of other shapes"


# ---------------------------------------------------------------- from another run's weights


@pytest.mark.slow
def test_init_from_takes_the_best_weights(finished, tmp_path, capsys):
    """A learning rate too small to change them, so the end is the start."""
    workdir = tmp_path / "tuned"
    still = {"optimizer__learning_rate": 1e-30, "seed": 7, "train__num_steps": 5}
    assert fresh(workdir, f"--init_from={finished}", **still) == 0
    best = {n: x for n, x in leaves(finished).items() if n.startswith("best/params/")}
    ours = leaves(workdir)
    for name, wanted in best.items():
        np.testing.assert_array_equal(ours[name.removeprefix("best/")], wanted)
    told = json.loads((workdir / "manifest.json").read_text())["init_from"]
    assert told["run"] == str(finished.resolve()) and told["step"] == int(
        leaves(finished)["best/step"]
    )
    assert f"starting from {finished.resolve()}" in capsys.readouterr().out


@pytest.mark.slow
def test_init_from_with_the_optimizer(finished, tmp_path):
    """Newest weights, Adam's averages, and a schedule that begins again."""
    workdir = tmp_path / "tuned"
    still = {"optimizer__learning_rate": 1e-30, "optimizer__beta2": 0.5, "train__num_steps": 5}
    assert fresh(workdir, f"--init_from={finished}", "--init_optimizer", **still) == 0
    theirs, ours = leaves(finished), leaves(workdir)
    for name in theirs:
        if name.startswith("params/"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    counts = {n: int(x) for n, x in ours.items() if n.startswith("opt_state") and "count" in n}
    assert sorted(counts.values()) == [5, 25], "the schedule's, and Adam's"


@pytest.mark.slow
def test_init_from_holds_through_a_kill_and_a_reproduction(finished, tmp_path, capsys):
    once, workdir = tmp_path / "once", tmp_path / "tuned"
    assert fresh(once, f"--init_from={finished}", seed=7) == 0
    shutil.copytree(once, workdir)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "summary.json").unlink()  # as if killed before its first checkpoint
    assert go(f"--workdir={workdir}") == 0
    assert digests(workdir)[20] == digests(once)[20]
    assert go(f"--reproduce={once}", f"--workdir={tmp_path / 'again'}") == 0
    assert fresh(tmp_path / "plain", seed=7) == 0
    assert digests(tmp_path / "plain")[20] != digests(once)[20]


def test_init_from_refuses_what_does_not_fit(finished, run, tmp_path, capsys):
    assert fresh(tmp_path / "a", f"--init_from={finished}", cell__hidden=5) == 2
    assert "layer_0/forward/recurrent_kernel" in (err := capsys.readouterr().err), err
    assert fresh(tmp_path / "a", f"--init_from={tmp_path / 'none'}") == 2
    assert not (tmp_path / "a").exists()
    assert fresh(run, f"--init_from={finished}") == 2
    assert "holds a run that started afresh" in capsys.readouterr().err
