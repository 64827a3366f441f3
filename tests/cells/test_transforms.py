"""What transforms draw, leave alone, weigh and refuse; random combinations of everything."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import registry
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import lstm_jax
from lstm_jax import UsageError
from lstm_jax.cells import CELLS, gru, lstm, lstm_fgr, mgu, mingru, minlstm, rnn, slstm, transforms
from lstm_jax.cells.activations import ACTIVATIONS
from lstm_jax.cells.gates import GATES, step
from lstm_jax.cells.initializers import BIASES
from lstm_jax.core import Carry, Hidden, Keys, noted
from lstm_jax.engines.unroll import make_keys

pytestmark = pytest.mark.usefixtures("strict_types")

D, H, T, B = registry.D, registry.H, registry.T, registry.B
QUICK = registry.QUICK
KEY = jax.random.key(0)


def narrow(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def outputs(cell, seed=0, key=None, **options):
    """The jitted unroll on the registry's float32 data, a carry of the cell's own shape."""
    data = registry.data_of(cell, seed)
    run = jax.jit(lambda *args: lstm_jax.unroll(cell, *args, key=key, **options))
    return run(*narrow((data.params, data.xs, data.carry)))


# The forward pass of transforms that draw or weigh ------------------------------------------------


@pytest.mark.parametrize("base", [lstm(H), gru(H)], ids=["lstm", "gru"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("recurrent_dropout", {"rate": 0.4}),
        ("variational_dropout", {"input_rate": 0.3, "hidden_rate": 0.4}),
        ("weight_drop", {"rate": 0.4}),
        ("zoneout", {}),
        ("gradient_weighting", {"weights": 0.3}),
        ("activity_weighting", {}),
        ("recurrent_gradient_clipping", {"limit": 0.01}),
    ],
)
@pytest.mark.parametrize("engine", ["scan", "deferred"])
def test_without_a_key_nothing_changes_by_a_bit(base, name, arguments, engine):
    """Weighting and clipping never do; dropout without a key, zoneout at rate 0."""
    cell = transforms.TRANSFORMS[name](base, **arguments)
    for mine, plain in zip(
        jax.tree.leaves(outputs(cell, engine=engine)),
        jax.tree.leaves(outputs(base, engine="scan")),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, plain)


# Gradients that are no derivatives ----------------------------------------------------------------


def constant(weights):
    return lambda gates, us: weights


def activity(gates, us):
    """Gate output times gate input, of the true gates."""
    return {k: gates[k] * us[k] for k in us if k not in ("g", "n")}


BENT = [
    ("lstm", ("gradient_weighting", {"weights": 0.3}), constant(dict.fromkeys("ifo", 0.3)), np.inf),
    ("lstm", ("gradient_weighting", {"weights": {"f": 0.0, "g": 2.0}}),
     constant({"f": 0.0, "g": 2.0}), np.inf),
    ("lstm", ("activity_weighting", {}), activity, np.inf),
    ("lstm", ("recurrent_gradient_clipping", {"limit": 0.05}), None, 0.05),
    ("gru", ("gradient_weighting", {"weights": 0.3}), constant(dict.fromkeys("rz", 0.3)), np.inf),
    ("gru", ("gradient_weighting", {"weights": {"n": -1.0}}), constant({"n": -1.0}), np.inf),
    ("gru", ("activity_weighting", {}), activity, np.inf),
    ("gru", ("recurrent_gradient_clipping", {"limit": 0.05}), None, 0.05),
    ("lstm", ("learned_carry", {}), None, np.inf),
]  # fmt: skip


@pytest.mark.parametrize("engine", ["scan", "deferred"])
@pytest.mark.parametrize(("name", "transform", "weigh", "limit"), BENT)
def test_gradients_by_hand(name, transform, weigh, limit, engine):
    """Against backpropagation through time written out in NumPy."""
    case = registry.Case(name, {}, (transform,))
    cell = case.build()
    with jax.enable_x64(True):
        data = registry.data_of(cell)
        rng = np.random.default_rng(3)
        dys = rng.standard_normal((T, B, H))
        dlast = {k: rng.standard_normal((B, H)) for k in data.carry._fields}

        def loss(params, carry, xs):
            last, ys = lstm_jax.unroll(cell, params, xs, carry, engine=engine)
            return (dys * ys).sum() + sum((dlast[k] * v).sum() for k, v in last._asdict().items())

        grad = jax.jit(jax.grad(loss, (0, 1, 2)), compiler_options=QUICK)
        params, carry, xs = grad(data.params, data.carry, data.xs)
    known = {k: v for k, v in data.params.items() if not k.startswith("initial_")}
    by_hand = reference.BACKWARD[name](
        known, data.xs, data.carry._asdict(), dys, dlast, weigh, limit
    )
    for key, value in by_hand[0].items():
        np.testing.assert_allclose(params[key], value, 1e-9, 1e-11, err_msg=key)
    for key, value in by_hand[1].items():
        np.testing.assert_allclose(getattr(carry, key), value, 1e-9, 1e-11, err_msg=key)
    np.testing.assert_allclose(xs, by_hand[2], 1e-9, 1e-11)


def test_a_weight_of_one_is_the_plain_gradient():
    data = registry.data_of(lstm(H))
    args = narrow((data.params, data.xs))

    def grads(cell):
        return jax.grad(lambda p, xs: lstm_jax.unroll(cell, p, xs)[1].sum())(*args)

    weighed = jax.jit(lambda: grads(transforms.gradient_weighting(lstm(H), 1.0)))()
    for a, b in zip(
        jax.tree.leaves(weighed), jax.tree.leaves(jax.jit(lambda: grads(lstm(H)))()), strict=True
    ):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)


# What is drawn ------------------------------------------------------------------------------------

WIDE, LONG, MANY = 32, 20, 16


def drawn(cell, steps=LONG, batch=MANY, key=KEY):
    """(prepared parameters, projected steps) as `unroll` makes them."""
    keys = make_keys(key, batch)
    assert keys is not None
    timed = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(
        keys.example, jnp.arange(steps)
    )
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), registry.shapes_of(cell))

    @jax.jit
    def draw(params):
        prepared = cell.prepare(params, keys)
        return prepared, cell.project(prepared, jnp.ones((steps, batch, D)), timed)

    return draw(params)


def shares(mask, rate):
    """The mask holds 0 and 1 / (1 - rate) in the right proportions."""
    mask = np.asarray(mask)
    np.testing.assert_allclose(np.unique(mask), [0.0, 1 / (1 - rate)], 1e-6)
    assert abs((mask == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / mask.size)


@pytest.mark.slow
def test_gal_masks_are_one_a_sequence_and_differ_between_examples():
    params, _ = drawn(transforms.variational_dropout(lstm(WIDE), 0.25, 0.5), batch=64)
    assert params["dropout_x"].shape == (64, D) and params["dropout_h"].shape == (64, WIDE)
    shares(params["dropout_h"], 0.5)
    shares(params["dropout_x"], 0.25)
    assert len(np.unique(params["dropout_h"], axis=0)) == 64


def test_zoneout_draws_for_c_and_h_apart():
    _, step = drawn(transforms.zoneout(lstm(WIDE), 0.3, 0.1))
    zone = noted(step)[1]["zone"]
    assert zone["c"].shape == zone["h"].shape == (LONG, MANY, WIDE)
    for mask, rate in ((zone["c"], 0.3), (zone["h"], 0.1)):
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert abs(np.mean(mask) - rate) < 4 * np.sqrt(rate * (1 - rate) / mask.size)
    assert len(np.unique(np.asarray(zone["c"]).reshape(-1, WIDE), axis=0)) == LONG * MANY


def test_recurrent_dropout_draws_at_every_step():
    _, step = drawn(transforms.recurrent_dropout(lstm(WIDE), 0.4))
    keep = noted(step)[1]["keep"]
    assert keep.shape == (LONG, MANY, WIDE)
    shares(keep, 0.4)


def test_weight_drop_draws_one_mask_a_batch():
    params, _ = drawn(transforms.weight_drop(lstm(WIDE), 0.4))
    assert params["recurrent_kernel"].shape == (WIDE, 4 * WIDE)
    shares(params["recurrent_kernel"], 0.4)


def test_rate_zero_with_a_key_drops_nothing():
    cell = transforms.recurrent_dropout(lstm(H), 0.0)
    cell = transforms.variational_dropout(cell, 0.0, 0.0)
    cell = transforms.zoneout(transforms.weight_drop(cell, 0.0), 0.0, 0.0)
    mine, plain = outputs(cell, key=KEY, engine="scan"), outputs(lstm(H), engine="scan")
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "name", ["recurrent_dropout", "variational_dropout", "weight_drop", "zoneout"]
)
def test_rates_may_be_traced_and_differ_between_trials(name):
    """One program serves every rate: trials that differ in it alone are vmapped."""
    data = registry.data_of(lstm(H))
    args = narrow((data.params, data.xs, data.carry))

    def run(rate):
        cell = transforms.TRANSFORMS[name](lstm(H), rate, *([rate] if name in PAIRS else []))
        return lstm_jax.unroll(cell, *args, key=KEY)[1]

    rates = jnp.array([0.1, 0.6])
    both = jax.jit(jax.vmap(run))(rates)
    assert not np.allclose(both[0], both[1])
    np.testing.assert_allclose(both[0], jax.jit(run)(rates[0]), 1e-5, 1e-6)


PAIRS = {"variational_dropout", "zoneout"}


@pytest.mark.slow
def test_keys_of_examples_are_their_own():
    """An example draws the same wherever it stands in the batch, and from [B] keys what it says."""
    cell = transforms.zoneout(transforms.variational_dropout(lstm(H), 0.3, 0.3), 0.3, 0.3)
    data = registry.data_of(cell)
    params, xs = narrow((data.params, data.xs))
    run = jax.jit(lambda xs, keys: lstm_jax.unroll(cell, params, xs, key=keys)[1])
    keys = jax.random.split(KEY, B)
    whole, turned = run(xs, keys), run(xs[:, ::-1], keys[::-1])
    np.testing.assert_array_equal(whole, turned[:, ::-1])
    same = run(xs[:, [0] * B], keys)
    assert not np.allclose(same[:, 0], same[:, 1])
    given = lstm_jax.unroll(cell, params, xs, key=Keys(KEY, keys))[1]
    np.testing.assert_allclose(given, whole, 1e-6, 1e-6)


# Single transforms --------------------------------------------------------------------------------


def test_zoneout_at_its_expectation():
    cell, plain = transforms.zoneout(lstm(H), 0.25, 0.5), lstm(H)
    data = registry.data_of(plain)
    params, xs, carry = narrow((data.params, data.xs[:1], data.carry))
    new, old = (lstm_jax.unroll(c, params, xs, carry)[0] for c in (cell, plain))
    np.testing.assert_allclose(new.c, 0.25 * carry.c + 0.75 * old.c, 1e-6)
    np.testing.assert_allclose(new.h, 0.5 * carry.h + 0.5 * old.h, 1e-6)


@pytest.mark.parametrize("keyed", [True, False])
def test_zoneout_at_rate_one_holds_all(keyed):
    cell = transforms.zoneout(lstm(H), 1.0, 1.0)
    params, carry, xs = narrow(registry.data_of(cell)[:3])
    key = jax.random.key(0) if keyed else None
    last, _ = lstm_jax.unroll(cell, params, xs, carry, key=key)
    for old, new in zip(carry, last, strict=True):
        np.testing.assert_array_equal(new, old)


def test_projection_shapes_and_carry():
    cell = transforms.projection(lstm(H, peepholes="diagonal"), 2)
    shapes = {k: v.shape for k, v in registry.shapes_of(cell).items()}
    assert shapes["recurrent_kernel"] == (2, 4 * H) and shapes["projection_kernel"] == (H, 2)
    carry, ys = outputs(cell)
    assert isinstance(carry, Carry) and carry.c.shape == (B, H) and carry.h.shape == (B, 2)
    assert ys.shape == (T, B, 2)


def test_projection_computes_in_the_type_of_the_cell():
    wide, half = (transforms.projection(lstm(H, dtype=d), 2) for d in (None, jnp.bfloat16))
    params, carry, _ = narrow(registry.data_of(wide)[:3])
    z = jnp.zeros((B, 4 * H))
    gap = step(wide, params, carry, z, {})[1] - step(half, params, carry, z, {})[1]
    assert 1e-5 < jnp.abs(gap).max() < 0.05


@pytest.mark.slow
def test_learned_carry_is_learned_and_comes_back_at_resets():
    cell = transforms.learned_carry(gru(H))
    data = registry.data_of(cell)
    params, xs = narrow((data.params, data.xs))
    resets = jnp.zeros((T, B), bool).at[3].set(True)

    def last(params, steps, resets=None):
        return lstm_jax.unroll(cell, params, steps, resets=resets)[0].h

    np.testing.assert_allclose(last(params, xs, resets), last(params, xs[3:]), 1e-5, 1e-6)
    slope = jax.grad(lambda p: last(p, xs).sum())(params)["initial_h"]
    assert isinstance(cell.initial_carry(params, (2,)), Hidden) and (slope != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("peepholes", ["none", "diagonal"])
def test_activity_weighting_of_what_is_projected(peepholes):
    """h is narrower than the gates; all engines agree."""
    cell = transforms.activity_weighting(transforms.projection(lstm(H, peepholes=peepholes), 2))
    params = cell.init(jax.random.key(0), D)
    xs = jax.random.normal(jax.random.key(1), (T, B, D))

    def gradient(engine):
        loss = lambda p: jnp.sin(lstm_jax.unroll(cell, p, xs, engine=engine)[1]).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    for got, wanted in zip(
        *map(jax.tree.leaves, (gradient("deferred"), gradient("scan"))), strict=True
    ):
        np.testing.assert_allclose(got, wanted, 1e-5, 1e-6)


def test_activity_weighting_without_any_recurrence():
    """r is a scalar there."""
    blind = GATES["no_gate_recurrence"]
    blind = blind._replace(g=blind.g._replace(recurrent=False))
    cell = transforms.activity_weighting(lstm(H, gates=blind))
    assert jnp.isfinite(outputs(cell)[1]).all()


# Refusals -----------------------------------------------------------------------------------------

LOOSE: Any = transforms  # for what the types already refuse
RATES = [1.5, -0.1, float("nan"), np.float32(2.0), "0.5", None, [0.1]]
REFUSED = [
    *(
        (lambda r=r: transforms.zoneout(lstm(H), r, 0.0), r"zoneout rate_c=.*\[0, 1\]")
        for r in RATES
    ),
    (lambda: transforms.zoneout(lstm(H), 0.0, 2), r"zoneout rate_h=2.*\[0, 1\]"),
    (lambda: transforms.recurrent_dropout(lstm(H), 1.0), r"recurrent_dropout rate=1.0.*\[0, 1\)"),
    (lambda: transforms.weight_drop(lstm(H), -1), r"weight_drop rate=-1.*\[0, 1\)"),
    (lambda: transforms.variational_dropout(lstm(H), 0, 7), r"hidden_rate=7.*\[0, 1\)"),
    (lambda: transforms.zoneout(gru(H), 0.1, 0.1), "zoneout.*'gru'.*choose"),
    (lambda: transforms.zoneout(slstm(H), 0.0, 0.1), "zoneout.*'slstm'.*choose"),
    (lambda: transforms.zoneout(lstm_fgr(H), 0.1, 0.1), "zoneout.*'lstm_fgr'.*choose"),
    (lambda: transforms.projection(lstm(H), H), "projection=4 with hidden=4.*1 <= projection"),
    (lambda: transforms.projection(lstm(H), 0), "projection=0"),
    (lambda: LOOSE.projection(lstm(H), 2.0), "projection=2.0.*whole number"),
    (lambda: transforms.projection(gru(H), 2), "projection.*'gru'.*choose cell 'lstm'"),
    (
        lambda: transforms.projection(transforms.zoneout(lstm(H), 0.1, 0.1), 2),
        "projection.*zoneout.*project first",
    ),
    (lambda: transforms.zoneout(transforms.zoneout(lstm(H), 0.1, 0), 0.1, 0), "zoneout twice"),
    (lambda: transforms.variational_dropout(gru(H, reset="before"), 0, 0.1), "gru.*choose"),
    (lambda: transforms.variational_dropout(mgu(H), 0, 0.1), "mgu.*choose"),
    (lambda: transforms.variational_dropout(minlstm(H), 0.1, 0.1), "hidden_rate.*'minlstm'.*leave"),
    (lambda: transforms.weight_drop(mingru(H), 0.1), "weight_drop.*'mingru'.*choose"),
    (
        lambda: transforms.weight_drop(transforms.zoneout(mingru(H), 0, 0.1), 0.1),
        "weight_drop.*'mingru'.*choose",
    ),
    (lambda: transforms.gradient_weighting(rnn(H), 0.1), "'rnn'.*choose"),
    (lambda: transforms.gradient_weighting(lstm(H), {"q": 0.1}), "unknown gate 'q'"),
    (lambda: transforms.gradient_weighting(lstm(H, gates="nog"), {"o": 0.1}), "unknown gate 'o'"),
    (
        lambda: transforms.activity_weighting(transforms.gradient_weighting(lstm(H), 0.1)),
        "gradient_weighting.*once.*choose",
    ),
    (lambda: transforms.recurrent_gradient_clipping(lstm(H), 0), "limit=0.*above 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        make()


# Random combinations ------------------------------------------------------------------------------

squashes = st.sampled_from([*ACTIVATIONS, "", "", "", ""])
rates = st.sampled_from([0.0, 0.3, 0.3, 0.9])
biases = st.sampled_from([0.0, 1.0, 2.5, BIASES["chrono"](9.0), BIASES["linspace"]()])
CHOICES = {
    "gates": st.sampled_from([*GATES, *["lstm"] * 8]),
    "gate_activation": squashes
    | st.fixed_dictionaries({}, optional=dict.fromkeys("ifo", squashes)),
    "candidate_activation": squashes,
    "output_activation": squashes,
    "activation": st.sampled_from(list(ACTIVATIONS)),
    "reset": st.sampled_from(["before", "after"]),
    "peepholes": st.sampled_from(["none", "diagonal", "learned", "full"]),
    "forget_bias": biases,
    "kernel_init": st.sampled_from(["glorot", "lecun", "uniform"]),
    "recurrent_init": st.sampled_from(["per_gate", "fused", "identity", "zeros"]),
    "layer_norm": st.sampled_from(["none", "none", "branch", "recirculated"]),
    "cell_clip": st.sampled_from([0.0, 0.0, 0.5]),
    "dtype": st.sampled_from([None, None, jnp.bfloat16]),
}
ARGUMENTS = {
    "projection": {"size": st.sampled_from([1, 2, 3, 4])},
    "recurrent_dropout": {"rate": rates},
    "variational_dropout": {"input_rate": rates, "hidden_rate": rates},
    "weight_drop": {"rate": rates},
    "gradient_weighting": {"weights": st.sampled_from([0.5, {"i": 0.5}, {"f": 0.0}, {"n": 2.0}])},
    "activity_weighting": {},
    "zoneout": {"rate_c": rates, "rate_h": rates},
    "recurrent_gradient_clipping": {"limit": st.sampled_from([0.1, 10.0])},
    "learned_carry": {},
}


def options_of(name):
    """The constructor's keyword options; `**options` stands for those of lstm."""
    parameters = inspect.signature(CELLS[name]).parameters.values()
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return named | (options_of("lstm") if passes_on else set())


@st.composite
def combinations(draw):
    name = draw(st.sampled_from([*CELLS, *["lstm"] * 6, "gru"]))
    known = {k: v for k, v in CHOICES.items() if k in options_of(name)}
    options = {k: draw(v) for k, v in known.items() if draw(st.integers(0, 3)) == 0}
    # Mostly the order that works, sometimes any.
    wanted = draw(st.lists(st.sampled_from(list(ARGUMENTS)), max_size=4, unique=True))
    if draw(st.integers(0, 4)):
        wanted = sorted(wanted, key=list(ARGUMENTS).index)
    chosen = [(n, {k: draw(v) for k, v in ARGUMENTS[n].items()}) for n in wanted]
    return registry.Case(name, options, tuple(chosen), keyed=draw(st.booleans()))


def hold(case):
    """The combination is refused with a reason, or it works: finite, in halves, on every engine."""
    try:
        cell = case.build()
    except UsageError as refusal:
        assert len(str(refusal)) > 30, refusal
        return "refused"
    params, xs = narrow(registry.data_of(cell)[:3:2])
    keys = registry.keys_of(case)

    def run(params, xs, lengths, carry=None, engine="auto"):
        return lstm_jax.unroll(cell, params, xs, carry, lengths=lengths, key=keys, engine=engine)

    def graded(engine):
        def loss(params, xs):
            carry, ys = run(params, xs, jnp.full(B, T), engine=engine)
            return ys.sum() + carry.h.sum(), (carry, ys)

        return lambda: jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs)

    def law_2():
        """The second half at the place of the first."""
        first, _ = run(params, xs, jnp.full(B, 2))
        return run(params, jnp.roll(xs, -2, 0), jnp.full(B, T - 2), first)

    work = [graded("scan"), graded("auto"), law_2]
    scan, auto, halves = jax.jit(lambda: [f() for f in work], compiler_options=QUICK)()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(scan))
    tol = 0.05 if case.options.get("dtype") else 2e-4
    close(auto, scan, tol)
    if not (keys and case.names() & registry.PER_STEP):
        (carry, ys), (last, late) = scan[0][1], halves
        close((last, late[: T - 2]), (carry, ys[2:]), tol)
    return "works"


def close(actual, expected, tol):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected) if leaf.size)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, tol, tol * max(scale, 1.0))


PATIENT: Any = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate),  # shrinking takes longer than reading
}


@pytest.mark.slow
@settings(max_examples=100, **PATIENT)
@given(combinations())
def test_a_hundred_random_combinations(case):
    hold(case)
