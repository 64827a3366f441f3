"""Weights in and models out: other libraries' arrays, safetensors, ONNX, StableHLO.

`read` and `write` take and give {name: array} by the other library's own names and import none of
them; `CONVENTIONS` is the table they go by. The files live in `files`, `onnx` and `stablehlo`.
"""

from lstm_jax.convert.conventions import CONVENTIONS
from lstm_jax.convert.layers import Layer, apply, nested, read, write
from lstm_jax.convert.plain import Inexpressible

__all__ = ["CONVENTIONS", "Inexpressible", "Layer", "apply", "nested", "read", "write"]
