"""What a compiled training function closes over, and how it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from lstm_jax.compute import memory
from lstm_jax.compute import sharding as parallel
from lstm_jax.config.fields import Resolved, replaced, resolve, with_field
from lstm_jax.config.options import OPTIONS
from lstm_jax.core import Array
from lstm_jax.engines import choose, parsed
from lstm_jax.errors import UsageError, lookup
from lstm_jax.model.cell import build_cell
from lstm_jax.model.model import build_model
from lstm_jax.ops import count, traced_for, tracing_for
from lstm_jax.tasks import task_of
from lstm_jax.tasks.task import Task
from lstm_jax.training import watch
from lstm_jax.workdir.console import Progress

# What XLA is told for each `train.compile`. The optimizer of its CPU backend takes
# two thirds of the time that a small model compiles for.
COMPILE = {"full": {}, "quick": {"xla_backend_optimization_level": 0}}
STREAMS = {"parameters": 0, "data": 1, "noise": 2}


def jitted(function: Callable, platform: str, how: str, **options: Any) -> Any:
    """`jax.jit` for a platform, as `train.compile` says."""
    given = COMPILE[how] if platform == "cpu" else {}
    traced = traced_for(platform, function)
    return jax.jit(traced, compiler_options=given or None, **options)


jitted_once = lru_cache(maxsize=4)(jitted)  # of what every trial and every evaluation asks for


class Program(NamedTuple):
    """Nothing in here differs between the trials of a pack: numbers come as `hyper`."""

    config: Resolved
    task: Any
    model: Any
    mesh: Any = None  # the devices that share a batch, where there are several
    why: str = ""  # so many devices
    weighs: bool = False  # the loss reads an example's weight

    def jit(self, function: Callable, **options: Any) -> Any:
        """`jax.jit` as `train.compile` says."""
        return jitted(function, *self.compiler(), **options)

    def compiler(self) -> tuple[str, str]:
        """(the platform compiled for, `train.compile`)."""
        return parallel.platform(self.mesh), self.config.train.compile

    def shared(self, sums: Callable) -> Callable:
        """`sums(params, hyper, batch, carry, key) -> (sums, carry)`, by all devices together."""
        return parallel.data_parallel(sums, self.sharing())

    def in_turns(self, sums: Callable) -> Callable:
        """`shared`, each device taking its share in `train.accumulate` turns."""
        return parallel.data_parallel(sums, self.sharing(self.config.train.accumulate))

    def sharing(self, turns: int = 1) -> parallel.Sharing:
        mode, readout = self.config.parallel.mode, self.task.spec.readout
        return parallel.Sharing(self.mesh, mode, readout, self.weighs, turns)

    def forward(self, params: Any, hyper: dict) -> Callable:
        """`forward(batch, carry=None, key=None)` of this process alone, for figures and samples."""
        apply = jitted_once(self.model.apply, *self.compiler())
        return partial(apply, *parallel.local((params, hyper)))

    @property
    def whole(self) -> NamedSharding | None:
        """The place of what every device holds in full."""
        return parallel.whole(self.mesh)


def build_program(config: Any, devices: list | None = None) -> Program:
    """The task, the model and the devices that a config asks for, or for these devices.

    The program's own config names the number of devices where `config` leaves it open.
    """
    config = resolve(config)
    lookup("parallel mode", config.parallel.mode, parallel.MODES)
    task, train = build_task(config), config.train
    model = build_model(config, task.spec)
    if parsed(config.model.engine)[0] == "pallas" and config.parallel.mode == "jit":
        # The compiler cannot cut a kernel into shares.
        config = replaced(config, {"parallel.mode": "shard_map"})
    whole, mode = in_one_call(config), config.parallel.mode
    if devices is None:
        devices, why = parallel.choose(config, partial(sizes, config, task, model), whole)
    else:
        why = "those that were given"
    with tracing_for(devices[0].platform):
        weighs = uneven(config, task, len(devices)) and reads_weights(config, task, model)
    pads = weighs and task.feed is None
    mesh = parallel.make_mesh(devices, train.batch_size, train.accumulate, pads)
    if whole and mesh is not None and config.model.engine == "auto" and mode == "jit":
        # The compiler cannot cut a call into shares; what it can cut is the next fastest.
        model = build_model(replaced(config, {"model.engine": "deferred"}), task.spec)
    config = replaced(config, {"parallel.data": len(devices)})
    return Program(config, task, model, mesh, why, weighs)


def in_one_call(config: Resolved) -> bool:
    """Whether one call runs all steps, which uses every core of a CPU by itself."""
    named = config.model.engine
    chosen = choose(build_cell(config.cell))[0] if named == "auto" else named
    return chosen == "native" and not config.parallel.remat


def sizes(config: Resolved, task: Any, model: Any) -> tuple[int, int]:
    """(T of a training batch, number of parameters)."""

    def found(data):
        inputs = task.batch(data, stream(config.hyper, "data"), jnp.int32(0))["inputs"]
        return inputs, model.init(stream(config.hyper, "parameters"), config.hyper)

    inputs, params = jax.eval_shape(found, task.data)
    return inputs.shape[0], count(params)


def uneven(config: Resolved, task: Any, count: int) -> bool:
    """Whether so many devices meet a batch that they cannot share: in training or evaluation."""
    if count == 1:
        return False
    splits = [partial(split[1], task.data, jnp.int32(0)) for split in task.splits.values()]
    sizes = [jax.eval_shape(batch)["inputs"].shape[1] for batch in splits]
    parts = count * config.train.accumulate
    return bool(config.train.batch_size % parts) or any(size % count for size in sizes)


class Watched(dict):
    """A batch that knows whether its weights were asked for."""

    asked = False

    def __contains__(self, name: object) -> bool:
        self.asked |= name == "weights"
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.asked |= name == "weights"
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked |= name == "weights"
        return super().get(name, default)


def reads_weights(config: Resolved, task: Any, model: Any) -> bool:
    """Whether the loss looks at `batch["weights"]`: what weighs 0 then counts as nothing."""
    asked = []

    def found(data):
        batch = task.batch(data, stream(config.hyper, "data"), jnp.int32(0))
        batch = {"example": jnp.arange(batch["inputs"].shape[1]), **batch}
        params = model.init(stream(config.hyper, "parameters"), config.hyper)
        outputs, _ = model.apply(params, config.hyper, batch)
        watched = Watched(batch)
        means = task.loss(outputs, watched)[1]
        asked.append(watched.asked)
        return means

    jax.eval_shape(found, task.data)
    return asked[0]


def stream(hyper: dict, name: str) -> Array:
    """The run's key for one use of randomness."""
    return jax.random.fold_in(jax.random.key(hyper["seed"]), STREAMS[name])


def placed(shapes: Any, sharding: NamedSharding | None) -> Any:
    """Abstract arrays with their place."""

    def like(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(like, shapes)


def next_chunk(train: Any, step: int) -> int:
    """Steps from `step` until something is due: a log line, an evaluation, ..., the end.

    No chunk is longer than the first: the shortest period.
    """
    periods = [train[row.name] for row in OPTIONS["train"] if row.period and train[row.name]]
    return min(train.num_steps - step, *(every - step % every for every in periods))


def ahead_of_time(
    program: Program, run_chunk: Callable, run_short: Callable, progress: Progress
) -> Callable:
    """`chunk(num_steps, state, hyper, data)`: the compiled program for that many steps.

    Two are compiled at most: one for the longest chunk, whose length the compiler knows, and one
    for all shorter ones. They take over the state's memory. Compiled before the clock starts, and
    nothing can retrace them. UsageError where one does not fit in the devices.
    """
    compiled: dict[bool, Callable] = {}
    devices = program.mesh.size if program.mesh else 1
    longest = next_chunk(program.config.train, 0)

    def compile_for(short: bool, *like: Any) -> Callable:
        memory.check_arrays(like, devices, program.config)
        run = run_short if short else partial(run_chunk, num_steps=longest)
        like = (*like, placed(jnp.int32(0), program.whole)) if short else like
        jitted = program.jit(run, donate_argnums=0, out_shardings=program.whole)
        strict = watch.leak_checks(program.config.train.strict)
        with strict, progress.phase("training steps", "compiling", worth=0):
            found = jitted.lower(*like).compile()
        memory.check_run(found, devices, program.config)
        return found

    def chunk(num_steps: int, *like: Any) -> Callable:
        short = num_steps != longest
        if short not in compiled:
            compiled[short] = compile_for(short, *like)
        if not short:
            return compiled[short]
        length = parallel.place(np.int32(num_steps), program.whole)
        return lambda *arguments: compiled[short](*arguments, length)

    return chunk


def build_task(config: Any) -> Any:
    """The `Task` that `config.task.name` names."""
    try:
        task = task_of(config.task.name).build(config)
    except UsageError as error:
        raise UsageError(with_field(str(error), resolve(config).flat)) from error
    if not isinstance(task, Task):
        raise UsageError(
            f"{config.task.name} returned a {type(task).__name__}, expected a lstm_jax.tasks.task."
            "Task; see docs/guides/task.md, or write one to start from: lstm-jax new task NAME"
        )
    return task
