"""Parity with torch, keras, haiku, equinox and onnxruntime, from what they computed once."""

import parity
import pytest


@pytest.mark.parametrize("name", parity.REPLAY)
def test_values_and_gradients(name):
    parity.check(name, parity.load(name))


def test_every_fixture_is_replayed():
    stored = {path.stem for path in parity.GOLDEN.glob("*.npz")}
    assert stored == set(parity.REPLAY)
