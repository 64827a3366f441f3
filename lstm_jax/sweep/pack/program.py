"""K trials, one program: the pure functions of `train` over a trial axis laid out over devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstm_jax.compute.sharding import platform
from lstm_jax.config.fields import replaced, resolve
from lstm_jax.errors import UsageError
from lstm_jax.ops import traced_for
from lstm_jax.sweep.pack.memory import block_size
from lstm_jax.training import train
from lstm_jax.training.program import Program, build_program, next_chunk

KEPT, BYTES = 16, 2**30  # programs that a process keeps, and of their data on the host
_programs: dict[str, Program] = {}
_compiled: dict[tuple[str, int], Compiled] = {}


def forget() -> None:
    """Another sweep may mean other files by the same names."""
    _programs.clear()
    _compiled.clear()


def pack_program(config: Any) -> Program:
    """The program of every trial in the pack; the packs of a search come back to the same few."""
    config = resolve(config)
    name = config.signature
    if name not in _programs:
        _programs[name] = _pack_program(config)
        while len(_programs) > KEPT or (len(_programs) > 1 and _host_bytes() > BYTES):
            del _programs[next(iter(_programs))]
        for key in [key for key in _compiled if key[0] not in _programs]:
            del _compiled[key]
    return _programs[name]


def _host_bytes() -> int:
    data = [program.task.data for program in _programs.values()]
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(data))


def compiled(program: Program, hypers: list[dict]) -> Compiled:
    """The functions of a pack; what was compiled for as many trials serves these, too."""
    key = program.config.signature, len(hypers)
    if key not in _compiled:
        _compiled[key] = Compiled(program, hypers)
        while len(_compiled) > KEPT:
            del _compiled[next(iter(_compiled))]
    return _compiled[key].of(hypers)


def _pack_program(config: Any) -> Program:
    """Devices share trials here, never a batch."""
    if config.train.on_nan == "rollback":
        raise UsageError(
            "train.on_nan=rollback is for single runs: the trials of a pack share their "
            "checkpoints, so none goes back alone; use stop or skip in a sweep"
        )
    program = build_program(replaced(config, {"parallel.data": 1}))
    if program.task.feed is not None:
        raise UsageError("a pack keeps its data on the device: set task.pipeline=device")
    return program


def trial_mesh(num_trials: int, wanted: int = -1) -> Mesh:
    """`wanted` local devices (-1: all), no more than there are trials, along the axis `trial`."""
    devices = jax.local_devices()
    if wanted > len(devices):
        raise UsageError(
            f"parallel.trials={wanted}, but there are {len(devices)} devices "
            f"({devices[0].platform}) here"
        )
    devices = devices[: min(num_trials, wanted if wanted > 0 else num_trials)]
    return Mesh(np.array(devices), ("trial",), axis_types=(AxisType.Auto,))


def over_trials(
    function: Callable, mesh: Mesh, block: int, donate: bool = False, jit: Callable = jax.jit
) -> Any:
    """Jitted `function(*arguments, data)`: all arguments but the data have a trial axis.

    A device runs its trials in blocks, one block after the other.
    """
    trial, same = PartitionSpec("trial"), PartitionSpec()

    def vmapped(*arguments: Any) -> Any:
        *own, data = arguments
        one_block = jax.vmap(lambda *own: function(*own, data))
        num_trials = jax.tree.leaves(own)[0].shape[0]
        if num_trials == block:
            return one_block(*own)
        if block == 1:
            return lax.map(lambda own: function(*own, data), own)
        shape = num_trials // block, block
        blocks = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), own)
        found = lax.map(lambda own: one_block(*own), blocks)
        return jax.tree.map(lambda leaf: leaf.reshape(num_trials, *leaf.shape[2:]), found)

    def call(*arguments: Any) -> Any:
        *own, data = arguments
        specs = (*[trial] * len(own), same)
        # By hand and not by the compiler: no trial may ever wait for another device's.
        run = jax.shard_map(vmapped, mesh=mesh, in_specs=specs, out_specs=trial, check_vma=False)
        return run(*own, data)

    return jit(traced_for(platform(mesh), call), donate_argnums=0 if donate else ())


class Compiled:
    """The functions of a pack of K trials on this machine's devices; `of` gives them numbers."""

    hyper: Any  # [K, ...]
    data: Any
    _hypers: list[dict]

    def __init__(self, program: Program, hypers: list[dict]):
        self.program, self.size = program, len(hypers)
        self.mesh = trial_mesh(len(hypers), program.config.parallel.trials)
        share = -(-self.size // self.mesh.size)
        self.block = block_size(program, hypers[0], share, platform(self.mesh))
        self.sharding = NamedSharding(self.mesh, PartitionSpec("trial"))
        self._init = program.jit(partial(train.init_state, program))
        self._test = self.jit(partial(_measure, program))
        self._check = self.jit(partial(train.validate, program), donate=True)
        self._slope = self.jit(lambda *arguments: train.gradients(program, *arguments)[0])
        self._chunks: dict[bool, Any] = {}

    def of(self, hypers: list[dict]) -> Compiled:
        """The same functions with these numbers, and the data on the devices."""
        found, everywhere = copy.copy(self), NamedSharding(self.mesh, PartitionSpec())
        found._hypers = hypers
        found.hyper = self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *hypers))
        found.data = jax.device_put(self.program.task.data, everywhere)
        return found

    def jit(self, function: Callable, donate: bool = False) -> Any:
        return over_trials(function, self.mesh, self.block, donate, self.program.jit)

    def place(self, tree: Any) -> Any:
        """Host arrays [K, ...] onto the devices, the last trial repeated where they are uneven."""
        devices = self.mesh.size
        missing = -self.size % devices

        def pad(leaf: np.ndarray) -> np.ndarray:
            return np.concatenate([leaf, *[leaf[-1:]] * missing]) if missing else leaf

        return jax.device_put(jax.tree.map(pad, tree), self.sharding)

    def fetch(self, tree: Any) -> Any:
        """Device arrays to the host, without the padding."""
        return jax.tree.map(lambda leaf: leaf[: self.size], jax.device_get(tree))

    def init(self) -> Any:
        """Step 0, trial by trial: to the bit what each of them alone would start from.

        On one device, too: LAPACK's QR on all of a CPU's devices at once waits for ever for a
        thread of the pool that they share (jaxlib 0.10.2).
        """
        states = [jax.device_get(self._init(hyper)) for hyper in self._hypers]
        return self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    def like(self) -> Any:
        """The host's picture of the pack's state."""
        shapes = jax.eval_shape(partial(train.init_state, self.program), _first(self.hyper))
        return jax.tree.map(lambda x: np.empty((self.size, *x.shape), x.dtype), shapes)

    def compile_chunk(self, num_steps: int, state: Any) -> Any:
        """The compiled chunk, one for the longest and one for all others; it takes over state."""
        longest = next_chunk(self.program.config.train, 0)
        short = num_steps != longest
        if short not in self._chunks:

            def run(state: Any, hyper: dict, both: tuple) -> tuple:
                data, length = both
                if short:
                    return train.run_short(self.program, state, hyper, data, length)
                return train.run_chunk(self.program, state, hyper, data, longest)

            like = state, self.hyper, (self.data, self.length(num_steps))
            self._chunks[short] = self.jit(run, donate=True).lower(*like).compile()
        return self._chunks[short]

    def chunk(self, num_steps: int, state: Any) -> tuple:
        both = self.data, self.length(num_steps)
        return self.compile_chunk(num_steps, state)(state, self.hyper, both)

    def length(self, num_steps: int) -> Any:
        return jax.device_put(np.int32(num_steps), NamedSharding(self.mesh, PartitionSpec()))

    def validate(self, state: Any) -> tuple:
        return self._check(state, self.hyper, self.data)

    def gradients(self, state: Any) -> Any:
        """Each trial's gradient on its next batch."""
        return self._slope(state, self.hyper, self.data)

    def test(self, params: Any) -> dict:
        """{split: {metric: [K]}} of these parameters [K, ...]."""
        return self.fetch(self._test(params, self.hyper, self.data))


def _measure(program: Program, params: Any, hyper: dict, data: Any) -> dict:
    return {s: train.evaluate(program, params, hyper, data, s) for s in program.task.splits}


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def at(tree: Any, index: int) -> Any:
    """One trial of a host tree."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)
