"""Japanese Vowels: which of nine speakers said it, from 7 to 29 frames of 12 coefficients?

Any pair of .ts files: --config.task.train_file=A_TRAIN.ts --config.task.test_file=A_TEST.ts

Command: lstm-jax train --config=configs/vowels.py --workdir=runs/vowels
Cost: half a minute, 20,297 parameters.
Expect: test accuracy 97.3 % (median of seeds 0, 1, 2; 96.2 to 97.3); nearest class mean 92.7 %.
Presets: `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("vowels")
    config.cell.hidden = 64
    config.model.input_noise = 0.3
    config.model.head_dropout = 0.3
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_factor = 0.05
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 16
    config.train.num_steps = 1000
    config.train.log_every = 20
    config.train.eval_every = 40
    config.train.checkpoint_every = 400
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.cell.hidden = 8
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 20


PRESETS = {"smoke": smoke}
