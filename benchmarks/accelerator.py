"""What only a clock can tell of an accelerator, what is worth most first, within some minutes.

Every row is written when it is measured: minutes that run out, or a machine that goes, lose none.
The same runs on a CPU, to be tried before.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import layers, peers
from benchmarks.layers import Entry, Result
from benchmarks.peers import Shape
from benchmarks.processes import Workers

ENGINES = ("lstm_jax", "lstm_jax deferred", "lstm_jax scan", "lstm_jax chunked", "lstm_jax cudnn",
           "lstm_jax pallas")  # fmt: skip
WHOLE = (Shape(128, 64, 256, 256), Shape(784, 64, 1, 128), Shape(512, 16, 64, 512),
         Shape(1024, 16, 768, 768), Shape(25, 16, 1024, 1024), Shape(100, 32, 10, 128),
         Shape(35, 20, 200, 200), Shape(1024, 256, 768, 768))  # fmt: skip
TUNED = WHOLE[:3]  # with and without command buffers, several steps a turn of the loop
TRIALS = (1, 16, 256, 2048, 64, 1024, 4, 512)
LEAST = 20.0  # seconds that a block needs to be begun
COLUMNS = ("part", "row", "T,B,D,H or trials", "mode", "median", "least", "unit", "compile s",
           "peak MB", "error", "at s")  # fmt: skip


class Bench(NamedTuple):
    """The processes, the end of the minutes, seconds a block gets, the folder of what is found."""

    workers: Workers
    began: float
    end: float
    seconds: float
    out: Path

    def left(self) -> float:
        return self.end - time.monotonic()


def run(bench: Bench, write: Callable[[tuple], None]) -> None:
    """Every part in turn, its rows to `write`; what no time is left for is said."""
    for name, part in PARTS.items():
        if bench.left() < LEAST:
            print(f"left out, the minutes are over: {name}", flush=True)
            continue
        for row in part(bench):
            write((name, *row, f"{time.monotonic() - bench.began:.0f}"))


def sheet(path: Path) -> Callable[[tuple], None]:
    """Writes rows into a new CSV file and on the console, each at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(",".join(f'"{name}"' for name in COLUMNS) + "\n")

    def write(row: tuple) -> None:
        with path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        print("  ".join(str(cell) for cell in row if cell != ""), flush=True)

    return write


def table(path: Path) -> list[str]:
    """The CSV file as lines of markdown."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rule = ["---"] * 4 + ["---:"] * (len(COLUMNS) - 4)
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


# The parts -------------------------------------------------------------------------------------


def parity(bench: Bench) -> Iterator[tuple]:
    """Every engine against float64, values and gradients."""
    entries = [Entry("one device", row) for row in ENGINES]
    return blocks(bench, WHOLE[:1], entries)


def whole_layers(bench: Bench) -> Iterator[tuple]:
    """Layers, ours and theirs."""
    platform = bench.workers.ask("one device", "hello", torch=False)["platform"]
    wanted, left_out = layers.entries(platform, 1)
    print("\n".join(left_out), flush=True)
    return blocks(bench, WHOLE, wanted)


def tuned(bench: Bench) -> Iterator[tuple]:
    """Command buffers off, and several steps a turn of the loop."""
    entries = [Entry("no command buffers", "lstm_jax deferred")]
    entries += [Entry("one device", row) for row in ("lstm_jax deferred", *peers.UNROLLED)]
    return blocks(bench, TUNED, entries)


def packs(bench: Bench) -> Iterator[tuple]:
    """Trial-steps a second, from one trial to 2,048."""
    for trials in TRIALS:
        if bench.left() < LEAST:
            return
        answer = bench.workers.ask("one device", "pack", hidden=32, trials=trials)
        if "refused" in answer:
            print(f"  {trials} trials left out: {answer['refused']}", flush=True)
            continue
        yield told("airline, H=32", trials, f"{answer['rate']:.0f}", "trial-steps/s")


def pixels(bench: Bench) -> Iterator[tuple]:
    """MNIST pixel by pixel, as far as it gets."""
    root, workdir = Path(__file__).parents[1], bench.out / "mnist_pixels"
    command = [sys.executable, "-m", "lstm_jax.cli", "train", f"--workdir={workdir}",
               f"--config={root / 'configs/mnist_pixels.py'}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=root)
    try:
        process.wait(max(bench.left(), 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # saves first
        process.wait(120)
    log = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for line in [line for line in lines if line["split"] == "valid"][-1:]:
        where = f"step {line['step']}"
        yield told("mnist_pixels", where, f"{line['accuracy']:.4f}", "accuracy")
    if not lines:
        print("  mnist_pixels left out: it did not start, see above", flush=True)


PARTS: dict[str, Callable[[Bench], Iterator[tuple]]] = {
    "parity": parity,
    "layers": whole_layers,
    "packs": packs,
    "tuning": tuned,
    "pixels": pixels,
}


def blocks(bench: Bench, shapes: Any, entries: list[Entry]) -> Iterator[tuple]:
    """The rows of each shape, training first, as long as there is time."""
    for mode in ("train", "forward"):
        for shape in shapes:
            if bench.left() < LEAST:
                return
            found = layers.block(bench.workers, shape, mode, entries, bench.seconds)
            yield from map(row_of, found)


def row_of(found: Result) -> tuple:
    peak = f"{found.peak_bytes / 1e6:.0f}" if found.peak_bytes else ""
    compiled = f"{found.compile_seconds:.2f}" if found.compile_seconds else ""
    error = f"{found.error:.0e}" if found.error is not None else ""
    times = f"{1e3 * found.median:.3f}", f"{1e3 * found.least:.3f}", "ms"
    return str(found.entry), str(found.shape), found.mode, *times, compiled, peak, error


def told(row: str, where: Any, value: str, unit: str) -> tuple:
    """A row that is no layer's time."""
    return row, where, "train", value, "", unit, "", "", ""


def start(minutes: float, seconds: float, out: Path) -> Bench:
    """What the parts share; the clock runs from here, set-up included."""
    # Several processes share the device: none may take its memory beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    now = time.monotonic()
    return Bench(Workers(), now, now + 60 * minutes, seconds, out)
