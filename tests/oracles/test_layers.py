"""The blocks of docs/layers.md that need other people's libraries."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lstm_jax
from lstm_jax import convert

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
XS = np.asarray(jax.random.normal(jax.random.key(1), (4, 20, 10)))
LENGTHS = np.array([20, 7, 2, 3])  # those of the page
OURS = {"jax": jax, "jnp": jnp, "nnx": nnx, "lstm_jax": lstm_jax}


def blocks(heading: str) -> list[str]:
    """The code under a heading."""
    part = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


def ran(code: str, **names: Any) -> dict[str, Any]:
    exec(code, names)
    return names


def agree(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_before_and_after_are_one_layer_of_keras():
    import keras

    before, after = blocks("Instead of `keras.layers.LSTM`")
    mask = np.arange(20) < LENGTHS[:, None]
    theirs = ran(before, keras=keras, xs=XS, mask=mask)
    ours = ran(after, **OURS, xs=XS)
    for name in ("layer", "both"):
        state = {v.path: np.asarray(v) for v in theirs[name].trainable_variables}
        ours[name].load(convert.read("keras", state))
    agree(ours["layer"](XS)[0][-1].h, theirs["last"])
    found = ours["both"](XS, mask=mask)[1]
    agree(found[mask], np.asarray(theirs["ys"])[mask])


def test_before_and_after_are_one_layer_of_torch():
    import torch

    before, after = blocks("Instead of `torch.nn.LSTM`")
    before = before.replace("\nys, (h, c) =", "\nlstm.eval()\nys, (h, c) =", 1)  # no dropout
    theirs = ran(before, torch=torch, xs=torch.tensor(XS), lengths=torch.tensor(LENGTHS))
    ours = ran(after, **OURS, xs=XS)
    ours["lstm"].load(convert.read("torch", theirs["lstm"].state_dict()))
    again = ran(after.partition(")\n")[2], **OURS, xs=XS, lstm=ours["lstm"])
    for name in ("ys", "h", "c"):
        agree(again[name], theirs[name].detach().numpy())


def test_the_recipe_for_equinox_runs_and_is_our_layer():
    (recipe,) = blocks("In Equinox")
    names = ran(recipe, **OURS, xs=XS)
    layer, carry, ys = (names[name] for name in ("layer", "carry", "ys"))
    last, zs = lstm_jax.unroll(layer.cell, layer.params, jnp.swapaxes(XS, 0, 1))
    agree(ys, jnp.swapaxes(zs, 0, 1))
    agree(carry.c[:, 0], last.c)
    assert all(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(names["grads"].params))
