"""Where parameters start: kernels, recurrent kernels, biases.

Kernel initialisers are `(key, shape, blocks) -> [rows, blocks * H]`; recurrent ones are drawn gate
by gate unless they say otherwise. Bias initialisers are `(key, learned, hidden) -> {gate: [H]}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.gates import Coupled, GateTable, Learned
from lstm_jax.core import Array, Hidden, Params
from lstm_jax.errors import UsageError
from lstm_jax.plugins import find

Kernel = Callable[[Array, tuple[int, int], int], Array]
Bias = Callable[[Array, Sequence[str], int], dict[str, Array]]


def _per_block(draw: Callable[[Array, tuple[int, int]], Array]) -> Kernel:
    """An initialiser that draws each gate's block on its own."""

    def init(key: Array, shape: tuple[int, int], blocks: int) -> Array:
        rows, columns = shape[0], shape[1] // max(blocks, 1)
        if not blocks:
            return jnp.zeros(shape)
        drawn = jax.vmap(lambda k: draw(k, (rows, columns)))(jax.random.split(key, blocks))
        return jnp.moveaxis(drawn, 0, 1).reshape(shape)

    return init


def _fused(draw: Callable[[Array, tuple[int, int]], Array]) -> Kernel:
    return lambda key, shape, blocks: draw(key, shape)


def _orthogonal(key: Array, shape: tuple[int, int]) -> Array:
    """Q of a Gaussian matrix, Haar distributed: Gram-Schmidt, every column projected twice.

    Not by LAPACK, whose QR of JAX 0.10 waits for ever where as many run at a time as there are
    threads: two layers on two cores.
    """
    if 0 in shape:
        return jnp.zeros(shape)
    gaussian = jax.random.normal(key, (max(shape), min(shape)))

    def column(k: Array, q: Array) -> Array:
        v = gaussian[:, k]
        for _ in range(2):
            v = v - q @ (q.T @ v)
        return q.at[:, k].set(v / jnp.linalg.norm(v))

    q = jax.lax.fori_loop(0, min(shape), column, jnp.zeros_like(gaussian))
    return q if shape[0] >= shape[1] else q.T


def _glorot(key: Array, shape: tuple[int, int]) -> Array:
    limit = (6.0 / (shape[0] + shape[1])) ** 0.5
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def _lecun(key: Array, shape: tuple[int, int]) -> Array:
    return jax.nn.initializers.lecun_normal()(key, shape)


def _identity(key: Array, shape: tuple[int, int]) -> Array:
    return jnp.eye(*shape)


def _uniform(key: Array, shape: tuple[int, int], blocks: int) -> Array:
    """U(-1/sqrt(H), 1/sqrt(H)), torch's default for every recurrent parameter."""
    limit = (max(blocks, 1) / max(shape[1], 1)) ** 0.5
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def _zeros(key: Array, shape: tuple[int, int], blocks: int) -> Array:
    return jnp.zeros(shape)


KERNELS: dict[str, Kernel] = {
    "glorot": _per_block(_glorot),  # each gate its own fan-in and fan-out
    "glorot_fused": _fused(_glorot),  # one [D, N*H] matrix, as keras draws it
    "lecun": _per_block(_lecun),
    "per_gate": _per_block(_orthogonal),  # every block orthogonal: all singular values 1
    "fused": _fused(_orthogonal),  # one orthogonal [H, N*H]: each block at about half that gain
    "identity": _per_block(_identity),  # Le, Jaitly & Hinton (2015)
    "uniform": _uniform,
    "zeros": _zeros,
}


A_KERNEL = "a function (key, shape, blocks) -> [rows, blocks * H]"
A_BIAS = "a function (key, learned, hidden) -> {gate: [H]}"


def constant(value: Any = 1.0) -> Bias:
    """b_f = value. Gers, Schmidhuber & Cummins (2000); Jozefowicz et al. (2015) for 1."""
    return partial(_constant, value)


def _constant(value: Any, key: Array, learned: Sequence[str], hidden: int) -> dict[str, Array]:
    return {"f": jnp.full((hidden,), value, jnp.result_type(float))} if "f" in learned else {}


def chrono(t_max: float) -> Bias:
    """b_f = log u, u ~ U(1, t_max - 1), b_i = -b_f. Tallec & Ollivier (2018), eq. 16."""
    if t_max < 2:
        raise UsageError(
            f"chrono t_max={t_max}: log U(1, t_max - 1) needs t_max >= 2; "
            "choose the longest dependency in steps, or a constant forget_bias"
        )
    return partial(_chrono, t_max)


def _chrono(t_max: float, key: Array, learned: Sequence[str], hidden: int) -> dict[str, Array]:
    forget = jnp.log(jax.random.uniform(key, (hidden,), minval=1.0, maxval=t_max - 1.0))
    return {k: v for k, v in {"i": -forget, "f": forget}.items() if k in learned}


def linspace(low: float = 3.0, high: float = 6.0) -> Bias:
    """b_f evenly from `low` to `high` over the units. Beck et al. (2024), code."""
    return power_law(low, high, exponent=1.0)


def power_law(low: float = -1.0, high: float = 6.0, exponent: float = 0.3) -> Bias:
    """b_f,k = low + (high - low) (k / (H - 1))^exponent. Beck et al. (2024), code."""
    return partial(_power_law, low, high, exponent)


def _power_law(
    low: float, high: float, exponent: float, key: Array, learned: Sequence[str], hidden: int
) -> dict[str, Array]:
    ramp = jnp.linspace(0.0, 1.0, hidden) ** exponent
    return {"f": low + (high - low) * ramp} if "f" in learned else {}


BIASES: dict[str, Callable[..., Bias]] = {
    "constant": constant,
    "chrono": chrono,
    "linspace": linspace,
    "power_law": power_law,
}


def kernels(
    key: Array, inputs: tuple[int, Sequence[str], str], recurrent: tuple[int, Sequence[str], str]
) -> Params:
    """`kernel` [D, N*H] and `recurrent_kernel` [H, M*H], each from (H or D, gates, initialiser)."""
    hidden = recurrent[0]
    made = {}
    for name, k, (rows, gates, init) in zip(
        ("kernel", "recurrent_kernel"), jax.random.split(key), (inputs, recurrent), strict=True
    ):
        draw = find("initializer", init, KERNELS, A_KERNEL)
        made[name] = draw(k, (rows, len(gates) * hidden), len(gates))
    return made


def bias(forget_bias: Any, key: Array, learned: Sequence[str], hidden: int) -> Array:
    """`[N*H]`, zero but for what the forget bias (a number or an initialiser) says."""
    init: Any = forget_bias if callable(forget_bias) else constant(forget_bias)
    given = init(key, learned, hidden)
    return jnp.concatenate([given.get(gate, jnp.zeros((hidden,))) for gate in learned])


def hidden_carry(hidden: int) -> Callable:
    """`initial_carry` of a cell that carries h alone: zeros."""

    def initial_carry(params, batch_shape):
        return Hidden(jnp.zeros((*batch_shape, hidden), params["kernel"].dtype))

    return initial_carry


# Checks at construction ------------------------------------------------------------------------


def check_hidden(hidden: int, *inits: str) -> None:
    """Raises UsageError unless `hidden` is a whole number of units and every init a known one."""
    if not isinstance(hidden, (int, np.integer)) or isinstance(hidden, bool) or hidden < 1:
        raise UsageError(f"hidden={hidden!r}: expected a whole number of units, at least 1")
    for option, init in zip(("kernel_init", "recurrent_init"), inits, strict=False):
        find(option, init, KERNELS, A_KERNEL)


def check_forget_bias(forget_bias: Any, gates: Any, table: GateTable) -> None:
    """Raises UsageError for a forget bias where no forget gate is learned."""
    check_bias(forget_bias)
    asked = isinstance(forget_bias, int | float) and forget_bias not in (0, 1)
    if callable(forget_bias):
        learned = table.learned()
        asked = not jax.eval_shape(lambda: forget_bias(jax.random.key(0), learned, 1))
    if asked and not isinstance(table.f, Learned):
        given = getattr(getattr(forget_bias, "func", forget_bias), "__qualname__", forget_bias)
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
