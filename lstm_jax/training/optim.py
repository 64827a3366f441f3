"""From the `optimizer` section of a config to an optax chain.

Every number may be a traced array, so that one compiled program serves a whole pack of trials;
a number that is a Python 0 is off and leaves no trace in the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lstm_jax.core import Array
from lstm_jax.errors import UsageError
from lstm_jax.ops import off
from lstm_jax.plugins import find


def constant(config: Any, num_steps: int, step: Array) -> Array:
    """1."""
    return jnp.ones_like(step, jnp.float32)


def piecewise(config: Any, num_steps: int, step: Array) -> Array:
    """`factor ** floor((step - start) / every)`: a drop every `decay_every` steps."""
    drops = jnp.maximum(step - config.decay_start, 0) // max(config.decay_every, 1)
    return jnp.asarray(config.decay_factor, jnp.float32) ** drops


def exponential(config: Any, num_steps: int, step: Array) -> Array:
    """`factor ** ((step - start) / every)`: the same fall as `piecewise`, without the stairs."""
    drops = jnp.maximum(step - config.decay_start, 0) / max(config.decay_every, 1)
    return jnp.asarray(config.decay_factor, jnp.float32) ** drops


def cosine(config: Any, num_steps: int, step: Array) -> Array:
    """`f + (1 - f) (1 + cos(pi p)) / 2`, with `p` from 0 at `decay_start` to 1 at the last step.

    `f` is `decay_factor`, the fraction left at the end. Loshchilov & Hutter (2017), eq. 5.
    """
    start = max(config.decay_start, config.warmup_steps)
    progress = jnp.clip((step - start) / max(num_steps - start, 1), 0.0, 1.0)
    floor = jnp.asarray(config.decay_factor, jnp.float32)
    return floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


SCHEDULES = {
    "constant": constant,
    "piecewise": piecewise,
    "cosine": cosine,
    "exponential": exponential,
}


def schedule_of(config: Any) -> Callable[[Any, int, Array], Array]:
    """What `optimizer.schedule` names."""
    expected = "a function (config.optimizer, num_steps, step) -> factor"
    return find("schedule", config.schedule, SCHEDULES, expected)


def learning_rate(config: Any, num_steps: int, step: Array | int) -> Array:
    """`learning_rate * schedule(step) * min(1, (step + 1) / warmup_steps)`, a float32 scalar."""
    step = jnp.asarray(step, jnp.float32)
    rate = config.learning_rate * schedule_of(config)(config, num_steps, step)
    if config.warmup_steps:
        rate = rate * jnp.minimum(1.0, (step + 1) / config.warmup_steps)
    return jnp.asarray(rate, jnp.float32)


def adam(config: Any) -> optax.GradientTransformation:
    """Kingma & Ba (2015), algorithm 1."""
    return optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon)


def rmsprop(config: Any) -> optax.GradientTransformation:
    """`g / (sqrt(E[g^2]) + epsilon)`, then momentum, unless off. Tieleman & Hinton (2012)."""
    scale = optax.scale_by_rms(decay=config.beta2, eps=config.epsilon, eps_in_sqrt=False)
    return optax.chain(scale, sgd(config))


def sgd(config: Any) -> optax.GradientTransformation:
    """`m = momentum m + g`; the step is `m`, or `momentum m + g` with `nesterov`."""
    if off(config.momentum):
        return optax.identity()
    return optax.trace(decay=config.momentum, nesterov=config.nesterov)


OPTIMIZERS = {"adam": adam, "adamw": adam, "rmsprop": rmsprop, "sgd": sgd}


def optimizer_of(config: Any) -> optax.GradientTransformation:
    """What `optimizer.name` names: the gradient's way before weight decay and the learning rate."""
    expected = "a function (config.optimizer) -> optax.GradientTransformation"
    made = find("optimizer", config.name, OPTIMIZERS, expected)(config)
    if not isinstance(made, optax.GradientTransformation):
        raise UsageError(f"{config.name} returned a {type(made).__name__}; {expected} is expected")
    return made


def decayed(params: Any) -> Any:
    """Which leaves weight decay shrinks: matrices, not biases or anything else that is one row."""

    def is_matrix(path: tuple, leaf: Array) -> bool:
        return leaf.ndim >= 2 and "bias" not in jax.tree_util.keystr(path[-1:])

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def build_optimizer(config: Any, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, decay weights, precondition, scale by the learning rate; in that order.

    Weight decay is added to the gradient (L2), except under `adamw`, where it is decoupled:
    added after the preconditioner. Loshchilov & Hutter (2019), algorithm 2.
    """

    def descent(count: Any) -> Array:
        return -learning_rate(config, num_steps, count)

    precondition = optimizer_of(config)
    schedule_of(config)
    clip = [] if off(config.clip_norm) else [optax.clip_by_global_norm(config.clip_norm)]
    decay = [] if off(config.weight_decay) else [weight_decay(config.weight_decay)]
    middle = [precondition, *decay] if config.name == "adamw" else [*decay, precondition]
    return optax.chain(*clip, *middle, optax.scale_by_schedule(descent))


def weight_decay(rate: Any) -> optax.GradientTransformation:
    """`g + rate * w` on the leaves that `decayed` names."""
    return optax.add_decayed_weights(rate, mask=decayed)
