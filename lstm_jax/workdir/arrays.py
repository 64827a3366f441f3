"""Arrays to files and back: Orbax, and all of Orbax that this library uses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.workdir.seal import Leaf, flatten


def version() -> str:
    return _orbax().__version__


def _orbax() -> Any:
    # Imported when first used: it takes a third of a second, and `import lstm_jax` should not.
    import orbax.checkpoint as ocp  # start-up

    return ocp


def _checkpointer() -> Any:
    """A checkpointer of this process alone: process 0 writes, every process reads for itself."""
    ocp = _orbax()
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True)
    if jax.process_count() == 1:
        return ocp.Checkpointer(handler)
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}, the form that Orbax names arrays by."""
    from flax.traverse_util import unflatten_dict  # start-up

    return unflatten_dict(dict(leaves), sep="/")


def _stored(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Orbax stores no arrays without elements; the seal alone remembers those."""
    return {path: x for path, x in leaves.items() if math.prod(x.shape)}


def save(folder: Path, leaves: Mapping[str, np.ndarray]) -> None:
    if stored := _stored(leaves):
        _checkpointer().save(folder, args=_orbax().args.PyTreeSave(_nest(stored)))


def load(folder: Path, records: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    ocp = _orbax()
    leaves = {p: np.zeros(r.shape, jnp.dtype(r.dtype)) for p, r in records.items() if 0 in r.shape}
    if stored := _stored(records):
        whole = _nest({path: ocp.RestoreArgs(restore_type=np.ndarray) for path in stored})
        read = _checkpointer().restore(folder, args=ocp.args.PyTreeRestore(restore_args=whole))
        leaves |= {path: np.asarray(x) for path, x in flatten(read).items()}
    return leaves
