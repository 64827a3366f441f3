"""Why a recurrence learns or does not: gradients through time, gates, memory, stability.

Pure functions of a cell (`flow`, `lyapunov`, `step_jacobians`) and of a whole model (`observer`).
Arrays by name, `layer_0/flow/c` [distance]; `summarise` has the scalars, docs/reports.md the words.

    flow              |dL/dc_t|, |dL/dh_t| and of all the carry, against the distance from the last
                      step of the loss, by their value one step back; through the carry alone
    memory_length     sum of the carry's flow; 1 / (1 - f) where the forget gate stands at f
    mean, shut, open  of every gate over time; shut below 0.1, open above 0.9
    timescale         1 / (1 - f) of every unit, f its mean forget gate
    growth            mean and largest |c_t| over time
    lyapunov          mean growth rate of a small difference in the carry, nats per step
    singular_values   of d carry_{t+1} / d carry_t
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from lstm_jax.cells.gates import step as cell_step
from lstm_jax.config.fields import bind, replaced
from lstm_jax.core import Array, Cell, note, noted
from lstm_jax.diagnostics.figures import draw
from lstm_jax.engines.unroll import trace, unroll
from lstm_jax.model.cell import build_cell
from lstm_jax.model.layers import Valid
from lstm_jax.model.model import build_model

FLOORS = (1e-3, 1e-6)  # distances at which the gradient falls under these are told
EXPLODES = 1e3  # times its value at distance 0
SHUT, OPEN = 0.1, 0.9
FORGET = ("f", "z")  # what keeps the memory: an LSTM's f, a GRU's z
CANDIDATES = ("g", "n", "h")
EXAMPLES, TIMES = 8, 4  # sequences for the Lyapunov exponent, steps for the Jacobian


# ---------------------------------------------------------------- gradients through time


def probed(cell: Cell, steps: int, batch: int, seen: list | None = None) -> Cell:
    """The cell with parameters `probes` {name: [T, B, H]} added to its carry after each step.

    dL/dprobe_t is dL/dcarry_t, through all later steps. `seen` collects the inputs [T, B, D].
    """

    def init(key, in_features):
        params = cell.init(key, in_features)
        return params | {"probes": probes(cell, params, steps, batch)}

    def project(params, xs, keys=None):
        if seen is not None:
            seen.append(xs)
        return note(cell.project(params, xs, keys), probe=params["probes"])

    inner = cell.update

    def update(params, carry, gate):
        new, y = inner(params, carry, gate)
        probe = gate.notes["probe"]
        added = {name: value + probe[name] for name, value in new._asdict().items()}
        return new._replace(**added), y + probe["h"]

    return cell._replace(init=init, project=project, update=update)


def probes(cell: Cell, params: Any, steps: int, batch: int) -> dict[str, Array]:
    """Zeros [T, B, ...] for every entry of the carry."""
    carry = jax.eval_shape(lambda p: cell.initial_carry(p, (batch,)), params)
    return {name: jnp.zeros((steps, *v.shape), v.dtype) for name, v in carry._asdict().items()}


def flow(cell: Cell, params: Any, xs: Array, cotangent: Array) -> dict[str, Array]:
    """Norms of dL/dcarry_t, {name: [T, B]}, for L = <cotangent [B, H], h_T>; xs [T, B, D]."""
    steps, batch = xs.shape[:2]

    def loss(zeros):
        _, ys = unroll(probed(cell, steps, batch), params | {"probes": zeros}, xs, engine="scan")
        return jnp.sum(cotangent * ys[-1])

    return norms(jax.grad(loss)(probes(cell, params, steps, batch)))


def norms(gradients: dict[str, Array]) -> dict[str, Array]:
    """Of each entry, and of all together: `carry`."""
    squares = {name: jnp.sum(g**2, axis=-1) for name, g in gradients.items()}
    return {n: jnp.sqrt(s) for n, s in (squares | {"carry": sum(squares.values())}).items()}


def by_distance(norm: np.ndarray, last: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """[T, B] over time -> [distance, B] from each example's last step; NaN beyond its reach."""
    distance = np.arange(len(norm))[:, None]
    at = last[None, :] - distance
    rows, columns = np.maximum(at, 0), np.arange(norm.shape[1])[None, :]
    return np.where((at >= 0) & reach[rows, columns], norm[rows, columns], np.nan)


# ---------------------------------------------------------------- stability


def stepper(cell: Cell, params: Any) -> Callable:
    """(carry, z) -> carry: one step of the cell on a projected input."""

    def step(carry: Any, z: Any) -> Any:
        return cell_step(cell, params, carry, *noted(z))[0]

    return step


def lyapunov(cell: Cell, params: Any, xs: Array, valid: Array, skip: int = 0) -> Array:
    """[B] largest Lyapunov exponent along xs [T, B, D], nats per step that counts after `skip`.

        lambda = 1/T sum_t log |J_t v_t|,  v_{t+1} = J_t v_t / |J_t v_t|

    Source: Vogt et al. (2022), On Lyapunov exponents for RNNs; Benettin et al. (1980).
    """
    step, zs = stepper(cell, params), cell.project(params, xs)
    carry = cell.initial_carry(params, (xs.shape[1],))
    leaves, tree = jax.tree.flatten(carry)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    draws = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]

    def size(tangent):
        return jnp.sqrt(sum(jnp.sum(x**2, axis=-1) for x in jax.tree.leaves(tangent)))

    def body(state, inputs):
        carry, tangent = state
        z, counts = inputs
        new, pushed = jax.jvp(lambda c: step(c, z), (carry,), (tangent,))
        norm = jnp.maximum(size(pushed), 1e-30)
        pushed = jax.tree.map(lambda x: x / norm[:, None], pushed)
        keep = partial(jax.tree.map, lambda a, b: jnp.where(counts[:, None], a, b))
        return (keep(new, carry), keep(pushed, tangent)), jnp.log(norm)

    _, growth = lax.scan(body, (carry, jax.tree.unflatten(tree, draws)), (zs, valid))
    counted = valid & (jnp.arange(len(xs))[:, None] >= skip)
    total = jnp.sum(jnp.where(counted, growth, 0), axis=0)
    return total / jnp.maximum(jnp.sum(counted, axis=0), 1)


def step_jacobians(cell: Cell, params: Any, carries: Any, xs: Array) -> Array:
    """[S, n, n] d carry_{t+1} / d carry_t at S carries [S, ...] and inputs xs [S, D]."""
    step, zs = stepper(cell, params), cell.project(params, xs[None])
    # What all examples share, such as a rate, has one row.
    zs = jax.tree.map(lambda z: jnp.broadcast_to(z[0], (len(xs), *z.shape[2:])), zs)

    def one(carry, z):
        flat, restore = ravel_pytree(carry)

        def advance(flat):
            row = jax.tree.map(lambda x: x[None], (restore(flat), z))
            return ravel_pytree(step(*row))[0]

        return jax.jacfwd(advance)(flat)

    return jax.vmap(one)(carries, zs)


# ---------------------------------------------------------------- a model


def observer(program: Any) -> Callable:
    """`look(params, hyper, data) -> {name: array}`: all diagnoses of a model's forward layers.

    On the first validation batch, without dropout. Compiled once.
    """
    seen_by_device = jax.jit(partial(_observe, program))

    def look(params: Any, hyper: dict, data: Any) -> dict[str, np.ndarray]:
        found = jax.device_get(seen_by_device(params, hyper, data))
        arrays: dict[str, np.ndarray] = {}
        for layer, raw in enumerate(found["layers"]):
            told = _told(raw, found["last"], found["reach"])
            arrays |= {f"layer_{layer}/{name}": value for name, value in told.items()}
        return arrays

    return look


def _observe(program: Any, params: Any, hyper: dict, data: Any) -> dict[str, Any]:
    config, task = _scanning(program.config), program.task
    batch = task.splits["valid"].batch(data, jnp.int32(0))
    steps, size = batch["inputs"].shape[:2]
    steps -= task.spec.decoding.steps if task.spec.decoding else 0
    cell = build_cell(bind(config, hyper).cell)
    names = [f"layer_{i}" for i in range(config.model.layers)]
    inputs: list = []
    model = build_model(config, task.spec, partial(probed, steps=steps, batch=size, seen=inputs))
    valid = Valid(*(batch.get(name) for name in Valid._fields))
    counts = valid.steps(steps, size)

    def last_loss(zeros):
        inputs.clear()
        outputs, _ = model.apply(_with_probes(params, zeros), hyper, batch)
        slope = lax.stop_gradient(jax.grad(lambda o: task.loss(o, batch)[0])(outputs))
        look = _all_from_the_last if task.spec.decoding else _last_only
        kept, last, felt = look(slope, counts)
        return jnp.sum(jnp.where(kept != 0, kept * outputs, 0)), (list(inputs), last, felt)

    zeros = {
        name: {way: probes(cell, own, steps, size) for way, own in params[name].items()}
        for name in names
    }
    slopes, (xs, last, felt) = jax.grad(last_loss, has_aux=True)(zeros)
    counts &= felt[None, :]  # a batch is filled up with examples of no weight
    ways = len(params[names[0]])
    layers = [
        {"norms": norms(slopes[name]["forward"])}
        | _layer(cell, params[name]["forward"], xs[ways * i], valid, counts)
        for i, name in enumerate(names)
    ]
    return {"layers": layers, "last": last, "reach": _reach(valid, counts, last)}


def write(arrays: dict[str, np.ndarray], writer: Any, step: int, figures: bool = True) -> Path:
    """Arrays on disk; scalars, histograms and a figure a layer through the run's writer."""
    writer.scalars(step, "diagnostics", summarise(arrays))
    spread = {n: v for n, v in arrays.items() if n.endswith(("timescale", "singular_values"))}
    writer.histograms(step, "diagnostics", spread)
    for name, figure in draw(arrays).items() if figures else ():
        writer.figure(step, f"diagnostics_{name}", figure)
    return save(arrays, writer.workdir, step)


def _scanning(config: Any) -> Any:
    return replaced(config, {"model.engine": "scan", "parallel.remat": 0})


def _with_probes(params: Any, zeros: Any) -> Any:
    own = {
        name: {way: params[name][way] | {"probes": z} for way, z in ways.items()}
        for name, ways in zeros.items()
    }
    return {**params, **own}


def _last_only(slope: Array, counts: Array) -> tuple[Array, Array, Array]:
    """(dL/doutputs at each example's last step alone, that step [B], whether there is one [B])."""
    steps = len(counts)
    if slope.ndim == 2:  # one vector is read out
        return slope, steps - 1 - jnp.argmax(counts[::-1], axis=0), jnp.any(slope != 0, axis=-1)
    felt = jnp.any(slope != 0, axis=tuple(range(2, slope.ndim)))
    last = steps - 1 - jnp.argmax(felt[::-1], axis=0)
    here = jnp.arange(steps)[:, None] == last[None, :]
    here = here.reshape(*here.shape, *[1] * (slope.ndim - 2))
    return jnp.where(here, slope, 0), last, jnp.any(felt, axis=0)


def _all_from_the_last(slope: Array, counts: Array) -> tuple[Array, Array, Array]:
    """`_last_only` of a decoder: the whole loss comes back through the encoder's last carry."""
    felt = jnp.any(slope != 0, axis=(0, 2))
    return slope, jnp.full(felt.shape, len(counts) - 1), felt


def _reach(valid: Valid, counts: Array, last: Array) -> Array:
    """[T, B]: steps whose carry the last step can feel: no reset in between."""
    time = jnp.arange(len(counts))[:, None]
    before = time <= last[None, :]
    start = jnp.zeros_like(last)
    if valid.resets is not None:
        start = jnp.max(jnp.where(valid.resets & counts & before, time, 0), axis=0)
    return counts & before & (time >= start[None, :])


def _layer(cell: Cell, params: Any, xs: Array, valid: Valid, counts: Array) -> dict[str, Any]:
    """Gates, growth, exponent and Jacobians of one layer; means over the steps that count."""
    seen = trace(cell, params, xs, **valid._asdict())
    fields = cell.info.carry
    gates = {k: v for k, v in seen.items() if k not in (*fields, *CANDIDATES)}
    memory = jnp.abs(seen["c" if "c" in fields else "h"])
    carry = cell.initial_carry(params, (xs.shape[1],))
    steps, row = len(xs), jnp.argmax(jnp.sum(counts, axis=0))
    at = _some_steps(counts[:, row], None if valid.resets is None else valid.resets[:, row])
    before = type(carry)(**{name: seen[name][at - 1, row] for name in fields})
    prepared = cell.prepare(params, None)
    few = jnp.argsort(~jnp.any(counts, axis=0), stable=True)[: min(EXAMPLES, xs.shape[1])]
    return {
        "mean": {k: _mean(v, counts) for k, v in gates.items()},
        "shut": {k: _mean(v < SHUT, counts) for k, v in gates.items()},
        "open": {k: _mean(v > OPEN, counts) for k, v in gates.items()},
        "forget": {k: _mean(v, counts, (0, 1)) for k, v in gates.items() if k in FORGET},
        "growth": {
            "mean": _mean(memory, counts),
            "max": jnp.max(jnp.where(counts[..., None], memory, 0), axis=(1, 2)),
        },
        "lyapunov": lyapunov(cell, prepared, xs[:, few], counts[:, few], steps // 4),
        "jacobians": step_jacobians(cell, prepared, before, xs[at, row]),
    }


def _some_steps(counts: Array, resets: Array | None) -> Array:
    """[TIMES] steps, late ones rather than early, that go on from a step which counts as well."""
    goes_on = counts[1:] & counts[:-1]
    goes_on = goes_on if resets is None else goes_on & ~resets[1:]
    if not len(goes_on):
        return jnp.zeros(TIMES, jnp.int32)
    found = jnp.sum(goes_on)
    places = jnp.linspace((found + 1) // 4 - 1, found - 1, TIMES).astype(jnp.int32)
    return jnp.argsort(~goes_on, stable=True)[jnp.maximum(places, 0)] + 1


def _mean(values: Array, counts: Array, axes: tuple[int, ...] = (1, 2)) -> Array:
    """Over `axes` of values [T, B, H], steps that do not count left out."""
    weights = jnp.broadcast_to(counts[..., None], values.shape)
    total = jnp.sum(jnp.where(weights, values, 0), axis=axes)
    return total / jnp.maximum(jnp.sum(weights, axis=axes), 1)


# ---------------------------------------------------------------- on the host


def place(workdir: Path, step: int) -> Path:
    """WORKDIR/diagnostics/step_00000100.npz."""
    return workdir / "diagnostics" / f"step_{step:08d}.npz"


def save(arrays: dict[str, np.ndarray], workdir: Path, step: int) -> Path:
    """Replaced atomically."""
    path = place(workdir, step)
    path.parent.mkdir(exist_ok=True)
    tmp = path.with_suffix(f".{os.getpid()}.tmp")
    with tmp.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    tmp.replace(path)
    return path


def _told(raw: dict[str, Any], last: np.ndarray, reach: np.ndarray) -> dict[str, np.ndarray]:
    """A layer's arrays by name, as they are saved."""
    found: dict[str, np.ndarray] = {}
    for name, norm in raw["norms"].items():
        heat = by_distance(norm, last, reach)[: int(reach.sum(0).max(initial=1))]
        found[f"norm/{name}"] = heat
        found[f"flow/{name}"] = relative(heat)
    for kind in ("mean", "shut", "open"):
        found |= {f"{kind}/{gate}": values for gate, values in raw[kind].items()}
    for values in raw["forget"].values():
        found["timescale"] = 1 / np.maximum(1 - np.asarray(values, float), 1e-6)
    found |= {f"growth/{name}": values for name, values in raw["growth"].items()}
    found["lyapunov"] = raw["lyapunov"]
    found["singular_values"] = singular_values(raw["jacobians"])
    found["memory_length"] = np.nansum(found["flow/carry"])
    return found


def relative(heat: np.ndarray) -> np.ndarray:
    """[distance] mean norm over examples, by its value one step back; NaN at 0, zeros for none."""
    counted = np.isfinite(heat)
    mean = np.where(counted, heat, 0).sum(1) / np.maximum(counted.sum(1), 1)
    base = mean[1] if len(mean) > 1 else 0.0
    curve = mean / base if base > 0 else np.zeros_like(mean)
    curve[0] = np.nan
    return curve


def vanishes(curve: np.ndarray, floor: float) -> float:
    """The first distance from which on the curve stays under `floor`; NaN where it never does."""
    above = np.flatnonzero(~(curve < floor))
    after = int(above[-1]) + 1 if len(above) else 0
    return float(after) if after < len(curve) else float("nan")


def explodes(curve: np.ndarray) -> bool:
    """Whether the gradient grows beyond all use on its way back."""
    return bool(np.any(~np.isfinite(curve[1:])) or np.max(curve[1:], initial=0.0) > EXPLODES)


def singular_values(jacobians: np.ndarray) -> np.ndarray:
    """[S, n], largest first; NaN for a step that is not finite."""
    found = np.full(jacobians.shape[:2], np.nan)
    for i, jacobian in enumerate(np.asarray(jacobians, float)):
        if np.isfinite(jacobian).all():
            found[i] = np.linalg.svd(jacobian, compute_uv=False)
    return found


def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """The scalars of a diagnosis, by name."""
    found: dict[str, float] = {}
    for layer in dict.fromkeys(name.partition("/")[0] for name in arrays):
        own = {n.removeprefix(f"{layer}/"): v for n, v in arrays.items() if n.startswith(layer)}
        curve = own["flow/carry"]
        told = {f"vanishes_{floor:g}": vanishes(curve, floor) for floor in FLOORS}
        told |= {"explodes": float(explodes(curve)), "memory_length": own["memory_length"]}
        told |= {
            f"{n.replace('/', '_')}": np.mean(v)
            for n, v in own.items()
            if n.partition("/")[0] in ("mean", "shut", "open")
        }
        if "timescale" in own:
            told["timescale_median"] = np.median(own["timescale"])
        told["growth_last"] = own["growth/mean"][-1]
        told["growth_max"] = np.max(own["growth/max"])
        told["lyapunov"] = np.mean(own["lyapunov"])
        told["largest_singular_value"] = np.max(own["singular_values"])
        found |= {f"{layer}/{name}": float(value) for name, value in told.items()}
    return found
