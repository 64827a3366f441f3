"""What TensorBoard shows: asked of its own backend, as its tabs ask."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from events import load
from sweeps import planned, study, summary
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from lstm_jax.config.fields import histogram_period
from lstm_jax.config.options import default_config
from lstm_jax.config.overrides import apply_overrides, read_config
from lstm_jax.sweep.define import names
from lstm_jax.sweep.define.plan import make_plan, read_plan
from lstm_jax.sweep.define.study import load_study
from lstm_jax.sweep.follow.seeds import write_means
from lstm_jax.sweep.workers.worker import work
from lstm_jax.training.program import build_task
from lstm_jax.training.train import train
from lstm_jax.workdir.metrics import open_writer, read_metrics

with warnings.catch_warnings():  # of a library that TensorBoard carries along
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.plugins.custom_scalar import custom_scalars_plugin
    from tensorboard.plugins.scalar import scalars_plugin

ROOT = Path(__file__).parents[2]
LSTM = '\nBASELINE = {"cell.gates": "lstm"}\n'
VARIANTS = """
    yield from grid({
        "cell.gates": ("lstm", "cifg"), "optimizer.learning_rate": (1e-2,), "seed": range(3)
    })
"""


class Board:
    """TensorBoard on a folder."""

    def __init__(self, logdir):
        events = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance={"scalars": 0})
        self.events = events.AddRunsFromDirectory(str(logdir)).Reload()
        provider = data_provider.MultiplexerDataProvider(self.events, str(logdir))
        context = base_plugin.TBContext(data_provider=provider)
        context.plugin_name_to_instance = {"scalars": scalars_plugin.ScalarsPlugin(context)}
        self.hparams_context = backend_context.Context(context)
        self.custom = custom_scalars_plugin.CustomScalarsPlugin(context)

    def runs(self):
        return set(self.events.Runs())

    def columns(self):
        """The columns of the HParams tab."""
        context, request = self.hparams_context, RequestContext()
        metadata = context.hparams_metadata(request, "")
        found = context.experiment_from_metadata(request, "", True, metadata, [])
        return [info.name for info in found.hparam_infos]

    def rows(self):
        """{group: (hyper-parameters, {metric: value}, runs)} of the HParams tab."""
        api: Any = api_pb2
        request = api.ListSessionGroupsRequest(slice_size=100, allowed_statuses=[1, 2, 3])
        handler = list_session_groups.Handler(RequestContext(), self.hparams_context, "", request)
        return {
            group.name: (
                {k: getattr(v, v.WhichOneof("kind")) for k, v in group.hparams.items()},
                {m.name.tag: m.value for m in group.metric_values},
                {session.name for session in group.sessions},
            )
            for group in handler.run().session_groups
        }

    def charts(self):
        """{category: {chart: its content}} of the Custom Scalars tab."""
        layout = self.custom.layout_impl(RequestContext(), "")
        layout = json.loads(layout) if isinstance(layout, str) else layout
        return {
            c["title"]: {chart["title"]: chart for chart in c["chart"]} for c in layout["category"]
        }

    def curve(self, run, pattern):
        """{tag: {step: value}} of the curves that the tab draws for a pattern."""
        found = self.custom.scalars_impl(RequestContext(), run, pattern, "")["tag_to_events"]
        return {tag: {step: value for _, step, value in points} for tag, points in found.items()}


def logged(workdir, trial, split, metric):
    lines = read_metrics(workdir / "trials" / f"{trial:04d}")
    return {line["step"]: line[metric] for line in lines if line["split"] == split}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two variants, three seeds each, with histograms; what `launch` writes in the end."""
    root = tmp_path_factory.mktemp("board")
    config = "config.train.histogram_every = 20"
    planned(root / "s", root / "w", trials=VARIANTS, more=LSTM, config=config)
    assert work(root / "w") == 0
    write_means(read_plan(root / "w"), root / "w")
    return root / "w"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs alone, of which one sets a field that the other leaves alone."""
    root = tmp_path_factory.mktemp("alone")
    length = {"train.num_steps": 60, "train.log_every": 5, "train.eval_every": 10}
    for name, more in (("a", {}), ("b", {"cell.gates": "cifg"})):
        config = apply_overrides(read_config("configs/airline.py:smoke"), length | more)
        train(config, root / name)
    return root


# ---------------------------------------------------------------- names


def named(tmp_path, trials, more=""):
    folder = study(tmp_path, trials=trials, more=more)
    plan = make_plan(load_study(str(folder)))
    return names.run_names(plan), names.group_names(plan)


def test_a_run_is_named_by_its_variant_its_setting_and_its_seed(tmp_path):
    runs, _ = named(tmp_path, VARIANTS, LSTM)
    assert runs == [f"{v}_{s}" for v in ("lstm", "cifg") for s in ("s0", "s1", "s2")]


def test_tuned_fields_are_in_the_name_and_not_the_variants(tmp_path):
    trials = VARIANTS.replace("(1e-2,)", "(1e-2, 3e-4)")
    runs, groups = named(tmp_path, trials, LSTM)
    assert runs[:4] == ["lstm_lr0.01_s0", "lstm_lr0.01_s1", "lstm_lr0.01_s2", "lstm_lr0.0003_s0"]
    assert groups[-1] == "cifg_lr0.0003" and len(set(groups)) == 4


def test_a_value_that_two_fields_have_goes_with_its_field(tmp_path):
    trials = """
    yield {}
    yield {"cell.gate_activation": "relu"}
    yield {"cell.candidate_activation": "relu"}
    yield {"cell.peepholes": "diagonal"}
    yield {"cell.learned_carry": True}
    yield {"cell.forget_bias": 0.5, "model.layers": 2}
    yield {"cell.forget_bias": 0.5, "cell.gate_activation": "tanh"}
"""
    assert named(tmp_path, trials)[0] == [
        "baseline",
        "gate_activation=relu",
        "candidate_activation=relu",
        "diagonal",
        "learned_carry",
        "fb0.5_layers2",
        "tanh_fb0.5",
    ]


def test_fields_with_the_same_initials_are_written_out(tmp_path):
    trials = '    yield from grid({"cell.zoneout_c": (0.1,), "cell.zoneout_h": (0.2, 0.3)})'
    assert named(tmp_path, trials)[0] == ["zh0.2", "zh0.3"]
    trials = """
    yield {"optimizer.weight_decay": 0.1}
    yield {"cell.weight_drop": 0.1}
"""
    assert named(tmp_path, trials)[0] == ["weight_decay=0.1", "weight_drop=0.1"]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*/study.py")))
def test_no_two_trials_of_an_experiment_share_a_name(path):
    plan = make_plan(load_study(str(path.parent)))
    found = names.run_names(plan)
    assert len({name.lower() for name in found}) == len(plan.trials)
    assert all(len(name) < 150 and "/" not in name for name in found)


def test_names_that_would_be_equal_or_no_folders_get_numbers_and_dashes(tmp_path):
    trials = """
    yield {"optimizer.learning_rate": 0.100001}
    yield {"optimizer.learning_rate": 0.100002}
    yield {"optimizer.learning_rate": 0.2, "task.csv": "../a b/ü$.csv"}
"""
    found = named(tmp_path, trials)[0]
    assert found[:2] == ["csv=default_lr0.1_0000", "csv=default_lr0.1_0001"]
    assert found[2] == "..-a-b-ü-.csv_lr0.2"


# ---------------------------------------------------------------- HParams


@pytest.mark.slow
def test_a_sweep_shows_what_varies_grouped_by_variant_with_means_over_seeds(sweep):
    board = Board(sweep / "tensorboard")
    assert board.columns() == ["cell.gates"]
    rows = board.rows()
    assert set(rows) == {"lstm", "cifg"}
    for gates, (hparams, metrics, sessions) in rows.items():
        first = 0 if gates == "lstm" else 3
        assert hparams == {"cell.gates": gates}
        assert sessions == {f"{gates}_s{seed}" for seed in range(3)}
        scores = [summary(sweep, first + i)["metrics"]["test"]["rmse"] for i in range(3)]
        assert metrics["test/rmse"] == pytest.approx(np.mean(scores), rel=1e-5)


@pytest.mark.slow
def test_runs_alone_show_every_field_that_one_of_them_sets(runs):
    board = Board(runs)
    rows = board.rows()
    assert set(rows) == {"a", "b"}
    config = read_config("configs/airline.py:smoke")
    defaults = default_config("forecast")
    assert "cell.gates" not in rows["a"][0] and rows["b"][0]["cell.gates"] == "cifg"
    assert rows["a"][0]["cell.hidden"] == config.cell.hidden != defaults.cell.hidden
    assert not {"cell.peepholes", "model.layers", "task.name", "seed"} & set(rows["a"][0])
    assert set(board.columns()) == set(rows["b"][0])


# ---------------------------------------------------------------- Custom Scalars


@pytest.mark.slow
def test_training_validation_and_baselines_are_in_one_chart(runs):
    board = Board(runs)
    (charts,) = board.charts().values()
    assert set(charts) == {"loss", "rmse", "mae", "mase", "smape"}
    drawn = {}
    for pattern in charts["rmse"]["multiline"]["tag"]:
        drawn |= board.curve("a", pattern)
    trivial = build_task(read_config("configs/airline.py:smoke")).baselines["valid"]
    assert set(drawn) == {
        "train/rmse", "valid/rmse", *(f"valid_baseline/rmse/{name}" for name in trivial)
    }  # fmt: skip
    assert list(drawn["train/rmse"]) == list(range(5, 61, 5))
    for name, scores in trivial.items():
        points = drawn[f"valid_baseline/rmse/{name}"]
        assert list(points) == list(drawn["valid/rmse"]) == list(range(10, 61, 10))
        assert list(points.values()) == pytest.approx([scores["rmse"]] * 6)


@pytest.mark.slow
def test_each_variant_has_the_mean_and_the_spread_over_its_seeds(sweep):
    board = Board(sweep / "tensorboard")
    assert {run for run in board.runs() if run.startswith("mean/")} == {"mean/lstm", "mean/cifg"}
    (margins,) = [c for title, c in board.charts().items() if title.startswith("mean over seeds")]
    (series,) = margins["valid/loss"]["margin"]["series"]
    curves = {part: board.curve("mean/cifg", f"^{tag}$")[tag] for part, tag in series.items()}
    trials = [logged(sweep, trial, "valid", "loss") for trial in (3, 4, 5)]
    assert list(curves["value"]) == list(trials[0])
    for step, value in curves["value"].items():
        values = [trial[step] for trial in trials]
        assert value == pytest.approx(np.mean(values), rel=1e-5)
        assert value - curves["lower"][step] == pytest.approx(np.std(values, ddof=1), rel=1e-3)
        assert curves["upper"][step] - value == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert "mean/test/rmse" in board.curve("mean/cifg", "^mean/test/")


def test_means_are_over_what_is_finite_and_say_of_how_many(tmp_path):
    plan = planned(tmp_path / "s", tmp_path / "w", trials='    yield from grid({"seed": range(3)})')
    for trial, values in enumerate(((1.0, 2.0), (3.0, float("nan")), (5.0,))):
        with open_writer(tmp_path / "w" / "trials" / f"{trial:04d}", tensorboard=False) as writer:
            for step, value in enumerate(values, 1):
                writer.scalars(step, "valid", {"loss": value})
            writer.scalars(10 * trial, "test", {"loss": 4.0 + trial})  # each at its best step
    for _ in range(2):  # the second writes the same afresh
        (folder,) = write_means(plan, tmp_path / "w")
        assert len(list(folder.iterdir())) == 1
        found = Board(tmp_path / "w" / "tensorboard").curve("mean", ".*")
        assert found["mean/valid/loss"] == {1: 3.0, 2: 2.0}
        assert found["spread/valid/loss/low"] == {1: 1.0, 2: 2.0}
        assert found["spread/valid/loss/trials"] == {1: 3.0, 2: 1.0}
        assert found["mean/test/loss"] == {10: 5.0}
        assert found["spread/test/loss/high"] == {10: 6.0}


def test_variants_without_seeds_have_no_means(tmp_path):
    trials = '    yield from grid({"cell.gates": ("lstm", "cifg")})'
    plan = planned(tmp_path / "s", tmp_path / "w", trials=trials, more=LSTM)
    with open_writer(tmp_path / "w" / "trials" / "0000", tensorboard=False) as writer:
        writer.scalars(1, "valid", {"loss": 1.0})
    assert write_means(plan, tmp_path / "w") == []


# ---------------------------------------------------------------- histograms


def histogram_steps(folder):
    read = load(folder)
    tags = read.Tags()["histograms"]
    assert {tag.partition("/")[0] for tag in tags} == {"parameters", "gradients"}
    (steps,) = {tuple(event.step for event in read.Histograms(tag)) for tag in tags}
    return list(steps)


@pytest.mark.slow
def test_a_short_run_has_some_ten_histograms(runs):
    assert histogram_steps(runs / "a") == list(range(5, 61, 5))


@pytest.mark.slow
def test_a_pack_has_the_histograms_that_are_asked_for(sweep):
    for run in ("lstm_s0", "cifg_s2"):
        assert histogram_steps(sweep / "tensorboard" / run) == [20, 40]


@pytest.mark.parametrize(
    ("num_steps", "log_every", "histogram_every", "period"),
    [(600, 50, 0, 50), (1000, 50, 0, 100), (950, 50, 0, 50), (55_000, 110, 0, 5500),
     (100, 50, 0, 50), (20, 10, 0, 10), (5, 10, 0, 10), (1000, 50, 250, 250)],
)  # fmt: skip
def test_the_period_of_histograms(num_steps, log_every, histogram_every, period):
    train = default_config().train
    train.num_steps, train.log_every = num_steps, log_every
    train.histogram_every = histogram_every
    assert histogram_period(train) == period


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_shows_some_ten_histograms(path):
    if path.stem == "words":  # reads the corpus to count the steps of an epoch
        pytest.skip("needs its data")
    train = read_config(str(path)).train
    assert 10 <= train.num_steps / histogram_period(train) < 20
