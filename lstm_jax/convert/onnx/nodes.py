"""Recurrent nodes of an ONNX file as layers of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lstm_jax.convert.layers import Layer, read
from lstm_jax.convert.onnx.recurrent import ACTIVATIONS
from lstm_jax.convert.plain import FIELDS
from lstm_jax.errors import UsageError

KINDS = ("LSTM", "GRU", "RNN")
DEFAULTS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
# What ONNX takes where alpha and beta are left out.
DEFAULT_PAIRS = {"HardSigmoid": (0.2, 0.5), "Affine": (1.0, 0.0)}


def read_nodes(
    model: str | Path | onnx.ModelProto, arrays: Mapping[str, Any] | None = None
) -> dict[str, Layer]:
    """{the node's name, or its first output: the layer} of every LSTM, GRU and RNN node.

    `arrays`: weights that are inputs of the graph instead of constants, by their names there.
    f of `input_forget` is 1 - i, as onnxruntime has it.

    Raises: UsageError for an attribute that no cell of ours has: clip, reverse, other activations.
    """
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(str(model))
    known = constants(proto) | dict(arrays or {})
    found = [node for node in proto.graph.node if node.op_type in KINDS]
    if not found:
        kinds = ", ".join(sorted({node.op_type for node in proto.graph.node}))
        raise UsageError(f"the graph has no LSTM, GRU or RNN node; it has {kinds}")
    return {node.name or next(filter(None, node.output)): _layer(node, known) for node in found}


def constants(proto: onnx.ModelProto) -> dict[str, Any]:
    """{name: array} of what the graph holds."""
    known = {c.name: numpy_helper.to_array(c) for c in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return known


def _layer(node: onnx.NodeProto, known: Mapping[str, Any]) -> Layer:
    names, options = weights(node), options_of(node)
    for part, name in names.items():
        if name not in known:
            raise UsageError(
                f"{_where(node)}: {part} is {name!r}, which is no constant of the file; pass "
                f"arrays={{{name!r}: ...}}"
            )
    state = {part: np.asarray(known[name]) for part, name in names.items()}
    (layer,) = read("onnx", state, layer=node.op_type, **options)
    return layer


def weights(node: onnx.NodeProto) -> dict[str, str]:
    """{"W": the name of the array, ...}"""
    places = ("X", "W", "R", "B", "lengths", "h", "c", "P")
    return {k: name for k, name in zip(places, node.input, strict=False) if name and k in "WRBP"}


def options_of(node: onnx.NodeProto) -> dict[str, Any]:
    """What `read` has to be told of the node's attributes.

    Raises: UsageError for an attribute that no cell of ours has.
    """
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in given.items()}
    _refuse(node, attributes)
    options: dict[str, Any] = dict(_activations(node, attributes))
    if node.op_type == "GRU":
        options["reset"] = "after" if attributes.get("linear_before_reset") else "before"
    if attributes.get("input_forget"):
        options["input_forget"] = True
    return options


def _where(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node {node.name!r}"


def _refuse(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
    if attributes.get("clip"):
        raise UsageError(
            f"{_where(node)}: clip={attributes['clip']:g} bounds pre-activations; no cell of ours "
            "does, cell_clip bounds c"
        )
    if attributes.get("direction") == "reverse":
        raise UsageError(
            f"{_where(node)}: direction='reverse'; read it with direction='forward' and pass "
            "reverse=True to unroll"
        )


def _activations(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(option of the cell, our name) of each activation of the forward direction."""
    kind, fields = node.op_type, FIELDS[node.op_type.lower()]
    text = [a.decode() if isinstance(a, bytes) else a for a in attributes.get("activations", [])]
    alphas, betas = (iter(attributes.get(f"activation_{k}", [])) for k in ("alpha", "beta"))
    ours = []
    for name in text or DEFAULTS[kind]:
        pair = DEFAULT_PAIRS.get(name, ())
        pair = tuple(next(v, d) for v, d in zip((alphas, betas), pair, strict=False))
        ours.append(_ours(node, name, pair))
    if ours[len(fields) :] not in ([], ours[: len(fields)]):
        raise UsageError(f"{_where(node)}: the two directions have other activations, {ours}")
    return list(zip(fields, ours, strict=False))


def _ours(node: onnx.NodeProto, name: str, pair: tuple[float, ...]) -> str:
    for ours, (theirs, *numbers) in ACTIVATIONS.items():
        if theirs == name and np.allclose(numbers, pair):
            return ours
    raise UsageError(
        f"{_where(node)}: activation {name}{pair or ''}; expected one of "
        + ", ".join(f"{a[0]}{a[1:] or ''}" for a in ACTIVATIONS.values())
    )
