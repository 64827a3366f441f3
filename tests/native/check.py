"""The kernel under sanitizers: `python tests/native/check.py`, as `make test-native` does.

The cell is the standard LSTM, as the engine writes it; what runs is `driver.cc`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from lstm_jax.cells import lstm
from lstm_jax.core import noted
from lstm_jax.engines.masking import Step, stepping
from lstm_jax.engines.native import build, call
from lstm_jax.engines.native.design import design

HERE = Path(__file__).parent
SANITIZERS = ("address,undefined", "thread")


def cell_code() -> str:
    """C of the standard LSTM."""
    cell = stepping(lstm(8))
    params = jax.eval_shape(lambda key: cell.init(key, 1), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (1,)), params)
    steps = Step(jax.ShapeDtypeStruct((1, 1, 1), jnp.float32))
    z, notes = jax.eval_shape(lambda p, s: noted(cell.project(p, s)), params, steps)
    return call.code(design(cell, params, carry, z, notes))


def check(sanitizer: str, folder: Path) -> None:
    """Builds the driver with a sanitizer and runs it; raises where either fails."""
    aim = build.target()
    source, program = folder / "cell.c", folder / "driver"
    source.write_text(cell_code())
    common = [build.compiler(), "-O1", "-g", f"-fsanitize={sanitizer}", f"-DLANES={aim.lanes}"]
    common += [*aim.flags, "-fno-sanitize-recover=all", "-w", f"-I{build.HERE}"]
    objects = folder / "cell.o"
    subprocess.run([*common, "-std=gnu11", "-x", "c", "-c", source, "-o", objects], check=True)
    driver = [*common, "-std=c++17", HERE / "driver.cc", objects, "-lpthread", "-o", program]
    subprocess.run(driver, check=True)
    subprocess.run([program], check=True, timeout=300)


def main() -> int:
    if why := build.missing():
        print(f"skipped: {why}")
        return 0
    for sanitizer in SANITIZERS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{sanitizer}: ", end="", flush=True)
            check(sanitizer, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
