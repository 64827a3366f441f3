"""What the cells share: kernels, peepholes, layer normalisation, notes that transforms attach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.core import Apart, Array, Hidden, Params, UsageError, dot, lookup
from lstm_jax.gates import NAMES, Coupled, GateTable, Learned, open_blocks
from lstm_jax.initializers import KERNELS, bias_vector, constant


class Annotated(NamedTuple):
    """A projected step with what a transform notes on it; None where nothing is noted."""

    z: Any
    keep: Any = None  # multiplies the candidate: recurrent dropout
    weights: Any = None  # multiply the gradient through the pre-activations [N*H]


def noted(step: Any) -> Annotated:
    """The projected step with room for notes, out of whatever transforms wrapped it in."""
    while hasattr(step, "z") and not isinstance(step, Annotated):
        step = step.z
    return step if isinstance(step, Annotated) else Annotated(step)


def bare(step: Any) -> Any:
    """The projected step's pre-activations."""
    return noted(step).z


def refill(step: Any, z: Any) -> Any:
    """The projected step with other pre-activations; notes and wrapping stay."""
    return step._replace(z=refill(step.z, z)) if hasattr(step, "z") else z


def notes_of(step: Any) -> tuple[Any, Any, Any]:
    """z, candidate mask (1 if none) and gradient weights (None if none) of a projected step."""
    z, keep, weights = noted(step)
    return z, 1.0 if keep is None else keep, weights


def weigh(z: Array, weights: Any) -> Array:
    """z with its gradient multiplied by `weights`, None for 1."""
    return z if weights is None else _weigh(z, weights)


@jax.custom_jvp
def _weigh(z: Array, weights: Array) -> Array:
    return z


@_weigh.defjvp
def _weigh_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (z, weights), (dz, _) = primals, tangents
    return z, weights * dz


def held(c: Array) -> Array:
    """c, bit for bit, as a value that the compiler computes once: not again for every reader."""
    kind = jnp.finfo(c.dtype)
    return jax.lax.reduce_precision(c, kind.nexp, kind.nmant)


def from_parts(merge, opens, close, gates, own: tuple[str, ...] = ()) -> tuple:
    """(advance, gates, apart) of a cell from its parts; `gates` takes the blocks, as `close` does.

    See `core.Apart`.
    """

    def blocks(params, step, r):
        return open_blocks(opens, merge(params, step, r))

    def advance(params, carry, step, r):
        return close(params, carry, step, blocks(params, step, r))

    def opened(params, carry, step, r):
        return gates(params, carry, step, blocks(params, step, r))

    return advance, opened, Apart(merge, opens, close, gates, advance, own)


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


class Recurrent(NamedTuple):
    """The carry's part of an LSTM's step: h R of the gates that see h, and what they see of c."""

    h: Array
    c: Array | None = None


class Peepholes(NamedTuple):
    """How the gates see the cell."""

    init: Callable[[Array], Params]
    wide: Callable[..., Array | None]  # (params, c) -> [B, N*H] of the old c, None for nothing
    rows: Callable[..., dict[str, Array]]  # params -> a weight [H] of every gate that sees its c
    late: tuple[str, ...] = ()  # the gates that `rows` has


def no_peepholes(table: GateTable, hidden: int, dtype: Any) -> Peepholes:
    """All gates open at once; none sees c."""
    return Peepholes(lambda key: {}, lambda params, c: None, lambda params: {})


def diagonal(table: GateTable, hidden: int, dtype: Any) -> Peepholes:
    """z_i += p_i * c, z_f += p_f * c, z_o += p_o * c'. Gers & Schmidhuber (2000), eq. 2-5."""
    seeing = tuple(k for k in table.learned() if k != "g")

    def init(key):
        return {"peephole_kernel": 0.1 * jax.random.normal(key, (len(seeing), hidden))}

    def rows(params):
        return dict(zip(seeing, params["peephole_kernel"], strict=True))

    return Peepholes(init, lambda params, c: None, rows, seeing)


def full(table: GateTable, hidden: int, dtype: Any) -> Peepholes:
    """z_i += c P_i, z_f += c P_f, z_o += c P_o: matrices, all on the old c."""
    learned = table.learned()
    seeing = tuple(k for k in learned if k != "g")

    def init(key):
        draw = KERNELS["glorot"](key, (hidden, len(seeing) * hidden), len(seeing))
        return {"peephole_kernel": draw}

    def wide(params, c):
        return spread(dot(c, params["peephole_kernel"], dtype), seeing, learned)

    return Peepholes(init, wide, lambda params: {})


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
    own: tuple[str, ...] = ()  # the parameters that `recurrent` reads


def _keep(params: Params, x: Array) -> Array:
    return x


@jax.custom_jvp
def _standard(x: Array) -> Array:
    """x of mean 0 and variance 1 along the last axis."""
    return _standardise(x)[0]


def _standardise(x: Array) -> tuple[Array, Array]:
    centred = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred * scale, scale


@_standard.defjvp
def _standard_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """dy = scale * (dx - mean(dx) - y * mean(y * dx)): two sums on the way back, too."""
    (y, scale), (dx,) = _standardise(*primals), tangents
    return y, scale * (dx - dx.mean(-1, keepdims=True) - y * (y * dx).mean(-1, keepdims=True))


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
    "branch": Norm(
        _norm_init, _norm_kernel, _norm_recurrent, _keep, _norm_cell, ("recurrent_scale",)
    ),
    "recirculated": Norm(
        _norm_init, _norm_kernel, _norm_recurrent, _norm_cell, _keep, ("recurrent_scale",)
    ),
}


# Checks at construction ------------------------------------------------------------------------


def check_hidden(hidden: int, *inits: str) -> None:
    """Raises UsageError unless `hidden` is a whole number of units and every init a known one."""
    if not isinstance(hidden, (int, np.integer)) or isinstance(hidden, bool) or hidden < 1:
        raise UsageError(f"hidden={hidden!r}: expected a whole number of units, at least 1")
    for option, init in zip(("kernel_init", "recurrent_init"), inits, strict=False):
        lookup(option, init, KERNELS)


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
