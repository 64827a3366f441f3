"""What Python costs per step: a compiled chunk of steps against the same step sent one by one.

    python -m benchmarks.dispatch [num_steps]

Both run the same step on the same data. "one by one" calls a compiled single step from a Python
loop and waits at the end only; "and fetched" also reads the loss each step, as many loops do.
Repetitions of the three are interleaved; medians and the spread are printed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from lstm_jax.config.fields import resolve
from lstm_jax.config.options import default_config
from lstm_jax.training import train

REPEATS = 7


def small_config() -> Any:
    """The airline series, windows of 12 months, one layer of 16, batches of 16."""
    config = default_config("forecast")
    config.cell.hidden, config.train.batch_size = 16, 16
    return config


def contestants(config: Any, num_steps: int) -> dict[str, Callable[[], None]]:
    """What is timed: each runs `num_steps` steps from the same start."""
    program = train.build_program(config)
    hyper, data = jax.device_put((resolve(config).hyper, program.task.data))
    start = jax.jit(partial(train.init_state, program))(hyper)
    chunk = jax.jit(partial(train.run_chunk, program, num_steps=num_steps))
    step = jax.jit(partial(train.run_chunk, program, num_steps=1))

    def one_by_one(fetch: bool) -> None:
        state, metrics = start, {}
        for _ in range(num_steps):
            state, metrics = step(state, hyper, data)
            if fetch:
                float(metrics["loss"])
        jax.block_until_ready((state, metrics))

    return {
        "one compiled chunk": lambda: jax.block_until_ready(chunk(start, hyper, data)),
        "one by one": lambda: one_by_one(False),
        "one by one and fetched": lambda: one_by_one(True),
    }


def measure(config: Any, num_steps: int) -> dict[str, list[float]]:
    """Steps per second of each, {name: one number a repetition}."""
    runs = contestants(config, num_steps)
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            rates[name].append(num_steps / (time.perf_counter() - began))
    return rates


def main(num_steps: int = 500) -> None:
    config = small_config()
    rates = measure(config, num_steps)
    device = jax.devices()[0]
    shape = f"T={config.task.look_back} B={config.train.batch_size} H={config.cell.hidden}"
    print(f"{num_steps} steps at {shape} on {device.device_kind}, {REPEATS} repetitions")
    base = statistics.median(rates["one compiled chunk"])
    for name, values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):,.0f} .. {max(values):,.0f}"
        print(f"{name:24} {middle:9,.0f} steps/s  ({spread})   chunk is {base / middle:.2f}x")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:2]))
