"""What launchers say before anything runs: their flags, the script for SLURM, a user's own one."""

import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sweeps import planned, study

from lstm_jax import cli
from lstm_jax.errors import UsageError
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder
from lstm_jax.sweep.workers import keeper, launchers, logs
from lstm_jax.sweep.workers.launchers import local, slurm
from lstm_jax.workdir.files import read_json, replace_json

OWN = Path(__file__).parent / "mylauncher.py"
TRIALS = '    yield from grid({"cell.gates": ("lstm", "cifg"), "seed": range(3)})'


pytestmark = pytest.mark.usefixtures("no_parts")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """(the study's folder, its sweep planned elsewhere, its plan)"""
    root = tmp_path_factory.mktemp("launchers")
    return root / "study", root / "w", planned(root / "study", root / "w", trials=TRIALS)


def options(**given):
    return {flag.name: flag.default for flag in launchers.flags()} | given


@pytest.mark.slow
def test_a_launcher_of_the_user_s_own_is_one_file(sweep, tmp_path, capsys, monkeypatch):
    argv = ["sweep", "launch", f"--study={sweep[0]}", f"--workdir={tmp_path / 'w'}", "--workers=2"]
    argv += [f"--launcher={OWN}:Launcher"]
    assert cli.main([*argv, "--host=rosa", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("ssh rosa python -m") == 2
    assert not (tmp_path / "w").exists()
    assert cli.main(argv) == 2
    assert "needs --host=NAME" in capsys.readouterr().err
    assert cli.main([*argv, "--host=rosa", "--nowait"]) == 0
    assert "ssh rosa" in (tmp_path / "w" / "commands").read_text()
    assert cli.main(["sweep", "cancel", f"--workdir={tmp_path / 'w'}"]) == 0
    assert (tmp_path / "w" / "taken_back").exists()
    assert cli.main([*argv[:-1], "--launcher=slrum"]) == 2
    assert "did you mean 'slurm'" in capsys.readouterr().err


def test_a_flag_that_is_there_already(tmp_path):
    text = OWN.read_text().replace('"host", ""', '"partition", ""')
    (tmp_path / "second.py").write_text(text)
    with pytest.raises(UsageError, match="--partition is there already; rename it"):
        launchers.flags(f"{tmp_path / 'second.py'}:Launcher")


def test_the_local_launcher_says_what_it_would_start(sweep):
    found = launchers.described("local", options(workers=1), sweep[1], [0, 1])
    assert shlex.split(found)[1:] == [
        "-m",
        "lstm_jax.sweep.workers.worker",
        str(sweep[1]),
        "0",
        "1",
    ]


def test_the_study_s_launch(tmp_path, capsys):
    folder = study(tmp_path / "study", more='\nLAUNCH = {"launcher": "local", "wrkers": 2}\n')
    argv = ["sweep", "launch", f"--study={folder}", f"--workdir={tmp_path / 'w'}", "--dry-run"]
    assert cli.main(argv) == 2
    assert "LAUNCH has unknown entries ['wrkers']; known: launcher" in capsys.readouterr().err


def test_a_dry_run_refuses_what_a_launch_refuses(tmp_path, capsys):
    folder = study(tmp_path / "study")
    argv = ["sweep", "launch", f"--study={folder}", f"--workdir={tmp_path / 'w'}", "--dry-run"]
    assert cli.main([*argv, "--tracker=mlflwo"]) == 2
    assert "mlflwo" in capsys.readouterr().err
    assert cli.main(["sweep", "run", *argv[2:]]) == 2
    assert "--dry-run goes with sweep launch, not with run" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, []),
        ({"conda": "jax"}, ["conda run --no-capture-output --name jax python"]),
        ({"conda": "/envs/jax"}, ["--prefix /envs/jax python"]),
        (
            {"apptainer": "j.sif", "gres": "gpu:1", "mounts": "/data:/data"},
            ["apptainer exec --nv --bind {w}:{w},/data:/data j.sif python3"],
        ),
        (
            {"container": "nvcr.io#nvidia/jax:25.10"},
            ["--container-image=nvcr.io#nvidia/jax:25.10 --container-mounts={w}:{w} python3"],
        ),
    ],
)
def test_the_script_for_slurm(tmp_path, monkeypatch, given, words):
    """Containers and conda start Python; the rest of the script stays as it is."""
    pytest.importorskip("submitit")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text("#!/bin/sh\n")
    (tools / "srun").write_text("#!/bin/sh\n")
    (tools / "sinfo").write_text("#!/bin/sh\necho gpu\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    chosen = options(partition="gpu", keeper=True, **given)
    text = launchers.described("slurm", chosen, tmp_path / "w", [0, 1, 2])
    assert "#SBATCH --partition=gpu\n" in text and "#SBATCH --array=0-2%3\n" in text
    assert "-u -m submitit.core._submit" in text
    assert "--dependency=afterany:JOB" in text and slurm.KEEPER in text
    for word in words:
        assert word.format(w=tmp_path / "w") in text.replace("'", "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"conda": "jax", "container": "x"}, "in one of --container=x and --conda=jax"),
        ({"mounts": "/data:/data"}, "--mounts is for --container or --apptainer"),
    ],
)
def test_surroundings_that_contradict(given, words):
    with pytest.raises(UsageError, match=words):
        slurm.Launcher(options(**given))


# ---------------------------------------------------------------- the keeper


@pytest.fixture
def slurm_here(sweep, tmp_path, monkeypatch):
    """A SLURM launcher whose sbatch is a list; the queue is empty."""
    workdir = tmp_path / "w"
    planned(sweep[0], workdir, trials=TRIALS)
    (workdir / "logs").mkdir()
    launcher, submitted = object.__new__(slurm.Launcher), []
    launcher.options, launcher.workdir, launcher.kept = options(keeper=True), workdir, False
    launcher.submitted, launcher.failed, launcher.with_job = {}, set(), set()

    def sbatch(packs):
        steps = {str(n): slurm.reached(workdir, n) for n in packs}
        record = {"job": str(len(submitted)), "packs": packs, "keeper": "99", "steps": steps}
        replace_json(workdir / "logs" / f"slurm-{len(submitted)}.json", record)
        submitted.append(packs)
        return record["job"]

    launcher.sbatch = sbatch
    monkeypatch.setattr(slurm, "squeue", lambda jobs: [])
    monkeypatch.setattr(slurm, "Launcher", lambda options: launcher)
    launchers.remember(workdir, launcher.options)
    return workdir, submitted


def test_the_keeper_submits_what_has_not_ended_and_gives_up(slurm_here):
    workdir, submitted = slurm_here
    pack_folder(workdir, 1).mkdir(parents=True)
    replace_json(pack_folder(workdir, 1) / claims.ENDED, {"status": "completed"})
    for _ in range(slurm.RESUBMITS + 3):
        assert keeper.main([str(workdir)]) == 0
    assert submitted == [[0]] * (slurm.RESUBMITS + 1)
    end = read_json(pack_folder(workdir, 0) / claims.ENDED)
    assert end["status"] == "failed" and "5 jobs ended" in end["error"]


def test_the_keeper_goes_on_while_a_pack_gets_on_and_stops_when_cancelled(slurm_here):
    workdir, submitted = slurm_here
    pack_folder(workdir, 0).mkdir(parents=True)
    for step in range(8):
        replace_json(pack_folder(workdir, 0) / "heartbeat.json", {"step": step})
        keeper.main([str(workdir)])
    assert sum(0 in packs for packs in submitted) == 8
    (workdir / "cancelled").touch()
    keeper.main([str(workdir)])
    assert len(submitted) == 8


SEARCH = """
from lstm_jax.sweep import log_uniform
SEARCH = {"sampler": "random", "trials": 8, "batch": 4,
          "space": {"optimizer.learning_rate": log_uniform(1e-4, 1e-1)}}
"""


def test_the_keeper_asks_where_a_search_was_killed_before_it_did(slurm_here, tmp_path):
    workdir, submitted = slurm_here
    (workdir / "sweep.json").unlink()
    planned(tmp_path / "s", workdir, trials="    yield {}", more=SEARCH)
    pack_folder(workdir, 0).mkdir(parents=True)
    replace_json(pack_folder(workdir, 0) / claims.ENDED, {"status": "completed"})
    assert keeper.main([str(workdir)]) == 0
    assert submitted == [[1]]


def test_packs_that_a_search_asked_for_get_jobs_unless_a_task_has_them(slurm_here, monkeypatch):
    """The task 5_0 was to run pack 0, and has gone on to pack 1; nobody has taken 2."""
    workdir, submitted = slurm_here
    replace_json(workdir / "logs" / "slurm-5.json", {"job": "5", "packs": [0], "keeper": "6"})
    monkeypatch.setattr(slurm, "squeue", lambda jobs: ["5_0", "6"])
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", -1.0)
    launcher = slurm.Launcher({})
    launcher.packs, launcher.tries, launcher.steps = [0], Counter(), {}
    pack_folder(workdir, 1).mkdir(parents=True)
    replace_json(pack_folder(workdir, 1) / "claim.1", {"slurm": "5_0"})
    launcher.grow([1, 2])
    assert launcher.poll() == ["5_0"]
    assert submitted == [[2]]
    monkeypatch.setattr(slurm, "squeue", lambda jobs: ["6"])
    launcher.poll()
    assert submitted == [[2]]  # what was begun is the keeper's
    monkeypatch.setattr(slurm, "squeue", lambda jobs: [])
    launcher.poll()
    assert submitted == [[2], [1, 2]]


def test_local_workers_are_as_many_as_a_batch_has_packs(sweep, tmp_path, monkeypatch):
    launcher: Any = local.Launcher(options(workers=3))
    started = []
    monkeypatch.setattr(local.Launcher, "start", lambda self, slot: started.append(slot))
    launcher.submit(tmp_path, [0])
    launcher.workers = dict.fromkeys(started)
    pack_folder(tmp_path, 1).mkdir(parents=True)
    (pack_folder(tmp_path, 1) / "claim.1").touch()
    launcher.grow([1, 2, 3])
    assert started == [0, 1]


def test_logs_by_variant(sweep, tmp_path):
    _, _, plan = sweep
    log = tmp_path / "logs" / "local-1.log"
    log.parent.mkdir()
    log.write_text("what it printed")
    for number in range(2):
        logs.link_to(log, plan, tmp_path, number)
        logs.link_to(log, plan, tmp_path, number)
    links = sorted((tmp_path / logs.FOLDER).iterdir())
    assert [path.name for path in links] == ["cifg_001.log", "lstm_000.log"]
    assert links[0].read_text() == "what it printed"
