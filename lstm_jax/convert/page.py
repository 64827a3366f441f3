"""docs/convert.md, written from the tables: python -m lstm_jax.convert.page > docs/convert.md"""

from __future__ import annotations

import jax
import numpy as np

from lstm_jax.cells import CELLS, lstm, transforms
from lstm_jax.cells.gates import GATES
from lstm_jax.convert.conventions import OUTER, table
from lstm_jax.convert.layers import Layer
from lstm_jax.convert.onnx.recurrent import Marks, words
from lstm_jax.convert.usage import READ, usage
from lstm_jax.core import Cell

HEAD = """\
# Weights in, models out

Written by `python -m lstm_jax.convert.page > docs/convert.md`; edit `lstm_jax/convert/page.py`.

```
lstm-jax export --workdir=runs/airline --to=onnx
lstm-jax export --workdir=runs/airline --to=torch --out=airline.safetensors
lstm-jax evaluate --workdir=runs/airline --model=runs/airline/export/model.onnx
lstm-jax import --from=runs/airline/export/model.onnx --workdir=runs/again
lstm-jax import --from=lstm.pt --rename=lstm.=rnn.,fc.=head.linear. --config=configs/airline.py \\
  --workdir=runs/theirs
lstm-jax train --config=configs/airline.py --workdir=runs/tuned --init_from=runs/theirs
```

| `--to` | file | what it holds |
|---|---|---|
| `safetensors`, `npz` | `.safetensors`, `.npz` | every parameter under our names, and the config |
| {libraries} | `.safetensors`, `.npz` | every parameter under that library's names |
| `onnx` | `.onnx`, `-step.onnx` | the whole model: encoder, layers, readout, head |
| `stablehlo` | `.stablehlo`, `-stream.stablehlo` | the whole model for CPU, CUDA and TPU |

A file exists once it was read back and agreed with the model to 1e-5; the largest difference is
printed. A model card in Markdown lies beside it: files, how to use them, metrics beside the
baselines, config, a hash of the data, versions and commit. What a target cannot say exactly is
refused with the option and the nearest that it can; nothing is approximated. Nothing is ever
unpickled: a torch `.pt` is read with `weights_only=True`, where torch is installed.

`import` lists every array that is missing, unknown or of another shape, with the nearest name;
`--rename=OLD=NEW,...` changes how names begin, `--partial` keeps initial values for what the file
lacks. The config comes from the file, if we wrote it, else from `--config`. An ONNX model comes
back whole: `layer_0/W`, `layer_0/R`, ... are those of its recurrent nodes, every other array has
its own name; one of another library may want `--rename=fc.weight=head/linear/kernel`.

## Layers in Python

`lstm_jax.convert` needs none of the other libraries: it takes and gives `{{name: array}}`.

```python
from lstm_jax import convert

layers = convert.read("torch", torch.nn.LSTM(3, 4, num_layers=2).state_dict())
carries, ys = convert.apply(layers, xs)  # xs [T, B, D]
cell, params = layers[0].cell, layers[0].forward  # for lstm_jax.unroll
state = convert.write("keras", layers)
```

`read` finds out which layer it is by names and shapes; what arrays do not tell, it is told:
`activation="relu"` for a `torch.nn.RNN`, `reset="before"` for an ONNX GRU.

## Conventions

Gates by our names: the forget gate is f everywhere, the candidate g (n of a GRU).
[Parity](parity.md) has the largest difference of each of these layers from its own library's.

"""
ROWS = """
Rows of the gate table are written as layers that have all gates: a gate that is always 1 has zero
weights and a bias of 40, and f = 1 - s(u) is s(-u), with the input gate's weights negated. Trained
on elsewhere, such gates are free again, and a config with that row no longer takes them.

## Each library

The layer of two inputs and four units, after `lstm-jax export --to=LIBRARY`, and the way back.
"""
LIBRARY = """
### {library}

```python
{usage}```

Back:

```python
{back}
```
"""
ONNX = """
## ONNX

One LSTM, GRU or RNN node, where the operator says the same; else a Scan whose body is the cell's
own step. Time and batch are free. `inputs` is [T, B, D], or ids [T, B]; `lengths` [B], `mask` and
`resets` [T, B] are inputs where the task has them. The carries `layer_0_c`, `layer_0_h`, ...
[B, H] are optional inputs, and come back as `layer_0_c_next`, ...: onnxruntime says at level
WARNING that inputs have defaults. The step model takes one step, `inputs` [B, D]. It cannot be
where a layer runs both ways, a convolution sees earlier inputs, or the readout is a mean.

`lstm_jax.convert.onnx.nodes.read_nodes(FILE)` reads the LSTM, GRU and RNN nodes of any file.

| cell | becomes |
|---|---|
"""
TAIL = """
## StableHLO

`jax.export` files for any T and B, read by JAX alone: `jax.export.deserialize(data).call(batch)`
gives `(outputs, carry)`, and `-stream` goes on from a carry by any number of steps. The model card
has the lines.
"""


def page() -> str:
    """Markdown: verbs, conventions, libraries, ONNX row by row."""
    libraries = ", ".join(f"`{name}`" for name in OUTER)
    each = "".join(_library(library) for library in OUTER)
    return HEAD.format(libraries=libraries) + table() + ROWS + each + ONNX + _cells() + TAIL


def _library(library: str) -> str:
    lines = usage(library, [_layer(lstm(4), 2)], f"{library}.safetensors")
    return LIBRARY.format(library=library, usage=lines, back=READ[library])


def _layer(cell: Cell, features: int = 2) -> Layer:
    shapes = jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))
    return Layer(cell, {k: np.zeros(v.shape, np.float32) for k, v in shapes.items()})


def _cells() -> str:
    """A line for every row of the gate table, every cell, and the options that matter."""
    found = {f"lstm, gates={row}": lstm(4, gates=row) for row in GATES}
    found |= {name: make(4) for name, make in CELLS.items() if name != "lstm"}
    found |= {
        "gru, reset=before": CELLS["gru"](4, reset="before"),
        "lstm, peepholes=diagonal": lstm(4, peepholes="diagonal"),
        "lstm, peepholes=full": lstm(4, peepholes="full"),
        "lstm, layer_norm=branch": lstm(4, layer_norm="branch"),
        "lstm, cell_clip": lstm(4, cell_clip=1.0),
        "lstm, projection": transforms.projection(lstm(4), 2),
        "lstm, zoneout": transforms.zoneout(lstm(4), 0.1),
        "lstm, any dropout": transforms.weight_drop(lstm(4), 0.1),
        "lstm, learned carry": transforms.learned_carry(lstm(4)),
    }
    lines = {name: words(_layer(cell), Marks()) for name, cell in found.items()}
    return "".join(f"| {name} | {text} |\n" for name, text in lines.items())


if __name__ == "__main__":
    print(page(), end="")
