"""Every cell, option and transform again: slow float64 NumPy, one example and one step at a time.

Written from the papers and the textbook equations, not from lstm_jax, which it shares nothing
with but the names of parameters. States are dicts of vectors; `seen` is the h that enters the
recurrent matmul (dropped out, if it is), `keep` multiplies the candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

EPSILON = 1e-5  # of layer normalisation


class Reference(NamedTuple):
    """initial(params) -> state; step(params, state, x, seen, keep, zone) -> (state, y, gates)."""

    initial: Callable
    step: Callable


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


ACTIVATIONS: dict[str, Callable] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "relu1": lambda z: np.clip(z, 0.0, 1.0),
    "hard_sigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "softsign": lambda z: z / (1.0 + np.abs(z)),
    "identity": lambda z: z,
    "exp": lambda z: np.exp(np.minimum(z, 0.0)),
    "one": np.ones_like,
}

# What each row of the gate table changes. A name is an activation of a learned gate, a number a
# constant gate; a tuple (of, shift) is 1 - activation(z_of + shift).
STANDARD: dict[str, Any] = {
    "i": "sigmoid",
    "f": "sigmoid",
    "g": "tanh",
    "o": "sigmoid",
    "output": "tanh",
    "update": "add",
    "blind": "",  # gates that do not see h
}
ROWS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "nig": {"i": 1.0},
    "nfg": {"f": 1.0},
    "nog": {"o": 1.0},
    "niaf": {"g": "identity"},
    "noaf": {"output": "identity"},
    "cifg": {"f": ("i", 0.0)},
    "sigmoid_candidate": {"g": "sigmoid"},
    "gate_only_output": {"output": "one"},
    "sigmoid_output": {"output": "sigmoid"},
    "no_memory": {"f": 0.0},
    "multiplicative": {"update": "multiply"},
    "no_gate_recurrence": {"blind": "ifo"},
    "janet": {"i": ("f", -1.0), "o": 1.0, "output": "identity"},
}


def blocks(row, names, hidden):
    """{gate: its H entries of the last axis of `row`}."""
    return {k: row[..., n * hidden : (n + 1) * hidden] for n, k in enumerate(names)}


def standardise(a):
    return (a - a.mean()) / np.sqrt(a.var() + EPSILON)


def design(gates="lstm", gate_activation: Any = "", candidate_activation="", output_activation=""):
    """The row, with the activations of the options put in; i, f, o only where they are learned."""
    row = STANDARD | ROWS[gates]
    each = gate_activation
    if isinstance(each, str):
        each = {k: each for k in "ifo" if each and isinstance(row[k], str)}
    row |= {k: v for k, v in each.items() if v}
    row |= {"g": candidate_activation} if candidate_activation else {}
    return row | ({"output": output_activation} if output_activation else {})


def lstm(
    hidden, *, peepholes="none", layer_norm="none", cell_clip=0.0, feedback=False, **options
) -> Reference:
    """The LSTM of any row; `feedback` is full gate recurrence."""
    row = design(**options)
    learned = [k for k in "ifgo" if isinstance(row[k], str)]
    seeing = [k for k in "ifo" if k in learned]
    if "exp" in (row["i"], row["f"]):
        return stabilised(hidden, row)

    def initial(p):
        start = 1.0 if row["update"] == "multiply" else 0.0
        size = p["recurrent_kernel"].shape[0]
        state = {"c": np.full(hidden, start), "h": np.zeros(size)}
        return state | ({k: np.zeros(hidden) for k in "ifo"} if feedback else {})

    def preactivations(p, s, x, seen):
        a, r = x @ p["kernel"], seen @ p["recurrent_kernel"]
        if layer_norm != "none":
            a, r = p["kernel_scale"] * standardise(a), p["recurrent_scale"] * standardise(r)
        z = blocks(a + p["bias"], learned, hidden)
        hears = [k for k in learned if k not in row["blind"]]
        for k, part in blocks(r, hears, hidden).items():
            z[k] = z[k] + part
        if peepholes == "full":
            for k, matrix in blocks(p["peephole_kernel"], seeing, hidden).items():
                z[k] = z[k] + s["c"] @ matrix
        if feedback:
            fed = np.concatenate([s["i"], s["f"], s["o"]]) @ p["gate_kernel"]
            for k, part in blocks(fed, "ifo", hidden).items():
                z[k] = z[k] + part
        return z

    def value(z, k):
        if isinstance(row[k], str):
            return ACTIVATIONS[row[k]](z[k])
        if isinstance(row[k], tuple):
            to, shift = row[k]
            return 1.0 - ACTIVATIONS[row[to]](z[to] + shift)
        return np.full(hidden, row[k])

    def step(p, s, x, seen, keep, zone):
        z = preactivations(p, s, x, seen)
        diagonal = peepholes in ("diagonal", "diagonal_remaining")
        peep = dict(zip(seeing, p["peephole_kernel"], strict=True)) if diagonal else {}
        for k in "if":
            if k in peep:
                z[k] = z[k] + peep[k] * s["c"]
        i, f, g = value(z, "i"), value(z, "f"), value(z, "g") * keep
        c = f * s["c"] * i * g if row["update"] == "multiply" else f * s["c"] + i * g
        if cell_clip:
            c = np.clip(c, -cell_clip, cell_clip)
        normal = c
        if layer_norm != "none":
            normal = p["cell_scale"] * standardise(c) + p["cell_shift"]
            c = normal if layer_norm == "recirculated" else c
        if "o" in peep:
            z["o"] = z["o"] + peep["o"] * c
        o = value(z, "o")
        h = o * ACTIVATIONS[row["output"]](normal)
        gates = {"i": i, "f": f, "g": value(z, "g"), "o": o}
        fed_back = {k: gates[k] for k in "ifo"} if feedback else {}
        return {"c": c, "h": h} | fed_back, h, gates

    return Reference(initial, step)


def lstm_fgr(hidden, **options) -> Reference:
    return lstm(hidden, feedback=True, **options)


def stabilised(hidden, row) -> Reference:
    """sLSTM with the paper's stabiliser: eq. 15-17 of Beck et al. (2024)."""
    learned = [k for k in "ifgo" if isinstance(row[k], str)]
    logarithm = {"exp": lambda z: z, "sigmoid": lambda z: np.log(sigmoid(z))}

    def initial(p):
        zero = np.zeros(hidden)
        return {"c": zero, "n": zero, "m": np.full(hidden, -1e30), "h": zero}

    def step(p, s, x, seen, keep, zone):
        z = blocks(x @ p["kernel"] + p["bias"], learned, hidden)
        hears = [k for k in learned if k not in row["blind"]]
        for k, part in blocks(seen @ p["recurrent_kernel"], hears, hidden).items():
            z[k] = z[k] + part
        log_i, log_f = logarithm[row["i"]](z["i"]), logarithm[row["f"]](z["f"])
        m = np.maximum(log_f + s["m"], log_i)
        i, f = np.exp(log_i - m), np.exp(log_f + s["m"] - m)
        g = ACTIVATIONS[row["g"]](z["g"])
        o = ACTIVATIONS[row["o"]](z["o"]) if "o" in learned else np.full(hidden, row["o"])
        c, n = f * s["c"] + i * keep * g, f * s["n"] + i
        h = o * ACTIVATIONS[row["output"]](c / n)
        return {"c": c, "n": n, "m": m, "h": h}, h, {"i": i, "f": f, "g": g, "o": o}

    return Reference(initial, step)


def slstm(
    hidden, *, gate_activation="", candidate_activation="", output_activation="identity"
) -> Reference:
    each = gate_activation if isinstance(gate_activation, str) else ""
    chosen: Any = dict.fromkeys("ifo", each) if each else {"i": "exp"}
    if isinstance(gate_activation, dict):
        chosen |= gate_activation
    return stabilised(hidden, design("lstm", chosen, candidate_activation, output_activation))


def _zero_h(hidden):
    return lambda p: {"h": np.zeros(hidden)}


def gru(
    hidden, *, reset="after", gate_activation="sigmoid", candidate_activation="tanh"
) -> Reference:
    gate, candidate = ACTIVATIONS[gate_activation], ACTIVATIONS[candidate_activation]

    def step(p, s, x, seen, keep, zone):
        a = blocks(x @ p["kernel"] + p["bias"], "rzn", hidden)
        kernel = blocks(p["recurrent_kernel"], "rzn", hidden)
        r, z = gate(a["r"] + seen @ kernel["r"]), gate(a["z"] + seen @ kernel["z"])
        if reset == "after":
            n = candidate(a["n"] + r * (seen @ kernel["n"] + p["recurrent_bias"]))
        else:
            n = candidate(a["n"] + (r * s["h"]) @ kernel["n"])
        h = (1 - z) * keep * n + z * s["h"]
        return {"h": h}, h, {"r": r, "z": z, "n": n}

    return Reference(_zero_h(hidden), step)


def mgu(hidden, *, gate_activation="sigmoid", candidate_activation="tanh") -> Reference:
    gate, candidate = ACTIVATIONS[gate_activation], ACTIVATIONS[candidate_activation]

    def step(p, s, x, seen, keep, zone):
        a = blocks(x @ p["kernel"] + p["bias"], "fn", hidden)
        kernel = blocks(p["recurrent_kernel"], "fn", hidden)
        f = gate(a["f"] + seen @ kernel["f"])
        n = candidate(a["n"] + (f * s["h"]) @ kernel["n"])
        h = (1 - f) * s["h"] + f * keep * n
        return {"h": h}, h, {"f": f, "n": n}

    return Reference(_zero_h(hidden), step)


def rnn(hidden, *, activation="tanh") -> Reference:
    def step(p, s, x, seen, keep, zone):
        h = keep * ACTIVATIONS[activation](
            x @ p["kernel"] + seen @ p["recurrent_kernel"] + p["bias"]
        )
        return {"h": h}, h, {}

    return Reference(_zero_h(hidden), step)


def indrnn(hidden, *, activation="relu") -> Reference:
    def step(p, s, x, seen, keep, zone):
        h = keep * ACTIVATIONS[activation](
            x @ p["kernel"] + p["recurrent_kernel"] * seen + p["bias"]
        )
        return {"h": h}, h, {}

    return Reference(_zero_h(hidden), step)


def minlstm(hidden) -> Reference:
    def step(p, s, x, seen, keep, zone):
        z = blocks(x @ p["kernel"] + p["bias"], "ifg", hidden)
        i, f = sigmoid(z["i"]), sigmoid(z["f"])
        h = f / (f + i) * s["h"] + i / (f + i) * keep * z["g"]
        return {"h": h}, h, {"i": i, "f": f, "g": z["g"]}

    return Reference(_zero_h(hidden), step)


def mingru(hidden) -> Reference:
    def step(p, s, x, seen, keep, zone):
        a = blocks(x @ p["kernel"] + p["bias"], "zn", hidden)
        z = sigmoid(a["z"])
        h = (1 - z) * s["h"] + z * keep * a["n"]
        return {"h": h}, h, {"z": z, "n": a["n"]}

    return Reference(_zero_h(hidden), step)


CELLS: dict[str, Callable[..., Reference]] = {
    "lstm": lstm,
    "lstm_fgr": lstm_fgr,
    "gru": gru,
    "mgu": mgu,
    "rnn": rnn,
    "indrnn": indrnn,
    "slstm": slstm,
    "minlstm": minlstm,
    "mingru": mingru,
}


# Transforms ------------------------------------------------------------------------------------


def projection(cell, size) -> Reference:
    def step(p, s, x, seen, keep, zone):
        new, y, gates = cell.step(p, s, x, seen, keep, zone)
        h = y @ p["projection_kernel"]
        return new | {"h": h}, h, gates

    return Reference(cell.initial, step)


def zoneout(cell, rate_c=0.0, rate_h=0.0) -> Reference:
    """`zone` holds the drawn {c: [H], h: [H]}; where it does not, the expectation acts."""

    def step(p, s, x, seen, keep, zone):
        new, _, gates = cell.step(p, s, x, seen, keep, zone)
        for k, rate in (("c", rate_c), ("h", rate_h)):
            if k in new:
                d = zone.get(k, rate)
                new[k] = d * s[k] + (1 - d) * new[k]
        return new, new["h"], gates

    return Reference(cell.initial, step)


def learned_carry(cell) -> Reference:
    def initial(p):
        return {k: p[f"initial_{k}"] for k in cell.initial(p)}

    return Reference(initial, cell.step)


def _untouched(cell, *args, **options) -> Reference:
    """Nothing changes in the values: masks arrive as noise, gradients are `backward`'s matter."""
    return cell


TRANSFORMS: dict[str, Callable[..., Reference]] = {
    "projection": projection,
    "zoneout": zoneout,
    "learned_carry": learned_carry,
    "recurrent_dropout": _untouched,
    "variational_dropout": _untouched,
    "weight_drop": _untouched,
    "gradient_weighting": _untouched,
    "activity_weighting": _untouched,
    "recurrent_gradient_clipping": _untouched,
}


# Over time -------------------------------------------------------------------------------------


class Noise(NamedTuple):
    """Drawn masks: over time [T, B, .] or over the sequence [B, .]."""

    keep: Any = None
    zone_c: Any = None
    zone_h: Any = None
    drop_x: Any = None
    drop_h: Any = None


def unroll(cell, p, xs, carry, valid, resets, reverse=False, noise=None):
    """({name: [B, .]}, ys [T, B, .], gates): every example alone, every step in its turn.

    Steps that are not `valid` might as well not be there. Forwards, a reset makes its step start
    afresh. Backwards, it marks the last step of a segment to run: the next one starts afresh.
    """
    noise = noise or Noise()
    lasts, outputs, opened = [], [], []
    for b in range(xs.shape[1]):
        state = {k: v[b] for k, v in carry.items()}
        counted = [t for t in range(xs.shape[0]) if valid[t, b]]
        ys: list = [None] * xs.shape[0]
        ended = False
        for t in reversed(counted) if reverse else counted:
            if ended if reverse else resets[t, b]:
                state = cell.initial(p)
            ended = resets[t, b]
            state, ys[t], gates = _step(cell, p, state, xs[t, b], noise, t, b)
            opened.append(gates)
        lasts.append(state)
        outputs.append([np.zeros_like(state["h"]) if y is None else y for y in ys])
    last = {k: np.stack([state[k] for state in lasts]) for k in lasts[0]}
    return last, np.stack([np.stack(ys) for ys in outputs], 1), opened


def _step(cell, p, state, x, noise, t, b):
    x = x if noise.drop_x is None else x * noise.drop_x[b]
    seen = state["h"] if noise.drop_h is None else state["h"] * noise.drop_h[b]
    keep = 1.0 if noise.keep is None else noise.keep[t, b]
    zone = {"c": noise.zone_c, "h": noise.zone_h}
    zone = {k: d[t, b] for k, d in zone.items() if d is not None}
    return cell.step(p, state, x, seen, keep, zone)


# Backwards, where the gradient is no derivative --------------------------------------------------


def lstm_backward(p, xs, carry, dys, dlast, weigh=None, limit=np.inf):
    """Backpropagation through time by hand of the standard LSTM, one batch at once.

    `weigh(gates, us) -> {gate: factor}` multiplies the gradient through the pre-activations `us`;
    what flows back from a step's carry is clipped to +- limit.
    """
    tape, (c, h) = [], (carry["c"], carry["h"])
    width = p["bias"].size // 4
    for x in xs:
        u = blocks(x @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"], "ifgo", width)
        a = {k: np.tanh(u[k]) if k == "g" else sigmoid(u[k]) for k in u}
        tape.append((x, c, h, u, a))
        c = a["f"] * c + a["i"] * a["g"]
        h = a["o"] * np.tanh(c)
    grads = {k: np.zeros_like(v) for k, v in p.items()}
    dxs, dc, dh = np.zeros_like(xs), dlast["c"], dlast["h"]
    for t in reversed(range(len(xs))):
        x, c, h, u, a = tape[t]
        s = np.tanh(a["f"] * c + a["i"] * a["g"])
        dc, dh = np.clip(dc, -limit, limit), np.clip(dh, -limit, limit) + dys[t]
        dc = dc + dh * a["o"] * (1 - s**2)
        da = {"i": dc * a["g"], "f": dc * c, "g": dc * a["i"], "o": dh * s}
        du = {k: da[k] * (1 - a[k] ** 2 if k == "g" else a[k] * (1 - a[k])) for k in "ifgo"}
        factor = weigh(a, u) if weigh else {}
        dz = np.concatenate([du[k] * factor.get(k, 1.0) for k in "ifgo"], -1)
        grads["kernel"] += x.T @ dz
        grads["recurrent_kernel"] += h.T @ dz
        grads["bias"] += dz.sum(0)
        dxs[t], dh, dc = dz @ p["kernel"].T, dz @ p["recurrent_kernel"].T, dc * a["f"]
    return grads, {"c": dc, "h": dh}, dxs


def gru_backward(p, xs, carry, dys, dlast, weigh=None, limit=np.inf):
    """The same of the GRU with its reset after the matmul."""
    tape, h = [], carry["h"]
    width = p["bias"].size // 3
    for x in xs:
        a = blocks(x @ p["kernel"] + p["bias"], "rzn", width)
        m = blocks(h @ p["recurrent_kernel"], "rzn", width)
        u = {"r": a["r"] + m["r"], "z": a["z"] + m["z"]}
        r, z = sigmoid(u["r"]), sigmoid(u["z"])
        inner = m["n"] + p["recurrent_bias"]
        n = np.tanh(a["n"] + r * inner)
        tape.append((x, h, u, r, z, n, inner))
        h = (1 - z) * n + z * h
    grads = {k: np.zeros_like(v) for k, v in p.items()}
    dxs, dh = np.zeros_like(xs), dlast["h"]
    for t in reversed(range(len(xs))):
        x, h, u, r, z, n, inner = tape[t]
        dh = np.clip(dh, -limit, limit) + dys[t]
        factor = weigh({"r": r, "z": z, "n": n}, u) if weigh else {}
        dn = dh * (1 - z) * (1 - n**2) * factor.get("n", 1.0)
        dr = dn * inner * r * (1 - r) * factor.get("r", 1.0)
        dz = dh * (h - n) * z * (1 - z) * factor.get("z", 1.0)
        outer, inward = np.concatenate([dr, dz, dn], -1), np.concatenate([dr, dz, dn * r], -1)
        grads["kernel"] += x.T @ outer
        grads["bias"] += outer.sum(0)
        grads["recurrent_kernel"] += h.T @ inward
        grads["recurrent_bias"] += (dn * r).sum(0)
        dxs[t], dh = outer @ p["kernel"].T, dh * z + inward @ p["recurrent_kernel"].T
    return grads, {"h": dh}, dxs


BACKWARD = {"lstm": lstm_backward, "gru": gru_backward}
