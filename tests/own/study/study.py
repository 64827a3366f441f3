"""The standard LSTM beside a gate table and an activation of somebody's own."""

from lstm_jax.sweep import config_file, grid, product

QUESTION = "Does my gate table do better than the standard one?"
BASELINE = {"cell.gates": "lstm", "cell.output_activation": ""}
MINE = {"cell.gates": "mine.py:lazy", "cell.output_activation": "mine.py:swish"}


def get_config():
    return config_file("../config.py")


def sweep():
    yield from product((BASELINE, MINE), grid({"seed": range(2)}))
