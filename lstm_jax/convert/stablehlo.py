"""A run's model as StableHLO by `jax.export`: any batch and length, for CPU, CUDA and TPU at once.

    FILE                 batch -> (outputs, carry)            a sequence from its start
    FILE-stream          (batch, carry) -> (outputs, carry)   any number of steps on from there

`batch` is {"inputs": [T, B, D] or ids [T, B]} with `lengths`, `mask`, `resets` where the task has
them; a carry is {"c": .., "h": ..} for each layer. JAX alone reads the files:
`jax.export.deserialize(data).call(batch)`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lstm_jax.config.fields import replaced
from lstm_jax.convert.export import Exported, agreed
from lstm_jax.convert.plain import Inexpressible
from lstm_jax.convert.samples import MARKS, cut, difference, feeds, sample, sizes
from lstm_jax.errors import UsageError
from lstm_jax.model.model import build_model
from lstm_jax.training.saved import Run
from lstm_jax.workdir.files import write_bytes

PLATFORMS = ("cpu", "cuda", "tpu")
USAGE = """\
from pathlib import Path

import jax

model = jax.export.deserialize(bytearray(Path("{file}").read_bytes()))
outputs, carry = model.call({{"inputs": xs{marks}}})
"""
STREAM = """
# On from there, by any number of steps:
model = jax.export.deserialize(bytearray(Path("{stream}").read_bytes()))
outputs, carry = model.call({{"inputs": more}}, carry)
"""


def write(loaded: Run, out: Path) -> Exported:
    """Write the sequence model, and the one that goes on from a carry where there can be one.

    Raises: Inexpressible; UsageError where the file, reloaded, does not agree with the model.
    """
    if loaded.program.task.spec.decoding:
        raise Inexpressible(
            "a decoder begins so many steps before the end of a batch, whose length is left open; "
            "task.strategy=sequence is the nearest that can be exported"
        )
    batch = feeds(sample(loaded))
    marks = [name for name in MARKS if name in batch]
    model = functions(loaded)
    export_to(out, model[0], _abstract(batch))
    again = load(out)
    checked = []
    for part in (batch, feeds(cut(batch))):
        largest = compare(model[0](part), again.call(part))
        checked.append(agreed(largest, f"reloaded, on {sizes(part)}"))
    usage = USAGE.format(file=out.name, marks="".join(f', "{n}": {n}' for n in marks))
    files = {out.name: f"the sequence model, for {', '.join(PLATFORMS)}"}
    if loaded.config.model.bidirectional:
        return Exported(files, usage, [*checked, "no streaming: two directions"])
    stream = out.with_name(f"{out.stem}-stream{out.suffix}")
    carry = model[0](batch)[1]
    export_to(stream, model[1], _abstract(batch, carry))
    largest = compare(model[1](batch, carry), load(stream).call(batch, carry))
    checked.append(agreed(largest, "reloaded, on from a carry"))
    files[stream.name] = "the same, on from a carry"
    return Exported(files, usage + STREAM.format(stream=stream.name), checked)


def forward(path: Path, loaded: Run) -> Callable:
    """(batch, carry or None) -> (outputs, carry), by the file and the one beside it."""
    first, stream = load(path), path.with_name(f"{path.stem}-stream{path.suffix}")
    onward = load(stream) if stream.is_file() else None

    def run(batch: dict[str, Any], carry: Any = None) -> tuple[Any, Any]:
        if not carry:
            return first.call(feeds(batch))
        if onward is None:
            raise UsageError(f"{path} starts afresh at every batch: {stream} is gone")
        return onward.call(feeds(batch), carry)

    return run


def load(path: Path) -> Any:
    """The file as `jax.export` has it."""
    return export.deserialize(bytearray(path.read_bytes()))


def functions(loaded: Run) -> tuple[Any, Any]:
    """(batch -> (outputs, carry), (batch, carry) -> the same), jitted, with nothing of ours."""
    # On every platform, for any T.
    config = replaced(loaded.config, {"model.engine": "scan", "parallel.remat": 0})
    apply = build_model(config, loaded.program.task.spec).apply
    params, hyper = jax.tree.map(np.asarray, (loaded.params, loaded.hyper))
    tree = jax.eval_shape(lambda: loaded.program.model.initial_carry(params, hyper, 1))

    def sequence(batch):
        outputs, carry = apply(params, hyper, batch)
        return outputs, plain_carry(carry)

    def onward(batch, carry):
        leaves = [leaf for layer in carry for leaf in layer.values()]
        given = jax.tree.unflatten(jax.tree.structure(tree), leaves)
        outputs, carry = apply(params, hyper, batch, given)
        return outputs, plain_carry(carry)

    return jax.jit(sequence), jax.jit(onward)


def plain_carry(carry: Any) -> list[Any]:
    """Dicts instead of our named tuples, so that JAX alone can read the file."""
    return [
        layer._asdict() if hasattr(layer, "_asdict") else [way._asdict() for way in layer]
        for layer in carry
    ]


def _abstract(batch: Any, *carry: Any) -> tuple[Any, ...]:
    """Shapes with T and B as symbols, the same ones for a carry."""
    scope = export.SymbolicScope()

    def shape(lead: str, leaf: Any) -> jax.ShapeDtypeStruct:
        known = leaf.shape[lead.count(",") + 1 :]
        text = ", ".join([lead, *map(str, known)])
        return jax.ShapeDtypeStruct(export.symbolic_shape(text, scope=scope), leaf.dtype)

    steps = {k: shape("b" if k == "lengths" else "t, b", v) for k, v in batch.items()}
    return steps, *(jax.tree.map(partial(shape, "b"), tree) for tree in carry)


def export_to(path: Path, function: Any, shapes: tuple) -> None:
    """Write the function for all platforms."""
    done = export.export(function, platforms=PLATFORMS)(*shapes)
    write_bytes(path, bytes(done.serialize()))


def compare(ours: Any, theirs: Any) -> float:
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(difference(np.asarray(b), jnp.asarray(a)) for a, b in pairs)
