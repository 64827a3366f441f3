"""Cell -> Cell: what happens before or after the step. They compose by nesting.

Rates are probabilities, may be traced arrays, and ride in the projected steps; nothing random is
drawn inside the time loop. Without a key a transform is deterministic: masks are 1, zoneout is at
its expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lstm_jax.core import (
    Apart,
    Array,
    Cell,
    Params,
    Spec,
    UsageError,
    around,
    dot,
    lookup,
    off,
    parts_of,
)
from lstm_jax.gates import activate, columns
from lstm_jax.parts import bare, noted, weigh

MEMORY = ("c", "h")


def _named(cell: Cell, name: str, **kept: Any) -> Spec:
    """The spec of a transformed cell: no longer plain, no longer linear, unless `kept` says so."""
    if name in cell.spec.transforms:
        raise UsageError(f"{name} twice on {cell.spec.name!r}: apply it once")
    changed = {"plain": False, "linear": None, "transforms": (*cell.spec.transforms, name)}
    return cell.spec._replace(**(changed | kept))


def check_rate(name: str, rate: Any, closed: bool = False) -> None:
    """Raises UsageError for what is no probability, or is 1 unless `closed`; traced rates pass."""
    if isinstance(rate, Tracer):
        return
    known = isinstance(rate, (int, float, np.generic, np.ndarray, jax.Array))
    chance: Any = rate if known and jnp.ndim(rate) == 0 else -1
    if not (0 <= chance < 1 or (closed and chance == 1)):
        span = "[0, 1]" if closed else "[0, 1)"
        raise UsageError(f"{name}={rate!r}: a rate is a probability in {span}")


def widths(cell: Cell, params: Params) -> dict[str, int]:
    """Units of every entry of the carry, from shapes alone."""
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, ()), params)
    return {name: leaf.shape[-1] for name, leaf in carry._asdict().items()}


def has_recurrent_kernel(cell: Cell) -> bool:
    """Whether any parameter multiplies h, from shapes alone."""
    return "recurrent_kernel" in jax.eval_shape(lambda key: cell.init(key, 1), jax.random.key(0))


def bernoulli(keys: Array, tag: int, rate: Any, width: int) -> Array:
    """Bools [*keys.shape, width], True with probability `rate`; one stream a key and tag."""

    def draw(key):
        return jax.random.bernoulli(jax.random.fold_in(key, tag), rate, (width,))

    flat = jax.vmap(draw)(keys.reshape(-1))
    return flat.reshape(*keys.shape, width)


def dropout_mask(keys: Array, tag: int, rate: Any, width: int, dtype: Any) -> Array:
    """0 with probability `rate`, else 1 / (1 - rate)."""
    drop = bernoulli(keys, tag, rate, width)
    return jnp.where(drop, 0.0, 1.0 / (1.0 - rate)).astype(dtype)


class Held(NamedTuple):
    """A projected step and how much of the old c and h it keeps."""

    z: Any
    c: Array
    h: Array


def zoneout(cell: Cell, rate_c: Any = 0.0, rate_h: Any = 0.0) -> Cell:
    """Units keep their old value with probability `rate`.

        c' = d_c * c + (1 - d_c) * c'      h' = d_h * h + (1 - d_h) * h'      d ~ Bernoulli(rate)

    Without a key d is its expectation, the rate. Source: Krueger et al. (2017), eq. 6-7.
    """
    check_rate("zoneout rate_c", rate_c, closed=True)
    check_rate("zoneout rate_h", rate_h, closed=True)
    forgetful = off(rate_c)
    if cell.spec.carry not in (MEMORY, ("h",)) or (cell.spec.carry == ("h",) and not forgetful):
        raise UsageError(
            f"zoneout with rate_c={rate_c}, rate_h={rate_h} on {cell.spec.name!r}, whose carry is "
            f"{cell.spec.carry}: c needs a carry (c, h), h one of (c, h) or (h,); choose cell "
            "'lstm', or for 'gru' and 'rnn' rate_h alone"
        )

    def project(params, xs, keys=None):
        zs, size = cell.project(params, xs, keys), widths(cell, params)
        dtype = params["kernel"].dtype

        def hold(tag, rate, width):
            if keys is None:
                return jnp.full((xs.shape[0], 1, 1), rate, dtype)
            return bernoulli(keys, tag, rate, width).astype(dtype)

        return Held(zs, hold(1, rate_c, size.get("c", 1)), hold(2, rate_h, size["h"]))

    def held(inner):
        def advance(params, carry, step, x):
            new = inner(params, carry, step.z, x)[0]._asdict()
            kept = {k: _mix(getattr(step, k), getattr(carry, k), v) for k, v in new.items()}
            return type(carry)(**kept), kept["h"]

        return advance

    return around(cell, held)._replace(
        project=project,
        gates=lambda params, carry, step, r: cell.gates(params, carry, step.z, r),
        spec=_named(cell, "zoneout"),
    )


def _mix(d: Array, old: Array, new: Array) -> Array:
    return d * old + (1.0 - d) * new


def projection(cell: Cell, size: int) -> Cell:
    """LSTM with a recurrent projection: h is a linear image of the cell's output.

        h' = (o * tanh(c')) M      M = `projection_kernel` [H, P]

    Source: Sak, Senior & Beaufays (2014), LSTMP, eq. 8.
    """
    hidden = cell.spec.hidden
    if cell.spec.carry != MEMORY or cell.spec.transforms:
        raise UsageError(
            f"projection on {cell.spec.name!r} {cell.spec.transforms}: it replaces h, which only "
            "an LSTM's carry (c, h) keeps apart from the memory, and goes on before any other "
            "transform; choose cell 'lstm' and project first"
        )
    if not isinstance(size, (int, np.integer)) or not 1 <= size < hidden:
        raise UsageError(
            f"projection={size} with hidden={hidden}: expected a whole number, "
            "1 <= projection < hidden"
        )

    def init(key, in_features):
        k_cell, k_m = jax.random.split(key)
        params = cell.init(k_cell, in_features)
        # The first P rows of an orthogonal block are orthonormal still.
        rows = {"recurrent_kernel": params["recurrent_kernel"][:size]}
        made = jax.nn.initializers.lecun_normal()(k_m, (hidden, size))
        return params | rows | {"projection_kernel": made}

    def initial_carry(params, batch_shape):
        carry = cell.initial_carry(params, batch_shape)
        return carry._replace(h=carry.h[..., :size])

    def projected(inner):
        def advance(params, carry, step, x):
            new, y = inner(params, carry, step, x)
            h = dot(y, params["projection_kernel"], cell.spec.dtype)
            return new._replace(h=h), h

        return advance

    spec = _named(cell, "projection", pointwise=False)
    return around(cell, projected)._replace(init=init, initial_carry=initial_carry, spec=spec)


def variational_dropout(cell: Cell, input_rate: Any = 0.0, hidden_rate: Any = 0.0) -> Cell:
    """One dropout mask a sequence, the same at every step, on x and on the h that feeds R.

        z = (x * m_x) W + b      r = (h * m_h) R

    Source: Gal & Ghahramani (2016), eq. 7, tied weights.
    """
    check_rate("variational input_rate", input_rate)
    check_rate("variational hidden_rate", hidden_rate)
    if not cell.spec.pointwise and "projection" not in cell.spec.transforms:
        raise UsageError(
            f"variational_dropout on {cell.spec.name!r}: its second matmul sees h outside `recur`, "
            "where no mask reaches it; choose gru with reset='after', or zoneout"
        )
    if not off(hidden_rate) and not has_recurrent_kernel(cell):
        raise UsageError(
            f"variational hidden_rate={hidden_rate} on {cell.spec.name!r}: no gate sees h; "
            "leave it at 0 or choose zoneout"
        )

    def prepare(params, keys):
        params = cell.prepare(params, keys)
        if keys is None:
            return params
        dtype = params["kernel"].dtype
        masks = {
            "dropout_x": dropout_mask(
                keys.example, 3, input_rate, params["kernel"].shape[0], dtype
            ),
            "dropout_h": dropout_mask(
                keys.example, 4, hidden_rate, widths(cell, params)["h"], dtype
            ),
        }
        return params | masks

    def project(params, xs, keys=None):
        return cell.project(params, xs * params.get("dropout_x", 1.0), keys)

    def recur(params, carry):
        return cell.recur(params, carry._replace(h=carry.h * params.get("dropout_h", 1.0)))

    spec = _named(cell, "variational_dropout", linear=cell.spec.linear)
    return cell._replace(prepare=prepare, project=project, recur=recur, spec=spec)


def recurrent_dropout(cell: Cell, rate: Any) -> Cell:
    """Dropout on the candidate only, so that nothing already remembered is lost.

        c' = f * c + i * (m * g)      m one mask a step

    Source: Semeniuta, Severyn & Barth (2016), eq. 13.
    """
    check_rate("recurrent_dropout rate", rate)

    def project(params, xs, keys=None):
        step, dtype = cell.project(params, xs, keys), params["kernel"].dtype
        if keys is None:
            return annotate(step, keep=jnp.ones((xs.shape[0], 1, 1), dtype))
        return annotate(step, keep=dropout_mask(keys, 5, rate, cell.spec.hidden, dtype))

    return cell._replace(
        project=project, spec=_named(cell, "recurrent_dropout", linear=cell.spec.linear)
    )


def weight_drop(cell: Cell, rate: Any) -> Cell:
    """Dropout on the recurrent weights: one mask a batch, the same at every step.

        r = h (m * R)

    Source: Merity, Keskar & Socher (2018), section 2.
    """
    check_rate("weight_drop rate", rate)
    if not has_recurrent_kernel(cell):
        raise UsageError(
            f"weight_drop on {cell.spec.name!r}: it has no recurrent kernel to drop; choose a cell "
            "whose gates see h, or variational_dropout of the input"
        )

    def prepare(params, keys):
        params = cell.prepare(params, keys)
        if keys is None:
            return params
        kernel, key = params["recurrent_kernel"], jax.random.fold_in(keys.shared, 6)
        keep = jax.random.bernoulli(key, 1.0 - rate, kernel.shape)
        return params | {"recurrent_kernel": jnp.where(keep, kernel / (1.0 - rate), 0.0)}

    return cell._replace(prepare=prepare, spec=_named(cell, "weight_drop", plain=cell.spec.plain))


def gradient_weighting(cell: Cell, weights: Any) -> Cell:
    """The gradient through a gate's pre-activation times a constant; values untouched.

        dL/dz_k  <-  w_k * dL/dz_k

    `weights`: a number for every gate but the candidate, or {gate: number}; others keep 1.

    Source: ablation of the gates' learning rates.
    """
    learned, hidden = cell.spec.learned, cell.spec.hidden
    each = dict.fromkeys(_true_gates(cell), weights)
    chosen: dict[str, Any] = weights if isinstance(weights, dict) else each
    for name in chosen:
        lookup("gate", name, dict.fromkeys(learned))

    def project(params, xs, keys=None):
        step, dtype = cell.project(params, xs, keys), params["kernel"].dtype
        row = jnp.concatenate([jnp.full((hidden,), chosen.get(k, 1.0), dtype) for k in learned])
        return annotate(step, weights=jnp.broadcast_to(row, (xs.shape[0], 1, row.size)))

    return cell._replace(
        project=project, spec=_named(cell, "gradient_weighting", linear=cell.spec.linear)
    )


def activity_weighting(cell: Cell) -> Cell:
    """The gradient through a gate's pre-activation times gate output times gate input.

        dL/dz_k  <-  a_k * u_k * dL/dz_k      u_k = x W_k + h R_k + b_k,  a_k the opened gate

    The candidate keeps weight 1; values are untouched.

    Source: ablation of the gates' learning rates.
    """
    learned, gates = cell.spec.learned, _true_gates(cell)

    def advance(params, carry, step, r):
        opened = cell.gates(params, carry, step, r)
        us = dict(zip(learned, _pre_activations(cell, params, step, r), strict=False))
        weights = [opened[k] * u if k in gates else jnp.ones_like(u) for k, u in us.items()]
        noted = annotate(step, weights=jax.lax.stop_gradient(jnp.concatenate(weights, axis=-1)))
        return cell.advance(params, carry, noted, r)

    apart = parts_of(cell)
    if apart and _open_early(apart, learned, gates):
        apart = apart._replace(merge=_active(apart, learned, gates), advance=advance)
    spec = _named(cell, "activity_weighting")
    return cell._replace(advance=advance, spec=spec, apart=apart)


def _open_early(apart: Apart, learned: tuple[str, ...], gates: tuple[str, ...]) -> bool:
    """Whether the gates open where their pre-activations are still side by side."""
    names = dict(zip(learned, (n for group in apart.opens for n in group), strict=False))
    return all(names.get(k, "identity") != "identity" for k in gates)


def _active(apart: Apart, learned: tuple[str, ...], gates: tuple[str, ...]) -> Callable:
    """`merge` with the gradient through each gate's u times a * u."""
    weighted = iter([k in gates for k in learned])
    rows = [[next(weighted, False) for _ in group] for group in apart.opens]

    def times(u: Array, names: tuple[str, ...], chosen: list[bool]) -> Array:
        if not any(chosen):
            return u
        active = jnp.where(columns(chosen, u), activate(names, u) * u, 1.0)
        return weigh(u, jax.lax.stop_gradient(active))

    def merge(params, step, r):
        wides = apart.merge(params, step, r)
        return tuple(map(times, wides, apart.opens, rows))

    return merge


def _pre_activations(cell: Cell, params: Params, step: Any, r: Any) -> list[Array]:
    """u of every gate [B, H], gate by gate, before a late peephole."""
    wides = cell.apart.merge(params, step, r) if cell.apart else (bare(step),)
    hidden = cell.spec.hidden
    return [w[..., n : n + hidden] for w in wides for n in range(0, w.shape[-1], hidden)]


def _true_gates(cell: Cell) -> tuple[str, ...]:
    """The learned gates, the candidate left out."""
    gates = tuple(k for k in cell.spec.learned if k not in ("g", "n", "h"))
    if not gates or {"gradient_weighting", "activity_weighting"} & set(cell.spec.transforms):
        raise UsageError(
            f"gate-gradient weighting on {cell.spec.name!r} {cell.spec.transforms}: it needs "
            "learned gates, and goes on once; choose 'lstm' or 'gru', and one kind of weighting"
        )
    return gates


def annotate(step: Any, **notes: Any) -> Any:
    """The projected step with notes on its innermost part."""
    if isinstance(step, Held):
        return step._replace(z=annotate(step.z, **notes))
    return noted(step)._replace(**notes)


def learned_carry(cell: Cell) -> Cell:
    """The initial carry is learned: parameters `initial_c`, `initial_h`, ..., one a unit.

        c_0, h_0 = initial_c, initial_h

    Source: ablation of the zero start.
    """

    def init(key, in_features):
        params = cell.init(key, in_features)
        carry = cell.initial_carry(params, ())
        return params | {f"initial_{name}": leaf for name, leaf in carry._asdict().items()}

    def initial_carry(params, batch_shape):
        carry = cell.initial_carry(params, batch_shape)
        spread = {
            k: jnp.broadcast_to(params[f"initial_{k}"], v.shape) for k, v in carry._asdict().items()
        }
        return carry._replace(**spread)

    kept = {"plain": cell.spec.plain, "linear": cell.spec.linear}
    return cell._replace(
        init=init, initial_carry=initial_carry, spec=_named(cell, "learned_carry", **kept)
    )


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def clip_gradient(x: Array, limit: float) -> Array:
    """x, with its gradient held within [-limit, limit] element by element."""
    return x


def _clip_forward(x: Array, limit: float) -> tuple[Array, None]:
    return x, None


def _clip_backward(limit: float, _: None, dx: Array) -> tuple[Array]:
    return (jnp.clip(dx, -limit, limit),)


clip_gradient.defvjp(_clip_forward, _clip_backward)


def recurrent_gradient_clipping(cell: Cell, limit: float) -> Cell:
    """The gradient that flows back through the carry, clipped at every step.

        dL/dc, dL/dh  <-  clip(., -limit, limit)

    Source: Graves (2013), section 2.1 (there on the pre-activations).
    """
    if limit <= 0:
        raise UsageError(f"recurrent gradient limit={limit}: expected a bound above 0")

    def clipped(inner):
        def advance(params, carry, step, x):
            new, y = inner(params, carry, step, x)
            return jax.tree.map(lambda leaf: clip_gradient(leaf, limit), new), y

        return advance

    return around(cell, clipped)._replace(spec=_named(cell, "recurrent_gradient_clipping"))


TRANSFORMS: dict[str, Callable[..., Cell]] = {
    "projection": projection,
    "recurrent_dropout": recurrent_dropout,
    "variational_dropout": variational_dropout,
    "weight_drop": weight_drop,
    "gradient_weighting": gradient_weighting,
    "activity_weighting": activity_weighting,
    "zoneout": zoneout,
    "recurrent_gradient_clipping": recurrent_gradient_clipping,
    "learned_carry": learned_carry,
}
