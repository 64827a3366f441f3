"""The one table that every law runs over: cells, options and transforms."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import reference

from lstm_jax.cells import CELLS, transforms
from lstm_jax.cells.activations import ACTIVATIONS, GATE_ACTIVATIONS
from lstm_jax.cells.gates import GATES, Constant, Coupled, GateTable
from lstm_jax.core import Cell, Keys, noted
from lstm_jax.engines import ENGINES
from lstm_jax.testing import FULL, QUICK, Data, Lab, marks, random_like, shapes_of

T, B, D, H = FULL._replace(H=4)

# Drawn anew at every step, so two halves do not draw what the whole drew.
PER_STEP = {"zoneout", "recurrent_dropout"}
# Change gradients, not values: no difference quotient knows them.
BENT = {"gradient_weighting", "activity_weighting", "recurrent_gradient_clipping"}


class Case(NamedTuple):
    """A cell with options under transforms, innermost first; `keyed`: with its randomness on."""

    cell: str
    options: dict[str, Any] = {}
    transforms: tuple[tuple[str, dict[str, Any]], ...] = ()
    keyed: bool = False

    def build(self, hidden: int = H, **more: Any) -> Cell:
        cell = CELLS[self.cell](hidden, **self.options, **more)
        for name, arguments in self.transforms:
            cell = transforms.TRANSFORMS[name](cell, **arguments)
        return cell

    def reference(self, hidden: int = H) -> Any:
        known = {k: v for k, v in self.options.items() if k not in ("forget_bias", "dtype")}
        cell = reference.CELLS[self.cell](hidden, **known)
        for name, arguments in self.transforms:
            cell = reference.TRANSFORMS[name](cell, **arguments)
        return cell

    def parts(self) -> set[str]:
        """The cell, every option with its value, and every transform."""
        return set(str(self).split("-"))

    def names(self) -> set[str]:
        return {name for name, _ in self.transforms}

    def __str__(self) -> str:
        options = [f"{k}={_short(v)}" for k, v in self.options.items()]
        return "-".join([self.cell, *options, *(n for n, _ in self.transforms)]) + (
            "-keyed" * self.keyed
        )


def spelled(table: GateTable) -> dict[str, Any]:
    """A row of the gate table as `reference.ROWS` would spell it."""

    def words(gate: Any) -> Any:
        if isinstance(gate, Coupled):
            return (gate.to, gate.shift)
        return gate.value if isinstance(gate, Constant) else gate.activation

    blind = [k for k, gate in table.gates() if not getattr(gate, "recurrent", True)]
    gates = {k: words(gate) for k, gate in table.gates()}
    return gates | {"output": table.output, "update": table.update, "blind": "".join(blind)}


# What the reference does not spell out it reads from the tables: a new row is one edit.
for name, row in GATES.items():
    reference.ROWS.setdefault(name, spelled(row))
for name, activation in ACTIVATIONS.items():
    reference.ACTIVATIONS.setdefault(name, lambda z, a=activation: np.asarray(a(z)))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}:{v}" for k, v in value.items())
    return str(value)


def _rows() -> list[Case]:
    return [Case("lstm", {"gates": row}) for row in GATES if row != "lstm"]


# Every activation in the table that has a slope: the engines treat those specially.
SQUASHES = tuple(name for name in GATE_ACTIVATIONS if ACTIVATIONS[name].slope)


def _activations() -> list[Case]:
    """Every activation at every place once: a Latin square."""
    cases = []
    for n in range(len(SQUASHES)):
        i, f, o, g, output = (SQUASHES[(n + k) % len(SQUASHES)] for k in range(5))
        options = {
            "gate_activation": {"i": i, "f": f, "o": o},
            "candidate_activation": g,
            "output_activation": output,
        }
        cases.append(Case("lstm", options))
    return cases


OPTIONS = [
    Case("lstm", {"peepholes": "diagonal"}),
    Case("lstm", {"peepholes": "full"}),
    Case("lstm", {"peepholes": "diagonal_remaining", "gates": "cifg"}),
    Case("lstm", {"peepholes": "diagonal_remaining", "gates": "nog"}),
    Case("lstm", {"peepholes": "diagonal_remaining", "gates": "janet"}),
    Case("lstm", {"layer_norm": "branch"}),
    Case("lstm", {"layer_norm": "recirculated", "gates": "nfg"}),
    Case("lstm", {"cell_clip": 0.3}),
    Case(
        "lstm",
        {"layer_norm": "recirculated", "cell_clip": 0.5, "peepholes": "diagonal"},
    ),
    Case("lstm", {"layer_norm": "branch", "peepholes": "full", "gates": "no_gate_recurrence"}),
    Case("lstm", {"gates": "cifg", "gate_activation": "relu"}),
    Case("lstm", {"gate_activation": "hard_sigmoid"}),
    Case("lstm", {"gate_activation": "exp"}),
    Case("lstm", {"gate_activation": {"i": "exp"}, "gates": "nog"}),
    Case(
        "lstm",
        {
            "gate_activation": {"o": "exp"},
            "candidate_activation": "exp",
            "output_activation": "exp",
        },
    ),
    Case("lstm_fgr", {"peepholes": "diagonal", "layer_norm": "branch", "cell_clip": 0.5}),
    Case("lstm_fgr", {"gates": "no_gate_recurrence", "gate_activation": "softsign"}),
    Case("gru", {"reset": "before"}),
    Case("gru", {"gate_activation": "hard_sigmoid", "candidate_activation": "relu"}),
    Case("mgu", {"gate_activation": "softsign", "candidate_activation": "identity"}),
    Case("rnn", {"activation": "relu"}),
    Case("indrnn", {"activation": "tanh"}),
    Case("slstm", {"gate_activation": {"i": "exp", "f": "exp"}, "output_activation": "tanh"}),
    Case("slstm", {"gate_activation": {"o": "hard_sigmoid"}}),
    Case("slstm", {"gate_activation": "sigmoid", "candidate_activation": "softsign"}),
]

BOTH: list[tuple[str, dict[str, Any], bool]] = [
    ("recurrent_dropout", {"rate": 0.4}, True),
    ("variational_dropout", {"input_rate": 0.3, "hidden_rate": 0.4}, True),
    ("weight_drop", {"rate": 0.4}, True),
    ("gradient_weighting", {"weights": 0.3}, False),
    ("activity_weighting", {}, False),
    ("recurrent_gradient_clipping", {"limit": 0.05}, False),
    ("learned_carry", {}, False),
]
TRANSFORMED = [
    Case(cell, {}, ((name, arguments),), keyed)
    for cell in ("lstm", "gru")
    for name, arguments, keyed in BOTH
] + [
    Case("lstm", {}, (("projection", {"size": 2}),)),
    Case("lstm", {}, (("zoneout", {"rate_c": 0.4, "rate_h": 0.2}),)),
    Case("lstm", {}, (("zoneout", {"rate_c": 0.4, "rate_h": 0.3}),), True),
    Case("gru", {}, (("zoneout", {"rate_h": 0.3}),)),
    Case("gru", {}, (("zoneout", {"rate_h": 0.3}),), True),
]

ALL_AT_ONCE = (
    ("recurrent_dropout", {"rate": 0.4}),
    ("variational_dropout", {"input_rate": 0.3, "hidden_rate": 0.4}),
    ("weight_drop", {"rate": 0.4}),
    ("zoneout", {"rate_c": 0.4, "rate_h": 0.3}),
    ("learned_carry", {}),
)
BENT_ONES = (
    ("gradient_weighting", {"weights": {"i": 0.5, "g": 2.0}}),
    ("recurrent_gradient_clipping", {"limit": 0.05}),
)
STACKED = [
    Case("lstm", {}, (("projection", {"size": 2}), *ALL_AT_ONCE), True),
    Case("lstm", {"peepholes": "full", "layer_norm": "branch"}, ALL_AT_ONCE, True),
    Case(
        "lstm",
        {"gates": "cifg", "peepholes": "diagonal_remaining"},
        (*ALL_AT_ONCE[:-1], *BENT_ONES),
        True,
    ),
    Case("lstm", {"gates": "multiplicative"}, (("learned_carry", {}),)),
    Case("lstm_fgr", {}, (*ALL_AT_ONCE[:3], ("learned_carry", {})), True),
    Case("slstm", {}, (*ALL_AT_ONCE[:3], ("learned_carry", {})), True),
    Case("gru", {"reset": "before"}, (("activity_weighting", {}),)),
    Case("mgu", {}, (("recurrent_dropout", {"rate": 0.4}), ("weight_drop", {"rate": 0.4})), True),
    Case("rnn", {}, (*ALL_AT_ONCE[:3], ("learned_carry", {})), True),
    Case("indrnn", {}, ALL_AT_ONCE[:3], True),
    Case("minlstm", {}, (*ALL_AT_ONCE[:1], ("learned_carry", {})), True),
    Case("mingru", {}, (("gradient_weighting", {"weights": 0.5}),)),
    Case("mingru", {}, (("zoneout", {"rate_h": 0.5}),), True),
]

PLAIN = [Case(name) for name in CELLS]
CASES = [*PLAIN, *_rows(), *OPTIONS, *_activations(), *TRANSFORMED, *STACKED]
# Checkpointing in chunks knows nothing of options: it need not see each of them.
CHUNKED = [*PLAIN, *OPTIONS[:4], *STACKED[:2]]


# The kernel of engine `pallas` in the default run: every cell, and what is traced otherwise.
KERNELS = [*PLAIN, *OPTIONS[1:2], *OPTIONS[5:6], Case("gru", {"reset": "before"}), *STACKED[:1]]


# What steps keep for the backward pass: every cell, and what is kept otherwise.
KEPT = [*KERNELS, *OPTIONS[12:13], *STACKED[1:2], *TRANSFORMED[-5:-2]]


def covering(but: list[Case]) -> list[Case]:
    """Cases that have, with those of `but`, every part of every case."""
    found, seen = [], {part for case in but for part in case.parts()}
    for case in sorted(CASES, key=lambda case: -len(case.parts())):
        if not case.parts() <= seen:
            found.append(case)
            seen |= case.parts()
    return found


LINEAR = ("minlstm", "mingru", "indrnn")  # without a product of h


def engines(case: Case) -> list[str]:
    """The engines that are held to `scan` on this case."""
    some = {"chunked": CHUNKED, "scan": [], "pallas": CASES[:1]}
    rounded = ["deferred:bfloat16"] if case in PLAIN else []
    return [engine for engine in ENGINES if case in some.get(engine, CASES)] + rounded


def beyond_native(case: Case) -> bool:
    """What has more products than x W and h R."""
    products = case.cell in ("lstm_fgr", "mgu") or case.options.get("reset") == "before"
    products = products or case.options.get("peepholes") == "full" or "projection" in case.names()
    masked = "variational_dropout" in case.names() and case.keyed and case.cell not in LINEAR
    return products or masked


def in_full(case: Case) -> bool:
    """Every cell and every transform: what no option changes is shown on these alone, namely
    reversed time and rows that are batches of their own."""
    return case in (*PLAIN, *TRANSFORMED, *STACKED[:1])


by_name = {str(case): case for case in CASES}
assert len(by_name) == len(CASES)


# What a case runs on ------------------------------------------------------------------------------


def data_of(cell: Cell, seed: int = 0) -> Data:
    """Nothing at zero or one: fresh parameters would hide what they multiply."""
    rng = np.random.default_rng(seed)
    params = random_like(shapes_of(cell), rng)
    params |= {k: v + 1.0 for k, v in params.items() if k.endswith("_scale")}
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params)
    carry = random_like(carry, rng)
    positive = {"n": np.exp(carry.n)} if hasattr(carry, "n") else {}
    xs = rng.standard_normal((T, B, D))
    return Data(params, carry._replace(**positive), xs, *marks())


def lab_of(case: Case) -> Lab:
    """The case on the bench, beside its reference."""
    cell, keys = case.build(), keys_of(case)
    draw, data = drawing(cell, keys), data_of(cell)

    def expected(data: Data, reverse: bool = False) -> Any:
        params, noise = draw(data.params, data.xs)
        args = (data.xs, data.carry._asdict(), data.valid, data.resets, reverse, noise)
        carry, ys, _ = reference.unroll(case.reference(), params, *args)
        return type(data.carry)(**carry), ys

    return Lab(
        cell,
        data,
        expected,
        keys=keys,
        bent=bool(case.names() & BENT),
        redrawn=case.keyed and bool(case.names() & PER_STEP),
        variants=(case.build(dtype=jnp.bfloat16),),
        in_full=in_full(case),
    )


def keys_of(case: Case) -> Keys | None:
    """The randomness of a keyed case."""
    if not case.keyed:
        return None
    return Keys(jax.random.key(7), jax.random.split(jax.random.key(8), B))


def drawing(cell: Cell, keys: Keys | None) -> Any:
    """(params, xs) -> prepared parameters and the noise that transforms put into the steps."""
    if keys is None:
        return lambda params, xs: (params, reference.Noise())

    @functools.partial(jax.jit, compiler_options=QUICK)
    def draw(params, xs):
        prepared = cell.prepare(params, keys)
        at = jax.vmap(jax.random.fold_in, (0, None))
        timed = jax.vmap(at, (None, 0))(keys.example, np.arange(len(xs)))
        return prepared, _notes(cell.project(prepared, xs, timed))

    def drawn(params, xs):
        prepared, notes = jax.tree.map(np.asarray, draw(params, xs))
        masks = {k: prepared.pop(f"dropout_{k[-1]}", None) for k in ("drop_x", "drop_h")}
        return prepared, reference.Noise(**notes, **masks)

    return drawn


def _notes(step: Any) -> dict[str, Any]:
    _, notes = noted(step)
    zone = {f"zone_{k}": v for k, v in notes.get("zone", {}).items()}
    return zone | {k: notes[k] for k in ("keep",) if k in notes}
