"""Where parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import UsageError
from lstm_jax.cells import lstm, minlstm, rnn, slstm
from lstm_jax.cells.initializers import BIASES, KERNELS, bias, chrono, linspace, power_law

D, H = 5, 8
KEY = jax.random.key(0)


def blocks(array, count=4):
    return np.split(np.asarray(array), count, axis=-1)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_initializer_fills_every_shape(name):
    for shape, count in (((D, 4 * H), 4), ((H, 4 * H), 4), ((H, H), 1), ((H, 0), 0)):
        made = KERNELS[name](KEY, shape, count)
        assert made.shape == shape and jnp.isfinite(made).all()


def test_per_gate_orthogonal_has_gain_one():
    for block in blocks(KERNELS["per_gate"](KEY, (H, 4 * H), 4)):
        np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-5)


def test_fused_orthogonal_has_half_the_gain():
    whole = np.asarray(KERNELS["fused"](KEY, (64, 256), 4))
    np.testing.assert_allclose(whole @ whole.T, np.eye(64), atol=1e-5)
    for block in blocks(whole):
        gain = np.sqrt((np.linalg.svd(block)[1] ** 2).mean())
        assert abs(gain - 0.5) < 0.05


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("glorot", np.sqrt(6 / (D + H))),
        ("glorot_fused", np.sqrt(6 / (D + 4 * H))),
        ("uniform", 1 / np.sqrt(H)),
    ],
)
def test_uniform_limits(name, limit):
    made = np.abs(KERNELS[name](KEY, (D, 4 * H), 4))
    assert limit * 0.9 < made.max() <= limit


def test_gates_start_differently():
    for name in ("glorot", "lecun", "per_gate", "uniform"):
        first, second, *_ = blocks(KERNELS[name](KEY, (H, 4 * H), 4))
        assert not np.allclose(first, second)


def test_identity_is_irnn():
    params = rnn(H, activation="relu", recurrent_init="identity").init(KEY, D)
    np.testing.assert_array_equal(params["recurrent_kernel"], np.eye(H))


def test_forget_bias_is_one_and_the_rest_zero():
    i, f, g, o = blocks(lstm(H).init(KEY, D)["bias"])
    assert (f == 1).all() and not np.concatenate([i, g, o]).any()
    assert (blocks(lstm(H, forget_bias=2.5).init(KEY, D)["bias"])[1] == 2.5).all()
    assert (blocks(slstm(H).init(KEY, D)["bias"])[1] == 1).all()
    assert (blocks(minlstm(H).init(KEY, D)["bias"], 3)[1] == 1).all()


def test_forget_bias_may_be_traced():
    make = jax.vmap(lambda bias: lstm(H, forget_bias=bias).init(KEY, D)["bias"])
    made = make(jnp.array([0.0, 2.0]))
    np.testing.assert_array_equal(made[:, H : 2 * H], [[0.0] * H, [2.0] * H])


def test_chrono():
    i, f, g, o = blocks(bias(chrono(100.0), KEY, "ifgo", 512))
    assert (i == -f).all() and not g.any() and not o.any()
    reach = np.exp(f)  # uniform on [1, t_max - 1]
    assert 1 <= reach.min() < 3 and 97 < reach.max() <= 99 and abs(reach.mean() - 50) < 5


def test_linspace_and_power_law():
    forget = blocks(lstm(H, forget_bias=linspace(3.0, 6.0)).init(KEY, D)["bias"])[1]
    np.testing.assert_allclose(forget, np.linspace(3, 6, H), rtol=1e-6)
    forget = blocks(lstm(H, forget_bias=power_law(-1.0, 6.0, 0.3)).init(KEY, D)["bias"])[1]
    np.testing.assert_allclose(forget, -1 + 7 * (np.arange(H) / (H - 1)) ** 0.3, 1e-5)


def test_biases_skip_gates_that_are_not_there():
    i, g, o = blocks(lstm(H, gates="cifg", forget_bias=chrono(10.0)).init(KEY, D)["bias"], 3)
    assert (i < 0).any() and not g.any() and not o.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chrono(1.9), "t_max=1.9.*t_max >= 2; choose"),
        (lambda: lstm(H, kernel_init="gloort"), "unknown kernel_init 'gloort'.*'glorot'"),
        (lambda: lstm(H, recurrent_init="fusde"), "did you mean 'fused'"),
        (lambda: minlstm(H, kernel_init="x"), "unknown kernel_init 'x'"),
        (lambda: lstm(H, forget_bias="chrono"), "'chrono'.*expected a number or an init.*BIASES"),
        (lambda: lstm(H, gates="cifg", forget_bias=linspace()), "'cifg'.*1 - i.*choose"),
        (lambda: lstm(H, gates="nfg", forget_bias=2.0), "forget_bias=2.0.*a constant.*leave"),
        (lambda: lstm(H, gates="cifg", forget_bias=3), "forget_bias=3.*'cifg'.*choose"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        make()


def test_the_tables_name_what_the_config_names():
    assert set(BIASES) == {"constant", "chrono", "linspace", "power_law"}


def test_a_forget_bias_in_float64_keeps_all_its_digits():
    with jax.enable_x64(True):
        bias = lstm(4, forget_bias=0.1).init(jax.random.key(0), 3)["bias"]
    assert bias.dtype == np.float64 and bias[4:8].tolist() == [0.1] * 4


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (1, 4), (40, 40)])
def test_orthogonal_is_that_of_jax_without_its_qr(shape):
    """LAPACK's QR waits for ever where two run at a time on two cores."""
    draw = jax.jit(lambda key: KERNELS["fused"](key, shape, 1))
    np.testing.assert_allclose(draw(KEY), jax.nn.initializers.orthogonal()(KEY, shape), atol=2e-6)
    assert "custom_call" not in draw.lower(KEY).as_text()
