"""Parity: does the cell find a two-state machine and run it without a slip?

Command:  lstm-jax train --config=configs/parity.py [--config.task.every_step=False]
Cost:     4,385 parameters, 3000 steps; 35 seconds on 2 busy CPU cores.
Expected: test accuracy 1.0, loss 0.00002 (seed 0); chance 0.5 and 0.693. Asked only after the last
          step, parity of 50 bits is not expected to be learned.
Presets:  `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("parity")
    config.cell.hidden = 32
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
