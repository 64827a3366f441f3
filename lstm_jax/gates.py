"""The gate table: which gates are learned, frozen or coupled, and how each is squashed.

A row of `GATES` is a whole LSTM design. The cell evaluates any row with the same few lines, so a
row costs what the standard row costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.core import Array, UsageError, lookup

ORDER = ("i", "f", "g", "o")
NAMES = {"i": "input gate", "f": "forget gate", "g": "candidate", "o": "output gate"}


class Learned(NamedTuple):
    """activation(x W + h R + b); without `recurrent` the gate does not see h."""

    activation: str = "sigmoid"
    recurrent: bool = True


class Constant(NamedTuple):
    """The gate stands at `value` and owns no parameters."""

    value: float


class Coupled(NamedTuple):
    """1 - activation(z + shift), with the pre-activation z of gate `to`; owns no parameters."""

    to: str
    shift: float = 0.0


Gate = Learned | Constant | Coupled


def gate_words(gate: Gate) -> str:
    """The activation of a learned gate, or what stands in its place."""
    if isinstance(gate, Learned):
        return gate.activation
    if isinstance(gate, Constant):
        return f"always {gate.value:g}"
    return f"1 - {gate.to}"


class GateTable(NamedTuple):
    """One LSTM design: c' = update(f, c, i, g), h = o * output(c')."""

    i: Gate = Learned()
    f: Gate = Learned()
    g: Gate = Learned("tanh")
    o: Gate = Learned()
    output: str = "tanh"
    update: str = "add"

    def learned(self) -> tuple[str, ...]:
        """Gates that own columns, in kernel order."""
        return tuple(k for k in ORDER if isinstance(getattr(self, k), Learned))

    def recurrent(self) -> tuple[str, ...]:
        """Gates that own columns of the recurrent kernel."""
        return tuple(k for k in self.learned() if getattr(self, k).recurrent)


GATES: dict[str, GateTable] = {
    # Greff et al. (2017), section III: one change each. Hochreiter & Schmidhuber (1997) is nfg.
    "lstm": GateTable(),
    "nig": GateTable(i=Constant(1.0)),
    "nfg": GateTable(f=Constant(1.0)),
    "nog": GateTable(o=Constant(1.0)),
    "niaf": GateTable(g=Learned("identity")),
    "noaf": GateTable(output="identity"),
    "cifg": GateTable(f=Coupled("i")),
    # The questions of the textbooks.
    "sigmoid_candidate": GateTable(g=Learned("sigmoid")),
    "gate_only_output": GateTable(output="one"),
    "sigmoid_output": GateTable(output="sigmoid"),
    "no_memory": GateTable(f=Constant(0.0)),
    "multiplicative": GateTable(update="multiply"),
    "no_gate_recurrence": GateTable(
        i=Learned(recurrent=False), f=Learned(recurrent=False), o=Learned(recurrent=False)
    ),
    # van der Westhuizen & Lasenby (2018), eq. 4: the forget gate alone, beta = 1.
    "janet": GateTable(i=Coupled("f", shift=-1.0), o=Constant(1.0), output="identity"),
}


def _one(z: Array) -> Array:
    return jnp.ones_like(z)


def _exp(z: Array) -> Array:
    """exp(z - max(z, 0)); on i and f of an LSTM the cell brings sLSTM's running stabiliser."""
    return jnp.exp(jnp.minimum(z, 0.0))


def _relu1(z: Array) -> Array:
    return jnp.where(z < 1.0, jax.nn.relu(z), 1.0)


ACTIVATIONS = {
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,  # relu6(z + 3) / 6
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "relu1": _relu1,
    "softsign": jax.nn.soft_sign,
    "identity": lambda z: z,
    "exp": _exp,
    "one": _one,  # output only: h = o
}
GATE_ACTIVATIONS = tuple(name for name in ACTIVATIONS if name != "one")

# act'(z) written in a = act(z); at a corner, the slope JAX takes there.
SLOPES = {
    "sigmoid": lambda a: a * (1.0 - a),
    "hard_sigmoid": lambda a: jnp.where((a > 0.0) & (a < 1.0), 1.0 / 6.0, 0.0),
    "tanh": lambda a: 1.0 - a * a,
    "relu": lambda a: jnp.where(a > 0.0, 1.0, 0.0),
    "relu1": lambda a: jnp.where((a > 0.0) & (a < 1.0), 1.0, 0.0),
    "softsign": lambda a: (1.0 - jnp.abs(a)) ** 2,
    "identity": jnp.ones_like,
}

# The two that are one tanh away from each other: sigmoid(z) = tanh(z / 2) / 2 + 1 / 2.
_HALF = {"sigmoid": 0.5, "tanh": 1.0}

UPDATES = {
    "add": lambda f, c, i, g: f * c + i * g,
    "multiply": lambda f, c, i, g: (f * c) * (i * g),  # starts from c = 1: 0 would stay 0
}


def activate(names: tuple[str, ...], z: Array) -> Array:
    """Each gate's block of z [..., N*H] through its own activation, in one pass over all of it.

    sigmoid and tanh blocks share a single tanh with a scale and a shift a column, and the rest is
    selected by column: no slicing keeps the compiler from fusing the step's pointwise part.
    """
    others = [name for name in dict.fromkeys(names) if name not in _HALF]
    if len(set(names)) < 2:
        return ACTIVATIONS[names[0]](z) if names else z
    half = columns([_HALF.get(name, 1.0) for name in names], z)
    opened = _by_tanh(z, half)
    for other in others:
        chosen = columns([name == other for name in names], z)
        opened = jnp.where(chosen, ACTIVATIONS[other](z), opened)
    return opened


def _by_tanh(z: Array, half: Any) -> Array:
    return jnp.tanh(z * half) * half + (1.0 - half)


def columns(values: list, z: Array) -> Array:
    """One value a block of z [..., N*H], repeated over the block's columns."""
    dtype = bool if isinstance(values[0], bool) else z.dtype
    return jnp.asarray(np.repeat(np.array(values, dtype), z.shape[-1] // len(values)))


def opening(table: GateTable, late: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What the learned gates open with, all at once: "identity" for those that have to wait.

    Those are the gates `late`, those followed at a distance, and those whose slope no value tells.
    """
    waiting = {*late, *(g.to for g in table if isinstance(g, Coupled) and g.shift)}
    if len(waiting) > 1:  # one pass over all of them is worth it only for most of them
        waiting = set(ORDER)
    return tuple(
        "identity" if k in waiting else early(getattr(table, k).activation) for k in table.learned()
    )


def early(activation: str) -> str:
    """The activation, or "identity" if its slope cannot be told from its value."""
    return activation if activation in SLOPES else "identity"


def late(activation: str) -> Callable[[Array], Array]:
    """What is left of the activation after `early`."""
    return ACTIVATIONS["identity" if early(activation) == activation else activation]


def gate_values(
    table: GateTable, names: str, blocks: dict[str, Array], late: tuple[str, ...] = ()
) -> dict[str, Array | float]:
    """The gates `names` ("ifgo" or part of it) from the learned ones' blocks after `opening`."""
    opened = dict(zip(table.learned(), opening(table, late), strict=True))

    def follow(name: str, shift: float = 0.0) -> Array:
        activation = getattr(table, name).activation
        if opened[name] == activation:
            return blocks[name]
        return ACTIVATIONS[activation](blocks[name] + shift if shift else blocks[name])

    def value(name: str) -> Array | float:
        gate = getattr(table, name)
        if isinstance(gate, Constant):
            return gate.value
        return follow(name) if isinstance(gate, Learned) else 1.0 - follow(gate.to, gate.shift)

    return {name: value(name) for name in names}


def open_blocks(opens: tuple, wides: tuple) -> tuple[Array, ...]:
    """One array a gate [B, H] from wide pre-activations [B, n*H], each squashed in one pass."""
    if not opens:
        return wides
    split = [jnp.split(activate(n, w), len(n), -1) for n, w in zip(opens, wides, strict=True)]
    return tuple(block for blocks in split for block in blocks)


def open_each(opens: tuple, wides: tuple) -> tuple[Array, ...]:
    """`open_blocks` with a pass a gate: as soon, where the features are not the last axis."""
    if not opens:
        return wides
    return tuple(
        _open(name, block)
        for names, wide in zip(opens, wides, strict=True)
        for name, block in zip(names, jnp.split(wide, len(names), -1), strict=True)
    )


def _open(name: str, z: Array) -> Array:
    half = _HALF.get(name)
    return _by_tanh(z, half) if half else ACTIVATIONS[name](z)


def shut_blocks(opens: tuple, blocks: tuple, cotangents: tuple) -> tuple[Array, ...]:
    """Cotangents of the wide pre-activations from those of the blocks: dz = da * act'."""
    if not opens:
        return cotangents
    names = [name for group in opens for name in group]
    dz = iter([d * SLOPES[k](a) for k, a, d in zip(names, blocks, cotangents, strict=True)])
    return tuple(jnp.concatenate([next(dz) for _ in group], axis=-1) for group in opens)


def check_table(table: GateTable) -> None:
    """Raises UsageError for a table that no step can evaluate."""
    if not table.learned():
        raise UsageError(f"{table} has no learned gate and hence no parameters; learn at least one")
    lookup("output activation", table.output, ACTIVATIONS)
    lookup("update", table.update, UPDATES)
    for name in ORDER:
        gate = getattr(table, name)
        if isinstance(gate, Learned):
            lookup("gate activation", gate.activation, dict.fromkeys(GATE_ACTIVATIONS))
        elif isinstance(gate, Coupled) and gate.to not in table.learned():
            raise UsageError(
                f"the {NAMES[name]} is coupled to {gate.to!r}, which is not learned and has no "
                f"pre-activation to follow; choose one of {', '.join(table.learned())}"
            )


def activation_name(kind: str, name: str, known: Iterable[str] = ACTIVATIONS) -> str:
    """`name`, if it is known; "none" is what people call identity."""
    name = "identity" if name == "none" else name
    lookup(kind, name, dict.fromkeys(known))
    return name


def gate_table(
    gates: str | GateTable = "lstm",
    gate_activation: str | Mapping[str, str] = "",
    candidate_activation: str = "",
    output_activation: str = "",
) -> GateTable:
    """The row `gates` with other activations; `""` keeps the row's own.

    `gate_activation` names one activation for i, f and o, or maps some of them to theirs. "none"
    is identity.

    Raises:
      UsageError: an unknown row or activation, or an activation for a gate that is not learned.
    """
    table = gates if isinstance(gates, GateTable) else lookup("gates", gates, GATES)
    check_table(table)
    if isinstance(gate_activation, str):
        wanted = dict.fromkeys("ifo", gate_activation) if gate_activation else {}
        wanted = {k: v for k, v in wanted.items() if k in table.learned()}
    else:
        wanted = {k: v for k, v in gate_activation.items() if v}
    if candidate_activation:
        wanted["g"] = candidate_activation
    for name, activation in wanted.items():
        lookup("gate", name, NAMES)
        kind = "candidate activation" if name == "g" else "gate activation"
        activation = activation_name(kind, activation, GATE_ACTIVATIONS)
        gate = getattr(table, name)
        if not isinstance(gate, Learned):
            raise UsageError(
                f"activation {activation!r} for the {NAMES[name]}: gates={gates!r} has it as "
                f"{gate}, which has no activation; choose gates='lstm' or leave the activation out"
            )
        table = table._replace(**{name: gate._replace(activation=activation)})
    if output_activation:
        output = activation_name("output activation", output_activation)
        table = table._replace(output=output)
    return table
