"""A process that prepares rows and times them when told to, one JSON line in, one out.

JAX fixes its number of devices when it starts and torch its threads, so one device, every core a
device and torch each get a process of their own; the parent interleaves them.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TURN_SECONDS, MOST_CALLS = 0.03, 20


class Ready(NamedTuple):
    """A row to call, what it cost to get there, and what it computed."""

    call: Callable[[], Any]
    compile_seconds: float | None
    peak_bytes: int | None
    outputs: Callable[[], list]  # [ys], or [dxs, *parameter gradients], as float64 arrays


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no reply
    ready: dict[str, Ready] = {}
    for line in sys.stdin:
        task = json.loads(line)
        answer = DO[task.pop("do")](ready, **task)
        print(json.dumps(answer), file=replies, flush=True)


def prepare(ready: dict, key: str, reference: str, **what: Any) -> dict:
    """Build, compile and run a row once; what that cost and how far it is from float64."""
    try:
        row = (torch_row if what["row"].startswith("torch") else jax_row)(**what)
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    ready[key] = row
    errors = None
    if reference:
        expected = np.load(reference)
        pairs = zip(row.outputs(), [expected[name] for name in expected.files], strict=True)
        errors = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return {"compile": row.compile_seconds, "bytes": row.peak_bytes, "error": errors}


def time_row(ready: dict, key: str, last: float) -> dict:
    """Seconds of some calls in a row, after one that warms the caches up."""
    call, calls = ready[key].call, max(1, min(MOST_CALLS, int(TURN_SECONDS / last)))
    seconds = []
    if last < 0.2:
        call()
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def prepare_run(ready: dict, key: str, config: str, fields: dict, num_steps: int) -> dict:
    """Whole training steps of a config."""
    from benchmarks.devices import prepare

    try:
        call, chosen = prepare(config, fields, num_steps)
    except ValueError as error:
        return {"refused": str(error).splitlines()[0][:200]}
    call()
    ready[key] = Ready(call, None, None, list)
    return {"chosen": chosen}


def pack_rate(ready: dict, hidden: int, trials: int) -> dict:
    """Trial-steps a second of a pack."""
    from benchmarks.packs import trial_steps_per_second

    try:
        return {"rate": trial_steps_per_second(hidden, trials)}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def forget(ready: dict) -> dict:
    ready.clear()
    gc.collect()
    return {}


def hello(ready: dict, torch: bool) -> dict:
    """Versions, device and flags."""
    if torch:
        import torch as library  # pyright: ignore[reportMissingImports]

        cuda = library.cuda.is_available()
        device = library.cuda.get_device_name() if cuda else "cpu"
        return {"torch": library.__version__, "threads": library.get_num_threads(), "on": device}
    import jax

    import lstm_jax  # noqa: F401  as in any program: imported before JAX computes

    devices = jax.devices()
    told = {"jax": jax.__version__, "devices": len(devices), "platform": devices[0].platform}
    return told | {"on": devices[0].device_kind, "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def write_reference(ready: dict, shape: list, train: bool, path: str) -> dict:
    """The same layer by plain `lax.scan` in float64."""
    import jax

    from benchmarks import peers as rows

    shape_ = rows.Shape(*shape)
    weights, xs, dys = rows.problem(shape_)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        layer = rows.engine("scan", shape_)
        params = jax.tree.map(np.asarray, layer.params(weights))
        if train:
            grads = jax.jit(lambda p, x, w: jax.vjp(layer.apply, p, x)[1](w))(params, xs, dys)
            W, R, b = (grads[0][k] for k in ("kernel", "recurrent_kernel", "bias"))
            found = {"dxs": grads[1], "kernel": W, "recurrent": R, "bias": b}
        else:
            found = {"ys": jax.jit(layer.apply)(params, xs)}
        arrays: Any = {k: np.asarray(v) for k, v in found.items()}
        np.savez(Path(path), **arrays)
    return {}


def flattened(weights: Any, grads: Any, params: Callable) -> list:
    """The gradients as W, R, b: the row's own tree against the same tree filled with places."""
    import jax

    starts = np.cumsum([0] + [w.size for w in weights])
    places = type(weights)(
        *(s + np.arange(w.size, dtype=float).reshape(w.shape)
          for s, w in zip(starts, weights, strict=False))
    )  # fmt: skip
    at = [np.asarray(x, float).ravel() for x in jax.tree.leaves(params(places, shift=0.0))]
    values = [np.asarray(x, float).ravel() for x in jax.tree.leaves(grads)]
    flat = np.zeros(starts[-1])
    flat[np.concatenate(at).astype(int)] = np.concatenate(values)
    return [flat[s : s + w.size].reshape(w.shape) for s, w in zip(starts, weights, strict=False)]


def jax_row(row: str, shape: list, train: bool, sharded: bool) -> Ready:
    import jax
    import jax.numpy as jnp

    from benchmarks import peers as rows
    from benchmarks import variants

    size = rows.Shape(*shape)
    weights, xs, dys = rows.problem(size)
    if row == rows.FLOOR:
        apply, grads, params, axis = *floor(), None, 1
        rng = np.random.default_rng(0)
        given = rng.standard_normal((size.D + size.H, 4 * size.H))
        xs = rng.standard_normal((size.T, size.B, size.D + size.H))
        dys = rng.standard_normal((size.T, size.B, 4 * size.H))
    else:
        layer = variants.layer(row, size) if row not in rows.LAYERS else rows.LAYERS[row](size)
        apply, params = layer.apply, layer.params
        grads, given = (lambda p, x, w: jax.vjp(apply, p, x)[1](w)), params(weights)
        axis = 1 if layer.time_major else 0
        xs, dys = (a if layer.time_major else a.swapaxes(0, 1) for a in (xs, dys))
    narrow = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)  # noqa: E731
    arguments = narrow((given, xs, dys))
    fn = grads if train else lambda p, x, w: apply(p, x)
    if sharded:
        fn, arguments = over_devices(fn, arguments, axis, train)
    began = time.perf_counter()
    compiled = jax.jit(fn).lower(*arguments).compile()
    took, memory = time.perf_counter() - began, compiled.memory_analysis()
    peak = memory and memory.temp_size_in_bytes + memory.output_size_in_bytes

    def outputs() -> list:
        found = jax.block_until_ready(compiled(*arguments))
        if params is None:
            return []
        sequence = np.asarray(found[1] if train else found, float)
        sequence = sequence if axis else sequence.swapaxes(0, 1)
        return [sequence, *(flattened(weights, found[0], params) if train else [])]

    return Ready(lambda: jax.block_until_ready(compiled(*arguments)), took, peak, outputs)


def over_devices(fn: Callable, arguments: tuple, axis: int, train: bool) -> tuple:
    """`fn` by every device on its share of the batch, parameter gradients summed at the end."""
    import jax
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    share, same = PartitionSpec(*[None] * axis, "data"), PartitionSpec()

    def local(p, x, w):
        if not train:
            return fn(p, x, w)
        dp, dx = fn(p, x, w)
        return jax.lax.psum(dp, "data"), dx

    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(same, share, share),
        out_specs=(same, share) if train else share,
        check_vma=False,
    )
    places = [NamedSharding(mesh, spec) for spec in (same, share, share)]
    return spread, tuple(jax.device_put(a, p) for a, p in zip(arguments, places, strict=True))


def floor() -> tuple[Callable, Callable]:
    """u K; and u K, z K^T, u^T z: what an LSTM's training step multiplies, all at once."""
    import jax.numpy as jnp

    def backward(K, u, z):
        return jnp.tensordot(u, z, ((0, 1), (0, 1))), (u @ K, z @ K.T)

    return (lambda K, u: u @ K), backward


def torch_row(row: str, shape: list, train: bool, sharded: bool) -> Ready:
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks import peers as rows

    dtype, tf32, _ = rows.TORCH[row]
    size = rows.Shape(*shape)
    weights, xs, dys = rows.problem(size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    place = {"dtype": getattr(torch, dtype), "device": device}
    layer = torch.nn.LSTM(size.D, size.H, **place)
    with torch.no_grad():
        W, R, b = weights
        parts = (W.T, R.T, b, 0 * b)
        for parameter, value in zip(layer.parameters(), parts, strict=True):
            parameter.copy_(torch.tensor(np.ascontiguousarray(value)))
    x = torch.tensor(xs, **place).requires_grad_()
    w, wanted = torch.tensor(dys, **place), [x, *layer.parameters()]

    def call() -> Any:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        if train:
            found = torch.autograd.grad(layer(x)[0], wanted, w)
        else:
            with torch.no_grad():
                found = (layer(x)[0],)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    def outputs() -> list:
        found = [a.detach().double().cpu().numpy() for a in call()]
        return [found[0], found[1].T, found[2].T, found[3]] if train else found

    call()
    return Ready(call, None, grown(call), outputs)


def grown(call: Callable) -> int | None:
    """Bytes by which the process (on a GPU: the device's heap) grows at most during a call."""
    import torch  # pyright: ignore[reportMissingImports]

    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is in use
        before = status_bytes("VmRSS")
        call()
        return max(status_bytes("VmHWM") - before, 0)
    except OSError:
        return None


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


DO = {
    "prepare": prepare,
    "run": prepare_run,
    "pack": pack_rate,
    "time": time_row,
    "forget": forget,
    "hello": hello,
    "reference": write_reference,
}

if __name__ == "__main__":
    main()
