"""One batch over several devices, and the same numbers as on one.

The parallel axis is `data`: every device holds all parameters and a share of each batch. What is
summed over examples (gradients, totals and counts of metrics) is summed over devices once a step,
so that means are means over the global batch. Two ways to say it, chosen by `parallel.mode`:

    jit    the batch is laid out over a mesh and the compiler places the sums (the default)
    pmap   the classic form: each device runs its share, the sums are written out as `psum`
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstm_jax.core import UsageError, lookup

TIME_MAJOR = ("inputs", "mask", "resets")


def configure_cpu_devices(num_devices: int = -1) -> None:
    """Make `num_devices` of the CPU, -1 for one per core; to be called before JAX starts.

    XLA runs the pointwise part of a time loop on one thread per device, so on a CPU this is where
    most of a speed-up comes from. `JAX_NUM_CPU_DEVICES` in the environment wins.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", cores if num_devices < 1 else num_devices)


def make_mesh(config: Any, batch_size: int) -> Mesh | None:
    """The mesh of `parallel.data` devices (-1: all); None where one device does everything.

    Raises:
      UsageError: an unknown mode, more devices than there are, a batch they cannot share.
    """
    lookup("parallel mode", config.mode, MODES)
    devices = jax.devices()
    wanted = len(devices) if config.data < 1 else config.data
    if wanted > len(devices):
        raise UsageError(
            f"parallel.data={wanted}, but there are {len(devices)} devices ({devices[0].platform})"
        )
    if batch_size % wanted:
        below = batch_size - batch_size % wanted
        near = [str(size) for size in (below, below + wanted) if size]
        raise UsageError(
            f"train.batch_size={batch_size} cannot be shared by {wanted} devices; "
            f"nearest sizes that can: {', '.join(near)} (or parallel.data=1)"
        )
    if wanted == 1:
        return None
    return Mesh(np.array(devices[:wanted]), ("data",), axis_types=(AxisType.Auto,))


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device holds in full; None without a mesh."""
    return NamedSharding(mesh, PartitionSpec()) if mesh else None


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


MODES = {"jit": by_layout, "pmap": by_device}


def data_parallel(fn: Callable, mesh: Mesh | None, mode: str, readout: str) -> Callable:
    """`fn(params, hyper, batch, carry, key) -> (sums, carry)` over the devices of the mesh.

    `sums` is whatever adds over examples. A batch that the devices cannot share evenly (the odd
    evaluation batch) is left whole.
    """
    if mesh is None:
        return fn
    spread = MODES[mode](fn, mesh, readout)

    def call(params, hyper, batch, carry, key):
        even = batch["inputs"].shape[1] % mesh.size == 0
        return (spread if even else fn)(params, hyper, batch, carry, key)

    return call


def any_process(flag: bool) -> bool:
    """Whether any process of the run says so; every process has to ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
