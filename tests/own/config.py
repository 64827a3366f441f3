"""A config that names the parts beside it."""

from lstm_jax.config import default_config


def get_config():
    config = default_config("mine.py:first")
    config.cell.hidden = 4
    config.cell.gates = "mine.py:lazy"
    config.cell.output_activation = "mine.py:swish"
    config.train.batch_size = 8
    config.train.num_steps = 4
    config.train.log_every = config.train.eval_every = config.train.checkpoint_every = 2
    return config
