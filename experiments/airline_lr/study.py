"""Eight learning rates, eight seeds each, on the airline series: one pack of 64 trials.

lstm-jax sweep launch --study=experiments/airline_lr
"""

from lstm_jax.sweep import config_file, grid

QUESTION = "Which learning rate suits the airline forecaster, and how much of it is luck?"
BASELINE = {"optimizer.learning_rate": 1e-2}
METRIC = "valid/loss"
DIRECTION = "min"

RATES = (1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2)


def get_config(arg: str = ""):
    return config_file("configs/airline.py", arg)


def sweep():
    yield from grid({"optimizer.learning_rate": RATES, "seed": range(8)})
