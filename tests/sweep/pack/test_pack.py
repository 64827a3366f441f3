"""Packs: a trial in a pack is the trial alone; what happens to one does not touch another."""

import csv
import json
import shutil

import numpy as np
import pytest
from sweeps import After, digests, lines, planned, summary

from lstm_jax import cli
from lstm_jax.report.collect import read_sweep
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder, read_plan, trial_folder
from lstm_jax.sweep.follow import status
from lstm_jax.sweep.follow.results import results, write_results
from lstm_jax.sweep.pack import program
from lstm_jax.sweep.workers import worker
from lstm_jax.sweep.workers.worker import work
from lstm_jax.training import train

RATES = (1e-3, 3e-3, 1e-2)
TRIALS = """
    yield from grid({"optimizer.learning_rate": (1e-3, 3e-3, 1e-2), "seed": range(4)})
"""


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Those of one sweep serve the next: here files of the same name are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "forget", lambda: None)
        yield
    program.forget()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Twelve trials in a pack, on the eight devices of the tests."""
    root = tmp_path_factory.mktemp("sweep")
    plan = planned(root / "study", root / "w", trials=TRIALS)
    assert work(root / "w") == 0
    return plan, root / "w"


@pytest.mark.slow
def test_every_trial_leaves_what_a_run_leaves(sweep):
    plan, workdir = sweep
    assert len(plan.packs) == 1
    for trial in range(12):
        folder = workdir / "trials" / f"{trial:04d}"
        names = {path.name.split(".")[0] for path in folder.iterdir()}
        assert names == {
            "config", "manifest", "metrics", "summary", "status", "checkpoints", "tensorboard"
        }  # fmt: skip
        found = summary(workdir, trial)
        assert (found["status"], found["step"]) == ("completed", 40)
        assert json.loads((folder / "status.json").read_text())["attempt"] == 1
        steps = [line["step"] for line in lines(workdir, trial) if line["split"] == "train"]
        assert steps == list(range(5, 41, 5))


@pytest.mark.slow
def test_commands_work_on_a_trial(sweep, capsys, tmp_path):
    _, workdir = sweep
    trial = workdir / "trials" / "0005"
    assert cli.main(["evaluate", f"--workdir={trial}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["test"]["loss"]
    assert found == pytest.approx(summary(workdir, 5)["metrics"]["test"]["loss"], rel=1e-5)
    assert cli.main(["checkpoint", f"--workdir={trial}"]) == 0
    assert "40  ok" in capsys.readouterr().out
    assert cli.main(["predict", f"--workdir={trial}", f"--out={tmp_path}"]) == 0
    before = sorted(path.name for path in trial.iterdir())
    assert train.train(read_plan(workdir).config(5), trial)["status"] == "completed"
    assert before == sorted(path.name for path in trial.iterdir())


def test_results_have_a_row_a_trial(sweep):
    plan, workdir = sweep
    with write_results(plan, workdir).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(12))
    assert [float(row["optimizer.learning_rate"]) for row in rows[::4]] == list(RATES)
    for number, row in enumerate(rows):
        assert row["status"] == "completed"
        tested = summary(workdir, number)["metrics"]["test"]["loss"]
        assert float(row["test/loss"]) == tested
        assert float(row["wall_seconds"]) > 0 and int(row["parameters"]) > 0
        last = [line for line in lines(workdir, number) if line["split"] == "valid"][-1]
        assert float(row["last valid/loss"]) == last["loss"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(workdir / "results.parquet").to_pydict()
    assert table["valid/loss"] == [float(row["valid/loss"]) for row in rows]


def test_status_knows_the_best(sweep, capsys):
    plan, workdir = sweep
    assert cli.main(["sweep", "status", f"--workdir={workdir}"]) == 0
    out = capsys.readouterr().out
    assert "12 trials: 12 completed" in out
    heads = next(line for line in out.splitlines() if line.split()[:1] == ["pack"])
    row = next(line.split() for line in out.splitlines() if line.split()[1:2] == ["completed"])
    assert "still train" in heads and "ended" not in heads  # a completed pack said: ended 0
    assert row[:3] == ["0", "completed", "12"] and "0" not in row[3:]
    values = [summary(workdir, n)["metrics"]["valid"]["loss"] for n in range(12)]
    found = status.packs(plan, workdir, claims.Watcher())
    scored = status.best(plan, found)
    assert scored
    value, trial = scored
    assert trial == int(np.argmin(values))
    assert value == pytest.approx(min(values), rel=1e-5)


@pytest.mark.slow
def test_stopped_and_resumed_is_as_if_never_stopped(sweep, tmp_path):
    plan, undisturbed = sweep
    workdir = tmp_path / "w"
    workdir.mkdir()
    shutil.copy(undisturbed / "sweep.json", workdir)
    for chunks in (2, 4):
        assert work(workdir, stop=After(workdir, chunks)) == 4
        assert claims.Watcher().state(pack_folder(workdir, 0)) == "pending"
    assert status.trials(plan, workdir, status.packs(plan, workdir, claims.Watcher())) == {
        "pending": 12
    }
    assert work(workdir) == 0
    assert digests(workdir) == digests(undisturbed)
    for trial in range(12):
        assert lines(workdir, trial) == lines(undisturbed, trial)


@pytest.mark.slow
def test_cancelled_and_resumed(sweep, tmp_path):
    _, undisturbed = sweep
    workdir = tmp_path / "w"
    workdir.mkdir()
    shutil.copy(undisturbed / "sweep.json", workdir)
    (workdir / "cancelled").touch()
    assert work(workdir) == 4
    (workdir / "cancelled").unlink()
    assert work(workdir) == 0
    assert digests(workdir) == digests(undisturbed)


@pytest.mark.slow
def test_a_damaged_pack_checkpoint_costs_steps_and_nothing_else(sweep, tmp_path):
    _, undisturbed = sweep
    workdir = tmp_path / "w"
    workdir.mkdir()
    shutil.copy(undisturbed / "sweep.json", workdir)
    assert work(workdir, stop=After(workdir, 6)) == 4
    newest = pack_folder(workdir, 0) / "checkpoints" / "20"
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))
    assert work(workdir) == 0
    assert digests(workdir) == digests(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [0, 5])
def test_a_trial_in_a_pack_is_the_trial_alone(tmp_path, pack):
    trials = '    yield from grid({"optimizer.learning_rate": (1e-3, 1e-2), "seed": (0, 7)})\n'
    trials += '    yield {"optimizer.learning_rate": 3e-3, "seed": 1}'
    config = "config.train.num_steps = 200\nconfig.model.dropout = 0.0\nconfig.train.log_every = 50"
    config += "\nconfig.train.eval_every = config.train.checkpoint_every = 100"
    config += "\nconfig.model.head_dropout = 0.1"
    plan = planned(tmp_path / "study", tmp_path / "w", pack=pack, trials=trials, config=config)
    assert work(tmp_path / "w") == 0
    for trial in (1, 4):
        alone = train.train(plan.config(trial), tmp_path / f"alone{trial}")["metrics"]
        ours = summary(tmp_path / "w", trial)["metrics"]
        assert ours["train"]["loss"] == pytest.approx(alone["train"]["loss"], rel=1e-4)
        for split in ("valid", "test"):
            for name, value in alone[split].items():
                assert ours[split][name] == pytest.approx(value, rel=1e-4), (split, name)


@pytest.mark.slow
def test_periods_of_a_pack_may_be_anything(tmp_path):
    """The losses are those of even periods."""
    found = {}
    for name, every in (("odd", 7), ("even", 10)):
        config = f"config.train.num_steps = 20\nconfig.train.checkpoint_every = {every}"
        trials = '    yield from grid({"seed": range(2)})'
        planned(tmp_path / f"study_{name}", tmp_path / name, trials=trials, config=config)
        assert work(tmp_path / name) == 0
        found[name] = {ln["step"]: ln["loss"] for ln in valid_lines(tmp_path / name)}
    assert list(found["odd"]) == [5, 10, 15, 20]
    assert found["odd"] == pytest.approx(found["even"], rel=1e-5)


def valid_lines(workdir):
    return [ln for ln in lines(workdir, 1) if ln["split"] == "valid"]


@pytest.mark.slow
def test_a_trial_that_diverges_freezes_alone(tmp_path):
    config = 'config.optimizer.name = "sgd"'
    rates = {"calm": (1e-3,) * 5, "wild": (1e-3, 1e-3, 1e37, 1e-3, 1e-3)}
    for name, values in rates.items():
        pairs = list(enumerate(values))
        trials = f'    for seed, rate in {pairs}:\n        yield {{"seed": seed, '
        trials += '"optimizer.learning_rate": rate}'
        if name == "calm":
            trials += '\n    yield {"seed": 5, "optimizer.learning_rate": 2e-3}'
        else:
            trials += '\n    yield {"seed": 5, "optimizer.learning_rate": 1e38}'
        planned(tmp_path / name, tmp_path / name / "w", trials=trials, config=config)
        assert work(tmp_path / name / "w") == 0
    calm, wild = digests(tmp_path / "calm" / "w"), digests(tmp_path / "wild" / "w")
    for trial in (0, 1, 3, 4):
        assert calm[trial] == wild[trial]
        assert lines(tmp_path / "calm" / "w", trial) == lines(tmp_path / "wild" / "w", trial)
    for trial in (2, 5):
        assert wild[trial][0] == "diverged"
        assert wild[trial][1] < 40
        assert summary(tmp_path / "wild" / "w", trial)["step"] == wild[trial][1]


@pytest.mark.slow
def test_a_diverged_trial_is_what_it_is_alone(tmp_path):
    config = 'config.optimizer.name = "sgd"'
    trials = '    yield from grid({"optimizer.learning_rate": (1e-3, 1e37)})'
    plan = planned(tmp_path / "s", tmp_path / "w", trials=trials, config=config)
    assert work(tmp_path / "w") == 0
    alone = train.train(plan.config(1), tmp_path / "alone")
    ours = summary(tmp_path / "w", 1)
    assert (
        (ours["status"], ours["step"])
        == (alone["status"], alone["step"])
        == ("diverged", ours["step"])
    )


@pytest.mark.slow
def test_one_that_stops_early_stops_counting(tmp_path):
    config = 'config.train.patience = 2\nconfig.optimizer.name = "sgd"'
    trials = '    yield from grid({"optimizer.learning_rate": (1e-12, 1e-2), "seed": range(2)})'
    plan = planned(tmp_path / "s", tmp_path / "w", trials=trials, config=config)
    assert work(tmp_path / "w") == 0
    alone = train.train(plan.config(0), tmp_path / "alone")
    ours = summary(tmp_path / "w", 0)
    assert (ours["status"], ours["step"]) == ("completed", alone["step"])
    assert ours["step"] < 40
    assert max(line["step"] for line in lines(tmp_path / "w", 0)) == ours["step"]


HALVED = '\nHALVING = {"rungs": (10, 25), "keep": 0.5}\n'
RATED = '{"optimizer.learning_rate": (1e-6, 1e-4, 1e-3, 1e-2), "seed": range(2)}'
EIGHT = f"    yield from grid({RATED})"


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    root = tmp_path_factory.mktemp("halved")
    planned(root / "s", root / "w", trials=EIGHT, more=HALVED)
    assert work(root / "w") == 0
    return root / "w"


@pytest.mark.slow
def test_successive_halving_drops_the_worst(halved):
    found = {n: (summary(halved, n)["status"], summary(halved, n)["step"]) for n in range(8)}
    by_step = {step: {n for n in found if found[n][1] == step} for step in (10, 25, 40)}
    assert [len(by_step[step]) for step in (10, 25, 40)] == [4, 2, 2]
    assert {found[n][0] for n in by_step[10] | by_step[25]} == {"pruned"}
    assert {found[n][0] for n in by_step[40]} == {"completed"}

    def best(trial, until):
        valid = [x for x in lines(halved, trial) if x["split"] == "valid" and x["step"] <= until]
        return min(x["loss"] for x in valid)

    for step, rest in ((10, by_step[25] | by_step[40]), (25, by_step[40])):
        assert min(best(n, step) for n in by_step[step]) >= max(best(n, step) for n in rest)


@pytest.mark.slow
def test_halving_resumes_exactly(halved, tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    shutil.copy(halved / "sweep.json", workdir)
    for chunks in (1, 2, 2, 2):
        assert work(workdir, stop=After(workdir, chunks + 1)) == 4
    assert work(workdir) == 0
    assert digests(workdir) == digests(halved)
    for trial in range(8):
        assert lines(workdir, trial) == lines(halved, trial)


def test_rungs_that_cannot_be(tmp_path, capsys):
    from sweeps import study

    for halving in ('{"rungs": (7,)}', '{"rungs": (40,)}', '{"keep": 1.0}', '{"runs": ()}'):
        folder = study(tmp_path / "s", more=f"\nHALVING = {halving}\n")
        assert cli.main(["sweep", "plan", f"--study={folder}"]) == 2
        assert "HALVING" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pack_that_fails_says_why_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    trials = '    yield from grid({"cell.gates": ("lstm", "cifg"), "seed": range(2)})'
    plan = planned(tmp_path / "s", tmp_path / "w", trials=trials)
    from lstm_jax.sweep.pack import loop as pack

    real = pack.check_memory

    def crowded(compiled, num_trials):
        if tmp_path.joinpath("crowded").exists():
            tmp_path.joinpath("crowded").unlink()
            raise MemoryError
        return real(compiled, num_trials)

    monkeypatch.setattr(pack, "check_memory", crowded)
    (tmp_path / "crowded").touch()
    assert work(tmp_path / "w") == 0
    found = status.packs(plan, tmp_path / "w", claims.Watcher())
    assert [p.state for p in found] == ["failed", "completed"]
    assert "--pack=1" in found[0].error
    assert cli.main(["sweep", "status", f"--workdir={tmp_path / 'w'}"]) == 0
    out = capsys.readouterr().out
    assert "2 completed, 2 failed" in out
    assert "out of memory with 2 trials" in out


def test_a_pack_too_large_for_a_device_says_how_many_fit(monkeypatch):
    from lstm_jax.compute import memory
    from lstm_jax.errors import UsageError

    monkeypatch.setattr(memory, "memory_limit", lambda: 2**30)
    monkeypatch.setattr(memory, "peak_bytes", lambda compiled: 4 * 2**30)
    with pytest.raises(UsageError, match="--pack=16"):
        memory.check_memory(None, 64)


def test_packs_are_cut_to_the_memory_there_is(tmp_path, monkeypatch):
    from lstm_jax.compute import memory
    from lstm_jax.errors import UsageError
    from lstm_jax.sweep.pack import cost
    from lstm_jax.sweep.pack import memory as estimate

    plan = planned(tmp_path / "s", tmp_path / "w", trials=TRIALS)
    monkeypatch.setattr(estimate, "trial_bytes", lambda program, hyper: (100, 50))
    monkeypatch.setattr(memory, "host_memory", lambda: 550)
    assert [len(p) for p in cost.fitted(plan).packs] == [4, 4, 4]
    monkeypatch.setattr(memory, "host_memory", lambda: 180)
    with pytest.raises(UsageError, match="one trial needs about"):
        cost.fitted(plan)


def test_what_decides_is_a_score_of_the_task(tmp_path):
    from lstm_jax.errors import UsageError
    from lstm_jax.sweep.pack import cost

    plan = planned(tmp_path / "s", tmp_path / "w", trials=TRIALS)
    assert cost.fitted(plan._replace(metric="valid/mase")).packs == plan.packs
    with pytest.raises(UsageError, match="'valid/los'; did you mean 'valid/loss'"):
        cost.fitted(plan._replace(metric="valid/los"))
    with pytest.raises(UsageError, match="'valid/rmsd'; did you mean 'valid/rms"):
        cost.fitted(plan._replace(search={"objectives": {"flops": "min", "valid/rmsd": "min"}}))


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """A sweep of two packs, one of which fails before its first step: its data have gone."""
    root = tmp_path_factory.mktemp("lost")
    series = root / "series.csv"
    series.write_text("y\n" + "\n".join(str(100 + 7 * i % 50 + i) for i in range(144)))
    trials = f'    yield from grid({{"task.csv": ("", "{series}"), "seed": range(2)}})'
    plan = planned(root / "s", root / "w", trials=trials)
    series.unlink()
    return plan, root / "w"


@pytest.mark.slow
def test_a_pack_that_fails_before_its_first_step_ends_the_launch_in_order(lost, capsys):
    _, workdir = lost
    assert cli.main(["sweep", "resume", f"--workdir={workdir}"]) == 2
    out = capsys.readouterr().out
    assert "2 completed, 2 failed" in out
    assert out.count("series.csv: no such file") == 2  # when it happens, and in the end
    assert "sweep retry" in out and "Traceback" not in out
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["status"], row["step"]) for row in rows[2:]] == [("failed", "0")] * 2
    assert all("series.csv: no such file" in row["error"] for row in rows[2:])


@pytest.mark.slow
def test_the_reason_of_a_failed_pack_is_in_status_and_in_the_report(lost, capsys):
    _, workdir = lost
    assert cli.main(["sweep", "status", f"--workdir={workdir}"]) == 0
    assert "series.csv: no such file" in capsys.readouterr().out
    assert cli.main(["report", f"--workdir={workdir}"]) == 0
    markdown = (workdir / "report" / "report.md").read_text()
    assert "2 trials not counted, failed: " in markdown
    for text in (markdown, (workdir / "report" / "report.html").read_text()):
        assert "series.csv: no such file" in text


def test_trials_that_a_launcher_gave_up_carry_the_packs_reason(tmp_path):
    """No worker lived to write their status: only the pack says how it ended."""
    plan = planned(tmp_path / "s", tmp_path / "w", trials='    yield {"seed": 0}')
    folder = trial_folder(tmp_path / "w", 0)
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "running", "step": 5}')
    claim = claims.Watcher().claim(pack_folder(tmp_path / "w", 0))
    assert claim
    with claim:
        claim.end("failed", error="3 workers ended by signal SIGKILL")
    (found,) = results(plan, tmp_path / "w")
    assert (found["status"], found["error"]) == ("failed", "3 workers ended by signal SIGKILL")
    (trial,) = read_sweep(plan, tmp_path / "w").trials
    assert trial.lacks == "failed: 3 workers ended by signal SIGKILL"
    packs = status.packs(plan, tmp_path / "w", claims.Watcher())
    assert status.trials(plan, tmp_path / "w", packs) == {"failed": 1}


def test_a_failed_pack_that_is_to_run_again_is_pending(tmp_path):
    plan = planned(tmp_path / "s", tmp_path / "w", trials='    yield {"seed": 0}')
    folder = trial_folder(tmp_path / "w", 0)
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"status": "failed", "error": "no data"}')
    packs = status.packs(plan, tmp_path / "w", claims.Watcher())
    assert status.trials(plan, tmp_path / "w", packs) == {"pending": 1}
