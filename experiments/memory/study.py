"""How long can they remember? Adding (`:copy`: copy memory) over 50, 100, 200 and 400 steps.

Hypothesis: plain RNNs lose the gradient within tens of steps, the identity start carries it
further, gates further still; a forget bias of the order of the task's length (chrono) furthest.
Weighting the gates' gradients changes little.

  lstm-jax sweep launch --study=experiments/memory
  lstm-jax diagnose --workdir=sweeps/memory          the measured reach of the gradient
  lstm-jax report --workdir=sweeps/memory            a section for every length

Solved is a test loss of at most a tenth of the trivial score (adding 0.1667, copying
10 ln 8 / (T + 20)); the page's header has it.
Cost: 640 trials in 32 packs, of 3,000 steps (adding) or 6,000 (copy): for a GPU.
"""

from lstm_jax.sweep import config_file, grid, product

QUESTION = "How far back does each cell learn to remember, and is that where its gradient ends?"
BASELINE = {"cell.name": "lstm", "cell.forget_bias": 1.0}
METRIC = "valid/loss"
DIRECTION = "min"
REPORT = {"by": ("task.length",)}

LENGTHS = (50, 100, 200, 400)
VARIANTS = (
    BASELINE,
    {"cell.name": "rnn"},
    {"cell.name": "rnn", "cell.activation": "relu", "cell.recurrent_init": "identity"},
    {"cell.name": "gru"},
    {"cell.forget_bias": 0.0},
    {"cell.gradient_weight": 2.0},
    {"cell.activity_weighting": True},
)
RATES = (1e-3, 2e-3, 5e-3, 1e-2)


def split_arg(arg):
    words = [word for word in arg.split(",") if word]
    return "copy_memory" if "copy" in words else "adding", ",".join(w for w in words if w != "copy")


def get_config(arg: str = ""):
    task, rest = split_arg(arg)
    config = config_file(f"configs/{task}.py", rest)
    config.cell.forget_init, config.cell.t_max = "constant", 0.0
    return config


def sweep():
    tuned = list(grid({"optimizer.learning_rate": RATES, "seed": range(5)}))
    for length in LENGTHS:
        chrono = {"cell.forget_init": "chrono", "cell.t_max": float(length)}
        yield from product([{"task.length": length}], (*VARIANTS, chrono), tuned)
