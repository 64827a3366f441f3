"""The benchmark: rows compute one function, ratios are what they say, wrong requests are told."""

import drawn
import jax
import numpy as np
import pytest

from benchmarks import accelerator, layers, peers, run, tables, tpu_static, variants, worker
from benchmarks.layers import Entry, Result
from lstm_jax.cells import gates
from lstm_jax.cells.activations import ACTIVATIONS
from lstm_jax.errors import UsageError

TINY = peers.Shape(4, 2, 3, 5)


@pytest.mark.parametrize("name", ["lstm_jax", "lstm_jax scan", "flax linen", "flax nnx"])
def test_rows_compute_the_same_layer(name, tmp_path):
    for train in (False, True):
        path = str(tmp_path / f"{train}.npz")
        worker.write_reference({}, list(TINY), train, path)
        ready = {}
        answer = worker.prepare(
            ready, "a", path, row=name, shape=list(TINY), train=train, sharded=False
        )
        assert answer["error"] < 1e-5, answer
        assert len(worker.time_row(ready, "a", 0.015)["seconds"]) == 2


def test_a_wrong_gradient_is_an_error(tmp_path):
    path = str(tmp_path / "reference.npz")
    worker.write_reference({}, list(TINY), True, path)
    right = dict(np.load(path))
    np.savez(path, **{**right, "recurrent": right["recurrent"][:, ::-1]})
    what = {"row": "lstm_jax", "shape": list(TINY), "train": True, "sharded": False}
    assert worker.prepare({}, "a", path, **what)["error"] > 1e-2


def test_a_row_that_cannot_run_says_why():
    answer = worker.prepare(
        {}, "a", "", row="lstm_jax cudnn", shape=list(TINY), train=False, sharded=False
    )
    assert "needs an NVIDIA GPU" in answer["refused"]


@pytest.mark.slow
def test_a_variant_by_kind_and_name():
    switch = "lstm candidate_activation=relu"
    for name in ("gates/cifg", "transform/projection", "transform/zoneout +key", switch):
        layer = variants.layer(name, TINY._replace(H=128))
        params = layer.params(None)
        xs = np.zeros((4, 2, 3), np.float32)
        assert jax.eval_shape(layer.apply, params, xs).shape == (4, 2, 128)


def test_every_row_of_the_ablation_table_is_a_variant():
    names = variants.names()
    assert {f"gates/{row}" for row in gates.GATES} < set(names)
    for place, own in variants.PLACES.items():
        there = {n.partition("=")[2] for n in names if n.startswith(f"lstm {place}=")}
        assert there | {own, "one"} == set(ACTIVATIONS)
    for name in names:
        assert variants.cell_of(name).info.hidden == 128


def test_variants_above_the_limit_are_named():
    """Full peepholes may cost what their FLOPs do, a cell clip may not."""
    times = {"cell/lstm": 1.0, "option/peepholes_full": 1.35, "option/cell_clip": 1.3}
    found = [
        Result(TINY, "train", Entry("one device", row), [s] * 3, 1.0, 10, None, 0.0)
        for row, s in times.items()
    ]
    lines, above = variants.table(found)
    assert above == "option/cell_clip 1.30"
    assert lines[3].startswith("| option/peepholes_full | 1.35e+03 | 1.35e+03 | 1.35 | 1.35 | 1.3")


def results():
    times = {"lstm_jax": 2.0, "flax linen": 4.0, "keras": 5.0}
    for shape in (TINY, TINY._replace(T=8)):
        for row, seconds in times.items():
            yield Result(
                shape, "train", Entry("one device", row), [seconds] * 3, 1.0, 10, 1e-7, 0.0
            )


def test_promises_and_files(tmp_path):
    found = list(results())
    one, minima, torch, *_ = tables.promises(found)[2:]
    assert one.endswith("| 0.50 | 0.50 | **0.50** | 0.60, none above 0.85 | met |")
    assert minima.endswith("| **0.50** | 0.60, none above 0.85 |  |")
    assert torch.endswith("|  |  | not measured | 0.72, none above 1 |  |")
    assert tables.verdict([0.7, 1.01], 0.9, 1.0) == "missed"
    text = tables.write(found, tmp_path, ["- here"], "One layer")
    assert "| keras, one device | 5e+03 (5e+03–5e+03) |" in text
    assert (tmp_path / "layers.csv").read_text().count("\n") == 7
    drawn.picture(tmp_path / "layers.png")
    (panel,) = drawn.panels(tables.plot(found))
    assert panel["legend"] == ["flax linen, one device", "keras, one device"]
    assert panel["lines"]["keras, one device"][1].tolist() == [2.5, 2.5]
    assert panel["ticks"][0] == [str(TINY), str(TINY._replace(T=8))]
    assert panel["scales"][1] == "log"


def test_what_is_not_there_is_left_out_with_a_line(monkeypatch):
    monkeypatch.setattr(layers, "installed", lambda row: row != "haiku")
    wanted, out = layers.entries("cpu", 2)
    assert Entry("all cores", "keras") in wanted
    assert not [entry for entry in wanted if entry.row == "haiku"]
    assert "haiku is not installed and left out" in out


def test_wrong_requests():
    with pytest.raises(UsageError, match="is no T,B,D,H"):
        run.shape_of("12,3,4")
    with pytest.raises(UsageError, match="neither forward nor train"):
        run.modes_of("forwards")
    with pytest.raises(UsageError, match="no row 'flex'"):
        run.chosen([Entry("torch", "torch")], "flex")
    assert run.chosen([Entry("torch", "torch")], "") == [Entry("torch", "torch")]


def test_bundles_are_read_from_the_schedules(tmp_path):
    schedules = {
        "1-fusion.5": ("jit(loss)/jvp()/while/body/closed_call/dot_general", 133),
        "2-fusion.6": ("jit(loss)/transpose(jvp())/while/body/mul", 90),
        "3-forward": ("jit(loss)/jvp(forward_in_time)/pallas_call", 80),
        "4-copy": ("jit(loss)/jvp()/dot_general", 7000),
        "5-TLP": ("jit(loss)/jvp()/while/body", 700),
    }
    for name, (op, count) in schedules.items():
        text = f'total scheduled bundles:    {count}\n x = custom-call(), op_name="{op}"'
        (tmp_path / f"{name}-00-schedule-analysis_final_bundles.txt").write_text(text)
    assert tpu_static.bundles(tmp_path, 16) == (133 + 10, 90)


def test_bytes_streamed_are_those_of_each_loop():
    layer, xs = peers.engine("deferred", TINY), jax.ShapeDtypeStruct((4, 2, 3), np.float32)
    params = layer.params(peers.problem(TINY)[0])
    with tpu_static.tracing_for("tpu"):
        jaxpr = jax.make_jaxpr(lambda p, x: layer.apply(p, x))(params, xs)
    time, z, y = 4, 4 * TINY.B * 4 * TINY.H, 4 * TINY.B * TINY.H
    assert list(tpu_static.loops(jaxpr.jaxpr, TINY.T)) == [time + z + y]


def test_tpu_static_without_its_compiler_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(tpu_static.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="make bench-tpu installs it"):
        tpu_static.compiler("")


def test_rows_of_an_accelerator_are_written_when_measured(monkeypatch, tmp_path, capsys):
    """What comes before the machine goes, stays; what no time is left for is said."""
    path = tmp_path / "new" / "accelerator.csv"

    def gone(bench):
        yield accelerator.told("a pack", 16, "123", "trial-steps/s")
        assert "123" in path.read_text()
        raise RuntimeError("the machine went")

    monkeypatch.setattr(accelerator, "PARTS", {"packs": gone})
    bench, late = (accelerator.start(minutes, 0, tmp_path) for minutes in (10, 0))
    with bench.workers, late.workers:
        with pytest.raises(RuntimeError, match="the machine went"):
            accelerator.run(bench, accelerator.sheet(path))
        head, rule, row = accelerator.table(path)
        accelerator.run(late, accelerator.sheet(path))
    assert head.count("|") == rule.count("|") == row.count("|") and "| 123 |" in row
    assert "left out, the minutes are over: packs" in capsys.readouterr().out


@pytest.mark.slow
def test_the_parts_of_an_accelerator_run_on_a_cpu(monkeypatch, tmp_path):
    for name, shapes in {"WHOLE": (TINY,), "TUNED": (TINY,), "TRIALS": (1, 2)}.items():
        monkeypatch.setattr(accelerator, name, shapes)
    monkeypatch.setattr(layers.peers, "TORCH", {})
    parts = {k: part for k, part in accelerator.PARTS.items() if k != "pixels"}
    monkeypatch.setattr(accelerator, "PARTS", parts)
    assert run.main(["accelerator", f"--out={tmp_path}", "--quick"]) == 0
    found = (tmp_path / "accelerator.md").read_text()
    for row in ("lstm_jax deferred unroll=4, one device", "lstm_jax deferred, no command buffers",
                "flax linen, one device", "airline, H=32"):  # fmt: skip
        assert f"| {row} |" in found, found
