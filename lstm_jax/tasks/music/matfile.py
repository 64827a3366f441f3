"""Cell arrays of matrices from MATLAB 5 files, read by SciPy.

SciPy's reader is C that trusts the sizes a file states: damaged bytes can end it with a
segmentation fault. So bytes whose checksum nobody knows are read by a process of its own, this file
as a script, with bounded memory and time; what comes back is an .npz without pickles.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from typing import NoReturn

import numpy as np

FILE_LIMIT, MEMORY_LIMIT, SECONDS = 1 << 26, 1 << 32, 30  # bytes, bytes of the process


def cells(content: bytes, keys: tuple[str, ...]) -> dict[str, list[np.ndarray]]:
    """{key: matrices of the cell array of that name, column by column}, of bytes that are verified.

    Raises:
      ValueError: they hold something else.
    """
    from scipy import io as scipy_io  # start-up

    if not content.startswith(b"MATLAB 5.0"):
        raise ValueError(f"it starts with {content[:10]!r}, expected a MATLAB 5.0 file")
    found = scipy_io.loadmat(io.BytesIO(content), variable_names=keys)
    for key in keys:
        if key not in found:
            known = ", ".join(name for name, *_ in scipy_io.whosmat(io.BytesIO(content)))
            raise ValueError(f"no variable {key!r}; it has: {known or 'none'}")
        if found[key].dtype != object:
            kind = found[key].dtype
            raise ValueError(f"{key} is an array of {kind}, expected a cell array of matrices")
        for i, cell in enumerate(found[key].ravel("F")):
            if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "biuf":
                raise ValueError(f"{key}[{i}] holds no numbers, expected a matrix of numbers")
    return {key: list(found[key].ravel("F")) for key in keys}


def read(content: bytes, name: str, keys: tuple[str, ...]) -> dict[str, list[np.ndarray]]:
    """`cells` of bytes from anywhere; UsageError for what cannot be read."""
    from lstm_jax.errors import UsageError  # the script starts without JAX
    from lstm_jax.tasks import readers

    if len(content) > FILE_LIMIT:
        raise UsageError(f"{name}: {len(content):,} bytes, expected at most {FILE_LIMIT:,}")
    command = [sys.executable, "-P", "-W", "ignore", __file__, *keys]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # threads cost address space
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, env=environment, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{name}: not read within {SECONDS} s; is it a .mat file?") from None
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        if done.returncode < 0:
            why = [f"SciPy ended by {signal.Signals(-done.returncode).name}: its sizes are damaged"]
        raise UsageError(f"{name}: not a readable .mat file: {''.join(why)}")
    arrays = readers.npz(done.stdout, name)
    return {key: [a for label, a in arrays.items() if label.split()[0] == key] for key in keys}


def main(keys: tuple[str, ...]) -> NoReturn:
    """From standard input to standard output, within MEMORY_LIMIT where the system can hold it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    try:
        found = cells(sys.stdin.buffer.read(), keys)
        named = {f"{key} {i}": a for key in keys for i, a in enumerate(found[key])}
        np.savez(sys.stdout.buffer, allow_pickle=False, **named)
    except Exception as error:  # whatever SciPy makes of bad bytes
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
    sys.exit(0)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
