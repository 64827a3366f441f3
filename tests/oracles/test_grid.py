"""Every layer that `convert` knows beside its own library: see `grid`.

Each in its largest form; GRID=all runs every form, in float64 too where the library has it.
"""

import os

import pytest
from oracles import grid

ALL = os.environ.get("GRID") == "all"
CASES = [case for case in grid.CASES if ALL or case.form == "all at once"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", grid.TOLERANCE if ALL else ["float32"])
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_values_and_gradients_both_ways(case, precision):
    if precision == "float64" and case.library in grid.SINGLE:
        pytest.skip("computes in float32")
    found = grid.differences(case, precision)
    assert max(found.values()) < grid.TOLERANCE[precision], found
