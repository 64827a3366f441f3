"""What a trial weighs: bytes by abstract evaluation, before anything is compiled or run."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.ops import platform, tracing_for
from lstm_jax.training import train
from lstm_jax.training.program import Program, stream

CACHE_BYTES = 3 * 2**20  # a core's second-level cache on most servers, and some of the third


def tree_bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def state_bytes(program: Program, hyper: dict) -> int:
    """Parameters, optimizer state, carry and best parameters of one trial."""
    return tree_bytes(jax.eval_shape(partial(train.init_state, program), hyper))


def residual_bytes(program: Program, hyper: dict) -> int:
    """What one trial's forward pass keeps for its backward pass: the closure of `jax.vjp`."""

    def residuals(params: Any, hyper: dict, data: Any) -> Any:
        batch = program.task.batch(data, stream(hyper, "data"), jnp.int32(0))
        batch = {"example": jnp.arange(batch["inputs"].shape[1]), **batch}
        noise = stream(hyper, "noise")

        def loss(params: Any) -> Any:
            size = batch["inputs"].shape[1]
            stateful = program.task.spec.stateful
            carry = program.model.initial_carry(params, hyper, size) if stateful else None
            outputs, _ = program.model.apply(params, hyper, batch, carry, noise)
            return program.task.loss(outputs, batch)[0]

        return jax.vjp(loss, params)[1]

    state = jax.eval_shape(partial(train.init_state, program), hyper)
    with tracing_for(platform()):
        return tree_bytes(jax.eval_shape(residuals, state.params, hyper, program.task.data))


def trial_bytes(program: Program, hyper: dict) -> tuple[int, int]:
    """(kept between steps, needed within one): state twice over; residuals and their gradients."""
    return 2 * state_bytes(program, hyper), 2 * residual_bytes(program, hyper)


def block_size(program: Program, hyper: dict, num_trials: int, kind: str) -> int:
    """How many of its `num_trials` trials a device of the platform `kind` runs at once.

    An accelerator takes them all. A core takes as many as stay in its cache: beyond that the
    trials push out each other's activations and each of them gets slower.
    """
    if kind != "cpu":
        return num_trials
    fits = max(CACHE_BYTES // max(residual_bytes(program, hyper), 1), 1)
    return max(n for n in range(1, num_trials + 1) if num_trials % n == 0 and n <= fits)
