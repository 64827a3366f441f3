"""The arrays of a whole ONNX model: recurrent nodes as `layer_0/W`, the rest by their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lstm_jax.convert.onnx.nodes import KINDS, constants, options_of, weights
from lstm_jax.errors import UsageError

_CARRY = re.compile(r"(layer_\d+)_(\w+)")
_UNNAMED = re.compile(r"constant_\d+")


def load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: array}, notes as of `files.load`).

    A Gemm's kernel is [D, O], as ours. The initial carry of a file of ours is
    `layer_0/forward/initial_c`, which only a learned carry needs: `optional` in the notes.

    Raises: UsageError for a file that is damaged, or an attribute that no cell of ours has.
    """
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf's and onnx's own
        raise UsageError(f"{path} is damaged, or no ONNX: {str(error).splitlines()[0]}") from None
    known = {k: a for k, a in constants(proto).items() if a.dtype.kind == "f" and a.ndim}
    layers, found = [], {k: a for k, a in known.items() if not _UNNAMED.fullmatch(k)}
    for node in proto.graph.node:
        if node.op_type in KINDS:
            taken = _node(node, known, f"layer_{len(layers)}", path)
            layers.append(_said(node))
            found = {k: a for k, a in found.items() if k not in weights(node).values()} | taken
        elif node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
            found |= {k: found[k].T for k in node.input[1:2] if k in found}
    found = dict(_start(name, array, proto) for name, array in found.items())
    notes: dict[str, Any] = {p.key: p.value for p in proto.metadata_props if p.key == "config"}
    notes |= {"library": "onnx" if layers else "lstm_jax", "layers": layers}
    return found, notes | {"optional": [name for name in found if "/initial_" in name]}


def _node(node: onnx.NodeProto, known: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The arrays of a recurrent node; zeros for biases that it has not."""
    own = weights(node)
    for part, given in own.items():
        if given not in known:
            raise UsageError(
                f"{path}: {part} of {node.op_type} node {node.name!r} is computed from {given!r}, "
                "no constant; onnxruntime or onnxsim can fold it"
            )
    found = {f"{name}/{part}": known[given] for part, given in own.items()}
    ways, rows, _ = known[own["W"]].shape
    return {f"{name}/B": np.zeros((ways, 2 * rows), np.float32)} | found


def _said(node: onnx.NodeProto) -> dict[str, str]:
    """The options of a cell that the node's attributes are."""
    options = options_of(node)
    if options.pop("input_forget", False):
        raise UsageError(
            f"{node.op_type} node {node.name!r}: input_forget=1, which no model of ours has; "
            "lstm_jax.convert.onnx.nodes.read_nodes reads it as gates='cifg'"
        )
    return {"cell": node.op_type.lower(), **options}


def _start(name: str, array: Any, proto: onnx.ModelProto) -> tuple[str, Any]:
    """An initial carry [1, H], which an input has as its default, is a parameter [H] of ours."""
    carry = _CARRY.fullmatch(name)
    if carry and any(given.name == name for given in proto.graph.input):
        return f"{carry[1]}/forward/initial_{carry[2]}", array[0]
    return (name, array[0]) if "/initial_" in name else (name, array)
