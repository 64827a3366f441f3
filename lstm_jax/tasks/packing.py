"""Sequences of unequal length as rows of one shape.

XLA compiles for shapes, so a batch of short sequences costs what a batch of the longest does.
Where padding would waste more than a third of the steps, sequences are packed instead: several to
a row, one behind the other, with a reset at the first step of each, which is exact for a
recurrence. The rows are then nearly full and all of one shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lstm_jax.errors import UsageError

PACKINGS = ("auto", "on", "off")
WASTE = 1 / 3


def waste(lengths: Sequence[int], num_rows: int, num_steps: int) -> float:
    """The fraction of num_rows x num_steps that holds no sequence."""
    return 1 - sum(lengths) / (num_rows * num_steps)


def wanted(packing: str, lengths: Sequence[int], possible: bool = True) -> bool:
    """Whether to pack: as told, and by default where padding wastes more than a third."""
    if packing not in PACKINGS:
        raise UsageError(f"task.packing={packing!r}, expected one of {', '.join(PACKINGS)}")
    if packing == "on" and not possible:
        raise UsageError(
            "task.packing=on needs a causal model that reads out the last step: "
            "model.bidirectional=False, a model.encoder other than conv, task.readout=last"
        )
    if packing == "auto":
        return possible and waste(lengths, len(lengths), max(lengths)) > WASTE
    return packing == "on"


def first_fit(lengths: Sequence[int], num_steps: int) -> list[list[int]]:
    """Indices by row: longest first, each into the first row with room. Johnson (1973)."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        fit = next((r for r, free in enumerate(room) if free >= length), None)
        if fit is None:
            rows.append([])
            room.append(num_steps)
            fit = len(rows) - 1
        rows[fit].append(index)
        room[fit] -= length
    return rows


def num_parts(num_steps: int, most: int) -> int:
    """Into how many parts rows are cut so that none is longer than `most` steps; 0: not cut."""
    return -(-num_steps // most) if most else 1


def lay_out(sequences: Sequence[dict], packed: bool, parts: int = 0) -> dict[str, np.ndarray]:
    """Arrays [L, ...] of each sequence -> arrays [R, T, ...] of rows, zero where there is nothing.

    Padded: one sequence a row, beside `lengths` [R]. Packed: beside `mask` [R, T], True where
    there is something, `resets` [R, T] at the first steps, `lasts` [R, T] at the last ones, and
    `order` [R, T], at a last step the sequence's index. Rows that will be read in `parts`, the
    carry handed on, divide into them and have these marks even when padded.
    """
    lengths = [len(sequence["inputs"]) for sequence in sequences]
    num_steps = max(lengths) + -max(lengths) % max(parts, 1)
    rows = first_fit(lengths, num_steps) if packed else [[i] for i in range(len(sequences))]
    out = {
        name: np.zeros((len(rows), num_steps, *array.shape[1:]), array.dtype)
        for name, array in sequences[0].items()
    }
    marks = {name: np.zeros((len(rows), num_steps), bool) for name in ("mask", "resets", "lasts")}
    order = np.full((len(rows), num_steps), -1, np.int32)
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            stop = start + lengths[index]
            for name, array in sequences[index].items():
                out[name][r, start:stop] = array
            marks["mask"][r, start:stop] = True
            marks["resets"][r, start] = marks["lasts"][r, stop - 1] = True
            order[r, stop - 1], start = index, stop
    if not packed and not parts:
        return {**out, "lengths": np.array(lengths, np.int32)}
    return {**out, **marks, "order": order}
