"""The kernels of engine `pallas`, compiled by the TPU's own compiler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import registry
from aot import topology
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

import lstm_jax
from lstm_jax.cells import lstm
from lstm_jax.ops import tracing_for

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif("tpu" not in topology.installed(), reason="libtpu is not installed"),
]

T, B, D = 16, 32, 16


def compiled(cell, device, share=lambda run: run, places=None, key=None):
    """The text of a gradient with padding, for a chip."""
    place, rows = places or [SingleDeviceSharding(device)] * 2

    def slope(params, xs, mask):
        def loss(params, xs):
            ys = lstm_jax.unroll(cell, params, xs, mask=mask, key=key, engine="pallas")[1]
            return jnp.sum(ys**2)

        return jax.grad(loss, (0, 1))(params, xs)

    params = jax.eval_shape(lambda k: cell.init(k, D), jax.random.key(0))
    like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)  # noqa: E731
    xs = jax.ShapeDtypeStruct((T, B, D), jnp.float32, sharding=rows)
    mask = jax.ShapeDtypeStruct((T, B), jnp.bool_, sharding=rows)
    with jax.default_device(device), tracing_for("tpu"):
        traced = jax.jit(share(slope)).trace(jax.tree.map(like, params), xs, mask)
        return traced.lower(lowering_platforms=("tpu",)).compile().as_text()


def kernels(text: str | None) -> int:
    return (text or "").count('custom_call_target="tpu_custom_call"')


@pytest.mark.parametrize("case", registry.CASES, ids=str)
def test_every_variant_is_two_kernels(case):
    key = jax.random.key(7) if case.keyed else None
    text = compiled(case.build(128), topology.devices("tpu")[0], key=key)
    assert kernels(text) == 2


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_other_chips(name):
    chip = topologies.get_topology_desc(platform="tpu", topology_name=name).devices[0]
    assert kernels(compiled(lstm(256), chip)) == 2


@pytest.mark.parametrize("checked", [False, True])
def test_every_device_runs_its_own(checked):
    mesh = topology.mesh("tpu", "data")
    same, rows = PartitionSpec(), PartitionSpec(None, "data")

    def share(slope):
        def local(*given):
            found = slope(*given)[0]
            return found if checked else jax.lax.psum(found, "data")

        specs = (same, rows, rows)
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=same, check_vma=checked)

    places = NamedSharding(mesh, same), NamedSharding(mesh, rows)
    assert kernels(compiled(lstm(128), topology.devices("tpu")[0], share, places)) == 2
