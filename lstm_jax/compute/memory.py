"""Memory: what a compiled program takes, and what a device has."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path
from typing import Any

import jax

from lstm_jax.config.fields import resolve
from lstm_jax.errors import UsageError


def check_memory(compiled: Any, num_trials: int) -> int:
    """Bytes that the program takes at its peak on one device.

    Raises:
      UsageError: the device does not have them; says how many trials fit.
    """
    needed, available = peak_bytes(compiled), memory_limit()
    if available and needed > available:
        fits = max(int(num_trials * available / needed), 1)
        raise UsageError(
            f"a pack of {num_trials} trials needs {needed / 2**30:.1f} GiB of a device, which has "
            f"{available / 2**30:.1f}; plan smaller packs in another workdir: --pack={fits}"
        )
    return needed


def check_run(compiled: Any, num_devices: int, config: Any) -> None:
    """UsageError unless a run's compiled steps fit in its devices, before anything is allocated."""
    refuse(peak_bytes(compiled), num_devices, config)


def check_arrays(trees: Any, num_devices: int, config: Any) -> None:
    """The same for abstract arrays, which every device holds; before anything is compiled."""
    leaves = jax.tree.leaves(trees)
    refuse(sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves), num_devices, config)


def refuse(needed: int, num_devices: int, config: Any) -> None:
    available = memory_limit(num_devices)
    if available and needed > available:
        raise UsageError(
            f"the run needs {needed / 2**30:.1f} GiB of a device, which has "
            f"{available / 2**30:.1f}; what makes it large: {largest_sizes(config)}. Smaller ones "
            "fit; model.engine=chunked keeps less for the backward pass"
        )


def largest_sizes(config: Any, count: int = 5) -> str:
    """The fields of a config that say how much of something there is, the largest first."""
    sizes = {n: v for n, v in resolve(config).flat.items() if type(v) is int and _is_size(n)}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:count]
    return ", ".join(f"{name}={sizes[name]}" for name in largest)


def _is_size(name: str) -> bool:
    section = name.partition(".")[0]
    return section in ("task", "cell", "model") or name in ("train.batch_size", "train.log_every")


def peak_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of a compiled program, on one device."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    total = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return total - found.alias_size_in_bytes


def memory_limit(num_devices: int = 0) -> int:
    """Bytes a device may use: its own memory, or its share of the host's; 0: unknown.

    `num_devices` share the host (0: all that there are).
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform != "cpu":
        return 0
    return host_memory() // (num_devices or jax.local_device_count())


def host_memory() -> int:
    """Bytes that the host, or the control group that we are in, has left; 0: unknown."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable"))
        limits.append(int(free.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit.isdecimal():
            limits.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, StopIteration, ValueError):
        pass
    return max(min(limits), 0) if limits else 0


def gpu_memory() -> int:
    """Bytes of the smallest GPU; 0 without one."""
    if not gpus():
        return 0
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return min((int(n) for n in done.stdout.split() if n.isdecimal()), default=0) * 2**20


def gpus() -> list[str]:
    """Devices to hand out, by CUDA's names; none where JAX is told to stay on the CPU."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU")]
