"""Readers of the file formats that tasks come in, strict and within limits.

Each takes bytes and the name to complain about, checks sizes before it allocates, executes
nothing that it reads, and answers anything wrong with file, position, found and expected.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np

from lstm_jax.errors import UsageError

IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
ARRAY_LIMIT = 1 << 30  # bytes of one array that a file may ask for


def idx(content: bytes, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """An IDX file's array; `shape` is what it must have, None where any size will do.

    http://yann.lecun.com/exdb/mnist, "The IDX file format".
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise UsageError(f"{name}: bytes 0-3 are {content[:4].hex(' ')}, not an IDX header")
    dtype, rank = np.dtype(IDX_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise UsageError(f"{name}: {len(content)} bytes, expected at least {start} of header")
    sizes = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if rank != len(shape) or any(b not in (None, a) for a, b in zip(sizes, shape, strict=True)):
        wanted = " x ".join("N" if size is None else str(size) for size in shape)
        found = " x ".join(map(str, sizes))
        raise UsageError(f"{name}: an array of {found or 'no sizes'}, expected {wanted}")
    expected = start + dtype.itemsize * int(np.prod(sizes, dtype=object))
    if len(content) != expected:
        raise UsageError(f"{name}: {len(content):,} bytes, expected {expected:,} for {sizes}")
    return np.frombuffer(content, dtype, offset=start).reshape(sizes)


def npz(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz; pickled ones are refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            total = sum(member.file_size for member in archive.infolist())
        if total > ARRAY_LIMIT:
            raise UsageError(f"{name}: unpacks to {total:,} bytes; refusing to read it")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib, struct, tokenize, ... on bad bytes
        raise UsageError(f"{name}: not a readable .npz file: {error}") from None


def npy(content: bytes, name: str) -> np.ndarray:
    """The array of an .npy; a pickled one is refused."""
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:
        raise UsageError(f"{name}: not a readable .npy file: {error}") from None


def parse_json(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: not JSON: {error}") from None


def text(content: bytes, name: str) -> str:
    """UTF-8 text."""
    if not content:
        raise UsageError(f"{name}: the file is empty")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = content[error.start]
        raise UsageError(
            f"{name}: byte {error.start:,} is 0x{bad:02x}, not UTF-8; convert the file first"
        ) from None


def ts(content: bytes, name: str) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Series [T, D], their labels, and all class labels, from a .ts file of the UEA archive.

    A case is `d1,d1,...:d2,d2,...:label`; dimensions of one case have one length.
    """
    lines = text(content, name).splitlines()
    classes: list[str] = []
    series, labels, started, dimensions = [], [], False, 0
    for number, line in enumerate(lines, 1):
        line = line.strip()
        words = line.lower().split()
        if not line or line.startswith("#"):
            continue
        if started:
            series.append(_case(line, dimensions, f"{name}, line {number}"))
            dimensions = series[-1].shape[1]
            labels.append(_label(line, classes, f"{name}, line {number}"))
        elif words[0] == "@classlabel":
            classes = line.split()[2:]
        elif words[0] == "@timestamps" and words[1:] == ["true"]:
            raise UsageError(f"{name}, line {number}: time stamps are not supported")
        elif words[0] == "@data":
            started = True
        elif not line.startswith("@"):
            raise UsageError(f"{name}, line {number}: {line[:40]!r} before @data")
    if not classes or not series:
        missing = "@classLabel true ..." if not classes else "cases after @data"
        raise UsageError(f"{name}: no {missing}; is this a .ts classification file?")
    return series, labels, classes


def _case(line: str, dimensions: int, where: str) -> np.ndarray:
    columns = line.split(":")[:-1]
    if not columns or (dimensions and len(columns) != dimensions):
        raise UsageError(f"{where}: {len(columns)} dimensions, expected {dimensions or 'some'}")
    try:
        with np.errstate(over="ignore"):  # infinite, and named below
            values = [np.array(column.split(","), np.float32) for column in columns]
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    lengths = sorted({len(column) for column in values})
    if len(lengths) > 1:
        raise UsageError(f"{where}: dimensions of {lengths[0]} and {lengths[-1]} steps in one case")
    case = np.stack(values, axis=1)
    if not np.isfinite(case).all():
        raise UsageError(f"{where}: missing or infinite values; fill them in first")
    return case


def _label(line: str, classes: list[str], where: str) -> str:
    label = line.rsplit(":", 1)[1].strip()
    if label not in classes:
        raise UsageError(f"{where}: label {label!r}, expected one of {', '.join(classes)}")
    return label
