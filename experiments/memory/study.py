"""How long can they remember? Adding (`:copy`: copy memory) over 50, 100, 200 and 400 steps.

Hypothesis: plain RNNs lose the gradient within tens of steps, the identity start carries it
further, gates further still; a forget bias of the order of the task's length (chrono) furthest.
Weighting the gates' gradients changes little.

  lstm-jax sweep launch --study=experiments/memory
  lstm-jax diagnose --workdir=sweeps/memory          the measured reach of the gradient
  lstm-jax report --workdir=sweeps/memory            a section for every length

`small` is for two busy cores: T = 25, 50 and 100, 32 units, 1,000 steps; the same variants, rates
and seeds, 480 trials in 24 packs.

Solved is a test loss of at most a tenth of the trivial score (adding 0.1667, copying
10 ln 8 / (T + 20)); the page begins with the longest T that each variant solves.
Cost: 640 trials in 32 packs, of 3,000 steps (adding) or 6,000 (copy): for a GPU.
"""

from lstm_jax.sweep import config_file, grid, product

QUESTION = "How far back does each cell learn to remember, and is that where its gradient ends?"
BASELINE = {"cell.name": "lstm", "cell.forget_bias": 1.0}
METRIC = "valid/loss"
DIRECTION = "min"
SCALE = "solved"
REPORT = {"by": ("task.length",), "solved": 0.1}

LENGTHS = (50, 100, 200, 400)
SMALL = (25, 50, 100)
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
    """(task, whether it is small, what is left for the config file)."""
    words = [word for word in arg.split(",") if word]
    rest = ",".join(word for word in words if word not in ("copy", "small"))
    return "copy_memory" if "copy" in words else "adding", "small" in words, rest


def get_config(arg: str = ""):
    task, small, rest = split_arg(arg)
    config = config_file(f"configs/{task}.py", rest)
    config.cell.forget_init, config.cell.t_max = "constant", 0.0
    if small:
        config.cell.hidden, config.train.num_steps, config.train.eval_every = 32, 1000, 200
    return config


def sweep(arg: str = ""):
    tuned = list(grid({"optimizer.learning_rate": RATES, "seed": range(5)}))
    for length in SMALL if split_arg(arg)[1] else LENGTHS:
        chrono = {"cell.forget_init": "chrono", "cell.t_max": float(length)}
        yield from product([{"task.length": length}], (*VARIANTS, chrono), tuned)
