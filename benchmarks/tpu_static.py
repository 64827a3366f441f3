"""What a time step costs on a TPU, read from the compiler's own schedule; no TPU is needed.

The TPU's compiler (libtpu) runs on any machine and writes down how many bundles, instruction words
of about one cycle each, every kernel of a program comes to. Waiting for memory is in none of them:
these numbers rank programs, they are no times.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import peers, variants
from benchmarks.peers import Layer, Shape
from lstm_jax.engines.pallas import room
from lstm_jax.errors import UsageError
from lstm_jax.ops import tracing_for

TOPOLOGY = "v5e:2x2"
HOST = {  # what libtpu asks the machine for, and is told here
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
SCHEDULE = "*schedule-analysis_final_bundles.txt"
SHAPES = (Shape(128, 64, 128, 128), Shape(128, 64, 128, 256), Shape(128, 64, 128, 512))
ROWS: dict[str, Callable[[Shape], Layer]] = {
    "lstm_jax deferred": partial(peers.engine, "deferred"),
    "lstm_jax pallas": partial(peers.engine, "pallas"),
    "lstm_jax deferred:bfloat16": partial(peers.engine, "deferred:bfloat16"),
    "lstm_jax pallas:bfloat16": partial(peers.engine, "pallas:bfloat16"),
    "lstm_jax scan": partial(peers.engine, "scan"),
    "flax linen": peers.linen,
    "flax nnx": peers.nnx,
    "haiku": peers.haiku,
}


class Cost(NamedTuple):
    """Bundles and bytes streamed a step, forward and backward; bytes of temporaries of it all."""

    bundles: tuple[int, int]
    streamed: tuple[int, int]
    temporaries: int


def compiler(folder: str) -> Any:
    """A TPU's device to compile for, its compiler writing schedules to `folder`.

    Raises: UsageError where libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UsageError(
            "tpu-static needs the TPU's compiler, libtpu, which is not installed here; "
            "make bench-tpu installs it in an environment of its own (no TPU is needed)"
        )
    for name, value in HOST.items():
        os.environ.setdefault(name, value)
    dump = {"to": folder, "llo_text": "true", "llo_pass_label_regex": ".*final_bundles"}
    os.environ["LIBTPU_INIT_ARGS"] = " ".join(f"--xla_jf_dump_{k}={v}" for k, v in dump.items())
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies  # loads libtpu, which reads the environment once

    return topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]


def gradient(layer: Layer, shape: Shape, device: Any) -> tuple[Callable, tuple]:
    """(the training step of a layer, what it is compiled for)."""
    place = jax.sharding.SingleDeviceSharding(device)

    def like(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=place)

    weights, xs, _ = peers.problem(shape)
    params = layer.params(weights)

    def loss(params: Any, xs: Any) -> Any:
        return jnp.sum(layer.apply(params, xs) ** 2)

    return jax.grad(loss, (0, 1)), (jax.tree.map(like, params), like(xs))


def cost(layer: Layer, shape: Shape, device: Any, folder: Path) -> Cost:
    """What a training step of the layer costs a time step."""
    step, given = gradient(layer, shape, device)
    for path in folder.iterdir():
        path.unlink()
    with jax.default_device(device), tracing_for("tpu"):
        traced = jax.jit(step).trace(*given)
        done = traced.lower(lowering_platforms=("tpu",)).compile()
    analysis: Any = done.memory_analysis()
    streamed = [*loops(traced.jaxpr.jaxpr, shape.T), 0, 0][:2]
    return Cost(bundles(folder, shape.T), (streamed[0], streamed[1]), analysis.temp_size_in_bytes)


def bundles(folder: Path, length: int) -> tuple[int, int]:
    """(forward, backward) a step, from the schedules in a folder."""
    found = [0, 0]
    for path in folder.glob(SCHEDULE):
        text = path.read_text()
        total = re.search(r"total scheduled bundles:\s+(\d+)", text)
        name = re.search(r'op_name="([^"]+)"', text)
        if total and name and "-TLP-" not in path.name:
            found["transpose" in name[1]] += share(name[1], int(total[1]), length)
    return found[0], found[1]


def share(name: str, total: int, length: int) -> int:
    """A kernel's bundles a time step: all of them inside a loop, else those of one in a block."""
    if "/while/body" in name:
        return total
    ours = "_in_time" in name and name.endswith("pallas_call")
    return round(total / room.blocks(length)[0]) if ours else 0


def loops(jaxpr: Any, length: int) -> Iterator[int]:
    """Bytes that each time loop of a program reads and writes a step, in order."""
    for e in jaxpr.eqns:
        if e.primitive.name == "scan" and e.params["length"] == length:
            fixed = e.params["num_consts"] + e.params["num_carry"]
            yield _bytes([*e.invars[fixed:], *e.outvars[e.params["num_carry"] :]]) // length
        elif e.primitive.name == "pallas_call":
            long = [v for v in (*e.invars, *e.outvars) if v.aval.shape[:1] == (length,)]
            yield _bytes(long) // length
        else:
            for inner in e.params.values():
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from loops(inner, length)


def _bytes(variables: list) -> int:
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in variables)


def layers(shapes: list[Shape], names: list[str]) -> Iterator[tuple[str, Shape, Callable]]:
    """(row, shape, what makes the layer) of ours and of other libraries'."""
    for shape in shapes:
        for name in names or ROWS:
            if name in ROWS and importlib.util.find_spec(peers.NEEDS.get(name, "jax")):
                yield name, shape, partial(ROWS[name], shape)


def every_variant(shape: Shape, names: list[str]) -> Iterator[tuple[str, Shape, Callable]]:
    """(row, shape, what makes the layer) of every variant by `deferred` and by `pallas`."""
    for row in variants.names():
        for engine in ("deferred", "pallas"):
            if not names or row in names:
                yield f"{row}, {engine}", shape, partial(variants.layer, row, shape, engine)


def versions() -> str:
    """What compiled."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "libtpu"))


def measured(rows: Iterator[tuple[str, Shape, Callable]]) -> Iterator[str]:
    """A line of the table for every row, as it is compiled."""
    yield "| row | B, H | bundles a step, forward + backward | KB streamed a step | temporaries |"
    yield "|---|---|---:|---:|---:|"
    with tempfile.TemporaryDirectory(prefix="lstm-jax-tpu-") as folder:
        device = compiler(folder)
        for name, shape, make in rows:
            sizes = f"{shape.B}, {shape.H}"
            try:
                found = cost(make(), shape, device, Path(folder))
            except Exception as error:  # a row that the compiler refuses is a finding
                yield f"| {name} | {sizes} | {type(error).__name__}: {str(error)[:160]!r} | | |"
                continue
            forward, backward = found.bundles
            read, back = (round(size / 1e3) for size in found.streamed)
            yield (
                f"| {name} | {sizes} | {forward} + {backward} = {forward + backward} | "
                f"{read} + {back} | {found.temporaries / 1e6:.1f} MB |"
            )
