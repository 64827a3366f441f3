"""Cell -> Cell: what happens before or after the step. They compose by nesting.

Rates are probabilities, may be traced arrays, and ride in the projected steps; nothing random is
drawn inside the time loop. Without a key a transform is deterministic: masks are 1, zoneout is at
its expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lstm_jax.cells.activations import activate, columns
from lstm_jax.cells.gates import CANDIDATES, Gates, opening, wides
from lstm_jax.core import Array, Cell, Info, Params, constructor, note
from lstm_jax.errors import UsageError, lookup
from lstm_jax.ops import dot, off, weigh

MEMORY = ("c", "h")


def _named(cell: Cell, name: str, **kept: Any) -> Info:
    """The info of a transformed cell: no longer plain, no longer linear, unless `kept` says so."""
    if name in cell.info.transforms:
        raise UsageError(f"{name} twice on {cell.info.name!r}: apply it once")
    changed = {"plain": False, "linear": None, "transforms": (*cell.info.transforms, name)}
    return cell.info._replace(**(changed | kept))


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


@constructor
def zoneout(cell: Cell, rate_c: Any = 0.0, rate_h: Any = 0.0) -> Cell:
    """Units keep their old value with probability `rate`.

        c' = d_c * c + (1 - d_c) * c'      h' = d_h * h + (1 - d_h) * h'      d ~ Bernoulli(rate)

    Without a key d is its expectation, the rate. Source: Krueger et al. (2017), eq. 6-7.
    """
    check_rate("zoneout rate_c", rate_c, closed=True)
    check_rate("zoneout rate_h", rate_h, closed=True)
    forgetful = off(rate_c)
    if cell.info.carry not in (MEMORY, ("h",)) or (cell.info.carry == ("h",) and not forgetful):
        raise UsageError(
            f"zoneout with rate_c={rate_c}, rate_h={rate_h} on {cell.info.name!r}, whose carry is "
            f"{cell.info.carry}: c needs a carry (c, h), h one of (c, h) or (h,); choose cell "
            "'lstm', or for 'gru' and 'rnn' rate_h alone"
        )

    def project(params, xs, keys=None):
        size, dtype = widths(cell, params), params["kernel"].dtype

        def hold(tag, rate, width):
            if keys is None:
                return jnp.full((xs.shape[0], 1, 1), rate, dtype)
            return bernoulli(keys, tag, rate, width).astype(dtype)

        zone = {"c": hold(1, rate_c, size.get("c", 1)), "h": hold(2, rate_h, size["h"])}
        return note(cell.project(params, xs, keys), zone=zone)

    inner = cell.update  # not the cell: `deferred` says why

    def update(params, carry, gate):
        new, zone = inner(params, carry, gate)[0]._asdict(), gate.notes["zone"]
        kept = {k: _mix(zone[k], getattr(carry, k), v) for k, v in new.items()}
        return type(carry)(**kept), kept["h"]

    return cell._replace(project=project, update=update, info=_named(cell, "zoneout"))


def _mix(d: Array, old: Array, new: Array) -> Array:
    return d * old + (1.0 - d) * new


@constructor
def projection(cell: Cell, size: int) -> Cell:
    """LSTM with a recurrent projection: h is a linear image of the cell's output.

        h' = (o * tanh(c')) M      M = `projection_kernel` [H, P]

    Source: Sak, Senior & Beaufays (2014), LSTMP, eq. 8.
    """
    hidden = cell.info.hidden
    if cell.info.carry != MEMORY or cell.info.transforms:
        raise UsageError(
            f"projection on {cell.info.name!r} {cell.info.transforms}: it replaces h, which only "
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

    inner, dtype = cell.update, cell.info.dtype

    def update(params, carry, gate):
        new, y = inner(params, carry, gate)
        h = dot(y, params["projection_kernel"], dtype)
        return new._replace(h=h), h

    info = _named(cell, "projection", pointwise=False)
    return cell._replace(init=init, initial_carry=initial_carry, update=update, info=info)


@constructor
def variational_dropout(cell: Cell, input_rate: Any = 0.0, hidden_rate: Any = 0.0) -> Cell:
    """One dropout mask a sequence, the same at every step, on x and on the h that feeds R.

        z = (x * m_x) W + b      r = (h * m_h) R

    Source: Gal & Ghahramani (2016), eq. 7, tied weights.
    """
    check_rate("variational input_rate", input_rate)
    check_rate("variational hidden_rate", hidden_rate)
    if not cell.info.pointwise and "projection" not in cell.info.transforms:
        raise UsageError(
            f"variational_dropout on {cell.info.name!r}: its second matmul sees h outside `recur`, "
            "where no mask reaches it; choose gru with reset='after', or zoneout"
        )
    if not off(hidden_rate) and not has_recurrent_kernel(cell):
        raise UsageError(
            f"variational hidden_rate={hidden_rate} on {cell.info.name!r}: no gate sees h; "
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

    of_h = cell.recur

    def recur(params, carry):
        return of_h(params, carry._replace(h=carry.h * params.get("dropout_h", 1.0)))

    info = _named(cell, "variational_dropout", linear=cell.info.linear)
    return cell._replace(prepare=prepare, project=project, recur=recur, info=info)


@constructor
def recurrent_dropout(cell: Cell, rate: Any) -> Cell:
    """Dropout on the candidate only, so that nothing already remembered is lost.

        c' = f * c + i * (m * g)      m one mask a step

    Source: Semeniuta, Severyn & Barth (2016), eq. 13.
    """
    check_rate("recurrent_dropout rate", rate)
    (candidate,) = {*CANDIDATES} & {*cell.info.learned} or {"g"}

    def project(params, xs, keys=None):
        zs, dtype = cell.project(params, xs, keys), params["kernel"].dtype
        if keys is None:
            return note(zs, keep=jnp.ones((xs.shape[0], 1, 1), dtype))
        return note(zs, keep=dropout_mask(keys, 5, rate, cell.info.hidden, dtype))

    def scaled(gate):
        return gate._replace(scales={candidate: gate.notes["keep"]})

    return _around_gate(cell, "recurrent_dropout", scaled, project=project)


@constructor
def weight_drop(cell: Cell, rate: Any) -> Cell:
    """Dropout on the recurrent weights: one mask a batch, the same at every step.

        r = h (m * R)

    Source: Merity, Keskar & Socher (2018), section 2.
    """
    check_rate("weight_drop rate", rate)
    if not has_recurrent_kernel(cell):
        raise UsageError(
            f"weight_drop on {cell.info.name!r}: it has no recurrent kernel to drop; choose a cell "
            "whose gates see h, or variational_dropout of the input"
        )

    def prepare(params, keys):
        params = cell.prepare(params, keys)
        if keys is None:
            return params
        kernel, key = params["recurrent_kernel"], jax.random.fold_in(keys.shared, 6)
        keep = jax.random.bernoulli(key, 1.0 - rate, kernel.shape)
        return params | {"recurrent_kernel": jnp.where(keep, kernel / (1.0 - rate), 0.0)}

    return cell._replace(prepare=prepare, info=_named(cell, "weight_drop", plain=cell.info.plain))


@constructor
def gradient_weighting(cell: Cell, weights: Any) -> Cell:
    """The gradient through a gate's pre-activation times a constant; values untouched.

        dL/dz_k  <-  w_k * dL/dz_k

    `weights`: a number for every gate but the candidate, or {gate: number}; others keep 1.

    Source: ablation of the gates' learning rates.
    """
    each = dict.fromkeys(_true_gates(cell), weights)
    chosen: dict[str, Any] = weights if isinstance(weights, dict) else each
    for name in chosen:
        lookup("gate", name, dict.fromkeys(cell.info.learned))

    def project(params, xs, keys=None):
        shape, dtype = (xs.shape[0], 1, 1), params["kernel"].dtype
        rows = {name: jnp.full(shape, weight, dtype) for name, weight in chosen.items()}
        return note(cell.project(params, xs, keys), weights=rows)

    return _around_gate(
        cell,
        "gradient_weighting",
        lambda gate: gate.weighed(gate.notes["weights"]),
        project=project,
    )


@constructor
def activity_weighting(cell: Cell) -> Cell:
    """The gradient through a gate's pre-activation times gate output times gate input.

        dL/dz_k  <-  a_k * u_k * dL/dz_k      u_k = x W_k + h R_k + b_k,  a_k the opened gate

    The candidate keeps weight 1; values are untouched.

    Source: ablation of the gates' learning rates.
    """
    gates, opens = _true_gates(cell), opening(cell.info)
    names = [name for group in cell.info.blocks for name in group]
    opened = dict(zip(names, (name for group in opens for name in group), strict=True))
    late = tuple(k for k in gates if opened[k] == "identity")
    early = [[k in gates and k not in late for k in group] for group in cell.info.blocks]

    def active(u: Array, names: tuple[str, ...], chosen: list[bool]) -> Array:
        if not any(chosen):
            return u
        weight = jnp.where(columns(chosen, u), activate(names, u) * u, 1.0)
        return weigh(u, jax.lax.stop_gradient(weight))

    join = cell.merge

    def merge(params, z, r):
        return tuple(map(active, wides(join(params, z, r)), opens, early))

    return _around_gate(
        cell, "activity_weighting", lambda gate: gate._replace(active=late), merge=merge
    )


def _around_gate(cell: Cell, name: str, wrap: Callable[[Gates], Gates], **changed: Any) -> Cell:
    """The cell with `wrap` around the gates of every step, in one step or in all at once."""

    inner, linear = cell.update, cell.info.linear

    def update(params, carry, gate):
        return inner(params, carry, wrap(gate))

    info = _named(cell, name, linear=linear and (lambda gate: linear(wrap(gate))))
    return cell._replace(update=update, info=info, **changed)


def _true_gates(cell: Cell) -> tuple[str, ...]:
    """The learned gates, the candidate left out."""
    gates = tuple(k for k in cell.info.learned if k not in CANDIDATES)
    if not gates or {"gradient_weighting", "activity_weighting"} & set(cell.info.transforms):
        raise UsageError(
            f"gate-gradient weighting on {cell.info.name!r} {cell.info.transforms}: it needs "
            "learned gates, and goes on once; choose 'lstm' or 'gru', and one kind of weighting"
        )
    return gates


@constructor
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

    kept = {"plain": cell.info.plain, "linear": cell.info.linear}
    return cell._replace(
        init=init, initial_carry=initial_carry, info=_named(cell, "learned_carry", **kept)
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


@constructor
def recurrent_gradient_clipping(cell: Cell, limit: float) -> Cell:
    """The gradient that flows back through the carry, clipped at every step.

        dL/dc, dL/dh  <-  clip(., -limit, limit)

    Source: Graves (2013), section 2.1 (there on the pre-activations).
    """
    if limit <= 0:
        raise UsageError(f"recurrent gradient limit={limit}: expected a bound above 0")

    inner = cell.update

    def update(params, carry, gate):
        new, y = inner(params, carry, gate)
        return jax.tree.map(lambda leaf: clip_gradient(leaf, limit), new), y

    return cell._replace(update=update, info=_named(cell, "recurrent_gradient_clipping"))


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
