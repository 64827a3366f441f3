"""The oracles themselves: parity now, and golden values that are still what they compute."""

import numpy as np
import parity
import pytest
from oracles import libraries


@pytest.mark.parametrize("name", libraries.ORACLES)
def test_parity_and_golden_values(name):
    live, stored = libraries.compute(name), parity.load(name)
    parity.check(name, live)
    assert live.keys() == stored.keys()
    for key, value in live.items():
        np.testing.assert_allclose(value, stored[key], 1e-5, 1e-6, err_msg=key)
