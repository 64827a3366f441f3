"""How an exported file is read elsewhere: the lines of the model card and of docs/convert.md."""

from __future__ import annotations

from collections.abc import Sequence

from lstm_jax.cells.gates import word
from lstm_jax.convert.layers import Layer, chosen, snake
from lstm_jax.convert.plain import Plain, plain

READ = {
    "torch": 'layers = convert.read("torch", rnn.state_dict())',
    "keras": 'layers = convert.read("keras", {v.path: v.numpy() for v in rnn.trainable_weights})',
    "linen": 'layers = convert.read("linen", params)',
    "nnx": 'layers = convert.read("nnx", nnx.to_pure_dict(nnx.state(cell, nnx.Param)))',
    "haiku": 'layers = convert.read("haiku", params)',
    "equinox": """\
arrays = {name: getattr(cell, name) for name in ("weight_ih", "weight_hh", "bias")}
layers = convert.read("equinox", arrays)""",
}
USAGE = {
    "torch": """\
import safetensors.numpy
import torch

rnn = {call}  # xs [T, B, D]
state = safetensors.numpy.load_file("{file}")
own = {{k[4:]: torch.tensor(v) for k, v in state.items() if k.startswith("rnn.")}}
rnn.load_state_dict(own)
ys, last = rnn(xs)
""",
    "keras": """\
import keras
import safetensors.numpy

rnn = keras.Sequential(
    [keras.Input((None, {features})), {call}]
)  # xs [B, T, D]
state = safetensors.numpy.load_file("{file}")
rnn.set_weights([state[v.path.split("/", 1)[1]] for v in rnn.weights])
ys = rnn(xs)
""",
    "linen": """\
import flax.linen as nn
import safetensors.numpy
from flax.traverse_util import unflatten_dict

rnn = {call}  # xs [B, T, D]
params = unflatten_dict(safetensors.numpy.load_file("{file}"), sep="/")["rnn"]
ys = rnn.apply({{"params": {{"cell": params}}}}, xs)  # one layer: params["layer_0"] of several
""",
    "nnx": """\
import safetensors.numpy
from flax import nnx
from flax.traverse_util import unflatten_dict

cell = {call}
params = unflatten_dict(safetensors.numpy.load_file("{file}"), sep="/")["rnn"]
state = nnx.state(cell, nnx.Param)  # one layer: params["layer_0"] of several
nnx.replace_by_pure_dict(state, params)
nnx.update(cell, state)
ys = nnx.RNN(cell)(xs)  # xs [B, T, D]
""",
    "haiku": """\
import haiku as hk
import safetensors.numpy


def unrolled(xs):  # [T, B, D]
    core = {call}
    return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]


params = {{}}
for name, array in safetensors.numpy.load_file("{file}").items():
    module, leaf = name.rsplit("/", 1)  # one layer: rnn/layer_0/... of several
    params.setdefault(module, {{}})[leaf] = array
ys = hk.without_apply_rng(hk.transform(unrolled)).apply(params, xs)
""",
    "equinox": """\
import equinox as eqx
import jax
import safetensors.numpy

cell = {call}
state = safetensors.numpy.load_file("{file}")
names = [name for name in ("weight_ih", "weight_hh", "bias", "bias_n") if f"rnn.{{name}}" in state]
arrays = [state[f"rnn.{{name}}"] for name in names]  # one layer: rnn.layer_0.... of several
cell = eqx.tree_at(lambda c: [getattr(c, name) for name in names], cell, arrays)
""",
}
NPZ = ("safetensors.numpy.load_file(", "numpy.load(")
OWN = """\
import lstm_jax, safetensors.numpy

params = safetensors.numpy.load_file("{file}")  # layer_0/forward/kernel, ...
# a run again:  lstm-jax import --from={file} --workdir=DIR
"""


def usage(library: str, layers: Sequence[Layer], file: str) -> str:
    """Lines that read `file` with the library."""
    p = plain(layers[0].cell, layers[0].forward)
    text = USAGE[library].format(call=call(library, layers), file=file, features=p.kernel.shape[0])
    return text if file.endswith(".safetensors") else text.replace(*NPZ)


def call(library: str, layers: Sequence[Layer]) -> str:
    """The library's own constructor for these layers (one of them, where it stacks none)."""
    p = plain(layers[0].cell, layers[0].forward)
    name = chosen(library, p.kind)[0]
    return CALLS[library](name, p, len(layers), layers[0].backward is not None)


def _torch(name: str, p: Plain, count: int, both: bool) -> str:
    options = [f"num_layers={count}"] * (count > 1) + ["bidirectional=True"] * both
    options += [f"proj_size={p.projection.shape[1]}"] if p.projection is not None else []
    options += [f"nonlinearity={p.activations[0]!r}"] if p.kind == "rnn" else []
    return f"torch.nn.{name}({', '.join([str(p.kernel.shape[0]), str(p.hidden), *options])})"


def _keras(name: str, p: Plain, count: int, both: bool) -> str:
    linear = {"identity": "linear"}
    words = [linear.get(word, word) for word in p.activations]
    fields = ("activation",) if p.kind == "rnn" else ("recurrent_activation", "activation")
    defaults = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    chosen_words = dict(zip(fields, words, strict=False))
    options = [
        f"{k}={v!r}" if isinstance(v, str) else f"{k}={word(v)}"
        for k, v in chosen_words.items()
        if v != defaults[k]
    ]
    options += ["reset_after=False"] if p.reset == "before" else []
    arguments = ", ".join([str(p.hidden), "return_sequences=True", *options])
    layers = [_keras_layer(name, arguments, n, both) for n in range(count)]
    return ", ".join(layers)


def _keras_layer(name: str, arguments: str, n: int, both: bool) -> str:
    """With the names that the file's arrays have: keras counts on by itself."""
    own, number = snake(name), f"_{n}" * (n > 0)
    if not both:
        return f'keras.layers.{name}({arguments}, name="{own}{number}")'
    inner = f'keras.layers.{name}({arguments}, name="{own}")'
    return f'keras.layers.Bidirectional({inner}, name="bidirectional{number}")'


def _flax(pattern: str):
    def written(name: str, p: Plain, count: int, both: bool) -> str:
        fields = ("activation_fn",) if p.kind == "rnn" else ("gate_fn", "activation_fn")
        defaults = {"gate_fn": "sigmoid", "activation_fn": "tanh"}
        words = dict(zip(fields, p.activations, strict=False))
        options = [
            f", {k}={FUNCTIONS.get(v, word(v))}" for k, v in words.items() if v != defaults[k]
        ]
        return pattern.format(
            name=name, features=p.kernel.shape[0], hidden=p.hidden, options="".join(options)
        )

    return written


FUNCTIONS = {
    "sigmoid": "jax.nn.sigmoid",
    "tanh": "jnp.tanh",
    "relu": "jax.nn.relu",
    "hard_sigmoid": "jax.nn.hard_sigmoid",
    "softsign": "jax.nn.soft_sign",
    "identity": "lambda u: u",
    "relu1": "lambda u: jnp.clip(u, 0, 1)",
}
CALLS = {
    "torch": _torch,
    "keras": _keras,
    "linen": _flax("nn.RNN(nn.{name}({hidden}{options}))"),
    "nnx": _flax("nnx.{name}({features}, {hidden}{options}, rngs=nnx.Rngs(0))"),
    "haiku": lambda name, p, count, both: f'hk.{name}({p.hidden}, name="rnn")',
    "equinox": lambda name, p, count, both: (
        f"eqx.nn.{name}({p.kernel.shape[0]}, {p.hidden}, key=jax.random.key(0))"
    ),
}
