"""Small piano rolls, and the .mat file that holds them."""

from __future__ import annotations

import numpy as np
import scipy.io

from lstm_jax.tasks.music import polyphonic

RANDOM = np.random.default_rng(0)


def rolls(count: int, longest: int = 12) -> list[np.ndarray]:
    lengths = RANDOM.integers(2, longest, count)
    return [(RANDOM.random((length, 88)) < 0.1).astype(np.uint8) for length in lengths]


def cells(pieces: list) -> np.ndarray:
    out = np.empty((1, len(pieces)), object)
    for i, piece in enumerate(pieces):
        out[0, i] = piece
    return out


def write_mat(place, **changed):
    parts = {f"{split}data": cells(rolls(6)) for split in polyphonic.SPLITS}
    scipy.io.savemat(place, parts | changed)
    return str(place)
