"""Every option of a config changes something, shown by the cheapest witness that sees it.

A row sets one option, and first what gives it a meaning; the witness then has to tell the config
with the option from the same config without. Options of the cell have rows in test_fields.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import datafiles
import drawn
import events
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from chorales import write_mat

from lstm_jax.config import default_config
from lstm_jax.config.fields import flatten
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.tasks import TASKS
from lstm_jax.training import optim, train
from lstm_jax.training.journal import Journal
from lstm_jax.training.program import build_program, build_task
from lstm_jax.workdir.checkpoint import Checkpoints
from lstm_jax.workdir.metrics import read_metrics

TESTS = Path(__file__).parent.parent

SMALL = {
    "cell.hidden": 2, "train.num_steps": 6, "train.batch_size": 4, "train.log_every": 2,
    "train.eval_every": 2, "train.checkpoint_every": 2, "parallel.data": 1,
}  # fmt: skip

PARITY = {"task.length": 3, "task.eval_size": 4}

# Proved elsewhere: "file::test", where the option itself, by its name, is seen at work.
ELSEWHERE = {
    "cell.*": "config/test_fields.py::test_every_cell_field_changes_something",
    "train.diagnose_every": "diagnostics/test_diagnostics.py"
    "::test_a_run_and_the_verb_leave_a_diagnosis",
    "train.grace_seconds": "faults/test_kill.py::test_the_grace_time_is_kept",
    "parallel.timeout": "compute/test_processes.py::test_a_coordinator_that_does_not_answer",
    "parallel.distributed": "compute/test_processes.py::test_a_coordinator_that_does_not_answer",
}

# Name what is looked up, and where: of each kind one row below stands for all tasks.
NAMES = (
    "task.name", "task.data_dir", "task.date", "task.date_format", "task.encoding",
    "task.time_zone", "task.conformal", "task.models", "task.teacher_forcing",
)  # fmt: skip


class Row(NamedTuple):
    """`field` set to `value`, beside what is `given`."""

    field: str
    value: Any
    given: dict[str, Any] = {}


def config(changes: dict[str, Any]) -> Any:
    """A small config, of the parity task where nothing else is said, with these changes."""
    usual = SMALL if "task.name" in changes else SMALL | PARITY
    return apply_overrides(default_config("parity"), usual | changes)


# ---------------------------------------------------------------- witnesses


def program(changes: dict[str, Any], tmp_path: Path) -> str:
    """The training step and the evaluation as text, with every number a constant of theirs."""
    made = build_program(config(changes))
    hyper, data = {"seed": np.uint32(0)}, made.task.data
    state = jax.eval_shape(functools.partial(train.init_state, made), hyper)
    steps = (functools.partial(f, made) for f in (train.step, train.validate))
    return "".join(text_of(step, state, hyper, data)[0] for step in steps)


def descent(changes: dict[str, Any], tmp_path: Path) -> list[Any]:
    """Parameters after a few steps of the optimizer down a bowl with changing slopes."""
    made = config(changes)
    optimizer = optim.build_optimizer(made.optimizer, made.train.num_steps)
    params: Any = {"kernel": jnp.arange(1.0, 5.0).reshape(2, 2), "bias": jnp.ones(2)}
    state = optimizer.init(params)
    for i in range(4):
        slopes = jax.tree.map(lambda w, i=i: 2 * w + jnp.sin(w + i), params)
        updates, state = optimizer.update(slopes, state, params)
        params = optax.apply_updates(params, updates)
    return plain(params)


def compiled(changes: dict[str, Any], tmp_path: Path) -> str:
    """What the compiler is told: JAX names it where such a function is called by another."""
    made = build_program(config(changes))
    try:
        return str(jax.make_jaxpr(made.jit(jnp.sin))(1.0))
    except ValueError as error:
        return str(error)


def start(changes: dict[str, Any], tmp_path: Path) -> list[Any]:
    """The first parameters and the first batch."""
    made = build_program(config(changes))
    hyper = {"seed": np.uint32(made.config.seed)}
    params = made.model.init(jax.random.key(hyper["seed"]), hyper)
    return plain([params, made.task.batch(made.task.data, jax.random.key(hyper["seed"]), 0)])


def trials(changes: dict[str, Any], tmp_path: Path) -> int:
    """On how many devices the trials of a pack lie."""
    from lstm_jax.sweep.pack.program import trial_mesh

    return trial_mesh(4, config(changes).parallel.trials).size


def strictness(changes: dict[str, Any], tmp_path: Path) -> str:
    """Whether a run lets data move to a device unasked."""
    with Journal(config(changes), tmp_path) as run:
        try:
            with run.strict("a sum"):
                jnp.add(jnp.ones(2), np.ones(2, np.float32))
        except Exception as error:
            return type(error).__name__
    return "moved"


def run(changes: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The files of a run: its log lines, its checkpoints, its histograms."""
    train.train(config(changes), tmp_path)
    bars = events.load(tmp_path).Histograms
    tags = events.load(tmp_path).Tags()["histograms"]
    return {
        "lines": sorted((line["split"], line["step"]) for line in read_metrics(tmp_path)),
        "checkpoints": Checkpoints(tmp_path).listed(),
        "histograms": {tag: [one.step for one in bars(tag)] for tag in tags},
    }


def task(changes: dict[str, Any], tmp_path: Path) -> list[Any]:
    """A task's data and what it makes of them: its functions are those of their text."""
    made, key = build_task(config({"train.batch_size": 2} | changes)), jax.random.key(0)
    batch = jax.eval_shape(made.batch, made.data, key, 0)
    outputs = jax.ShapeDtypeStruct(shape_of(made, batch), np.float32)
    seen = [text_of(made.batch, made.data, key, 0), text_of(made.loss, outputs, batch)]
    splits = {n: (s.num_batches, text_of(s.batch, made.data, 0)) for n, s in made.splits.items()}
    said = made.samples(zeros(made), key) if made.samples else ""
    told = [made.spec, made.feed is None, made.steps_per_epoch, made.baselines]
    return plain([seen, splits, said, told, made.data])


def pictures(changes: dict[str, Any], tmp_path: Path) -> str:
    """What the figures of a task show."""
    made = build_task(config({"train.batch_size": 2} | changes))
    return str([drawn.panels(figure) for figure in made.figures(zeros(made)).values()])


def understood(changes: dict[str, Any], tmp_path: Path) -> str:
    """What a task says of its data before anything is trained."""
    return build_task(config({"train.batch_size": 2} | changes)).understood


def bands(changes: dict[str, Any], tmp_path: Path) -> list[str]:
    """The scores that a task computes at the end, by name: those of intervals among them."""
    made = build_task(config({"train.batch_size": 2} | changes))
    return sorted(made.scores(zeros(made))["test"])


def text_of(function: Any, *like: Any) -> list[Any]:
    """The function as text, without the addresses in it, and the arrays that it closes over."""
    made = jax.make_jaxpr(function)(*like)
    return [re.sub("0x[0-9a-f]+", "", str(made)), made.consts]


def shape_of(made: Any, batch: dict) -> tuple[int, ...]:
    steps, size = np.shape(batch["inputs"])[:2]
    every = (steps,) if made.spec.readout == "every" else ()
    return (*every, size, made.spec.out_features)


def zeros(made: Any) -> Any:
    """A model that says 0 and carries how often it was asked."""

    def forward(batch, carry=None):
        return np.zeros(shape_of(made, batch), np.float32), (carry or 0) + 1

    return forward


def plain(tree: Any) -> list[Any]:
    """The leaves of a tree as what == compares, arrays by value, and the tree's structure."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [np.asarray(leaf) for leaf in leaves]
    return [str(structure), *((a.shape, str(a.dtype), a.tobytes()) for a in arrays)]


# ---------------------------------------------------------------- rows

RUNS = [
    Row("train.num_steps", 4),
    Row("train.log_every", 3),
    Row("train.eval_every", 3),
    Row("train.checkpoint_every", 3),
    Row("train.histogram_every", 6),
    Row("train.keep_last", 1),
    Row("train.keep_best", 0, {"train.keep_last": 1, "optimizer.learning_rate": 1e-9}),
    Row("train.keep_every", 2, {"train.keep_last": 1}),
]
PROGRAMS = [
    Row("model.layers", 2),
    Row("model.bidirectional", True),
    Row("model.merge", "sum", {"model.bidirectional": True}),
    Row("model.residual", True, {"model.layers": 2}),
    Row("model.skip", True, {"model.layers": 2}),
    Row("model.dropout", 0.5, {"model.layers": 2}),
    Row("model.input_dropout", 0.5),
    Row("model.input_noise", 0.5),
    Row("model.head_hidden", 3),
    Row("model.head_activation", "relu", {"model.head_hidden": 3}),
    Row("model.head_dropout", 0.5),
    Row("model.encoder", "conv"),
    Row("model.conv_features", (2, 2), {"model.encoder": "conv"}),
    Row("model.conv_width", 2, {"model.encoder": "conv"}),
    Row("model.embedding", 3, {"task.name": "language", "model.encoder": "embedding"}),
    Row("model.tied", True, {"task.name": "language", "model.encoder": "embedding"}),
    Row("model.engine", "scan"),
    Row("train.batch_size", 8),
    Row("train.accumulate", 2),
    Row("train.best_metric", "accuracy"),
    Row("train.patience", 1),
    Row("train.on_nan", "skip"),
    Row("train.nan_limit", 5, {"train.on_nan": "skip"}),
    Row("train.rollback_factor", 0.25, {"train.on_nan": "rollback"}),
    Row("parallel.mode", "pmap", {"parallel.data": 2}),
    Row("parallel.data", 2),
    Row("parallel.remat", 2),
]
DESCENTS = [
    Row("optimizer.name", "sgd"),
    Row("optimizer.learning_rate", 0.1),
    Row("optimizer.schedule", "cosine"),
    Row("optimizer.decay_every", 2, {"optimizer.schedule": "exponential"}),
    Row("optimizer.decay_factor", 0.5, {"optimizer.schedule": "cosine"}),
    Row("optimizer.decay_start", 2, {"optimizer.schedule": "cosine"}),
    Row("optimizer.warmup_steps", 3),
    Row("optimizer.clip_norm", 0.1, {"optimizer.name": "sgd"}),
    Row("optimizer.weight_decay", 0.1, {"optimizer.name": "sgd"}),
    Row("optimizer.momentum", 0.5, {"optimizer.name": "sgd"}),
    Row("optimizer.nesterov", True, {"optimizer.name": "sgd", "optimizer.momentum": 0.5}),
    Row("optimizer.beta1", 0.5),
    Row("optimizer.beta2", 0.5),
    Row("optimizer.epsilon", 1.0),
]
EARLY = {"task.name": "forecast", "task.csv": "early.csv", "task.look_back": 2, "task.period": 3}
OTHERS = [
    (start, Row("seed", 1)),
    (task, Row("task.name", "adding")),
    (
        task,
        Row(
            "task.data_dir",
            "B",
            {"task.name": "forecast", "task.csv": "apart.csv", "task.data_dir": "A"},
        ),
    ),
    (understood, Row("task.date_format", "excel", EARLY | {"task.date": "day"})),
    (understood, Row("task.encoding", "latin-1", EARLY | {"task.csv": "accents.csv"})),
    (understood, Row("task.time_zone", "Asia/Tokyo", EARLY | {"task.csv": "series.csv"})),
    (bands, Row("task.conformal", True, EARLY | {"task.csv": "series.csv", "task.valid_rows": 20})),
    (pictures, Row("task.date", "row", {"task.name": "forecast", "task.csv": "series.csv"})),
    (
        program,
        Row(
            "task.teacher_forcing",
            1.0,
            EARLY | {"task.csv": "series.csv", "task.strategy": "seq2seq"},
        ),
    ),
    (compiled, Row("train.compile", "quick")),
    (trials, Row("parallel.trials", 1)),
    (strictness, Row("train.strict", True)),
]
# By task: what every row of it has, then field -> value, or -> (value, what gives it a meaning).
LANGUAGE = {"file": "text.txt", "steps": 3, "eval_steps": 5}
THREE = {"train_file": "text.txt", "valid_file": "text.txt", "test_file": "text.txt"}
WINDOWS = {"csv": "series.csv", "look_back": 2, "period": 3}
TASK_ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adding": ({"length": 4, "eval_size": 4}, {"length": 5, "eval_size": 6}),
    "copy_memory": ({"length": 4, "eval_size": 4}, {"length": 5, "eval_size": 6}),
    "counting": ({"train_max": 3, "test_max": 4}, {"letters": 3, "train_max": 2, "test_max": 5}),
    "parity": ({}, {"length": 5, "every_step": False, "eval_size": 6}),
    "temporal_order": (
        {"length": 10, "eval_size": 4},
        {"length": 11, "places": 3, "eval_size": 6},
    ),
    "random_data": (
        {"length": 3, "features": 2, "classes": 3, "examples": 8, "eval_size": 4},
        {"length": 4, "features": 3, "classes": 4, "examples": 9, "eval_size": 6},
    ),
    "forecast": (
        WINDOWS,
        {
            "csv": "others.csv", "target": "a", "features": "a",
            "joint": (True, {"target": "a,b"}),
            "layout": ("rows", {"csv": "rows.csv"}),
            "then_csv": ("rows.csv", {"csv": "rows.csv", "layout": "rows"}),
            "missing": ("zero", {"csv": "gaps.csv", "missing": "forward"}),
            "look_back": 3, "horizon": 2, "log": False, "difference": False,
            "seasonal_difference": True, "seasonal_input": True,
            "period": (4, {"seasonal_input": True}),
            "scaling": "none", "objective": "absolute", "test_part": 0.25, "valid_part": 0.25,
            "test_rows": 5, "valid_rows": 5, "test_from": "2020-02-01",
            "valid_from": "2020-01-22", "until": "2020-02-01", "origins": 2,
            "train_on": "all",
            "strategy": "sequence", "calendar": (("weekday",), {}),
            "known_future": ("a", {"features": "a", "strategy": "sequence"}),
            "quantiles": ((0.2, 0.5, 0.8), {"objective": "quantile"}),
            "series_id": ("shop", {"csv": "shops.csv", "duplicates": "mean"}),
            "delimiter": (";", {"csv": "both.csv"}), "decimal": (",", {"csv": "marks.csv"}),
            "thousands": (".", {"csv": "marks.csv"}),
            "skip_rows": (2, {"csv": "plain.csv", "header": "first"}),
            "header": ("none", {"csv": "plain.csv", "header": "first"}),
            "comment": ("3", {"csv": "plain.csv", "header": "first"}),
            "missing_markers": (tuple(map(str, range(40, 70))), {"missing": "zero"}),
            "duplicates": ("first", {"csv": "shops.csv", "duplicates": "mean"}),
            "gaps": ("ignore", {"csv": "holes.csv", "missing": "zero", "gaps": "asfreq"}),
        },
    ),
    "language": (
        LANGUAGE,
        {
            "level": "words", "file": "other.txt", "valid_fraction": 0.1, "test_fraction": 0.1,
            "train_file": ("other.txt", THREE | {"file": ""}),
            "valid_file": ("other.txt", THREE | {"file": ""}),
            "test_file": ("other.txt", THREE | {"file": ""}),
            "unknown": "replace", "steps": 4, "eval_batch_size": 2, "eval_steps": 6,
            "eval_size": 9, "label_smoothing": 0.1, "sample_length": 5, "pipeline": "grain",
        },
    ),
    "mnist": (
        {"folder": "images", "valid_size": 20},
        {
            "order": "pixels", "permutation": "random",
            "permutation_seed": (1, {"permutation": "random"}),
            "readout": "mean", "valid_size": 30, "train_size": 10, "eval_size": 5,
            "label_smoothing": 0.1, "class_weights": ("balanced", {"train_size": 13}),
            "folder": "others",
        },
    ),
    "polyphonic": (
        {"file": "rolls.mat"},
        {
            "file": "others.mat", "packing": ("on", {"packing": "off"}), "steps": 4,
            "transpose": 5,
        },
    ),
    "vowels": (
        {"train_file": "a.ts", "test_file": "b.ts", "valid_every": 4},
        {
            "train_file": "b.ts", "test_file": "a.ts", "valid_every": 3, "readout": "mean",
            "packing": ("on", {"packing": "off"}), "label_smoothing": 0.1,
            "class_weights": "balanced",
        },
    ),
}  # fmt: skip


def of_task(name: str, usual: dict[str, Any], field: str, change: Any) -> Row:
    value, given = change if isinstance(change, tuple) else (change, {})
    fields = {f"task.{n}": v for n, v in {**usual, **given}.items()}
    return Row(f"task.{field}", value, {"task.name": name, **fields})


ROWS = [
    *((run, row) for row in RUNS),
    *((program, row) for row in PROGRAMS),
    *((descent, row) for row in DESCENTS),
    *OTHERS,
    *(
        (task, of_task(name, usual, field, change))
        for name, (usual, changes) in TASK_ROWS.items()
        for field, change in changes.items()
    ),
]


def id_of(row: Any) -> str:
    if not isinstance(row, Row):
        return row.__name__
    name = f"{row.given.get('task.name', '')} {row.field}={row.value}"
    return name.strip()


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small data set of every format, and two folders with a series each."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "others", "A", "B"):
        (folder / name).mkdir()
    for name in ("images", "others"):
        datafiles.write_images(folder / name)
    for name in ("a.ts", "b.ts"):
        datafiles.write_ts(folder / name, (3, 9, 4, 2, 7, 3, 3))
    for name in ("rolls.mat", "others.mat"):
        write_mat(folder / name)
    datafiles.write_text(folder / "text.txt", 8)
    datafiles.write_text(folder / "other.txt", 9)
    for path in ("series.csv", "others.csv", "gaps.csv", "A/apart.csv", "B/apart.csv"):
        write_series(folder / path, 9 if path == "gaps.csv" else 0)
    write_marks(folder)
    return folder


def write_marks(folder: Path) -> None:
    """Series whose dates, marks and delimiters can be read in more than one way."""
    days = np.datetime64("2020-01-01") + np.arange(40)
    values = datafiles.RANDOM.integers(1000, 9999, 40)
    files = {
        "early": [f"{43831 + i},{v}" for i, v in enumerate(values)],
        "accents": [f"{d},{v}" for d, v in zip(days, values, strict=True)],
        "plain": [f"{v}" for v in values],
        "shops": [f"{d},{s},{v + s}" for d, v in zip(days, values, strict=True) for s in (1, 2)],
        "marks": [f"{d};{v // 1000}.{v % 1000:03}" for d, v in zip(days, values, strict=True)],
        "both": [f"{d};{v // 100},{v % 100:02}" for d, v in zip(days, values, strict=True)],
        "holes": [f"{days[i]},{values[i]}" for i in range(40) if i not in (5, 22)],
    }
    wide = datafiles.RANDOM.integers(10, 99, (30, 30)).astype(str)
    files["rows"] = [",".join([f"s{i}", *row]) for i, row in enumerate(wide)]
    heads = {"rows": ",".join(["name", *(f"V{i}" for i in range(30))])}
    heads |= {"shops": "day,shop,v", "marks": "day;v", "both": "day;n,v", "plain": "1"}
    heads["accents"] = "day,été"
    for name, lines in files.items():
        (folder / f"{name}.csv").write_text("\n".join([heads.get(name, "day,v"), *lines]) + "\n")


def write_series(path: Path, gap: int) -> None:
    """Dates, two columns, and where `gap` says so an empty cell; no two files hold the same."""
    values = datafiles.RANDOM.integers(10, 99, (40, 2))
    days = np.datetime64("2020-01-01") + np.arange(40)
    lines = [f"{i},{days[i]},{a},{b}" for i, (a, b) in enumerate(values)]
    if gap:
        lines[gap] = lines[gap].rpartition(",")[0] + ","
    path.write_text("\n".join(["row,day,a,b", *lines]) + "\n")


# ---------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def seen(place, tmp_path_factory):
    """`seen(witness, changes)`: what the witness saw of a config, asked once each."""
    known: dict[str, Any] = {}

    def look(witness: Any, changes: dict[str, Any]) -> Any:
        name = f"{witness.__name__} {sorted(changes.items())}"
        if name not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                known[name] = witness(changes, tmp_path_factory.mktemp("run"))
        return known[name]

    return look


@pytest.mark.parametrize(("witness", "row"), ROWS, ids=id_of)
def test_every_option_changes_something(witness, row, seen):
    text = {"task.file": "text.txt", "task.steps": 3, "task.eval_steps": 5, "model.embedding": 2}
    of_text = row.field.startswith("model.") and "task.name" in row.given
    given = (row.given | text) if of_text else row.given
    assert seen(witness, given) != seen(witness, given | {row.field: row.value})


@pytest.mark.parametrize("witness", [program, descent, compiled, start, strictness, run, task])
def test_a_witness_sees_no_change_where_there_is_none(witness, place, tmp_path, monkeypatch):
    """Else the test above would find that everything changes something."""
    monkeypatch.chdir(place)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one, two = (witness({}, folder) for folder in folders)
    assert one == two


@pytest.mark.parametrize("name", TASKS)
def test_no_option_is_left_out(name):
    proved = {row.field for _, row in ROWS if not row.field.startswith("task.")} | {*NAMES}
    proved |= {f"task.{field}" for field in TASK_ROWS.get(name, ({}, {}))[1]} | {*ELSEWHERE}
    options = {o for o in flatten(default_config(name)) if not o.startswith("cell.")}
    assert not options - proved, "no row shows that it changes anything"


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_what_is_proved_elsewhere_is_there(test):
    file, _, name = test.partition("::")
    assert f"def {name}(" in (TESTS / file).read_text()
