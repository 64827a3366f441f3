"""What a checkpoint must prove before it is believed: hashes of leaves, of files, and of the seal.

A step directory holds `state/` (Orbax) and `integrity.json`, the seal:

    {"version", "step", "digest", "bytes", "metrics", "orbax",
     "leaves": {path: {"dtype", "shape", "sha256"}},     of the state in memory, before writing
     "files":  {path: {"bytes", "sha256"}},              of the files, after writing
     "sha256"}                                           of all of the above

Leaves catch what went wrong between memory and disk, files what happened on the disk, the last
hash a damaged seal. Hashes do not depend on the number of devices or of processes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import UsageError

SEAL = "integrity.json"
VERSION = 1


class Damage(Exception):
    """A step directory does not hold what was saved; the message says in which file or leaf."""


class CheckpointMismatch(UsageError):
    """A sound checkpoint holds another structure, shape or dtype than the program expects."""


class Leaf(NamedTuple):
    """One array of a state, without its values; `sha256` is over dtype, shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


# ---------------------------------------------------------------- leaves


def flatten(state: Any) -> dict[str, Any]:
    """The leaves of a state by path, `params/layer_0/kernel`; ValueError when two paths agree."""
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "value"
        if name in found:
            raise ValueError(f"two leaves of the state share the path '{name}'; rename one of them")
        found[name] = leaf
    return found


def to_host(leaf: Any) -> np.ndarray:
    """A copy of one leaf in host memory, whole even where devices or processes hold parts of it.

    Always a copy: on CPU a NumPy view would alias a buffer that the next step may be given.
    """
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError("a state holds no typed PRNG keys; store jax.random.key_data(key)")
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            from jax.experimental import multihost_utils  # start-up

            return np.array(multihost_utils.process_allgather(leaf, tiled=True))
    return np.array(leaf, order="C")


def snapshot(state: Any) -> dict[str, np.ndarray]:
    """All leaves by path, copied to the host; the copies of all leaves overlap."""
    leaves = flatten(state)
    for leaf in leaves.values():
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()
    return {path: to_host(leaf) for path, leaf in leaves.items()}


def hash_leaf(x: np.ndarray) -> Leaf:
    """sha256 over dtype, shape and the little-endian bytes in C order."""
    x = np.ascontiguousarray(x).reshape(x.shape)
    if x.dtype.byteorder == ">":
        x = x.astype(x.dtype.newbyteorder("<"))
    h = hashlib.sha256(f"{x.dtype.name}{list(x.shape)}".encode())
    h.update(x.reshape(-1).view(np.uint8).data)
    return Leaf(x.dtype.name, x.shape, h.hexdigest())


def hash_leaves(leaves: Mapping[str, np.ndarray]) -> dict[str, Leaf]:
    return {path: hash_leaf(x) for path, x in leaves.items()}


def combine(records: Mapping[str, Leaf]) -> str:
    """One sha256 over all leaves, sorted by path: sha256(path NUL leaf-hash newline ...)."""
    h = hashlib.sha256()
    for path in sorted(records):
        h.update(f"{path}\0{records[path].sha256}\n".encode())
    return h.hexdigest()


def digest(state: Any) -> str:
    """sha256 (hex) over path, dtype, shape, bytes of all leaves; the same on any device count."""
    return combine(hash_leaves(snapshot(state)))


# ---------------------------------------------------------------- files and the seal


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below `folder`, by path relative to it; the seal left out."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != SEAL:
            files[name] = {"bytes": path.stat().st_size, "sha256": _hash_file(path)}
    return files


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """A lost file or a bad sector is damage; a missing permission or a dead mount is not."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EIO):
            raise
        lost = isinstance(error, FileNotFoundError)
        raise Damage(f"{name} is missing" if lost else f"{name}: {error.strerror}") from None


def _canonical(seal: Mapping[str, Any]) -> str:
    return json.dumps(seal, indent=1, sort_keys=True) + "\n"


def _seal_hash(seal: Mapping[str, Any]) -> str:
    body = {k: v for k, v in seal.items() if k != "sha256"}
    return hashlib.sha256(_canonical(body).encode()).hexdigest()


def write_seal(folder: Path, seal: dict[str, Any]) -> None:
    """Add the seal's own hash and write it, forced to the disk."""
    seal = {**seal, "sha256": _seal_hash(seal)}
    with (folder / SEAL).open("w") as file:
        file.write(_canonical(seal))
        file.flush()
        os.fsync(file.fileno())


def read_seal(folder: Path) -> dict[str, Any]:
    """The seal, checked against its own hash and the directory's name; Damage otherwise."""
    with _reading(SEAL):
        written = (folder / SEAL).read_bytes()
    try:
        seal = json.loads(written)
        kept = {
            path: Leaf(**{**r, "shape": tuple(r["shape"])}) for path, r in seal["leaves"].items()
        }
        # Not one byte may differ: 1e-05 and 1E-05 say the same, yet one of them was not written.
        sound = seal["sha256"] == _seal_hash(seal) and written == _canonical(seal).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damage(f"{SEAL} is unreadable ({error})") from None
    if not sound:
        raise Damage(f"{SEAL} does not match its own checksum")
    if str(seal["step"]) != folder.name:
        raise Damage(f"{SEAL} belongs to step {seal['step']}, the folder says {folder.name}")
    return {**seal, "leaves": kept}


def check_files(folder: Path, seal: Mapping[str, Any]) -> None:
    """Damage unless every file recorded in the seal is there with its size and checksum."""
    for name, record in seal["files"].items():
        with _reading(name):
            size = (folder / name).stat().st_size
            if size != record["bytes"]:
                raise Damage(f"{name} has {size} bytes, {record['bytes']} were written")
            if _hash_file(folder / name) != record["sha256"]:
                raise Damage(f"{name} does not match its checksum")


def check_leaves(leaves: Mapping[str, np.ndarray], seal: Mapping[str, Any]) -> None:
    """Damage unless the restored leaves are those that were in memory when they were saved."""
    found = hash_leaves(leaves)
    if found.keys() != seal["leaves"].keys():
        raise Damage(f"leaves differ: {sorted(found.keys() ^ seal['leaves'].keys())}")
    for path, record in seal["leaves"].items():
        if found[path] != record:
            raise Damage(f"leaf {path} does not match its checksum")
    if combine(found) != seal["digest"]:
        raise Damage("the digest does not match the leaves")


def check_target(target: Any, seal: Mapping[str, Any], where: str) -> None:
    """CheckpointMismatch with one line per difference between the saved state and `target`."""
    if lines := differences(flatten(target), seal["leaves"]):
        raise CheckpointMismatch(
            f"{where} was saved by another model or optimizer:\n"
            + "\n".join(lines)
            + "\nrun with the config it was saved with, or start afresh in another workdir"
        )


def differences(wanted: Mapping[str, Any], saved: Mapping[str, Any], most: int = 20) -> list[str]:
    """A line per path where the two differ in shape or dtype."""
    lines = []
    for path in sorted(wanted.keys() | saved.keys()):
        have, want = (_describe(leaves.get(path)) for leaves in (saved, wanted))
        if have != want:
            lines.append(f"  {path}: saved {have}, expected {want}")
    more = [f"  ... and {len(lines) - most} more"] if len(lines) > most else []
    return lines[:most] + more


def _dtype(leaf: Any) -> str:
    if isinstance(leaf, Leaf):
        return leaf.dtype
    return np.dtype(leaf.dtype).name if hasattr(leaf, "dtype") else np.asarray(leaf).dtype.name


def _describe(leaf: Any) -> str:
    if leaf is None:
        return "absent"
    shape = leaf.shape if isinstance(leaf, Leaf) else np.shape(leaf)
    return f"{_dtype(leaf)}[{','.join(map(str, shape))}]"
