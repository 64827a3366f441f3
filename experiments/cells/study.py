"""Sixteen cells on four tasks, by the protocol: a grid that grows, ten fresh seeds, one report.

Hypothesis: what is added to (the memory) and what forgets are needed where something is to be kept
(adding, temporal order) or counted; on JSB Chorales, where little is, most parts may go.

  lstm-jax sweep run --study=experiments/cells[:TASK] --workdir=sweeps/cells_TASK
  lstm-jax diagnose --workdir=sweeps/cells_TASK && lstm-jax report --workdir=sweeps/cells_TASK
  lstm-jax report sweeps/cells_* --out=reports/cells           all tasks, one family

TASK: adding (default: T = 100, log2 updates to solve), temporal_order (the same), counting (a^n b^n
      up to n = 2,000, log2 first failing n), jsb (64 units, 1,500 steps, NLL), jsb_full (five cells
      at full size, seven seeds each; published: 8.45).
`matched`: hidden sizes that bring cells with other counts of parameters nearest to the LSTM's
      (within 3 %, within 6 % on counting); 135 trials, 90 of fresh seeds, at most 60 more.
`three`: LSTM, CIFG and GRU alone, to see whether they have converged:
      --study=experiments/cells:jsb,three --config.train.num_steps=3000
`long`: twice the steps, since they have not on JSB, from the rates among which the best were.

Cost: 240 trials in 16 packs, 160 of fresh seeds, at most 120 more; about 1.4 CPU-hours a task.
"""

from lstm_jax.sweep import config_file, grid, product

QUESTION = {
    "": "Which parts of the LSTM does it need to carry two numbers over 100 steps?",
    "temporal_order": "Which parts of the LSTM does it need to remember what came first?",
    "counting": "Which parts of the LSTM does it need to count?",
    "jsb": "Which parts of the LSTM does it need for chorales?",
    "jsb_full": "Which of five cells foresees chorales best, at full size?",
}
BASELINE = {"cell.name": "lstm", "cell.gates": "lstm"}
METRIC, DIRECTION = "valid/loss", "min"
SCALE = {"": "log", "jsb": "linear", "jsb_full": "linear"}
BUDGET = {"": 120, "matched": 60, "jsb_full": 0}  # some seven trials a variant
PROTOCOL = {"confirm": 10}
NLL = {"metric": "test/nll"}
REPORT = {
    "": PROTOCOL | {"metric": "valid/updates_to_solve", "solved": 0.1},
    "counting": PROTOCOL | {"metric": "test/first_failing_n", "limit": 2001},  # none failed
    "jsb": PROTOCOL | NLL,
    "jsb_full": NLL,  # one setting, seven seeds: nothing is chosen
}

TASKS = {
    "adding": {"task.length": 100, "train.num_steps": 1500, "train.eval_every": 25},
    "temporal_order": {"train.num_steps": 1500, "train.eval_every": 25},
    "counting": {"task.test_max": 2000},
    "jsb": {"cell.hidden": 64, "train.num_steps": 1500},
    "jsb_full": {},
}
SIZES = {"adding": (2, 1), "temporal_order": (8, 4), "counting": (3, 3), "jsb": (88, 88)}
RNN = {"cell.name": "rnn"}
VARIANTS = (  # and how many matrices each has
    (BASELINE, 4),
    (RNN, 1),
    (RNN | {"cell.activation": "relu", "cell.recurrent_init": "identity"}, 1),
    ({"cell.name": "gru"}, 3),
    *(({"cell.gates": row}, 3) for row in ("no_memory", "nig", "nfg", "cifg", "nog")),
    *(
        ({"cell.gates": row}, 4)
        for row in ("noaf", "gate_only_output", "sigmoid_candidate", "multiplicative")
    ),
    ({"cell.gate_activation": "relu"}, 4),
    ({"cell.peepholes": "diagonal"}, 4),
    ({"cell.forget_bias": 0.0}, 4),
)
FULL = tuple({"cell.gates": row} for row in ("lstm", "noaf", "cifg", "nfg"))
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
NEAR = (1e-2, 3e-2, 9e-2)  # of the best on JSB, all but that of ReLU gates, which diverge


def chosen(arg):
    """(task, the other words that mean something here, what is left for the config file)."""
    words = [word for word in arg.split(",") if word]
    task = next((word for word in words if word in TASKS), "adding")
    own = {word for word in words if word in ("matched", "three", "long")}
    return task, own, ",".join(w for w in words if w not in own and w != task)


def get_config(arg: str = ""):
    task, own, rest = chosen(arg)
    config = config_file(f"configs/{task.removesuffix('_full')}.py", rest)
    config.update_from_flattened_dict(TASKS[task])
    config.train.num_steps *= 2 if "long" in own else 1
    config.train.checkpoint_every = config.train.num_steps
    return config


def parameters(matrices, hidden, sizes):
    """Of a layer of so many matrices and its readout."""
    features, outputs = sizes
    return matrices * hidden * (features + hidden + 1) + (hidden + 1) * outputs


def matched(variant, matrices, hidden, sizes):
    """The variant with the hidden size whose parameters are nearest to those of the LSTM."""
    target = parameters(4, hidden, sizes)
    near = min(range(1, 4 * hidden), key=lambda h: abs(parameters(matrices, h, sizes) - target))
    return variant | {"cell.hidden": near} if near != hidden else variant


def sweep(arg: str = ""):
    task, own, _ = chosen(arg)
    if task == "jsb_full":
        yield from product((*FULL, {"cell.name": "gru"}), grid({"seed": range(7)}))
        return
    variants = [variant for variant, _ in VARIANTS]
    if "matched" in own:
        hidden = get_config(arg).cell.hidden
        apart = [(v, m) for v, m in VARIANTS if m != 4 or v is BASELINE]
        variants = [matched(v, m, hidden, SIZES[task]) for v, m in apart]
    if "three" in own:
        variants = [BASELINE, {"cell.gates": "cifg"}, {"cell.name": "gru"}]
    rates = NEAR if "long" in own else RATES
    yield from product(variants, grid({"optimizer.learning_rate": rates, "seed": range(3)}))
