"""Training, top to bottom: a step, a chunk of steps, an evaluation, and the loop.

`run_chunk`, `evaluate`, `update_best` and `gradients` are pure functions of arrays,
jitted by a run and vmapped over K trials by a pack; Python touches the device once per chunk.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lstm_jax.compute.sharding import place
from lstm_jax.config.fields import bind, histogram_period, resolve
from lstm_jax.core import Array
from lstm_jax.errors import lookup
from lstm_jax.tasks.task import LARGER_IS_BETTER, Mean
from lstm_jax.training import advice, begin, nonfinite, optim
from lstm_jax.training.feed import abstract, feeding
from lstm_jax.training.journal import Journal, finished
from lstm_jax.training.nonfinite import select
from lstm_jax.training.program import (
    Program,
    ahead_of_time,
    build_program,
    next_chunk,
    placed,
    stream,
)
from lstm_jax.training.state import Best, TrainState, first_state, init_state
from lstm_jax.workdir.console import Progress


def gradients(program: Program, state: TrainState, hyper: dict, data: Any) -> tuple:
    """(gradient of the mean loss, {name: Mean}, carry) of the state's next batch."""
    batch = program.task.batch(data, stream(hyper, "data"), state.step)
    batch = {"example": jnp.arange(batch["inputs"].shape[1]), **batch}
    key = jax.random.fold_in(stream(hyper, "noise"), state.step)

    def total(params, hyper, batch, carry, key):
        outputs, carry = program.model.apply(params, hyper, batch, carry or None, key)
        _, means = program.task.loss(outputs, batch)
        return means["loss"].total, (means, carry if program.task.spec.stateful else ())

    def sums(*args):
        grads, (means, carry) = jax.grad(total, has_aux=True)(*args)
        return (grads, means), carry

    (grads, means), carry = program.in_turns(sums)(state.params, hyper, batch, state.carry, key)
    count = jnp.maximum(means["loss"].count, 1e-12)
    return jax.tree.map(lambda g: g / count, grads), means, carry


def step(program: Program, state: TrainState, hyper: dict, data: Any) -> tuple:
    """(state, Means) after one step; empty Means where it would not be finite (`nonfinite`)."""
    config, num_steps = bind(program.config, hyper), program.config.train.num_steps
    config.optimizer.learning_rate *= nonfinite.rate_factor(config.train, state.mishaps)
    optimizer = optim.build_optimizer(config.optimizer, num_steps)
    grads, means, carry = gradients(program, state, hyper, data)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norms = {"gradient_norm": grads, "update_norm": updates, "parameter_norm": params}
    seen = {name: optax.tree.norm(tree) for name, tree in norms.items()}
    finite = jnp.isfinite(means["loss"].total + sum(seen.values()))
    updated = state.step - state.mishaps.skipped  # schedules count the steps that changed something
    seen["learning_rate"] = optim.learning_rate(config.optimizer, num_steps, updated)
    seen = {name: Mean(value, jnp.float32(1)) for name, value in seen.items()}
    running = ~(state.bad | state.stopped)
    new = state._replace(step=state.step + 1, params=params, opt_state=opt_state, carry=carry)
    state = select(running, nonfinite.settle(config.train, state, new, finite), state)
    nothing = jax.tree.map(jnp.zeros_like, (means, seen))
    return state, select(running & finite, (means, seen), nothing)


def average(means: dict) -> dict:
    return {name: m.total / m.count for name, m in means.items()}


def summed(steps: Any) -> Any:
    """Sums over the steps or batches that lie along the first axis."""
    return jax.tree.map(lambda x: jnp.sum(x, 0), steps)


def told(program: Program, state: TrainState, sums: tuple) -> dict:
    """The metrics of a chunk: means over the steps that counted."""
    means, seen = sums
    counts = nonfinite.counts(program.config.train, state.mishaps)
    return program.task.summarize(average(means)) | average(seen) | counts


def run_chunk(program: Program, state: TrainState, hyper: dict, data: Any, num_steps: int) -> tuple:
    """(state, metrics) after `num_steps` steps, which the compiler knows."""

    def body(state, _):
        return step(program, state, hyper, data)

    state, steps = lax.scan(body, state, length=num_steps)
    return state, told(program, state, summed(steps))


def run_short(
    program: Program, state: TrainState, hyper: dict, data: Any, num_steps: Array
) -> tuple:
    """`run_chunk` where the number of steps is an array: one program for all shorter chunks."""

    def body(_, both):
        state, sums = both
        state, found = step(program, state, hyper, data)
        return state, jax.tree.map(jnp.add, sums, found)

    shapes = jax.eval_shape(partial(step, program), state, hyper, data)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state, sums = lax.fori_loop(0, num_steps, body, (state, nothing))
    return state, told(program, state, sums)


def evaluate(program: Program, params: Any, hyper: dict, data: Any, split: str) -> dict:
    """The metrics of a split: every example once, weighted alike, whatever the batch size."""
    num_batches, batch_of = program.task.splits[split]
    stateful = program.task.spec.stateful

    def sums(params, hyper, batch, carry, key):
        outputs, carry = program.model.apply(params, hyper, batch, carry or None)
        return program.task.loss(outputs, batch)[1], carry if stateful else ()

    def body(carry, index):
        means, carry = program.shared(sums)(params, hyper, batch_of(data, index), carry, ())
        return carry, means

    size = jax.eval_shape(batch_of, data, jnp.int32(0))["inputs"].shape[1]
    carry = program.model.initial_carry(params, hyper, size) if stateful else ()
    _, means = lax.scan(body, carry, jnp.arange(num_batches))
    return program.task.summarize(average(summed(means)))


def update_best(program: Program, state: TrainState, metrics: dict) -> TrainState:
    """Keep the parameters if they are the best so far; stop after `train.patience` that are not."""
    train, best = program.config.train, state.best
    value = jnp.asarray(lookup("train.best_metric", train.best_metric, metrics), jnp.float32)
    better = value > best.value if train.best_metric in LARGER_IS_BETTER else value < best.value
    kept = best._replace(evaluations_since=best.evaluations_since + 1)
    new = select(better, Best(value, state.step, state.params, jnp.int32(0)), kept)
    stop = (new.evaluations_since >= train.patience) & (train.patience > 0)
    running = ~(state.bad | state.stopped)
    return state._replace(best=select(running, new, best), stopped=state.stopped | (running & stop))


def validate(program: Program, state: TrainState, hyper: dict, data: Any) -> tuple:
    """(state, metrics) after an evaluation on the validation split."""
    metrics = evaluate(program, state.params, hyper, data, "valid")
    return update_best(program, state, metrics), metrics


def train(
    config: Any,
    workdir: str | Path,
    *,
    reopen: bool = False,
    source: dict | None = None,
    changed_data: bool = False,
) -> dict:
    """Train in `workdir`, from the start or from where the last run stopped; the summary.

    `reopen` goes on with a run that has ended; `source` is the run to start from: see `begin`.
    `changed_data` goes on with data that are not those of the run.
    """
    config = resolve(config)
    if not reopen and (done := finished(config, workdir)):
        return done
    changed = begin.changes(config, Path(workdir))
    program, options, hyper = build_program(config), config.train, config.hyper
    task, whole, data = program.task, program.whole, program.task.data
    begin.check_data(task.source, Path(workdir), changed_data)
    jit = partial(program.jit, out_shardings=whole)
    progress = Progress(options.num_steps)
    runs = partial(run_chunk, program), partial(run_short, program)
    chunk = ahead_of_time(program, *runs, progress)
    check = jit(partial(validate, program))
    slope = jit(lambda *args: gradients(program, *args)[0])
    test = jit(lambda *args: {s: evaluate(program, *args, split=s) for s in task.splits})
    shapes = abstract(program, hyper, data)
    like = placed(jax.eval_shape(partial(init_state, program), hyper), whole)
    check.eval_shape(like, *shapes)  # refuse what cannot run before anything is created,
    chunk(next_chunk(options, 0), like, *shapes)  # and what does not fit
    inherited, source = begin.inherited(source, like, Path(workdir)) if source else ({}, {})
    hyper, data = place((hyper, data), whole)
    feed = feeding(program, data)
    start = partial(first_state, program, hyper, **inherited)
    start = progress.during("initial parameters", start)
    check, slope = progress.during("evaluation", check), progress.during("gradients", slope)
    begins = begin.Begin(changed, reopen, source, task.source, task.understood)
    with Journal(program.config, workdir, program.why, begins, progress) as run:
        state = run.restore(like) or place(start(), whole)
        going = run.goes_on(state)
        while going:
            size = next_chunk(options, run.step)
            advance, window = chunk(size, like, *shapes), feed(run.step)
            with run.chunk(size):
                state, metrics = jax.block_until_ready(advance(state, hyper, window))
            run.trained(state, metrics)
            if run.rolls_back(state):
                state = nonfinite.rolled_back(run.restore(like) or place(start(), whole), state)
                continue
            if run.due(options.eval_every):
                with run.strict("the evaluation"):
                    state, metrics = check(state, hyper, data)
                run.validated(metrics, task, program.forward(state.params, hyper))
            if run.due(histogram_period(options)):
                slopes = slope(state, hyper, feed(run.step))
                run.histograms(parameters=state.params, gradients=slopes)
            run.diagnose(program, state.params, hyper, data)
            going = run.goes_on(state)
            if run.due(options.checkpoint_every, options.keep_every) or not going:
                run.save(state)
        if run.status == "diverged":
            run.advice = advice.explain(program, gradients, state, hyper, feed(run.step))
        best = state.best.params, hyper
        return run.finish(state, task, program.forward(*best), partial(test, *best, data))
