"""SLURM job arrays through submitit, one task a pack.

SLURM starts processes; whether a pack is done, its files say. So nothing here needs `sacct`, and a
job that was killed is seen by its absence from the queue. A task that is preempted or nears its
time limit (SIGUSR2 or SIGTERM) saves and requeues itself. Where SLURM cancels instead, or kills,
a launcher that watches submits again, or with --keeper a job that waits for the others to end. Jobs
outlive their launcher: a later launch leaves packs alone that still have a job. A task of a search
asks for the next batch and runs what it can, and goes when others run what is left; what stays
unclaimed for some seconds gets jobs of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lstm_jax.errors import INTERRUPTED, OK, UsageError
from lstm_jax.option import Flag
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder
from lstm_jax.sweep.workers.stop import CANCELLED
from lstm_jax.workdir.files import read_json, replace_json

RESUBMITS = 5  # of a pack that gets no further
SIGNAL_SECONDS = 90  # between SIGUSR2 and the time limit
SETTLE_SECONDS = 10.0  # a new job may not be in the queue at once, a dying one still is


KEEPER = "lstm_jax.sweep.workers.keeper"


class Launcher:
    FLAGS = (
        Flag("partition", "", "slurm: partition"),
        Flag("time", "", "slurm: time limit, as in 4:00:00"),
        Flag("gres", "", "slurm: as in gpu:1"),
        Flag("constraint", "", "slurm: features a node must have"),
        Flag("nodes", 1, "slurm: nodes that share each trial's batch; its trials run in turn"),
        Flag("tasks", 1, "slurm: processes a node that do, one per GPU"),
        Flag("mem", "", "slurm: memory a node, as in 16G"),
        Flag("setup", "", "slurm: commands before the worker, separated by newlines or ;;"),
        Flag(
            "container", "", "slurm: image that pyxis/enroot runs, as in nvcr.io#nvidia/jax:25.10"
        ),
        Flag("apptainer", "", "slurm: image that apptainer runs, as in jax.sif", path=True),
        Flag("mounts", "", "slurm: folders in the container beside the workdir, /data:/data,..."),
        Flag("conda", "", "slurm: conda environment of the workers, a name or a folder"),
        Flag("keeper", False, "slurm: a job that submits again what was cancelled or killed"),
    )

    def __init__(self, options: dict[str, Any]):
        check_surroundings(options)
        if shutil.which("sbatch") is None:
            raise UsageError("no SLURM here: no sbatch on the PATH; use --launcher=local")
        try:
            self.submitit = importlib.import_module("submitit")
        except ImportError:
            raise UsageError(
                "--launcher=slurm needs submitit: pip install 'lstm-jax[slurm]'"
            ) from None
        self.options = options
        check_partition(options["partition"])
        self.minutes = minutes(options["time"] or "4:00:00")
        self.tries: Counter[int] = Counter()
        self.steps: dict[int, int] = {}
        self.submitted: dict[int, float] = {}
        self.with_job: set[int] = set()  # packs that were submitted from here
        self.failed: set[int] = set()
        self.kept = False  # whether a keeper is in the queue

    # ------------------------------------------------------------ submitting

    def submit(self, workdir: Path, packs: list[int]) -> None:
        self.workdir, self.packs = workdir.resolve(), packs
        (self.workdir / "logs").mkdir(parents=True, exist_ok=True)
        busy = self.busy(self.alive())
        self.start([n for n in packs if n not in busy])

    def grow(self, packs: list[int]) -> None:
        """`poll` submits those that no task has taken after some seconds."""
        self.packs = packs
        for number in packs:
            self.submitted.setdefault(number, time.monotonic())

    def start(self, packs: list[int]) -> None:
        if not packs:
            return
        for number in packs:
            self.submitted[number] = time.monotonic()
        self.with_job |= set(packs)
        self.sbatch(packs)

    def sbatch(self, packs: list[int]) -> str:
        executor = self.executor(packs)
        task = BatchTask(str(self.workdir))
        try:
            with code_at(snapshot(self.workdir)):
                jobs = executor.map_array(task, array(packs))
                job = jobs[0].job_id.partition("_")[0]
                keeper = self.keeper(job) if self.options["keeper"] else ""
        except Exception as error:
            raise UsageError(f"sbatch refused the job: {_last_line(error)}") from error
        steps = {str(n): reached(self.workdir, n) for n in packs}
        record = {"job": job, "packs": packs, "keeper": keeper, "steps": steps}
        replace_json(self.workdir / "logs" / f"slurm-{job}.json", record)
        return job

    def executor(self, packs: list[int]) -> Any:
        folder, python = self.workdir / "logs" / "slurm", python_of(self.options, self.workdir)
        executor = self.submitit.SlurmExecutor(folder, python=python)
        executor.update_parameters(**self.parameters(len(packs)))
        return executor

    def describe(self, workdir: Path, packs: list[int]) -> str:
        """The script of the array that `submit` would hand to sbatch."""
        self.workdir = workdir.resolve()
        executor = self.executor(packs)
        executor.parameters["map_count"] = len(array(packs))
        text = executor._make_submission_file_text(executor._submitit_command_str, "")
        keeper = (
            f"\n# then\n{shlex.join(self.keep_command('JOB'))}\n" if self.options["keeper"] else ""
        )
        return text + keeper

    def parameters(self, count: int) -> dict[str, Any]:
        o = self.options
        name = re.sub(r"[^\w.-]+", "_", self.workdir.name) or "sweep"
        found: dict[str, Any] = {
            "job_name": name,
            "time": self.minutes,
            "signal_delay_s": min(SIGNAL_SECONDS, self.minutes * 30),
            "array_parallelism": o["workers"] or max(count, 2),
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True},
        }
        pairs = {"partition": "partition", "gres": "gres", "constraint": "constraint"}
        pairs |= {"mem": "mem", "cpus": "cpus_per_task"}
        if o["nodes"] * o["tasks"] > 1:
            found |= {"nodes": o["nodes"], "ntasks_per_node": o["tasks"]}
        found |= {theirs: o[ours] for ours, theirs in pairs.items() if o[ours]}
        if o["setup"]:
            found["setup"] = re.split(r"\n|;;", o["setup"])
        if o["container"]:
            mounts = f"--container-mounts={','.join(mounted(o, self.workdir))}"
            found["srun_args"] = [f"--container-image={o['container']}", mounts]
        return found

    # ------------------------------------------------------------ the keeper

    def keeper(self, job: str) -> str:
        """The id of a job that starts when all tasks of `job` have ended, however they did."""
        command = self.keep_command(job)
        done = subprocess.run(command, env=outside(), capture_output=True, text=True, check=True)
        return done.stdout.strip().partition(";")[0]

    def keep_command(self, job: str) -> list[str]:
        log = self.workdir / "logs" / "slurm" / "keeper-%j.out"
        worker = shlex.join([sys.executable, "-m", KEEPER, str(self.workdir)])
        command = ["sbatch", "--parsable", f"--dependency=afterany:{job}", "--requeue"]
        command += ["--job-name=keeper", "--time=10", "--cpus-per-task=1", f"--output={log}"]
        partition = self.options["partition"]
        return [*command, *([f"--partition={partition}"] if partition else []), f"--wrap={worker}"]

    def keep(self, workdir: Path, packs: list[int]) -> list[int]:
        """The keeper's work: submit again what has no job, the next keeper with it; which packs."""
        self.workdir, self.packs = workdir, packs
        busy = self.busy(self.alive())
        again = [n for n in packs if n not in busy and self.may_keep(n)]
        self.start(again)
        return again

    def may_keep(self, number: int) -> bool:
        """Whether fewer than RESUBMITS jobs got the pack no further than it is."""
        records = [read_json(p) for p in (self.workdir / "logs").glob("slurm-*.json")]
        seen = [r.get("steps", {}).get(str(number)) for r in records if r.get("keeper")]
        if seen.count(reached(self.workdir, number)) <= RESUBMITS:
            return True
        self.give_up(number, pack_folder(self.workdir, number))
        return False

    # ------------------------------------------------------------ looking after

    def alive(self) -> dict[str, int]:
        """{job_task: pack} of what the queue holds of this sweep, whoever submitted it."""
        records = [read_json(p) for p in (self.workdir / "logs").glob("slurm-*.json")]
        wanted = {str(r["job"]): r["packs"] for r in records if "job" in r}
        if not wanted:
            return {}
        found, keepers = {}, {str(r.get("keeper")) for r in records} - {"", "None"}
        queue = squeue({*wanted, *keepers})
        self.kept = any(line in keepers for line in queue)
        for line in queue:
            job, _, task = line.partition("_")
            if task.isdecimal() and int(task) < len(wanted.get(job, ())):
                found[line] = wanted[job][int(task)]
        return found

    def busy(self, alive: dict[str, int]) -> set[int]:
        """Packs that these jobs were submitted for, and those that they have claimed on the way."""
        folders = {n: pack_folder(self.workdir, n) for n in self.packs}
        claimed = {n: read_json(f / f"claim.{claims.attempts(f)}") for n, f in folders.items()}
        return {*alive.values(), *(n for n, them in claimed.items() if them.get("slurm") in alive)}

    def poll(self) -> list[str]:
        """Submits again what left the queue before its pack was done."""
        try:
            alive = self.alive()
        except Unreachable:
            return ["slurmctld does not answer"]  # it is being restarted: jobs go on without it
        if (self.workdir / "cancelled").exists():
            return sorted(alive)
        open_packs = [
            n
            for n in self.packs
            if not claims.ended(pack_folder(self.workdir, n)) and n not in self.failed
        ]
        busy = self.busy(alive)
        lost = [n for n in open_packs if n not in busy and self.is_settled(n)]
        lost = [n for n in lost if not self.kept or self.is_new(n)]  # others are for the keeper
        self.start([n for n in lost if self.may_try(n)])
        return sorted(alive) or ([f"pack {n}" for n in open_packs if n not in self.failed])

    def is_new(self, number: int) -> bool:
        """Whether no job was ever to run the pack: a search has just asked for it."""
        return number not in self.with_job and not claims.attempts(
            pack_folder(self.workdir, number)
        )

    def is_settled(self, number: int) -> bool:
        return time.monotonic() - self.submitted.get(number, 0.0) > SETTLE_SECONDS

    def may_try(self, number: int) -> bool:
        """Counts jobs that ended without a step forward; the pack fails after some."""
        folder = pack_folder(self.workdir, number)
        step = reached(self.workdir, number)
        if step > self.steps.get(number, 0):
            self.tries[number] = 0
        self.steps[number] = step
        self.tries[number] += 1
        if self.tries[number] <= RESUBMITS:
            return True
        self.give_up(number, folder)
        return False

    def give_up(self, number: int, folder: Path) -> None:
        never = claims.attempts(folder) == 0
        why = (
            f"{RESUBMITS} jobs ended without a sign of life in {self.workdir}: "
            "is it on a file system that the nodes share?"
            if never
            else f"{RESUBMITS} jobs ended without a step forward; see logs/slurm"
        )
        self.failed.add(number)
        if claim := claims.Watcher(stale_seconds=0).claim(folder):
            with claim:
                claim.end("failed", error=why, log=self.log(number))

    def log(self, number: int) -> list[str]:
        logs = sorted((self.workdir / "logs" / "slurm").glob("*_log.out"), key=os.path.getmtime)
        return logs[-1].read_text(errors="replace").splitlines()[-12:] if logs else []

    def cancel(self) -> None:
        """Ctrl-C leaves jobs alone; `sweep cancel` stops them."""
        print(f"jobs go on; to stop them: lstm-jax sweep cancel --workdir={self.workdir}")

    @staticmethod
    def take_back(workdir: Path) -> None:
        """Queued jobs are cancelled; running ones see the sweep's file and save first."""
        for path in sorted((workdir / "logs").glob("slurm-*.json")):
            record = read_json(path)
            jobs = [str(record[name]) for name in ("job", "keeper") if record.get(name)]
            with contextlib.suppress(OSError):
                command = ["scancel", "--state=PENDING", *jobs]
                subprocess.run(command, check=False, capture_output=True)


class BatchTask:
    """What a task of the array runs; pickled by reference, so the code is that of the snapshot."""

    def __init__(self, workdir: str):
        self.workdir = workdir

    def __call__(self, number: int) -> int:
        from lstm_jax.sweep.workers import worker  # start-up

        if number < 0:
            return OK
        code = worker.main([self.workdir, str(number), worker.LEAVE])
        first = os.environ.get("SLURM_PROCID", "0") == "0"  # of a job's tasks, one asks
        cancelled = Path(self.workdir, CANCELLED).exists()
        if code == INTERRUPTED and first and not cancelled:
            requeue()
        return code


def requeue() -> None:
    """Back into the queue; SLURM ends this process on the way."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job else os.environ["SLURM_JOB_ID"]
    for _ in range(5):
        done = subprocess.run(["scontrol", "requeue", name], check=False)
        time.sleep(60 if done.returncode == 0 else 5)


# ---------------------------------------------------------------- containers and conda


def check_surroundings(options: dict[str, Any]) -> None:
    """UsageError for two of them at once, or folders without a container."""
    names = ("container", "apptainer", "conda")
    given = [f"--{name}={options[name]}" for name in names if options[name]]
    if len(given) > 1:
        raise UsageError(f"workers run in one of {' and '.join(given)}; give one")
    if options["mounts"] and not (options["container"] or options["apptainer"]):
        raise UsageError("--mounts is for --container or --apptainer; neither is given")


def python_of(options: dict[str, Any], workdir: Path) -> str | None:
    """What starts Python on a node; None: the Python of this process."""
    if options["container"]:
        return "python3"
    if options["apptainer"]:
        gpus = ["--nv"] if "gpu" in options["gres"] else []
        binds = ["--bind", ",".join(mounted(options, workdir))]
        return shlex.join(["apptainer", "exec", *gpus, *binds, options["apptainer"], "python3"])
    if options["conda"]:
        which = "--prefix" if os.sep in options["conda"] else "--name"
        return shlex.join(
            ["conda", "run", "--no-capture-output", which, options["conda"], "python"]
        )
    return None


def mounted(options: dict[str, Any], workdir: Path) -> list[str]:
    """The workdir at its own place, with the library's copy in it, then what was asked for."""
    return [f"{workdir}:{workdir}", *filter(None, options["mounts"].split(","))]


# ---------------------------------------------------------------- SLURM


def array(packs: list[int]) -> list[int]:
    """Always an array, so that job ids look alike: one pack gets an idle twin."""
    return packs if len(packs) > 1 else [*packs, -1]


def reached(workdir: Path, number: int) -> int:
    """The step that a pack has come to."""
    return read_json(pack_folder(workdir, number) / "heartbeat.json").get("step", 0)


def outside() -> dict[str, str]:
    """The environment without that of a job we may be in: sbatch would take its limits over."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SBATCH_")) or name == "SLURM_CONF"
    }


class Unreachable(Exception):
    """slurmctld does not answer."""


def squeue(jobs: set[str]) -> list[str]:
    """ARRAY_TASK of every job that is queued, running or being requeued."""
    # Not --jobs: it fails as a whole once the queue has forgotten one of them.
    command = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unreachable(done.stderr)
    return [word for word in done.stdout.split() if word.partition("_")[0] in jobs]


def check_partition(name: str) -> None:
    """UsageError for a partition that does not exist, with those that do."""
    done = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"SLURM does not answer: {done.stderr.strip() or 'sinfo failed'}")
    known = sorted(set(done.stdout.split()))
    if name and name not in known:
        raise UsageError(f"no partition {name!r}; this cluster has: {', '.join(known)}")


def minutes(text: str) -> int:
    """SLURM's time formats: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:...]."""
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        total = int(days or 0) * 1440
    except ValueError:
        raise UsageError(f"--time={text!r}: expected minutes, H:MM:SS or D-HH:MM:SS") from None
    if dash or len(parts) == 3:
        hours, mins, *_ = [*parts, 0, 0]
        return max(total + hours * 60 + mins, 1)
    return max(parts[0], 1)


# ---------------------------------------------------------------- code


def snapshot(workdir: Path) -> Path:
    """A copy of this library, made when the sweep is first submitted: edits do not reach it."""
    package = Path(__file__).resolve().parents[3]
    code = workdir / "code"
    if not code.exists():
        tmp = workdir / f".code.{os.getpid()}"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, tmp / package.name, ignore=ignore, dirs_exist_ok=True)
        with contextlib.suppress(OSError):
            tmp.rename(code)
        shutil.rmtree(tmp, ignore_errors=True)
    return code


@contextlib.contextmanager
def code_at(folder: Path) -> Iterator[None]:
    """sbatch hands the environment on; nothing is written into a shell script."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("sbatch")]
    return (said or lines or [type(error).__name__])[-1]
