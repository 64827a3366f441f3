"""Training steps of our configs by one device, and with the batch shared by all there are."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import Workers
from lstm_jax.errors import UsageError

CONFIGS = Path(__file__).parents[1] / "configs"
WORLDS = ("one device", "all cores")
LEAST_ROUNDS = 8
# (config, fields, steps a call): batches that two cores can share, calls of 10 to 100 ms
RUNS = (
    ("airline.py", {"train.batch_size": 46}, 20),
    ("airline.py:classic", {}, 20),
    ("airline.py:smoke", {"train.batch_size": 46}, 50),
    ("adding.py", {}, 1),
    ("copy_memory.py", {}, 1),
    ("counting.py", {}, 3),
    ("parity.py", {}, 5),
    ("temporal_order.py", {}, 1),
    ("random_data.py", {}, 1),
    ("jsb.py", {}, 1),
    ("vowels.py", {}, 10),
    ("chars.py", {}, 1),
    ("words.py:small", {}, 1),
    ("words.py:medium", {}, 1),
    ("mnist_rows.py", {}, 1),
    ("mnist_pixels.py", {}, 1),
)


class Pair(NamedTuple):
    """Seconds a training step in both worlds, one number a call, and the devices that 0 chooses."""

    name: str
    seconds: dict[str, list[float]]
    chosen: int


def prepare(config: str, fields: dict[str, Any], num_steps: int) -> tuple[Callable[[], Any], int]:
    """(a call of that many steps on all devices, the number that parallel.data=0 chooses)."""
    import jax

    from lstm_jax.compute.sharding import place
    from lstm_jax.config.fields import resolve
    from lstm_jax.training import train
    from lstm_jax.training.check import load_config
    from lstm_jax.training.feed import feeding
    from lstm_jax.training.program import build_program

    chosen = build_program(load_config(config, fields)).config.parallel.data
    periods = {f"train.{name}_every": num_steps for name in ("log", "eval", "checkpoint")}
    found = load_config(config, {**fields, **periods, "parallel.data": -1})
    program, hyper = build_program(found), resolve(found).hyper
    start = jax.jit(partial(train.init_state, program))(hyper)
    start, hyper, data = place((start, hyper, program.task.data), program.whole)
    data = feeding(program, data)(0)
    run = jax.jit(partial(train.run_chunk, program, num_steps=num_steps))
    compiled = run.lower(start, hyper, data).compile()
    return lambda: jax.block_until_ready(compiled(start, hyper, data)), chosen


def measure(workers: Workers, names: str, seconds: float) -> Iterator[Pair]:
    """Config by config, the worlds in random order, round after round."""
    wanted = [run for run in RUNS if not names or run[0] in names.split(",")]
    if not wanted:
        raise UsageError(f"--rows={names}: there are {', '.join(run[0] for run in RUNS)}")
    order = random.Random(0)
    for config, fields, num_steps in wanted:
        path, name = str(CONFIGS / config), ", ".join([config, *map(_field, fields.items())])
        task = {"config": path, "fields": fields, "num_steps": num_steps}
        answers = [workers.ask(world, "run", key=name, **task) for world in WORLDS]
        if refused := [a["refused"] for a in answers if "refused" in a]:
            print(f"  {name} left out: {refused[0]}", flush=True)
            continue
        pair = Pair(name, _times(workers, name, num_steps, seconds, order), answers[1]["chosen"])
        print(row(pair), flush=True)
        yield pair
        workers.forget()


def _field(item: tuple[str, Any]) -> str:
    return "=".join(map(str, item))


def _times(
    workers: Workers, name: str, num_steps: int, seconds: float, order: random.Random
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {world: [] for world in WORLDS}
    spent = 0.0
    for number in range(100):
        for world in order.sample(WORLDS, len(WORLDS)):
            last = min(times[world], default=1.0) * num_steps
            found = workers.ask(world, "time", key=name, last=last)["seconds"]
            times[world] += [s / num_steps for s in found]
            spent += sum(found)
        if number + 1 >= LEAST_ROUNDS and spent >= seconds:
            break
    return times


def table(pairs: list[Pair]) -> list[str]:
    """Steps/s by the fastest tenth of the calls, for what other processes take is not ours."""
    lines = ["| config | one device, steps/s | every core | over one | medians | chosen |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    return lines + [row(pair) for pair in pairs]


def row(pair: Pair) -> str:
    one, each = (statistics.quantiles(pair.seconds[w], n=10)[0] for w in WORLDS)
    middle = [statistics.median(pair.seconds[w]) for w in WORLDS]
    rates = f"{1 / one:,.4g} | {1 / each:,.4g} | {one / each:.2f}"
    return f"| {pair.name} | {rates} | {middle[0] / middle[1]:.2f} | {pair.chosen} |"
