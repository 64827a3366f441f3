"""The C library's memory: what a training step frees, the next one asks for again."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

GIB = 2**30
# As in malloc.h: freed memory is kept, large arrays come from it, and all threads share it.
OPTIONS = {"M_TRIM_THRESHOLD": (-1, GIB), "M_MMAP_THRESHOLD": (-3, GIB), "M_ARENA_MAX": (-8, 1)}


@functools.cache
def keep_freed() -> bool:
    """Has glibc keep up to 1 GiB of freed memory; whether it does.

    Otherwise arrays above 32 MiB are fresh pages at every step, which the kernel has to clear: a
    fifth of a training step on a CPU. MALLOC_* or GLIBC_TUNABLES in the environment win. What
    threads have taken for themselves stays theirs: this is to be called before JAX starts.
    """
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    libc: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if told or not hasattr(libc, "gnu_get_libc_version"):
        return False
    return all(libc.mallopt(option, value) for option, value in OPTIONS.values())
