"""Ray tasks, one a pack, on the cluster there is or on one started here.

A task whose node is lost is run again by Ray; the pack goes on from its checkpoint once its claim
counts as dead. A task of a search asks for the next batch, and goes when others run what is left.
The workdir must be on a file system that all nodes share.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lstm_jax.errors import UsageError
from lstm_jax.option import Flag
from lstm_jax.sweep.workers import launchers


class Launcher:
    FLAGS = (
        Flag("gpus", 0.0, "ray: GPUs a pack"),
        Flag("address", "", "ray: of the cluster (auto: the one there is; none: start one here)"),
    )

    def __init__(self, options: dict[str, Any]):
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise UsageError("--launcher=ray needs Ray: pip install 'lstm-jax[ray]'") from None
        self.ray, self.options = ray, options
        self.tasks: dict[Any, int] = {}
        self.begun: set[int] = set()
        connect(ray, options["address"] or "auto")
        check_resources(ray.cluster_resources(), options)

    def submit(self, workdir: Path, packs: list[int]) -> None:
        """Ray queues what does not fit yet."""
        self.workdir, self.tasks, self.begun = workdir.resolve(), {}, set()
        self.start(packs)

    def grow(self, packs: list[int]) -> None:
        """Tasks for those that nobody has claimed."""
        unclaimed = launchers.unclaimed(self.workdir, packs)
        self.start([n for n in unclaimed if n not in self.begun])

    def start(self, packs: list[int]) -> None:
        o, ray = self.options, self.ray
        # A process a pack: its devices and its memory are free again afterwards.
        remote = ray.remote(
            num_cpus=o["cpus"] or 1,
            num_gpus=o["gpus"],
            max_retries=-1,
            retry_exceptions=False,
            max_calls=1,
        )(task)
        self.tasks |= {remote.remote(str(self.workdir), n): n for n in packs}
        self.begun |= set(packs)

    def poll(self) -> list[str]:
        """Tasks that have not ended; one that failed for good is said once."""
        if not self.tasks:
            return []
        done, _ = self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=0)
        for reference in done:
            number = self.tasks.pop(reference)
            try:
                self.ray.get(reference)
            except Exception as error:
                print(f"pack {number}: {type(error).__name__}: {str(error).splitlines()[0]}")
        return [f"pack {n}" for n in self.tasks.values()]

    def cancel(self) -> None:
        """KeyboardInterrupt in every task: it lets go of its pack, whose checkpoint stays."""
        for reference in self.tasks:
            self.ray.cancel(reference, recursive=False)
        with contextlib.suppress(Exception):
            self.ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=60)


def connect(ray: Any, address: str) -> None:
    """To the cluster at `address`; Ray itself would wait minutes for one that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), timeout=10).close()
        if not ray.is_initialized():
            ray.init(address=None if address == "none" else address, log_to_driver=False)
    except (ConnectionError, OSError) as error:
        raise UsageError(
            f"no Ray cluster at {address!r}: start one with `ray start --head`, name another "
            f"with --address, or start one for this sweep with --address=none ({error})"
        ) from None


def task(workdir: str, number: int) -> int:
    """Runs in a Ray worker; the pack's files say what became of it."""
    import os  # start-up

    from lstm_jax.sweep.workers import worker  # start-up

    if not Path(workdir, "sweep.json").exists():
        node = os.uname().nodename
        raise RuntimeError(f"{workdir} is not on node {node}: is its file system shared?")
    return worker.main([workdir, str(number), worker.LEAVE])


def check_resources(there: Mapping[str, float], options: dict[str, Any]) -> None:
    """UsageError for a request that no cluster of this size can ever meet."""
    for name, wanted in (("CPU", options["cpus"] or 1), ("GPU", options["gpus"])):
        if wanted > there.get(name, 0):
            raise UsageError(
                f"a pack asks for {wanted:g} {name}, but the Ray cluster has "
                f"{there.get(name, 0):g}; see --cpus and --gpus"
            )
