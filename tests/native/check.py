"""The kernel under sanitizers: `python tests/native/check.py`, as `make test-native` does.

The cells are the standard LSTM and one that sums over units, as the engine writes them;
what runs is `driver.cc`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp

from lstm_jax.cells import lstm
from lstm_jax.core import Cell
from lstm_jax.engines.masking import Step, stepping
from lstm_jax.engines.native import build, call
from lstm_jax.engines.native.design import design

HERE = Path(__file__).parent
CELLS = {"lstm": lstm(8), "layer norm": lstm(8, layer_norm="branch")}
SANITIZERS = ("address,undefined", "thread")


def told(cell: Cell) -> tuple[str, list[str]]:
    """(C of a cell, its numbers as the driver's macros)."""
    cell = stepping(cell)
    params = jax.eval_shape(lambda key: cell.init(key, 1), jax.random.key(0))
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (1,)), params)
    steps = Step(jax.ShapeDtypeStruct((1, 1, 1), jnp.float32))
    made = design(cell, params, carry, steps)
    code = call.code(made)
    numbers = {"N": len(made.of_z), "ONLY_X": made.only_x, "BOTH": made.both}
    numbers |= {"PARAMS": len(made.params), "SAVED": len(made.kept), "SPILLED": code.spilled}
    lists = {"OF_Z": made.of_z, "OF_R": made.of_r}
    numbers |= {name: ",".join(map(str, values)) for name, values in lists.items()}
    numbers["MIXES"] = int(made.mixes)
    return code.text, [f"-DCELL_{name}={value}" for name, value in numbers.items()]


def check(cell: Cell, sanitizer: str, folder: Path) -> None:
    """Builds the driver with a sanitizer and runs it; raises where either fails."""
    aim = build.target()
    source, program = folder / "cell.c", folder / "driver"
    text, macros = told(cell)
    source.write_text(text)
    common = [build.compiler(), "-O1", "-g", f"-fsanitize={sanitizer}", f"-DLANES={aim.lanes}"]
    common += [*aim.flags, "-fno-sanitize-recover=all", "-w", f"-I{build.HERE}"]
    objects = folder / "cell.o"
    subprocess.run([*common, "-std=gnu11", "-x", "c", "-c", source, "-o", objects], check=True)
    driver = [
        *common,
        *macros,
        "-std=c++17",
        HERE / "driver.cc",
        objects,
        "-lpthread",
        "-o",
        program,
    ]
    subprocess.run(driver, check=True)
    subprocess.run([program], check=True, timeout=300)


def main() -> int:
    if why := build.missing():
        print(f"skipped: {why}")
        return 0
    for (name, cell), sanitizer in product(CELLS.items(), SANITIZERS):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}, {sanitizer}: ", end="", flush=True)
            check(cell, sanitizer, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
