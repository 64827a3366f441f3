"""JSB Chorales: how well does a cell foresee the next chord of a chorale?

Bernoulli negative log-likelihood of 88 keys, mean per frame, next frame from all before; the
first frame of a piece is not predicted. Published at about 300K parameters (Bai et al. 2018):
LSTM 8.45, GRU 8.43, RNN 8.91; each key at its training marginal 11.09.

Command: lstm-jax train --config=configs/jsb.py --workdir=runs/jsb
Cost: a minute of CPU time, 248,888 parameters.
Expect: test NLL 8.43 (seeds 0, 1, 2: 8.427, 8.428, 8.449); `:gru` 8.53, `:rnn` 8.86 (seed 0).
Presets: `rnn` and `gru`, cells of about as many parameters; `smoke`: under 10 s, the first time 20.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("polyphonic")
    config.cell.hidden = 200
    config.model.input_dropout = 0.1
    config.model.head_dropout = 0.5
    config.optimizer.learning_rate = 6e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_factor = 0.05
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 8
    config.train.num_steps = 1000
    config.train.log_every = 50
    config.train.eval_every = 50
    config.train.checkpoint_every = 500
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def rnn(config: ConfigDict) -> None:
    """The tanh RNN."""
    config.cell.name = "rnn"
    config.cell.hidden = 400
    config.optimizer.learning_rate = 1e-3


def gru(config: ConfigDict) -> None:
    """The GRU."""
    config.cell.name = "gru"
    config.cell.hidden = 230


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes."""
    config.train.compile = "quick"
    config.cell.hidden = 16
    config.train.num_steps = 4
    config.train.log_every = config.train.eval_every = 2
    config.train.checkpoint_every = 4


PRESETS = {"rnn": rnn, "gru": gru, "smoke": smoke}
