"""Pieces longer than a training step: cut into parts, the carry handed on, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import registry
import scipy.io

from lstm_jax.config import default_config
from lstm_jax.config.fields import resolve
from lstm_jax.errors import UsageError
from lstm_jax.tasks import TASKS, packing
from lstm_jax.tasks.music import polyphonic
from lstm_jax.training import train
from lstm_jax.training.program import build_program

B, SHORT = 3, 5
QUICK = registry.QUICK
LENGTHS = {"train": (14, 9, 8, 4, 3, 2, 6), "valid": (3, 18, 2, 6), "test": (21, 2, 5, 4)}


def pieces(lengths: tuple[int, ...]) -> list[np.ndarray]:
    random = np.random.default_rng(len(lengths))
    return [(random.random((length, 88)) < 0.1).astype(np.uint8) for length in lengths]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    place = tmp_path_factory.mktemp("music") / "long.npz"
    found = {f"{s}_{i}": p for s, n in LENGTHS.items() for i, p in enumerate(pieces(n))}
    np.savez(place, **found)  # pyright: ignore[reportArgumentType]
    return str(place)


@pytest.fixture
def few(monkeypatch):
    """Evaluation in parts of 5 frames."""
    monkeypatch.setattr(polyphonic, "EVAL_STEPS", SHORT)


def config(file: str, **fields):
    out = default_config("polyphonic")
    out.train.batch_size, out.cell.hidden = B, 4
    out.cell.update({"kernel_init": "uniform", "recurrent_init": "uniform"})
    out.task.update({"file": file, **fields})
    return out


def build(file: str, **fields):
    return TASKS["polyphonic"].build(config(file, **fields))


def evaluated(file: str, **fields):
    """The metrics of validation and test of a fresh model."""
    options = config(file, **fields)
    program, hyper = build_program(options), resolve(options).hyper
    state = train.init_state(program, hyper)
    run = partial(train.evaluate, program)
    of = jax.jit(run, static_argnums=3, compiler_options=QUICK)
    return {s: of(state.params, hyper, program.task.data, s) for s in ("valid", "test")}


@pytest.mark.slow
def test_evaluation_in_parts_is_exact(file, few, monkeypatch):
    in_parts = evaluated(file)
    monkeypatch.setattr(polyphonic, "EVAL_STEPS", 1000)
    whole = evaluated(file, steps=0, packing="off")
    for name in ("valid", "test"):
        for metric, value in whole[name].items():
            np.testing.assert_allclose(in_parts[name][metric], value, rtol=2e-6, err_msg=metric)


@pytest.mark.slow
def test_no_batch_is_longer_than_a_part(file, few):
    task = build(file, steps=SHORT)
    first = task.batch(task.data, jax.random.key(0), 0)
    evaluations = [
        s.batch(task.data, i) for s in task.splits.values() for i in range(s.num_batches)
    ]
    assert {len(b["inputs"]) for b in [first, *evaluations]} <= {4, 5}
    frames = {
        s: sum(int(b["mask"].sum()) for b in epoch(task.splits[s], task)) for s in task.splits
    }
    assert frames == {s: sum(LENGTHS[s]) - len(LENGTHS[s]) for s in task.splits}


def epoch(evaluation, task):
    batches = [evaluation.batch(task.data, i) for i in range(evaluation.num_batches)]
    return [{"mask": np.asarray(b["mask"]) & (np.asarray(b["weights"]) > 0)} for b in batches]


@pytest.mark.slow
def test_the_parts_of_a_row_follow_one_another_and_move_as_one(file):
    """Joined again, each is a whole row, moved by one number of semitones."""
    task = build(file, steps=SHORT, transpose=2)
    stored, parts = task.data["train"], packing.num_parts(max(LENGTHS["train"]) - 1, SHORT)
    for turn in range(3):
        found = [task.batch(task.data, jax.random.key(1), parts * turn + i) for i in range(parts)]
        joined = {k: np.concatenate([part[k] for part in found]) for k in stored}
        for row in range(B):
            fits = [
                (r, shift)
                for r in range(len(stored["mask"]))
                for shift in range(-2, 3)
                if all(
                    np.array_equal(
                        joined[k][:, row, 2:-2], np.roll(stored[k][r], shift, 1)[:, 2:-2]
                    )
                    for k in ("inputs", "targets")
                )
            ]
            assert len(fits) == 1
            for mark in ("mask", "resets"):
                np.testing.assert_array_equal(joined[mark][:, row], stored[mark][fits[0][0]])
            assert joined["resets"][0, row]


@pytest.mark.slow
def test_training_hands_the_carry_on(file):
    """The carry after a part is that of the frames so far, and rows begin afresh."""
    options = config(file, steps=SHORT)
    program, hyper = build_program(options), resolve(options).hyper
    data = program.task.data
    state = train.init_state(program, hyper)
    slope = jax.jit(partial(train.gradients, program), compiler_options=QUICK)
    key = train.stream(hyper, "data")
    parts = packing.num_parts(max(LENGTHS["train"]) - 1, SHORT)
    batches = [program.task.batch(data, key, jnp.int32(i)) for i in range(parts)]
    whole = {k: jnp.concatenate([b[k] for b in batches]) for k in ("inputs", "mask", "resets")}
    carry = jax.tree.map(lambda leaf: leaf + 3.0, state.carry)  # of rows before these
    for i in range(parts):
        carry = slope(state._replace(carry=carry, step=jnp.int32(i)), hyper, data)[2]
    _, wanted = program.model.apply(state.params, hyper, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), carry, wanted)


@pytest.mark.slow
def test_short_pieces_are_not_cut(file):
    """As with the chorales: nothing but whole rows, and no carry in the training state."""
    for task in (build(file), build(file, steps=0), build(file, packing="off")):
        assert not task.spec.stateful
        assert [len(task.batch(task.data, jax.random.key(0), 0)["inputs"])] == [13]


def test_figures_read_in_parts_what_they_would_at_once(file, few, tmp_path):
    task, asked = build(file), []

    def forward(batch, carry=None):
        asked.append(np.shape(batch["inputs"]))
        heard = np.cumsum(batch["inputs"], axis=0) + (0 if carry is None else carry)
        return heard, heard[-1]

    test = pieces(LENGTHS["test"])
    for found in (polyphonic.predictions(forward, test, n) for n in (SHORT, 0)):
        for piece, logits in zip(test, found, strict=True):
            np.testing.assert_array_equal(logits, np.cumsum(piece[:-1].astype(np.float32), 0))
    asked.clear()
    played, predicted, _ = drawn.panels(task.figures(forward)["piano_roll"])
    heard = np.cumsum(pieces(LENGTHS["test"])[0][:-1].astype(np.float32), 0)
    np.testing.assert_array_equal(played["images"][0], pieces(LENGTHS["test"])[0][1:].T)
    np.testing.assert_allclose(predicted["images"][0], 1 / (1 + np.exp(-heard.T)), rtol=1e-5)
    assert set(asked) == {(SHORT, polyphonic.TOGETHER, 88)}


def test_what_cannot_be_cut_says_so(file):
    with pytest.raises(UsageError, match=r"up to 13 frames are cut at task.steps=5, but.*off"):
        build(file, steps=SHORT, packing="off")
    options = config(file, steps=SHORT)
    options.model.encoder = "conv"
    with pytest.raises(UsageError, match=r"conv sees across a cut; set task.steps=0"):
        TASKS["polyphonic"].build(options)
    with pytest.raises(UsageError, match="task.steps=-1, expected at least 1 frame, or 0"):
        build(file, steps=-1)


@pytest.mark.slow
def test_padded_rows_are_evaluated_in_parts_too(file, few):
    packed, padded = evaluated(file, steps=0), evaluated(file, steps=0, packing="off")
    for name, metrics in packed.items():
        np.testing.assert_allclose(padded[name]["nll"], metrics["nll"], rtol=2e-6)


# The size of Nottingham -------------------------------------------------------------------------

GIGABYTE = 1 << 30
COUNTS = {"traindata": 694, "validdata": 173, "testdata": 170}


def nottingham(place: Path) -> str:
    """As many pieces, about as long: 250 frames on average, 1,800 the longest."""
    random = np.random.default_rng(0)
    parts = {}
    for name, count in COUNTS.items():
        lengths = np.clip(random.gamma(3.0, 250 / 3, count), 40, 1800).astype(int)
        lengths[0] = 1800
        cells = np.empty((1, count), object)
        for i, length in enumerate(lengths):
            cells[0, i] = (random.random((length, 88)) < 0.04).astype(np.uint8)
        parts[name] = cells
    scipy.io.savemat(place, parts)
    return str(place)


# Not getrusage: its ru_maxrss begins with what the process had that started this one.
CALL = """
import sys
from pathlib import Path
from lstm_jax.cli import main
code = main()
status = Path("/proc/self/status").read_text()
print("peak", status.partition("VmHWM:")[2].split()[0])
sys.exit(code)
"""


@pytest.mark.slow
def test_a_task_of_the_size_of_nottingham_takes_less_than_2_gb(tmp_path):
    fields = {"task.file": nottingham(tmp_path / "nottingham.mat"), "train.num_steps": 7}
    fields |= dict.fromkeys(("train.log_every", "train.eval_every", "train.checkpoint_every"), 7)
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    jsb = Path(__file__).parent.parent / "configs" / "jsb.py"
    words = ["train", f"--config={jsb}", *flags, f"--workdir={tmp_path / 'run'}"]
    ours = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    as_users_do = {k: v for k, v in os.environ.items() if k not in ours}
    call = [sys.executable, "-c", CALL, *words]
    done = subprocess.run(call, capture_output=True, text=True, env=as_users_do)
    assert done.returncode == 0, done.stderr[-2000:]
    kilobytes = int(done.stdout.rpartition("peak ")[2])
    assert kilobytes * 1024 < 2 * GIGABYTE, f"{kilobytes / 1024:.0f} MB"
    drawn.picture(tmp_path / "run" / "figures" / "nll_by_frame.png")
