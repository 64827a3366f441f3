"""Other libraries' weights as lstm_jax parameters.

Every function takes arrays in its library's own layout and is differentiable, so that gradients
are compared with respect to the library's own weights.
"""

from __future__ import annotations

import jax.numpy as jnp


def _reorder(array, given, wanted, axis=-1):
    """Gate blocks along `axis` from the order `given` into the order `wanted`."""
    blocks = dict(zip(given, jnp.split(array, len(given), axis), strict=True))
    return jnp.concatenate([blocks[gate] for gate in wanted], axis)


# torch and equinox: rows are gates, i f g o and r z n, as here.


def torch_lstm(w, end="l0"):
    """`end`: layer and direction, as in `weight_ih_l0_reverse`."""
    params = {
        "kernel": w[f"weight_ih_{end}"].T,
        "recurrent_kernel": w[f"weight_hh_{end}"].T,
        "bias": w[f"bias_ih_{end}"] + w[f"bias_hh_{end}"],
    }
    projected = f"weight_hr_{end}" in w
    return params | ({"projection_kernel": w[f"weight_hr_{end}"].T} if projected else {})


torch_rnn = torch_lstm


def torch_gru(w, end="l0"):
    """The second bias of the candidate stays apart: the reset gate multiplies it."""
    split = 2 * w[f"bias_hh_{end}"].size // 3
    gates, candidate = jnp.split(w[f"bias_hh_{end}"], [split])
    return {
        "kernel": w[f"weight_ih_{end}"].T,
        "recurrent_kernel": w[f"weight_hh_{end}"].T,
        "bias": w[f"bias_ih_{end}"] + jnp.concatenate([gates, jnp.zeros_like(candidate)]),
        "recurrent_bias": candidate,
    }


def equinox_lstm(w):
    return {"kernel": w["weight_ih"].T, "recurrent_kernel": w["weight_hh"].T, "bias": w["bias"]}


def equinox_gru(w):
    return equinox_lstm(w) | {"recurrent_bias": w["bias_n"]}


# keras: our layout for the LSTM (i f c o), z r h for the GRU.


def keras_lstm(w):
    return dict(w)


def keras_gru(w, reset_after=True):
    kernel, recurrent = (_reorder(w[k], "zrn", "rzn") for k in ("kernel", "recurrent_kernel"))
    if not reset_after:
        bias = _reorder(w["bias"], "zrn", "rzn")
        return {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias}
    both = _reorder(w["bias"], "zrn", "rzn")
    hidden = both.shape[-1] // 3
    inner = both[1].at[2 * hidden :].set(0.0)
    return {
        "kernel": kernel,
        "recurrent_kernel": recurrent,
        "bias": both[0] + inner,
        "recurrent_bias": both[1, 2 * hidden :],
    }


# haiku: one matrix on [x, h], order i g f o, and f + 1 in the forward pass; z means 1 - z.


def haiku_lstm(w, features):
    stacked = _reorder(w["w"], "igfo", "ifgo")
    bias = _reorder(w["b"], "igfo", "ifgo")
    hidden = bias.size // 4
    forget = jnp.zeros_like(bias).at[hidden : 2 * hidden].set(1.0)
    return {
        "kernel": stacked[:features],
        "recurrent_kernel": stacked[features:],
        "bias": bias + forget,
    }


def haiku_gru(w):
    hidden = w["b"].size // 3
    sign = jnp.concatenate([-jnp.ones(hidden), jnp.ones(2 * hidden)])
    names = {"kernel": "w_i", "recurrent_kernel": "w_h", "bias": "b"}
    return {ours: _reorder(sign * w[theirs], "zrn", "rzn") for ours, theirs in names.items()}


# ONNX: rows are gates, i o f c for the LSTM (peepholes i o f), z r h for the GRU, two biases.


def onnx_lstm(w, direction=0, input_forget=False):
    bias = sum(jnp.split(w["B"][direction], 2))
    wanted = "igo" if input_forget else "ifgo"
    params = {
        "kernel": _reorder(w["W"][direction], "iofg", wanted, 0).T,
        "recurrent_kernel": _reorder(w["R"][direction], "iofg", wanted, 0).T,
        "bias": _reorder(bias, "iofg", wanted),
    }
    if "P" not in w:
        return params
    seeing = [gate for gate in "ifo" if gate in wanted]
    peep = _reorder(w["P"][direction], "iof", seeing).reshape(len(seeing), -1)
    return params | {"peephole_kernel": peep}


def onnx_gru(w, direction=0, linear_before_reset=True):
    first, second = (_reorder(b, "zrn", "rzn") for b in jnp.split(w["B"][direction], 2))
    params = {
        "kernel": _reorder(w["W"][direction], "zrn", "rzn", 0).T,
        "recurrent_kernel": _reorder(w["R"][direction], "zrn", "rzn", 0).T,
    }
    if not linear_before_reset:
        return params | {"bias": first + second}
    hidden = first.size // 3
    inner = second.at[2 * hidden :].set(0.0)
    return params | {"bias": first + inner, "recurrent_bias": second[2 * hidden :]}


def onnx_rnn(w, direction=0):
    bias = sum(jnp.split(w["B"][direction], 2))
    return {"kernel": w["W"][direction].T, "recurrent_kernel": w["R"][direction].T, "bias": bias}


# flax: nnx packs i f g o; linen names eight kernels, biases on the h side.


def nnx_lstm(w):
    return {
        "kernel": w["dense_i"]["kernel"],
        "recurrent_kernel": w["dense_h"]["kernel"],
        "bias": w["dense_h"]["bias"],
    }


def linen_lstm(w, forget="f"):
    """`forget`: nnx writes f_, because `if` is no name."""
    gates = ["i", forget, "g", "o"]
    return {
        "kernel": jnp.concatenate([w[f"i{k}"]["kernel"] for k in gates], 1),
        "recurrent_kernel": jnp.concatenate([w[f"h{k}"]["kernel"] for k in "ifgo"], 1),
        "bias": jnp.concatenate([w[f"h{k}"]["bias"] for k in "ifgo"]),
    }


def linen_gru(w):
    return {
        "kernel": jnp.concatenate([w[f"i{k}"]["kernel"] for k in "rzn"], 1),
        "recurrent_kernel": jnp.concatenate([w[f"h{k}"]["kernel"] for k in "rzn"], 1),
        "bias": jnp.concatenate([w[f"i{k}"]["bias"] for k in "rzn"]),
        "recurrent_bias": w["hn"]["bias"],
    }


def nnx_gru(w):
    return {
        "kernel": w["dense_i"]["kernel"],
        "recurrent_kernel": w["dense_h"]["kernel"],
        "bias": w["dense_i"]["bias"],
        "recurrent_bias": jnp.zeros_like(w["dense_h"]["kernel"][:, 0]),
    }


def flax_rnn(w, inputs="i", hiddens="h"):
    return {
        "kernel": w[inputs]["kernel"],
        "recurrent_kernel": w[hiddens]["kernel"],
        "bias": w[inputs]["bias"],
    }
