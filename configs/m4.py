"""M4 Hourly: one LSTM for 414 series, 48 hours ahead.

Each window is scaled by its own mean and spread. The network sees what each hour did against the
same hour of the day before, and says what the next 48 hours do. Series have 700 or 960 hours; the
last 48 are M4's test, the 48 before them choose the parameters.

Command:  lstm-jax train --config=configs/m4.py
Presets:  `smoke`: a few steps.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("forecast")
    config.task.csv, config.task.then_csv = "m4/Hourly-train.csv", "m4/Hourly-test.csv"
    config.task.layout = "rows"
    config.task.look_back = 48
    config.task.horizon = 48
    config.task.period = 24
    config.task.log = True
    config.task.difference, config.task.seasonal_difference = False, True
    config.task.objective = "absolute"
    config.task.test_rows = config.task.valid_rows = 48
    config.cell.hidden = 64
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 256
    config.train.num_steps = 1500
    config.train.log_every = 50
    config.train.eval_every = 100
    config.train.checkpoint_every = 500
    config.train.best_metric = "mase"
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def smoke(config: ConfigDict) -> None:
    """A few steps."""
    config.train.compile = "quick"
    config.cell.hidden = 8
    config.train.batch_size = 32
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = config.train.checkpoint_every = 10


PRESETS = {"smoke": smoke}
