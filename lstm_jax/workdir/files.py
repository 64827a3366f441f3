"""Files written whole: text, JSON, appended lines, JSON that only one may create."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.errors import UsageError


def to_json(value: Any) -> Any:
    """`value` in JSON's types: arrays become lists, scalars numbers, NaN and infinities null.

    JSON has no NaN; null reads back as missing everywhere, where a bare NaN is a syntax error.
    """
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        return to_json(array.astype(float).tolist() if array.dtype.kind == "V" else array.tolist())
    return str(value)


def write_text(path: str | Path, text: str) -> None:
    """Write a file so that readers see the old or the new text, never a part of it."""
    path = Path(path)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tmp.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise UsageError(f"could not write {path}: {error.strerror}") from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON, atomically; NaN and infinities become null."""
    write_text(path, json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")


def append(path: Path, data: bytes, sync: bool = False) -> None:
    """Append to a file in one write; UsageError when the disk is full or not writable."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while data:
                data = data[os.write(handle, data) :]
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(
            f"could not write {path}: {error.strerror}; make room or make the directory writable, "
            "then run the same command again: it resumes"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that is replaced atomically; {} where there is none (yet)."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    except OSError:  # a network file system may lose a file while it is replaced
        return {}
    return value if isinstance(value, dict) else {}


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """Old or new, never torn. Not forced to the disk: what it says can be said again."""
    tmp = _beside(path)
    tmp.write_text(json.dumps(value))
    os.replace(tmp, path)


def create_json(path: Path, value: Mapping[str, Any]) -> bool:
    """Create a file that must not exist, complete from its first moment; False if it does."""
    tmp = _beside(path)
    tmp.write_text(json.dumps(value))
    try:
        os.link(tmp, path)
        return True
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system: atomic still, but empty for a moment
        return _create_exclusive(path, tmp.read_bytes())
    finally:
        tmp.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A name that no other thread, process or host uses for its half-written copy."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _create_exclusive(path: Path, data: bytes) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return True
