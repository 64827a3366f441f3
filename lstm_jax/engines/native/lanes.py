"""A cell's step as operations on single units: what is generated code runs over vectors.

A jaxpr of one example, [1, n*H] arrays and [H] parameters, becomes a graph in which an array is
one node a block of H units. That holds as long as the only operation that mixes units is a sum over
all of them, and the only product is the recurrent one, which the graph takes as given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lstm_jax.ops import needed

Key = tuple[Any, ...]


class Unsupported(Exception):
    """What a cell does that no single unit can; the message says it in words."""


# Primitives that act on each number alone, and what the graph calls them.
NAMES = {name: name for name in (
    "add", "sub", "mul", "div", "neg", "max", "min", "exp", "log", "log1p", "expm1", "tanh",
    "logistic", "abs", "sign", "sqrt", "sin", "cos", "erf", "pow", "lt", "le", "gt", "ge", "eq",
    "ne", "and", "or", "xor", "not",
)} | {"add_any": "add"}  # fmt: skip
OVER_UNITS = "over units"  # the sum over all units of an example
BOOLS = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "not", "true"}
AS_IT_IS = ("copy", "copy_p", "optimization_barrier", "reduce_precision", "stop_gradient")
AS_IT_IS += ("sharding_constraint", "pvary", "pcast")

# Functions that JAX 0.12 writes bit by bit; here they are their formula.
CALLED = ("exp_neg_sq",)

EVALUATE: dict[str, Callable[..., Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
    "neg": jnp.negative,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "exp": jnp.exp,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "expm1": jnp.expm1,
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "sqrt": jnp.sqrt,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "erf": jax.scipy.special.erf,
    "pow": jnp.power,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "and": jnp.logical_and,
    "or": jnp.logical_or,
    "xor": jnp.logical_xor,
    "not": jnp.logical_not,
    "true": lambda x: x != 0,
    "number": lambda m: jnp.where(m, 1.0, 0.0),
    "select": jnp.where,
    OVER_UNITS: lambda x: jnp.sum(x, -1, keepdims=True),
}

# What is done at once, of numbers alone.
NOW = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative}


class Graph:
    """Operations on numbers, each once, in an order in which they can be done."""

    def __init__(self) -> None:
        self.nodes: list[tuple] = []  # (operation, operands) or ("input", key) or ("number", value)
        self._known: dict[tuple, int] = {}

    def add(self, *node: Any) -> int:
        if node not in self._known:
            self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return self._known[node]

    def input(self, *key: Any) -> int:
        return self.add("input", key)

    def constant(self, value: Any) -> int:
        return self.add("constant", float(value))

    def value(self, node: int) -> float | None:
        """The number a node stands for, where it is one."""
        operation, *rest = self.nodes[node]
        return rest[0] if operation == "constant" else None

    def is_bool(self, node: int) -> bool:
        return self.nodes[node][0] in BOOLS

    def apply(self, operation: str, *of: int) -> int:
        """The node of an operation, done here where all operands are numbers."""
        known = [self.value(node) for node in of]
        plain = _simpler(operation, of, known)
        if plain is not None:
            return plain
        if None not in known and operation in NOW:
            with np.errstate(all="ignore"):
                return self.constant(NOW[operation](*np.array(known, np.float32)))
        return self.add(operation, *of)

    def needed(self, outputs: Sequence[int]) -> list[int]:
        """The nodes that these depend on, themselves included, in order."""
        wanted, todo = set(), list(outputs)
        while todo:
            node = todo.pop()
            if node not in wanted:
                wanted.add(node)
                todo += self.operands(node)
        return sorted(wanted)

    def operands(self, node: int) -> tuple[int, ...]:
        operation, *rest = self.nodes[node]
        return () if operation in ("input", "constant") else tuple(rest)

    def inputs(self, outputs: Sequence[int]) -> list[Key]:
        """The keys of the inputs that these depend on."""
        nodes = [self.nodes[n] for n in self.needed(outputs)]
        return [node[1] for node in nodes if node[0] == "input"]

    def evaluate(self, outputs: Sequence[int], given: Callable[[Key], Any], dtype: Any) -> list:
        """The outputs as JAX's arrays, of arrays for the inputs."""
        found: dict[int, Any] = {}
        for n in self.needed(outputs):
            operation, *rest = self.nodes[n]
            if operation == "input":
                found[n] = given(rest[0])
            elif operation == "constant":
                found[n] = jnp.asarray(rest[0], dtype)
            else:
                value = EVALUATE[operation](*(found[k] for k in rest))
                found[n] = value if operation in BOOLS else value.astype(dtype)
        return [found[n] for n in outputs]


def _simpler(operation: str, of: tuple[int, ...], known: list[float | None]) -> int | None:
    """An operand that the operation leaves as it is."""
    for n, (mine, other) in enumerate(zip(of, known[::-1], strict=True)):
        if len(of) == 2 and operation == "add" and other == 0.0:
            return mine
        if len(of) == 2 and operation == "mul" and other == 1.0:
            return mine
        if len(of) == 2 and n == 0 and (operation, other) in (("sub", 0.0), ("div", 1.0)):
            return mine
    if operation == "select" and of[1:2] == of[2:]:
        return of[1]
    return None


class Lanes:
    """Reads jaxprs into a graph, for cells of `hidden` units."""

    def __init__(self, hidden: int) -> None:
        self.hidden, self.graph = hidden, Graph()
        self.product: tuple[int, str, int] | None = None  # carry, parameter, columns a unit
        self.alike: set[int] = set()  # inputs with one number for all units

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """One node for every H units along the last axis."""
        if shape and shape[-1] % self.hidden == 0:
            return (*shape[:-1], shape[-1] // self.hidden)
        return tuple(shape)

    def by_unit(self, shape: Sequence[int]) -> bool:
        return bool(shape) and shape[-1] % self.hidden == 0

    def inputs(self, shape: Sequence[int], *key: Any, of_bool: bool = False) -> np.ndarray:
        """The nodes of a given array: (*key, place) each."""
        nodes = np.empty(self.shape(shape), object)
        for place in np.ndindex(nodes.shape):
            node = self.graph.input(*key, place)
            if not self.by_unit(shape):
                self.alike.add(node)
            nodes[place] = self.graph.add("true", node) if of_bool else node
        return nodes

    def over_units(self, node: int) -> int:
        """The sum of a node over all units of an example."""
        inputs = {k for k in self.graph.needed([node]) if self.graph.nodes[k][0] == "input"}
        if inputs <= self.alike:
            return self.graph.apply("mul", node, self.graph.constant(self.hidden))
        return self.graph.add(OVER_UNITS, node)

    def constant(self, value: Any) -> np.ndarray:
        if isinstance(value, Tracer):
            raise Unsupported("closes over a value that is traced")
        array = np.asarray(value)
        if self.by_unit(array.shape):
            blocks = array.reshape(*array.shape[:-1], -1, self.hidden)
            if not (blocks == blocks[..., :1]).all() and not np.isnan(blocks).all():
                raise Unsupported("holds an array of numbers that differ from unit to unit")
            array = blocks[..., 0]
        nodes = np.empty(array.shape, object)
        for place in np.ndindex(array.shape):
            number = self.graph.constant(array[place])
            nodes[place] = self.graph.apply("true", number) if array.dtype == bool else number
        return nodes

    def read(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """The nodes of the outputs; a `str` in `given` stands for a matrix, used in products."""
        found: dict[Any, Any] = {}

        def get(variable: Any) -> Any:
            return found[variable] if not hasattr(variable, "val") else self.constant(variable.val)

        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            found[variable] = self.constant(value) if hasattr(value, "dtype") else value
        found.update(zip(jaxpr.invars, given, strict=True))
        for equation in needed(jaxpr):
            out = self.equation(equation, [get(v) for v in equation.invars])
            found.update(zip(equation.outvars, out, strict=False))
        return [get(v) for v in jaxpr.outvars]

    def equation(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        inner = next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None)
        told = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
        name = told.func_name if told and told.func_name in CALLED else name
        if inner is not None and name not in ("scan", "while", "cond", *CALLED):
            return self.read(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given)
        if name in AS_IT_IS:
            return given
        if name == "dot_general":
            return [self.multiplied(equation, *given)]
        if any(isinstance(value, str) for value in given):
            raise Unsupported("uses a matrix outside its one recurrent product")
        shapes = [tuple(v.aval.shape) for v in equation.invars]
        out = tuple(equation.outvars[0].aval.shape)
        if name in NAMES or name in ELEMENTWISE:
            return [self.elementwise(name, params, given, equation)]
        if name not in STRUCTURE:
            raise Unsupported(f"uses {name!r}, which mixes units or is not known here")
        nodes = STRUCTURE[name](self, given, shapes, out, params)
        return nodes if isinstance(nodes, list) else [nodes]

    def multiplied(self, equation: Any, x: Any, w: Any) -> Any:
        """The recurrent product: of one whole entry of the carry and one parameter."""
        contract = equation.params["dimension_numbers"]
        whole = isinstance(w, str) and getattr(x, "shape", ()) == (1, 1)
        node = self.graph.nodes[x.item()] if whole else ()
        entry = node[1] if node and node[0] == "input" and node[1][0] == "carry" else None
        if self.product or entry is None or contract != (((1,), (0,)), ((), ())):
            raise Unsupported("multiplies by a matrix more than h R, or something else than h")
        shape = equation.outvars[0].aval.shape
        self.product = entry[1], w, shape[-1] // self.hidden
        return self.inputs(shape, "r")

    def elementwise(self, name: str, params: dict, given: list, equation: Any) -> np.ndarray:
        kind = equation.outvars[0].aval.dtype
        if kind not in (jnp.float32, jnp.float64, jnp.bool_):
            raise Unsupported(f"computes in {kind}")
        apply = self.graph.apply
        if name in NAMES:
            run = lambda *of: apply(NAMES[name], *of)  # noqa: E731
        else:
            run = lambda *of: ELEMENTWISE[name](self.graph, params, *of)  # noqa: E731
        shape = np.broadcast_shapes(*(a.shape for a in given))
        nodes = np.empty(shape, object)
        spread = [np.broadcast_to(a, shape) for a in given]
        for place in np.ndindex(shape):
            nodes[place] = run(*(a[place] for a in spread))
        return nodes


def _power(graph: Graph, params: dict, x: int) -> int:
    exponent = params["y"]
    result = graph.constant(1.0)
    for _ in range(abs(exponent)):
        result = graph.apply("mul", result, x)
    return result if exponent >= 0 else graph.apply("div", graph.constant(1.0), result)


def _select(graph: Graph, params: dict, where: int, *cases: int) -> int:
    if len(cases) != 2 or not graph.is_bool(where):
        raise Unsupported("selects among more than two")
    operation, *of = graph.nodes[where]
    number = graph.value(of[0]) if operation == "true" else None
    if number is not None:
        return cases[int(number != 0)]
    return graph.apply("select", where, cases[1], cases[0])


def _convert(graph: Graph, params: dict, x: int) -> int:
    wanted = params["new_dtype"] == jnp.bool_
    if graph.is_bool(x) == wanted:
        return x
    return graph.apply("true" if wanted else "number", x)


def _one_minus_square(graph: Graph, params: dict, x: int) -> int:
    """JAX 0.12 has it as an operation of its own, for the derivative of tanh."""
    return graph.apply("sub", graph.constant(1.0), graph.apply("mul", x, x))


ELEMENTWISE: dict[str, Callable[..., int]] = {
    "integer_pow": _power,
    "square": lambda g, p, x: g.apply("mul", x, x),
    "one_minus_square": _one_minus_square,
    "exp_neg_sq": lambda g, p, x: g.apply("exp", g.apply("neg", g.apply("mul", x, x))),
    "rsqrt": lambda g, p, x: g.apply("div", g.constant(1.0), g.apply("sqrt", x)),
    "select_n": _select,
    "convert_element_type": _convert,
    "clamp": lambda g, p, low, x, high: g.apply("min", g.apply("max", x, low), high),
}


def _broadcast(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    axes, nodes = params["broadcast_dimensions"], given[0]
    shape = [1] * len(out)
    for axis, size in zip(axes, nodes.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(nodes.reshape(shape), lanes.shape(out))


def _reshape(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    if lanes.by_unit(shapes[0]) != lanes.by_unit(out):
        raise Unsupported("reshapes an array across its units")
    return given[0].reshape(lanes.shape(out))


def _ranges(lanes: Lanes, shape: tuple, low: Sequence[int], high: Sequence[int]) -> list[slice]:
    ranges = []
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        unit = lanes.hidden if axis == len(shape) - 1 and lanes.by_unit(shape) else 1
        if a % unit or b % unit:
            raise Unsupported("takes some of the units apart from the others")
        ranges.append(slice(a // unit, b // unit))
    return ranges


def _slice(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    if any(step != 1 for step in params["strides"] or ()):
        raise Unsupported("takes every other unit")
    low, high = params["start_indices"], params["limit_indices"]
    return given[0][tuple(_ranges(lanes, shapes[0], low, high))].reshape(lanes.shape(out))


def _split(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> list:
    axis, at, parts = params["axis"], 0, []
    for size in params["sizes"]:
        low, high = [0] * len(shapes[0]), list(shapes[0])
        low[axis], high[axis], at = at, at + size, at + size
        parts.append(given[0][tuple(_ranges(lanes, shapes[0], low, high))])
    return parts


def _unstack(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> list:
    axis = params["axis"]
    if axis == len(shapes[0]) - 1 and lanes.by_unit(shapes[0]):
        raise Unsupported("takes single units out of an array")
    return list(np.moveaxis(given[0], axis, 0))


def _stack(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    axis = params["axis"]
    if axis == len(out) - 1:
        raise Unsupported("stacks arrays as if they were units")
    return np.stack(given, axis).reshape(lanes.shape(out))


def _concatenate(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    axis = params["dimension"]
    if axis == len(out) - 1 and not all(lanes.by_unit(s) == lanes.by_unit(out) for s in shapes):
        raise Unsupported("joins units of different kinds")
    return np.concatenate(given, axis)


def _pad(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    nodes, filler = given
    if any(within or low < 0 or high < 0 for low, high, within in params["padding_config"]):
        raise Unsupported("pads between units")
    low = [a for a, _, _ in params["padding_config"]]
    high = [a + size for a, size in zip(low, shapes[0], strict=True)]
    whole = np.full(lanes.shape(out), filler.item(), object)
    whole[tuple(_ranges(lanes, out, low, high))] = nodes
    return whole


def _sum(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    nodes, axes = given[0], params["axes"]
    over_units = lanes.by_unit(shapes[0]) and len(shapes[0]) - 1 in axes
    for axis in sorted(axes, reverse=True):
        first, *others = np.moveaxis(nodes, axis, 0)
        for other in others:
            add = np.frompyfunc(lambda a, b: lanes.graph.apply("add", a, b), 2, 1)
            first = np.asarray(add(first, other), object)
        nodes = np.asarray(first, object)
    if over_units:
        nodes = np.asarray(np.frompyfunc(lanes.over_units, 1, 1)(nodes), object)
    return nodes.reshape(lanes.shape(out))


def _transpose(lanes: Lanes, given: list, shapes: list, out: tuple, params: dict) -> Any:
    order = params["permutation"]
    if lanes.by_unit(shapes[0]) and order[-1] != len(order) - 1:
        raise Unsupported("turns an array of units round")
    return given[0].transpose(order)


STRUCTURE: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "stack": _stack,
    "concatenate": _concatenate,
    "pad": _pad,
    "reduce_sum": _sum,
    "transpose": _transpose,
}
