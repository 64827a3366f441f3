"""Counts against those done by hand."""

import jax
import jax.numpy as jnp

from lstm_jax.compute import flops

X, W = jnp.zeros((3, 4)), jnp.zeros((4, 5))


def test_a_matrix_product_and_its_bias():
    assert flops.count(lambda x, w: x @ w, X, W) == 2 * 3 * 4 * 5
    assert flops.count(lambda x, w: x @ w + 1.0, X, W) == 2 * 3 * 4 * 5 + 3 * 5


def test_a_loop_counts_its_body_once_a_step():
    def loop(x, w):
        return jax.lax.scan(lambda carry, _: (carry + 1.0, x @ w), 0.0, length=7)

    assert flops.count(loop, X, W) == 7 * (2 * 3 * 4 * 5 + 1)


def test_the_tally_names_what_costs():
    def loop(x, w):
        return jax.lax.scan(lambda carry, _: (carry + 1.0, x @ w), 0.0, length=7)

    assert flops.tally(loop, X, W) == {"dot_general": 7 * 2 * 3 * 4 * 5, "add": 7}


def test_taking_apart_and_stacking_is_free():
    """Primitives of their own in some versions of JAX, slices in others."""
    assert flops.count(lambda x: jnp.stack(jnp.unstack(x, axis=0), axis=1), X) == 0
    assert flops.count(lambda x: jnp.tile(x, (2, 3)), X) == 0


def test_compiled_and_differentiated_functions_are_seen_through():
    plain = flops.count(lambda x, w: x @ w, X, W)
    assert flops.count(jax.jit(lambda x, w: x @ w), X, W) == plain
    both = flops.count(jax.grad(lambda w, x: jnp.sum(x @ w)), W, X)
    assert both >= plain


def test_moving_numbers_is_free():
    assert flops.count(lambda x: x.T.reshape(2, 6)[:1].astype(jnp.int32), X) == 0


def test_a_branch_costs_what_its_dearest_costs():
    def branch(p, x, w):
        return jax.lax.cond(p, lambda: x @ w, lambda: jnp.zeros((3, 5)))

    assert flops.count(branch, True, X, W) == 2 * 3 * 4 * 5


def test_a_convolution():
    xs, kernel = jnp.zeros((1, 10, 4)), jnp.zeros((3, 4, 6))

    def convolve(xs, kernel):
        return jax.lax.conv_general_dilated(
            xs, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )

    assert flops.count(convolve, xs, kernel) == 2 * 10 * 6 * 3 * 4
