"""One batch over several devices, and the same numbers as on one.

The parallel axis is `data`: every device holds all parameters and a share of each batch. What is
summed over examples (gradients, totals and counts of metrics) is summed over devices once a step,
so that means are means over the global batch. The devices may belong to several processes, on
several hosts: see `compute.processes`. Two ways to say it, chosen by `parallel.mode`:

    jit         the batch is laid out over a mesh and the compiler places the sums (the default)
    shard_map   each device runs its share, the sums are written out as `psum`
    pmap        another name for shard_map. `jax.pmap` itself is now `jit(shard_map)`, and takes
                each process's part of an array, which a loop inside `jit` does not hold
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstm_jax import plugins
from lstm_jax.errors import UsageError
from lstm_jax.ops import cores

TIME_MAJOR = ("inputs", "mask", "resets")
# What sharing costs a CPU's core, in examples x T x H^2 x layers (notes/performance.md, "How many
# devices"): to meet once a step, and to sum and update each parameter. Larger matmuls than those
# of H = WIDE are shared by the cores anyway.
MEETING, PARAMETER, WIDE = 2**21, 10, 256


class Choice(NamedTuple):
    """The devices that share a batch, and why these."""

    devices: list
    why: str


def configure_cpu_devices(num_devices: int = -1) -> None:
    """Make `num_devices` of the CPU, below 1 one per core; to be called before JAX starts.

    XLA runs the pointwise part of a time loop on one thread per device, so on a CPU this is where
    most of a speed-up comes from. `JAX_NUM_CPU_DEVICES` in the environment wins.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    wanted = cores() if num_devices < 1 else num_devices
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # something has started JAX: a file of the user's, at its top level
        found = len(jax.devices("cpu"))
        if found != wanted:
            files = " or ".join(plugins.used()) or "something"
            plugins.say(
                f"JAX had started before its CPU was split, so there is {found} device instead of "
                f"{wanted}: {files} computes when it is read. In a function it would not; "
                f"JAX_NUM_CPU_DEVICES={wanted} in the environment helps too"
            )


def make_mesh(
    devices: list, batch_size: int, accumulate: int = 1, pads: bool = False
) -> Mesh | None:
    """The mesh of these devices; None where one does everything.

    `pads`: a batch that they cannot share evenly may be filled up with examples of weight 0.

    Raises:
      UsageError: a batch they cannot share.
    """
    parts = len(devices) * accumulate
    if batch_size % parts and not (pads and len(devices) > 1 and batch_size > parts):
        times = f" {accumulate} times (train.accumulate)" if accumulate > 1 else ""
        other = "train.accumulate=1" if accumulate > 1 else "parallel.data=1"
        raise UsageError(
            f"train.batch_size={batch_size} cannot be shared by {len(devices)} devices{times}; "
            f"nearest sizes that can: {nearest(batch_size, parts)} (or {other})"
        )
    if len(devices) == 1:
        return None
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def nearest(size: int, parts: int) -> str:
    """The sizes next to this one that so many parts share evenly."""
    below = size - size % parts
    return ", ".join(str(near) for near in (below, below + parts) if near)


def choose(config: Any, sizes: Callable[[], tuple[int, int]], whole: bool = False) -> Choice:
    """The devices of `parallel.data`; of 0, as many as share the batch evenly and with a gain.

    `sizes()` are T of a batch and the number of parameters: a core that would get too little to do
    is left out, and so are devices beyond the cores. Several processes use all, or do not run.
    `whole`: one device is best, as what it runs uses every core by itself.
    """
    wanted, devices = config.parallel.data, jax.devices()
    if wanted:
        return Choice(choose_devices(wanted), f"parallel.data={wanted}")
    if jax.process_count() > 1 or len(devices) == 1:
        return Choice(devices, "all there are")
    if whole:
        return Choice(devices[:1], "engine native, which uses every core by itself")
    batch, turns = config.train.batch_size, config.train.accumulate
    on_cpu = devices[0].platform == "cpu"
    there = min(len(devices), cores()) if on_cpu else len(devices)
    even = [n for n in range(1, there + 1) if batch % (n * turns) == 0] or [1]
    most = even[-1]
    least = least_share(config, *sizes()) if on_cpu and most > 1 else 0.0
    count = max([n for n in even if batch / n >= least], default=1)
    if count < most:
        return Choice(devices[:count], f"a share below {math.ceil(least):,} examples would not pay")
    if count < there:
        near = nearest(batch, there * turns)
        most = f"the most that share a batch of {batch} evenly"
        return Choice(devices[:count], f"{most}; all {there} share {near}")
    return Choice(devices[:count], "one a core" if there < len(devices) else "all there are")


def least_share(config: Any, num_steps: int, parameters: int) -> float:
    """Examples of a batch that a core needs to be worth what sharing costs it."""
    layers = config.model.layers * (1 + config.model.bidirectional)
    of_example = num_steps * min(config.cell.hidden, WIDE) ** 2 * layers
    return (MEETING + PARAMETER * parameters) / of_example


def choose_devices(wanted: int) -> list:
    """`wanted` devices, as many of every process; -1 for all."""
    devices, processes = jax.devices(), jax.process_count()
    if wanted < 1:
        return devices
    if wanted > len(devices):
        raise UsageError(
            f"parallel.data={wanted}, but there are {len(devices)} devices ({devices[0].platform})"
        )
    share, left = divmod(wanted, processes)
    of = [[d for d in devices if d.process_index == p][:share] for p in range(processes)]
    if left or any(len(found) < share for found in of):
        raise UsageError(
            f"parallel.data={wanted} is not the same number of devices in each of {processes} "
            "processes; parallel.data=-1 takes all there are"
        )
    return [device for found in of for device in found]


def platform(mesh: Mesh | None) -> str:
    """What runs a program: the platform of the mesh, without one the host's."""
    return mesh.devices.flat[0].platform if mesh else jax.default_backend()


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device holds in full; None without a mesh."""
    return NamedSharding(mesh, PartitionSpec()) if mesh else None


def place(tree: Any, sharding: NamedSharding | None) -> Any:
    """Arrays that every process has, onto the devices; nothing is sent between processes."""
    if sharding is None:
        return jax.device_put(tree)

    def put(leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def local(tree: Any) -> Any:
    """This process's own copy, on one device, of arrays that every device holds in full."""

    def first(leaf: Any) -> Any:
        return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(first, tree)


def table(config: Any, why: str = "") -> str:
    """What runs where, a line a fact, or in one line where one device does everything.

    `config.parallel.data` is the number that was chosen.
    """
    devices = choose_devices(config.parallel.data)
    count, processes, batch = len(devices), jax.process_count(), config.train.batch_size
    turns = config.train.accumulate
    parts = [f"{count} devices"] * (count > 1) + [f"{turns} turns"] * (turns > 1)
    added = -batch % (count * turns)
    more = f" + {added} of weight 0" if added else ""
    each = (batch + added) // count // turns
    share = f"{more} = {' x '.join([*parts, str(each)])}" if parts else ""
    share += f"; none are added to {nearest(batch, count * turns)}" if added else ""
    over = f" of {processes} processes" if processes > 1 else ""
    reason = f": {why}" if why else ""
    if not parts:
        wide = ", parameters float64" if jnp.result_type(float) == jnp.float64 else ""
        device = f"{devices[0].platform}, {count} of {jax.device_count()}"
        return f"{'device':<10} {device}{wide}{reason}"
    precision = getattr(jax.config, "jax_default_matmul_precision", None) or "default"
    mode = config.parallel.mode
    shared = {
        "mesh": f"data={count}, {'shard_map (pmap)' if mode == 'pmap' else mode}",
        "sharded": "batch and carry by example; parameters and optimizer whole on every device",
    }
    rows = {
        "platform": f"{devices[0].platform} ({devices[0].device_kind})",
        "devices": f"{count} of {jax.device_count()}{over}{reason}",
        "batch": f"{batch}{share}",
        **(shared if count > 1 else {}),
        "precision": f"parameters {jnp.result_type(float)}, cell {config.cell.dtype}, "
        f"matmuls {precision}",
    }
    return "\n".join(f"{name:<10} {value}" for name, value in rows.items())


def batch_specs(batch: dict, readout: str) -> dict:
    """Which axis of each array of a batch runs over examples."""

    def spec(name: str, leaf: Any) -> PartitionSpec:
        time_major = name in TIME_MAJOR or (name == "targets" and readout == "every")
        time_major = time_major or (name == "weights" and leaf.ndim > 1)
        return PartitionSpec(None, "data") if time_major else PartitionSpec("data")

    return {name: spec(name, leaf) for name, leaf in batch.items()}


def carry_specs(carry: Any) -> Any:
    """Carries run over examples along their first axis."""
    return jax.tree.map(lambda leaf: PartitionSpec("data"), carry)


def accumulated(fn: Callable, turns: int, readout: str) -> Callable:
    """`fn` over the batch in so many turns, the sums added up: the memory of a part at a time."""
    if turns == 1:
        return fn

    def parts(leaf: Any, spec: PartitionSpec) -> Any:
        axis, shape = len(spec) - 1, leaf.shape
        shape = (*shape[:axis], turns, shape[axis] // turns, *shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis, 0)

    def call(params, hyper, batch, carry, key):
        specs = (batch_specs(batch, readout), carry_specs(carry))
        split = jax.tree.map(parts, (batch, carry), specs)

        def turn(total, part):
            sums, carry = fn(params, hyper, *part, key)
            return jax.tree.map(jnp.add, total, sums), carry

        first = jax.tree.map(lambda leaf: leaf[0], split)
        shapes, _ = jax.eval_shape(fn, params, hyper, *first, key)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        sums, carries = lax.scan(turn, nothing, split)
        return sums, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), carries)

    return call


def by_layout(fn: Callable, mesh: Mesh, readout: str) -> Callable:
    """`fn` over shares of the batch along an axis of their own, laid out over the mesh.

    The sums are taken over that axis, after `fn`: left to itself the compiler would place some of
    them inside the time loop, one exchange between devices for every block of steps.
    """

    def shares(leaf: Any, spec: PartitionSpec) -> Any:
        axis, shape = len(spec) - 1, leaf.shape
        shape = (*shape[:axis], mesh.size, shape[axis] // mesh.size, *shape[axis + 1 :])
        return lax.with_sharding_constraint(leaf.reshape(shape), NamedSharding(mesh, spec))

    def call(params, hyper, batch, carry, key):
        specs = (batch_specs(batch, readout), carry_specs(carry))
        axes = jax.tree.map(lambda spec: len(spec) - 1, specs)
        split = jax.tree.map(shares, (batch, carry), specs)
        each = jax.vmap(fn, (None, None, *axes, None), 0, spmd_axis_name="data")
        sums, carry = each(params, hyper, *split, key)
        joined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), carry)
        return jax.tree.map(lambda x: jnp.sum(x, 0), sums), joined

    return call


def by_device(fn: Callable, mesh: Mesh, readout: str) -> Callable:
    """`fn` run by every device on its share, and the sums added up."""
    same = PartitionSpec()

    def local(params, hyper, batch, carry, key):
        sums, carry = fn(params, hyper, batch, carry, key)
        return lax.psum(sums, "data"), carry

    def call(params, hyper, batch, carry, key):
        batch_spec, carry_spec = batch_specs(batch, readout), carry_specs(carry)
        inputs = (same, same, batch_spec, carry_spec, same)
        outputs = (same, carry_spec)
        run = jax.shard_map(local, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
        return run(params, hyper, batch, carry, key)

    return call


MODES = {"jit": by_layout, "shard_map": by_device, "pmap": by_device}


class Sharing(NamedTuple):
    """Who shares a batch, and how."""

    mesh: Mesh | None
    mode: str
    readout: str
    weighs: bool  # the loss reads an example's weight
    turns: int = 1  # that each device takes its share in


def data_parallel(fn: Callable, how: Sharing) -> Callable:
    """`fn(params, hyper, batch, carry, key) -> (sums, carry)` over the devices of the mesh.

    `sums` is whatever adds over examples. A batch that cannot be shared evenly (the odd evaluation
    batch) is filled up with examples of weight 0, and where those would count it is left whole.
    """
    fn = accumulated(fn, how.turns, how.readout)
    if how.mesh is None:
        return fn
    spread, parts = MODES[how.mode](fn, how.mesh, how.readout), how.mesh.size * how.turns

    def call(params, hyper, batch, carry, key):
        size = batch["inputs"].shape[1]
        missing = -size % parts
        if not missing:
            return spread(params, hyper, batch, carry, key)
        if not how.weighs:
            plugins.say(
                f"every device computes the whole of a batch of {size}: {parts} parts cannot share "
                f"it evenly, and the task's loss does not read batch['weights'], by which added "
                f"examples would count as none; sizes that can be shared: {nearest(size, parts)}"
            )
            return fn(params, hyper, batch, carry, key)
        given = filled(batch, how.readout, missing), repeated(carry, 0, missing)
        # Drawn whole by every device: of uneven shares, each operation's ends would be exchanged.
        batch, carry = lax.with_sharding_constraint(given, whole(how.mesh))
        sums, carry = spread(params, hyper, batch, carry, key)
        return sums, jax.tree.map(lambda leaf: leaf[:size], carry)

    return call


def filled(batch: dict, readout: str, count: int) -> dict:
    """The batch with its last example so many times more, of weight 0."""
    size = batch["inputs"].shape[1]
    batch = {"weights": jnp.ones(size, jnp.float32), **batch}
    specs = batch_specs(batch, readout)
    more = {name: repeated(leaf, len(specs[name]) - 1, count) for name, leaf in batch.items()}
    real = jnp.arange(size + count) < size
    return more | {"weights": jnp.where(real, more["weights"], 0)}


def repeated(tree: Any, axis: int, count: int) -> Any:
    """Every array with its last row along the axis so many times more."""

    def one(leaf: Any) -> Any:
        last = lax.slice_in_dim(leaf, leaf.shape[axis] - 1, leaf.shape[axis], axis=axis)
        return jnp.concatenate([leaf, *[last] * count], axis)

    return jax.tree.map(one, tree)


def any_process(flag: bool) -> bool:
    """Whether any process of the run says so; every process has to ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils  # start-up

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
