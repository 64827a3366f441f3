"""Tasks on data files: layouts, losses, baselines, outputs, and what bad files are answered."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import requests
import scipy.io
from chorales import cells, rolls, write_mat
from datafiles import RANDOM, compiled, write_idx, write_images, write_text, write_ts

from lstm_jax.config import default_config
from lstm_jax.data import files as data
from lstm_jax.errors import UsageError
from lstm_jax.tasks import TASKS, classify, mnist, packing, readers, vowels
from lstm_jax.tasks.language import corpus, language, ngrams
from lstm_jax.tasks.music import matfile, midi, polyphonic
from lstm_jax.training import train
from lstm_jax.training.check import load_config
from lstm_jax.training.program import build_task


def config(name: str, **fields):
    out = default_config(name)
    out.train.batch_size = 4
    for field, value in fields.items():
        out.task[field] = value
    return out


def build(name: str, **fields):
    return compiled(TASKS[name].build(config(name, **fields)))


def zeros(task):
    """A model that says 0 and carries how often it was asked."""

    def forward(batch, carry=None):
        shape = np.shape(batch["inputs"])[: 1 if task.spec.readout != "every" else 2]
        size = (np.shape(batch["inputs"])[1],) if task.spec.readout != "every" else shape
        return np.zeros((*size, task.spec.out_features), np.float32), (carry or 0) + 1

    return forward


@pytest.fixture
def mat(tmp_path):
    return write_mat(tmp_path / "rolls.mat")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path)


@pytest.fixture
def series(tmp_path):
    files = {"train_file": write_ts(tmp_path / "a.ts"), "test_file": write_ts(tmp_path / "b.ts")}
    return files | {"valid_every": 4}


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text.txt")


# ---------------------------------------------------------------------------------------------
# Batches


@pytest.fixture(params=["polyphonic", "mnist", "pixels", "vowels", "characters", "words"])
def task(request, mat, images, series, text):
    if request.param == "polyphonic":
        return build("polyphonic", file=mat)
    if request.param in ("mnist", "pixels"):
        order = "rows" if request.param == "mnist" else "pixels"
        return build("mnist", folder=images, valid_size=20, order=order, permutation="random")
    if request.param == "vowels":
        return build("vowels", **series)
    return build("language", file=text, level=request.param, steps=6, eval_steps=7)


def test_a_file_may_be_named_from_the_home_folder(tmp_path, monkeypatch, mat, images, series, text):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(polyphonic.load(SimpleNamespace(file="~/rolls.mat"))) == 3
    (place,) = corpus.sources(config("language", file="~/text.txt").task)
    assert place == Path(text)
    assert vowels.read(SimpleNamespace(), "~/a.ts", "")[2] == ["a", "b"]
    name = "t10k-labels-idx1-ubyte"
    assert len(mnist.idx_file(SimpleNamespace(folder="~"), name, (None,))) == 10
    monkeypatch.setenv("LSTM_JAX_CACHE", "~/cache")
    assert data.cache_dir() == tmp_path / "cache"


@pytest.mark.slow
def test_batches_are_pure_jittable_and_of_one_shape(task):
    traces = []
    batch = jax.jit(lambda *args: traces.append(None) or task.batch(*args))
    plain, key = task.batch.__wrapped__, jax.random.key(0)
    first = batch(task.data, key, 0)
    for step in range(3):
        one, again = batch(task.data, key, step), plain(task.data, key, step)
        jax.tree.map(np.testing.assert_array_equal, one, again)
        assert jax.tree.map(jnp.shape, one) == jax.tree.map(jnp.shape, first)
    assert len(traces) == 1


@pytest.mark.slow
def test_loss_is_its_own_mean_and_has_finite_gradients(task):
    batch = task.batch(task.data, jax.random.key(0), 1)
    shape = (
        batch["inputs"].shape[:2] if task.spec.readout == "every" else batch["inputs"].shape[1:2]
    )
    outputs = jax.random.normal(jax.random.key(1), (*shape, task.spec.out_features))
    scalar, metrics = task.loss(outputs, batch)
    mean = metrics["loss"].total / metrics["loss"].count
    np.testing.assert_allclose(scalar, mean, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda o: task.loss(o, batch)[0])(outputs)).all()


def test_every_split_has_baselines_and_batches(task):
    assert set(task.splits) == {"valid", "test"} == set(task.baselines)
    assert task.steps_per_epoch > 0
    for split in task.splits.values():
        shapes = {str(jax.eval_shape(split.batch, task.data, i)) for i in range(split.num_batches)}
        assert len(shapes) == 1


def figures_of(task):
    """{name: what its axes show} for a model that says 0."""
    return {n: drawn.panels(figure) for n, figure in task.figures(zeros(task)).items()}


def shows_one_class(panel, names, right):
    """A confusion matrix of a model that takes the first class for everything."""
    shares = np.zeros((len(names), len(names)))
    shares[:, 0] = 1
    np.testing.assert_array_equal(panel["images"][0], shares)
    assert panel["labels"] == ("predicted", "true")
    assert panel["title"] == f"test: {right:.2f} % right"


def test_the_figures_of_images_show_what_is_taken_for_what(images):
    task = build("mnist", folder=images, valid_size=20)
    figures = figures_of(task)
    assert list(figures) == ["confusion", "mistakes"]
    shows_one_class(figures["confusion"][0], range(10), 10)
    assert figures["confusion"][0]["texts"] == ["1"] * 10
    wrong = [panel for panel in figures["mistakes"] if panel["images"]]
    assert sorted(p["title"] for p in wrong) == [f"{n} > 0 (0.10)" for n in range(1, 10)]
    shown = {p["images"][0].tobytes() for p in wrong}
    assert shown == {x.reshape(28, 28).tobytes() for x in task.data["test_images"][1:]}


def test_the_figures_of_series_show_classes_and_lengths(series):
    figures = figures_of(build("vowels", **series))
    assert list(figures) == ["confusion", "accuracy_by_length"]
    shows_one_class(figures["confusion"][0], "ab", 50)
    assert figures["confusion"][0]["texts"] == ["4", "4"]
    (by_length,) = figures["accuracy_by_length"]
    lengths, shares = by_length["lines"]["share right"]
    assert lengths.tolist() == [2, 3, 4, 7, 9]
    np.testing.assert_allclose(shares, [0, 2 / 3, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(by_length["bars"], np.array([2, 3, 1, 1, 1]) / 3)
    assert by_length["limits"][1] == (0, 1.05)


@pytest.mark.parametrize("level", ["characters", "words"])
def test_the_figures_of_text_show_the_surprise_of_a_model_that_knows_nothing(text, level):
    task = build("language", file=text, level=level, steps=6, eval_steps=7)
    figures, nats = figures_of(task), math.log(task.spec.out_features)
    assert list(figures) == ["surprise", "loss_by_context"]
    (bars,), (context,) = figures.values()
    np.testing.assert_allclose(bars["bars"], nats, rtol=1e-5)
    np.testing.assert_allclose(bars["limits"][1], [0, 1.18 * nats], rtol=1e-5)
    np.testing.assert_allclose(context["lines"]["model"][1].astype(float), nats, rtol=1e-5)
    assert context["legend"] == ["model", "unigram", "bigram"]
    for name in context["legend"][1:]:
        assert (context["lines"][name][1] < nats).all()


def test_the_figures_of_music_show_what_was_played_beside_its_chances(mat):
    task = build("polyphonic", file=mat)
    figures = figures_of(task)
    assert list(figures) == ["piano_roll", "nll_by_frame"]
    played, predicted, _ = figures["piano_roll"]
    first = polyphonic.load(SimpleNamespace(file=mat))["test"][0][1:]
    np.testing.assert_array_equal(played["images"][0], first.T)
    np.testing.assert_array_equal(predicted["images"][0], np.full(first.T.shape, 0.5))
    assert played["title"] == "played: first test piece"
    (by_frame,) = figures["nll_by_frame"]
    np.testing.assert_allclose(by_frame["lines"]["model"][1], 88 * math.log(2), rtol=1e-5)
    assert len(by_frame["legend"]) == 3 and by_frame["labels"][1] == "NLL (nats)"


def predicted(task, out):
    """{name: path} of what a model that says 0 predicts."""
    options = SimpleNamespace(prompt="", temperature=1.0, length=20, seed=3)
    return {path.name: path for path in task.predict(zeros(task), out, options)}


def test_predictions_of_classes_are_a_table_and_a_matrix(images, series, tmp_path):
    for name, fields, size, classes in (
        ("mnist", {"folder": images, "valid_size": 20}, 10, 10),
        ("vowels", series, 8, 2),
    ):
        (tmp_path / name).mkdir()
        written = predicted(build(name, **fields), tmp_path / name)
        assert list(written) == ["predictions.csv", "confusion.png"]
        rows = list(csv.DictReader(written["predictions.csv"].read_text().splitlines()))
        assert [row["index"] for row in rows] == [str(n) for n in range(size)]
        chances = [float(v) for row in rows for k, v in row.items() if k.startswith("p(")]
        np.testing.assert_allclose(chances, [1 / classes] * (size * classes), atol=1e-6)
        drawn.picture(written["confusion.png"])


def test_predictions_of_text_are_as_long_as_asked(text, tmp_path):
    for level in ("characters", "words"):
        task = build("language", file=text, level=level, steps=6, eval_steps=7)
        (written,) = predicted(task, tmp_path).values()
        said = written.read_text()
        tokens = said if level == "characters" else re.findall(r"\S+|\n", said)
        assert len(tokens) == 20, said


def test_predictions_of_music_are_what_is_heard_and_seen(mat, tmp_path):
    written = predicted(build("polyphonic", file=mat), tmp_path)
    assert list(written) == ["chorale.mid", "chorale.png"]
    assert read_midi(written["chorale.mid"].read_bytes())
    drawn.picture(written["chorale.png"])


def epoch(task, name: str = "inputs") -> np.ndarray:
    """`name` of one epoch's batches, one row an example."""
    batches = [task.batch(task.data, jax.random.key(0), i) for i in range(task.steps_per_epoch)]
    return np.concatenate([np.swapaxes(batch[name], 0, 1) for batch in batches])


@pytest.mark.slow
def test_an_epoch_holds_every_image_once(images):
    task = build("mnist", folder=images, valid_size=20)
    seen = epoch(task).reshape(40, 784)
    bytes_seen = np.rint(seen * 255).astype(np.uint8)
    found, counts = np.unique(bytes_seen, axis=0, return_counts=True)
    np.testing.assert_array_equal(found, np.unique(task.data["train_images"], axis=0))
    assert (counts == 1).all()


# ---------------------------------------------------------------------------------------------
# Packing


def test_packing_keeps_every_step_once_and_starts_each_sequence_afresh():
    sequences = [{"inputs": np.arange(n) + 100 * n} for n in (5, 3, 2, 2, 4, 1)]
    out = packing.lay_out(sequences, True)
    assert out["inputs"].shape == (4, 5)
    found = [row[mask] for row, mask in zip(out["inputs"], out["mask"], strict=True)]
    assert sorted(np.concatenate(found)) == sorted(np.concatenate([s["inputs"] for s in sequences]))
    assert out["resets"].sum() == out["lasts"].sum() == len(sequences)
    for index, sequence in enumerate(sequences):
        row, stop = np.argwhere(out["order"] == index)[0]
        start = stop + 1 - len(sequence["inputs"])
        np.testing.assert_array_equal(out["inputs"][row, start : stop + 1], sequence["inputs"])
        assert out["resets"][row, start]


def test_packing_is_for_waste_above_a_third():
    assert packing.wanted("auto", [10, 2, 2])
    assert not packing.wanted("auto", [10, 9, 8])
    assert not packing.wanted("auto", [10, 2, 2], possible=False)
    with pytest.raises(UsageError, match=r"task.packing='yes'"):
        packing.wanted("yes", [1])
    with pytest.raises(UsageError, match="causal"):
        packing.wanted("on", [1], possible=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["polyphonic", "vowels"])
def test_packed_and_padded_give_one_loss(name, mat, series):
    fields = {"file": mat} if name == "polyphonic" else series
    losses = []
    for mode in ("on", "off"):
        task = build(name, **fields, packing=mode)
        total = count = 0.0
        for index in range(task.splits["test"].num_batches):
            batch = task.splits["test"].batch(task.data, index)
            inputs = jnp.cumsum(batch["inputs"], axis=0) * 0 + batch["inputs"]
            outputs = jnp.tile(inputs[..., :1], task.spec.out_features) * jnp.arange(
                1.0, task.spec.out_features + 1
            )
            if task.spec.readout == "last":
                outputs = outputs[batch["lengths"] - 1, jnp.arange(4)]
            mean = task.loss(outputs, batch)[1]["loss"]
            total, count = total + mean.total, count + mean.count
        losses.append(total / count)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# ---------------------------------------------------------------------------------------------
# Music


@pytest.mark.slow
def test_polyphonic_predicts_all_frames_but_the_first(mat):
    task = build("polyphonic", file=mat)
    pieces = polyphonic.load(config("polyphonic", file=mat).task)["test"]
    split = task.splits["test"]
    means = [task.loss(jnp.zeros(b["targets"].shape), b)[1]["nll"] for b in batches(task, split)]
    assert sum(m.count for m in means) == sum(len(piece) - 1 for piece in pieces)
    np.testing.assert_allclose(means[0].total / means[0].count, 88 * math.log(2), rtol=1e-6)


def batches(task, split):
    return [split.batch(task.data, index) for index in range(split.num_batches)]


def test_frame_nll_is_that_of_bernoullis():
    logits, x = RANDOM.normal(size=(3, 88)), (RANDOM.random((3, 88)) < 0.5).astype(float)
    p = 1 / (1 + np.exp(-logits))
    expected = -np.sum(np.log(np.where(x > 0, p, 1 - p)), axis=1)
    np.testing.assert_allclose(polyphonic.frame_nll(logits, x), expected, rtol=1e-5)


@pytest.mark.slow
def test_transposition_moves_inputs_and_targets_alike(mat):
    task = build("polyphonic", file=mat, transpose=3, packing="off")
    plain = build("polyphonic", file=mat, packing="off")
    moved, still = (t.batch(t.data, jax.random.key(0), 2) for t in (task, plain))
    for row in range(4):
        fits = [
            shift
            for shift in range(-3, 4)
            if np.array_equal(moved["inputs"][:, row, 3:-3], shifted(still["inputs"], row, shift))
            and np.array_equal(
                moved["targets"][:, row, 3:-3], shifted(still["targets"], row, shift)
            )
        ]
        assert len(fits) == 1


def shifted(roll, row: int, by: int):
    return np.roll(np.asarray(roll)[:, row], by, axis=-1)[:, 3:-3]


def test_all_roll_formats_agree(tmp_path, mat):
    pieces = polyphonic.load(config("polyphonic", file=mat).task)
    arrays: dict = {f"{s}_{i}": r for s, group in pieces.items() for i, r in enumerate(group)}
    np.savez(tmp_path / "rolls.npz", **arrays)
    full = {s: [r.tolist() for r in group] for s, group in pieces.items()}
    notes = {
        s: [[(np.flatnonzero(f) + 21).tolist() for f in r] for r in g] for s, g in pieces.items()
    }
    (tmp_path / "full.json").write_text(json.dumps(full))
    (tmp_path / "notes.json").write_text(json.dumps(notes))
    for name in ("rolls.npz", "full.json", "notes.json"):
        other = polyphonic.load(config("polyphonic", file=str(tmp_path / name)).task)
        jax.tree.map(np.testing.assert_array_equal, pieces, other)


def numbers(frame) -> list[int]:
    return (np.flatnonzero(frame) + 21).tolist()


def read_midi(content: bytes) -> list[tuple[int, int, int]]:
    """(tick, event byte, key) of each note event of a file from `write_midi`."""
    position, tick, events = 22, 0, []
    while position < len(content):
        delta = 0
        while True:
            byte, position = content[position], position + 1
            delta = delta << 7 | byte & 0x7F
            if not byte & 0x80:
                break
        tick += delta
        if content[position] == 0xFF:
            position += 3 + content[position + 2]
            continue
        events.append((tick, content[position], content[position + 1]))
        position += 3
    return events


def test_midi_holds_the_notes(tmp_path):
    roll = np.zeros((3, 88), np.uint8)
    roll[0:2, 39] = roll[2, 43] = 1  # middle C held for two quarters, then the E above
    content = midi.write_midi(tmp_path / "x.mid", roll).read_bytes()
    assert content[:14] == b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480)
    assert struct.unpack(">I", content[18:22])[0] == len(content) - 22
    assert read_midi(content) == [
        (0, 0x90, 60),
        (960, 0x80, 60),
        (960, 0x90, 64),
        (1440, 0x80, 64),
    ]
    assert midi.variable(128) == b"\x81\x00"


@pytest.mark.parametrize(
    "piece, said",
    [
        (np.zeros((5, 87), np.uint8), r"traindata|train\[0\].*\(5, 87\).*88 keys"),
        (np.full((5, 88), 2, np.uint8), r"train\[0\], frame 0, key 0: 2, expected 0 or 1"),
        (np.zeros((0, 88), np.uint8), r"train\[0\]"),
        (np.zeros((1, 88), np.uint8), "1 frames, expected at least 2"),
    ],
)
def test_bad_rolls_are_named(tmp_path, piece, said):
    place = write_mat(tmp_path / "bad.mat", traindata=cells([piece, *rolls(2)]))
    with pytest.raises(UsageError, match=said):
        build("polyphonic", file=place)


def test_mat_with_other_things_in_it_is_refused(tmp_path):
    for bad in (np.eye(3), "text", {"field": 1.0}):
        place = write_mat(tmp_path / "bad.mat", traindata=bad)
        with pytest.raises(UsageError, match="expected a cell array"):
            build("polyphonic", file=place)
    scipy.io.savemat(tmp_path / "none.mat", {"other": np.eye(2)})
    with pytest.raises(UsageError, match="no variable 'traindata'; it has: other"):
        build("polyphonic", file=str(tmp_path / "none.mat"))


@pytest.mark.parametrize("place", [237, 240, 244])  # sizes inside the first cell
def test_mat_whose_sizes_lie_is_answered(mat, place):
    content = bytearray(Path(mat).read_bytes())
    content[place] ^= 0x5B
    with pytest.raises(UsageError, match=r"x.mat"):
        matfile.read(bytes(content), "x.mat", ("traindata",))


@pytest.mark.parametrize(
    "script, said",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV: its sizes"),
        ("import time; time.sleep(60)", "not read within 1 s"),
        ("raise MemoryError('Unable to allocate')", "Unable to allocate"),
    ],
)
def test_a_mat_that_ends_its_reader_is_answered(monkeypatch, tmp_path, script, said):
    """A script stands for SciPy with bytes that end it: which those are depends on its version."""
    (tmp_path / "reader.py").write_text(script)
    monkeypatch.setattr(matfile, "__file__", str(tmp_path / "reader.py"))
    monkeypatch.setattr(matfile, "SECONDS", 1 if "sleep" in script else 30)
    with pytest.raises(UsageError, match=f"x.mat: .*{said}"):
        matfile.read(b"", "x.mat", ("traindata",))


def test_a_mat_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(matfile, "FILE_LIMIT", 10)
    with pytest.raises(UsageError, match="x.mat: 11 bytes, expected at most 10"):
        matfile.read(bytes(11), "x.mat", ("traindata",))


@pytest.mark.parametrize("packed", [False, True])
def test_mat_of_every_kind_of_number_comes_back_as_it_was_written(tmp_path, packed):
    shapes = [(rows, 3) for rows in range(4)]
    kinds = ("f8", "f4", "i4", "u1", "?")
    pieces = [(9 * RANDOM.random(shape)).astype(kind) for kind in kinds for shape in shapes]
    scipy.io.savemat(tmp_path / "x.mat", {"a": cells(pieces), "b": 1}, do_compression=packed)
    found = matfile.read((tmp_path / "x.mat").read_bytes(), "x.mat", ("a",))
    assert list(found) == ["a"]
    for one, other in zip(found["a"], pieces, strict=True):
        assert one.shape == other.shape
        np.testing.assert_array_equal(one, other)


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", train=np.array([{"a": 1}], object))
    with pytest.raises(UsageError, match="not a readable .npz"):
        build("polyphonic", file=str(tmp_path / "p.npz"))


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"train": 3}', '{"train": [[[200]]]}', "[" * 99999]
)
def test_bad_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UsageError, match=r"x.json"):
        build("polyphonic", file=str(tmp_path / "x.json"))


# ---------------------------------------------------------------------------------------------
# Classification


@pytest.mark.slow
def test_label_smoothing_is_cross_entropy_to_smoothed_targets():
    logits, labels = jnp.asarray(RANDOM.normal(size=(5, 4))), jnp.array([0, 1, 2, 3, 0])
    target = 0.9 * jax.nn.one_hot(labels, 4) + 0.1 / 4
    expected = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
    np.testing.assert_allclose(classify.smoothed(logits, labels, 0.1), expected, rtol=1e-5)


def test_balanced_weights_make_classes_count_alike():
    labels = np.array([0, 0, 0, 1])
    weights = classify.class_weights("balanced", labels, 2)
    np.testing.assert_allclose(weights * np.bincount(labels), [2, 2])
    loss = classify.make_loss(weights, 0.0)
    outputs = jnp.array([[2.0, 0.0]] * 4)
    value, metrics = loss(outputs, {"targets": jnp.asarray(labels)})
    one = classify.smoothed(outputs, jnp.asarray(labels), 0.0)
    np.testing.assert_allclose(value, (one[0] + one[3]) / 2, rtol=1e-6)
    assert metrics["accuracy"].total == 3


def test_predictions_are_of_the_example_they_name(tmp_path, series):
    for mode in ("on", "off"):
        task = build("vowels", **series, packing=mode)

        def forward(batch, carry=None, last=mode == "off"):
            totals = jnp.cumsum(batch["inputs"][..., 0], axis=0)
            if last:
                totals = batch["inputs"][batch["lengths"] - 1, jnp.arange(4), 0]
            else:
                totals = batch["inputs"][..., 0]
            return jnp.stack([totals, -totals], axis=-1), None

        task.predict(forward, tmp_path, SimpleNamespace())
        lines = (tmp_path / "predictions.csv").read_text().splitlines()
        if mode == "on":
            packed = lines
    assert lines == packed and lines[0] == "index,label,predicted,p(a),p(b)"
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(8)]
    assert [line.split(",")[1] for line in lines[1:]] == list("abababab")


def test_rows_and_permuted_pixels_hold_the_same_image(images):
    fields = {"folder": images, "valid_size": 20}
    rows = build("mnist", **fields)
    pixels = build("mnist", **fields, order="pixels", permutation="random")
    one, other = (t.splits["test"].batch(t.data, 0)["inputs"] for t in (rows, pixels))
    assert one.shape == (28, 4, 28) and other.shape == (784, 4, 1)
    flat = np.swapaxes(one, 0, 1).reshape(4, 784)[:, pixels.data["permutation"]]
    np.testing.assert_array_equal(flat, other[..., 0].T)


def test_images_may_be_packed(tmp_path, images):
    for place in tmp_path.glob("*ubyte"):
        (tmp_path / (place.name + ".gz")).write_bytes(gzip.compress(place.read_bytes()))
        place.unlink()
    assert build("mnist", folder=images, valid_size=20).spec.in_features == 28


@pytest.mark.parametrize("field", ["order", "permutation", "readout", "class_weights"])
def test_unknown_choices_are_answered(images, field):
    with pytest.raises(UsageError, match=f"task.{field}='nonsense', expected"):
        build("mnist", folder=images, valid_size=20, **{field: "nonsense"})


def test_bad_images_are_named(tmp_path):
    write_images(tmp_path, side=27)
    with pytest.raises(UsageError, match="an array of 60 x 27 x 27, expected N x 28 x 28"):
        build("mnist", folder=str(tmp_path), valid_size=20)
    folder = write_images(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.full(60, 10, np.uint8))
    with pytest.raises(UsageError, match="label 10 at item 0, expected 0 to 9"):
        build("mnist", folder=folder, valid_size=20)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(59, np.uint8))
    with pytest.raises(UsageError, match="59 labels for 60 images"):
        build("mnist", folder=folder, valid_size=20)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match="no such file"):
        build("mnist", folder=folder, valid_size=20)
    with pytest.raises(UsageError, match="task.valid_size=60"):
        build("mnist", folder=write_images(tmp_path), valid_size=60)


@pytest.mark.parametrize("cut", [0, 3, 6, 20, 200])
def test_truncated_idx_is_answered(cut):
    images = struct.pack(">HBBIII", 0, 8, 3, 2, 28, 28) + bytes(2 * 784)
    with pytest.raises(UsageError, match="x.idx"):
        readers.idx(images[:cut], "x.idx", (None, 28, 28))


@pytest.mark.parametrize(
    "lines, said",
    [
        ("@classLabel true a b\n@data\n1,2:3,4:c", "line 3: label 'c', expected one of a, b"),
        ("@classLabel true a b\n@data\n1,2:3:a", "dimensions of 1 and 2 steps"),
        ("@classLabel true a b\n@data\n1,x:a", "line 3: could not convert"),
        ("@classLabel true a b\n@data\n1,?:a", "line 3"),
        ("@classLabel true a b\n@data\n1,nan:a", "missing or infinite"),
        ("@classLabel true a b\n@data\n1:a\n1:2:a", "line 4: 2 dimensions, expected 1"),
        ("@classLabel true a b\n@data\n", "no cases after @data"),
        ("@data\n1:a", "expected one of"),
        ("1,2:a", "before @data"),
        ("", "the file is empty"),
    ],
)
def test_bad_ts_is_named(lines, said):
    with pytest.raises(UsageError, match=said):
        readers.ts(lines.encode(), "x.ts")


def test_ts_pair_must_fit(tmp_path):
    a, b = write_ts(tmp_path / "a.ts"), write_ts(tmp_path / "b.ts", dimensions=3)
    with pytest.raises(UsageError, match="2 and 3 dimensions"):
        build("vowels", train_file=a, test_file=b)
    with pytest.raises(UsageError, match="go together"):
        build("vowels", train_file=a)


# ---------------------------------------------------------------------------------------------
# Language


def stream_task(text, **fields):
    return build("language", file=text, steps=6, eval_steps=7, **fields)


def test_training_streams_are_continuous_and_reset_at_the_epochs_start(text):
    task = stream_task(text)
    rows = epoch(task)
    steps = task.steps_per_epoch
    for row in range(4):
        one = np.concatenate([rows[4 * i + row] for i in range(steps)])
        start = row * ((len(task.data["train"]) - 1) // 4)
        np.testing.assert_array_equal(one, task.data["train"][start : start + 6 * steps])
    for step in range(2 * steps):
        resets = np.asarray(task.batch(task.data, jax.random.key(0), step)["resets"])
        assert resets[0].all() == (step % steps == 0) and not resets[1:].any()
    batch = task.batch(task.data, jax.random.key(0), 1)
    np.testing.assert_array_equal(batch["inputs"][1:], batch["targets"][:-1])


@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_counts_every_token_once_in_order(text, size):
    task = stream_task(text, eval_batch_size=size)
    for name, split in task.splits.items():
        targets = [b["targets"][b["mask"]] for b in batches(task, split)] if size == 1 else None
        count = sum(int(b["mask"].sum()) for b in batches(task, split))
        assert count == len(task.data[name]) - 1
        if targets:
            np.testing.assert_array_equal(np.concatenate(targets), task.data[name][1:])


def test_parts_of_one_text_follow_one_another(text):
    task = stream_task(text)
    assert task.data["valid"][0] == task.data["train"][-1]
    assert task.data["test"][0] == task.data["valid"][-1]
    total = sum(len(task.data[name]) - 1 for name in ("train", "valid", "test"))
    assert total == len(Path(text).read_text())


def test_eval_size_cuts_the_evaluation_and_nothing_else(text):
    whole, cut = stream_task(text), stream_task(text, eval_size=10)
    np.testing.assert_array_equal(whole.data["train"], cut.data["train"])
    assert [len(cut.data[name]) for name in ("valid", "test")] == [11, 11]


@pytest.mark.slow
def test_uniform_model_has_the_loss_of_a_guess(text):
    task = stream_task(text, level="words")
    batch = task.splits["test"].batch(task.data, 0)
    size = task.spec.out_features
    scalar, means = task.loss(jnp.zeros((*batch["targets"].shape, size)), batch)
    np.testing.assert_allclose(scalar, math.log(size), rtol=1e-6)
    metrics = {name: mean.total / mean.count for name, mean in means.items()}
    np.testing.assert_allclose(task.summarize(metrics)["perplexity"], size, rtol=1e-5)
    bits = language.summarize({"nll": math.log(2)}, "characters")
    assert bits["bits_per_character"] == pytest.approx(1)


def test_perplexity_is_of_the_loss_without_smoothing(text):
    plain, smooth = (stream_task(text, label_smoothing=s) for s in (0.0, 0.2))
    batch = plain.batch(plain.data, jax.random.key(0), 0)
    outputs = jax.random.normal(jax.random.key(1), (6, 4, plain.spec.out_features))
    one, other = plain.loss(outputs, batch)[1], smooth.loss(outputs, batch)[1]
    assert one["nll"].total == other["nll"].total and one["loss"].total != other["loss"].total


def test_ngrams_sum_to_one():
    ids = RANDOM.integers(0, 5, 200)
    models = ngrams.fit(ids, 6)
    for before in range(6):
        pairs = [np.array([before, after]) for after in range(6)]
        for nll in models.values():
            total = sum(math.exp(-float(nll(pair)[0])) for pair in pairs)
            assert total == pytest.approx(1)


def test_words_are_read_as_lines_and_written_back(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / part).write_text("b a\na b a\n" * 20)
    files = {f"{part}_file": str(tmp_path / part) for part in ("train", "valid", "test")}
    corpus = language.load(config("language", level="words", **files).task)
    assert corpus.vocabulary == ("a", "<eos>", "b")
    assert list(corpus.ids["valid"][:6]) == [2, 0, 1, 0, 2, 0]
    assert corpus.decode([2, 0, 1, 0, 2, 0, 1]) == "b a\na b a\n"
    assert list(corpus.encode("b a\na", "x")) == [2, 0, 1, 0]


def test_generation_follows_the_prompt_and_the_seed(text, tmp_path):
    task = stream_task(text)
    size = task.spec.out_features

    def successor(batch, carry=None):  # always the next id
        logits = 50.0 * jax.nn.one_hot((batch["inputs"] + 1) % size, size)
        return logits, (carry or 0) + 1

    options = SimpleNamespace(prompt="ca", temperature=1.0, length=3, seed=0)
    (place,) = task.predict(successor, tmp_path, options)
    vocabulary = sorted(set(Path(text).read_text()))
    start = vocabulary.index("a")
    assert place.read_text() == "ca" + "".join(vocabulary[start + 1 : start + 4])
    random = zeros(task)
    texts = [task.samples(random, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    with pytest.raises(UsageError, match="--prompt, line 1, column 2: 'Q'"):
        task.predict(successor, tmp_path, SimpleNamespace(prompt="cQ"))


def test_bad_texts_are_named(tmp_path, text):
    def write(content: bytes) -> str:
        (tmp_path / "bad.txt").write_bytes(content)
        return str(tmp_path / "bad.txt")

    with pytest.raises(UsageError, match="byte 300 is 0xff, not UTF-8"):
        stream_task(write(b"abc" * 100 + b"\xff"))
    with pytest.raises(UsageError, match="the file is empty"):
        stream_task(write(b""))
    with pytest.raises(UsageError, match="no newline; expected a sentence a line"):
        stream_task(write(b"a b " * 100), level="words")
    with pytest.raises(UsageError, match="at least 24"):
        stream_task(write(b"abcdefgh" * 2))
    with pytest.raises(UsageError, match=r"line 1, column 96: 'X' is not among the 2 tokens"):
        stream_task(write(b"ab" * 47 + b"aX" + b"ab" * 2))
    with pytest.raises(UsageError, match="kinds of token"):
        stream_task(write(b"a" * 1000))
    with pytest.raises(UsageError, match="no such file"):
        stream_task(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="task.file alone"):
        build("language", train_file=text)


def test_unknown_words_are_an_error_or_replaced(tmp_path):
    (tmp_path / "train").write_text("a b\n" * 50)
    (tmp_path / "valid").write_text("a b\nb zebra\n")
    fields = {f"{part}_file": str(tmp_path / "train") for part in ("train", "test")}
    fields |= {"valid_file": str(tmp_path / "valid"), "level": "words", "steps": 3}
    with pytest.raises(UsageError, match=r"valid, line 2, word 2: 'zebra' is not among the 3"):
        build("language", **fields)
    task = build("language", **fields, unknown="replace")
    assert task.spec.in_features == 4


# ---------------------------------------------------------------------------------------------
# Fuzz: whatever the bytes are, a UsageError or a result


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_are_answered(tmp_path, seed):
    random = np.random.default_rng(seed)
    write_mat(tmp_path / "x.mat")
    np.savez(tmp_path / "x.npz", train_0=rolls(1)[0])
    write_ts(tmp_path / "x.ts")
    write_idx(tmp_path / "x.idx", np.zeros((3, 28, 28), np.uint8))
    polyphonic_keys = ("traindata", "validdata", "testdata")
    own_process = {"x.mat": lambda content: matfile.read(content, "x.mat", polyphonic_keys)}
    parsers = {
        **(own_process if seed < 6 else {}),  # a start takes as long as 100 of the others
        "x.npz": lambda content: readers.npz(content, "x.npz"),
        "x.ts": lambda content: readers.ts(content, "x.ts"),
        "x.idx": lambda content: readers.idx(content, "x.idx", (None, 28, 28)),
    }
    for name, parse in parsers.items():
        content = bytearray((tmp_path / name).read_bytes())
        for place in random.integers(0, len(content), 1 + seed % 5):
            content[place] = random.integers(0, 256)
        if seed % 3 == 0:
            del content[random.integers(0, len(content)) :]
        try:
            parse(bytes(content))
        except UsageError as error:
            assert name in str(error)


# ---------------------------------------------------------------------------------------------
# Configs

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ("jsb", "mnist_rows", "mnist_pixels", "chars", "words", "vowels")


@pytest.mark.parametrize("name", NAMES)
def test_without_data_and_network_a_config_says_what_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path))
    monkeypatch.delenv("LSTM_JAX_DATA", raising=False)
    monkeypatch.setattr(data, "BACKOFF_SECONDS", 0.0)

    def offline(*_, **__):
        raise requests.ConnectionError("NameResolutionError: no network here")

    monkeypatch.setattr(requests, "get", offline)
    with pytest.raises(UsageError, match=r"(?s)bytes\) is missing.*offline\?.*it goes to"):
        build_task(load_config(f"{CONFIGS / name}.py:smoke"))


FIGURES = {
    "jsb": ("piano_roll", "nll_by_frame"),
    "mnist": ("confusion", "mistakes"),
    "chars": ("surprise", "loss_by_context"),
    "words": ("surprise", "loss_by_context"),
    "vowels": ("confusion", "accuracy_by_length"),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("mnist_rows", "words")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jsb", "mnist_pixels", "chars", "vowels", *SLOW])
def test_smoke_runs_to_the_end(name, tmp_path, mat, images, series, text):
    fields = {"file": mat if name == "jsb" else text}
    if name.startswith("mnist"):
        fields = {"folder": images, "valid_size": 20}
    if name == "vowels":
        fields = series
    overrides = {f"task.{field}": str(value) for field, value in fields.items()}
    periods = ("num_steps", "checkpoint_every", "log_every", "eval_every")
    overrides |= {f"train.{name}": "2" for name in periods}
    config = load_config(f"{CONFIGS / name}.py:smoke", overrides)
    summary = train.train(config, tmp_path / "run")
    assert summary["status"] == "completed" and summary["step"] == 2
    names = {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")}
    assert names == {*FIGURES[name.partition("_")[0]], "learning_curves"}
    for path in (tmp_path / "run" / "figures").glob("*.png"):
        drawn.picture(path)


def test_classification_baselines_carry_the_tasks_own_loss():
    """Frequencies 3:1 and two well-separated classes; weights and smoothing change the loss."""
    features = np.array([[0.0], [0.1], [-0.1], [5.0]], np.float32)
    labels = np.array([0, 0, 0, 1])
    for weights, smoothing in ((np.ones(2), 0.0), (np.array([1.0, 3.0]), 0.0), (np.ones(2), 0.2)):
        loss = classify.make_loss(weights.astype(np.float32), smoothing)
        found = classify.baselines((features, labels), (features, labels), 2, loss)
        counts = found["majority class"]
        entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
        assert counts["nll"] == pytest.approx(entropy) and counts["accuracy"] == 0.75
        assert found["nearest centroid"]["accuracy"] == 1.0
        assert found["nearest centroid"]["nll"] < 1e-3
        plain = smoothing == 0 and np.ptp(weights) == 0
        assert (counts["loss"] == pytest.approx(entropy)) == plain
