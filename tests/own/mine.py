"""A stranger's file: one part of every kind that a config can name."""

from __future__ import annotations

import curves
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lstm_jax import Hidden, cells
from lstm_jax.cells.gates import Coupled, GateTable, Learned
from lstm_jax.option import SIZE, Option
from lstm_jax.tasks.task import Spec, average, generated, ratio, target_weights, weighed

swish = curves.swish
lazy = GateTable(f=Coupled("i"), g=Learned(swish), equation="f = 1 - i, g = swish(u_g)")


def leaky(hidden, *, kernel_init="glorot"):
    """The leaky integrator.

        h' = 0.9 h + 0.1 tanh(x W + h R)

    Source: Jaeger et al. (2007).
    """
    plain = cells.rnn(hidden, kernel_init=kernel_init)

    def step(params, carry, x):
        u = x @ params["kernel"] + carry.h @ params["recurrent_kernel"]
        h = 0.9 * carry.h + 0.1 * jnp.tanh(u)
        return Hidden(h), h

    return cells.from_step(step, plain.init, plain.initial_carry, name="leaky")


def halved(cell):
    """Cell -> Cell: the carry's c loses half at every step."""

    def update(params, carry, gate):
        carry, y = cell.update(params, carry, gate)
        return carry._replace(c=0.5 * carry.c), y

    return cell._replace(update=update, info=cell.info._replace(plain=False))


def small(key, shape, blocks):
    return 0.1 * jax.random.normal(key, shape)


def two(key, learned, hidden):
    return {"f": jnp.full((hidden,), 2.0)} if "f" in learned else {}


class Doubled(nnx.Module):
    """An encoder: the inputs and their squares."""

    def __init__(self, config, spec, key):
        self.features = 2 * spec.in_features

    def __call__(self, xs, valid):
        return jnp.concatenate([xs, xs * xs], axis=-1)


def lion(config):
    return optax.scale_by_lion(b1=config.beta1, b2=config.beta2)


def fading(config, num_steps, step):
    return 1 / jnp.sqrt(1 + step)


OPTIONS = (
    Option("length", 6, "T, steps of a sequence", SIZE),
    Option("scale", 1.0, "of the inputs", numeric=True),
    Option("eval_size", 16, "examples of a split", SIZE),
)


def first(config):
    """Task: say at the end what came first."""

    def example(key):
        xs = config.task.scale * jax.random.normal(key, (config.task.length, 1))
        return {"inputs": xs, "targets": xs[0, 0]}

    def loss(outputs, batch):
        weights = target_weights(batch)
        outputs, targets = weighed(weights, outputs[:, 0], batch["targets"])
        mean = average(curves.squared_loss(outputs, targets), weights)
        return ratio(mean), {"loss": mean}

    spec = Spec(in_features=1, out_features=1, readout="last")
    return generated(config, example, loss, spec, {"zero": {"loss": config.task.scale**2}})
