"""Time our LSTM layers beside flax, haiku, equinox, keras and torch, and every variant.

python -m benchmarks.run                         the layers at six shapes, forward and training step
python -m benchmarks.run --quick                 the same with few repetitions
python -m benchmarks.run variants chunked        ablations; chunked at T=8192
python -m benchmarks.run devices                 our configs by one device and by every core
python -m benchmarks.run start packs             from the command to the first step; packs of trials
python -m benchmarks.run accelerator             what a GPU or TPU has to show, in order of worth
python -m benchmarks.run tpu-static              bundles a step on a TPU, by its own compiler
python -m benchmarks.run --shapes=100,32,10,128 --rows=lstm_jax,torch --modes=train

Rows are interleaved in one run. It wants the machine to itself, and says how much others used.
"""

from __future__ import annotations

import csv
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import accelerator, devices, layers, tables, tpu_static, variants
from benchmarks.layers import Entry, Result
from benchmarks.peers import Shape
from benchmarks.processes import CORES, Workers, meter
from lstm_jax.commands.arguments import Arguments, Flag, parse
from lstm_jax.errors import OK, USAGE_ERROR, UsageError, lookup

VARIANT_SHAPE = Shape(128, 64, 256, 256)
LONG = Shape(8192, 8, 16, 64)


def run_layers(flags: Any, out: Path) -> None:
    """One layer at every shape, ours and theirs."""
    with Workers() as workers:
        about = workers.ask("one device", "hello", torch=False)
        count = CORES if about["platform"] == "cpu" else about["devices"]
        wanted, left_out = layers.entries(about["platform"], count)
        wanted = (
            chosen(wanted, flags.rows) if flags.rows else layers.asked(wanted, about["platform"])
        )
        default = layers.GPU_SHAPES if about["platform"] == "gpu" else layers.CPU_SHAPES
        shapes = [shape_of(text) for text in flags.shapes.split(";") if text] or list(default)
        modes = modes_of(flags.modes)
        lines = conditions(workers, wanted, about) + [f"- {line}" for line in left_out]
        print("\n".join(lines), flush=True)
        found = list(layers.measure(workers, shapes, modes, wanted, flags.seconds))
    lines.append(f"- other processes used {load(found)} of the cores meanwhile")
    print(tables.write(found, out, lines, "One LSTM layer"))
    print(f"written: {out}/layers.md, layers.csv, layers.png")


def chosen(wanted: list[Entry], names: str) -> list[Entry]:
    picked = [name.strip() for name in names.split(",") if name.strip()]
    known = {entry.row for entry in wanted}
    unknown = [name for name in picked if name not in known]
    if unknown:
        raise UsageError(f"--rows: no row {unknown[0]!r} here; there are: {', '.join(known)}")
    return [entry for entry in wanted if not picked or entry.row in picked]


def shape_of(text: str) -> Shape:
    sizes = text.split(",")
    if len(sizes) != 4 or not all(size.strip().isdigit() and int(size) for size in sizes):
        raise UsageError(f"--shapes: {text!r} is no T,B,D,H, as in 128,64,256,256")
    return Shape(*map(int, sizes))


def modes_of(text: str) -> list[str]:
    modes = [mode.strip() for mode in text.split(",")]
    for mode in modes:
        if mode not in ("forward", "train"):
            raise UsageError(f"--modes: {mode!r} is neither forward nor train")
    return modes


def conditions(workers: Workers, wanted: list[Entry], about: dict) -> list[str]:
    """Command, versions, machine and flags."""
    from importlib.metadata import PackageNotFoundError, version

    def known(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return ""

    packages = ("jax", "jaxlib", "flax", "dm-haiku", "equinox", "keras", "torch")
    names = [text for text in map(known, packages) if text]
    flags = f"XLA_FLAGS={about['XLA_FLAGS']!r}"
    if any(entry.world == "torch" for entry in wanted):
        torch = workers.ask("torch", "hello", torch=True)
        flags += f", torch on {torch['on']} with {torch['threads']} threads"
    return [
        *provenance(f"JAX on {about['platform']} ({about['on']})"),
        f"- {', '.join(names)}, Python {platform.python_version()}; {flags}",
        "- float32; seeds of all inputs and weights 0; error: largest, relative, against float64",
    ]


def provenance(more: str) -> list[str]:
    """Command, commit, day and machine."""
    return [
        f"- command: `make bench BENCH='{' '.join(sys.argv[1:])}'`, commit {commit()}, "
        f"{time.strftime('%F')}",
        f"- machine: {cpu_name()}, {CORES} cores; {more}",
    ]


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def load(found: list[Result]) -> str:
    shares = [r.others for r in found]
    return f"{min(shares):.0%} to {max(shares):.0%}"


# ---------------------------------------------------------------------------------------------


def run_variants(flags: Any, out: Path) -> None:
    """Training step of every row of the ablation table over the standard cell's."""
    names = [name for name in variants.names() if not flags.rows or name in flags.rows.split(",")]
    standard = Entry("one device", variants.STANDARD)
    wanted = [standard, *(Entry("one device", n) for n in names if n != standard.row)]
    shapes = [shape_of(text) for text in flags.shapes.split(";") if text] or [VARIANT_SHAPE]
    with Workers() as workers:
        lines = conditions(workers, [], workers.ask("one device", "hello", torch=False))
        found = list(layers.measure(workers, shapes[:1], ["train"], wanted, 4 * flags.seconds))
    lines.append(f"- training step at {shapes[0]}; others used {load(found)} of the cores")
    lines.append("- gates/lstm is the standard cell once more: how far it is from 1.00 is noise")
    table, above = variants.table(found)
    limit = f"{variants.LIMIT} times the standard cell (times the FLOPs it has more)"
    lines.append(f"- by minima above {limit}: {above}")
    write_markdown(out / "variants.md", "Every variant against the standard cell", lines, table)
    tables.write_csv(found, out / "variants.csv")


def run_devices(flags: Any, out: Path) -> None:
    """Training steps of our configs by one device and by all."""
    with Workers() as workers:
        lines = conditions(workers, [], workers.ask("one device", "hello", torch=False))
        others = meter(workers)
        pairs = list(devices.measure(workers, flags.rows, flags.seconds / 5))
        share = others()
    lines.append(f"- the fastest tenth of the calls; others used {share:.0%} of the cores")
    write_markdown(out / "devices.md", "How many devices", lines, devices.table(pairs))


def run_chunked(flags: Any, out: Path) -> None:
    """Memory and time of `chunked` over `scan` at T = 8192."""
    names = ("lstm_jax scan", "lstm_jax", "lstm_jax chunked")
    wanted = [Entry("one device", name) for name in names]
    shapes = [shape_of(text) for text in flags.shapes.split(";") if text] or [LONG]
    with Workers() as workers:
        lines = conditions(workers, [], workers.ask("one device", "hello", torch=False))
        found = list(layers.measure(workers, shapes, ["train"], wanted, flags.seconds))
    table = ["| T,B,D,H | engine | ms, median | min | over scan | peak MB | over scan |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for r in found:
        base = next(b for b in found if b.shape == r.shape)
        memory = (r.peak_bytes or 0) / (base.peak_bytes or 1)
        table.append(
            f"| {r.shape} | {r.entry.row} | {1e3 * r.median:.0f} | {1e3 * r.least:.0f} | "
            f"{r.least / base.least:.2f} | {(r.peak_bytes or 0) / 1e6:.1f} | {memory:.3f} |"
        )
    write_markdown(out / "chunked.md", "Checkpointing in time", lines, table)


def run_start(flags: Any, out: Path) -> None:
    """Seconds from the command to the end of the first training step, compiled programs kept."""
    repeats = 1 if flags.seconds == 0 else 5
    config = str(Path(__file__).parents[1] / "configs" / "airline.py")
    table = ["| command | cold cache | warm, median | warm, min |", "|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory(prefix="lstm-jax-bench-") as folder:
        cold, *warm = [first_step(config, Path(folder), n) for n in range(repeats + 1)]
    table.append(
        f"| `lstm-jax train --config=configs/airline.py`, to its first line of the log "
        f"| {cold:.1f} s | {statistics.median(warm):.1f} s | {min(warm):.1f} s |"
    )
    lines = provenance(f"load {os.getloadavg()[0]:.1f} at the end")
    write_markdown(out / "start.md", "From the command to the first training step", lines, table)


def first_step(config: str, folder: Path, number: int) -> float:
    """Seconds until metrics.jsonl has its first line: one chunk of one step."""
    workdir = folder / str(number)
    command = [sys.executable, "-m", "lstm_jax.cli", "train", f"--config={config}"]
    command += [f"--workdir={workdir}", "--config.train.log_every=1", "--config.train.num_steps=1",
                "--config.train.eval_every=1", "--config.train.checkpoint_every=1"]  # fmt: skip
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
                   "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}  # fmt: skip
    began, quiet = time.perf_counter(), subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
    log, took = workdir / "metrics.jsonl", 0.0
    while process.poll() is None and not took:
        if log.exists() and log.stat().st_size:
            took = time.perf_counter() - began
        time.sleep(0.005)
    process.wait()
    return took or time.perf_counter() - began


def run_packs(flags: Any, out: Path) -> None:
    """Trial-steps a second of packs of 1 to 2048 trials; up to 64 and H = 32 on a CPU."""
    import jax

    from benchmarks.packs import trial_steps_per_second
    from lstm_jax.compute.sharding import configure_cpu_devices

    configure_cpu_devices()
    accelerated = jax.default_backend() != "cpu"
    sizes = [2**n for n in range(12 if accelerated else 7)]
    table = ["| H | trials | trial-steps/s | against one trial |", "|---:|---:|---:|---:|"]
    rows = []
    for hidden in (32, 64, 128) if accelerated else (32,):
        base = 0.0
        for trials in sizes:
            rate = trial_steps_per_second(hidden, trials)
            base = base or rate
            rows.append((hidden, trials, rate))
            table.append(f"| {hidden} | {trials} | {rate:,.0f} | {rate / base:.2f} |")
            print(table[-1], flush=True)
    lines = provenance(f"JAX on {jax.devices()[0].device_kind}")
    write_markdown(out / "packs.md", "Packs of trials (airline)", lines, table)
    with (out / "packs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("H", "trials", "trial_steps_per_second"), *rows])


def write_markdown(path: Path, title: str, lines: list[str], table: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*lines, "", *table]) + "\n"
    path.write_text(f"# {title}\n\n{text.lstrip()}")
    print(text)
    print(f"written: {path}")


def run_tpu_static(flags: Any, out: Path) -> None:
    """Bundles a time step on a TPU: layers at three shapes, then every variant; no TPU needed."""
    names = [name.strip() for name in flags.rows.split(",") if name.strip()]
    shapes = [shape_of(text) for text in flags.shapes.split(";") if text]
    rows = itertools.chain(
        tpu_static.layers(shapes or list(tpu_static.SHAPES), names),
        tpu_static.every_variant((shapes or tpu_static.SHAPES)[0], names),
    )
    table = []
    for line in tpu_static.measured(rows):
        print(line, flush=True)
        table.append(line)
    lines = provenance(f"compiled for a TPU {tpu_static.TOPOLOGY}, nothing ran")
    lines.append(f"- {tpu_static.versions()}; float32, T and D as in {tpu_static.SHAPES[0]}")
    lines.append("- no time: bundles leave out waiting for memory, and loops inside a kernel")
    write_markdown(out / "tpu_static.md", "What a time step costs on a TPU", lines, table)


def run_accelerator(flags: Any, out: Path) -> None:
    """Engines, layers, packs and a long run on what is there, each row written when measured."""
    bench = accelerator.start(flags.minutes, min(flags.seconds, 5.0), out)
    path = out / "accelerator.csv"
    with bench.workers:
        about = bench.workers.ask("one device", "hello", torch=False)
        accelerator.run(bench, accelerator.sheet(path))
        lines = conditions(bench.workers, [], about)
    lines.append(f"- {flags.minutes:g} minutes; ratios are to be taken within a part and a shape")
    title = "An accelerator by the clock"
    write_markdown(out / "accelerator.md", title, lines, accelerator.table(path))


PARTS: dict[str, Callable[[Any, Path], None]] = {
    "layers": run_layers,
    "variants": run_variants,
    "devices": run_devices,
    "chunked": run_chunked,
    "start": run_start,
    "packs": run_packs,
    "tpu-static": run_tpu_static,
    "accelerator": run_accelerator,
}


FLAGS = (
    Flag("shapes", "", "T,B,D,H of the layers, several with a semicolon between them"),
    Flag("rows", "", "only these, as in lstm_jax,torch; names as the table prints them"),
    Flag("modes", "forward,train", "forward, train or both"),
    Flag("seconds", 25.0, "that each shape gets a mode, at least three rounds"),
    Flag("minutes", 10.0, "of accelerator in all; what is worth most comes first"),
    Flag("quick", False, "three rounds of everything"),
    Flag("out", "runs/bench", "folder of tables, CSV files and plots", path=True),
)


def run(arguments: Arguments) -> int:
    """Run the parts that are named; the layers where none is."""
    flags = arguments.flags
    flags.seconds = 0.0 if flags.quick else flags.seconds
    parts = [
        lookup("part of the benchmark", word, PARTS) for word in arguments.words or ("layers",)
    ]
    for part in parts:
        part(flags, Path(flags.out))
    return OK


def main(argv: list[str]) -> int:
    """The exit code of a command line."""
    try:
        return run(parse("bench", FLAGS, argv))
    except UsageError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
