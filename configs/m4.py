"""M4 Hourly: one LSTM for 414 series, 48 hours ahead.

The network sees what the logarithm of each hour did against the same hour of the day before, on
each series' own scale, and says what the next 48 hours do against the last day seen. Series have
700 to 960 hours before their last 48, which are M4's test; the 48 before those choose the
parameters.

Command:  lstm-jax train --config=configs/m4.py
Cost:     20,016 parameters, 1,500 steps; 6 minutes of one busy core.
Expected: (seed 0, test)                 sMAPE   MASE
            LSTM                         13.58   0.962
            linear autoregression        13.29   0.941
            seasonal naive               13.91   1.193
            published: RNN 14.70 / 3.05, MLP 13.84 / 2.61, ES-RNN 9.33 / 0.89
          Better than the seasonal day, and than M4's own RNN; not than an autoregression of each
          series, which M4 did not run.
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
