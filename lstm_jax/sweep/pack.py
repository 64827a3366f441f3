"""A pack: K trials as one program, each leaving what a single run leaves.

The pure functions of `train` are vmapped over trials and the trial axis is laid out over all
local devices; nothing crosses it, so a trial that diverges freezes alone. The pack's state is
checkpointed as one, with the numbers of its trials, and resumes exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstm_jax import train
from lstm_jax.checkpoint import Checkpoints
from lstm_jax.config import split
from lstm_jax.core import UsageError
from lstm_jax.integrity import Damage, read_seal
from lstm_jax.program import Program, build_program
from lstm_jax.sweep.estimate import block_size
from lstm_jax.sweep.trials import Trial
from lstm_jax.writers import read_metrics

STATUS_SECONDS = 5.0


class Members(NamedTuple):
    """What a pack's checkpoint holds, and all that it needs to."""

    trials: Any  # [K] int32
    state: Any  # TrainState with a leading trial axis


# ---------------------------------------------------------------- K trials, one program


def pack_program(config: Any) -> Program:
    """The program of every trial in the pack; devices share trials here, never a batch."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.parallel.data = 1
    return build_program(config)


def trial_mesh(num_trials: int) -> Mesh:
    """The local devices, no more than there are trials, along the axis `trial`."""
    devices = jax.local_devices()[:num_trials]
    return Mesh(np.array(devices), ("trial",), axis_types=(AxisType.Auto,))


def over_trials(function: Callable, mesh: Mesh, block: int, donate: bool = False) -> Any:
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

    return jax.jit(call, donate_argnums=0 if donate else ())


class Compiled:
    """The functions of a pack of K trials on this machine's devices."""

    def __init__(self, program: Program, hypers: list[dict]):
        self.program, self.size = program, len(hypers)
        self.mesh = trial_mesh(len(hypers))
        share = -(-self.size // self.mesh.size)
        platform = self.mesh.devices.flat[0].platform
        self.block = block_size(program, hypers[0], share, platform)
        self.sharding = NamedSharding(self.mesh, PartitionSpec("trial"))
        self.hyper = self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *hypers))
        self.data = jax.device_put(program.task.data, NamedSharding(self.mesh, PartitionSpec()))
        self._hypers = hypers
        self._check = self.jit(partial(train.validate, program), donate=True)
        self._chunks: dict[int, Any] = {}

    def jit(self, function: Callable, donate: bool = False) -> Any:
        return over_trials(function, self.mesh, self.block, donate)

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
        one = jax.jit(partial(train.init_state, self.program))
        states = [jax.device_get(one(hyper)) for hyper in self._hypers]
        return self.place(jax.tree.map(lambda *leaves: np.stack(leaves), *states))

    def like(self) -> Any:
        """The host's picture of the pack's state."""
        shapes = jax.eval_shape(partial(train.init_state, self.program), _first(self.hyper))
        return jax.tree.map(lambda x: np.empty((self.size, *x.shape), x.dtype), shapes)

    def compile_chunk(self, num_steps: int, state: Any) -> Any:
        """The compiled chunk; state is taken over by it."""
        if num_steps not in self._chunks:
            run = partial(train.run_chunk, self.program)
            jitted = self.jit(lambda s, h, d: run(s, h, d, num_steps), donate=True)
            self._chunks[num_steps] = jitted.lower(state, self.hyper, self.data).compile()
        return self._chunks[num_steps]

    def chunk(self, num_steps: int, state: Any) -> tuple:
        return self.compile_chunk(num_steps, state)(state, self.hyper, self.data)

    def validate(self, state: Any) -> tuple:
        return self._check(state, self.hyper, self.data)

    def test(self, params: Any) -> dict:
        """{split: {metric: [K]}} of these parameters [K, ...]."""

        def measure(params: Any, hyper: dict, data: Any) -> dict:
            splits = self.program.task.splits
            return {s: train.evaluate(self.program, params, hyper, data, s) for s in splits}

        return self.fetch(self.jit(measure)(params, self.hyper, self.data))


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def at(tree: Any, index: int) -> Any:
    """One trial of a host tree."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


# ---------------------------------------------------------------- memory


def check_memory(compiled: Any, num_trials: int) -> int:
    """Bytes that the program takes at its peak on one device.

    Raises:
      UsageError: the device does not have them; says how many trials fit.
    """
    needed, available = peak_bytes(compiled), memory_limit()
    if available and needed > available:
        fits = max(int(num_trials * available / needed), 1)
        raise UsageError(
            f"a pack of {num_trials} trials needs {needed / 2**30:.1f} GiB of a device, which has "
            f"{available / 2**30:.1f}; plan smaller packs in another workdir: --pack={fits}"
        )
    return needed


def peak_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of a compiled program, on one device."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    total = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return total - found.alias_size_in_bytes


def memory_limit() -> int:
    """Bytes a device may use: its own memory, or its share of the host's; 0: unknown."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return host_memory() // jax.local_device_count() if device.platform == "cpu" else 0


def host_memory() -> int:
    """Bytes that the host, or the control group that we are in, has left; 0: unknown."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable"))
        limits.append(int(free.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit.isdecimal():
            limits.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, StopIteration, ValueError):
        pass
    return max(min(limits), 0) if limits else 0


# ---------------------------------------------------------------- the loop


class Pack:
    """A claimed pack: `run()` trains it to its end or to a stop."""

    def __init__(self, plan: Any, number: int, folder: Path, trial_folders: Callable, claim: Any):
        self.plan, self.number, self.claim = plan, number, claim
        self.configs = {trial: plan.config(trial) for trial in plan.packs[number]}
        self.options = self.configs[plan.packs[number][0]].train
        self.trials = [
            Trial(trial, config, trial_folders(trial), claim.attempt, number)
            for trial, config in self.configs.items()
        ]
        self.checkpoints = Checkpoints(folder, keep_last=2, keep_best=0)
        self.step, self.seconds, self.steps_done = 0, 0.0, 0
        self.best: tuple[float, int] | None = None
        self.began, self._said = time.perf_counter(), time.monotonic()

    def run(self, stop: Callable[[], str]) -> str:
        """completed, or interrupted when `stop()` gave a reason; then everything is saved."""
        self.program = pack_program(self.trials[0].config)
        state = self.restore()
        while self.active(state) and not (why := stop()):
            state = self.advance(state)
            if self.step % self.options.checkpoint_every == 0:
                self.save(state)
        if self.active(state):
            self.save(state)
            self.checkpoints.close()
            return f"interrupted: {why}"
        self.finish(state, range(self.compiled.size))
        self.checkpoints.close()
        return "completed"

    def advance(self, state: Any) -> Any:
        """One chunk, its log lines, an evaluation where it is due."""
        began, steps = time.perf_counter(), self.chunk_size()
        new = self.step == 0 and self.steps_done == 0
        if new:
            check_memory(self.compiled.compile_chunk(steps, state), self.compiled.size)
            began = time.perf_counter()
        state, metrics = self.compiled.chunk(steps, state)
        due = (self.step + steps) % self.options.eval_every == 0 or self.is_last(steps)
        if due:
            state, found = self.compiled.validate(state)
            metrics = (metrics, found)
        flags = state.step, state.bad, state.stopped
        seen = self.compiled.fetch((flags, metrics))
        self.claim.check()
        self.step, self.steps_done = self.step + steps, self.steps_done + steps
        took = time.perf_counter() - began
        self.seconds += took
        self.log(seen, due, steps / took)
        return state

    def chunk_size(self) -> int:
        return min(self.options.log_every, self.options.num_steps - self.step)

    def is_last(self, steps: int) -> bool:
        return self.step + steps >= self.options.num_steps

    def log(self, seen: Any, due: bool, rate: float) -> None:
        """A line for every trial that still ran; values as plain floats, trial by trial."""
        (steps, bad, stopped), metrics = seen
        trained, valid = metrics if due else (metrics, {})
        for i, trial in enumerate(self.trials):
            if trial.ended:
                continue
            if int(steps[i]) > trial.step:
                trial.step = int(steps[i])
                line = {name: column[i] for name, column in trained.items()}
                trial.writer.scalars(trial.step, "train", line | {"steps_per_second": rate})
            if valid and trial.due(self.options.eval_every):
                line = {name: column[i] for name, column in valid.items()}
                trial.writer.scalars(trial.step, "valid", line)
                self.compare(trial, line)
            trial.ended = "diverged" if bad[i] else "completed" if stopped[i] else ""
        self.progress(rate)

    def compare(self, trial: Trial, line: dict) -> None:
        """Remember the best value so far of the study's metric, where that is a validation one."""
        split_name, _, metric = self.plan.metric.partition("/")
        if split_name != "valid" or metric not in line:
            return
        sign = -1.0 if self.plan.direction == "max" else 1.0
        value = float(line[metric])
        if self.best is None or sign * value < sign * self.best[0]:
            self.best = value, trial.number

    def progress(self, rate: float) -> None:
        """What the sweep shows of the pack, in its heartbeat; of the trials, in their status."""
        ended = sum(bool(trial.ended) for trial in self.trials)
        self.claim.progress = {
            "step": self.step,
            "num_steps": self.options.num_steps,
            "trials": len(self.trials),
            "ended": ended,
            "trial_steps_per_second": rate * (len(self.trials) - ended),
        }
        if self.best:
            self.claim.progress |= {"best": self.best[0], "best_trial": self.best[1]}
        if time.monotonic() - self._said > STATUS_SECONDS:
            self._said = time.monotonic()
            for trial in self.trials:
                trial.say("running")

    # ------------------------------------------------------------ save and restore

    def active(self, state: Any) -> bool:
        """Whether a trial still trains."""
        return self.step < self.options.num_steps and not all(t.ended for t in self.trials)

    def save(self, state: Any) -> None:
        """The pack's checkpoint; what was logged before it is handed over before it."""
        for trial in self.trials:
            trial.writer.flush(sync=False)
        self.claim.check()
        numbers = np.array([trial.number for trial in self.trials], np.int32)
        self.checkpoints.save(self.step, Members(numbers, self.compiled.fetch(state)))

    def restore(self) -> Any:
        """The newest sound state of the pack, on the devices, or a fresh one."""
        found = None
        while found is None and (size := self.saved_size()):
            self.compile(self.trials[:size])
            numbers = np.empty(size, np.int32)
            found = self.checkpoints.restore(Members(numbers, self.compiled.like()))
        self.step, members = found or (0, None)
        if members is not None:
            self.trials = [t for t in self.trials if t.number in set(members.trials.tolist())]
        self.compile(self.trials)
        for trial in self.trials:
            trial.open(self.step)
        if members is None:
            return self.compiled.init()
        for i, trial in enumerate(self.trials):
            trial.step = int(members.state.step[i])
            diverged, stopped = members.state.bad[i], members.state.stopped[i]
            trial.ended = "diverged" if diverged else "completed" if stopped else ""
            for line in read_metrics(trial.folder):
                if line["split"] == "valid":
                    self.compare(trial, line)
        return self.compiled.place(members.state)

    def saved_size(self) -> int:
        """Trials in the newest checkpoint; 0 where there is none. A damaged one is set aside."""
        root = self.checkpoints.root
        names = [p.name for p in root.iterdir()] if root.is_dir() else []
        for step in sorted((int(n) for n in names if n.isdecimal()), reverse=True):
            try:
                return read_seal(root / str(step))["leaves"]["trials"].shape[0]
            except (Damage, OSError):
                self.checkpoints.restore(Members(np.empty(1), ()), step)
        return 0

    def compile(self, trials: list[Trial]) -> None:
        hypers = [split(trial.config)[1] for trial in trials]
        self.compiled = Compiled(self.program, hypers)

    # ------------------------------------------------------------ the end

    def finish(self, state: Any, indices: Any, status: str = "completed") -> None:
        """Test the best parameters of these trials, and leave all that a run leaves."""
        metrics = self.compiled.test(state.best.params)
        host = self.compiled.fetch(state)
        speed = {
            "steps_per_second": self.steps_done / self.seconds if self.seconds else None,
            "wall_seconds": time.perf_counter() - self.began,
        }
        self.claim.check()
        pending = []
        for i in indices:
            trial = self.trials[i]
            found = {s: {n: float(v[i]) for n, v in m.items()} for s, m in metrics.items()}
            baselines = self.program.task.baselines
            saved = trial.finish(trial.ended or status, at(host, i), found, baselines, speed)
            pending.append((trial, saved, float(host.best.value[i])))
        for trial, saved, best in pending:
            saved.close()
            trial.say(trial.ended, best=best)
