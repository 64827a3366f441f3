"""What a config is made of: numbers and structure, and the cells it builds."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import unroll
from lstm_jax.cells import CELLS
from lstm_jax.cells.activations import ACTIVATIONS
from lstm_jax.cells.initializers import KERNELS
from lstm_jax.config import fields as configs
from lstm_jax.config.options import OPTIONS, default_config, marked, options
from lstm_jax.errors import UsageError
from lstm_jax.model.cell import build_cell, chosen
from lstm_jax.tasks import TASKS
from lstm_jax.training.check import validate


def make(**overrides):
    config = default_config("adding")
    for name, value in overrides.items():
        section, _, field = name.partition("__")
        if field:
            config[section][field] = value
        else:
            config[section] = value
    return config


def make_cell(**fields):
    cell = default_config().cell
    cell.hidden = 4
    cell.update(fields)
    return cell


def test_every_field_has_a_type_that_the_command_line_can_set():
    for name, value in configs.flatten(default_config("forecast")).items():
        assert type(value) in (bool, int, float, str, tuple), name


@pytest.mark.parametrize("task", TASKS)
def test_every_field_says_what_it_means(task):
    rows = options(task)
    assert set(rows) == set(configs.flatten(default_config(task)))
    assert all(len(row.help) > 1 for row in rows.values())


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({}, "candidate_activation", "tanh"),
        ({"gates": "niaf"}, "candidate_activation", "identity"),
        ({"gates": "noaf"}, "output_activation", "identity"),
        ({"gates": "nig"}, "input_gate_activation", "always 1"),
        ({"gates": "cifg"}, "gate_activation", "i: sigmoid, f: 1 - i, o: sigmoid"),
        ({"gate_activation": "relu"}, "forget_gate_activation", "relu"),
        ({"name": "slstm"}, "input_gate_activation", "exp"),
        ({"name": "slstm"}, "output_activation", "identity"),
        ({"name": "gru"}, "reset", "after"),
        ({"name": "indrnn"}, "activation", "relu"),
    ],
)
def test_what_an_empty_field_comes_to(fields, name, value):
    assert chosen(make_cell(**fields))[name] == value


@pytest.mark.parametrize("name", CELLS)
def test_empty_fields_and_what_they_come_to_build_the_same_cell(name):
    taken = chosen(make_cell(name=name))
    given = {k: v for k, v in taken.items() if v in ACTIVATIONS or v in KERNELS or k == "reset"}
    assert given
    plain, spelled = behaviour((("name", name),)), behaviour((("name", name), *given.items()))
    assert all(map(np.array_equal, plain, spelled))


def test_the_numbers_of_a_config_are_those_that_are_not_zero():
    hyper = configs.resolve(make(optimizer__clip_norm=0.0, optimizer__learning_rate=0.5)).hyper
    assert hyper["optimizer.learning_rate"] == np.float32(0.5)
    assert hyper["seed"].dtype == np.uint32
    assert set(hyper) < set(marked("numeric")) and "optimizer.clip_norm" not in hyper


def test_a_resolved_config_stands_and_says_the_same():
    config = make()
    there = configs.resolve(config)
    assert configs.resolve(there) is there and there.flat == configs.flatten(config)
    with pytest.raises(AttributeError, match="immutable"):
        there.train.num_steps = 3
    other = configs.replaced(there, {"train.num_steps": 3, "seed": 7})
    assert (other.train.num_steps, other.seed, other.hash == there.hash) == (3, 7, False)
    assert configs.to_json(there) == configs.to_json(config)


def test_bind_puts_arrays_back_and_leaves_the_rest():
    config = make(optimizer__learning_rate=0.5)
    bound = configs.bind(config, {"optimizer.learning_rate": jnp.float32(0.25)})
    assert bound.optimizer.learning_rate == 0.25
    assert bound.optimizer.clip_norm == 0.0
    assert bound.cell.name == "lstm"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"seed": 7}, True),
        ({"optimizer__learning_rate": 0.3}, True),
        ({"cell__forget_bias": 2.0}, True),
        ({"cell__forget_bias": 0.0}, False),  # off: another program
        ({"model__dropout": 0.5}, False),
        ({"cell__hidden": 3}, False),
        ({"train__num_steps": 7}, False),
    ],
)
def test_signature_is_that_of_the_program(change, same):
    assert (configs.resolve(make()).signature == configs.resolve(make(**change)).signature) is same
    assert configs.resolve(make()).hash != configs.resolve(make(**change)).hash


OWN = Path(__file__).parents[1] / "own" / "mine.py"

# Changes of one field, each with the rest that gives it a meaning.
CELL_CHANGES = [
    {"name": "gru"},
    {"hidden": 5},
    {"gates": "cifg"},
    {"gate_activation": "relu"},
    {"input_gate_activation": "relu"},
    {"forget_gate_activation": "hard_sigmoid"},
    {"output_gate_activation": "softsign"},
    {"candidate_activation": "identity"},
    {"output_activation": "identity"},
    {"name": "rnn", "activation": "relu"},
    {"name": "gru", "reset": "before"},
    {"peepholes": "full"},
    {"layer_norm": "branch"},
    {"cell_clip": 0.01},
    {"forget_bias": 3.0},
    {"forget_init": "linspace"},
    {"forget_init": "chrono", "t_max": 50.0},
    {"kernel_init": "lecun"},
    {"recurrent_init": "fused"},
    {"dtype": "bfloat16"},
    {"projection": 2},
    {"variational_input": 0.5},
    {"variational_hidden": 0.5},
    {"recurrent_dropout": 0.5},
    {"weight_drop": 0.5},
    {"gradient_weight": 2.0},
    {"gradient_weight": 2.0, "gradient_weight_gates": ("f",)},
    {"activity_weighting": True},
    {"recurrent_gradient_clip": 1e-3},
    {"learned_carry": True},
    {"transforms": (f"{OWN}:halved",)},
    {"zoneout_c": 0.5},
    {"zoneout_h": 0.5},
]


# Compile fast, run slowly.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@functools.cache
def behaviour(fields):
    """Parameters, outputs and gradients of a cell on fixed inputs and one key."""
    cell = build_cell(make_cell(**dict(fields)))

    def loss(params):
        xs = jax.random.normal(jax.random.key(1), (3, 2, 3))
        return jnp.sum(unroll(cell, params, xs, key=jax.random.key(2))[1] ** 2)

    params = cell.init(jax.random.key(0), 3)
    found = params, jax.jit(jax.value_and_grad(loss), compiler_options=FAST)(params)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(found)]


def test_every_cell_field_is_changed_below():
    assert {name for change in CELL_CHANGES for name in change} == set(default_config().cell)


@pytest.mark.parametrize("change", CELL_CHANGES, ids=str)
def test_every_cell_field_changes_something(change):
    """Against the same cell with the last field of the change left alone."""
    *rest, (field, _) = change.items()
    rest = [("forget_init", "chrono"), ("t_max", 9.0)] if field == "t_max" else rest
    before, after = behaviour(tuple(rest)), behaviour(tuple(change.items()))
    shapes = [[leaf.shape for leaf in leaves] for leaves in (before, after)]
    assert shapes[0] != shapes[1] or not all(map(np.array_equal, before, after))


def test_zeros_build_the_same_program_as_leaving_out():
    def program(**fields):
        cell, xs = build_cell(make_cell(**fields)), jnp.zeros((2, 1, 3))
        params = cell.init(jax.random.key(0), 3)
        return str(jax.make_jaxpr(lambda params: unroll(cell, params, xs)[1])(params))

    assert program() == program(zoneout_c=0.0, weight_drop=0.0, projection=0)


NUMBERS = {
    "forget_bias": 2.0,
    "zoneout_c": 0.1,
    "zoneout_h": 0.1,
    "recurrent_dropout": 0.1,
    "variational_input": 0.1,
    "variational_hidden": 0.1,
    "weight_drop": 0.1,
    "gradient_weight": 2.0,
}


@pytest.mark.parametrize("name", [n for n in marked("numeric") if n.startswith("cell.")])
def test_numbers_of_a_cell_may_be_traced(name):
    """One program serves all values: a vmap over them equals one at a time."""
    field = name.removeprefix("cell.")
    config = make(cell=make_cell(**{field: NUMBERS[field]}))
    xs = jax.random.normal(jax.random.key(1), (4, 2, 3))

    def run(value):
        cell = build_cell(configs.bind(config, {name: value}).cell)
        params = cell.init(jax.random.key(0), 3)
        return unroll(cell, params, xs, key=jax.random.key(2))[1]

    values = jnp.array([0.5, 1.5], jnp.float32) * NUMBERS[field]
    alone = jax.jit(run, compiler_options=FAST)
    together = jax.jit(jax.vmap(run), compiler_options=FAST)(values)
    for value, ys in zip(values, together, strict=True):
        np.testing.assert_allclose(alone(value), ys, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "lsmt"}, ["unknown cell 'lsmt'", "did you mean 'lstm'"]),
        ({"gates": "cifgg"}, ["'cifgg'", "'cifg'"]),
        ({"gate_activation": "rleu"}, ["'rleu'", "'relu'"]),
        ({"output_activation": "idntity"}, ["'idntity'", "'identity'"]),
        ({"dtype": "float16x"}, ["unknown dtype", "float32"]),
        ({"name": "gru", "peepholes": "diagonal"}, ["cell.peepholes='diagonal'", "'gru'", "reset"]),
        ({"name": "gru", "input_gate_activation": "relu"}, ["input_gate_activation", "'gru'"]),
        ({"name": "rnn", "reset": "before"}, ["cell.reset='before'", "activation"]),
        ({"t_max": 9.0}, ["cell.t_max", "chrono"]),
        ({"forget_init": "chrono"}, ["t_max", ">= 2"]),
        ({"forget_init": "chrno"}, ["'chrno'", "'chrono'"]),
        ({"forget_init": "linspace", "forget_bias": 2.0}, ["forget_bias", "forget_init"]),
        ({"gates": "cifg", "forget_bias": 2.0}, ["forget_bias", "cifg"]),
        ({"gradient_weight_gates": ("f",)}, ["gradient_weight_gates", "gradient_weight"]),
        ({"projection": 9}, ["projection=9", "hidden=4"]),
    ],
)
def test_a_cell_that_cannot_be_says_why(fields, words):
    with pytest.raises(UsageError) as error:
        build_cell(make_cell(**fields))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"candidate_activation": "none"},
        {"name": "gru", "candidate_activation": "none"},
        {"name": "slstm", "candidate_activation": "none"},
        {"output_activation": "none"},
        {"gate_activation": "none"},
        {"forget_gate_activation": "none"},
        {"name": "mgu", "gate_activation": "none"},
        {"name": "rnn", "activation": "none"},
        {"name": "indrnn", "activation": "none"},
    ],
    ids=str,
)
def test_no_activation_is_the_identity(fields):
    identity = {name: "identity" if word == "none" else word for name, word in fields.items()}
    none, same = behaviour(tuple(fields.items())), behaviour(tuple(identity.items()))
    plain = behaviour(tuple((k, v) for k, v in fields.items() if v != "none"))
    assert all(map(np.array_equal, none, same))
    assert not all(map(np.array_equal, none, plain))


@pytest.mark.slow
def test_no_activation_of_the_head_is_the_identity():
    from lstm_jax.training.program import build_program

    def program(word):
        config = make(model__head_hidden=3, model__head_activation=word)
        built, hyper = build_program(config), configs.resolve(config).hyper
        batch = {"inputs": jnp.ones((2, 1, built.task.spec.in_features))}
        params = built.model.init(jax.random.key(0), hyper)
        return str(jax.make_jaxpr(lambda p: built.model.apply(p, hyper, batch))(params))

    assert program("none") == program("identity") != program("tanh")


@pytest.mark.parametrize(
    "name",
    [r.name for r in OPTIONS["cell"] if r.name.endswith(("_activation", "_init"))],
)
def test_a_word_that_other_fields_hold_is_blamed_on_the_right_one(name):
    """cell.name and cell.gates hold 'lstm', two other fields 'none' and so on."""
    config = make(cell=make_cell(**{name: "lstm"}))
    with pytest.raises(UsageError) as error:
        validate(config)
    assert name in str(error.value)
    for other in ("cell.name", "cell.gates", "peepholes", "layer_norm"):
        assert other not in str(error.value)


def test_gate_activations_of_a_reduced_row_apply_to_what_is_left():
    cell = build_cell(
        make_cell(gates="nfg", gate_activation="hard_sigmoid", input_gate_activation="relu")
    )
    assert cell.info.table.i.activation == "relu"
    assert cell.info.table.o.activation == "hard_sigmoid"


def test_full_gate_recurrence_takes_the_options_of_lstm():
    cell = build_cell(make_cell(name="lstm_fgr", output_activation="identity"))
    assert cell.info.name == "lstm_fgr"
