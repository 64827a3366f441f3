"""One row an option: whatever asks about an option finds it there."""

import hashlib
import inspect
import json
from pathlib import Path

import pytest

from lstm_jax.cells import lstm, transforms
from lstm_jax.config import fields
from lstm_jax.config.options import OPTIONS, default_config, marked, options
from lstm_jax.config.overrides import apply_overrides, read_config
from lstm_jax.config.page import page
from lstm_jax.errors import UsageError
from lstm_jax.option import SIZE, Option
from lstm_jax.tasks import TASKS
from lstm_jax.training import begin
from lstm_jax.training.check import load_config, validate
from lstm_jax.training.program import next_chunk

ROOT = Path(__file__).parents[2]


@pytest.fixture
def add(monkeypatch):
    """`add(section, row)` is the edit of one who wants another option."""

    def added(section, row):
        monkeypatch.setitem(OPTIONS, section, (*OPTIONS[section], row))

    return added


SPARE = Option("spare_every", 7, "steps between two spares", SIZE, midway=True, period=True)


def test_an_option_is_added_by_its_row_alone(add, tmp_path, capsys):
    from lstm_jax.cli import main

    add("train", SPARE)
    config = default_config("adding")
    assert config.train.spare_every == 7
    assert apply_overrides(config, {"train.spare_every": "1e1"}).train.spare_every == 10
    with pytest.raises(UsageError, match=r"train\.spare_every=0: expected a positive whole number"):
        validate(apply_overrides(config, {"train.spare_every": 0}))
    assert next_chunk(config.train, 0) == 7
    assert "| `train.spare_every` | `7` | steps between two spares | a positive" in page()
    assert main(["config", f"--config={ROOT / 'configs' / 'adding.py'}"]) == 0
    assert "--config.train.spare_every=7" in (out := capsys.readouterr().out)
    assert "# steps between two spares\n" in out

    (tmp_path / "config.json").write_text(fields.to_json(config))
    changed = fields.replaced(config, {"train.spare_every": 9})
    begin.check_goes_on(changed, tmp_path, named=True, reopen=False)
    with pytest.raises(UsageError, match="to go on with that run under train.spare_every=9: add"):
        begin.check_goes_on(changed, tmp_path, named=False, reopen=False)


@pytest.mark.parametrize("mark", ["numeric", "placement"])
def test_a_row_says_what_a_pack_may_vary_and_what_only_places_a_run(add, mark):
    add("cell", Option("spare", 1.0, "a spare")._replace(**{mark: True}))
    one, two = default_config(), default_config()
    two.cell.spare = 2.0
    same_program, same_run = mark == "numeric", mark == "placement"
    assert (fields.resolve(one).signature == fields.resolve(two).signature) == same_program
    assert (fields.resolve(one).hash == fields.resolve(two).hash) == same_run


@pytest.mark.parametrize("task", TASKS)
def test_defaults_fit_their_own_rows(task):
    validate(default_config(task))
    for name, row in options(task).items():
        assert type(row.default) in (bool, int, float, str, tuple), name
        assert len(row.help) > 1 and "\n" not in row.help, name


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_no_numbers_of_a_pack(task):
    """It is built once for all trials, from the config and not from arrays."""
    assert not [name for name in marked("numeric", task) if name.startswith("task.")]


def test_rows_of_the_cell_name_what_there_is():
    for row in OPTIONS["cell"]:
        transform, _, argument = row.transform.partition(".")
        wanted = transforms.TRANSFORMS[transform] if transform else lstm
        name = argument or row.option_of
        assert not name or name in inspect.signature(wanted).parameters, row


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_the_hash_is_that_of_every_field_but_the_placement(path):
    config = read_config(str(path))
    flat = {"seed": config.seed}
    for section in set(config) - {"seed"}:
        flat |= {f"{section}.{name}": value for name, value in config[section].items()}
    placed = ["train.accumulate", "train.compile", *(n for n in flat if n.startswith("parallel."))]
    for name in [*placed, "task.pipeline"]:
        flat.pop(name, None)
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"))
    assert fields.resolve(config).hash == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_page_says_what_the_table_says():
    written = (ROOT / "docs" / "options.md").read_text()
    assert written == page(), "python -m lstm_jax.config.page > docs/options.md"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config.train.num_step = 5", ["'train.num_step'", "did you mean 'train.num_steps'"]),
        ("config.trian = 5", ["unknown config field 'trian'"]),
        ("config.task.name = 'addng'", ["config.task.name", "'addng'", "did you mean 'adding'"]),
        ("config.task.name = 'counting'", ["task.length", "config.task.letters is missing"]),
        ("del config.train.eval_every", ["config.train.eval_every is missing"]),
    ],
)
def test_a_config_file_that_sets_no_option_is_refused(tmp_path, line, words):
    path = tmp_path / "mine.py"
    path.write_text(
        "from lstm_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config('adding')\n"
        f"    {line}\n"
        "    return config\n"
    )
    with pytest.raises(UsageError) as error:
        load_config(str(path))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [(t, f"task.{r.name}", -1) for t in TASKS for r in TASKS[t].OPTIONS if r.range.expected]
    + [("adding", "task.eval_size", 0), ("random_data", "task.classes", 0)]
    + [("language", "task.steps", 0), ("language", "task.eval_batch_size", 0)],
)
def test_sizes_of_a_task_are_refused_before_it_is_built(task, name, value):
    config = apply_overrides(default_config(task), {name: value})
    with pytest.raises(UsageError, match=rf"{name}={value}(\.0)?: expected "):
        validate(config)


@pytest.mark.parametrize("task", [t for t in TASKS if "task.eval_size" in options(t)])
def test_no_task_takes_fewer_examples_than_none(task):
    with pytest.raises(UsageError, match=r"task\.eval_size=-1: expected "):
        validate(apply_overrides(default_config(task), {"task.eval_size": -1}))
