"""Hashes: what they see, and that a seal cannot be bent."""

from __future__ import annotations

import numpy as np
import pytest

from lstm_jax.workdir import seal
from lstm_jax.workdir.seal import digest


def test_digest_is_the_same_tomorrow():
    state = {"b": np.array([1, 2], np.float32), "a": (np.int32(3), np.array([True]))}
    assert digest(state) == "93abc5ab1d3b92f9e6db1676020aa0b9f388120c12b797d9d752240e8a96eb36"


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([1, 3], np.float32)},
        {"y": np.array([1, 2], np.float32)},
        {"x": np.array([1.0, 2.0])},
        {"x": np.array([[1, 2]], np.float32)},
        {"x": np.array([1, 2], np.float32), "z": np.zeros(0)},
    ],
)
def test_digest_sees_values_paths_dtypes_and_shapes(other):
    assert digest({"x": np.array([1, 2], np.float32)}) != digest(other)


def test_digest_sees_the_sign_of_zero_and_ignores_layout():
    assert digest(np.float32(0.0)) != digest(np.float32(-0.0))
    x = np.arange(6.0).reshape(2, 3)
    assert digest(x) == digest(np.asfortranarray(x)) == digest(x.astype(">f8"))


def test_every_bit_of_the_seal_counts(tmp_path):
    path = tmp_path / "200" / seal.SEAL
    path.parent.mkdir()
    leaves = {"x": seal.hash_leaf(np.zeros(3))._asdict()}
    body = {"step": 200, "leaves": leaves, "files": {}, "metrics": {"loss": 1e-5}}
    seal.write_seal(path.parent, body)
    assert seal.read_seal(path.parent)["leaves"]["x"] == seal.hash_leaf(np.zeros(3))
    good = path.read_bytes()
    for at in range(0, len(good) * 8, 7):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        path.write_bytes(bad)
        with pytest.raises(seal.Damage):
            seal.read_seal(path.parent)
