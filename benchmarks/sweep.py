"""Wall time of 64 airline trials: one process a trial, two at a time, against one sweep.

    python -m benchmarks.sweep [--trials=64] [--out=runs/bench-sweep] [--keep_programs]

(a) is what a shell loop over a training script does, (b) is `lstm-jax sweep launch`. Both start
cold, from the command line to all results on disk, and neither may use compiled programs that it
finds there, unless --keep_programs lets (a) share them between its processes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import app, flags

from lstm_jax.sweep.define.study import load_study

TRIALS = flags.DEFINE_integer("trials", 64, "of experiments/airline_lr, from the first")
OUT = flags.DEFINE_string("out", "runs/bench-sweep", "a fresh directory")
AT_ONCE = flags.DEFINE_integer("at_once", 2, "processes of (a)")
KEEP = flags.DEFINE_boolean("keep_programs", False, "(a) shares one folder of compiled programs")
STUDY = "experiments/airline_lr"


def run(arguments: list[str], **environment: str) -> None:
    command = [sys.executable, "-m", "lstm_jax.cli", *arguments]
    env = {**os.environ, **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}")


def one_process_a_trial(out: Path, trials: list[dict[str, Any]]) -> float:
    """Seconds for all of them."""
    cold = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    shared = {"JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(prefix="bench-programs-")}
    shared["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

    def train(number: int) -> None:
        fields = [f"--config.{name}={value}" for name, value in trials[number].items()]
        workdir = out / "loop" / f"{number:04d}"
        arguments = ["train", "--config=configs/airline.py", f"--workdir={workdir}", *fields]
        run(arguments, **(shared if KEEP.value else cold))

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE.value) as pool:
        list(pool.map(train, range(len(trials))))
    return time.perf_counter() - began


def one_sweep(out: Path, study: str) -> float:
    began = time.perf_counter()
    arguments = ["sweep", "launch", f"--study={study}", f"--workdir={out / 'sweep'}"]
    run(arguments, JAX_ENABLE_COMPILATION_CACHE="false")
    return time.perf_counter() - began


def smaller(out: Path, count: int) -> str:
    """The study with its first trials only."""
    folder = out / "study"
    folder.mkdir(parents=True)
    text = (Path(STUDY) / "study.py").read_text()
    cut = f"\n\n_all = sweep\n\n\ndef sweep():\n    yield from list(_all())[:{count}]\n"
    (folder / "study.py").write_text(text + cut)
    return str(folder)


def largest_difference(out: Path, count: int) -> float:
    """Of the test losses, relative: both ways trained the same models."""

    def loss(folder: Path) -> float:
        summary = json.loads((folder / "summary.json").read_text())
        return summary["metrics"]["test"]["loss"]

    pairs = [
        (loss(out / "loop" / f"{n:04d}"), loss(out / "sweep" / "trials" / f"{n:04d}"))
        for n in range(count)
    ]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def main(argv: list[str]) -> None:
    out = Path(OUT.value)
    if out.exists():
        sys.exit(f"{out} exists; name a fresh directory with --out=DIR")
    trials = load_study(STUDY).trials[: TRIALS.value]
    load = os.getloadavg()[0]
    packed = one_sweep(out, smaller(out, len(trials)))
    print(f"(b) one sweep: {packed:.1f} s (load before: {load:.1f})", flush=True)
    load = os.getloadavg()[0]
    loop = one_process_a_trial(out, trials)
    print(
        f"(a) a process a trial, {AT_ONCE.value} at a time: {loop:.1f} s (load before: {load:.1f})"
    )
    print(f"(b) is {loop / packed:.1f} times sooner for {len(trials)} trials")
    differ = largest_difference(out, len(trials))
    print(f"largest relative difference of test losses: {differ:.1e}")
    found = {"trials": len(trials), "loop_seconds": loop, "sweep_seconds": packed}
    (out / "result.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    app.run(main)
