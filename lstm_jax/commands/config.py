"""the resolved config, the model with its shapes, its size and cost, without training.

lstm-jax config --config=configs/airline.py
lstm-jax config --config=configs/airline.py:classic --config.cell.gates=cifg
lstm-jax config --config=configs/airline.py --changed      only what differs from the defaults

A * marks what differs. Lines may be pasted whole: to the shell, what follows the # is a comment.
"""

from __future__ import annotations

import shlex
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.commands.arguments import Arguments, Flag, no_words
from lstm_jax.compute import flops
from lstm_jax.compute.sharding import configure_cpu_devices, table
from lstm_jax.config.fields import Resolved
from lstm_jax.config.options import options
from lstm_jax.data import files as data
from lstm_jax.engines import choose
from lstm_jax.errors import OK, UsageError
from lstm_jax.model.cell import build_cell, chosen
from lstm_jax.training import train
from lstm_jax.training.check import load_config
from lstm_jax.training.program import build_program, stream

FLAGS = (
    Flag("config", "", "config file, with a preset after a colon"),
    Flag("changed", False, "only the fields that differ from the defaults"),
)


def run(arguments: Arguments) -> int:
    """Print the config as flags that may be copied, then the model."""
    no_words(arguments)
    if not arguments.config:
        raise UsageError("which config? lstm-jax config --config=configs/airline.py")
    config = load_config(arguments.config, arguments.overrides)
    print_config(config, arguments)
    configure_cpu_devices(config.parallel.data)
    program = build_program(config)
    print_model(program, config.hyper)
    print(f"\n{table(program.config, program.why)}")
    print(f"\nconfig hash {config.hash}, program signature {config.signature}")
    return OK


def print_config(config: Resolved, arguments: Arguments) -> None:
    """One field a line with what it means; a * marks those that differ from the defaults."""
    rows, empty = options(config.task.name), effective(config)
    print(f"{arguments.config}\n")
    for name, value in config.flat.items():
        default = rows[name].default
        changed = value != default
        if arguments.flags.changed and not changed:
            continue
        was = [f"default {written(default) or repr('')}"] if changed else []
        now = [f"here {empty[name]}"] if name in empty else []
        note = "; ".join([rows[name].help, *now, *was])
        flag = shlex.quote(f"--config.{name}={written(value)}")
        print(f"{'*' if changed else ' '} {flag:<42} # {note}")


def effective(config: Any) -> dict[str, str]:
    """What the fields that hold "" come to."""
    taken = chosen(config.cell)
    empty = [name for name, value in config.cell.items() if value == ""]
    found = {f"cell.{n}": taken.get(n, f"nothing: no option of {config.cell.name}") for n in empty}
    if not config.task.data_dir:
        found["task.data_dir"] = ", ".join(map(str, [*data.folders(), data.cache_dir()]))
    return found


def written(value: Any) -> str:
    """A value as the command line reads it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else repr(value)


def print_model(program: Any, hyper: dict) -> None:
    """Parameters with shapes, and the cost of a step."""
    params, forward, step = costs(program, hyper)
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    rows = [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]
    width = max(len(name) for name, _ in rows)
    spec, train = program.task.spec, program.config.train
    print(f"\nmodel: {spec.in_features} in, {spec.out_features} out, read out: {spec.readout}\n")
    for name, leaf in rows:
        print(f"  {name:<{width}}  {list(leaf.shape)!s:<14} {leaf.dtype}  {leaf.size:>10,}")
    print(f"\nengine                   {engine(program.config)}")
    print(f"parameters               {sum(leaf.size for _, leaf in rows):,}")
    print(f"FLOPs per training step  {step:,}  (a batch of {train.batch_size}, forward and back)")
    print(f"FLOPs forward            {forward:,}  (the same batch)")


def engine(config: Any) -> str:
    """What runs the recurrence, and why."""
    if config.model.engine != "auto":
        return f"{config.model.engine}, as asked"
    name, why = choose(build_cell(config.cell))
    return f"{name}, chosen by auto: {why}"


def costs(program: Any, hyper: dict) -> tuple[Any, int, int]:
    """(abstract parameters, FLOPs of a batch's forward pass, FLOPs of a training step)."""
    state = jax.eval_shape(partial(train.init_state, program), hyper)
    data = program.task.data
    key = stream(hyper, "data")
    batch = jax.eval_shape(lambda data: program.task.batch(data, key, jnp.int32(0)), data)
    carry = state.carry or None
    forward = flops.count(program.model.apply, state.params, hyper, batch, carry)
    return state.params, forward, flops.count(partial(train.step, program), state, hyper, data)
