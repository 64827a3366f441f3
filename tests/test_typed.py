"""The checks of annotations are on, and see what they should."""

import subprocess
import sys

import jax
import jaxtyping
import numpy as np
import pytest

import lstm_jax
from lstm_jax.cells import lstm
from lstm_jax.engines import unroll as module
from lstm_jax.model import layers

XS = np.ones((3, 2, 4), np.float32)


def made():
    cell = lstm(5)
    return cell, cell.init(jax.random.key(0), 4)


@pytest.mark.slow
def test_public_functions_give_back_what_they_say():
    cell, params = made()
    carry, ys = lstm_jax.unroll(cell, params, XS, lengths=np.array([3, 1]))
    assert carry.h.shape == ys.shape[1:] == (2, 5)
    assert lstm_jax.trace(cell, params, XS)["i"].shape == (3, 2, 5)
    layer = lstm_jax.Recurrent(cell, 4, jax.random.key(0), bidirectional=True)
    assert layer(XS)[1].shape == (3, 2, 10)


def test_a_result_of_another_shape_than_the_annotation_says_is_an_error():
    """Here of a cell whose outputs have an axis too many."""
    cell, params = made()

    def update(params, carry, gate):
        new, y = cell.update(params, carry, gate)
        return new, y[..., None]

    with pytest.raises(jaxtyping.TypeCheckError, match="T B H"):
        lstm_jax.unroll(cell._replace(update=update), params, XS, engine="scan")


def test_an_argument_that_is_taken_has_to_fit_the_annotation():
    """JAX would count True as 1.0."""
    cell, params = made()
    with pytest.raises(jaxtyping.TypeCheckError, match="T B D"):
        lstm_jax.trace(cell, params, XS > 0)


def test_what_a_function_refuses_it_says_itself():
    cell, params = made()
    with pytest.raises(lstm_jax.UsageError, match="expected"):
        lstm_jax.unroll(cell, params, XS[0])


def test_the_hook_reads_the_modules_of_the_public_functions():
    for function in (module.unroll, module.trace, layers.Recurrent.__call__):
        assert function.__wrapped__.__name__ == function.__name__


def test_users_do_not_load_the_checkers():
    heavy = "('jaxtyping', 'beartype', 'typeguard')"
    code = (
        f"import sys, lstm_jax; lstm_jax.Recurrent; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
