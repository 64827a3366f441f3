"""Random data: how many steps a second, with nothing to learn but the training labels by heart?

Three stacked LSTMs of 128 over batches of [100 steps, 32 sequences, 10 features].

Command:  lstm-jax train --config=configs/random_data.py [--config.task.length=500]
Cost:     200 steps; read steps_per_second in summary.json.
Expected: on the test examples chance: accuracy 0.1, loss 2.303 or worse.
Presets:  `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("random_data")
    config.cell.hidden = 128
    config.model.layers = 3
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 32
    config.train.num_steps = 200
    config.train.log_every = 20
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.task.length = 10
    config.task.examples = config.task.eval_size = 64
    config.cell.hidden = 8
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 10


PRESETS = {"smoke": smoke}
