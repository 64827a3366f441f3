"""MNIST pixel by pixel: what survives 784 steps in a cell?

Published accuracies (van der Westhuizen & Lasenby 2018): LSTM 98.5 % in order, 91 % permuted;
JANET 99 % and 92.5 %.

Command: lstm-jax train --config=configs/mnist_pixels.py[:permuted] --workdir=runs/mnist_pixels
Cost: hours on a CPU, 55,000 steps through 784 pixels; meant for a GPU. Not yet run in full here.
Presets: `permuted`, by the permutation in JANET's code; `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("mnist")
    config.task.order = "pixels"
    config.cell.hidden = 128
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_factor = 0.01
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 100
    config.train.num_steps = 55_000  # 100 epochs of 550
    config.train.log_every = 110
    config.train.eval_every = 550
    config.train.checkpoint_every = 5500
    config.train.best_metric = "accuracy"
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def permuted(config: ConfigDict) -> None:
    """The pixels in one fixed order that has nothing to do with their place."""
    config.task.permutation = "janet"


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.cell.hidden = 8
    config.task.train_size = config.task.eval_size = 40
    config.train.batch_size = 20
    config.train.num_steps = 4
    config.train.log_every = config.train.eval_every = 2
    config.train.checkpoint_every = 4


PRESETS = {"permuted": permuted, "smoke": smoke}
