"""Checkpoints: what is saved comes back bit for bit, and what is damaged never does."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.errors import UsageError
from lstm_jax.workdir import arrays, checkpoint
from lstm_jax.workdir import seal as integrity
from lstm_jax.workdir.checkpoint import CheckpointError, Checkpoints
from lstm_jax.workdir.seal import CheckpointMismatch, digest


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    carry: Any


def make_state(step: int) -> State:
    kernel = jax.random.normal(jax.random.key(step), (4, 12))
    return State(
        step=jnp.int32(step),
        params={"layer_0": {"kernel": kernel, "bias": kernel[0].astype(jnp.bfloat16)}},
        opt_state=((jnp.uint32(7), {"mu": kernel * 0.1}), ()),
        carry=(kernel > 0, jnp.zeros((0, 3)), jnp.array([jnp.nan, -0.0, jnp.inf])),
    )


def abstract() -> State:
    return jax.eval_shape(lambda: make_state(0))


@pytest.fixture
def quiet() -> list[str]:
    return []


@pytest.fixture
def two_steps(tmp_path: Path, quiet: list[str]) -> Checkpoints:
    """Steps 100 and 200, on disk."""
    saved = Checkpoints(tmp_path, report=quiet.append)
    saved.save(100, make_state(100), {"loss": 2.0})
    saved.save(200, make_state(200), {"loss": 1.0})
    saved.wait()
    return saved


# ---------------------------------------------------------------- there and back


def test_restores_every_leaf_bit_for_bit_with_its_type(two_steps):
    step, state = two_steps.restore(abstract())
    assert step == 200 and isinstance(state, State)
    assert digest(state) == digest(make_state(200))
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(200)), strict=True):
        assert isinstance(got, jax.Array) and got.dtype == want.dtype and got.shape == want.shape


def test_numpy_leaves_come_back_as_numpy_and_float64_stays(tmp_path):
    state = {"x": np.arange(3.0), "n": np.int64(5)}
    saved = Checkpoints(tmp_path)
    saved.save(1, state)
    _, back = saved.restore(state)
    assert back["x"].dtype == np.float64 and back["n"].dtype == np.int64
    assert digest(back) == digest(state)


def test_shardings_of_the_target_are_obeyed(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    saved = Checkpoints(tmp_path)
    saved.save(1, {"x": jnp.arange(4.0)})
    _, back = saved.restore({"x": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding)})
    assert back["x"].sharding == sharding and back["x"].tolist() == [0, 1, 2, 3]


def test_nothing_to_restore(tmp_path):
    assert Checkpoints(tmp_path / "absent").restore(abstract()) is None
    assert Checkpoints(tmp_path / "absent").steps() == []
    assert not (tmp_path / "absent").exists()


def test_one_step_can_be_asked_for(two_steps):
    assert two_steps.restore(abstract(), step=100)[0] == 100
    assert two_steps.restore(abstract(), step=150) is None


def test_what_happens_to_the_state_after_save_is_not_saved(tmp_path):
    advance = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    saved = Checkpoints(tmp_path)
    x, y = jnp.arange(100_000.0) + 0, np.arange(1_000_000)
    want = digest({"x": np.array(x), "y": y})
    saved.save(1, {"x": x, "y": y})
    y[:] = 0
    advance(x).block_until_ready()
    assert saved.steps()[0].digest == want


def test_saving_a_step_again(two_steps):
    inode = (two_steps.root / "200").stat().st_ino
    two_steps.save(200, make_state(200))
    two_steps.wait()
    assert (two_steps.root / "200").stat().st_ino == inode
    two_steps.save(200, make_state(201))
    assert digest(two_steps.restore(abstract())[1]) == digest(make_state(201))


def test_plain_orbax_reads_the_arrays(two_steps):
    import orbax.checkpoint as ocp

    read = ocp.PyTreeCheckpointer().restore(two_steps.root / "200" / "state")
    assert np.array_equal(
        read["params"]["layer_0"]["kernel"], make_state(200).params["layer_0"]["kernel"]
    )


def test_orbax_is_not_imported_with_the_module():
    code = (
        "import sys, lstm_jax.workdir.checkpoint, lstm_jax.workdir.metrics; print([m for m in "
        + ("('orbax', 'tensorboardX', 'matplotlib', 'rich') if m in sys.modules])")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- devices and keys


@pytest.mark.slow
def test_digest_and_restore_do_not_depend_on_the_device_count(tmp_path):
    code = f"""
import jax, jax.numpy as jnp, numpy as np
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.seal import digest
jax.config.update("jax_num_cpu_devices", 4)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
assert jax.device_count() == 4
state = {{"x": jax.device_put(jnp.arange(8.0).reshape(8, 1), spec)}}
saved = Checkpoints({str(tmp_path)!r})
saved.save(1, state)
saved.close()
print(digest(state))
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    state = {"x": jnp.arange(8.0).reshape(8, 1)}
    assert done.stdout.strip() == digest(state)
    assert digest(Checkpoints(tmp_path).restore(state)[1]) == digest(state)


def test_typed_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match="key_data"):
        Checkpoints(tmp_path).save(1, {"key": jax.random.key(0)})


# ---------------------------------------------------------------- damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = random.Random(path.name).randrange(len(data) * 8)
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, zero, empty, Path.unlink])
def test_damage_to_any_file_is_found_and_the_step_before_is_restored(
    two_steps, tmp_path, quiet, damage
):
    files = [p.relative_to(two_steps.root) for p in two_steps.root.glob("200/**/*") if p.is_file()]
    files = [p for p in files if (two_steps.root / p).stat().st_size]
    assert len(files) >= 8
    for number, name in enumerate(files):
        shutil.copytree(two_steps.root, tmp_path / str(number) / "checkpoints")
        hurt = Checkpoints(tmp_path / str(number), report=quiet.append)
        damage(hurt.root / name)
        assert [info.status[:7] for info in hurt.steps()] == ["ok", "corrupt"], name
        step, state = hurt.restore(abstract())
        assert step == 100 and digest(state) == digest(make_state(100)), name
        assert (hurt.root / "corrupt" / "200-1").is_dir()
        assert name.name in hurt.skipped[0].why
        assert hurt.skipped[0].why in (hurt.root / "corrupt" / "200-1.txt").read_text()
    assert len(quiet) == len(files)
    assert quiet[0].startswith("checkpoint 200 is corrupt: ") and "corrupt/200-1" in quiet[0]


@pytest.mark.parametrize(
    ("number", "damaged"), [(errno.EIO, True), (errno.ENOTDIR, True), (errno.EACCES, False)]
)
def test_a_bad_sector_is_damage_and_a_missing_permission_is_not(
    two_steps, monkeypatch, number, damaged
):
    hash_file = integrity._hash_file

    def fail(path: Path) -> str:
        if "200" in path.parts:
            raise OSError(number, os.strerror(number), str(path))
        return hash_file(path)

    monkeypatch.setattr(integrity, "_hash_file", fail)
    if damaged:
        assert two_steps.restore(abstract())[0] == 100
        assert os.strerror(number) in two_steps.skipped[0].why
    else:
        with pytest.raises(CheckpointError, match="could not read step 200"):
            two_steps.restore(abstract())
        assert two_steps.steps()[1].status.startswith("corrupt")
        assert (two_steps.root / "200").is_dir()


def test_a_leaf_spoilt_before_it_reached_the_disk_is_found(two_steps):
    """The files are as they were written, but not what was in memory."""
    folder = two_steps.root / "200"
    seal = json.loads((folder / integrity.SEAL).read_text())
    seal["leaves"]["params/layer_0/kernel"]["sha256"] = "0" * 64
    integrity.write_seal(folder, seal)
    assert two_steps.restore(abstract())[0] == 100
    assert "leaf params/layer_0/kernel" in two_steps.skipped[0].why


def test_a_step_under_another_name_is_found(two_steps):
    os.rename(two_steps.root / "200", two_steps.root / "300")
    assert two_steps.restore(abstract())[0] == 100


def test_all_steps_damaged(two_steps, quiet):
    for step in ("100", "200"):
        zero(two_steps.root / step / "state" / "manifest.ocdbt")
    assert two_steps.restore(abstract()) is None
    assert [s.step for s in two_steps.skipped] == [200, 100] and len(quiet) == 2
    assert sorted(p.name for p in (two_steps.root / "corrupt").glob("*-1")) == ["100-1", "200-1"]


def test_nothing_that_was_set_aside_is_overwritten(two_steps):
    for count in (1, 2):
        zero(two_steps.root / "200" / "state" / "manifest.ocdbt")
        assert two_steps.restore(abstract())[0] == 100
        two_steps.save(200, make_state(200), {"loss": 1.0})
        two_steps.wait()
        assert (two_steps.root / "corrupt" / f"200-{count}").is_dir()
    assert two_steps.restore(abstract())[0] == 200


def test_looking_only_moves_nothing(two_steps, quiet):
    zero(two_steps.root / "200" / "state" / "manifest.ocdbt")
    assert two_steps.restore(abstract(), move=False)[0] == 100
    assert (two_steps.root / "200").is_dir() and not (two_steps.root / "corrupt").exists()
    assert "left where it is" in quiet[0]


def test_sound_files_that_orbax_cannot_read_are_not_set_aside(two_steps, monkeypatch):
    def refuse(*_):
        raise ValueError("unknown format")

    monkeypatch.setattr(arrays, "load", refuse)
    with pytest.raises(CheckpointError, match=r"is intact, but orbax .* unknown format"):
        two_steps.restore(abstract())
    assert (two_steps.root / "200").is_dir()


# ---------------------------------------------------------------- another program's checkpoint


def test_a_target_of_other_structure_shape_or_dtype_is_refused_readably(two_steps):
    target = abstract()
    target.params["layer_0"]["kernel"] = jax.ShapeDtypeStruct((4, 16), jnp.float32)
    target.params["layer_0"]["bias"] = jax.ShapeDtypeStruct((12,), jnp.float32)
    target.params["layer_1"] = {"kernel": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with pytest.raises(CheckpointMismatch) as caught:
        two_steps.restore(target._replace(step=None))
    assert str(caught.value).splitlines()[1:-1] == [
        "  params/layer_0/bias: saved bfloat16[12], expected float32[12]",
        "  params/layer_0/kernel: saved float32[4,12], expected float32[4,16]",
        "  params/layer_1/kernel: saved absent, expected float32[2]",
        "  step: saved int32[], expected absent",
    ]
    assert isinstance(caught.value, UsageError)
    assert two_steps.restore(abstract())[0] == 200


# ---------------------------------------------------------------- what is kept


LOSSES = {1: 5.0, 2: 1.0, 3: 4.0, 4: 2.0, 5: 3.0, 6: 9.0}


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ({"keep_last": 2, "keep_best": 0}, {5, 6}),
        ({"keep_last": 1, "keep_best": 2}, {2, 4, 6}),
        ({"keep_last": 1, "keep_best": 1, "larger_is_better": True}, {6}),
        ({"keep_last": 1, "keep_best": 0, "keep_every": 3}, {3, 6}),
        ({"keep_last": 1, "keep_best": 1, "metric": "rmse"}, {6}),
        ({"keep_last": 0}, {1, 2, 3, 4, 5, 6}),
    ],
)
def test_the_newest_the_best_and_every_nth_are_kept(tmp_path, policy, kept):
    saved = Checkpoints(tmp_path, **policy)
    for step, loss in LOSSES.items():
        if step == 4:  # a resumed run knows what was saved before it
            saved.close()
            saved = Checkpoints(tmp_path, **policy)
        saved.save(step, {"x": np.float32(step)}, {"loss": np.float32(loss), "nan": np.nan})
    saved.wait()
    assert {info.step for info in saved.steps()} == kept


def test_steps_say_what_was_saved(two_steps):
    first, second = two_steps.steps()
    assert (first.step, first.status, first.metrics) == (100, "ok", {"loss": 2.0})
    assert second.digest == digest(make_state(200))
    assert second.bytes == sum(x.nbytes for x in jax.tree.leaves(make_state(200)))
    flip(two_steps.root / "100" / "state" / "_METADATA")
    first, second = two_steps.steps()
    assert first.status.startswith("corrupt: state/_METADATA") and first.digest == ""
    assert second.status == "ok"
    assert two_steps.root.name == checkpoint.FOLDER
