"""Config files, overrides as text, and what is refused before anything exists."""

import pytest

from lstm_jax.config import overrides
from lstm_jax.config.fields import flatten, resolve
from lstm_jax.config.options import default_config, options
from lstm_jax.config.overrides import apply_overrides
from lstm_jax.errors import UsageError
from lstm_jax.training.check import load_config, validate


@pytest.fixture(scope="module")
def config():
    return default_config("adding")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optimizer.learning_rate", "0.01", 0.01),
        ("optimizer.learning_rate", "1", 1.0),
        ("train.num_steps", "1e3", 1000),
        ("train.num_steps", "1_000", 1000),
        ("train.num_steps", 1000.0, 1000),
        ("model.bidirectional", "true", True),
        ("model.bidirectional", "False", False),
        ("model.bidirectional", True, True),
        ("cell.gate_activation", "relu", "relu"),
        ("cell.gate_activation", "", ""),
        ("cell.gate_activation", "None", "None"),
        ("model.conv_features", "16,32", (16, 32)),
        ("model.conv_features", "(16, 32)", (16, 32)),
        ("model.conv_features", [16], (16,)),
        ("cell.gradient_weight_gates", "i,f", ("i", "f")),
        ("seed", "3", 3),
    ],
)
def test_text_is_read_as_the_type_of_the_field(config, name, text, value):
    found = flatten(apply_overrides(config, {name: text}))[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("train.num_steps", "1.5", "an int"),
        ("train.num_steps", "many", "an int"),
        ("train.num_steps", True, "an int"),
        ("train.num_steps", "inf", "an int"),
        ("train.num_steps", "", "an int"),
        ("optimizer.learning_rate", "fast", "a float"),
        ("optimizer.learning_rate", True, "a float"),
        ("optimizer.learning_rate", None, "a float"),
        ("model.bidirectional", "2", "a bool"),
        ("model.bidirectional", 1, "a bool"),
        ("cell.gate_activation", 3, "a string"),
        ("model.conv_features", "a,b", "a tuple"),
        ("model.conv_features", 3, "a tuple"),
    ],
)
def test_the_wrong_type_is_told_with_field_type_and_value(config, name, given, expected):
    with pytest.raises(UsageError) as error:
        apply_overrides(config, {name: given})
    for word in (name, expected, repr(given)):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("optimizer.learnng_rate", "'optimizer.learning_rate'"),
        ("learning_rate", "'optimizer.learning_rate'"),
        ("train.hidden", "'cell.hidden'"),
        ("optimizer.foo", "optimizer has: "),
        ("cell", "is a section"),
        ("", "unknown config field"),
        ("seed.x", "unknown config field"),
    ],
)
def test_an_unknown_field_names_the_nearest(config, name, near):
    with pytest.raises(UsageError, match="config") as error:
        apply_overrides(config, {name: "1"})
    assert near in str(error.value)


def test_all_mistakes_are_named_at_once(config):
    with pytest.raises(UsageError) as error:
        apply_overrides(config, {"trian.num_steps": "1", "seed": "x", "cell.hidden": "3"})
    assert "train.num_steps" in str(error.value)
    assert "config.seed" in str(error.value)


def test_overriding_leaves_the_original_and_locks_the_copy(config):
    changed = apply_overrides(config, {"cell.hidden": 3})
    assert (config.cell.hidden, changed.cell.hidden) == (64, 3)
    with pytest.raises(AttributeError):
        changed.cell.hiden = 3


def test_another_task_brings_its_own_fields(config):
    changed = (
        apply_overrides(config, {"task.num_symbols": 4, "task.name": "copy_memory"})
        if "num_symbols" in default_config("copy_memory").task
        else apply_overrides(config, {"task.name": "copy_memory"})
    )
    assert changed.task.name == "copy_memory"
    assert set(changed.task) == set(default_config("copy_memory").task)
    with pytest.raises(UsageError, match="did you mean 'adding'"):
        apply_overrides(config, {"task.name": "addin"})


BAD = {
    "seed": -1,
    "cell.hidden": 0,
    "cell.cell_clip": -1.0,
    "cell.t_max": -1.0,
    "cell.projection": -1,
    "model.conv_features": (0,),
    "model.head_hidden": -1,
    "model.input_noise": -0.1,
    "optimizer.decay_factor": 2.0,
    "parallel.data": -2,
    "parallel.trials": 0,
    "parallel.remat": -2,
}


@pytest.mark.parametrize("name", [n for n, row in options("adding").items() if row.range.expected])
def test_every_range_is_checked_and_the_field_named(config, name):
    value = BAD.get(name)
    if value is None:
        kind = type(flatten(config)[name])
        value = kind(-1)
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        validate(apply_overrides(config, {name: value}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer.learning_rate": float("nan")}, ["learning_rate", "finite"]),
        ({"optimizer.learning_rate": float("inf")}, ["learning_rate", "finite"]),
        ({"cell.hidden": 2**40}, ["cell.hidden", "larger"]),
        ({"cell.hidden": -4}, ["cell.hidden=-4: expected a positive whole number"]),
        ({"train.compile": "quik"}, ["unknown train.compile 'quik'", "'quick'"]),
        ({"model.dropout": 1.0}, ["model.dropout", "rate"]),
        ({"train.eval_every": 0}, ["eval_every=0: expected a positive whole number"]),
        ({"optimizer.name": "adm"}, ["unknown optimizer 'adm'", "'adam'"]),
        ({"optimizer.schedule": "cosin"}, ["unknown schedule", "'cosine'"]),
        ({"cell.name": "lsmt"}, ["unknown cell 'lsmt'", "'lstm'"]),
        ({"model.encoder": "con"}, ["unknown encoder", "'conv'"]),
        ({"model.merge": "cat"}, ["unknown merge"]),
        ({"model.engine": "scann"}, ["unknown engine", "'scan'"]),
        ({"model.head_activation": "rellu"}, ["head activation", "'relu'"]),
        ({"parallel.mode": "pmpa"}, ["parallel.mode", "'pmap'"]),
    ],
)
def test_what_cannot_be_is_refused(config, changes, words):
    with pytest.raises(UsageError) as error:
        validate(apply_overrides(config, changes))
    for word in words:
        assert word in str(error.value)


def test_a_config_file_with_presets(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from lstm_jax.config import default_config\n"
        "def get_config(arg=''):\n"
        "    config = default_config('adding')\n"
        "    config.cell.hidden = 3 if arg == 'small' else 30\n"
        "    return config\n"
    )
    assert load_config(str(path)).cell.hidden == 30
    assert load_config(f"{path}:small").cell.hidden == 3
    assert load_config(f"{path}:small", {"cell.hidden": "5"}).cell.hidden == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no get_config"),
        ("x = 1\ny = nothing\n", r"bad\.py:2: NameError"),
        ("def get_config(:\n", r"bad\.py:1: SyntaxError"),
        ("def get_config():\n    return 1 / 0\n", r"bad\.py:2: ZeroDivisionError"),
        ("def get_config():\n    return {}\n", "returned dict"),
    ],
)
def test_a_config_file_that_fails_says_where(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        overrides.read_config(str(path))


def test_a_preset_given_to_a_file_without_any(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config():\n    return {}\n")
    with pytest.raises(UsageError, match="takes no argument, given 'smoke'"):
        overrides.read_config(f"{path}:smoke")


def test_a_missing_config_file_names_the_nearest(tmp_path):
    (tmp_path / "airline.py").write_text("")
    with pytest.raises(UsageError, match=r"did you mean '.*airline\.py'"):
        overrides.read_config(str(tmp_path / "airlin.py"))
    with pytest.raises(UsageError, match="no config file"):
        overrides.read_config(str(tmp_path))


def test_a_config_that_was_resolved_takes_overrides():
    config = apply_overrides(resolve(default_config("adding")), {"optimizer.learning_rate": "1e-4"})
    assert config.optimizer.learning_rate == 1e-4
