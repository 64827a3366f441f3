"""Small studies for the tests of sweeps, and what to compare of their results."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from lstm_jax import plugins
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import make_plan, write_plan
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.workers.stop import Stop
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.files import read_json
from lstm_jax.workdir.lock import is_dead, owner


class After(Stop):
    """Says stop once it has been asked `count` times."""

    def __init__(self, workdir, count):
        super().__init__(workdir)
        self.count = count

    def __call__(self):
        self.count -= 1
        return "test" if self.count < 0 else super().__call__()


STUDY = """
from lstm_jax.sweep import config_file, grid, product

QUESTION = "a test"

def get_config(arg=""):
    config = config_file("configs/airline.py:smoke")
    config.train.log_every = config.train.eval_every = 5
    config.train.checkpoint_every = 10
    config.train.num_steps = 40
    config.train.batch_size = 16
    config.optimizer.clip_norm = 0.0
{config}
    return config

def sweep():
{trials}
"""
SEEDS = '    yield from grid({"seed": range(6)})'


def stepping(workdir):
    """Whether trials that have not ended have logged a step."""
    for path in workdir.glob("trials/*/status.json"):
        log = path.parent / "metrics.jsonl"
        if read_json(path).get("status") == "running" and log.exists() and log.stat().st_size:
            return True
    return False


def study(folder, trials=SEEDS, config="", more=""):
    """A study folder with these bodies of sweep() and (more of) get_config()."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = STUDY.format(trials=trials, config="\n".join("    " + c for c in config.split("\n")))
    (folder / "study.py").write_text(text + more)
    return folder


def planned(folder, workdir, pack=0, **words):
    """The manifest of a study, written."""
    return write_plan(make_plan(load_study(str(study(folder, **words))), pack), Path(workdir))


@contextlib.contextmanager
def held(workdir):
    """The workers here stand still, so that nothing can end before what is to happen has."""
    stopped = []
    for folder in (Path(workdir) / "packs").iterdir():
        them = read_json(folder / f"claim.{claims.attempts(folder)}")
        if them and not claims.ended(folder) and not is_dead(them, owner()):
            os.kill(them["pid"], signal.SIGSTOP)
            stopped.append(them["pid"])
    yield stopped
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):  # what happened may have ended it
            os.kill(pid, signal.SIGCONT)


def asked_to_stop(pid):
    """Whether a SIGINT waits for a process that stands still."""
    status = Path(f"/proc/{pid}/status").read_text()
    waiting = int(status.partition("ShdPnd:")[2].split()[0], 16)
    return bool(waiting >> (signal.SIGINT - 1) & 1)


def summary(workdir, trial):
    return json.loads((Path(workdir) / "trials" / f"{trial:04d}" / "summary.json").read_text())


def digests(workdir):
    """{trial: (status, step, digest of the final checkpoint)}."""
    found = {}
    for folder in sorted((Path(workdir) / "trials").iterdir()):
        info = Checkpoints(folder).steps()[-1]
        status = json.loads((folder / "summary.json").read_text())["status"]
        found[int(folder.name)] = (status, info.step, info.digest)
    return found


def lines(workdir, trial, drop=("steps_per_second",)):
    """metrics.jsonl without what depends on the clock; each (step, split) must be there once."""
    path = Path(workdir) / "trials" / f"{trial:04d}" / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    pairs = [(line["step"], line["split"]) for line in found]
    assert len(pairs) == len(set(pairs)), f"trial {trial} has lines twice"
    return [{k: v for k, v in line.items() if k not in drop} for line in found]


OWN = Path(__file__).parent / "own"


def own_parts(root):
    """A sweep over a gate table, an activation and a task of a user's own, whose files are gone."""
    home = shutil.copytree(OWN, Path(root) / "user", ignore=shutil.ignore_patterns("__pycache__"))
    study = load_study(str(home / "study"), {"train.num_steps": 4})
    write_plan(make_plan(study), Path(root) / "sweep")
    plugins.forget()
    shutil.rmtree(home)
    return Path(root) / "sweep"


def own_parts_were_found(workdir, program):
    """Every trial completed, each opens by itself, and the sweep has its report."""
    assert [summary(workdir, trial)["status"] for trial in range(4)] == ["completed"] * 4
    for verb, place in (("evaluate", f"{workdir}/trials/0003"), ("report", workdir)):
        argv = [program, verb, f"--workdir={place}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert "mine.py:lazy" in (Path(workdir) / "report" / "report.md").read_text()


def workers(workdir):
    """Pids of the workers of this sweep, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"lstm_jax.sweep.workers.worker" in words and str(workdir).encode() in words:
            found.append(int(path.parent.name))
    return found
