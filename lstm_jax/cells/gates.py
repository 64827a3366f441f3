"""The gate table: which gates are learned, frozen or coupled, and how each is squashed.

A row of `GATES` is a whole LSTM design, its equation and its source. The cell evaluates any row
with the same few lines, so a row costs what the standard row costs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.cells.activations import (
    GATE_ACTIVATIONS,
    activation,
    activation_name,
    check_activation,
    open_blocks,
)
from lstm_jax.core import Array, Cell, Info
from lstm_jax.errors import UsageError, lookup
from lstm_jax.ops import weigh
from lstm_jax.plugins import find

ORDER = ("i", "f", "g", "o")
NAMES = {"i": "input gate", "f": "forget gate", "g": "candidate", "o": "output gate"}
CANDIDATES = ("g", "n", "h")  # what the cells call the value that a gate lets in


class Learned(NamedTuple):
    """activation(x W + h R + b); without `recurrent` the gate does not see h.

    The activation is a name of `activations.ACTIVATIONS`, or a function u -> a of your own.
    """

    activation: Any = "sigmoid"
    recurrent: bool = True


class Constant(NamedTuple):
    """The gate stands at `value` and owns no parameters."""

    value: float


class Coupled(NamedTuple):
    """1 - activation(u + shift), with the pre-activation u of gate `to`; owns no parameters."""

    to: str
    shift: float = 0.0


Gate = Learned | Constant | Coupled


def gate_words(gate: Gate) -> str:
    """The activation of a learned gate, or what stands in its place."""
    if isinstance(gate, Learned):
        return word(gate.activation)
    if isinstance(gate, Constant):
        return f"always {gate.value:g}"
    return f"1 - {gate.to}"


def word(activation: Any) -> str:
    """The name of an activation, or of the function that stands in its place."""
    function = getattr(activation, "function", activation)
    return function if isinstance(function, str) else getattr(function, "__name__", "a function")


class GateTable(NamedTuple):
    """One LSTM design: c' = update(f * c, i * g), h = o * output(c'); what it is, in words."""

    i: Gate = Learned()
    f: Gate = Learned()
    g: Gate = Learned("tanh")
    o: Gate = Learned()
    output: Any = "tanh"  # an activation, as in Learned
    update: str = "add"
    equation: str = "a table of your own"
    source: str = ""

    def gates(self) -> tuple[tuple[str, Gate], ...]:
        """(name, gate) in kernel order."""
        return tuple(zip(ORDER, (self.i, self.f, self.g, self.o), strict=True))

    def learned(self) -> tuple[str, ...]:
        """Gates that own columns, in kernel order."""
        return tuple(k for k, gate in self.gates() if isinstance(gate, Learned))

    def recurrent(self) -> tuple[str, ...]:
        """Gates that own columns of the recurrent kernel."""
        return tuple(k for k in self.learned() if getattr(self, k).recurrent)

    def design(self) -> tuple:
        """The table without its words: equal for two that compute the same."""
        return self[:6]


_blind = Learned(recurrent=False)
_GREFF = "Greff et al. (2017), section III"
GATES: dict[str, GateTable] = {
    # Greff et al. (2017), section III: one change each.
    "lstm": GateTable(equation="as cell lstm", source="Gers, Schmidhuber & Cummins (2000)"),
    "nig": GateTable(
        i=Constant(1.0), equation="i = 1: only tanh at the input", source=f"{_GREFF}, NIG"
    ),
    "nfg": GateTable(
        f=Constant(1.0),
        equation="f = 1: nothing is forgotten",
        source=f"{_GREFF}, NFG; Hochreiter & Schmidhuber (1997)",
    ),
    "nog": GateTable(
        o=Constant(1.0), equation="o = 1: only tanh at the output", source=f"{_GREFF}, NOG"
    ),
    "niaf": GateTable(
        g=Learned("identity"),
        equation="g = x W_g + h R_g + b_g: identity candidate",
        source=f"{_GREFF}, NIAF",
    ),
    "noaf": GateTable(
        output="identity", equation="h' = o * c': identity output", source=f"{_GREFF}, NOAF"
    ),
    "cifg": GateTable(
        f=Coupled("i"),
        equation="f = 1 - i: coupled input and forget gate",
        source=f"{_GREFF}, CIFG",
    ),
    # The questions of the textbooks.
    "sigmoid_candidate": GateTable(
        g=Learned("sigmoid"),
        equation="g = s(x W_g + h R_g + b_g): only sigmoid at the input",
        source="ablation",
    ),
    "gate_only_output": GateTable(
        output="one", equation="h' = o: only sigmoid at the output", source="ablation"
    ),
    "sigmoid_output": GateTable(output="sigmoid", equation="h' = o * s(c')", source="ablation"),
    "no_memory": GateTable(
        f=Constant(0.0), equation="f = 0: c' = i * g, no memory path", source="ablation"
    ),
    "multiplicative": GateTable(
        update="multiply",
        equation="c' = (f * c) * (i * g), c_0 = 1: multiplied, not added",
        source="ablation",
    ),
    "no_gate_recurrence": GateTable(
        i=_blind,
        f=_blind,
        o=_blind,
        equation="i, f, o = s(x W + b): the gates do not see h",
        source="ablation",
    ),
    "janet": GateTable(
        i=Coupled("f", shift=-1.0),
        o=Constant(1.0),
        output="identity",
        equation="c' = f * c + (1 - s(u_f - 1)) * g, h' = c': the forget gate alone",
        source="van der Westhuizen & Lasenby (2018), eq. 4, beta = 1",
    ),
}

UPDATES: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "multiply": operator.mul,  # starts from c = 1: 0 would stay 0
}


class Gates(NamedTuple):
    """The gates of one step, as `update` asks for them.

        gate(name, c)        the opened gate: learned, constant or coupled; a peephole looks at c
        gate.open(name, v)   the gate opened with v added to its pre-activation
        gate.raw(name)       the pre-activation itself

    `open` and `raw` serve the gates that the cell's `info.late` names. Transforms replace the
    fields: `peepholes` a weight [H] of every gate that sees c, `weights` of the gradient through
    a gate, `scales` of its value, `active` the gates whose gradient is weighed by their activity.
    """

    table: Mapping[str, Gate]
    opened: Mapping[str, str]  # what each block was opened with; "identity" is a pre-activation
    blocks: Mapping[str, Array]
    notes: Mapping[str, Any]
    peepholes: Mapping[str, Array] = {}
    weights: Mapping[str, Any] = {}
    scales: Mapping[str, Any] = {}
    active: tuple[str, ...] = ()
    seen: dict[str, Any] | None = None  # collects the opened gates, for traces

    def __call__(self, name: str, c: Any = None) -> Any:
        gate = self.table[name]
        if isinstance(gate, Constant):
            value: Any = gate.value
        elif isinstance(gate, Coupled):
            value = 1.0 - self._value(gate.to, self._peep(gate.to, c), gate.shift)
        else:
            value = self._value(name, self._peep(name, c))
        return self._told(name, value)

    def open(self, name: str, v: Any) -> Any:
        return self._told(name, self._value(name, v))

    def raw(self, name: str) -> Any:
        if self.opened[name] != "identity":
            raise UsageError(
                f"gate {name!r} is open already ({self.opened[name]}); name it in the cell's "
                f"info.late, and update gets its pre-activation"
            )
        u = self.blocks[name]
        if name not in self.active:
            return u
        learned: Any = self.table[name]
        return weigh(u, jax.lax.stop_gradient(activation(learned.activation)(u) * u))

    def record(self, **gates: Any) -> None:
        """Tells a trace of gates that `update` opened by itself."""
        if self.seen is not None:
            self.seen.update(gates)

    def weighed(self, weights: Mapping[str, Any]) -> Gates:
        """The gates, with the gradient through their pre-activations times `weights`."""
        blocks = {k: weigh(u, weights.get(k)) for k, u in self.blocks.items()}
        return self._replace(blocks=blocks, weights=weights)

    def _peep(self, name: str, c: Any) -> Any:
        return self.peepholes[name] * c if name in self.peepholes else None

    def _value(self, name: str, v: Any = None, shift: float = 0.0) -> Any:
        learned: Any = self.table[name]
        if v is None and not shift and self.opened[name] == learned.activation:
            return self.blocks[name]
        late = self._replace(active=()).raw(name)
        u = late if v is None else late + weigh(v, self.weights.get(name))
        value = activation(learned.activation)(u + shift if shift else u)
        return weigh(value, jax.lax.stop_gradient(value * late)) if name in self.active else value

    def _told(self, name: str, value: Any) -> Any:
        self.record(**{name: value})
        return self.scales[name] * value if name in self.scales else value


def opening(info: Info) -> tuple[tuple[str, ...], ...]:
    """What each block opens with, all of an array at once: "identity" for those that have to wait.

    Those are the gates that are late, those followed at a distance, and those whose slope no value
    tells.
    """
    table: Any = dict(info.gates)
    waiting = {*info.late, *(g.to for g in table.values() if isinstance(g, Coupled) and g.shift)}

    def early(name: str) -> str:
        gate = table.get(name)
        return gate.activation if gate and activation(gate.activation).slope else "identity"

    def group(names: tuple[str, ...]) -> tuple[str, ...]:
        # One pass over all of them is worth it only for most of them.
        wait = set(names) if len(waiting & set(names)) > 1 else waiting
        return tuple("identity" if k in wait else early(k) for k in names)

    return tuple(group(names) for names in info.blocks)


def wides(u: Any) -> tuple[Array, ...]:
    """The arrays that `merge` returned."""
    return u if isinstance(u, tuple) else (u,)


def gates_of(info: Info, blocks: tuple[Array, ...], notes: Mapping[str, Any]) -> Gates:
    """What `update` asks, from the opened blocks of a step."""
    names = [name for group in info.blocks for name in group]
    opened = [activation for group in opening(info) for activation in group]
    named = dict(zip(names, blocks, strict=True))
    return Gates(dict(info.gates), dict(zip(names, opened, strict=True)), named, notes)


def step(cell: Cell, params: Any, carry: Any, z: Any, notes: Mapping[str, Any]) -> tuple[Any, Any]:
    """(carry, y) of one projected step: the cell's functions, one after the other."""
    u = cell.merge(params, z, cell.recur(params, carry))
    blocks = open_blocks(opening(cell.info), wides(u))
    return cell.update(params, carry, gates_of(cell.info, blocks, notes))


def spread(r: Array, present: tuple[str, ...], wanted: tuple[str, ...]) -> Array:
    """The blocks of r [..., M*H], one a gate of `present`, at their place among `wanted`."""
    if present == wanted:
        return r
    if not present:
        return jnp.zeros((), r.dtype)
    blocks = dict(zip(present, jnp.split(r, len(present), axis=-1), strict=True))
    gap = jnp.zeros_like(next(iter(blocks.values())))
    return jnp.concatenate([blocks.get(gate, gap) for gate in wanted], axis=-1)


def check_table(table: GateTable) -> None:
    """Raises UsageError for a table that no step can evaluate."""
    if not table.learned():
        raise UsageError(f"{table} has no learned gate and hence no parameters; learn at least one")
    check_activation("output activation", table.output)
    lookup("update", table.update, UPDATES)
    for name in ORDER:
        gate = getattr(table, name)
        if isinstance(gate, Learned):
            check_activation("gate activation", gate.activation, GATE_ACTIVATIONS)
        elif isinstance(gate, Coupled) and gate.to not in table.learned():
            raise UsageError(
                f"the {NAMES[name]} is coupled to {gate.to!r}, which is not learned and has no "
                f"pre-activation to follow; choose one of {', '.join(table.learned())}"
            )


A_TABLE = ("a GateTable, as in GateTable(f=Coupled('i'))", lambda v: isinstance(v, GateTable))


def gate_table(
    gates: str | GateTable = "lstm",
    gate_activation: Any = "",
    candidate_activation: Any = "",
    output_activation: Any = "",
) -> GateTable:
    """The row `gates` with other activations; `""` keeps the row's own.

    `gate_activation` is one activation for i, f and o, or maps some of them to theirs. "none" is
    identity; a function stands for itself.

    Raises:
      UsageError: an unknown row or activation, or an activation for a gate that is not learned.
    """
    table = gates if isinstance(gates, GateTable) else find("gates", gates, GATES, *A_TABLE)
    check_table(table)
    if isinstance(gate_activation, Mapping):
        wanted = {k: v for k, v in gate_activation.items() if v}
    else:
        wanted = dict.fromkeys("ifo", gate_activation) if gate_activation else {}
        wanted = {k: v for k, v in wanted.items() if k in table.learned()}
    if candidate_activation:
        wanted["g"] = candidate_activation
    for name, opens in wanted.items():
        lookup("gate", name, NAMES)
        kind = "candidate activation" if name == "g" else "gate activation"
        opens = activation_name(kind, opens, GATE_ACTIVATIONS)
        gate = getattr(table, name)
        if not isinstance(gate, Learned):
            raise UsageError(
                f"activation {opens!r} for the {NAMES[name]}: gates={gates!r} has it as "
                f"{gate}, which has no activation; choose gates='lstm' or leave the activation out"
            )
        table = table._replace(**{name: gate._replace(activation=opens)})
    if output_activation:
        output = activation_name("output activation", output_activation)
        table = table._replace(output=output)
    return table


def check_apart(table: GateTable, what: str) -> None:
    """Raises UsageError for a coupling between o and the gates that open before it."""
    for k in "ifo":
        to = getattr(getattr(table, k), "to", "")
        if to and (k == "o") != (to == "o"):
            raise UsageError(
                f"{what} opens i, f and g before o, but the {NAMES[k]} is coupled to {to!r}; "
                "couple within i and f, or leave it out"
            )
