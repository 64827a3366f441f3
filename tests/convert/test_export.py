"""Whole models out and in again: every part of a model, by the formats' own runtimes."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import datafiles
import jax
import jaxtyping
import numpy as np
import pytest

from lstm_jax import cli
from lstm_jax.cells import lstm
from lstm_jax.cells.gates import GATES
from lstm_jax.config.fields import resolve
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.convert import export, files, imports, runs, stablehlo
from lstm_jax.convert.onnx import export as onnx_export
from lstm_jax.errors import UsageError
from lstm_jax.training.program import build_program
from lstm_jax.training.saved import Run

ROOT = Path(__file__).parents[2]
SMALL = {"cell.hidden": 4, "train.batch_size": 4, "parallel.data": 1, "train.compile": "quick"}


def untrained(task, **fields):
    """A run at step 0, without a workdir; `_` for `.` in the names of fields."""
    overrides = SMALL | {name.replace("__", "."): value for name, value in fields.items()}
    config = resolve(apply_overrides(default_config(task), overrides))
    program, hyper = build_program(config), config.hyper
    params = program.jit(program.model.init)(jax.random.key(1), hyper)
    return Run(config, program, hyper, params, 0, jax.device_put(program.task.data))


TEXT = {
    "task__file": str(ROOT / "LICENSE"),
    "task__steps": 6,
    "task__eval_steps": 7,
    "task__unknown": "replace",
}
MODELS = {
    "100 steps, residual, dense head": partial(
        untrained, "adding", task__length=100, task__eval_size=4, model__layers=2,
        model__residual=True, model__head_hidden=5, model__head_activation="relu",
        cell__gates="cifg", cell__learned_carry=True,
    ),
    "lengths, both directions": partial(
        untrained, "counting", task__train_max=3, task__test_max=4, model__bidirectional=True,
        model__merge="mean", cell__name="gru", cell__learned_carry=True,
    ),
    "convolution, both directions": partial(
        untrained, "adding", task__length=9, task__eval_size=4, model__encoder="conv",
        model__conv_features=(3, 5), model__conv_width=3, model__bidirectional=True,
    ),
    "embedding, tied, skip, a Scan": partial(
        untrained, "language", **TEXT, model__encoder="embedding",
        model__embedding=6, model__tied=True, model__skip=True, model__layers=2,
        cell__name="slstm",
    ),
    "one-hot, projected": partial(
        untrained, "language", **TEXT, cell__projection=2, cell__learned_carry=True,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_in_onnx(name, tmp_path):
    """What onnxruntime computes, and step by step; the export itself refuses a difference."""
    loaded = MODELS[name]()
    done = onnx_export.write(loaded, tmp_path / "m.onnx")
    if name.startswith("100 steps"):
        assert any(line.startswith("step by step, 100 steps") for line in done.checked)
    differences = [line.rpartition(" ")[2] for line in done.checked if "difference" in line]
    assert all(float(d) < 1e-5 for d in differences) and len(differences) >= 2
    comes_back(loaded, tmp_path / "m.onnx")
    two_ways = loaded.config.model.bidirectional
    assert ("m-step.onnx" in done.files) == (not two_ways)
    assert any("no step model: the backward" in line for line in done.checked) == two_ways


def comes_back(loaded, path):
    """The file's arrays are the model's parameters again."""
    zeros = jax.tree.map(np.zeros_like, jax.device_get(loaded.params))
    cell = runs.cell_of(loaded.config, loaded.hyper)
    found, _ = imports.parameters(cell, zeros, *files.load(path))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, loaded.params)


@pytest.fixture
def symbolic():
    """Sizes that are symbols, which jaxtyping cannot compare."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lengths, both directions", "embedding, tied, skip, a Scan"])
def test_a_whole_model_in_stablehlo(name, tmp_path, symbolic):
    done = stablehlo.write(MODELS[name](), tmp_path / "m.stablehlo")
    assert stablehlo.load(tmp_path / "m.stablehlo").platforms == stablehlo.PLATFORMS
    assert "largest difference 0" in done.checked[0]


@pytest.mark.slow
def test_packed_rows_with_holes_and_resets_in_onnx(tmp_path):
    data = {f"task__{k}_file": datafiles.write_ts(tmp_path / f"{k}.ts") for k in ("train", "test")}
    loaded = untrained("vowels", **data, task__packing="on")
    done = onnx_export.write(loaded, tmp_path / "m.onnx")
    assert "no recurrent operator knows resets" in done.files["m.onnx"]


@pytest.mark.slow
def test_what_onnx_has_not_is_refused_by_the_option(tmp_path):
    loaded = untrained("adding", task__length=3, task__eval_size=2, cell__dtype="bfloat16")
    with pytest.raises(UsageError, match=r"cell\.dtype=bfloat16.*nearest.*float32"):
        onnx_export.write(loaded, tmp_path / "m.onnx")
    own = ROOT / "tests" / "own" / "mine.py"
    loaded = untrained("adding", task__length=3, task__eval_size=2, model__encoder=f"{own}:Doubled")
    with pytest.raises(UsageError, match=r"model\.encoder=.*Doubled.*--to=stablehlo"):
        onnx_export.write(loaded, tmp_path / "m.onnx")


def test_a_sequence_in_two_parts_is_the_whole(tmp_path):
    loaded = MODELS["100 steps, residual, dense head"]()
    model, names = onnx_export.model(loaded, onnx_export.Wanted((), False))[0], []
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    session = onnx_export.onnxruntime_session()(tmp_path / "m.onnx")
    names = [name for each in onnx_export.carries(loaded) for name in each]
    xs = np.random.default_rng(0).random((100, 3, 2)).astype(np.float32)
    outputs, *carry = session.run(None, {"inputs": xs})
    _, *middle = session.run(None, {"inputs": xs[:40]})
    given = dict(zip(names, middle, strict=True))
    again, *last = session.run(None, {"inputs": xs[40:], **given})
    np.testing.assert_allclose(again, outputs, atol=1e-6)
    np.testing.assert_allclose(last, carry, atol=1e-6)


@pytest.fixture(scope="module")
def two_layers():
    loaded = untrained(
        "adding", task__length=5, task__eval_size=2, model__layers=2, model__head_hidden=5
    )
    return runs.cell_of(loaded.config, loaded.hyper), jax.device_get(loaded.params)


LIBRARIES = ["torch", "keras", "linen", "nnx", "haiku", "equinox", "lstm_jax"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_under_other_names_and_back(library, two_layers):
    cell, params = two_layers
    named = runs.to_names(library, cell, params)
    zeros = jax.tree.map(np.zeros_like, params)
    again, lacking = runs.from_names(library, cell, zeros, named)
    assert not lacking
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, params)
    assert runs.guess(cell, zeros, named) == library or library in ("linen", "keras")


def test_what_does_not_fit_is_listed_and_may_be_renamed_or_left(two_layers):
    cell, params = two_layers
    named = runs.to_names("torch", cell, params)
    theirs = {
        name.replace("rnn.", "lstm.").replace("head.linear", "fc"): array
        for name, array in named.items()
    }
    with pytest.raises(UsageError) as error:
        runs.from_names("torch", cell, params, theirs)
    assert "unknown: lstm.weight_ih_l0; is it rnn.weight_ih_l0?" in str(error.value)
    assert "missing: head.linear.bias [1]" in str(error.value)
    assert "--rename" in str(error.value)
    renamed = imports.renamed(theirs, "lstm.=rnn.,fc.=head.linear.")
    assert renamed.keys() == named.keys()
    with pytest.raises(UsageError, match="'gru.' begins none of lstm"):
        imports.renamed(theirs, "gru.=rnn.")
    del named["head.linear.weight"]
    _, lacking = runs.from_names("torch", cell, params, named, partial_state=True)
    assert lacking == ["head.linear.weight"]


@pytest.mark.parametrize("gates", [name for name in GATES if name != "multiplicative"])
def test_a_cell_without_all_gates_goes_out_and_comes_in_again(gates, two_layers):
    """As long as nothing else trained the gates that it fixes."""
    _, params = two_layers
    cell = lstm(4, gates=gates, peepholes="diagonal_remaining")
    params = jax.tree.map(lambda a: a, params)
    for n, size in enumerate((2, 4)):
        params[f"layer_{n}"] = {"forward": drawn(cell, size, n)}
    named = runs.to_names("onnx", cell, params)
    assert named["layer_0/R"].shape == (1, 16, 4)
    zeros = jax.tree.map(np.zeros_like, params)
    again, _ = runs.from_names("onnx", cell, zeros, named)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), again, params)
    if GATES[gates].recurrent() == tuple("ifgo"):
        return
    named |= {f"layer_1/{k}": named[f"layer_1/{k}"] + 1 for k in "RB"}
    with pytest.raises(UsageError, match=r"of their own.*cell\.gates=lstm"):
        runs.from_names("onnx", cell, zeros, named)


def drawn(cell, features, seed):
    shapes = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in shapes.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_keep_arrays_and_notes(suffix, tmp_path):
    path, arrays = tmp_path / f"a{suffix}", {"a.b": np.arange(6.0).reshape(2, 3).T, "c": np.ones(2)}
    files.save(path, arrays, {"library": "torch"})
    found, notes = files.load(path)
    assert notes == {"library": "torch"} and found.keys() == arrays.keys()
    np.testing.assert_array_equal(found["a.b"], arrays["a.b"])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UsageError, match="damaged"):
        files.load(path)


def test_a_pickle_is_not_opened(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], object))
    with pytest.raises(UsageError, match="holds objects"):
        files.load(tmp_path / "a.npz")
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a pickle runs code.*\.safetensors"):
        files.load(tmp_path / "a.pkl")


def test_an_export_that_differs_is_refused():
    with pytest.raises(UsageError, match=r"differs from the model by 0\.1"):
        export.agreed(0.1, "onnxruntime")
    with pytest.raises(UsageError, match="differs"):
        export.agreed(float("nan"), "onnxruntime")


# The command line ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("airline") / "run"
    config = f"--config={ROOT / 'configs' / 'airline.py'}:smoke"
    assert cli.main(["train", config, f"--workdir={workdir}"]) == 0
    return workdir


def scores(capsys, *flags):
    capsys.readouterr()
    assert cli.main(["evaluate", *flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["metrics"]


@pytest.mark.slow
def test_out_and_in_and_evaluated_the_same(run, tmp_path, capsys):
    file, again = tmp_path / "airline.npz", tmp_path / "again"
    assert cli.main(["export", f"--workdir={run}", "--to=torch", f"--out={file}"]) == 0
    assert "largest difference" in capsys.readouterr().out
    assert cli.main(["import", f"--from={file}", f"--workdir={again}"]) == 0
    assert "the names of torch (as told)" in capsys.readouterr().out
    ours = scores(capsys, f"--workdir={run}")
    for split_name, row in scores(capsys, f"--workdir={again}").items():
        assert row == pytest.approx(ours[split_name], rel=1e-5)
    assert cli.main(["import", f"--from={file}", f"--workdir={again}"]) == 2
    assert "holds a run" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_model_has_the_runs_own_metrics_and_a_card_and_comes_back(
    run, tmp_path, capsys, symbolic
):
    for form in ("onnx", "stablehlo"):
        file = tmp_path / f"m.{form}"
        assert cli.main(["export", f"--workdir={run}", f"--to={form}", f"--out={file}"]) == 0
        found = scores(capsys, f"--workdir={run}", f"--model={file}")
        for split_name, row in scores(capsys, f"--workdir={run}").items():
            assert found[split_name] == pytest.approx(row, rel=1e-4)
        card = file.with_name(f"{file.name}.md").read_text()
        assert "linear autoregression" in card and "sha256 over its arrays" in card
        assert "`cell.hidden` = `8`" in card and "largest difference" in card
    again = tmp_path / "again"
    assert cli.main(["import", f"--from={tmp_path / 'm.onnx'}", f"--workdir={again}"]) == 0
    found = scores(capsys, f"--workdir={again}")
    for split_name, row in scores(capsys, f"--workdir={run}").items():
        assert found[split_name] == pytest.approx(row, rel=1e-6)
    shutil.rmtree(again)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [
            "m.onnx",
            "m-step.onnx",
            "m.onnx.md",
            "m.stablehlo",
            "m-stream.stablehlo",
            "m.stablehlo.md",
        ]
    )


@pytest.mark.slow
def test_mistyped_exports_and_imports(run, tmp_path, capsys):
    for words, said in {
        ("export", f"--workdir={run}", "--to=tf"): "unknown format 'tf'",
        ("export", f"--workdir={run}"): "to which format? --to=",
        ("export", f"--workdir={run}", "--to=onnx", f"--out={tmp_path}"): "is a folder",
        ("import", "--from=x.npz"): "import needs both ends",
        ("import", "--from=x.npz", "--workdir=w"): "no file 'x.npz'",
        ("import", "--from=x.npz", "--workdir=w", "--library=tf"): "unknown library 'tf'",
        ("evaluate", f"--workdir={run}", "--model=x.onnx"): "--model: no file 'x.onnx'",
    }.items():
        assert cli.main(list(words)) == 2
        assert said in capsys.readouterr().err
