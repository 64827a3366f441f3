"""Worker processes on this machine: one per GPU, or one that has all cores.

Workers outlive a launcher that is killed; the next launch, `watch` and `cancel` find them by
their files. A worker that dies is replaced; a pack that killed three of them has failed.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lstm_jax.compute.memory import gpus
from lstm_jax.ops import cores
from lstm_jax.sweep import claims
from lstm_jax.sweep.define.plan import pack_folder
from lstm_jax.sweep.workers import launchers
from lstm_jax.workdir.files import read_json
from lstm_jax.workdir.lock import owner

DEATHS = 3
OVER = (0, 2, 4)  # exit codes of workers that need no successor


class Launcher:
    def __init__(self, options: dict[str, Any]):
        self.devices = gpus()
        self.count = int(options.get("workers") or 0) or max(len(self.devices), 1)
        self.workers: dict[int, subprocess.Popen] = {}  # by slot
        self.logs: dict[int, Path] = {}
        self.deaths: Counter[int] = Counter()

    def submit(self, workdir: Path, packs: list[int]) -> None:
        self.workdir, self.packs = workdir, packs
        (workdir / "logs").mkdir(parents=True, exist_ok=True)
        for slot in range(min(self.count, len(packs))):
            self.start(slot)

    def grow(self, packs: list[int]) -> None:
        """As many workers as there may be, for as many packs."""
        for slot in range(min(self.count, len(launchers.unclaimed(self.workdir, packs)))):
            if slot not in self.workers:
                self.start(slot)

    def describe(self, workdir: Path, packs: list[int]) -> str:
        return "\n".join([shlex.join(command(workdir, packs))] * min(self.count, len(packs)))

    def start(self, slot: int) -> None:
        stamp = f"local-{time.time_ns()}-{slot}"
        self.logs[slot] = self.workdir / "logs" / f"{stamp}.log"
        with self.logs[slot].open("w") as log:
            self.workers[slot] = subprocess.Popen(
                command(self.workdir, self.packs),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(slot),
                start_new_session=True,  # Ctrl-C is for the launcher, which passes it on
            )

    def environment(self, slot: int) -> dict[str, str]:
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.devices:
            env["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        elif self.count > 1:
            env.setdefault("JAX_NUM_CPU_DEVICES", str(max(cores() // self.count, 1)))
        return env

    def poll(self) -> list[str]:
        """Replaces workers that died."""
        for slot, worker in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[slot]
            if code not in OVER:
                self.buried(slot, worker.pid, code)
                self.start(slot)
        return [f"pid {worker.pid}" for worker in self.workers.values()]

    def buried(self, slot: int, pid: int, code: int) -> None:
        """Count a death against the pack that it happened in."""
        me = owner()
        for folder in sorted((self.workdir / "packs").glob("*")):  # a search adds to those given
            number = int(folder.name)
            them = read_json(folder / f"claim.{claims.attempts(folder)}")
            if claims.ended(folder) or them.get("pid") != pid or them.get("host") != me["host"]:
                continue
            self.deaths[number] += 1
            if self.deaths[number] >= DEATHS:
                self.give_up(number, slot, code)

    def give_up(self, number: int, slot: int, code: int) -> None:
        claim = claims.Watcher().claim(pack_folder(self.workdir, number))
        if claim is None:
            return
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        hint = (
            "; out of memory? plan smaller packs with --pack=N" if code == -signal.SIGKILL else ""
        )
        log = self.logs[slot].read_text(errors="replace").splitlines()[-12:]
        with claim:
            claim.end("failed", error=f"{DEATHS} workers ended {how}{hint}", log=log)

    def cancel(self) -> None:
        """SIGINT: save, let go, exit. A second Ctrl-C, raised here, ends them at once."""
        for worker in self.workers.values():
            worker.send_signal(signal.SIGINT)
        try:
            for worker in self.workers.values():
                worker.wait()
        except KeyboardInterrupt:
            for worker in self.workers.values():
                worker.kill()
            raise


def command(workdir: Path, packs: list[int]) -> list[str]:
    worker = [sys.executable, "-m", "lstm_jax.sweep.workers.worker"]
    return [*worker, str(workdir), *map(str, packs)]
