"""Compiled code: shapes at a vector's edges, threads, what surrounds a call, and doing without."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
from jax import export
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import lstm_jax
from lstm_jax.cells import gru, lstm, slstm
from lstm_jax.cells.transforms import zoneout
from lstm_jax.compute import flops
from lstm_jax.core import Cell, Hidden, Info
from lstm_jax.engines import choose, native
from lstm_jax.engines.masking import Step, stepping
from lstm_jax.engines.native import build, call
from lstm_jax.errors import UsageError
from lstm_jax.ops import dot

pytestmark = pytest.mark.usefixtures("strict_types")
compiles = pytest.mark.skipif(bool(build.missing()), reason=build.missing() or "it compiles")

T, B, D, H = 5, 3, 4, 5


def problem(cell, batch=B, features=D, steps=T):
    drawn = registry.random_like(registry.shapes_of(cell, features), np.random.default_rng(0), 0.3)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)
    return params, jax.random.normal(jax.random.key(1), (steps, batch, features))


def loss(cell, engine, params, xs, **options):
    carry, ys = lstm_jax.unroll(cell, params, xs, engine=engine, **options)
    return jnp.mean(jnp.sin(ys)) + sum(jnp.mean(jnp.cos(leaf)) for leaf in carry)


def quick(function, *given):
    return jax.jit(function, compiler_options=registry.QUICK)(*given)


def normed(hidden):
    """A cell whose units see sums over all of them."""
    return lstm(hidden, layer_norm="recirculated")


def gradients(cell, engine, params, xs, **options):
    run = jax.value_and_grad(partial(loss, cell, engine, **options), (0, 1))
    return quick(run, params, xs)


def assert_same(ours, theirs, tolerance=2e-5):
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, ours, theirs)


@compiles
@pytest.mark.parametrize("trials", [(), (2,)])
def test_a_call_costs_the_products_of_other_engines(trials):
    """Counted as what it computes, alone and for several trials."""
    cell = lstm(H)
    params, xs = problem(cell)
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*trials, *leaf.shape)), params)

    def products(engine, params):
        run = jax.value_and_grad(partial(loss, cell, engine), (0, 1))
        run = jax.vmap(run, (0, None)) if trials else run
        return flops.tally(run, params, xs)["dot_general"]

    assert products("native", many) == products("scan", many)


# Shapes -----------------------------------------------------------------------------------------


EDGES = [(1, 1, 2), (2, 17, 15), (7, 3, 16), (13, 33, 17), (1, 2, 100), (14, 16, 33)]


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("make", "sizes"),
    [*((lstm, sizes) for sizes in EDGES), *((normed, sizes) for sizes in EDGES[1:4])],
)
def test_shapes_at_the_edges_of_vectors(monkeypatch, make, sizes, threads):
    """Alone, sharing the rows of a batch, and sharing the units of a small one."""
    monkeypatch.setattr(call, "SMALL", 0)
    monkeypatch.setattr(call, "cores", lambda: threads)
    batch, features, hidden = sizes
    monkeypatch.setattr(call, "ROWS", 2 * batch)  # three blocks of steps going back
    cell = make(hidden)
    params, xs = problem(cell, batch, features)
    for reverse in (False, True):
        ours, theirs = (
            gradients(cell, engine, params, xs, reverse=reverse) for engine in ("native", "scan")
        )
        assert_same(ours, theirs)


def twice(project, params, xs, keys):
    return project(params, xs, keys) + 0.1 * (xs @ params["kernel"])


def beside(project, params, xs, keys):
    return project(params, xs, keys) + xs.sum(-1, keepdims=True)


def squared(project, params, xs, keys):
    return project(params | {"kernel": params["kernel"] ** 2}, xs, keys)


def without(project, params, xs, keys):
    return jnp.broadcast_to(params["bias"], (*xs.shape[:2], params["bias"].size))


def stretched(project, params, xs, keys):
    return 2 * project(params, jnp.tanh(xs), keys) ** 2


@compiles
@pytest.mark.parametrize(
    ("change", "inside"),
    [(twice, False), (beside, False), (squared, False), (without, False), (stretched, True)],
)
def test_what_becomes_of_the_input(change, inside):
    """The call projects what one product x W leads to; other projections are left to JAX."""
    cell = lstm(H)
    cell = cell._replace(project=lambda p, xs, keys=None: change(lstm(H).project, p, xs, keys))
    params, xs = problem(cell)
    ours, theirs = (gradients(cell, engine, params, xs) for engine in ("native", "scan"))
    assert_same(ours, theirs)
    start = jax.eval_shape(lambda p: cell.initial_carry(p, (B,)), params)
    made = native.plan(stepping(cell), params, start, Step(xs))
    assert not isinstance(made, str) and (made.kernel >= 0) == inside


@compiles
def test_every_operation_in_c():
    """A cell that uses each once: C and JAX agree, in values and gradients."""

    def update(params, carry, gate):
        u, h = gate.raw("u"), carry.h
        near = jnp.tanh(u)
        parts = [jnp.exp(u), jnp.log(2.0 + near), jnp.log1p(near**2), jnp.expm1(u), -u]
        parts += [jax.nn.sigmoid(u), jnp.abs(u), jnp.sign(u) * h, jnp.sqrt(1.5 + near), jnp.sin(u)]
        parts += [
            jnp.cos(u),
            jax.scipy.special.erf(u),
            jnp.power(1.5 + near, 0.3),
            (2.0 + near) ** -2,
        ]
        parts += [
            jnp.maximum(u, h),
            jnp.minimum(u, h),
            jax.lax.rsqrt(1.5 + near),
            jnp.clip(u, 0, 1),
        ]
        low, same = (u < h) | (u <= 0.1), (u == h) | (u != u)
        parts += [jnp.where(low & ~same, u, 0.2), jnp.where((u > 0.3) ^ (u >= 0.5), h, u)]
        h = jnp.tanh(sum(parts) / len(parts) + params["shift"] / 3.0)
        return Hidden(h), h

    cell = bare(update)
    params, xs = problem(cell)
    ours, theirs = (gradients(cell, engine, params, xs) for engine in ("native", "scan"))
    assert_same(ours, theirs)


def bare(update):
    """A cell h' = update(x W + h R)."""
    inner = gru(H)

    def init(key, in_features):
        shapes = {"kernel": (in_features, H), "recurrent_kernel": (H, H), "shift": (H,)}
        return {name: jnp.ones(shape) for name, shape in shapes.items()}

    def project(params, xs, keys=None):
        return dot(xs, params["kernel"])

    def recur(params, carry):
        return dot(carry.h, params["recurrent_kernel"])

    def merge(params, z, r):
        return z + r

    info = Info("bare", H, ("h",), blocks=(("u",),), late=("u",))
    return Cell(init, inner.initial_carry, project, recur, merge, update, info=info)


@pytest.mark.slow
@compiles
def test_not_a_number_stays_where_it_was():
    cell = lstm(H)
    params, xs = problem(cell)
    holed = xs.at[2, 1].set(jnp.nan)
    ours, theirs = (
        lstm_jax.unroll(cell, params, holed, engine=engine)[1] for engine in ("native", "scan")
    )
    np.testing.assert_array_equal(jnp.isnan(ours), jnp.isnan(theirs))
    assert jnp.isnan(ours).any() and not jnp.isnan(ours).all()
    huge = jax.tree.map(lambda leaf: 1e4 * leaf, params)
    for cell in (lstm(H), slstm(H)):
        ours, theirs = (lstm_jax.unroll(cell, huge, xs, engine=e)[1] for e in ("native", "scan"))
        assert_same(ours, theirs)


# Around a call ----------------------------------------------------------------------------------


@pytest.mark.slow
@compiles
@pytest.mark.parametrize("trials", [2, 9])
def test_trials_side_by_side(monkeypatch, trials):
    """vmap over parameters, over inputs, over both and nested; many trials are shared out."""
    monkeypatch.setattr(call, "SMALL", 0)
    monkeypatch.setattr(call, "cores", lambda: 3)
    cell = lstm(H, peepholes="diagonal")
    params, xs = problem(cell)
    many = jax.tree.map(lambda leaf: jnp.stack([(1 + k / 9) * leaf for k in range(trials)]), params)
    lots = jnp.stack([(1 + k / 5) * xs for k in range(2)])

    def run(engine):
        grads = jax.value_and_grad(partial(loss, cell, engine), (0, 1))
        over_params = jax.vmap(grads, (0, None))
        return over_params(many, xs), jax.vmap(over_params, (None, 0))(many, lots)

    assert_same(*(quick(lambda e=e: run(e)) for e in ("native", "scan")))


@pytest.mark.slow
@compiles
def test_higher_derivatives():
    cell = lstm(H)
    params, xs = problem(cell)

    def curvature(engine):
        slope = jax.grad(partial(loss, cell, engine))
        return jax.grad(lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(slope(p, xs))))(params)

    ours, theirs = (quick(lambda e=e: curvature(e)) for e in ("native", "scan"))
    assert_same(ours, theirs, 1e-4)
    along = (jnp.ones_like(xs),)
    ours, theirs = (
        jax.jvp(partial(loss, cell, engine, params), (xs,), along) for engine in ("native", "scan")
    )
    assert_same(ours, theirs)


@compiles
def test_a_rate_that_is_learned():
    """What rides along has a gradient too, where somebody asks for it."""
    params, xs = problem(lstm(H))

    def of_rates(engine):
        run = lambda c, h: loss(zoneout(lstm(H), c, h), engine, params, xs)  # noqa: E731
        return jax.grad(run, (0, 1))(0.2, 0.1)

    assert_same(*(quick(lambda e=e: of_rates(e)) for e in ("native", "scan")))


@compiles
@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "cuda"]])
def test_an_exported_program_holds_no_code_of_this_machine(platforms):
    cell = lstm(H)
    params, xs = problem(cell)
    run = jax.jit(jax.value_and_grad(partial(loss, cell, "native")))
    exported = export.export(run, platforms=platforms)(params, xs)
    again = export.deserialize(exported.serialize())
    assert "@lstm_jax_native" not in exported.mlir_module()
    assert_same(again.call(params, xs), run(params, xs))


@pytest.mark.slow
@compiles
def test_several_devices(monkeypatch):
    """Each its own share; and where the compiler shares, it gets operations that it can share."""
    cell = lstm(H)
    params, xs = problem(cell, batch=4)
    plain = gradients(cell, "scan", params, xs)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], axis_types=(AxisType.Auto,))
    share = lambda p, x: jax.lax.pmean(loss(cell, "native", p, x), "data")  # noqa: E731
    mapped = jax.shard_map(share, mesh=mesh, in_specs=(P(), P(None, "data")), out_specs=P())
    run = jax.jit(jax.value_and_grad(mapped, (0, 1)))
    assert "lstm_jax_native" in run.lower(params, xs).as_text()
    assert_same(run(params, xs), plain)
    spread = jax.device_put(xs, jax.sharding.NamedSharding(mesh, P(None, "data")))
    by_compiler = jax.jit(jax.value_and_grad(partial(loss, cell, "native"), (0, 1)))
    assert "lstm_jax_native" not in by_compiler.lower(params, spread).as_text()
    assert_same(by_compiler(params, spread), plain)


# Doing without ----------------------------------------------------------------------------------


@pytest.fixture
def nothing_known():
    """Whatever this process knows of compilers is forgotten, before and after."""

    def forget():
        for known in (build.compiler, build.version, build.core, build.cell):
            known.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LSTM_JAX_NATIVE", "0", "LSTM_JAX_NATIVE=0 turns it off"),
        ("CXX", "no-such-compiler", "no C[+][+] compiler is there"),
        ("CXX", "false", "false failed: exit code 1"),
    ],
)
def test_without_a_compiler_all_is_as_before(monkeypatch, nothing_known, name, value, said):
    monkeypatch.setenv(name, value)
    cell = lstm(H)
    params, xs = problem(cell)
    assert choose(cell)[0] == "deferred"
    with pytest.raises(UsageError, match=f"engine 'native' cannot serve: .*{said}"):
        lstm_jax.unroll(cell, params, xs, engine="native")
    ours, theirs = (lstm_jax.unroll(cell, params, xs, engine=e) for e in ("auto", "scan"))
    assert_same(ours, theirs)


@compiles
def test_a_cache_that_cannot_be_written(monkeypatch, nothing_known, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LSTM_JAX_CACHE", str(blocked))
    assert "cannot be written" in choose(lstm(H))[1]


@compiles
def test_code_is_compiled_once(monkeypatch, nothing_known):
    """The second process finds what the first one left."""
    assert choose(lstm(H))[0] == "native"
    build.cell.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert choose(lstm(H))[0] == "native"


@pytest.mark.slow
def test_other_types_are_left_to_others():
    with jax.enable_x64(True):
        cell = lstm(H)
        params, xs = cell.init(jax.random.key(0), D), jnp.ones((T, B, D))
        with pytest.raises(UsageError, match="computes in float32 and this is float64"):
            lstm_jax.unroll(cell, params, xs, engine="native")
        assert lstm_jax.unroll(cell, params, xs)[1].dtype == jnp.float64
    reason: Any = choose(lstm(H, dtype=jnp.bfloat16))
    assert reason[0] == "deferred" and "bfloat16" in reason[1]
