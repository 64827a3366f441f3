"""Compiled programs kept between commands, so that the second run of a model starts at once.

Numbers enter programs as arrays, so another seed or learning rate is the same program. JAX's own
persistent cache does the work; `JAX_COMPILATION_CACHE_DIR` moves it, and
`JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

MIN_COMPILE_SECONDS = 0.3
COMPILED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


def keep_programs() -> None:
    """Point JAX at this machine's folder of compiled programs; no folder, no cache."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def cache_folder() -> Path:
    """One folder per kind of processor: hosts of a cluster may share a home, not instructions."""
    import platformdirs  # what pooch.os_cache asks, without the import of pooch

    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return Path(platformdirs.user_cache_dir("lstm_jax")) / f"programs-{kind}"


def _processor() -> str:
    """Model and instruction sets, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), *sorted(told)])


def compilations() -> int:
    """Programs that this process has compiled, those from the cache on disk included."""
    return len(_events())


@functools.cache
def _events() -> list[str]:
    found: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found
