"""One LSTM layer, ours and theirs, interleaved: every row of a shape in turn, round after round."""

from __future__ import annotations

import importlib.util
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import peers
from benchmarks.processes import Workers, meter

CPU_SHAPES = (
    peers.Shape(128, 64, 256, 256),
    peers.Shape(100, 32, 10, 128),
    peers.Shape(512, 16, 64, 512),
    peers.Shape(35, 20, 200, 200),
    peers.Shape(12, 32, 1, 64),
    peers.Shape(784, 64, 1, 128),
)
# FlashRNN's shapes, then DeepBench's; measured where there is a GPU.
GPU_SHAPES = (
    *CPU_SHAPES,
    *(peers.Shape(1024, batch, 768, 768) for batch in (2, 16, 64, 256)),
    *(peers.Shape(25, batch, size, size) for size in (512, 1024, 2048) for batch in (16, 128)),
)
LEAST_ROUNDS = 3


class Entry(NamedTuple):
    """A row in a world."""

    world: str
    row: str

    def __str__(self) -> str:
        return self.row if self.world == "torch" else f"{self.row}, {self.world}"


class Result(NamedTuple):
    """What one row did at one shape; seconds one number a call."""

    shape: peers.Shape
    mode: str
    entry: Entry
    seconds: list[float]
    compile_seconds: float | None
    peak_bytes: int | None
    error: float | None
    others: float  # share of the cores that other processes used meanwhile

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)


def installed(row: str) -> bool:
    return importlib.util.find_spec(peers.NEEDS.get(row.partition(" ")[0], "jax")) is not None


def entries(platform: str, devices: int) -> tuple[list[Entry], list[str]]:
    """(what can run here, what is left out and why)."""
    rows = [name for name in peers.LAYERS if name not in peers.UNROLLED]
    wanted = [Entry("one device", name) for name in (*rows, peers.FLOOR)]
    wanted += [Entry("all cores", name) for name in (*peers.SHARDED, peers.FLOOR) if devices > 1]
    wanted += [Entry("torch", name) for name in peers.TORCH]
    missing = {entry.row for entry in wanted if not installed(entry.row)}
    out = [f"{name} is not installed and left out" for name in sorted(missing)]
    gpu_only = {"lstm_jax cudnn", *(name for name, spec in peers.TORCH.items() if spec[2])}
    if platform != "gpu":
        missing |= gpu_only
        out.append(f"no GPU here: {', '.join(sorted(gpu_only))} left out")
    if platform != "tpu":
        missing.add("lstm_jax pallas")
    return [entry for entry in wanted if entry.row not in missing], out


def asked(wanted: list[Entry], platform: str) -> list[Entry]:
    """What runs where no row is named."""
    return [entry for entry in wanted if platform == "gpu" or entry.row not in peers.NAMED]


def measure(
    workers: Workers,
    shapes: list[peers.Shape],
    modes: list[str],
    wanted: list[Entry],
    seconds: float,
) -> Iterator[Result]:
    """Results block by block; a block is one shape in one mode with all rows interleaved."""
    began, blocks = time.perf_counter(), [(s, m) for s in shapes for m in modes]
    for number, (shape, mode) in enumerate(blocks):
        found = list(block(workers, shape, mode, wanted, seconds))
        yield from found
        spent = time.perf_counter() - began
        left = spent / (number + 1) * (len(blocks) - number - 1)
        busy = f", others used {found[0].others:.0%} of the cores" if found else ""
        print(
            f"[{number + 1}/{len(blocks)}] {shape} {mode}: {len(found)} rows{busy}; "
            f"{spent:.0f} s gone, about {left:.0f} s to go",
            flush=True,
        )


def block(
    workers: Workers, shape: peers.Shape, mode: str, wanted: list[Entry], seconds: float
) -> Iterator[Result]:
    reference = str(Path(workers.folder.name) / "reference.npz")
    train = mode == "train"
    exact = all(entry.row in (*peers.LAYERS, *peers.TORCH, peers.FLOOR) for entry in wanted)
    if exact:
        workers.ask("one device", "reference", shape=shape, train=train, path=reference)
    prepared = {
        entry: _prepare(workers, entry, shape, train, reference * exact) for entry in wanted
    }
    prepared = {entry: answer for entry, answer in prepared.items() if answer}
    times, others = _rounds(workers, list(prepared), seconds)
    workers.forget()
    for entry, answer in prepared.items():
        yield Result(
            shape, mode, entry, times[entry],
            answer["compile"], answer["bytes"], answer["error"], others,
        )  # fmt: skip


def _prepare(
    workers: Workers, entry: Entry, shape: peers.Shape, train: bool, reference: str
) -> dict[str, Any]:
    check = reference if entry.row != peers.FLOOR else ""
    task = {"row": entry.row, "shape": shape, "train": train}
    sharded = entry.world == "all cores"
    answer = workers.ask(
        entry.world, "prepare", key=str(entry), reference=check, sharded=sharded, **task
    )
    if "refused" in answer:
        print(f"  {entry} at {shape} left out: {answer['refused']}", flush=True)
        return {}
    return answer


def _rounds(
    workers: Workers, entries: list[Entry], seconds: float
) -> tuple[dict[Entry, list[float]], float]:
    """Seconds a call of each, and the share of the cores that went to other processes."""
    times: dict[Entry, list[float]] = {entry: [] for entry in entries}
    last = dict.fromkeys(entries, 1.0)
    order = random.Random(0)
    turns, began, rounds = list(entries), time.perf_counter(), 0
    others = meter(workers)
    while rounds < LEAST_ROUNDS or time.perf_counter() - began < seconds:
        order.shuffle(turns)
        for entry in turns:
            answer = workers.ask(entry.world, "time", key=str(entry), last=last[entry])
            last[entry] = min(answer["seconds"])
            # The first round tells how long a call takes; it warms up and is not counted.
            times[entry] += answer["seconds"] if rounds else []
        rounds += 1
    return times, others()
