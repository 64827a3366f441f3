"""Words: the Penn Treebank models of Zaremba, Sutskever & Vinyals (2014), or any three texts.

Published perplexities, validation / test: small 121.39 / 115.91, medium 86.16 / 82.07, large
82.62 / 78.29. A step reads 20 rows of 20 (small) or 35 words; the carry goes on to the next.
Their loss is summed over these T words and ours is the mean, so their rate of 1 is T here and
their clip at 5 is 5 / T. Kernels are uniform in 1 / sqrt(H), as good as their 0.1, 0.05, 0.04.

Command: lstm-jax train --config=configs/words.py:small --workdir=runs/words
Cost: `small` takes 5.6 minutes of CPU time an epoch, 13 epochs; 4,651,600 parameters.
Expect: `small`: test 115.6, validation 119.1 (seed 0; 183 after one epoch); the rest not run here.
Presets: `small` (the default), `medium`, `large`; `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup

TOKENS = 929_589  # of the training text, each line's <eos> among them


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("language")
    config.task.level = "words"
    config.model.encoder = "embedding"
    config.model.layers = 2
    config.cell.forget_bias = 0.0
    config.cell.kernel_init = config.cell.recurrent_init = "uniform"
    config.optimizer.name = "sgd"
    config.optimizer.schedule = "piecewise"
    config.train.batch_size = 20
    small(config)
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def small(config: ConfigDict) -> None:
    """2 x 200, no dropout, 13 epochs, the rate halved after each from the fifth on."""
    size(config, 200, steps=20, keep=1.0, epochs=13, constant=4, factor=0.5)


def medium(config: ConfigDict) -> None:
    """2 x 650, keep 0.5, 39 epochs, the rate divided by 1.2 after each from the seventh on."""
    size(config, 650, steps=35, keep=0.5, epochs=39, constant=6, factor=1 / 1.2)


def large(config: ConfigDict) -> None:
    """2 x 1500, keep 0.35, 55 epochs, the rate divided by 1.15 after each from the fifteenth on."""
    size(config, 1500, steps=35, keep=0.35, epochs=55, constant=14, factor=1 / 1.15, clip=10.0)


def size(
    config: ConfigDict,
    hidden: int,
    *,
    steps: int,
    keep: float,
    epochs: int,
    constant: int,
    factor: float,
    clip: float = 5.0,
) -> None:
    """One of the paper's three; `constant` epochs before the rate first falls by `factor`."""
    epoch = TOKENS // config.train.batch_size // steps
    config.cell.hidden = config.model.embedding = hidden
    config.task.steps = steps
    config.model.input_dropout = config.model.dropout = config.model.head_dropout = 1 - keep
    config.optimizer.learning_rate = float(steps)
    config.optimizer.clip_norm = clip / steps
    config.optimizer.decay_factor = factor
    config.optimizer.decay_every = epoch
    config.optimizer.decay_start = (constant - 1) * epoch
    config.train.log_every = epoch // 10
    config.train.eval_every = config.train.checkpoint_every = epoch // 10 * 10
    config.train.num_steps = epochs * config.train.eval_every


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.task.steps = 5
    config.task.eval_size = 100
    config.task.sample_length = 10
    config.cell.hidden = config.model.embedding = 8
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 20


PRESETS = {"small": small, "medium": medium, "large": large, "smoke": smoke}
