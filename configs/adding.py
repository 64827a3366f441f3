"""The adding problem: can the cell carry two numbers across T steps?

Command:  lstm-jax train --config=configs/adding.py [--config.task.length=200]
Cost:     17,217 parameters, 3000 steps; at T=200 measured 4 minutes on 2 busy CPU cores.
Expected: test MSE below 0.001, against 0.1667 for always answering 1. Measured on seed 0: 0.0001 at
          T=100 (in 4000 steps; below 0.01 after 1000), 0.0006 at T=200.
Presets:  `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("adding")
    config.cell.hidden = 64
    config.optimizer.learning_rate = 5e-3
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 50
    config.train.num_steps = 3000
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.checkpoint_every = 1000
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.task.length = 10
    config.task.eval_size = 100
    config.cell.hidden = 8
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 10


PRESETS = {"smoke": smoke}
