"""LSTM: a search space odyssey, again: nine variants, random search, on JSB Chorales.

Hypothesis (Greff et al. 2017): NOAF and NFG are worse, CIFG and NP harmless, on this data so are
NIG, NOG and NIAF; the learning rate explains more than two thirds of the variance, momentum under
1 %. And their explanation of NOAF, tested: the output activation is needed only where the cell is
unbounded, so CIFG without it is fine where the vanilla LSTM without it is not.

  lstm-jax sweep launch --study=experiments/odyssey[:small]
  lstm-jax report --workdir=sweeps/odyssey

As there: SGD with Nesterov momentum, hidden size 20 to 200, learning rate 1e-6 to 1e-2, momentum
1 - (0.01 to 1), input noise 0 to 1, log-uniform but for the noise. Unlike there: the variants are
compared draw by draw, over all draws (there: the best tenth of each, unpaired); 64 trials a variant
instead of 200, hidden sizes in eight steps (a size is a program of its own), 1,000 steps.
Cost: 640 trials in 80 packs, about 4 hours of CPU time. `small`: 320 trials in 30 packs, hidden
sizes 20, 45 and 100, 32 trials a variant, 400 steps.
"""

from lstm_jax.sweep import choice, config_file, log_uniform, product, sobol, uniform

QUESTION = "Which of Greff's nine variants lose to the vanilla LSTM on JSB Chorales, and why?"
VANILLA = {"cell.gates": "lstm", "cell.peepholes": "learned"}
BASELINE = VANILLA
METRIC = "valid/loss"
DIRECTION = "min"
SCALE, BLOCK = "rank", "seed"  # the variants share their draws
SEARCHED = (
    "optimizer.learning_rate",
    "cell.hidden",
    "optimizer.momentum",
    "model.input_noise",
)
CIFG_NOAF, NOAF = "gates=cifg, output_activation=identity", "gates=noaf"
REPORT = {
    "tuned": SEARCHED,
    "select": "all",
    "pairs": ((CIFG_NOAF, NOAF),),
    "published": {
        "source": "Greff et al. (2017), on JSB: Welch's t at 0.05, the best tenth of 200 trials "
        "a variant",
        "verdicts": {
            "gates=nig": "not worse",
            "gates=nfg": "worse",
            "gates=nog": "not worse",
            "gates=niaf": "not worse",
            NOAF: "worse",
            "gates=cifg": "not worse",
            "peepholes=none": "not worse",
            CIFG_NOAF: "not tried; expected not worse",
        },
        "importance": {
            "optimizer.learning_rate": "more than two thirds",
            "optimizer.momentum": "under 1 %",
        },
    },
}

VARIANTS = (
    VANILLA,
    *({**VANILLA, "cell.gates": row} for row in ("nig", "nfg", "nog", "niaf", "noaf", "cifg")),
    {**VANILLA, "cell.peepholes": "none"},
    {**VANILLA, "cell.name": "lstm_fgr"},
    {**VANILLA, "cell.gates": "cifg", "cell.output_activation": "identity"},
)
DRAWS = {
    "optimizer.learning_rate": log_uniform(1e-6, 1e-2),
    "cell.hidden": choice((20, 28, 39, 54, 75, 104, 144, 200)),
    "optimizer.momentum": lambda u: 1 - log_uniform(0.01, 1.0)(u),
    "model.input_noise": uniform(0.0, 1.0),
}


SMALL = DRAWS | {"cell.hidden": choice((20, 45, 100))}


def split_arg(arg):
    words = [word for word in arg.split(",") if word]
    return "small" in words, ",".join(word for word in words if word != "small")


def get_config(arg: str = ""):
    small, rest = split_arg(arg)
    config = config_file("configs/jsb.py", rest)
    config.train.num_steps = 400 if small else config.train.num_steps
    config.optimizer.name, config.optimizer.nesterov = "sgd", True
    config.optimizer.schedule = "constant"
    config.optimizer.momentum = 0.9
    config.model.input_dropout = config.model.head_dropout = 0.0
    return config


def sweep(arg: str = ""):
    draws = sobol(32, SMALL, seed=0) if split_arg(arg)[0] else sobol(64, DRAWS, seed=0)
    trials = [{**draw, "seed": i} for i, draw in enumerate(draws)]
    yield from product(VARIANTS, trials)
