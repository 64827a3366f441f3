"""What a run survives by itself: numbers that are not finite, signals, slow steps, a second run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import signals
from lstm_jax.compute import memory
from lstm_jax.config import default_config
from lstm_jax.config import fields as configs
from lstm_jax.errors import UsageError
from lstm_jax.training import nonfinite, program, train, watch
from lstm_jax.training.journal import Journal
from lstm_jax.workdir import lock
from lstm_jax.workdir.files import write_json
from lstm_jax.workdir.lock import Lock
from lstm_jax.workdir.metrics import read_metrics


def small(**changes: Any):
    """A config that trains in a blink; `changes` are fields of `train`."""
    config = default_config("adding")
    config.task.update({"length": 6, "eval_size": 10})
    config.cell.update({"hidden": 4, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.train.update({"num_steps": 40, "batch_size": 4, "log_every": 5})
    config.train.update({"eval_every": 10, "checkpoint_every": 10, **changes})
    return config


def incidents(workdir: Path) -> list[dict]:
    path = workdir / "incidents.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def equal(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


# ---------------------------------------------------------------- not finite


def broken(monkeypatch, bad: Any) -> None:
    """The loss of a step is NaN where `bad(step, params)` says so, in every program built now."""
    build = program.build_task

    def build_broken(config):
        task = build(config)

        def batch(data, key, step):
            return {**task.batch(data, key, step), "when": step}

        def loss(outputs, batch):
            scalar, means = task.loss(outputs, batch)
            if "when" not in batch:
                return scalar, means
            factor = jnp.where(bad(batch["when"], outputs), jnp.nan, 1.0)
            return scalar, {**means, "loss": means["loss"]._replace(total=scalar * factor * 4)}

        return task._replace(batch=batch, loss=loss)

    monkeypatch.setattr(program, "build_task", build_broken)


def pure(config):
    """(state, jitted chunk of ten steps) of a config."""
    built = program.build_program(config)
    hyper = configs.resolve(config).hyper
    state = train.init_state(built, hyper)
    run = jax.jit(partial(train.run_chunk, built, num_steps=10))
    return state, lambda state: run(state, hyper, {})


def test_skip_leaves_out_what_is_not_finite_and_counts_it(monkeypatch):
    broken(monkeypatch, lambda step, _: (step == 3) | (step == 4) | (step == 6))
    state, chunk = pure(small(on_nan="skip"))
    after, metrics = chunk(state)
    assert (int(after.step), bool(after.bad)) == (10, False)
    assert [int(n) for n in after.mishaps] == [3, 0, 0]
    assert int(metrics["skipped_steps"]) == 3 and np.isfinite(metrics["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))


@pytest.mark.slow
def test_skipping_changes_nothing_but_the_count(monkeypatch):
    broken(monkeypatch, lambda step, _: step >= 3)
    state, chunk = pure(small(on_nan="skip", nan_limit=100))
    skipped, _ = chunk(state)
    stopped, _ = pure(small())[1](state)
    equal(skipped.params, stopped.params)
    equal(skipped.opt_state, stopped.opt_state)
    assert (int(skipped.step), int(stopped.step)) == (10, 3)
    assert (bool(skipped.bad), bool(stopped.bad)) == (False, True)


def test_too_many_skips_in_a_row_diverge(monkeypatch):
    broken(monkeypatch, lambda step, _: (step == 1) | (step >= 4))
    state, chunk = pure(small(on_nan="skip", nan_limit=3))
    after, _ = chunk(state)
    assert (int(after.step), bool(after.bad)) == (7, True)
    assert [int(n) for n in after.mishaps] == [4, 3, 0]


@pytest.mark.slow
def test_skips_of_one_trial_leave_the_others_alone():
    config = small(on_nan="skip", nan_limit=100)
    hyper = {k: np.stack([v, v]) for k, v in configs.resolve(config).hyper.items()}
    hyper["optimizer.learning_rate"][1] = np.inf
    built = program.build_program(config)
    states = jax.vmap(partial(train.init_state, built))(hyper)
    run = jax.vmap(partial(train.run_chunk, built, num_steps=5), (0, 0, None))
    after, _ = jax.jit(run)(states, hyper, {})
    assert after.mishaps.skipped.tolist() == [0, 5] and after.step.tolist() == [5, 5]
    equal(jax.tree.map(lambda x: x[1], after.params), jax.tree.map(lambda x: x[1], states.params))


@pytest.mark.slow
def test_rollback_goes_on_from_the_checkpoint_with_a_smaller_rate(monkeypatch, tmp_path):
    """Step 17 fails until the learning rate is a quarter of what it was."""
    real = nonfinite.settle

    def fails(options, state, new, finite):
        sound = (state.step != 17) | (state.mishaps.rollbacks >= 2)
        return real(options, state, new, finite & sound)

    monkeypatch.setattr(nonfinite, "settle", fails)
    summary = train.train(small(on_nan="rollback"), tmp_path)
    assert (summary["status"], summary["step"], summary["rollbacks"]) == ("completed", 40, 2)
    assert [(i["what"], i["step"], i["rollbacks"]) for i in incidents(tmp_path)] == [
        ("rollback", 17, 1),
        ("rollback", 17, 2),
    ]
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(5, 41, 5)), "each step once"
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates, [1e-3] * 2 + [2.5e-4] * 6)


@pytest.mark.slow
def test_rollback_gives_up(monkeypatch, tmp_path, capsys):
    broken(monkeypatch, lambda step, _: step == 17)
    summary = train.train(small(on_nan="rollback", nan_limit=2), tmp_path)
    assert (summary["status"], summary["step"], summary["rollbacks"]) == ("diverged", 17, 2)
    assert "not finite, nor after 2 rollbacks" in capsys.readouterr().out


def test_a_pack_refuses_rollback():
    from lstm_jax.sweep.pack.program import pack_program

    with pytest.raises(UsageError, match="on_nan=rollback is for single runs"):
        pack_program(small(on_nan="rollback"))


# ---------------------------------------------------------------- one process a workdir

HOLDER = """
import sys
from pathlib import Path
from lstm_jax.workdir.lock import Lock
with Lock(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout and holder.stdout.readline() == b"mine\n"
        with pytest.raises(UsageError, match=f"in use by process {holder.pid} on .*--workdir"):
            train.train(small(), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [lock.LOCK]
        monkeypatch.setattr(lock, "_is_held", lambda file: None)  # a file system without locks
        with pytest.raises(UsageError, match=f"in use by process {holder.pid}"), Lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with Lock(tmp_path):
            pass
        monkeypatch.undo()
        with Lock(tmp_path), pytest.raises(UsageError, match="in use"), Lock(tmp_path):
            pass


def test_a_lock_of_another_host_without_locks_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_is_held", lambda file: None)
    them = {**lock.owner(), "host": "another", "boot": "other"}
    (tmp_path / lock.LOCK).write_text(json.dumps(them))
    with pytest.raises(UsageError, match="on another"), Lock(tmp_path):
        pass


def test_the_lock_keeps_room_for_a_last_word(tmp_path):
    with Lock(tmp_path) as held:
        assert held.path.stat().st_size > lock.RESERVE
        held.give_room()
        assert held.path.stat().st_size == 0


# ---------------------------------------------------------------- signals and time


def test_alarms_go_off_once_unless_cleared():
    rang: list[str] = []
    with watch.Alarms(tick=0.01) as alarms:
        alarms.set("never", 0.05, lambda: rang.append("never"))
        alarms.clear("never")
        alarms.set("soon", 0.01, lambda: rang.append("soon"))
        until = time.monotonic() + 10
        while not rang and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
    assert rang == ["soon"]


def test_the_grace_time_begins_with_the_signal():
    left: list[float] = []
    with watch.Alarms(tick=0.01) as alarms:
        with watch.asked_to_stop(alarms, 0.05, lambda: left.append(1)) as asked:
            time.sleep(0.2)
            assert not left and not asked
            os.kill(os.getpid(), signal.SIGUSR1)
            until = time.monotonic() + 10
            while not left and time.monotonic() < until:
                time.sleep(0.01)
            assert left == [1] and asked == ["SIGUSR1"]
        with watch.asked_to_stop(alarms, 5, lambda: left.append(2)):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert not alarms._due, "a run that stopped in time is not ended"


def test_a_second_interrupt_stops_at_once():
    with signals.asked() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        assert asked == ["SIGTERM"]


def test_what_an_interruption_breaks_is_an_interruption():
    with pytest.raises(KeyboardInterrupt), signals.interrupting():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ImportError("numpy._core.multiarray failed to import") from None
    with pytest.raises(ImportError), signals.interrupting():
        raise ImportError("nobody asked")


def test_signals_go_back_to_whom_they_were():
    names = [getattr(signal, name) for name in signals.SIGNALS]
    before = list(map(signal.getsignal, names))
    with signals.handled(signal.SIG_IGN):
        assert set(map(signal.getsignal, names)) == {signal.SIG_IGN}
    assert list(map(signal.getsignal, names)) == before


def test_in_a_thread_signals_are_not_ours():
    found: list = []

    def run() -> None:
        with signals.asked() as asked:
            found.append((asked, signal.getsignal(signal.SIGTERM)))

    thread, before = threading.Thread(target=run), signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert found == [([], before)]


def test_the_watchdog_reports_slow_steps(monkeypatch):
    monkeypatch.setattr(watch, "SLOW_SECONDS", 0.05)
    said: list[tuple] = []
    with watch.Alarms(tick=0.01) as alarms:
        dog = watch.Watchdog(alarms, lambda how, took, usual: said.append((how, took, usual)))
        for _ in range(watch.SLOW_ENOUGH):
            with dog.watch(2):
                time.sleep(0.001)
        assert not said
        with dog.watch(2):
            until = time.monotonic() + 10
            while not said and time.monotonic() < until:
                time.sleep(0.01)
            assert said[0][0] == "running"
            time.sleep(0.05)
    assert [how for how, _, _ in said] == ["running", "done"]
    assert said[1][1] > 10 * said[1][2] > 0


def test_slow_steps_are_an_incident(tmp_path, capsys):
    with Journal(small(), tmp_path) as run:
        run.restore({"x": np.zeros(1)})
        run._slow("running", 12.0, 1.0)
        run._slow("done", 13.0, 1.0)
    assert "still running after 12.0 s; 1 s are usual" in capsys.readouterr().out
    (line,) = incidents(tmp_path)
    assert (line["what"], line["seconds"], line["usual_seconds"]) == ("slow steps", 13.0, 1.0)


@pytest.mark.slow
def test_a_save_that_fails_last_is_no_completed_run(tmp_path, monkeypatch):
    from lstm_jax.workdir import seal as integrity

    real = integrity.write_seal

    def full(folder, seal):
        if seal["step"] == 40:
            raise OSError(28, "No space left on device")
        real(folder, seal)

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write_seal", full)
        with pytest.raises(UsageError, match="step 40 .* step 30 is intact"):
            train.train(small(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and "No space left" in summary["error"]
    assert train.train(small(), tmp_path)["status"] == "completed"


# ---------------------------------------------------------------- strict, memory


@pytest.mark.slow
@pytest.mark.parametrize("field", ["", "recurrent_dropout", "zoneout_h"])
def test_strict_training_runs_clean(tmp_path, field):
    config = small(strict=True)
    if field:
        config.cell[field] = 0.1
    assert train.train(config, tmp_path)["status"] == "completed"


def test_strict_refuses_hidden_transfers_and_second_compilations():
    strict, double = watch.Strict(True), jax.jit(lambda x: 2 * x)
    x, y = jnp.ones(3), jnp.ones(4)
    for _ in range(2):
        with strict("part"):
            double(x)
    with pytest.raises(Exception, match="Disallowed host-to-device"), strict("part"):
        double(np.ones(3, np.float32))
    with pytest.raises(watch.StrictError, match="part was compiled again"), strict("part"):
        double(y)
    with watch.Strict(False)("part"):
        double(np.ones(5, np.float32))


@pytest.mark.slow
def test_strict_finds_leaked_tracers():
    kept: list[Any] = []

    def leaky(x):
        kept.append(x)
        return x

    with pytest.raises(Exception, match="Leaked"), watch.leak_checks(True):
        jax.jit(leaky)(1.0)


def test_what_does_not_fit_is_refused_before_anything_is_created(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda *_: 1000)
    config = small()
    config.cell.hidden = 33
    with pytest.raises(UsageError, match=r"GiB of a device.*cell\.hidden=33"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_compilations_are_counted():
    before = watch.compilations()
    jax.jit(lambda x: x + 1)(jnp.ones(7))
    assert watch.compilations() > before


# ---------------------------------------------------------------- the same run again


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("original") / "run"
    train.train(small(), workdir)
    return workdir


def reproduce(*argv: Any) -> int:
    from lstm_jax import cli

    return cli.main(["train", *map(str, argv)])


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_bit(original, tmp_path, capsys):
    assert reproduce(f"--reproduce={original}", f"--workdir={tmp_path / 'again'}") == 0
    out = capsys.readouterr().out
    assert "step 40: the same to the bit" in out and "reproduced: every checkpoint" in out
    assert "although" not in out


def test_what_differs_is_explained(original, tmp_path, capsys):
    """As if the run had been made with another JAX, and its numbers had come out otherwise."""
    from lstm_jax.training import reproduce as module
    from lstm_jax.workdir import manifest

    again = tmp_path / "again"
    shutil.copytree(original, again)
    told = json.loads((original / "manifest.json").read_text())
    told["versions"]["jax"] = "0.4.1"
    write_json(again / "manifest.json", told)
    manifest.write_manifest(again, small())
    wanted = module.digests(again)
    verdict = module.compare({**wanted, 40: "other"}, again, original)
    assert (verdict.same, verdict.steps[30], verdict.steps[40]) == (False, True, False)
    (line,) = verdict.differences
    assert line == f"versions.jax: 0.4.1, then {jax.__version__} there, {jax.__version__} here"
    module.say(verdict, again)
    out = capsys.readouterr().out
    assert "step 40: another digest" in out and "what was different:\n  versions.jax" in out


def test_reproduce_refuses_what_it_cannot_do(original, tmp_path, capsys):
    assert reproduce(f"--reproduce={original}", "--config=configs/adding.py") == 2
    assert reproduce(f"--reproduce={tmp_path}") == 2
    assert "holds no run" in capsys.readouterr().err
    assert reproduce(f"--reproduce={original}", f"--workdir={original}") == 2
    assert "is the run itself" in capsys.readouterr().err
    (tmp_path / "config.json").write_text((original / "config.json").read_text())
    assert reproduce(f"--reproduce={tmp_path}") == 2
    assert "nothing to compare with" in capsys.readouterr().err


def test_running_out_of_memory_is_a_message(monkeypatch, capsys):
    from lstm_jax import cli

    def dispatch(argv: list[str]) -> int:
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr(cli, "dispatch", dispatch)
    assert cli.main(["train"]) == 2
    assert "out of memory: Unable to allocate 3 TiB" in capsys.readouterr().err
