"""Characters: how many bits does the next character of Shakespeare still hold?

Stateful truncated backpropagation through 64 characters; validation and test are the last 10 %.
Any text: --config.task.file=FILE, or task.train_file, task.valid_file and task.test_file.

Command: lstm-jax train --config=configs/chars.py --workdir=runs/chars
         lstm-jax predict --workdir=runs/chars --prompt="ROMEO:" --length=500
Cost: 12 epochs in eleven minutes of CPU time, 346,433 parameters.
Expect: 2.13 bits per character on validation, 2.34 on test (seed 0); a bigram model has 3.57, 3.60.
Presets: `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("language")
    config.task.steps = 64
    config.cell.hidden = 256
    config.model.head_dropout = 0.3
    config.optimizer.learning_rate = 4e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_factor = 0.05
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 32
    config.train.num_steps = 6000  # 12 epochs of 490
    config.train.log_every = 100
    config.train.eval_every = 500
    config.train.checkpoint_every = 1000
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.task.steps = 10
    config.task.eval_size = 500
    config.task.sample_length = 20
    config.cell.hidden = 8
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 20


PRESETS = {"smoke": smoke}
