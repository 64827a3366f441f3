"""A run's whole model in ONNX: encoder, recurrent layers, readout, head.

    inputs [T, B, D] (or ids [T, B])           -> outputs [T, B, O], or [B, O] where one is read out
    lengths [B], mask, resets [T, B]              where the task has them
    layer_0_c, layer_0_h [B, H], optional      -> layer_0_c_next, layer_0_h_next

The carries may be left out: a sequence then starts as in training. The step model beside it takes
one step, `inputs` [B, D], and is the sequence model with T = 1. Both follow
`model.SequenceModel`; onnxruntime runs them against it before the file is called done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import onnx
from onnx import helper

from lstm_jax.cells.activations import activation, activation_name
from lstm_jax.config.fields import to_json
from lstm_jax.convert import runs
from lstm_jax.convert.export import Exported, agreed
from lstm_jax.convert.layers import DIRECTIONS, Layer
from lstm_jax.convert.onnx import recurrent
from lstm_jax.convert.onnx.graph import IR, OPSET, Graph, value
from lstm_jax.convert.onnx.jaxprs import inline
from lstm_jax.convert.onnx.recurrent import Marks
from lstm_jax.convert.plain import Inexpressible
from lstm_jax.convert.samples import MARKS, cut, difference, feeds, sample, sizes
from lstm_jax.errors import UsageError
from lstm_jax.model.layers import ENCODERS
from lstm_jax.training.saved import Run
from lstm_jax.workdir.files import write_bytes

USAGE = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
outputs, *carry = session.run(None, {{"inputs": xs}})  # {inputs}{more}
"""
STREAM = """
# One step at a time, the carry handed over:
step = onnxruntime.InferenceSession("{step}")
outputs, *carry = step.run(None, {{"inputs": x, **dict(zip({names}, carry))}})
"""


class Wanted(NamedTuple):
    """What the graph has to take and to give."""

    marks: tuple[str, ...]  # of lengths, mask, resets: those that the task's batches have
    step: bool  # one step instead of a sequence


class Steps(NamedTuple):
    """Names: which steps count, and each example's first and last of them."""

    marks: Marks
    valid: str
    first: str
    last: str


def write(loaded: Run, out: Path) -> Exported:
    """Write the sequence model, and the step model where there can be one.

    Raises: Inexpressible; UsageError where onnxruntime does not agree with the model.
    """
    session = onnxruntime_session()
    if loaded.config.cell.dtype != "float32":
        raise Inexpressible(
            f"cell.dtype={loaded.config.cell.dtype}: onnxruntime has no recurrence in it; the "
            "nearest is a run with cell.dtype=float32, whose parameters have the same type"
        )
    if loaded.config.model.encoder not in ENCODERS:
        raise Inexpressible(
            f"model.encoder={loaded.config.model.encoder}: the encoders that ONNX has here are "
            f"{', '.join(ENCODERS)}; --to=stablehlo takes any"
        )
    if loaded.program.task.spec.decoding:
        raise Inexpressible(
            "a decoder that is fed its own outputs is no recurrent layer of ONNX's; "
            "task.strategy=sequence is the nearest that can be exported"
        )
    batch = sample(loaded)
    marks = tuple(name for name in MARKS if name in batch)
    graph, words = model(loaded, Wanted(marks, False))
    write_bytes(out, graph.SerializeToString())
    files, checked = {out.name: f"the sequence model; {words}"}, []
    largest = compare(loaded, session(out), batch)
    checked.append(agreed(largest, f"onnxruntime on {sizes(batch)}"))
    shorter = cut(batch)
    largest = compare(loaded, session(out), shorter)
    checked.append(agreed(largest, f"onnxruntime on {sizes(shorter)}"))
    inputs = "ids [T, B] int32" if loaded.program.task.spec.ids else "[T, B, D]"
    more = "".join(f", {name}" for name in marks)
    usage = USAGE.format(file=out.name, inputs=inputs, more=more)
    if why := no_step(loaded, marks):
        return Exported(files, usage, [*checked, f"no step model: {why}"])
    step = out.with_name(f"{out.stem}-step{out.suffix}")
    graph, _ = model(loaded, Wanted((), True))
    write_bytes(step, graph.SerializeToString())
    largest = stream(loaded, session(step), batch)
    checked.append(agreed(largest, f"step by step, {len(batch['inputs'])} steps"))
    files[step.name] = "the step model"
    names = [name for names in carries(loaded) for name in names]
    return Exported(files, usage + STREAM.format(step=step.name, names=names), checked)


def onnxruntime_session() -> Callable[[Path], Any]:
    try:
        import onnxruntime  # optional
    except ImportError:
        raise UsageError(
            "ONNX needs onnxruntime, which checks the file: pip install 'lstm-jax[onnx]'"
        ) from None

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of inputs that have a default: the carries

    def session(path: Path) -> Any:
        providers = ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(str(path), options, providers=providers)

    return session


def no_step(loaded: Run, marks: tuple[str, ...]) -> str:
    """Why the model cannot go step by step, or ""."""
    config, spec = loaded.config.model, loaded.program.task.spec
    if config.bidirectional:
        return "the backward direction starts at the end of the sequence"
    if config.encoder == "conv":
        return "the convolution sees earlier inputs; keep those and use the sequence model"
    return "the readout is a mean over all steps" if spec.readout == "mean" else ""


def carries(loaded: Run) -> list[list[str]]:
    """For each layer the names of its carry's entries; none where it runs in both directions."""
    if loaded.config.model.bidirectional:
        return [[] for _ in range(loaded.config.model.layers)]
    fields = runs.cell_of(loaded.config, loaded.hyper).info.carry
    return [[f"layer_{n}_{k}" for k in fields] for n in range(loaded.config.model.layers)]


# ---------------------------------------------------------------- the graph


def model(loaded: Run, wanted: Wanted) -> tuple[onnx.ModelProto, str]:
    """(the model, what its recurrent layers became)."""
    config, spec, graph = loaded.config, loaded.program.task.spec, Graph()
    params = jax.tree.map(np.asarray, loaded.params)
    layers = runs.layers_of(runs.cell_of(config, loaded.hyper), params)
    for name, array in runs.around(params).items():
        graph.parameter(name, array)
    inputs, xs = _inputs(graph, spec, wanted)
    steps = _steps(graph, xs, wanted)
    xs = encoded = _encoder(graph, config.model, spec, params.get("encoder", {}), xs, steps)
    features = width = _encoded(config.model, spec)
    starts, outputs, outs, lasts = [], [], [], []
    for n, (layer, names) in enumerate(zip(layers, carries(loaded), strict=True)):
        given = _starts(graph, layer, names, f"layer_{n}")
        starts += names
        said = recurrent.add(graph, layer, (xs, width), given, steps.marks, f"layer_{n}")
        outputs += [(f"{k}_next", c) for k, c in zip(names, said.carry, strict=False)]
        ys, last = _joined(graph, config.model.merge, said.ys, steps)
        out = _width(config.model, layer)
        if config.model.residual and out == width:
            ys, last = graph.add("Add", ys, xs), graph.add("Add", last, _at(graph, xs, steps.last))
        outs, lasts, width = [*outs, ys], [*lasts, last], out + features * config.model.skip
        xs = graph.add("Concat", encoded, ys, axis=-1) if config.model.skip else ys
    read = _readout(graph, config.model, spec, outs, lasts, steps)
    result = _head(graph, config.model, params, read)
    if wanted.step and spec.readout == "every":
        result = graph.add("Squeeze", result, graph.ints(0))
    outputs = [("outputs", result), *outputs]
    words = recurrent.words(layers[0], steps.marks)
    return _model(loaded, graph, inputs, starts, outputs, layers, wanted), words


def _starts(graph: Graph, layer: Layer, names: list[str], at: str) -> list[list[str]]:
    """For each direction what its carry starts from; `names` are those of the graph's inputs."""
    start = recurrent.fresh(layer.cell, layer.forward)
    if names:
        return [[graph.initializer(k, a) for k, a in zip(names, start, strict=True)]]
    fields = layer.cell.info.carry
    each = zip(DIRECTIONS, (recurrent.fresh(layer.cell, way) for way in layer.ways), strict=True)
    return [
        [graph.parameter(f"{at}/{way}/initial_{k}", a) for k, a in zip(fields, start, strict=True)]
        for way, start in each
    ]


def _inputs(graph: Graph, spec: Any, wanted: Wanted) -> tuple[list, str]:
    """(the graph's inputs but the carries, the name of xs [T, B, ..])."""
    dtype = np.int32 if spec.ids else np.float32
    lead = ["batch"] if wanted.step else ["time", "batch"]
    shape = (*lead, *([] if spec.ids else [spec.in_features]))
    inputs, xs = [value("inputs", dtype, shape)], "inputs"
    kinds = {"lengths": (np.int32, ("batch",))}
    marks = [value(n, *kinds.get(n, (np.bool_, ("time", "batch")))) for n in wanted.marks]
    if wanted.step:
        xs = graph.add("Unsqueeze", xs, graph.ints(0))
    return inputs + marks, xs


def _steps(graph: Graph, xs: str, wanted: Wanted) -> Steps:
    """Where steps count: `Valid.steps` and what `unroll` makes of resets."""
    names = {name: name for name in wanted.marks}
    if not names:
        return Steps(Marks(), "", "", "")
    zero, one = graph.constant(np.int64(0)), graph.constant(np.int64(1))
    length = graph.add("Squeeze", graph.size(xs, 0), graph.ints(0))
    time = graph.add("Unsqueeze", graph.add("Range", zero, length, one), graph.ints(1))
    valid = names.get("mask", "")
    if "lengths" in names:
        lengths = graph.add("Cast", "lengths", to=onnx.TensorProto.INT64)
        inside = graph.add("Less", time, lengths)
        valid = graph.add("And", inside, valid) if valid else inside
    every = graph.add("Concat", graph.size(xs, 0), graph.size(xs, 1), axis=0)
    if not valid:
        valid = graph.add("Expand", graph.constant(True), every)
    resets = graph.add("And", "resets", valid) if "resets" in names else ""
    rows, axis = graph.add("Expand", time, every), graph.ints(0)
    last = graph.add("Where", valid, rows, graph.constant(np.int64(-1)))
    first = graph.add("Where", valid, rows, graph.constant(np.int64(2**40)))
    ends = [graph.add("ReduceMin", first, axis, keepdims=0)]
    ends += [graph.add("ReduceMax", last, axis, keepdims=0)]
    only = "lengths" in names and "mask" not in names
    marks = Marks("lengths" if only else "", valid, resets)
    return Steps(marks, valid, *(_hot(graph, time, end) for end in ends))


def _hot(graph: Graph, time: str, index: str) -> str:
    """[T, B, 1] bool: the step `index` [B]."""
    return graph.add("Unsqueeze", graph.add("Equal", time, index), graph.ints(2))


def _encoder(graph: Graph, config: Any, spec: Any, params: Any, xs: str, steps: Steps) -> str:
    if steps.valid:
        zero = graph.constant(np.int32(0) if spec.ids else np.float32(0))
        where = steps.valid if spec.ids else graph.add("Unsqueeze", steps.valid, graph.ints(2))
        xs = graph.add("Where", where, xs, zero)
    if config.encoder == "embedding":
        return graph.add("Gather", graph.constant(params["table"]), xs, axis=0)
    if spec.ids:
        every = graph.constant(np.arange(spec.in_features, dtype=np.int32))
        same = graph.add("Equal", graph.add("Unsqueeze", xs, graph.ints(2)), every)
        xs = graph.add("Cast", same, to=onnx.TensorProto.FLOAT)
    if config.encoder != "conv":
        return xs
    for n in range(len(config.conv_features)):
        layer = params[f"conv_{n}"]
        w = graph.add("Transpose", graph.constant(layer["kernel"]), perm=[2, 1, 0])
        rows = graph.add("Transpose", _clear(graph, xs, steps), perm=[1, 2, 0])
        pads = [config.conv_width - 1, 0]  # causal
        ys = graph.add("Conv", rows, w, graph.constant(layer["bias"]), pads=pads)
        xs = graph.add("Transpose", graph.add("Relu", ys), perm=[2, 0, 1])
    return xs


def _clear(graph: Graph, xs: str, steps: Steps) -> str:
    """Zeros where a step does not count."""
    if not steps.valid:
        return xs
    where = graph.add("Unsqueeze", steps.valid, graph.ints(2))
    return graph.add("Where", where, xs, graph.constant(np.float32(0)))


MERGES = {"sum": "Sum", "mean": "Mean", "mul": "Mul"}


def _joined(graph: Graph, merge: str, ys: list[str], steps: Steps) -> tuple[str, str]:
    """(ys, what each direction says after its last step), the directions merged."""
    lasts = [_at(graph, ys[0], steps.last)]
    lasts += [_at(graph, y, steps.first, 0) for y in ys[1:]]
    return _merged(graph, merge, ys), _merged(graph, merge, lasts)


def _merged(graph: Graph, merge: str, parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return graph.add("Concat", *parts, axis=-1)
    return graph.add(MERGES[merge], *parts)


def _at(graph: Graph, ys: str, hot: str, index: int = -1) -> str:
    """[B, H]: ys where `hot`, zeros where nothing is; at `index` where every step counts."""
    if not hot:
        return graph.add("Gather", ys, graph.constant(np.int64(index)), axis=0)
    picked = graph.add("Where", hot, ys, graph.constant(np.float32(0)))
    return graph.add("ReduceSum", picked, graph.ints(0), keepdims=0)


def _readout(graph: Graph, config: Any, spec: Any, outs: list, lasts: list, steps: Steps) -> str:
    if not config.skip:
        outs, lasts = outs[-1:], lasts[-1:]
    if spec.readout == "last":
        return _merged(graph, "concat", lasts)
    ys = _merged(graph, "concat", outs)
    if spec.readout == "every":
        return ys
    if not steps.valid:
        return graph.add("ReduceMean", ys, graph.ints(0), keepdims=0)
    total = graph.add("ReduceSum", _clear(graph, ys, steps), graph.ints(0), keepdims=0)
    ones = graph.add("Cast", steps.valid, to=onnx.TensorProto.FLOAT)
    count = graph.add("ReduceSum", ones, graph.ints(0), keepdims=0)
    count = graph.add(
        "Unsqueeze", graph.add("Max", count, graph.constant(np.float32(1))), graph.ints(1)
    )
    return graph.add("Div", total, count)


def _head(graph: Graph, config: Any, params: Any, read: str) -> str:
    head = params["head"]
    if "hidden" in head:
        read = _dense(graph, read, head["hidden"])
        if not config.tied:
            read = _activated(graph, config.head_activation, read)
    if config.tied:
        table = graph.add("Transpose", graph.constant(params["encoder"]["table"]), perm=[1, 0])
        return graph.add("Add", graph.add("MatMul", read, table), graph.constant(head["bias"]))
    return _dense(graph, read, head["linear"])


def _dense(graph: Graph, xs: str, params: Any) -> str:
    product = graph.add("MatMul", xs, graph.constant(params["kernel"]))
    return graph.add("Add", product, graph.constant(params["bias"]))


def _activated(graph: Graph, name: str, xs: str) -> str:
    function = activation(activation_name("head activation", name)).function
    return inline(graph, function, [xs], [jax.ShapeDtypeStruct((1,), np.float32)], {})[0]


def _encoded(config: Any, spec: Any) -> int:
    """Features of what the encoder makes."""
    wide = {"embedding": config.embedding, "conv": config.conv_features[-1]}
    return wide.get(config.encoder, spec.in_features)


def _width(config: Any, layer: Layer) -> int:
    """Features of what a layer says: those of its h."""
    start = recurrent.fresh(layer.cell, layer.forward)
    h = start[layer.cell.info.carry.index("h")].shape[-1]
    return h * (len(layer.ways) if config.merge == "concat" else 1)


def _model(
    loaded: Run,
    graph: Graph,
    inputs: list,
    starts: list,
    outputs: list,
    layers: Any,
    wanted: Wanted,
) -> onnx.ModelProto:
    carried = [value(n, np.float32, ("batch", *graph.constants[n].dims[1:])) for n in starts]
    renamed = [helper.make_node("Identity", [given], [name]) for name, given in outputs]
    graph.nodes += renamed
    spec = loaded.program.task.spec
    lead = [] if wanted.step else ["time"]
    rank = [*(lead if spec.readout == "every" else []), "batch", spec.out_features]
    shapes = {"outputs": rank} | {
        f"{n}_next": ["batch", *graph.constants[n].dims[1:]] for n in starts
    }
    ends = [value(name, np.float32, tuple(shapes[name])) for name, _ in outputs]
    whole = helper.make_graph(
        graph.nodes, "lstm_jax", [*inputs, *carried], ends, list(graph.constants.values())
    )
    opsets = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(whole, opset_imports=opsets, ir_version=IR, producer_name="lstm_jax")
    notes = {"task": loaded.config.task.name, "config": to_json(loaded.config)}
    helper.set_model_props(proto, notes)
    onnx.checker.check_model(proto)
    return proto


# ---------------------------------------------------------------- the check


def forward(path: Path, loaded: Run) -> Callable:
    """(batch, carry or None) -> (outputs, carry), by onnxruntime."""
    session, names = onnxruntime_session()(path), [n for each in carries(loaded) for n in each]

    def run(batch: dict[str, Any], carry: Any = None) -> tuple[Any, Any]:
        given = dict(zip(names, carry or [], strict=False))
        outputs, *carry = session.run(None, {**feeds(batch), **given})
        return outputs, carry

    return run


def compare(loaded: Run, session: Any, batch: dict[str, Any]) -> float:
    """The largest difference of outputs and carries, relative where they are above 1."""
    outputs, carry = jax.jit(loaded.program.model.apply)(loaded.params, loaded.hyper, batch)
    found = session.run(None, feeds(batch))
    expected = [outputs, *(jax.tree.leaves(carry) if len(found) > 1 else [])]
    return max(difference(a, b) for a, b in zip(found, expected, strict=True))


def stream(loaded: Run, session: Any, batch: dict[str, Any]) -> float:
    """Step by step against the sequence at once."""
    xs, spec = feeds(batch)["inputs"], loaded.program.task.spec
    whole = jax.jit(loaded.program.model.apply)(loaded.params, loaded.hyper, {"inputs": xs})[0]
    names = [name for names in carries(loaded) for name in names]
    carry, largest, out = [], 0.0, None
    for n, x in enumerate(xs):
        out, *carry = session.run(None, {"inputs": x, **dict(zip(names, carry, strict=False))})
        if spec.readout == "every":
            largest = max(largest, difference(out, whole[n]))
    return largest if spec.readout == "every" else difference(out, whole)
