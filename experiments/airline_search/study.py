"""Four numbers of the airline forecaster, searched: by TPE, with halving, at random, by evolution.

Command:  lstm-jax sweep run --study=experiments/airline_search[:PRESET]
Cost:     128 trials of 300 steps in 8 packs; 80 s of CPU time, as many at random in one pack 82 s.
Expected: valid/loss 0.088, reached within 64 trials what random search found in 128 (0.113); with
          `halving` 0.088 as well, and that within 10,160 trial-steps of the 38,400 at random.
          The year of validation says little of the test: its best has test/loss 0.46, linear
          autoregression 0.35. What is shown is a search, not a forecaster.
Presets:  `random`, `halving` (TPE, and ASHA's rule at steps 60 and 140), `sizes` (loss against
          parameters), `pbt` and `constant` (32 trials at a constant rate, with and without
          population based training: 0.113 against 0.118), `wide` and `wide_random` (512 trials),
          `smoke`.
"""

from ml_collections import ConfigDict

from lstm_jax.sweep import choice, config_file, log_uniform, uniform

QUESTION = "Which learning rate, momentum, noise and clipping suit the airline forecaster?"
METRIC, DIRECTION = "valid/loss", "min"
SPACE = {
    "optimizer.learning_rate": log_uniform(1e-4, 1e-1),
    "optimizer.momentum": uniform(0.5, 0.99),
    "model.input_noise": uniform(0.01, 0.5),
    "optimizer.clip_norm": log_uniform(0.1, 10.0),
}
TPE = {"sampler": "tpe", "trials": 128, "batch": 16, "space": SPACE}
SEARCH = {
    "": TPE,
    "random": {**TPE, "sampler": "random", "batch": 128},
    "sizes": {
        **TPE,
        "space": {**SPACE, "cell.hidden": choice((16, 32, 64))},
        "objectives": {"valid/loss": "min", "parameters": "min"},
    },
    "pbt": {**TPE, "sampler": "random", "trials": 32, "batch": 32},
    "constant": {**TPE, "sampler": "random", "trials": 32, "batch": 32},
    "wide": {**TPE, "trials": 512, "batch": 64},
    "wide_random": {**TPE, "trials": 512, "batch": 512, "sampler": "random"},
    "smoke": {**TPE, "trials": 12, "batch": 4},
}

HALVING = {"halving": {"rungs": (60, 140), "keep": 0.5, "across": True}}
RATE = {"optimizer.learning_rate": (1e-5, 1.0)}
PBT = {"pbt": {"every": 20, "fields": RATE}}
OWN = {*SEARCH, *HALVING, *PBT} - {"smoke"}  # presets of the study, not of the config


def get_config(arg: str = "") -> ConfigDict:
    words = arg.split(",")
    config = config_file("configs/airline.py", ",".join(w for w in words if w not in OWN))
    if {"pbt", "constant"} & set(words):
        config.optimizer.schedule = "constant"
    return config
