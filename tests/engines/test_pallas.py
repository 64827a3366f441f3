"""Engine `pallas` as JAX's operations: the laws, what it refuses, what does not fit in VMEM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax.cells import gru, lstm
from lstm_jax.config.options import default_config
from lstm_jax.engines import choose, pallas
from lstm_jax.engines.pallas import kernel, room
from lstm_jax.errors import UsageError
from lstm_jax.testing import QUICK, close
from lstm_jax.training.program import build_program

T, B, D, H = 6, 4, 3, 5
CELL = lstm(H)


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(kernel, "INTERPRET", True)
    monkeypatch.setattr(room, "LARGEST", 1)


def gradients(engine, **options):
    params = CELL.init(jax.random.key(0), D)
    xs = jax.random.normal(jax.random.key(1), (T, B, D))

    def loss(params, xs):
        carry, ys = lstm_jax.unroll(CELL, params, xs, engine=engine, **options)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(carry.c**2)

    return jax.grad(loss, (0, 1)), params, xs


@pytest.mark.slow
def test_reversed_packed_and_differentiated_twice(interpreted):
    def of(engine):
        grads, params, xs = gradients(engine, reverse=True)
        several = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
        twice = jax.grad(lambda xs: jnp.sum(grads(params, xs)[1] ** 2))

        def all_of_it(several, xs):
            return jax.vmap(grads, (0, None))(several, xs), twice(xs)

        return jax.jit(all_of_it, compiler_options=QUICK)(several, xs)

    close(of("pallas"), of("scan"), 1e-5)


@pytest.mark.slow
def test_every_device_runs_its_own(interpreted):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    rows, same = jax.sharding.PartitionSpec(None, "data"), jax.sharding.PartitionSpec()

    def of(engine):
        grads, params, xs = gradients(engine)

        def share(params, xs):
            return jax.lax.psum(grads(params, xs)[0], "data")

        run = jax.shard_map(
            share, mesh=mesh, in_specs=(same, rows), out_specs=same, check_vma=False
        )
        return jax.jit(run, compiler_options=QUICK)(params, xs)

    close(of("pallas"), of("scan"), 1e-5)


def test_without_a_tpu_it_says_what_it_needs():
    grads, params, xs = gradients("pallas")
    with pytest.raises(UsageError, match="'pallas' cannot serve: it needs a TPU and this is cpu.*"):
        grads(params, xs)
    assert choose(CELL)[0] != "pallas"


@pytest.fixture
def small(monkeypatch):
    """A chip with 16 MiB of VMEM."""
    monkeypatch.setattr(room, "capacity", lambda: 14 * 2**20)


def traced(hidden, length=64):
    """The jaxpr of a forward pass, as a TPU's."""
    cell = lstm(hidden)
    params = jax.eval_shape(lambda key: cell.init(key, D), jax.random.key(0))
    xs = jax.ShapeDtypeStruct((length, 64, D), jnp.float32)
    run = lambda p, x: lstm_jax.unroll(cell, p, x, engine="pallas")  # noqa: E731
    with pallas.tracing_for("tpu"):
        return str(jax.make_jaxpr(run)(params, xs))


def test_what_does_not_fit_says_how_much_it_needs(small, capsys):
    found = traced(1024)
    assert "pallas_call" not in found
    assert "scan[" in found
    told = capsys.readouterr().err
    assert "runs a loop as 'deferred' does: its kernel needs" in told
    assert "has 14.0 MiB to give" in told


def test_a_block_is_as_long_as_fits(small):
    assert "pallas_call" in traced(128)
    assert room.blocks(127) == [1]
    assert room.blocks(100) == [5, 4, 2, 1]
    assert room.tiled((5, 3), jnp.float32) == 8 * 128 * 4
    assert room.tiled((3, 9, 130), jnp.bfloat16) == 3 * 16 * 256 * 2


def test_vmem_of_the_chip_that_is_asked_for():
    """By JAX's own table; an array of bytes is what a kernel may take."""
    assert room.chip().platform == "cpu"
    with pytest.raises(ValueError):
        room.capacity()


def test_a_symbolic_length_is_left_to_deferred(interpreted):
    (length,) = jax.export.symbolic_shape("t")
    xs = jax.ShapeDtypeStruct((length, B, D), jnp.float32)
    cell = gru(H)
    params = cell.init(jax.random.key(0), D)
    run = jax.jit(lambda xs: lstm_jax.unroll(cell, params, xs, engine="pallas")[1])
    assert "t" in str(jax.export.export(run)(xs).out_avals[0])


def test_devices_share_a_batch_by_shard_map(interpreted):
    """The compiler cannot cut a kernel into shares."""
    config = default_config("adding")
    config.model.engine, config.parallel.data, config.train.batch_size = "pallas", 2, 4
    config.cell.hidden, config.task.length = H, T
    assert build_program(config).config.parallel.mode == "shard_map"
    config.parallel.mode = "pmap"
    assert build_program(config).config.parallel.mode == "pmap"
