"""An ONNX graph that grows node by node; a value is its name."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET, IR = 21, 10
END = 2**31 - 1  # as far as there is


class Graph:
    """Nodes in order. A `sub` graph (a Scan's body) sees the values and constants of its parent."""

    def __init__(self, parent: Graph | None = None):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {} if parent is None else parent.constants
        self._numbers = itertools.count() if parent is None else parent._numbers
        self._known: dict[tuple, str] = {} if parent is None else parent._known

    def sub(self) -> Graph:
        return Graph(self)

    def name(self, what: str) -> str:
        return f"{what.lower()}_{next(self._numbers)}"

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The one output of a new node."""
        return self.several(op, inputs, 1, **attributes)[0]

    def several(self, op: str, inputs: Any, outputs: int, **attributes: Any) -> list[str]:
        names = [self.name(op) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of an array that is part of the file; equal arrays are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.initializer(self.name("constant"), array)
        return self._known[key]

    def parameter(self, name: str, array: Any) -> str:
        """A constant with a name of its own, which equal arrays then go by."""
        array = np.asarray(array)
        self._known.setdefault((array.dtype.str, array.shape, array.tobytes()), name)
        return self.initializer(name, array)

    def initializer(self, name: str, array: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def size(self, value: str, axis: int) -> str:
        """[1]: the length of an axis at run time."""
        return self.add("Gather", self.add("Shape", value), self.ints(axis), axis=0)

    def graph(self, name: str, inputs: list, outputs: list) -> onnx.GraphProto:
        """The whole, with its constants where it is no sub-graph."""
        return helper.make_graph(self.nodes, name, inputs, outputs)


def value(name: str, dtype: Any, shape: tuple) -> onnx.ValueInfoProto:
    """An input or output; text in `shape` is a size known at run time only."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
