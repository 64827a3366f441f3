"""Trial-steps a second of a pack: K trials of the airline model in one compiled program."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax

from benchmarks.dispatch import small_config
from lstm_jax.config.fields import resolve
from lstm_jax.sweep.pack.program import compiled, pack_program

STEPS, REPEATS = 20, 5


def trial_steps_per_second(hidden: int, trials: int) -> float:
    """The median over some chunks of `STEPS` steps, learning rates all different."""
    functions = compiled(*pack(hidden, trials))
    state = functions.init()
    state = jax.block_until_ready(functions.chunk(STEPS, state))[0]
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        state = jax.block_until_ready(functions.chunk(STEPS, state))[0]
        rates.append(trials * STEPS / (time.perf_counter() - began))
    return statistics.median(rates)


def pack(hidden: int, trials: int) -> tuple[Any, list[dict]]:
    """(program, numbers of every trial)."""
    config = small_config()
    config.cell.hidden, config.train.log_every = hidden, STEPS
    hypers = []
    for trial in range(trials):
        config.optimizer.learning_rate = 1e-3 * (1 + trial / trials)
        hypers.append(resolve(config).hyper)
    return pack_program(config), hypers
