"""Sequence handling, and every way of calling `unroll` wrongly."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax
from lstm_jax import Carry, Hidden, Keys, UsageError, unroll
from lstm_jax.cells import gru, lstm, lstm_fgr, minlstm, transforms
from lstm_jax.engines import choose

pytestmark = pytest.mark.usefixtures("strict_types")

T, B, D, H = 6, 3, 3, 4
CELL = lstm(H)
LOOSE: Any = unroll  # also of arrays that are not JAX's
LOOSE_CELL: Any = lstm  # also of units that are none
QUICK = registry.QUICK


def made(cell, dtype=jnp.float32):
    """Parameters without the initialisers, which take longest to compile."""
    drawn = registry.random_like(registry.shapes_of(cell), np.random.default_rng(0))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), drawn)


@pytest.fixture(scope="module")
def params():
    return made(CELL)


@pytest.fixture(scope="module")
def xs():
    return jax.random.normal(jax.random.key(1), (T, B, D))


def bools(*rows):
    return np.array([[mark == "1" for mark in row] for row in rows]).T


# One rule for lengths, masks and resets --------------------------------------------------------


def marked(params, xs, **marks):
    reverse = marks.pop("reverse", False)
    run = jax.jit(
        lambda marks: unroll(CELL, params, xs, reverse=reverse, **marks), compiler_options=QUICK
    )
    return run(marks)


@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_masks(params, xs, reverse):
    lengths = np.array([6, 0, 4])
    mask = np.arange(T)[:, None] < lengths
    by_length = marked(params, xs, lengths=lengths, reverse=reverse)
    by_mask = marked(params, xs, mask=mask, reverse=reverse)
    jax.tree.map(np.testing.assert_array_equal, by_length, by_mask)
    assert not by_length[1][:, 1].any() and not by_length[0].h[1].any()


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_holes_close_up(params, xs, reverse):
    """A sequence with holes is the sequence without them; its resets move along."""
    mask, resets = bools("101101", "111111", "011110"), bools("100100", "000000", "010010")
    carry, ys = marked(params, xs, mask=mask, resets=resets, reverse=reverse)
    for b in range(B):
        at = np.flatnonzero(mask[:, b])
        dense = unroll(
            CELL,
            params,
            xs[at][:, [b]],
            resets=jnp.asarray(resets[at][:, [b]]),
            reverse=reverse,
            engine="scan",
        )
        np.testing.assert_allclose(dense[1][:, 0], ys[at, b], 1e-5, 1e-6)
        np.testing.assert_allclose(dense[0].c[0], carry.c[b], 1e-5, 1e-6)


def test_a_reset_in_a_hole_is_none(params, xs):
    mask, resets = bools("110111", "111111", "111111"), bools("001000", "000000", "000000")
    plain, reset = (marked(params, xs, mask=mask, **m) for m in ({}, {"resets": resets}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), plain, reset)


def test_reversed_segments_are_reversed_each_on_its_own(params, xs):
    """Packed segments, run backwards, equal each segment alone run backwards."""
    resets = np.zeros((T, B), bool)
    resets[[0, 2, 5]] = True
    carry, ys = marked(params, xs, resets=resets, reverse=True)
    alone = [unroll(CELL, params, part, reverse=True) for part in jnp.split(xs, [2, 5])]
    np.testing.assert_allclose(np.concatenate([y for _, y in alone]), ys, 1e-5, 1e-6)
    np.testing.assert_allclose(alone[0][0].h, carry.h, 1e-5, 1e-6)


def test_padding_in_front_changes_nothing_in_reverse(params, xs):
    """The last carry is that of the first segment, wherever in the row it begins."""
    resets = np.zeros((T, B), bool)
    resets[0] = True
    plain, _ = marked(params, xs, resets=resets, reverse=True)
    padded = jnp.concatenate([jnp.full((2, B, D), jnp.nan), xs])
    marks = {"resets": np.roll(np.pad(resets, ((0, 2), (0, 0))), 2, 0)}
    marks["mask"] = np.arange(T + 2)[:, None] >= np.full(B, 2)
    shifted, _ = marked(params, padded, reverse=True, **marks)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), plain, shifted)


def test_traced_lengths_serve_one_program(params, xs):
    calls = []

    @jax.jit
    def run(lengths):
        calls.append(1)
        return unroll(CELL, params, xs, lengths=lengths)[0].h

    for lengths in ([1, 2, 3], [0, 6, 6]):
        run(jnp.array(lengths, jnp.int32))
    assert len(calls) == 1


def test_a_carry_without_names_is_refused(params, xs):
    """Nobody can tell (c, h) from the (h, c) of torch and keras by looking at it."""
    start = jnp.ones((B, H)), jnp.zeros((B, H))
    for plain in (start, list(start)):
        with pytest.raises(
            UsageError, match=r"\(c, h\) in this library, \(h, c\) in torch"
        ) as said:
            unroll(CELL, params, xs, plain)
        assert "pass Carry(c=..., h=...)" in str(said.value) and "PyTreeDef" not in str(said.value)
    assert isinstance(unroll(CELL, params, xs, Carry(*start))[0], Carry)


def test_whole_numbers_of_numpy_are_units(xs):
    cell, narrow = LOOSE_CELL(np.int64(H)), cast(Any, transforms.projection)
    projected = narrow(cell, np.int32(2))
    assert unroll(projected, made(projected), xs)[1].shape == (T, B, 2)
    assert unroll(cell, made(cell), xs)[1].shape == (T, B, H)
    for wrong in (np.float64(4), np.bool_(True), np.int64(0)):
        with pytest.raises(UsageError, match="hidden=.*whole number"):
            LOOSE_CELL(wrong)


def test_numpy_and_whole_number_inputs(params):
    for dtype in (np.float64, np.float32, np.int32, jnp.bfloat16):
        with jax.numpy_dtype_promotion("standard"):  # the product widens the inputs
            carry, ys = LOOSE(CELL, params, np.ones((T, B, D), dtype))
        assert ys.dtype == carry.c.dtype == jnp.float32


def test_bfloat16_parameters_give_bfloat16_outputs():
    narrow = made(CELL, jnp.bfloat16)
    carry, ys = unroll(CELL, narrow, jnp.ones((T, B, D), jnp.bfloat16))
    assert ys.dtype == carry.c.dtype == jnp.bfloat16


def test_auto_takes_the_engine_that_fits(monkeypatch):
    monkeypatch.setenv("LSTM_JAX_NATIVE", "0")
    assert choose(minlstm(H))[0] == "associative" and choose(CELL)[0] == "deferred"
    blended = transforms.zoneout(minlstm(H), 0.0, 0.5)
    assert choose(blended)[0] != "associative"


def test_trace_has_outputs_as_its_h(params, xs):
    lengths = jnp.array([6, 0, 3])
    _, ys = unroll(CELL, params, xs, lengths=lengths)
    traced = lstm_jax.trace(CELL, params, xs, lengths=lengths)
    assert set(traced) == {"c", "h", "i", "f", "g", "o"}
    assert {v.shape for v in traced.values()} == {(T, B, H)}
    valid = np.arange(T)[:, None, None] < np.asarray(lengths)[:, None]
    np.testing.assert_allclose(np.where(valid, traced["h"], 0), ys, 1e-5, 1e-6)
    assert not np.where(valid, 0, traced["i"]).any()


# Bad input -------------------------------------------------------------------------------------

LOOSE_NONE: Any = None
STEPS, EXAMPLES = (np.ones((T, B), bool), np.ones((B, T), bool))
BAD = [
    ({"xs": np.ones((T, D))}, r"shape \(6, 3\).*\[T, B, D\].*xs\[:, None\]"),
    ({"xs": np.ones((T, B, D + 1))}, r"D = 4; expected D = 3.*cell.init\(key, 4\)"),
    ({"xs": np.ones((0, B, D))}, r"shape \(0, 3, 3\).*at least one step"),
    ({"xs": np.ones((T, 0, D))}, r"shape \(6, 0, 3\).*at least one"),
    ({"lengths": [7, 1, 1]}, r"lengths holds 7; expected 0..T = 0..6"),
    ({"lengths": [-1, 1, 1]}, r"lengths holds -1; expected 0..T"),
    ({"lengths": [1, 1]}, r"lengths has shape \(2,\); expected \[B\] = \(3,\)"),
    ({"lengths": [[1, 1, 1]]}, r"lengths has shape \(1, 3\)"),
    ({"lengths": [1.0, 2.0, 3.0]}, "lengths has dtype float.*whole numbers"),
    ({"lengths": [True, False, True]}, "lengths has dtype bool.*whole numbers"),
    ({"mask": EXAMPLES}, r"mask has shape \(3, 6\); expected \[T, B\] = \(6, 3\).*transpose"),
    ({"mask": STEPS[:-1]}, r"mask has shape \(5, 3\); expected \[T, B\] = \(6, 3\)"),
    ({"mask": STEPS.astype(np.float32)}, "mask has dtype float32; expected bool: pass mask != 0"),
    ({"mask": STEPS.astype(np.int32)}, "mask has dtype int32; expected bool"),
    ({"resets": np.ones((T + 1, B), bool)}, r"resets has shape \(7, 3\); expected.*\(6, 3\)"),
    ({"resets": STEPS.astype(np.uint8)}, "resets has dtype uint8; expected bool"),
    ({"carry": jnp.zeros((B, H))}, r"carry is an array of shape \(3, 4\); expected Carry\(c, h\)"),
    ({"carry": Hidden(jnp.zeros((B, H)))}, r"carry is Hidden\(h\); expected Carry.*pass Carry\(c="),
    ({"carry": {"c": 0, "h": 0}}, r"carry is a dict; expected Carry\(c, h\)"),
    ({"carry": Carry(jnp.zeros((B, H)), LOOSE_NONE)}, "carry holds None; expected arrays in Carry"),
    (
        {"xs": np.ones((B, T, D), np.float32), "lengths": [1, 1, 1]},
        r"lengths has shape \(3,\); expected \[B\] = \(6,\); xs looks batch-major.*swapaxes",
    ),
    ({"carry": Carry(jnp.zeros((B, H)), jnp.zeros((2, H)))}, r"\[\(3, 4\), \(2, 4\)\]; expected"),
    ({"engine": "scam"}, "unknown engine 'scam'; did you mean 'scan'"),
    ({"engine": "chunked:x"}, "only 'chunked' takes a size"),
    ({"engine": "scan:3"}, "only 'chunked' takes a size"),
    ({"engine": "associative"}, "associative.*'lstm'.*use engine 'scan'"),
    ({"engine": "cudnn"}, "cudnn.*needs an NVIDIA GPU.*use"),
    ({"key": 3}, r"key is 3; expected a typed PRNG key: jax.random.key\(seed\)"),
    ({"key": np.array([0, 1], np.uint32)}, "expected a typed PRNG key.*wrap_key_data"),
    ({"key": jax.random.PRNGKey(0)}, r"key is uint32\[2\].*wrap_key_data"),
    ({"key": jax.random.split(jax.random.key(0), 2)}, r"shape \(2,\).*\[B\] = \(3,\).*split"),
    (
        {"key": Keys(jax.random.key(0), jax.random.split(jax.random.key(0), 4))},
        r"shape \(4,\).*\[B\] = \(3,\)",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
def test_refusals(params, wrong, message):
    arguments = {"xs": np.ones((T, B, D), np.float32), **wrong}
    with pytest.raises(UsageError, match=f"(?s){message}") as caught:
        unroll(CELL, params, **arguments)
    assert isinstance(caught.value, ValueError)


def of_another(wrong):
    """Parameters that do not fit CELL."""
    good = made(CELL)
    return {
        "none": None,
        "a list": [good],
        "another cell's": made(gru(H)),
        "one that has more": made(lstm_fgr(H)),
        "one that has less": {k: v for k, v in good.items() if k != "bias"},
        "an empty place": good | {"bias": None},
        "other units": made(lstm(H + 1)),
        "two types": good | {"bias": good["bias"].astype(jnp.bfloat16)},
    }[wrong]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("none", r"params is None; expected the dict of arrays that cell.init\(key, 3\) returns"),
        ("a list", r"params is a plain list of 1; expected the dict"),
        ("another cell's", "the unknown recurrent_bias; expected bias, kernel, recurrent_kernel"),
        ("one that has more", "the unknown gate_kernel.*cell that made these params"),
        ("one that has less", "params has no bias; expected bias, kernel, recurrent_kernel"),
        ("an empty place", "params has no bias"),
        (
            "other units",
            r"params\['bias'\] has shape \(20,\); expected \(16,\).*'lstm' with hidden=4",
        ),
        ("two types", r"mix bfloat16 \(bias\) and float32 \(kernel\).*astype\('float32'\)"),
    ],
)
@pytest.mark.parametrize("engine", ["auto", "scan"])
def test_parameters_that_do_not_fit(wrong, message, engine, xs):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        LOOSE(CELL, of_another(wrong), xs, engine=engine)


def test_refusals_reach_through_jit(params):
    """Shapes are known while tracing, so the message is the same."""
    with pytest.raises(UsageError, match="lengths has shape"):
        jax.jit(lambda n: unroll(CELL, params, jnp.ones((T, B, D)), lengths=n))(jnp.ones(2, int))


def test_inputs_wider_than_the_parameters():
    narrow = made(gru(H), jnp.bfloat16)
    with pytest.raises(UsageError, match=r"float32, wider.*bfloat16.*xs.astype\(bfloat16\)"):
        unroll(gru(H), narrow, jnp.ones((T, B, D)))
