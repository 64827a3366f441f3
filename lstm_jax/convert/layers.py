"""Layers from and to other libraries' arrays: {their own name: array}, no library imported.

    layers = convert.read("torch", torch.nn.LSTM(3, 4, num_layers=2).state_dict())
    state = convert.write("keras", layers)

Arrays may be JAX's, traced ones too: gradients flow through.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lstm_jax.cells import gru, lstm, rnn, transforms
from lstm_jax.cells.gates import word
from lstm_jax.convert.conventions import CONVENTIONS, LIBRARIES, OURS, Convention, rows
from lstm_jax.convert.plain import Inexpressible, Plain, numpy_of, plain, whole
from lstm_jax.core import Array, Cell, Params
from lstm_jax.engines.unroll import unroll
from lstm_jax.errors import UsageError, lookup

DIRECTIONS = ("forward", "backward")


class Layer(NamedTuple):
    """A cell with its parameters, and those of the other direction where it has two."""

    cell: Cell
    forward: Params
    backward: Params | None = None

    @property
    def ways(self) -> tuple[Params, ...]:
        return (self.forward,) if self.backward is None else (self.forward, self.backward)


def apply(layers: Sequence[Layer], xs: Array, carries: Any = None, lengths: Any = None) -> tuple:
    """(carries, ys) of a stack over xs [T, B, D], both directions side by side in ys.

    `carries`: for each layer a tuple of carries, one a direction.
    """
    lasts = []
    for n, layer in enumerate(layers):
        starts = carries[n] if carries else [None] * len(layer.ways)
        runs = [
            unroll(layer.cell, params, xs, start, lengths=lengths, reverse=way == 1)
            for way, (params, start) in enumerate(zip(layer.ways, starts, strict=True))
        ]
        lasts.append(tuple(carry for carry, _ in runs))
        xs = jnp.concatenate([ys for _, ys in runs], -1)
    return tuple(lasts), xs


# ------------------------------------------------------------------------------- names


def flat(tree: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """{"cell/ii/kernel": array} of nested dicts, as flax and haiku keep them."""
    found = {}
    for name, value in tree.items():
        nested = flat(value, separator) if isinstance(value, Mapping) else {"": value}
        found |= {f"{name}{separator}{k}" if k else str(name): v for k, v in nested.items()}
    return found


def nested(state: Mapping[str, Any], library: str = "linen") -> dict[str, Any]:
    """`state` as the library keeps it: for haiku {module: {name: array}}, else all dicts."""
    tree: dict[str, Any] = {}
    for name, value in state.items():
        *path, leaf = name.rsplit("/", 1) if library == "haiku" else name.split("/")
        at = tree
        for step in path:
            at = at.setdefault(step, {})
        at[leaf] = value
    return tree


def _names(row: Convention, projected: bool = True) -> list[str]:
    """The names of one direction's arrays."""
    fields = (row.kernel, row.recurrent, row.bias, row.recurrent_bias)
    fields += (row.projection, row.peepholes) if projected else ()
    return list(dict.fromkeys(n for field in fields if field for n in _each(row, field)))


def _each(row: Convention, field: str) -> list[str]:
    """One name, or one a gate."""
    if "{gate}" not in field:
        return [field]
    names = [field.format(gate=gate) for gate in row.gates]
    return [n.replace(*row.renamed) if row.renamed[0] else n for n in names]


_TORCH = re.compile(r"(.*?)(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_(l\d+(?:_reverse)?)$")


def _parse(library: str, row: Convention, name: str) -> tuple[str, str] | None:
    """(which layer and direction, the array's own name), None for what is no array of the row."""
    if library == "torch":
        found = _TORCH.match(name)
        return (found[1] + found[3], found[2]) if found else None
    for leaf in sorted(_names(row), key=len, reverse=True):
        place = name.removesuffix(leaf)
        if name == leaf or (name.endswith(leaf) and place.endswith(("/", ".", "_"))):
            return place, leaf
    return None


def _places(library: str, row: Convention, state: Mapping[str, Any]) -> tuple[dict, list[str]]:
    """({layer and direction: {name: array}}, names that belong to none)."""
    places: dict[str, dict[str, Any]] = {}
    unknown = []
    for name, array in state.items():
        at = _parse(library, row, name)
        if at is None:
            unknown.append(name)
        else:
            places.setdefault(at[0], {})[at[1]] = array
    return dict(sorted(places.items(), key=lambda item: _natural(item[0]))), unknown


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _full(library: str, place: str, leaf: str) -> str:
    """The name that `_parse` took apart."""
    if library != "torch":
        return place + leaf
    prefix, way = re.fullmatch(r"(.*?)(l\d+(?:_reverse)?)", place).groups()  # type: ignore
    return f"{prefix}{leaf}_{way}"


# ------------------------------------------------------------------------------- reading


def read(
    library: str,
    state: Mapping[str, Any],
    *,
    prefix: str = "",
    layer: str = "",
    **options: Any,
) -> tuple[Layer, ...]:
    """A library's recurrent layers from their arrays, from the input up.

    Args:
      state: {name: array} by the library's own names, or nested dicts of them. Where a name holds
        `backward` or `reverse` it is of the second direction.
      prefix: reads only names that begin so.
      layer: which of the library's layers, `GRU` for one; found by names and shapes if left out.
      options: of the cell, where the arrays do not tell: `activation="relu"`,
        `reset="before"`, `gate_activation="hard_sigmoid"`.

    Raises: UsageError that lists every array that is missing, unknown or of another shape.
    """
    lookup("library", library, dict.fromkeys(LIBRARIES))
    given = {
        name.removeprefix(prefix): _array(name, value)
        for name, value in flat(state).items()
        if name.startswith(prefix)
    }
    given = _sides(given) if library == "onnx" else given
    if not given:
        raise UsageError(f"no array begins with {prefix!r}; there are: {_some(flat(state))}")
    row = _row(library, given, layer)
    places, unknown = _places(library, row, given)
    if lines := _mistakes(library, row, places, unknown):
        name = next(n for n, r in CONVENTIONS.items() if r is row)
        raise UsageError(
            f"{len(lines)} of the arrays are not those of {name}:\n" + "\n".join(lines)
        )
    plains = {place: to_plain(row, own, options) for place, own in places.items()}
    return _stack(row, plains, options)


def _sides(state: Mapping[str, Any]) -> dict[str, Any]:
    """ONNX's arrays [ways, ...] as one a direction."""
    found = {}
    for name, array in state.items():
        for way, own in zip(DIRECTIONS, array, strict=False):
            found[f"{name[:-1]}{way}/{name[-1]}"] = own
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _array(name: str, value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError) as error:
        raise UsageError(f"{name} does not become an array of NumPy: {error}") from None
    if array.dtype.kind not in "fV":
        raise UsageError(f"{name} has dtype {array.dtype}; expected floating-point numbers")
    return array


def _row(library: str, state: Mapping[str, Any], layer: str) -> Convention:
    """The layer that was asked for, else the one with the fewest mistakes."""
    known = rows(library)
    if layer:
        return lookup(f"{library} layer", layer, known)

    def wrong(row: Convention) -> int:
        return len(_mistakes(library, row, *_places(library, row, state)))

    return min(known.values(), key=wrong)


def _mistakes(library: str, row: Convention, places: dict, unknown: list[str]) -> list[str]:
    """One line for every array that is missing, unknown or of another shape."""
    lines, taken = [], {_full(library, p, leaf) for p, own in places.items() for leaf in own}
    biased = any(n in own for own in places.values() for n in _biases(row))
    needed = [n for n in _names(row, False) if biased or n not in _biases(row)]
    for place, own in places.items() or [("l0" if library == "torch" else "", {})]:
        absent = [_full(library, place, leaf) for leaf in needed if leaf not in own]
        lines += [f"  missing: {name}{_near(name, unknown)}" for name in absent]
        shapes = {} if absent else _shapes(row, own)
        lines += [
            f"  {_full(library, place, leaf)} has shape {list(own[leaf].shape)}; expected "
            + " or ".join(map(str, fit))
            for leaf, fit in shapes.items()
            if leaf in own and list(own[leaf].shape) not in fit
        ]
    wanted = {_full(library, place, leaf) for place in places for leaf in _names(row)} - taken
    return lines + [f"  unknown: {name}{_near(name, wanted)}" for name in unknown]


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; is it {near[0]}?" if near else ""


def _biases(row: Convention) -> list[str]:
    return [n for field in (row.bias, row.recurrent_bias) if field for n in _each(row, field)]


def _shapes(row: Convention, own: Mapping[str, Any]) -> dict[str, list]:
    """{name: the shapes it may have}, from the hidden size that most of them tell."""
    count, hidden = len(row.gates), _hidden(row, own)
    seen = own[row.projection].shape[0] if row.projection in own else hidden
    wide = count * hidden
    if row.kernel == row.recurrent:
        features = own[row.kernel].shape[0] - seen
        return {row.kernel: [[features + seen, wide]], row.bias: [[wide]]}
    gatewise = "{gate}" in row.kernel
    columns = hidden if gatewise else wide
    first = own[_each(row, row.kernel)[0]]
    features = first.shape[-1 if row.rows else 0] if first.ndim else 0
    shapes = {n: [_turned(row, features, columns)] for n in _each(row, row.kernel)}
    shapes |= {n: [_turned(row, seen, columns)] for n in _each(row, row.recurrent)}
    single = [[hidden if "{gate}" in row.bias else wide]]
    stacked = {"stacked": [[2, wide], [2 * wide]] + ([[wide]] if row.reset == "either" else [])}
    shapes |= {n: stacked.get(row.biases, single) for n in _each(row, row.bias)}
    inner = {"candidate": [[hidden]]}.get(row.biases, [[wide]])
    shapes |= {row.recurrent_bias: inner} if row.recurrent_bias else {}
    shapes |= {row.projection: [[seen, hidden]]} if row.projection else {}
    return shapes | ({row.peepholes: [[3 * hidden]]} if row.peepholes else {})


def _turned(row: Convention, inputs: int, columns: int) -> list[int]:
    return [columns, inputs] if row.rows else [inputs, columns]


def _hidden(row: Convention, own: Mapping[str, Any]) -> int:
    if row.projection in own:
        return own[row.projection].shape[-1]
    if row.kernel == row.recurrent:
        return own[row.kernel].shape[-1] // len(row.gates)
    wide = own[_each(row, row.recurrent)[0]].shape[:2][0 if row.rows else -1]
    return wide if "{gate}" in row.recurrent else wide // len(row.gates)


def to_plain(row: Convention, own: Mapping[str, Any], options: Mapping[str, Any]) -> Plain:
    """Their arrays in our order."""
    xp, hidden, ours = numpy_of(*own.values()), _hidden(row, own), OURS[row.kind]
    kernel, recurrent = (_gathered(xp, row, own, f) for f in (row.kernel, row.recurrent))
    if row.kernel == row.recurrent:
        kernel, recurrent = kernel[:-hidden], kernel[-hidden:]
    one, two = _two_biases(xp, row, own, kernel)
    kernel, recurrent, one, two = (
        _signed(xp, row, _reordered(xp, a, row.gates, ours)) if a is not None else None
        for a in (kernel, recurrent, one, two)
    )
    if row.forget and one is not None:
        one = one + row.forget * _columns(xp, ours, "f", hidden, one.dtype)
    found = Plain(row.kind, kernel, recurrent, one, ())
    if row.kind == "gru":
        return _gru(xp, row, found, own, two, options)
    projection = own[row.projection].T if row.projection in own else None
    peepholes = own.get(row.peepholes)
    if peepholes is not None:
        peepholes = _reordered(xp, peepholes, "iof", "ifo").reshape(3, hidden)
    bias = one if two is None else one + two
    return found._replace(bias=bias, projection=projection, peepholes=peepholes)


def _gru(xp, row, found: Plain, own, two, options) -> Plain:
    """The candidate's second bias stays apart where the reset gate multiplies it."""
    reset = options.get("reset", "after") if row.reset == "either" else row.reset
    if row.reset == "either" and row.rows is False:  # keras: one bias where it resets before
        reset = "before" if own[row.bias].ndim == 1 else "after"
    if reset == "before":
        bias = found.bias if two is None else found.bias + two
        return found._replace(bias=bias, reset="before")
    hidden = found.bias.shape[-1] // 3
    if row.biases == "candidate":
        return found._replace(inner=own[row.recurrent_bias], reset="after")
    if two is None:
        return found._replace(inner=xp.zeros_like(found.bias[:hidden]), reset="after")
    gates, inner = two[: 2 * hidden], two[2 * hidden :]
    bias = found.bias + xp.concatenate([gates, xp.zeros_like(inner)])
    return found._replace(bias=bias, inner=inner, reset="after")


def _gathered(xp: Any, row: Convention, own: Mapping[str, Any], field: str) -> Any:
    """A kernel [D, N*H] from one array or from one a gate."""
    parts = [own[n] for n in _each(row, field)]
    return xp.concatenate([p.T if row.rows else p for p in parts], -1)


def _two_biases(xp: Any, row: Convention, own: Mapping[str, Any], kernel: Any) -> tuple[Any, Any]:
    """(first, second or None), [N*H] each; zeros where the layer was made without."""
    names = _each(row, row.bias)
    if names[0] not in own:
        return xp.zeros(kernel.shape[-1], kernel.dtype), None
    first = xp.concatenate([own[n] for n in names], -1)
    if row.biases == "two":
        return first, own[row.recurrent_bias]
    if row.biases == "stacked" and first.size == 2 * kernel.shape[-1]:
        return tuple(first.reshape(2, -1))
    return first, None


def _reordered(xp: Any, array: Any, given: str, wanted: str, axis: int = -1) -> Any:
    """Blocks of columns, one a gate, in another order."""
    if given == wanted:
        return array
    blocks = dict(zip(given, xp.split(array, len(given), axis), strict=True))
    return xp.concatenate([blocks[gate] for gate in wanted], axis)


def _columns(xp: Any, order: str, gates: str, hidden: int, dtype: Any) -> Any:
    """1 in the columns of `gates`, 0 elsewhere."""
    return xp.repeat(xp.asarray([gate in gates for gate in order], dtype), hidden)


def _signed(xp: Any, row: Convention, array: Any) -> Any:
    """Gates that it opens the other way round: 1 - s(u) = s(-u)."""
    if not row.flipped:
        return array
    order = OURS[row.kind]
    hidden = array.shape[-1] // len(order)
    return array * (1 - 2 * _columns(xp, order, row.flipped, hidden, array.dtype))


def _stack(row: Convention, plains: dict[str, Plain], options: dict) -> tuple[Layer, ...]:
    ahead = [p for place, p in plains.items() if not re.search("backward|reverse", place)]
    back = [p for place, p in plains.items() if re.search("backward|reverse", place)]
    if back and len(back) != len(ahead):
        raise UsageError(
            f"{len(ahead)} forward and {len(back)} backward directions; expected as many of one as "
            f"of the other, among {', '.join(plains)}"
        )
    pairs = zip(ahead, back or [None] * len(ahead), strict=True)
    return tuple(_layer(row, one, two, options) for one, two in pairs)


def _layer(row: Convention, ahead: Plain, back: Plain | None, options: dict) -> Layer:
    if options.get("input_forget"):
        return _coupled(ahead, back, {k: v for k, v in options.items() if k != "input_forget"})
    cell = _cell(row, ahead, options)
    return Layer(cell, whole(ahead), None if back is None else whole(back))


def _coupled(ahead: Plain, back: Plain | None, options: dict[str, Any]) -> Layer:
    """ONNX's `input_forget` as onnxruntime reads it: f = 1 - i, whatever the arrays say of f."""
    seeing = "none" if ahead.peepholes is None else "diagonal_remaining"
    cell = lstm(ahead.hidden, gates="cifg", peepholes=seeing, **options)
    ways = [None if p is None else _without_f(whole(p)) for p in (ahead, back)]
    return Layer(cell, *ways)  # type: ignore[arg-type]


def _without_f(params: Params) -> Params:
    xp = numpy_of(*params.values())
    for name in ("kernel", "recurrent_kernel", "bias"):
        i, _, g, o = xp.split(params[name], 4, -1)
        params[name] = xp.concatenate([i, g, o], -1)
    if "peephole_kernel" in params:
        i, _, o = params["peephole_kernel"]
        params["peephole_kernel"] = xp.stack([i, o])
    return params


def _cell(row: Convention, p: Plain, options: dict[str, Any]) -> Cell:
    """The cell of those arrays."""
    if p.kind == "gru":
        return gru(p.hidden, **{**options, "reset": p.reset})
    if p.kind == "rnn":
        return rnn(p.hidden, **{"activation": row.activation, **options})
    peepholes = {} if p.peepholes is None else {"peepholes": "diagonal"}
    cell = lstm(p.hidden, **peepholes, **options)
    return cell if p.projection is None else transforms.projection(cell, p.projection.shape[1])


# ------------------------------------------------------------------------------- writing


def write(
    library: str, layers: Layer | Sequence[Layer], *, prefix: str = "", layer: str = ""
) -> dict[str, Any]:
    """{name: array} of these layers by the library's own names, each after `prefix`.

    `layer` chooses among several of one kind: `LSTMCell` of linen and nnx. A single cell of a
    library other than torch has bare names; a stack is `layer_0/`, `layer_1/forward/`, ...

    Raises: Inexpressible for an option that the library's layer has not.
    """
    lookup("library", library, dict.fromkeys(LIBRARIES))
    layers = [layers] if isinstance(layers, Layer) else list(layers)
    alone = len(layers) == 1 and layers[0].backward is None
    found: dict[str, Any] = {}
    for n, part in enumerate(layers):
        for way, params in enumerate(part.ways):
            p = plain(part.cell, params)
            name, row = chosen(library, p.kind, layer)
            check(library, name, row, p)
            place = _place(library, name, n, way, len(part.ways), alone)
            own = from_plain(row, p)
            found |= {prefix + _full(library, place, leaf): array for leaf, array in own.items()}
    return _joined(found) if library == "onnx" else found


def node_arrays(plains: Sequence[Plain]) -> dict[str, Any]:
    """W, R, B and P of one ONNX node, a row for each direction."""
    row = chosen("onnx", plains[0].kind)[1]
    own = [from_plain(row, p) for p in plains]
    return {k: numpy_of(*own[0].values()).stack([o[k] for o in own]) for k in own[0]}


def _joined(found: dict[str, Any]) -> dict[str, Any]:
    """`_sides` undone: arrays [ways, ...]."""
    sides: dict[str, list[Any]] = {}
    for name, array in found.items():
        sides.setdefault(re.sub("(forward|backward)/", "", name), []).append(array)
    return {name: numpy_of(*arrays).stack(arrays) for name, arrays in sides.items()}


def chosen(library: str, kind: str, layer: str = "") -> tuple[str, Convention]:
    """(name, row) of the library's layer of a kind.

    Raises: Inexpressible where it has none.
    """
    known = {n: row for n, row in rows(library).items() if row.kind == kind}
    if not known:
        raise Inexpressible(f"{library} has no {kind} layer; it has {', '.join(rows(library))}")
    name = layer or next(iter(known))
    return name, lookup(f"{library} layer of an {kind}", name, known)


def check(library: str, name: str, row: Convention, p: Plain) -> None:
    """Raises Inexpressible, with every option that the layer has not."""
    who, lines = f"{library} {name}", []
    if row.activations == "fixed" and p.activations != _fixed(row):
        lines.append(_other(p.activations, _fixed(row)))
    if row.activations == "tanh relu" and p.activations[0] not in ("tanh", "relu"):
        lines.append(f"activation {word(p.activations[0])}, where it has tanh or relu")
    if row.activations == "shared" and len(set(p.activations[1:])) > 1:
        lines.append(_other(p.activations[1:], (p.activations[1],) * 2) + " (one for both)")
    if p.peepholes is not None and not row.peepholes:
        lines.append("peepholes='diagonal', where it has none")
    if p.projection is not None and not row.projection:
        lines.append("projection, where it has none")
    if row.kind == "gru" and row.reset not in ("either", p.reset):
        lines.append(f"reset={p.reset!r}, where it has reset={row.reset!r}")
    if p.inner is not None and not row.recurrent_bias and row.biases == "one" and _any(p.inner):
        lines.append("a recurrent_bias that is not 0, where it has none")
    if lines:
        raise Inexpressible(
            f"{who} cannot express {'; '.join(lines)}: that is the nearest. Nothing is "
            "approximated; ONNX and StableHLO take any cell"
        )


def _fixed(row: Convention) -> tuple[str, ...]:
    return {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh")}.get(
        row.kind, (row.activation,)
    )


def _other(given: tuple[str, ...], has: tuple[str, ...]) -> str:
    return f"activations {', '.join(map(word, given))}, where it has {', '.join(map(word, has))}"


def _any(array: Any) -> bool:
    return isinstance(array, Tracer) or bool(np.any(np.asarray(array)))


def _place(library: str, name: str, n: int, way: int, ways: int, alone: bool) -> str:
    """Where in a stack: layer n, one direction."""
    if library == "torch":
        return f"l{n}{'_reverse' * way}"
    direction = DIRECTIONS[way]
    if library == "keras":
        own, number = snake(name), f"_{n}" * (n > 0)
        both = f"bidirectional{number}/{direction}_{own}/{own}_cell/"
        return both if ways > 1 else f"{own}{number}/{own}_cell/"
    dot = "." if library == "equinox" else "/"
    at = f"layer_{n}{dot}" + (direction + dot) * (ways > 1)
    return "" if alone else at


def snake(name: str) -> str:
    """What keras calls a layer of a class: simple_rnn."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def from_plain(row: Convention, p: Plain) -> dict[str, Any]:
    """Our arrays in their order."""
    xp, ours = numpy_of(p.kernel, p.bias), OURS[row.kind]
    bias, two = p.bias, xp.zeros_like(p.bias)
    if row.kind == "gru" and p.inner is not None:
        two = xp.concatenate([two[: -p.hidden], p.inner])
    if row.forget:
        bias = bias - row.forget * _columns(xp, ours, "f", p.hidden, bias.dtype)
    kernel, recurrent, bias, two = (
        _reordered(xp, _signed(xp, row, a), ours, row.gates)
        for a in (p.kernel, p.recurrent, bias, two)
    )
    if row.kernel == row.recurrent:
        return {row.kernel: xp.concatenate([kernel, recurrent]), row.bias: bias}
    found = _scattered(xp, row, row.kernel, kernel) | _scattered(xp, row, row.recurrent, recurrent)
    if row.biases == "stacked":
        single = row.kind == "gru" and p.reset == "before" and not row.rows
        sides = xp.concatenate([bias, two]) if row.rows else xp.stack([bias, two])
        found[row.bias] = bias if single else sides
    else:
        found |= _scattered(xp, row, row.bias, bias)
    if row.biases in ("two", "candidate"):
        found[row.recurrent_bias] = two if row.biases == "two" else p.inner
    if p.projection is not None:
        found[row.projection] = p.projection.T
    if p.peepholes is not None:
        found[row.peepholes] = _reordered(xp, p.peepholes, "ifo", "iof", 0).reshape(-1)
    return found


def _scattered(xp: Any, row: Convention, field: str, array: Any) -> dict[str, Any]:
    """An array [.., N*H] as one array or as one a gate."""
    names = _each(row, field)
    parts = xp.split(array, len(names), -1) if len(names) > 1 else [array]
    turned = row.rows and array.ndim > 1
    return {n: p.T if turned else p for n, p in zip(names, parts, strict=True)}
