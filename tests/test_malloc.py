"""Memory that is freed stays with the process."""

import os
import subprocess
import sys

import pytest

AGAIN = """
import ctypes, resource
from lstm_jax.malloc import keep_freed
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
kept = keep_freed()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = libc.malloc(2**26)
    libc.memset(array, 1, 2**26)
    libc.free(array)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
@pytest.mark.parametrize(("told", "keeps"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_freed_memory_is_used_again_without_fresh_pages(told, keeps):
    """64 MiB are 16,384 pages, which the kernel hands out one by one or not again."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | told
    done = subprocess.run([sys.executable, "-c", AGAIN], env=own, capture_output=True, text=True)
    kept, fresh = done.stdout.split()
    if keeps and kept == "False":
        pytest.skip("another C library")
    assert kept == str(keeps), done.stderr
    assert (int(fresh) < 100) == keeps
