"""The worker processes, and how much of the machine others used while they ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from lstm_jax.ops import cores

CORES = cores()
# Set before the libraries start. Compiled programs are not kept: compile times are real.
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "OMP_NUM_THREADS": str(CORES),
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
WORLDS = {
    "one device": {"JAX_NUM_CPU_DEVICES": "1"},
    "no command buffers": {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
    "all cores": {"JAX_NUM_CPU_DEVICES": str(CORES)},
    "torch": {},
}


class Workers:
    """One process a world, started when it is first asked."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen] = {}
        self.folder = tempfile.TemporaryDirectory(prefix="lstm-jax-bench-")

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            with process:  # closes its pipes
                process.kill()
        self.folder.cleanup()

    def ask(self, world: str, do: str, **task: Any) -> dict:
        """The worker's answer; it computes nothing between two questions."""
        process = self._processes.get(world) or self._start(world)
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps({"do": do, **task}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the benchmark's process for {world!r} ended; see its output above")
        return json.loads(line)

    def _start(self, world: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "benchmarks.worker"]
        root = Path(__file__).parents[1]  # where the package of this file is found
        environment = {**os.environ, **ENVIRONMENT, **WORLDS[world]}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, env=environment, text=True, cwd=root
        )
        self._processes[world] = process
        return process

    def forget(self) -> None:
        for world in self._processes:
            self.ask(world, "forget")

    def cpu_seconds(self) -> float:
        """What this process and the workers have used so far."""
        times = os.times()
        used = times.user + times.system
        for process in self._processes.values():
            used += _ticks(Path(f"/proc/{process.pid}/stat"), 13, 15) / os.sysconf("SC_CLK_TCK")
        return used


def meter(workers: Workers) -> Callable[[], float]:
    """The share of the cores that other processes have used since, whenever it is asked."""
    began, busy, own = time.perf_counter(), _busy_seconds(), workers.cpu_seconds()

    def others() -> float:
        alien = (_busy_seconds() - busy) - (workers.cpu_seconds() - own)
        return max(alien, 0.0) / CORES / (time.perf_counter() - began)

    return others


def _busy_seconds() -> float:
    """What all processes of the machine have used so far."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system = (int(n) for n in stat.read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _ticks(path: Path, first: int, last: int) -> int:
    if not path.exists():
        return 0
    fields = path.read_text().rpartition(")")[2].split()  # a name may hold blanks
    return sum(int(n) for n in fields[first - 2 : last - 2])
