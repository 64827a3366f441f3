"""Counting: who can count, and how far beyond what it has seen?

After each symbol of a^n b^n, say which may come next. Trained and validated on n < 50, tested on
every n up to 500; a word counts when every set along it is right.

Command:  lstm-jax train --config=configs/counting.py [--config.cell.name=gru]
Cost:     593 parameters, 3000 steps; 40 seconds on 2 busy CPU cores.
Expected: first failing n, median: LSTM 104 (seeds 0-9; 55 to 213), GRU 1 (seeds 0-4; 1 to 53), tanh
          RNN 2 (seeds 0-4; 1 to 5).
Presets:  `abc`: a^n b^n c^n; `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("counting")
    config.cell.hidden = 10
    config.optimizer.learning_rate = 1e-2
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 32
    config.train.num_steps = 3000
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.checkpoint_every = 1000
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def abc(config: ConfigDict) -> None:
    """a^n b^n c^n."""
    config.task.letters = 3


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.task.train_max = 5
    config.task.test_max = 10
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 10


PRESETS = {"abc": abc, "smoke": smoke}
