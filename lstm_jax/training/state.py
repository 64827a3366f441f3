"""What training remembers from step to step, and what it starts from."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.config.fields import bind
from lstm_jax.core import Array
from lstm_jax.tasks.task import LARGER_IS_BETTER
from lstm_jax.training import nonfinite, optim
from lstm_jax.training.nonfinite import Mishaps
from lstm_jax.training.program import Program, stream


class Best(NamedTuple):
    """The best parameters so far, by `train.best_metric` on the validation split."""

    value: Array
    step: Array
    params: Any
    evaluations_since: Array


class TrainState(NamedTuple):
    """All that training remembers, hence all that a checkpoint holds."""

    step: Array  # steps done; frozen once `bad` or `stopped`
    params: Any
    opt_state: Any
    carry: Any  # truncated BPTT: the layers' carries; else ()
    best: Best
    bad: Array  # the step after `step` was not finite
    stopped: Array  # stopped early
    mishaps: Mishaps  # steps that were not finite, and what was done about them


def init_state(program: Program, hyper: dict, params: Any = None) -> TrainState:
    """Step 0, with fresh parameters or with these."""
    config = bind(program.config, hyper)
    if params is None:
        params = program.model.init(stream(hyper, "parameters"), hyper)
    optimizer = optim.build_optimizer(config.optimizer, config.train.num_steps)
    stateful, size = program.task.spec.stateful, config.train.batch_size
    carry = program.model.initial_carry(params, hyper, size) if stateful else ()
    worst = jnp.float32(-jnp.inf if config.train.best_metric in LARGER_IS_BETTER else jnp.inf)
    zero, no = jnp.int32(0), jnp.bool_(False)
    best = Best(worst, zero, params, zero)
    opt_state, mishaps = optimizer.init(params), nonfinite.no_mishaps()
    return TrainState(zero, params, opt_state, carry, best, no, no, mishaps)


def first_state(program: Program, hyper: dict, params: Any = None, opt_state: Any = ()) -> Any:
    """Step 0 on one device, as in a pack; of another run's `opt_state` all but the step count."""
    state = program.jit(partial(init_state, program))(hyper, params)
    if not opt_state:
        return state
    return state._replace(opt_state=jax.device_put((*opt_state[:-1], state.opt_state[-1])))
