"""Cell arrays of matrices from MATLAB 5 files, and nothing else of that format.

Our own, because scipy's reader is C that trusts the sizes a file states: a damaged one ends it
with a segmentation fault. Here every size is checked against the bytes that are there.
MathWorks, MAT-File Format (2019), section 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lstm_jax.errors import UsageError

SMALL = {1: "i1", 2: "u1", 3: "i2", 4: "u2"}
NUMBERS = SMALL | {5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15  # types of element
CELL = 1  # class of array
CLASSES = dict(enumerate(("cell", "struct", "object", "char", "sparse"), 1))
FILE_LIMIT, UNPACKED_LIMIT = 1 << 26, 1 << 29  # bytes
HEADER = 128


class Damaged(ValueError):
    """Bytes that do not say what they should."""


class Element(NamedTuple):
    kind: int
    body: memoryview
    end: int  # where the next one begins


class Array(NamedTuple):
    """The head of a matrix element: its class, sizes and name, and the bytes that follow."""

    kind: int
    shape: tuple[int, ...]
    name: str
    rest: memoryview


def read(content: bytes, name: str, keys: tuple[str, ...]) -> dict[str, list[np.ndarray]]:
    """{key: matrices of the cell array of that name}; UsageError for anything else."""
    if len(content) > FILE_LIMIT:
        raise UsageError(f"{name}: {len(content):,} bytes, expected at most {FILE_LIMIT:,}")
    if not content.startswith(b"MATLAB 5.0") or content[126:HEADER] not in (b"IM", b"MI"):
        raise UsageError(f"{name}: starts with {content[:10]!r}, expected a MATLAB 5.0 file")
    order = "<" if content[126:HEADER] == b"IM" else ">"
    try:
        arrays = {array.name: array for array in variables(content, order)}
        for key in keys:
            if key not in arrays:
                known = ", ".join(sorted(arrays)) or "none"
                raise UsageError(f"{name}: no variable {key!r}; it has: {known}")
        return {key: cells(arrays[key], order) for key in keys}
    except (Damaged, struct.error, zlib.error, OverflowError) as error:
        raise UsageError(f"{name}: not a readable .mat file: {error}") from None


def variables(content: bytes, order: str) -> Iterator[Array]:
    """The file's arrays, unpacked."""
    left = UNPACKED_LIMIT
    for element in elements(memoryview(content)[HEADER:], order):
        if element.kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element.body, left)
            left -= len(unpacked)
            if left <= 0:
                raise Damaged(f"more than {UNPACKED_LIMIT:,} bytes unpacked")
            element = next(elements(memoryview(unpacked), order), element)
        if element.kind == MATRIX:
            yield array(element.body, order)


def elements(data: memoryview, order: str) -> Iterator[Element]:
    """The elements that follow one another in `data`: type and size in 8 bytes, or in 4."""
    at = 0
    while at + 8 <= len(data):
        word, size = struct.unpack_from(order + "II", data, at)
        start, kind = at + 8, word
        if word >> 16:  # the small form: size and type in one word, up to 4 bytes in the next
            start, size, kind = at + 4, word >> 16, word & 0xFFFF
        if start + size > len(data) or (word >> 16 and size > 4):
            raise Damaged(f"an element of {size:,} bytes where {len(data) - start:,} are left")
        padding = 0 if kind == COMPRESSED else -size % 8
        at = at + 8 if word >> 16 else start + size + padding
        yield Element(kind, data[start : start + size], at)


def array(body: memoryview, order: str) -> Array:
    """A matrix element's head: flags, sizes, name. An empty body is an empty matrix."""
    if not len(body):
        return Array(6, (0, 0), "", body)
    parts = elements(body, order)
    flags, sizes, name = (next(parts, None) for _ in range(3))
    if flags is None or sizes is None or name is None or len(flags.body) < 8:
        raise Damaged("an array without flags, sizes and a name")
    if len(sizes.body) % 4 or not 8 <= len(sizes.body) <= 32:
        raise Damaged(f"sizes in {len(sizes.body)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(sizes.body, order + "i4"))
    if min(shape) < 0:
        raise Damaged(f"an array of sizes {shape}")
    word = struct.unpack_from(order + "I", flags.body)[0]
    return Array(word & 0xFF, shape, bytes(name.body).decode("latin-1"), body[name.end :])


def cells(found: Array, order: str) -> list[np.ndarray]:
    """The matrices of a cell array, column by column."""
    if found.kind != CELL:
        kind = CLASSES.get(found.kind, "numeric")
        raise UsageError(f"{found.name} is a {kind} array, expected a cell array of matrices")
    inner = [array(e.body, order) for e in elements(found.rest, order) if e.kind == MATRIX]
    if len(inner) != math.prod(found.shape):
        raise Damaged(f"{found.name} has {len(inner)} cells, expected {found.shape}")
    return [matrix(cell, f"{found.name}[{i}]", order) for i, cell in enumerate(inner)]


def matrix(found: Array, where: str, order: str) -> np.ndarray:
    """A numeric matrix."""
    if found.kind in CLASSES:
        raise UsageError(f"{where}: a {CLASSES[found.kind]} array, expected a matrix of numbers")
    data = next(elements(found.rest, order), None)
    if math.prod(found.shape) == 0:
        return np.zeros(found.shape)
    if data is None or data.kind not in NUMBERS:
        raise Damaged(f"{where} holds no numbers")
    dtype = np.dtype(order + NUMBERS[data.kind])
    if len(data.body) != math.prod(found.shape) * dtype.itemsize:
        raise Damaged(f"{where}: {len(data.body):,} bytes for {found.shape} of {dtype}")
    return np.frombuffer(data.body, dtype).reshape(found.shape, order="F")
