"""What the cells share: kernels, peepholes, layer normalisation, notes that transforms attach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.core import Array, Hidden, Params, UsageError, dot, lookup
from lstm_jax.gates import NAMES, Coupled, GateTable, Learned, open_gates
from lstm_jax.initializers import KERNELS, bias_vector, constant


class Annotated(NamedTuple):
    """A projected step with what a transform notes on it; None where nothing is noted."""

    z: Any
    keep: Any = None  # multiplies the candidate: recurrent dropout
    weights: Any = None  # multiply the gradient through the pre-activations [N*H]


def noted(step: Any) -> Annotated:
    """The projected step with room for notes."""
    return step if isinstance(step, Annotated) else Annotated(step)


def notes_of(step: Any) -> tuple[Any, Any, Any]:
    """z, candidate mask (1 if none) and gradient weights (None if none) of a projected step."""
    z, keep, weights = noted(step)
    return z, 1.0 if keep is None else keep, weights


def weigh(z: Array, weights: Any) -> Array:
    """z, bit for bit, with its gradient multiplied by `weights`."""
    if weights is None:
        return z
    return z + (weights - 1.0) * (z - jax.lax.stop_gradient(z))


def kernels(
    key: Array, inputs: tuple[int, Sequence[str], str], recurrent: tuple[int, Sequence[str], str]
) -> Params:
    """`kernel` [D, N*H] and `recurrent_kernel` [H, M*H], each from (H or D, gates, initialiser)."""
    hidden = recurrent[0]
    made = {}
    for name, k, (rows, gates, init) in zip(
        ("kernel", "recurrent_kernel"), jax.random.split(key), (inputs, recurrent), strict=True
    ):
        draw = lookup("initializer", init, KERNELS)
        made[name] = draw(k, (rows, len(gates) * hidden), len(gates))
    return made


def bias(forget_bias: Any, key: Array, learned: Sequence[str], hidden: int) -> Array:
    """`[N*H]`, zero but for what the forget bias (a number or an initialiser) says."""
    given: Any = forget_bias if callable(forget_bias) else constant(forget_bias)
    return bias_vector(given, key, learned, hidden)


def spread(r: Array, present: Sequence[str], wanted: Sequence[str]) -> Array:
    """The blocks of r [..., M*H], one a gate of `present`, at their place among `wanted`."""
    if tuple(present) == tuple(wanted):
        return r
    if not present:
        return jnp.zeros((), r.dtype)
    blocks = dict(zip(present, jnp.split(r, len(present), axis=-1), strict=True))
    gap = jnp.zeros_like(next(iter(blocks.values())))
    return jnp.concatenate([blocks.get(gate, gap) for gate in wanted], axis=-1)


def hidden_carry(hidden: int) -> Callable:
    """`initial_carry` of a cell that carries h alone: zeros."""

    def initial_carry(params, batch_shape):
        return Hidden(jnp.zeros((*batch_shape, hidden), params["kernel"].dtype))

    return initial_carry


# Peepholes -------------------------------------------------------------------------------------


class Peepholes(NamedTuple):
    """How the gates see the cell: parameters, a share of r, and the order of opening."""

    init: Callable[[Array], Params]
    recur: Callable[..., Array]  # (params, c, r) -> r
    opened: Callable[..., tuple[dict, Array]]  # (params, c, z, weights, remember) -> gates, c'


def _blind_init(key: Array) -> Params:
    return {}


def _blind_recur(params: Params, c: Array, r: Array) -> Array:
    return r


def no_peepholes(table: GateTable, hidden: int, dtype: Any) -> Peepholes:
    """All gates open at once; none sees c."""

    def opened(params, c, z, weights, remember):
        gates = open_gates(table, "ifgo", weigh(z, weights))
        return gates, remember(gates["i"], gates["f"], gates["g"])

    return Peepholes(_blind_init, _blind_recur, opened)


def diagonal(table: GateTable, hidden: int, dtype: Any) -> Peepholes:
    """z_i += p_i * c, z_f += p_f * c, z_o += p_o * c'. Gers & Schmidhuber (2000), eq. 2-5."""
    learned = table.learned()
    seeing = tuple(k for k in learned if k != "g")
    early = tuple(k for k in learned if k != "o")
    cut = len(early) * hidden

    def init(key):
        return {"peephole_kernel": 0.1 * jax.random.normal(key, (len(seeing), hidden))}

    def opened(params, c, z, weights, remember):
        p = dict(zip(seeing, params["peephole_kernel"], strict=True))
        zero = jnp.zeros_like(c)
        seen = jnp.concatenate([p[k] * c if k in p else zero for k in early], axis=-1)
        before, after = (None, None) if weights is None else jnp.split(weights, [cut], axis=-1)
        gates = open_gates(table, "ifg", weigh(z[..., :cut] + seen, before))
        c = remember(gates["i"], gates["f"], gates["g"])
        late = z[..., cut:] + p["o"] * c if "o" in p else z[..., cut:]
        return gates | open_gates(table, "o", weigh(late, after)), c

    return Peepholes(init, _blind_recur, opened)


def full(table: GateTable, hidden: int, dtype: Any) -> Peepholes:
    """z_i += c P_i, z_f += c P_f, z_o += c P_o: matrices, all on the old c."""
    learned = table.learned()
    seeing = tuple(k for k in learned if k != "g")

    def init(key):
        draw = KERNELS["glorot"](key, (hidden, len(seeing) * hidden), len(seeing))
        return {"peephole_kernel": draw}

    def recur(params, c, r):
        return r + spread(dot(c, params["peephole_kernel"], dtype), seeing, learned)

    return Peepholes(init, recur, no_peepholes(table, hidden, dtype).opened)


PEEPHOLES: dict[str, Callable[[GateTable, int, Any], Peepholes]] = {
    "none": no_peepholes,
    "diagonal": diagonal,
    "learned": diagonal,
    "full": full,
}


# Layer normalisation ---------------------------------------------------------------------------


class Norm(NamedTuple):
    """Where normalisation acts; each function is (params, x) -> x."""

    init: Callable[[int, int, int], Params]  # widths of x W, h R and c
    kernel: Callable[[Params, Array], Array]
    recurrent: Callable[[Params, Array], Array]
    carried: Callable[[Params, Array], Array]  # c' before it is carried on
    branch: Callable[[Params, Array], Array]  # c' on its way to h


def _keep(params: Params, x: Array) -> Array:
    return x


def _standard(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def _norm_init(kernel: int, recurrent: int, cell: int) -> Params:
    return {
        "kernel_scale": jnp.ones((kernel,)),
        "recurrent_scale": jnp.ones((recurrent,)),
        "cell_scale": jnp.ones((cell,)),
        "cell_shift": jnp.zeros((cell,)),
    }


def _norm_kernel(params: Params, x: Array) -> Array:
    return params["kernel_scale"] * _standard(x)


def _norm_recurrent(params: Params, x: Array) -> Array:
    return params["recurrent_scale"] * _standard(x)


def _norm_cell(params: Params, c: Array) -> Array:
    return params["cell_scale"] * _standard(c) + params["cell_shift"]


LAYER_NORMS: dict[str, Norm] = {
    "none": Norm(lambda kernel, recurrent, cell: {}, _keep, _keep, _keep, _keep),
    "branch": Norm(_norm_init, _norm_kernel, _norm_recurrent, _keep, _norm_cell),
    "recirculated": Norm(_norm_init, _norm_kernel, _norm_recurrent, _norm_cell, _keep),
}


# Checks at construction ------------------------------------------------------------------------


def check_hidden(hidden: int, *inits: str) -> None:
    """Raises UsageError unless `hidden` is a whole number of units and every init a known one."""
    if not isinstance(hidden, int) or isinstance(hidden, bool) or hidden < 1:
        raise UsageError(f"hidden={hidden!r}: expected a whole number of units, at least 1")
    for init in inits:
        lookup("initializer", init, KERNELS)


def check_peepholes(peepholes: str, gates: Any, table: GateTable) -> None:
    """Raises UsageError for peepholes on a gate that is not there."""
    lookup("peepholes", peepholes, PEEPHOLES)
    gone = [k for k in "ifo" if not isinstance(getattr(table, k), Learned)]
    if peepholes in ("diagonal", "full") and gone:
        raise UsageError(
            f"peepholes={peepholes!r} with gates={gates!r}: the {NAMES[gone[0]]} is "
            f"{getattr(table, gone[0])} and has no pre-activation to see the cell with; choose "
            "peepholes='learned' (diagonal, on the gates that are left) or 'none'"
        )
    if peepholes == "learned" and len(gone) == 3:
        raise UsageError(f"peepholes='learned' with gates={gates!r}: no gate is left to see c")
    if peepholes == "learned":
        check_apart(table, "peepholes='learned'")


def check_apart(table: GateTable, what: str) -> None:
    """Raises UsageError for a coupling between o and the gates that open before it."""
    for k in "ifo":
        to = getattr(getattr(table, k), "to", "")
        if to and (k == "o") != (to == "o"):
            raise UsageError(
                f"{what} opens i, f and g before o, but the {NAMES[k]} is coupled to {to!r}; "
                "couple within i and f, or leave it out"
            )


def check_forget_bias(forget_bias: Any, gates: Any, table: GateTable) -> None:
    """Raises UsageError for a forget bias where no forget gate is learned."""
    check_bias(forget_bias)
    asked = isinstance(forget_bias, int | float) and forget_bias not in (0, 1)
    if callable(forget_bias):
        learned = table.learned()
        asked = not jax.eval_shape(lambda: forget_bias(jax.random.key(0), learned, 1))
    if asked and not isinstance(table.f, Learned):
        given = getattr(forget_bias, "__qualname__", forget_bias)
        how = "1 - i" if isinstance(table.f, Coupled) else "a constant"
        raise UsageError(
            f"forget_bias={given} with gates={gates!r}: the forget gate is {how} and owns no "
            "bias; leave forget_bias at 1, or choose gates with a learned forget gate ('lstm')"
        )


def check_bias(forget_bias: Any) -> None:
    """Raises UsageError for the name of an initialiser in its place."""
    if isinstance(forget_bias, str):
        raise UsageError(
            f"forget_bias={forget_bias!r}: expected a number or an initialiser, as in "
            f"forget_bias=initializers.BIASES[{forget_bias!r}]()"
        )


def check_clip(cell_clip: float) -> None:
    """Raises UsageError for a clip that holds nothing."""
    if not cell_clip >= 0:
        raise UsageError(f"cell_clip={cell_clip}: expected a bound above 0, or 0 for none")
