"""Files written whole: text, CSV, JSON, appended lines, JSON that only one may create."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.errors import UsageError

CREATED = "%Y-%m-%dT%H:%M:%SZ"  # when something was, in UTC, as our files have it


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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, which becomes `path` at the end: readers see the old or the new file."""
    tmp = _beside(path)
    try:
        yield tmp
        os.replace(tmp, path)
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole, forced to the disk; UsageError when it is full or not writable."""
    try:
        with replacing(Path(path)) as tmp, tmp.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"could not write {path}: {error.strerror}") from error


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV: None and NaN are empty cells, the parts of a tuple joined by semicolons."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return "; ".join(value)
    return "" if value is None or value != value else value


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
    """The object in a file that is replaced atomically; {} where there is none (yet).

    A network file system may lose a file while it is replaced.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """Old or new, never torn. Not forced to the disk: what it says can be said again."""
    with replacing(path) as tmp:
        tmp.write_text(json.dumps(value))


def create_json(path: Path, value: Mapping[str, Any]) -> bool:
    """Create a file that must not exist, complete from its first moment; False if it does."""
    tmp, text = _beside(path), json.dumps(value)
    tmp.write_text(text)
    try:
        os.link(tmp, path)
        return True
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system: atomic still, but empty for a moment
        return _create_exclusive(path, text)
    finally:
        tmp.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A name that no other thread, process or host uses for its half-written copy."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _create_exclusive(path: Path, text: str) -> bool:
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
