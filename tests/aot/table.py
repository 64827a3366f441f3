"""The table of docs/accelerators.md: cd tests && python -m aot.table, in each environment."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

from aot import programs, topology

PACKAGES = {"tpu": "libtpu", "cuda": "jax-cuda12-plugin"}


def row(platform: str, case: programs.Case, made: programs.Made) -> str:
    """platform, program, reductions a step, in the time loop, temporaries, compile seconds."""
    cells = [
        topology.NAMES[platform],
        str(case),
        str(len(made.reductions)),
        str(len(made.inside)),
        f"{made.temporaries / 2**20:.1f}",
        f"{made.seconds:.0f}",
        f"jax {version('jax')}, {PACKAGES[platform]} {version(PACKAGES[platform])}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = programs.write_texts(Path(folder))
        for platform in topology.installed():
            for case in programs.CASES:
                print(row(platform, case, programs.make(case, platform, files)), flush=True)
