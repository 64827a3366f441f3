"""Nine LSTMs, each without one of its parts, at eight learning rates with five seeds: 360 trials.

lstm-jax sweep plan --study=experiments/design_rationale
"""

from lstm_jax.sweep import config_file, grid, product

QUESTION = "Which parts of the LSTM does it need, when every variant may choose its learning rate?"
BASELINE = {"cell.gates": "lstm"}
METRIC = "valid/loss"
DIRECTION = "min"

VARIANTS = (
    {"cell.gates": "lstm"},
    {"cell.gates": "nig"},
    {"cell.gates": "nfg"},
    {"cell.gates": "nog"},
    {"cell.gates": "cifg"},
    {"cell.candidate_activation": "identity"},
    {"cell.output_activation": "identity"},
    {"cell.gate_activation": "relu"},
    {"cell.peepholes": "diagonal"},
)
RATES = (1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2)


def get_config(arg: str = ""):
    return config_file("configs/airline.py", arg)


def sweep():
    yield from product(VARIANTS, grid({"optimizer.learning_rate": RATES, "seed": range(5)}))
