"""A cell pickles as the call that made it, so that a worker gets the very same one."""

import functools
import pickle

import jax
import numpy as np
import pytest
import registry

import lstm_jax
from lstm_jax.cells import lstm, transforms


def program(case, cell):
    """The unroll with the case's randomness on, jitted, and what it is called with, in float32."""
    data, keys = registry.data_of(cell), registry.keys_of(case)
    run = functools.partial(lstm_jax.unroll, cell, key=keys, engine="scan")
    params, carry, xs = jax.tree.map(np.float32, data[:3])
    return jax.jit(run, compiler_options=registry.QUICK), (params, xs, carry)


@pytest.mark.parametrize("case", registry.CASES, ids=str)
def test_a_cell_unrolls_by_the_same_program_after_pickling(case):
    """The program's text holds every operation and constant: equal texts, equal values."""
    cell = case.build()
    again = pickle.loads(pickle.dumps(cell))
    assert again.info._replace(linear=None) == cell.info._replace(linear=None)
    (run, given), (rerun, _) = program(case, cell), program(case, again)
    assert rerun.lower(*given).as_text() == run.lower(*given).as_text()


@pytest.mark.parametrize("case", [*registry.PLAIN, registry.STACKED[0]], ids=str)
def test_a_cell_unrolls_to_the_same_values_after_pickling(case):
    cell = case.build()
    found = []
    for each in (cell, pickle.loads(pickle.dumps(cell))):
        run, given = program(case, each)
        found.append(run(*given))
    jax.tree.map(np.testing.assert_array_equal, *found)


def changed_update(cell):
    def update(params, carry, gate):
        (c, h), y = cell.update(params, carry, gate)
        return lstm_jax.Carry(c, -h), -y

    return update


@pytest.mark.parametrize("wrap", [lambda cell: cell, transforms.learned_carry], ids=["", "under"])
def test_a_cell_with_a_local_update_refuses_to_pickle(wrap):
    """It would come back as the cell of the constructor, and say nothing."""
    cell = lstm(4)
    cell = wrap(cell._replace(update=changed_update(cell)))
    with pytest.raises(pickle.PicklingError, match="'lstm' holds functions"):
        pickle.dumps(cell)


def test_a_cell_without_a_constructor_refuses_to_pickle():
    made_by_hand = lstm_jax.Cell(*lstm(4)[:6], info=lstm(4).info)
    with pytest.raises(pickle.PicklingError, match="build it again"):
        pickle.dumps(made_by_hand)
