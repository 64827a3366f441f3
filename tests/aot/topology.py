"""Devices that are not here, for their compilers: libtpu's and XLA's for NVIDIA run on any host."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.tpu_static import HOST, TOPOLOGY

os.environ |= HOST  # before libtpu is loaded

from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
DEVICES = 4
COMPILERS = {"tpu": "libtpu", "cuda": "jax_cuda12_plugin"}
NAMES = {"tpu": f"4 TPU v5e ({TOPOLOGY})", "cuda": "4 H100"}


def installed() -> list[str]:
    """The platforms whose compiler this environment has."""
    return [platform for platform, module in COMPILERS.items() if find_spec(module)]


@cache
def devices(platform: str) -> tuple[Any, ...]:
    """Four devices of the platform, of one host."""
    if platform == "tpu":
        found = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    else:
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=H100, topology=f"1x1x{DEVICES}"
        )
    return tuple(found.devices)


def mesh(platform: str, axis: str) -> Mesh:
    """Them along one axis."""
    return Mesh(np.array(devices(platform)), (axis,), axis_types=(AxisType.Auto,))
