"""Generated tasks: what examples look like, their trivial scores, their exact coverage."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from datafiles import compiled
from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import UsageError
from lstm_jax.tasks import TASKS
from lstm_jax.tasks.synthetic import (
    adding,
    copy_memory,
    counting,
    parity,
    random_data,
    temporal_order,
)
from lstm_jax.tasks.task import Mean, permuted, ratio, shuffled

SYNTHETIC = ("adding", "copy_memory", "counting", "parity", "random_data", "temporal_order")


def config_of(name: str, batch_size: int = 8, **fields) -> ConfigDict:
    config = ConfigDict({"task": default_config(name).task, "train": {"batch_size": batch_size}})
    config.task.update(fields)
    return config


def build(name: str, batch_size: int = 8, **fields) -> Any:
    return compiled(TASKS[name].build(config_of(name, batch_size, **fields)))


def small(name: str, batch_size: int = 8):
    fields = {"counting": {"train_max": 6, "test_max": 12}, "random_data": {"examples": 20}}
    length = {} if name == "counting" else {"length": 12, "eval_size": 20}
    return build(name, batch_size, **length, **fields.get(name, {}))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_batches_are_pure_in_key_and_step(name):
    task = small(name)
    batch, key = jax.jit(task.batch), jax.random.key(3)
    first, again = batch(task.data, key, 5), batch(task.data, key, 5)
    other = batch(task.data, key, 6)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any(not np.array_equal(first[k], other[k]) for k in first)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(first))


@pytest.mark.slow
@pytest.mark.parametrize("name", SYNTHETIC)
def test_examples_are_keyed_by_their_global_index(name):
    """Step s of batches of 8 holds what steps 2s and 2s+1 of batches of 4 hold."""
    wide, narrow, key = small(name, 8), small(name, 4), jax.random.key(0)
    whole = wide.batch(wide.data, key, 3)
    halves = [narrow.batch(narrow.data, key, step) for step in (6, 7)]
    for field, value in whole.items():
        examples = 1 if field == "inputs" or (field == "targets" and value.ndim > 1) else 0
        joined = jnp.concatenate([half[field] for half in halves], axis=examples)
        np.testing.assert_array_equal(value, joined)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYNTHETIC)
def test_splits_hold_every_example_once_and_do_not_depend_on_the_batch_size(name):
    wide, narrow = small(name, 8), small(name, 3)
    for split in ("valid", "test"):
        assert np.allclose(_mean_input(wide, split), _mean_input(narrow, split), rtol=1e-5)


def _mean_input(task, split: str) -> tuple[float, float]:
    """(number of examples, a sum over all their inputs)"""
    batches = [
        task.splits[split].batch(task.data, i) for i in range(task.splits[split].num_batches)
    ]
    count = sum(float(batch["weights"].sum()) for batch in batches)
    total = sum(float((jnp.abs(b["inputs"]).sum((0, 2)) * b["weights"]).sum()) for b in batches)
    return count, total


@pytest.mark.parametrize("size", [1, 2, 5, 64, 100, 1000])
def test_permuted_is_a_permutation(size):
    order = jax.vmap(lambda i: permuted(jax.random.key(1), i, size))(jnp.arange(size))
    assert sorted(order.tolist()) == list(range(size))
    if size >= 64:
        assert (np.asarray(order) == np.arange(size)).mean() < 0.1


def test_permutations_of_four_are_about_equally_likely():
    def order(key):
        return jax.vmap(lambda i: permuted(key, i, 4))(jnp.arange(4))

    orders = np.asarray(jax.vmap(order)(jax.random.split(jax.random.key(0), 4800)))
    _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24
    assert np.sum((counts - 200) ** 2 / 200) < 60  # chi squared, 23 degrees: p = 4e-5


def test_an_epoch_holds_each_example_once_across_ragged_batches():
    picked = [shuffled(jax.random.key(0), step, 10, 4) for step in range(5)]
    epochs = np.concatenate(picked).reshape(2, 10)
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_adding_targets_are_the_sum_of_the_two_marked_values():
    batch = build("adding", 64, length=7).batch({}, jax.random.key(0), 0)
    values, markers = batch["inputs"][..., 0], batch["inputs"][..., 1]
    assert batch["inputs"].shape == (7, 64, 2)
    np.testing.assert_array_equal(markers.sum(0), 2)
    np.testing.assert_allclose(batch["targets"], (values * markers).sum(0), rtol=1e-6)
    assert (markers.sum(1) > 0).all()  # every step gets marked sometimes


@pytest.mark.slow
def test_adding_baseline_is_what_answering_one_costs():
    task = build("adding", 500)
    batch = task.splits["test"].batch({}, 0)
    loss, _ = task.loss(jnp.ones((500, 1)), batch)
    assert abs(float(loss) - task.baselines["test"]["always 1"]["loss"]) < 0.02
    assert task.loss(batch["targets"][:, None], batch)[0] == 0


@pytest.mark.slow
def test_copy_memory_asks_for_the_first_ten_symbols():
    batch = build("copy_memory", 5, length=9).batch({}, jax.random.key(0), 0)
    symbols = np.argmax(batch["inputs"], axis=-1)
    assert symbols.shape == (29, 5)
    np.testing.assert_array_equal(symbols[:10], batch["targets"][-10:])
    np.testing.assert_array_equal(batch["targets"][:-10], 0)
    np.testing.assert_array_equal(np.argwhere(symbols == 9)[:, 0], 18)
    assert symbols[:10].min() >= 1 and symbols[:10].max() <= 8


@pytest.mark.slow
def test_copy_memory_baseline():
    task = build("copy_memory", 3, length=50)
    batch = task.batch({}, jax.random.key(0), 0)
    blank = jnp.where(jnp.arange(9) == 0, 40.0, 0.0)
    even = jnp.where(jnp.arange(9) == 0, -40.0, 0.0)
    logits = jnp.concatenate([jnp.tile(blank, (60, 3, 1)), jnp.tile(even, (10, 3, 1))])
    loss, _ = task.loss(logits, batch)
    expected = 10 * math.log(8) / 70
    assert task.baselines["test"]["no memory"]["loss"] == pytest.approx(expected)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("places", [2, 3])
def test_temporal_order_labels_name_the_pattern(places):
    batch = build("temporal_order", 32, places=places).batch({}, jax.random.key(0), 0)
    symbols = np.argmax(batch["inputs"], axis=-1)
    for column, target in zip(symbols.T, batch["targets"].tolist(), strict=True):
        pattern = [s - temporal_order.X for s in column if s in (4, 5)]
        assert len(pattern) == places
        assert sum(bit << k for k, bit in enumerate(pattern)) == target
        assert column[0] == temporal_order.START and column[-1] == temporal_order.END


def test_parity_counts_ones():
    batch = build("parity", 6, length=9).batch({}, jax.random.key(0), 0)
    ones = np.cumsum(batch["inputs"][..., 0] > 0, axis=0)
    np.testing.assert_array_equal(batch["targets"], ones % 2)
    last = build("parity", 6, length=9, every_step=False).batch({}, jax.random.key(0), 0)
    np.testing.assert_array_equal(last["targets"], batch["targets"][-1])


@pytest.mark.parametrize("letters, expected", [(2, "a ab ab b $"), (3, "a ab ab b c c $")])
def test_counting_sets_of_what_may_follow(letters, expected):
    names = "ab$" if letters == 2 else "abc$"
    example = counting.word(jnp.int32(2), letters, 4)
    length = int(example["lengths"])
    sets = [
        "".join(n for n, on in zip(names, row, strict=True) if on > 0.5)
        for row in example["targets"][:length]
    ]
    assert sets == expected.split()
    letters_seen = np.argmax(example["inputs"][:length], axis=-1)
    assert letters_seen.tolist() == [0, *np.repeat(np.arange(1, letters + 1), 2)]


@pytest.mark.slow
def test_counting_finds_the_first_failing_n():
    task = build("counting", 5, train_max=6, test_max=12)
    means = []
    for index in range(task.splits["test"].num_batches):
        batch = task.splits["test"].batch({}, index)
        right = 20 * batch["targets"] - 10
        wrong = jnp.where(jnp.isin(batch["sizes"], jnp.array([8, 11]))[:, None], -right, right)
        means.append(task.loss(wrong, batch)[1])
    total = jax.tree.map(lambda *leaves: sum(leaves), *means)
    metrics = {name: total[name].total / total[name].count for name in total}
    summary = task.summarize(metrics)
    assert summary["first_failing_n"] == 8
    assert float(summary["accuracy"]) == pytest.approx(10 / 12)


@pytest.mark.slow
def test_counting_that_never_fails_stops_one_past_what_was_tried():
    task = build("counting", 6, train_max=6, test_max=12)
    batch = task.splits["valid"].batch({}, 0)
    _, means = task.loss(20 * batch["targets"] - 10, batch)
    metrics = {name: mean.total / mean.count for name, mean in means.items()}
    assert task.summarize(metrics)["first_failing_n"] == 7


def test_counting_baseline_is_the_best_memoryless_guess():
    task = build("counting", 6, train_max=6, test_max=6)
    batch = task.splits["test"].batch({}, 0)
    p = 1 / 3.5  # letters b that are the last
    guess = {0: (1, 0, 0), 1: (1, 1, 0), 2: (0, 1 - p, p)}
    table = jnp.array([guess[s] for s in range(3)]).clip(1e-9, 1 - 1e-7)
    probability = table[jnp.argmax(batch["inputs"], axis=-1)]
    logits = jnp.log(probability) - jnp.log1p(-probability)
    loss, _ = task.loss(logits, batch)
    assert float(loss) == pytest.approx(task.baselines["test"]["memoryless"]["loss"], rel=1e-4)


def test_counting_figure_is_drawn():
    task = build("counting", 4, train_max=3, test_max=6)

    def forward(batch):
        return 20 * batch["targets"] - 10, None

    figure = task.figures(forward)["accuracy_by_length"]
    assert "right up to n = 6" in figure.axes[0].get_title()


def test_random_data_labels_repeat_from_epoch_to_epoch():
    task = build("random_data", 4, length=3, examples=4, eval_size=4)
    first, second = (task.batch(task.data, jax.random.key(0), step) for step in (0, 1))
    assert first["inputs"].shape == (3, 4, 10)
    assert sorted(first["targets"].tolist()) == sorted(second["targets"].tolist())


@pytest.mark.parametrize(
    "name, fields, words",
    [
        ("adding", {"length": 1}, "task.length=1"),
        ("copy_memory", {"length": 0}, "task.length=0"),
        ("temporal_order", {"places": 4}, "task.places=4"),
        ("temporal_order", {"length": 5}, "task.length=5"),
        ("parity", {"length": 0}, "task.length=0"),
        ("counting", {"letters": 4}, "task.letters=4"),
        ("counting", {"train_max": 9, "test_max": 3}, "train_max <= test_max"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(name, fields, words):
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        build(name, **fields)


def test_an_empty_mean_is_zero():
    assert ratio(Mean(jnp.float32(0), jnp.float32(0))) == 0


def test_modules_match_their_names():
    for module in (adding, copy_memory, counting, parity, random_data, temporal_order):
        assert TASKS[module.__name__.rsplit(".", 1)[1]] is module
