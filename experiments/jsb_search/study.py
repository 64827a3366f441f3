"""Four numbers of a small LSTM on JSB Chorales, searched: by TPE, with halving, at random.

Command:  lstm-jax sweep run --study=experiments/jsb_search[:PRESET]
Cost:     128 trials of 150 steps, 32 units, in 16 packs; some two minutes of CPU time.
Expected: valid/loss 9.3 (NLL), which random search finds in 128 trials, within 32 (median of ten).
Presets:  `random`, `halving` (TPE, and ASHA's rule at steps 30 and 60), `smoke`.
"""

from ml_collections import ConfigDict

from lstm_jax.sweep import config_file, log_uniform, uniform

QUESTION = "Which learning rate, clipping and dropout suit a small LSTM on chorales?"
METRIC, DIRECTION = "valid/loss", "min"
SPACE = {
    "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
    "optimizer.clip_norm": log_uniform(0.1, 10.0),
    "model.input_dropout": uniform(0.0, 0.5),
    "model.head_dropout": uniform(0.0, 0.7),
}
TPE = {"sampler": "tpe", "trials": 128, "batch": 8, "space": SPACE}
SEARCH = {
    "": TPE,
    "random": {**TPE, "sampler": "random", "batch": 128},
    "smoke": {**TPE, "trials": 8, "batch": 4},
}
HALVING = {"halving": {"rungs": (30, 60), "keep": 0.5, "across": True}}


def get_config(arg: str = "") -> ConfigDict:
    words = [word for word in arg.split(",") if word not in ("random", "halving")]
    config = config_file("configs/jsb.py", ",".join(words))
    config.cell.hidden = 32
    if "smoke" not in words:
        config.train.num_steps = 150
        config.train.log_every = config.train.eval_every = 30
        config.train.checkpoint_every = 150
    return config
