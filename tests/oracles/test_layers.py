"""The blocks of docs/layers.md that need other people's libraries."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"


def test_the_recipe_for_equinox_runs_and_is_our_layer():
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (recipe,) = [block for block in code if "import equinox" in block]
    xs = jax.random.normal(jax.random.key(1), (4, 20, 10))
    namespace = {"jax": jax, "lstm_jax": lstm_jax, "xs": xs}
    exec(recipe, namespace)
    layer, carry, ys = (namespace[name] for name in ("layer", "carry", "ys"))
    last, zs = lstm_jax.unroll(layer.cell, layer.params, jnp.swapaxes(xs, 0, 1))
    np.testing.assert_allclose(ys, jnp.swapaxes(zs, 0, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry.c[:, 0], last.c, rtol=1e-5, atol=1e-6)
    assert all(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(namespace["grads"].params))
