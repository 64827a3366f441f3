"""What other JAX code does around an unroll: meshes, export, forward mode, x64, other libraries.

Every law here is one number: values and gradients equal those of plain `scan`, called plainly.
"""

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import registry
from flax import nnx
from flax.core import FrozenDict
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import Carry, Cell, Hidden, Info, cells, trace, unroll
from lstm_jax.cells import transforms
from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.engines import ENGINES
from lstm_jax.model.layers import Recurrent
from lstm_jax.model.model import build_model
from lstm_jax.ops import dot
from lstm_jax.tasks.task import Spec

ROOT = Path(__file__).parent.parent
T, B, D, H = 6, 4, 2, 3
LOOSE: Any = unroll  # also of arrays that are not JAX's


def stack():
    """Everything rides along at once: notes, holds, drawn masks, a learned start."""
    cell = transforms.recurrent_dropout(cells.lstm(H), 0.3)
    cell = transforms.variational_dropout(cell, 0.2, 0.2)
    return transforms.learned_carry(transforms.zoneout(cell, 0.2, 0.1))


CELLS = {
    "lstm": cells.lstm(H),
    "full peepholes": cells.lstm(H, peepholes="full"),
    "gru before": cells.gru(H, reset="before"),
    "slstm": cells.slstm(H),
    "minlstm": cells.minlstm(H),
    "stack": stack(),
}
# Every engine, every cell; all engines with the LSTM, and with everything at once what has a VJP
# of its own.
RUNS = [("lstm", engine) for engine in ("scan", "deferred", "chunked:4")]
RUNS += [("full peepholes", "deferred"), ("gru before", "chunked:4"), ("slstm", "deferred")]
RUNS += [("minlstm", "associative"), ("stack", "deferred"), ("stack", "chunked:4")]
CPU_ENGINES = [name for name in ENGINES if name not in ("cudnn", "pallas")]
everywhere = pytest.mark.parametrize(("name", "engine"), RUNS)


quick = partial(jax.jit, compiler_options=registry.QUICK)


def problem(cell, batch=B):
    drawn = registry.random_like(registry.shapes_of(cell, D), np.random.default_rng(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)
    return params, jax.random.normal(jax.random.key(1), (T, batch, D))


def loss(cell, params, xs, engine="scan", **options):
    carry, ys = unroll(cell, params, xs, engine=engine, **options)
    return jnp.mean(jnp.sin(ys)) + sum(jnp.mean(jnp.tanh(leaf) ** 2) for leaf in carry)


def gradients(cell, params, xs, **options):
    return quick(jax.value_and_grad(partial(loss, cell, **options), (0, 1)))(params, xs)


def assert_same(ours, theirs, tolerance=2e-5):
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, jax.device_get(ours), jax.device_get(theirs))


def mesh_of(kind=None):
    """Two devices; by default with the axes `jax.make_mesh` makes, which are explicit ones."""
    types = {} if kind is None else {"axis_types": (kind,)}
    return jax.make_mesh((2,), ("data",), devices=jax.devices()[:2], **types)


# Meshes ----------------------------------------------------------------------------------------

MARKS = {
    "plain": {},
    "lengths": {"lengths": jnp.array([6, 0, 4, 1])},
    "resets": {"resets": jnp.arange(T)[:, None] == jnp.array([0, 2, 3, 9]), "reverse": True},
}


@cache
def plainly(name, marks="plain"):
    """What every law compares with: `gradients` of plain `scan`."""
    return gradients(CELLS[name], *problem(CELLS[name]), **MARKS[marks])


# Every cell with lengths; what else there is with one, whose step is no different.
MARKED = [(*run, "lengths") for run in RUNS]
MARKED += [("lstm", e, marks) for e in ("scan", "deferred", "chunked:4") for marks in MARKS]
marked = pytest.mark.parametrize(("name", "engine", "marks"), dict.fromkeys(MARKED))


@pytest.mark.slow
@marked
def test_shard_map(name, engine, marks):
    """The batch over two devices, `check_vma` on, parameters whole on both."""
    cell, wanted, marks = CELLS[name], plainly(name, marks), dict(MARKS[marks])
    params, xs = problem(cell)
    reverse = marks.pop("reverse", False)
    specs = {"lengths": P("data"), "resets": P(None, "data")}

    def share(params, xs, marks):
        value = loss(cell, params, xs, engine=engine, reverse=reverse, **marks)
        return jax.lax.pmean(value, "data")

    given = P(), P(None, "data"), {k: specs[k] for k in marks}
    mapped = jax.shard_map(share, mesh=mesh_of(AxisType.Auto), in_specs=given, out_specs=P())
    run = quick(jax.value_and_grad(mapped, (0, 1)))
    assert_same(run(params, xs, marks), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["scan", "deferred", "chunked:4"])
def test_shard_map_with_gradients_inside_and_randomness(engine):
    """The gradient taken by each device, and keys and a carry handed in."""
    cell = CELLS["stack"]
    params, xs = problem(cell)
    keys = jax.random.split(jax.random.key(3), B)
    start = Carry(jnp.ones((B, H)), jnp.ones((B, H)) / 2)

    def run(params, xs, start, keys):
        return jax.grad(lambda p: loss(cell, p, xs, engine, carry=start, key=keys))(params)

    def share(*given):
        return jax.tree.map(lambda g: g / 2, run(*given))  # summed over devices by shard_map

    rows = P(None, "data"), P("data"), P("data")
    mesh = mesh_of(AxisType.Auto)
    mapped = jax.shard_map(share, mesh=mesh, in_specs=(P(), *rows), out_specs=P())
    assert_same(quick(mapped)(params, xs, start, keys), quick(run)(params, xs, start, keys))


@pytest.mark.slow
@marked
def test_a_sharded_batch(name, engine, marks):
    """Nothing is sharded but the batch, and the lengths with it; the mesh set or not."""
    cell, mesh, plain = CELLS[name], mesh_of(), plainly(name, marks)
    params, xs = problem(cell)
    marks = dict(MARKS[marks])
    xs = jax.device_put(xs, NamedSharding(mesh, P(None, "data")))
    if "lengths" in marks:
        marks["lengths"] = jax.device_put(marks["lengths"], NamedSharding(mesh, P("data")))
    assert_same(gradients(cell, params, xs, engine=engine, **marks), plain)
    if name == "lstm":
        with jax.set_mesh(mesh):
            assert_same(gradients(cell, params, xs, engine=engine, **marks), plain)


@pytest.mark.parametrize("engine", ["scan", "deferred", "chunked:4"])
def test_a_batch_sharded_by_the_compiler(engine):
    """Axes that JAX fills in by itself."""
    cell, mesh = CELLS["stack"], mesh_of(AxisType.Auto)
    params, xs = problem(cell)
    plain = plainly("stack")
    with jax.set_mesh(mesh):
        xs = jax.device_put(xs, NamedSharding(mesh, P(None, "data")))
        assert_same(gradients(cell, params, xs, engine=engine), plain)


@pytest.mark.slow
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("engine", ["scan", "deferred", "chunked:4"])
def test_shard_map_op_by_op(engine, check):
    cell = CELLS["lstm"]
    params, xs = problem(cell)
    run, rows = partial(unroll, cell, engine=engine), P(None, "data")
    mesh, out = mesh_of(AxisType.Auto), (P("data"), rows)
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(P(), rows), out_specs=out, check_vma=check)
    assert_same(mapped(params, xs), unroll(cell, params, xs, engine="scan"))


@pytest.mark.parametrize("engine", ["auto", "scan", "deferred", "chunked:4"])
def test_an_explicit_mesh_with_a_carry_a_key_and_a_long_sequence(engine):
    """A carry that nobody sharded, one key for all, blocks and a forward pass alone."""
    cell, mesh = cells.lstm(128), mesh_of()
    params = cell.init(jax.random.key(0), D)
    xs = jax.random.normal(jax.random.key(1), (257, 32, D))
    options: dict[str, Any] = {"key": jax.random.key(2), "carry": cell.initial_carry(params, (32,))}
    plain = jax.jit(lambda p, xs: unroll(cell, p, xs, engine="scan", **options))(params, xs)
    with jax.set_mesh(mesh):
        xs = jax.device_put(xs, NamedSharding(mesh, P(None, "data")))
        carry, ys = jax.jit(lambda p, xs: unroll(cell, p, xs, engine=engine, **options))(params, xs)
        assert_same((carry, ys), plain)
        assert ys.sharding.spec[1] == "data"


@pytest.mark.parametrize("where", ["explicit", "shard_map"])
def test_traces_on_meshes(where):
    cell, mesh = CELLS["full peepholes"], mesh_of()
    params, xs = problem(cell)
    plain = trace(cell, params, xs)
    run = partial(trace, cell)
    if where == "shard_map":
        given, out = (P(), P(None, "data")), P(None, "data")
        mesh = mesh_of(AxisType.Auto)
        run = jax.shard_map(run, mesh=mesh, in_specs=given, out_specs=out)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(xs, NamedSharding(mesh, P(None, "data")))
        assert_same(jax.jit(run)(params, sharded), plain)


# Programs ---------------------------------------------------------------------------------------


@pytest.mark.slow
@everywhere
def test_export_with_symbolic_batch_and_time(name, engine):
    """One exported program serves every T and B: the loss and its gradient."""
    if engine == "associative":
        engine = "auto"  # which takes an engine that can
    cell = CELLS[name]
    steps, batch = export.symbolic_shape("T, B")
    of = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    params, xs = problem(cell)

    def run(params, xs, lengths):
        run = partial(loss, cell, lengths=lengths, key=jax.random.key(2), engine=engine)
        return jax.value_and_grad(run, (0, 1))(params, xs)

    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    exported = export.export(jax.jit(run))(
        jax.tree.map(lambda leaf: of(leaf.shape), params), of((steps, batch, D)), lengths
    )
    for t, b in ((T, B), (5, 1)):
        given = xs[:t, :b], jnp.arange(b, dtype=jnp.int32) % (t + 1)
        wanted = gradients(cell, params, given[0], lengths=given[1], key=jax.random.key(2))
        assert_same(exported.call(params, *given), wanted)


def test_an_engine_that_cannot_serve_a_symbolic_time_says_so():
    cell = CELLS["minlstm"]
    (steps,) = export.symbolic_shape("T")
    params, _ = problem(cell)
    xs = jax.ShapeDtypeStruct((steps, B, D), jnp.float32)
    with pytest.raises(ValueError, match="associative.*symbolic.*'auto'"):
        export.export(jax.jit(partial(unroll, cell, params, engine="associative")))(xs)


@pytest.mark.slow
@everywhere
def test_disable_jit(name, engine):
    cell = CELLS[name]
    params, xs = problem(cell)
    wanted = plainly(name, "lengths")
    with jax.disable_jit():
        run = partial(loss, cell, engine=engine, **MARKS["lengths"])
        assert_same(jax.value_and_grad(run, (0, 1))(params, xs), wanted)


@pytest.mark.slow
@everywhere
def test_forward_mode(name, engine):
    """jvp, jacfwd and forward over reverse: engines whose gradients are their own step aside."""
    cell = CELLS[name]
    params, xs = problem(cell)
    along = jax.tree.map(jnp.ones_like, params)
    by_scan = quick(lambda *p: jax.jvp(lambda p: loss(cell, p, xs), *p))((params,), (along,))
    assert_same(jax.jvp(lambda p: loss(cell, p, xs, engine), (params,), (along,)), by_scan)
    assert_same(jax.jacfwd(partial(loss, cell, params, engine=engine))(xs), plainly(name)[1][1])

    @jax.jit
    def bent(engine_of):
        slope = jax.grad(lambda p: loss(cell, p, xs, engine_of.value))
        return jax.jvp(slope, (params,), (along,))[1]

    assert_same(bent(Static(engine)), bent(Static("scan")), 1e-4)


@jax.tree_util.register_static
class Static(str):
    @property
    def value(self):
        return str(self)


def test_forward_mode_of_a_compiled_program_takes_scan():
    """There nobody sees it coming: JAX says that it cannot, `scan` can."""
    cell = CELLS["lstm"]
    params, xs = problem(cell)
    along = jnp.ones_like(xs)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.jit(partial(loss, cell, params, engine="auto")), (xs,), (along,))
    compiled = jax.jit(partial(loss, cell, params, engine="scan"))
    plain = jax.jvp(partial(loss, cell, params), (xs,), (along,))
    assert_same(jax.jvp(compiled, (xs,), (along,)), plain)
    assert "jvp" in (unroll.__doc__ or "")


# Keys -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "chunked", "chunked:100"])
def test_a_key_with_time_padded_to_whole_blocks_in_eager_mode(engine):
    cell = cells.lstm(64)
    params, xs, key = cell.init(jax.random.key(0), 1), jnp.ones((257, 64, 1)), jax.random.key(1)
    ours = unroll(cell, params, xs, key=key, engine=engine)
    assert_same(ours, unroll(cell, params, xs, key=key, engine="scan"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
def test_what_holds_with_fast_keys(kind):
    """The same call draws the same, each engine alike without blocks; rows are another matter."""
    cell = CELLS["stack"]
    params, xs = problem(cell)
    key = jax.random.key(5, impl=kind)
    run = quick(lambda key: unroll(cell, params, xs, key=key)[1])
    first, again, other = (run(k) for k in (key, key, jax.random.key(5)))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert_same(first, unroll(cell, params, xs, key=key, engine="scan")[1])
    doc = unroll.__doc__ or ""
    assert "rbg" in doc and "rows" in doc


@pytest.mark.slow
def test_the_usual_keys_give_every_row_its_own():
    """What fast keys do not promise: a batch equals its rows."""
    cell = CELLS["stack"]
    params, xs = problem(cell)
    keys = jax.random.split(jax.random.key(5), B)
    run = quick(lambda xs, keys: unroll(cell, params, xs, key=keys)[1])
    whole = run(xs, keys)
    rows = [run(xs[:, [b]], keys[b : b + 1]) for b in range(B)]
    assert_same(whole, jnp.concatenate(rows, 1))


# Parameters -------------------------------------------------------------------------------------


@pytest.mark.slow
@everywhere
def test_leaves_that_are_whole_numbers(name, engine):
    """A step counter among the parameters; its gradient is JAX's float0."""
    cell = CELLS[name]
    params, xs = problem(cell)
    counted = params | {"count": jnp.int32(3)}
    ours = quick(jax.grad(partial(loss, cell, engine=engine), allow_int=True))(counted, xs)
    assert ours.pop("count").dtype == jax.dtypes.float0
    assert_same(ours, plainly(name)[1][0])


def partitioned(params):
    """As equinox does: what is differentiated, and the rest, None where the other has it."""
    real = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)  # noqa: E731
    some = jax.tree.map(lambda leaf: leaf if real(leaf) else None, params)
    return some, jax.tree.map(lambda leaf: None if real(leaf) else leaf, params)


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_parameters_parted_as_equinox_does(engine):
    name = "minlstm" if engine == "associative" else "lstm"
    cell = CELLS[name]
    params, xs = problem(cell)
    some, rest = partitioned(params | {"count": jnp.int32(3)})

    @jax.jit
    def slope(some):
        def run(some):
            joined = {k: rest[k] if v is None else v for k, v in some.items()}
            return loss(cell, joined, xs, engine)

        return jax.grad(run)(some)

    ours = slope(some)
    assert ours.pop("count") is None
    assert_same(ours, plainly(name)[1][0])


@everywhere
def test_frozen_dicts(name, engine):
    cell = CELLS[name]
    params, xs = problem(cell)
    ours = quick(jax.grad(partial(loss, cell, engine=engine)))(FrozenDict(params), xs)
    assert isinstance(ours, FrozenDict)
    assert_same(dict(ours), plainly(name)[1][0])


@pytest.mark.parametrize("engine", ["auto", "scan", "deferred", "chunked:4"])
def test_parameters_as_numpy_arrays(engine):
    cell = cells.lstm(H)
    params, xs = problem(cell)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)  # a file has them so
    assert_same(LOOSE(cell, wide, xs, engine=engine), unroll(cell, params, xs, engine="scan"))


def bare_cell():
    """A stranger's cell: no bias, nested parameters, a counter, no gates."""

    def init(key, in_features):
        k_w, k_r = jax.random.split(key)
        kernels = {
            "w": jax.random.normal(k_w, (in_features, H)),
            "r": jax.random.normal(k_r, (H, H)),
        }
        return {"kernels": kernels, "count": jnp.int32(2)}

    def initial_carry(params, batch_shape):
        return Hidden(jnp.zeros((*batch_shape, H)))

    def project(params, xs, keys=None):
        return dot(xs, params["kernels"]["w"])

    def recur(params, carry):
        return dot(carry.h, params["kernels"]["r"])

    def merge(params, z, r):
        return z + r

    def update(params, carry, gate):
        h = jnp.tanh(gate.raw("u")) / params["count"]
        return Hidden(h), h

    info = Info("bare", H, ("h",), blocks=(("u",),), late=("u",))
    return Cell(init, initial_carry, project, recur, merge, update, info=info)


class Counting(NamedTuple):
    h: Any
    count: Any


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "scan", "deferred", "chunked:4"])
def test_a_carry_that_counts(engine):
    """Whole numbers in the carry have no gradient; the rest of it has."""
    inner = bare_cell()

    def update(params, carry, gate):
        h = jnp.tanh(gate.raw("u")) / (1 + carry.count[:, None])
        return Counting(h, carry.count + 1), h

    def initial_carry(params, batch_shape):
        return Counting(jnp.zeros((*batch_shape, H)), jnp.zeros(batch_shape, int))

    cell = inner._replace(update=update, initial_carry=initial_carry)
    params, xs = inner.init(jax.random.key(0), D), problem(cells.lstm(H))[1]

    def total(xs, engine):
        carry, ys = unroll(cell, params, xs, engine=engine)
        return jnp.sum(ys**2) + jnp.sum(carry.count)

    run = jax.value_and_grad(total)
    ours = run(xs, engine)
    assert_same(ours, quick(partial(run, engine="scan"))(xs))
    assert ours[0] > T * B


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "scan", "deferred", "chunked:4"])
def test_a_stranger_s_cell_without_a_bias(engine):
    cell = bare_cell()
    params, xs = cell.init(jax.random.key(0), D), problem(cells.lstm(H))[1]
    h, hs = jnp.zeros((B, H)), []
    for x in xs:
        h = jnp.tanh(x @ params["kernels"]["w"] + h @ params["kernels"]["r"]) / 2
        hs.append(h)
    assert_same(unroll(cell, params, xs, engine=engine)[1], jnp.stack(hs))
    slope = partial(jax.grad, allow_int=True)
    ours, theirs = (slope(partial(loss, cell, engine=e))(params, xs) for e in (engine, "scan"))
    assert_same(ours["kernels"], theirs["kernels"])


# Other libraries --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "stack"])
def test_nnx_layers_under_its_transforms(name):
    """nnx.jit and nnx.grad about a layer, split and merged."""
    cell = CELLS[name]
    _, xs = problem(cell)
    layer = Recurrent(cell, D, jax.random.key(0))

    @nnx.jit
    def slope(layer, xs):
        return nnx.grad(lambda layer: jnp.mean(layer(xs)[1] ** 2))(layer)

    graph, state = nnx.split(layer)
    params = nnx.to_pure_dict(state)["forward"]
    wanted = jax.grad(lambda p: jnp.mean(unroll(cell, p, xs, engine="scan")[1] ** 2))(params)
    assert_same(nnx.to_pure_dict(slope(layer, xs))["forward"], wanted)
    assert_same(nnx.merge(graph, state)(xs)[1], layer(xs)[1])


@pytest.mark.parametrize("engine", ["auto", "scan", "chunked:4"])
@pytest.mark.parametrize("frozen", [False, True])
def test_an_optax_loop_learns(engine, frozen):
    """Fifty steps of Adam in one scan: parameters keep their types, the loss falls."""
    cell = cells.lstm(H)
    params, xs = problem(cell)
    params = FrozenDict(params) if frozen else params
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.03))

    def error(params):
        return jnp.mean((unroll(cell, params, xs, engine=engine)[1][-1] - 0.3) ** 2)

    def step(state, _):
        params, moments = state
        value, slope = jax.value_and_grad(error)(params)
        updates, moments = optimizer.update(slope, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    run = jax.jit(lambda state: jax.lax.scan(step, state, length=50))
    (after, _), values = run((params, optimizer.init(params)))
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert values[-1] < 0.2 * values[0]


# 64 bits ----------------------------------------------------------------------------------------


def wide_program(*words):
    program = [sys.executable, "-m", "lstm_jax.cli", *map(str, words)]
    done = subprocess.run(
        program,
        cwd=ROOT,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_training_in_64_bits(tmp_path):
    """The program as a user calls it, training and evaluating."""
    run = tmp_path / "run"
    periods = {"num_steps": 20, "log_every": 10, "eval_every": 20, "checkpoint_every": 20}
    small = [f"--config.train.{name}={steps}" for name, steps in periods.items()]
    said = wide_program("train", "--config=configs/adding.py:smoke", f"--workdir={run}", *small)
    assert "parameters float64" in said
    assert "loss" in wide_program("evaluate", f"--workdir={run}")


@pytest.mark.parametrize(
    ("changes", "ids"),
    [
        ({"head_hidden": 3, "layers": 2}, False),
        ({"encoder": "conv", "conv_features": (4,)}, False),
        ({"encoder": "embedding", "embedding": 5, "tied": True}, True),
    ],
)
def test_all_of_a_model_learns_in_64_bits(changes, ids):
    """Parameters and gradients: no layer stays behind in float32."""
    config = default_config("adding")
    config.cell.hidden = H
    config.model.update(changes)
    hyper = resolve(config).hyper
    with jax.enable_x64(True):
        model = build_model(config, Spec(D, D, ids=ids))
        inputs = jnp.zeros((T, B), int) if ids else jnp.zeros((T, B, D))

        def error(params):
            return jnp.sum(model.apply(params, hyper, {"inputs": inputs})[0] ** 2)

        made = jax.eval_shape(model.init, jax.random.key(0), hyper)
        slopes = jax.eval_shape(jax.grad(error), made)
    types = {leaf.dtype for leaf in jax.tree.leaves((made, slopes))}
    assert types == {jnp.dtype("float64")}


@everywhere
def test_cells_in_64_bits(name, engine):
    cell = CELLS[name]
    params, xs = problem(cell)
    narrow = plainly(name)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, xs))
        ours = gradients(cell, *wide, engine=engine)
        assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(ours))
        assert_same(ours, narrow)
