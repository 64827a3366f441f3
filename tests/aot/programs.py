"""Training programs as compilers for accelerators make them, on a host that has none."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from aot import hlo, topology
from jax.sharding import NamedSharding, PartitionSpec

from lstm_jax.config.fields import resolve
from lstm_jax.ops import count
from lstm_jax.sweep.pack.program import over_trials, pack_program
from lstm_jax.training import train
from lstm_jax.training.check import load_config
from lstm_jax.training.feed import abstract
from lstm_jax.training.program import Program, build_program, placed

ROOT = Path(__file__).parents[2]
WORDS = 10_000  # a vocabulary as large as Penn Treebank's
TRIALS = 16


class Case(NamedTuple):
    """A config with changes, shared by four devices: its batch, or the trials of a pack."""

    config: str
    changes: dict[str, Any] = {}
    mode: str = "jit"  # of `parallel.mode`, or "pack"
    temporaries: dict[str, int] = {}  # MiB that its program may take on a device, at most

    def __str__(self) -> str:
        return ", ".join([self.config, self.mode, *(f"{k}={v}" for k, v in self.changes.items())])


SMALL, LARGE, PACK = {"tpu": 4, "cuda": 8}, {"tpu": 64, "cuda": 64}, {"tpu": 64, "cuda": 128}
TURNS, REMAT = {"train.accumulate": 2}, {"parallel.remat": -1}
EVEN = {"train.batch_size": 48}
CASES = [
    Case("adding.py", EVEN, "jit", SMALL),
    Case("adding.py", {}, "pmap", SMALL),  # 50: filled up to 52
    Case("adding.py", EVEN | TURNS, "jit", SMALL),
    Case("adding.py", EVEN | TURNS | REMAT, "pmap", SMALL),
    Case("words.py:small", {}, "jit", LARGE),
    Case("words.py:small", REMAT, "pmap", LARGE),
    Case("adding.py", {}, "pack", PACK),
]


class Made(NamedTuple):
    """A compiled chunk of training steps."""

    text: str
    seconds: float  # of the compiler
    temporaries: int  # bytes on a device
    state: int  # how many arrays training remembers
    parameters: int  # how many numbers are trained

    @property
    def reductions(self) -> list[hlo.Exchange]:
        """The collectives that a step makes."""
        return [found for found in hlo.exchanges(self.text) if found.depth == 1]

    @property
    def inside(self) -> list[hlo.Exchange]:
        """The collectives in a loop of a step: that over time, or over turns."""
        return [found for found in hlo.exchanges(self.text) if found.depth > 1]


def write_texts(folder: Path) -> dict[str, str]:
    """Three texts of so many words, and the fields that name them."""
    rng, found = np.random.default_rng(0), {}
    for part, tokens in {"train": 50_000, "valid": 2_000, "test": 2_000}.items():
        ids = np.concatenate([np.arange(WORDS), rng.integers(0, WORDS, tokens)])
        lines = [" ".join(f"w{n}" for n in row) for row in np.array_split(ids, len(ids) // 20)]
        (folder / part).write_text("\n".join(lines) + "\n")
        found[f"task.{part}_file"] = str(folder / part)
    return found


def config_of(case: Case, files: dict[str, str], **more: str) -> Any:
    changes = {key: str(value) for key, value in case.changes.items()} | more
    files = files if case.config.startswith("words") else {}
    return load_config(f"{ROOT}/configs/{case.config}", {**files, **changes})


def make(case: Case, platform: str, files: dict[str, str]) -> Made:
    """The chunk of training steps, compiled for the platform."""
    return pack(case, platform) if case.mode == "pack" else training(case, platform, files)


def training(case: Case, platform: str, files: dict[str, str]) -> Made:
    """The chunk of a run that four devices share."""
    config = config_of(case, files, **{"parallel.mode": case.mode})
    program = build_program(config, list(topology.devices(platform)))
    hyper, whole = resolve(config).hyper, program.whole
    like = placed(jax.eval_shape(partial(train.init_state, program), hyper), whole)
    shapes = abstract(program, hyper, program.task.data)
    run = partial(train.run_chunk, program, num_steps=num_steps(program))
    jitted = program.jit(run, donate_argnums=0, out_shardings=whole)
    return compiled(jitted, platform, like, *shapes)


def pack(case: Case, platform: str) -> Made:
    """The chunk of a pack: its trials lie on four devices, and no device waits for another."""
    config = config_of(case, {})
    program, mesh = pack_program(config), topology.mesh(platform, "trial")
    hyper = resolve(config).hyper
    data = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, program.task.data))
    state = jax.eval_shape(partial(train.init_state, program), hyper)

    def run(state: Any, hyper: dict, data: Any) -> tuple:
        return train.run_chunk(program, state, hyper, data, num_steps(program))

    jitted = over_trials(run, mesh, TRIALS // mesh.size, donate=True)
    each, same = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("trial",), ()))
    own = jax.tree.map(lambda leaf: many(leaf, each), (state, hyper))
    return compiled(jitted, platform, *own, placed(data, same))


def many(leaf: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    """The array of every trial."""
    like = jnp.asarray(leaf) if not hasattr(leaf, "dtype") else leaf
    return jax.ShapeDtypeStruct((TRIALS, *like.shape), like.dtype, sharding=place)


def num_steps(program: Program) -> int:
    return min(program.config.train.log_every, program.config.train.num_steps)


def compiled(jitted: Callable, platform: str, state: Any, *shapes: Any) -> Made:
    function: Any = jitted
    lowered = function.trace(state, *shapes).lower(lowering_platforms=(platform,))
    began = time.perf_counter()
    found = lowered.compile()
    seconds = time.perf_counter() - began
    memory = found.memory_analysis()
    arrays, numbers = len(jax.tree.leaves(state)), count(state.params)
    return Made(found.as_text(), seconds, memory.temp_size_in_bytes, arrays, numbers)
