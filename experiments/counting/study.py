"""Who counts, and how far? a^n b^n (`:abc`: a^n b^n c^n), trained on n < 50, tested up to 500.

Hypothesis (Weiss, Goldberg & Yahav 2018): cells whose memory is added to without bound count (LSTM,
LSTM without output activation, ReLU RNN); what squashes or averages its memory does not (tanh RNN,
GRU, CIFG).

  lstm-jax sweep launch --study=experiments/counting[:small]
  lstm-jax report --workdir=sweeps/counting

Compared is the first n at which a word is not accepted. Cost: 320 trials in 8 packs, half an
hour on 2 cores; `small` has 5 seeds instead of 10.
"""

from lstm_jax.sweep import config_file, grid, product

QUESTION = "Which cells count, and how far beyond what they have seen?"
BASELINE = {"cell.name": "lstm", "cell.gates": "lstm"}
METRIC = "valid/loss"
DIRECTION = "min"
SCALE = "log"
REPORT = {"metric": "test/first_failing_n", "limit": 501}  # 501: none up to 500 failed

VARIANTS = (
    BASELINE,
    {"cell.name": "gru"},
    {"cell.name": "rnn"},
    {"cell.name": "rnn", "cell.activation": "relu"},
    {"cell.gates": "cifg"},
    {"cell.gates": "nfg"},
    {"cell.gates": "noaf"},
    {"cell.peepholes": "diagonal"},
)


def split_arg(arg):
    words = [word for word in arg.split(",") if word]
    return "small" in words, ",".join(word for word in words if word != "small")


def get_config(arg: str = ""):
    return config_file("configs/counting.py", split_arg(arg)[1])


def sweep(arg: str = ""):
    seeds = range(5 if split_arg(arg)[0] else 10)
    rates = (1e-3, 3e-3, 1e-2, 3e-2)
    yield from product(VARIANTS, grid({"optimizer.learning_rate": rates, "seed": seeds}))
