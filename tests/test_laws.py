"""The seven laws of a cell, over every row of the registry.

One compiled function a case serves most laws: what differs between them is data.
"""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry

import lstm_jax
from lstm_jax.core import Keys
from lstm_jax.engines import deferred
from lstm_jax.engines.native import build
from lstm_jax.errors import UsageError

pytestmark = pytest.mark.usefixtures("strict_types")

reference, B, T, QUICK = registry.reference, registry.B, registry.T, registry.QUICK

SPLIT = 2  # where law 2 cuts


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Lab:
    """A case with its data and its compiled functions."""

    def __init__(self, case):
        self.case, self.cell = case, case.build()
        self.data, self.keys = registry.data_of(self.cell), registry.keys_of(case)
        self.draw = registry.drawing(self.cell, self.keys)
        rng = np.random.default_rng(1)
        out = jax.eval_shape(self.unrolled(), *self.data[:3])
        self.weights = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), out)

    def unrolled(self, cell=None, **options):
        def run(params, carry, xs, **marks):
            key = options.pop("key", self.keys)
            return lstm_jax.unroll(
                cell or self.cell, params, xs, carry, key=key, **options, **marks
            )

        return run

    def graded(self, engine, marks=("lengths", "mask", "resets"), reverse=False, cell=None):
        """(params, carry, xs, *marks) -> (carry, ys), gradients of a weighted sum of both."""
        run = self.unrolled(cell, engine=engine, reverse=reverse)

        def loss(params, carry, xs, given):
            out = run(params, carry, xs, **dict(zip(marks, given, strict=True)))
            parts = jax.tree.map(lambda w, v: (w * v).sum(), self.weights, out)
            return sum(jax.tree.leaves(parts)), out

        def values_and_gradients(params, carry, xs, *given):
            (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
                params, carry, xs, given
            )
            return out, grads

        return jax.jit(values_and_gradients, compiler_options=QUICK)

    def rows(self, params, carry, xs):
        """Every example a batch of its own, under vmap."""

        def one(carry, x, key):
            given = None if self.keys is None else Keys(self.keys.shared, key[None])
            run = self.unrolled(engine="scan", key=given)
            return run(params, jax.tree.map(lambda leaf: leaf[None], carry), x[:, None])

        keys = jnp.zeros(B) if self.keys is None else self.keys.example
        carry, ys = jax.vmap(one, (0, 1, 0))(carry, xs, keys)
        return jax.tree.map(lambda leaf: leaf[:, 0], carry), jnp.moveaxis(ys[:, :, 0], 0, 1)

    def expected(self, data, reverse=False):
        """Values by the reference."""
        params, noise = self.draw(data.params, data.xs)
        args = (data.xs, data.carry._asdict(), data.valid, data.resets, reverse, noise)
        return reference.unroll(self.case.reference(), params, *args)


def close(actual, expected, tol=1e-10, name=""):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=name),
        actual,
        expected,
    )


def same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("case", registry.CASES, ids=str)
def test_laws(case, subtests):
    lab = Lab(case)
    calls = []

    def counting(*args):
        calls.append(1)
        return lab.cell.update(*args)

    run = lab.graded("scan", cell=lab.cell._replace(update=counting))
    out, grads = run(*lab.data)
    with subtests.test("law 1: values of a Python loop"):
        law_values(lab, out, reverse=False)
    with subtests.test("laws 1 and 5: gradients of difference quotients"):
        law_gradients(lab, grads)
    with subtests.test("law 4: padding changes nothing outside itself"):
        law_padding(lab, run, out, grads)
    with subtests.test("law 4: a reset is a fresh start"):
        law_resets(lab, run)
    with subtests.test("law 6: one trace, carry types a fixed point"):
        run(lab.data.params, out[0], *lab.data[2:])
        assert len(calls) == 1
        law_types(lab)
    if registry.in_full(case):
        with subtests.test("law 1: reversed"):
            law_reversed(lab)
    with subtests.test("law 2: two halves are the whole"):
        law_halves(lab, run)
    with subtests.test("law 3: a batch is its rows"):
        law_rows(lab, run)
    for engine in registry.engines(case):
        with subtests.test(f"law 7: {engine} agrees with scan"):
            law_engine(lab, engine, out, grads)


def law_values(lab, out, reverse):
    carry, ys, _ = lab.expected(lab.data, reverse)
    close(out[0]._asdict(), carry, name="carry")
    close(out[1], ys, name="ys")


def law_gradients(lab, grads):
    """Along one random direction of every leaf; `BENT` transforms have tests of their own."""
    if lab.case.names() & registry.BENT:
        return
    rng = np.random.default_rng(2)
    for place in range(3):
        for path, leaf in jax.tree_util.tree_leaves_with_path(lab.data[place]):
            direction = rng.standard_normal(leaf.shape)
            quotient = _quotient(lab, place, path, direction)
            slope = np.vdot(_at(grads[place], path), direction)
            np.testing.assert_allclose(slope, quotient, 2e-6, 2e-7, err_msg=str(path))


def _at(tree, path):
    return dict(jax.tree_util.tree_leaves_with_path(tree))[path]


def _quotient(lab, place, path, direction, step=1e-5):
    def loss(sign):
        moved = jax.tree_util.tree_map_with_path(
            lambda p, leaf: leaf + sign * step * direction if p == path else leaf, lab.data[place]
        )
        data = lab.data._replace(**{lab.data._fields[place]: moved})
        carry, ys, _ = lab.expected(data)
        w_carry, w_ys = lab.weights
        return sum((w_carry._asdict()[k] * carry[k]).sum() for k in carry) + (w_ys * ys).sum()

    return (loss(1) - loss(-1)) / (2 * step)


def poisoned(data):
    """NaN wherever a step does not count."""
    return data._replace(xs=np.where(data.valid[..., None], data.xs, np.nan))


def law_padding(lab, run, out, grads):
    data = lab.data
    same(run(*poisoned(data)), (out, grads))
    (carry, ys), (_, _, dxs) = out, grads
    assert not ys[~data.valid].any() and not dxs[~data.valid].any()
    empty = np.flatnonzero(data.lengths == 0)
    same(jax.tree.map(lambda a: a[empty], carry), jax.tree.map(lambda a: a[empty], data.carry))


def law_resets(lab, run):
    data, at = whole(lab.data), 3
    resets = data.resets.copy()
    resets[at] = True
    (carry, ys), _ = run(*data._replace(resets=resets))
    fresh = jax.tree.map(np.asarray, lab.cell.initial_carry(data.params, (B,)))
    alone = data.mask.copy()
    alone[:at] = False
    (expected, late), _ = run(*data._replace(mask=alone, carry=fresh))
    same((carry, ys[at:]), (expected, late[at:]))


def law_types(lab):
    """In float32, under bfloat16 matmuls, and with bfloat16 parameters."""
    data = lab.data
    for dtype, extra in ((jnp.float32, {}), (jnp.float32, {"dtype": jnp.bfloat16})):
        cell = lab.case.build(**extra)
        cast = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), data[:3])  # noqa: B023
        carry, ys = jax.eval_shape(lab.unrolled(cell, engine="scan"), *cast)
        like = jax.tree.map(lambda a: (a.shape, a.dtype), cast[1])
        assert jax.tree.map(lambda a: (a.shape, a.dtype), carry) == like
        assert ys.dtype == dtype and ys.shape == (T, B, carry.h.shape[-1])


def law_reversed(lab):
    run = lab.unrolled(reverse=True, engine="scan")

    def marked(params, carry, xs, lengths, mask, resets):
        return run(params, carry, xs, lengths=lengths, mask=mask, resets=resets)

    out = jax.jit(marked, compiler_options=QUICK)(*lab.data)
    law_values(lab, out, reverse=True)


def whole(data):
    """Every step of every example counts, and none starts afresh."""
    every = np.ones_like(data.mask)
    return data._replace(lengths=np.full(B, T, np.int32), mask=every, resets=~every)


def law_halves(lab, run):
    """The second half at the place of the first: the same program serves both."""
    if lab.keys and lab.case.names() & registry.PER_STEP:
        return
    data = whole(lab.data)
    (carry, ys), _ = run(*data)
    first = np.full(B, SPLIT, np.int32)
    (middle, early), _ = run(*data._replace(lengths=first))
    rest = data._replace(carry=middle, xs=np.roll(data.xs, -SPLIT, 0), lengths=T - first)
    (last, late), _ = run(*rest)
    close((last, np.concatenate([early[:SPLIT], late[: T - SPLIT]])), (carry, ys))


def law_rows(lab, run):
    """Alone under vmap, or, where that was shown for its kin, among copies of itself."""
    data = whole(lab.data)
    expected = run(*data)[0]
    if registry.in_full(lab.case):
        close(jax.jit(lab.rows, compiler_options=QUICK)(*data[:3]), expected)
        return
    if lab.keys:
        return  # copies would draw each their own
    carry, xs = jax.tree.map(lambda a: a[[1] * B], data.carry), data.xs[:, [1] * B]
    carry, ys = run(*data._replace(carry=carry, xs=xs))[0]
    alone = jax.tree.map(lambda a: a[1], expected[0]), expected[1][:, 1]
    for row in range(B):
        close((jax.tree.map(lambda a: a[row], carry), ys[:, row]), alone)  # noqa: B023


def law_engine(lab, engine, out, grads):
    if engine == "native":
        return law_native(lab, out, grads)
    refused = engine == "cudnn" or (engine == "associative" and lab.cell.info.linear is None)
    if refused:
        with pytest.raises(UsageError, match=f"engine '{engine}' cannot"):
            lab.graded(engine)(*lab.data)
    else:
        close(lab.graded(engine)(*poisoned(lab.data)), (out, grads), 1e-9)


def narrow(tree):
    """Numbers as float32, the only type that compiled code knows."""
    real = lambda a: a.dtype == np.float64  # noqa: E731
    return jax.tree.map(lambda a: a.astype(np.float32) if real(a) else a, tree)


def law_native(lab, out, grads):
    if why := build.missing():
        pytest.skip(why)
    with jax.enable_x64(False):
        single = copy.copy(lab)
        single.weights, data = narrow(lab.weights), narrow(poisoned(lab.data))
        if registry.beyond_native(lab.case):
            with pytest.raises(UsageError, match="engine 'native' cannot"):
                single.graded("native")(*data)
            return
        if lab.keys:  # what is drawn depends on the type
            out, grads = single.graded("scan")(*data)
        close(single.graded("native")(*data), (out, grads), 2e-5)


EVERY_MARK = ("lengths", "mask", "resets")
BACKWARDS = [
    ("lstm", ()),
    ("lstm", EVERY_MARK),
    ("lstm-gates=janet", ("lengths",)),
    ("slstm", EVERY_MARK),
    ("minlstm", ()),
    ("minlstm", EVERY_MARK),
]


@pytest.mark.parametrize(("name", "marks"), BACKWARDS, ids=str)
def test_engines_agree_in_reverse(name, marks, subtests, monkeypatch):
    steps = 2 * B * 3 * registry.H  # two or three steps a block
    monkeypatch.setattr(deferred, "room", lambda: steps)
    monkeypatch.setattr(deferred, "WHOLE", 1)
    lab = Lab(registry.by_name[name])
    given = [getattr(lab.data, mark) for mark in marks]
    expected = lab.graded("scan", marks, reverse=True)(*lab.data[:3], *given)
    for engine in ("deferred", "chunked:4", "associative"):
        if engine == "associative" and lab.cell.info.linear is None:
            continue
        with subtests.test(engine):
            run = lab.graded(engine, marks, reverse=True)
            close(run(*lab.data[:3], *given), expected, 1e-9)
