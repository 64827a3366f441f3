"""Airline passengers: does an LSTM know more than the calendar does?

The next month's passengers from the months before it; 96 months to learn from (the last 12 of
them for validation), 48 to be tested on, in passengers.

Command: lstm-jax train --config=configs/airline.py
Presets: `classic`, look-back 10 and two LSTM layers of 64 on the raw series; `smoke`.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.core import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("forecast")
    config.task.look_back = 12
    config.task.difference = config.task.seasonal_difference = config.task.seasonal_input = True
    config.cell.hidden = 16
    config.model.input_noise = 0.5  # 48 windows in all: without it the model learns them by heart
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 1.0
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 48
    config.train.num_steps = 400
    config.train.log_every = config.train.eval_every = 20
    config.train.checkpoint_every = 200
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def classic(config: ConfigDict) -> None:
    """Two layers of 64, dense, dropout 0.5, dense; 100 epochs of all windows at once."""
    config.task.look_back = 10
    config.task.log = config.task.difference = False
    config.task.seasonal_difference = config.task.seasonal_input = False
    config.model.input_noise = 0.0
    config.optimizer.name = "adam"
    config.optimizer.weight_decay = 0.0
    config.cell.hidden = 64
    config.model.layers = 2
    config.model.head_hidden = 32
    config.model.head_dropout = 0.5
    config.optimizer.learning_rate = 0.005
    config.optimizer.schedule = "piecewise"
    config.optimizer.decay_every = 20
    config.optimizer.decay_factor = 0.2
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 74
    config.train.num_steps = 100
    config.train.log_every = config.train.eval_every = 5
    config.train.checkpoint_every = 50


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.cell.hidden = 8
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 10


PRESETS = {"classic": classic, "smoke": smoke}
