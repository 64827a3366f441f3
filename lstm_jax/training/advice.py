"""What to say of a run that diverged: where a number is not finite first, and what would help.

    data       the batch itself is not finite
    start      nothing is learned yet, and forward or backward pass overflow: no learning rate helps
    learning   it worked, and learning broke it

What is suggested is not set yet; a bound was tried on the very step that failed, and mends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.cells.gates import gate_table
from lstm_jax.compute import sharding
from lstm_jax.config.fields import bind, replaced
from lstm_jax.core import Cell
from lstm_jax.engines.unroll import trace
from lstm_jax.errors import UsageError
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import Valid
from lstm_jax.model.model import build_model
from lstm_jax.model.model import build_model as around_cells
from lstm_jax.training.program import Program, stream

UNBOUNDED = ("relu", "identity")
GATE_FIELDS = (
    "gate_activation",
    "input_gate_activation",
    "forget_gate_activation",
    "output_gate_activation",
)


class Report(NamedTuple):
    """`reason` is a sentence, `lines` are what to try, the likeliest first."""

    reason: str
    lines: list[str]


def explain(program: Program, gradients: Callable, state: Any, hyper: dict, data: Any) -> Report:
    """Why the step after `state` is not finite, and what to do; `gradients` is that of `train`."""
    config = program.config
    if jax.process_count() > 1:  # what follows is for one process alone
        return Report("", [*of_learning(config)])
    if program.mesh is not None:
        state, hyper, data = jax.device_get((state, hyper, data))
        program = program._replace(mesh=None)
    batch = program.task.batch(data, stream(hyper, "data"), jnp.asarray(state.step))
    if name := spoilt(batch):
        skip = "--config.train.on_nan=skip   leaves such a step out"
        return Report(f"its batch holds numbers that are not finite in {name!r}", [skip])
    where = overflow(program, state, hyper, batch)
    mends = partial(is_finite, gradients, state, hyper, data)
    learned = int(state.step - state.mishaps.skipped) > 0
    if learned or mends(program):
        reason = "learning broke what had worked" + (f": {where}" if where else "")
        return Report(reason, [*of_learning(config), *(bounded(program, mends) if where else ())])
    what = where or "the forward pass is finite, its gradient is not"
    reason = f"nothing had been learned yet: {what}. No learning rate or clip_norm helps"
    return Report(reason, bounded(program, mends) or [shorter(config)])


def spoilt(batch: dict) -> str:
    """The first array of a batch that holds NaN or infinities; "" where none does."""
    for name, leaf in batch.items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(np.asarray(leaf)).all():
            return name
    return ""


# ---------------------------------------------------------------- where


def overflow(program: Program, state: Any, hyper: dict, batch: dict) -> str:
    """The first layer and time step that are not finite in a forward pass, in words; "" if none."""
    config = replaced(program.config, {"model.engine": "scan", "parallel.remat": 0})
    layers, read_out = jax.device_get(
        jax.jit(partial(_look, config, program.task.spec))(state, hyper, batch)
    )
    ways = 1 + config.model.bidirectional
    for number, bad in enumerate(layers):
        steps = len(next(iter(bad.values())))
        backward = bool(number % ways)
        first = {n: _first(b, backward) for n, b in bad.items() if b.any()}
        if first:
            # Those that are not finite at the same step come in the order they are computed in.
            name = min(first, key=lambda n: first[n][0])
            way = " backward" if backward else ""
            layer = f"layer_{number // ways}{way}"
            return f"{name} of {layer} overflows at time step {first[name][1] + 1} of {steps}"
    return "" if read_out else "the outputs overflow though every layer is finite"


def _first(bad: np.ndarray, backward: bool) -> tuple[int, int]:
    """(how many steps run before the first that is bad, which step that is)."""
    order = bad[::-1] if backward else bad
    before = int(np.argmax(order))
    return before, len(bad) - 1 - before if backward else before


def _look(config: Any, spec: Any, state: Any, hyper: dict, batch: dict) -> tuple[list, Any]:
    """([{name: [T] bool, not finite}, one a layer and direction], whether the outputs are)."""
    seen: list[dict] = []
    batch = {"example": jnp.arange(batch["inputs"].shape[1]), **batch}
    key = jax.random.fold_in(stream(hyper, "noise"), state.step)
    model = around_cells(config, spec, partial(_watched, seen))
    outputs, _ = model.apply(state.params, hyper, batch, state.carry or None, key)
    cell, marks = build_cell(bind(config, hyper).cell), [batch.get(n) for n in Valid._fields]
    valid, ways = Valid(*marks)._asdict(), 1 + config.model.bidirectional
    found = []
    for number, given in enumerate(seen):
        carry = state.carry[number // ways] if state.carry else None
        traced = trace(cell, carry=carry, reverse=bool(number % ways), **given, **valid)
        ordered = [n for n in traced if n not in cell.info.carry] + [*cell.info.carry]
        found.append({n: ~jnp.isfinite(traced[n]).all((1, 2)) for n in ordered})
    return found, jnp.isfinite(outputs).all()


def _watched(seen: list[dict], cell: Cell) -> Cell:
    """The cell, which notes with what it is unrolled."""

    def prepare(params, keys):
        seen.append({"params": params, "key": keys})
        return cell.prepare(params, keys)

    def project(params, xs, keys=None):
        seen[-1]["xs"] = xs
        return cell.project(params, xs, keys)

    return cell._replace(prepare=prepare, project=project)


# ---------------------------------------------------------------- what helps


def of_learning(config: Any) -> Iterator[str]:
    """What gentles learning, and is not set."""
    optimizer, train = config.optimizer, config.train
    rate = optimizer.learning_rate / 3
    yield f"--config.optimizer.learning_rate={rate:.3g}   a third of what it was"
    if optimizer.clip_norm == 0 or optimizer.clip_norm > 1:
        yield "--config.optimizer.clip_norm=1.0   no gradient is longer than this"
    if not optimizer.warmup_steps:
        steps = max(train.num_steps // 20, 1)
        yield f"--config.optimizer.warmup_steps={steps}   a gentle start"
    if train.on_nan == "stop":
        yield "--config.train.on_nan=rollback   back to a checkpoint, at a smaller learning rate"


def bounds(config: Any) -> Iterator[tuple[str, Any, str]]:
    """(field of the cell, value, what it bounds) where nothing does so yet."""
    cell = config.cell
    for field in GATE_FIELDS:
        if cell[field] in UNBOUNDED:
            bounded = "relu1" if cell[field] == "relu" else "sigmoid"
            gate = field.removesuffix("_activation").replace("_", " ")
            yield field, bounded, f"{gate} values from 0 to 1, where {cell[field]} has no end"
    table = gate_table(cell.gates)
    candidate = cell.candidate_activation or getattr(table.g, "activation", "")
    if candidate in UNBOUNDED:
        yield "candidate_activation", "tanh", "what is added to c stays within +-1"
    if (cell.output_activation or table.output) in UNBOUNDED:
        yield "output_activation", "tanh", "h does not grow with c"
    if (cell.activation or ("relu" if cell.name == "indrnn" else "")) in UNBOUNDED:
        yield "activation", "tanh", "h stays within +-1"
    if not cell.cell_clip:
        yield "cell_clip", 10.0, "c stays within +-10"


def bounded(program: Program, mends: Callable) -> list[str]:
    """The bounds of which each alone makes the step finite; else all of them, if that does."""
    known = [(f, v, why) for f, v, why in bounds(program.config) if _with(program, {f: v})]
    alone = [
        f"--config.cell.{field}={value}   {why}"
        for field, value, why in known
        if mends(_with(program, {field: value}))
    ]
    if alone or len(known) < 2:
        return alone
    if not mends(_with(program, {field: value for field, value, _ in known})):
        return []
    return [" ".join(f"--config.cell.{f}={v}" for f, v, _ in known) + "   together"]


def shorter(config: Any) -> str:
    lengths = [f"--config.task.{n}" for n in ("length", "steps", "window") if n in config.task]
    return f"{(lengths or ['sequences'])[0]}: shorter sequences, or smaller initial weights"


def _with(program: Program, fields: dict[str, Any]) -> Program | None:
    """The program of another cell; None where these fields mean nothing to it."""
    config = replaced(program.config, {f"cell.{name}": value for name, value in fields.items()})
    try:
        build_cell(config.cell)
    except UsageError:
        return None
    return program._replace(config=config, model=build_model(config, program.task.spec))


def is_finite(gradients: Callable, state: Any, hyper: dict, data: Any, program: Program) -> bool:
    """Whether loss and gradient of the state's next batch are."""

    def look(state: Any, hyper: dict, data: Any) -> Any:
        grads, means, _ = gradients(program, state, hyper, data)
        return jnp.isfinite(means["loss"].total + optax.tree.norm(grads))

    return bool(jax.jit(look)(*sharding.local((state, hyper, data))))
