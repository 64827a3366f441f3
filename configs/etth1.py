"""ETTh1 by the protocol of the field: 96 hours ahead, 7 columns, errors of z-scores.

12, 4 and 4 months of 30 days; each column a series of one global model, by the mean and spread of
its training part, so that `loss` is the mean squared error that papers print.

Command:  lstm-jax train --config=configs/etth1.py
Cost:     300 steps; 2 minutes of 2 idle cores, a third of them for the 19,500 test windows.
Expected: mean squared error of z-scores (seed 0, test): nlinear and dlinear 0.370 (published 0.374
          and 0.375), linear autoregression 0.428, seasonal naive 0.512, LSTM 0.590, persistence
          1.294. The plain LSTM loses to everything but persistence. 192 hours: nlinear 0.403,
          dlinear 0.404 (published 0.408, 0.405), LSTM 0.637.
Presets:  `far`: 192 hours ahead. `joint`: one network says all 7 columns at once. `two_days`: oil
          temperature alone, 48 hours ahead from 96, of 60 test origins; what studies ask about.
          `smoke`: a few steps.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("forecast")
    config.task.csv = "ett/ETTh1.csv"
    config.task.target = "HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"
    config.task.until = "2018-02-21"  # 20 months of 30 days
    config.task.valid_from, config.task.test_from = "2017-06-26", "2017-10-24"
    config.task.look_back = 336
    config.task.horizon = 96
    config.task.period = 24
    config.task.log = config.task.difference = False
    config.task.scaling = "zscore"
    config.cell.hidden = 64
    config.model.dropout = 0.0
    config.model.head_dropout = 0.2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 128
    config.train.num_steps = 300
    config.train.log_every = 25
    config.train.eval_every = 50
    config.train.checkpoint_every = 300
    config.train.patience = 4
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def far(config: ConfigDict) -> None:
    """192 hours ahead."""
    config.task.horizon = 192


def joint(config: ConfigDict) -> None:
    """One network sees and says all columns of an hour."""
    config.task.joint = True


def two_days(config: ConfigDict) -> None:
    """Oil temperature, 48 hours ahead."""
    config.task.target = "OT"
    config.task.look_back, config.task.horizon = 96, 48
    config.task.origins = 60
    config.train.batch_size = 64


def smoke(config: ConfigDict) -> None:
    """A few steps."""
    config.train.compile = "quick"
    config.cell.hidden = 8
    config.task.look_back = 24
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = config.train.checkpoint_every = 10


PRESETS = {"far": far, "joint": joint, "two_days": two_days, "smoke": smoke}
