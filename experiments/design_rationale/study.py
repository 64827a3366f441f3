"""Why is the LSTM built this way? One question a preset, on four tasks.

Hypothesis: the separate memory with its forget gate and the squashed output are what matters
(Greff et al. 2017); the other parts may go, each at a learning rate of its own.

  lstm-jax sweep launch --study=experiments/design_rationale           Greff's parts, 360 trials
  lstm-jax sweep launch --study=experiments/design_rationale:QUESTION[,TASK] --workdir=sweeps/NAME
  lstm-jax diagnose --workdir=sweeps/NAME && lstm-jax report --workdir=sweeps/NAME

QUESTION: memory, gates, candidate, adding_up, output, relu, peepholes, forget_bias, gate_gradients
          (4 learning rates, 5 seeds). TASK: airline (default), jsb, adding, etth1 (oil temperature
          48 hours ahead); `smoke` shrinks it,
          `small` makes it what two busy cores do in minutes a question: jsb with 64 units and 400
          steps (of 200, 1,000), adding over 50 steps with 32 units and 1,000 updates (of 100, 64,
          3,000), etth1 with 16 units and 100 steps (of 64, 300); all variants, rates and seeds.
Cost: airline about 1 s a trial on 2 cores, jsb a minute of CPU time, adding two.
"""

from lstm_jax.sweep import config_file, grid, product

VANILLA = {"cell.gates": "lstm"}
PARTS = (
    VANILLA,
    {"cell.gates": "nig"},
    {"cell.gates": "nfg"},
    {"cell.gates": "nog"},
    {"cell.gates": "cifg"},
    {"cell.candidate_activation": "identity"},
    {"cell.output_activation": "identity"},
    {"cell.gate_activation": "relu"},
    {"cell.peepholes": "diagonal"},
)
IRNN = {"cell.name": "rnn", "cell.activation": "relu", "cell.recurrent_init": "identity"}
CONFIGS = {"etth1": "configs/etth1.py:two_days"}  # configs/TASK.py where nothing is said
LONGEST = {"airline": 13.0, "jsb": 160.0, "adding": 100.0, "etth1": 96.0}  # steps, for chrono


def gates(*rows):
    return tuple({"cell.gates": row} for row in rows)


def questions(task, small=()):
    """{preset: (question of the source material, variants measured)}."""
    longest = 50.0 if "task.length" in small else LONGEST[task]
    chrono = {"cell.forget_init": "chrono", "cell.t_max": longest}
    cells = ({"cell.name": "rnn"}, IRNN, {"cell.name": "gru"})
    relus = ("relu", "relu1", "hard_sigmoid", "softsign")
    shaped = ({"cell.candidate_activation": "identity"}, {"cell.candidate_activation": "relu"})
    return {
        "memory": ("Why a separate long-term memory?", (*cells, *gates("no_memory"))),
        "gates": ("Why both a forget and an input gate?", gates("nig", "nfg", "cifg")),
        "candidate": (
            "Why tanh times sigmoid at the input?",
            (*gates("nig", "sigmoid_candidate"), *shaped),
        ),
        "adding_up": ("Why add the two?", gates("multiplicative", "no_memory", "cifg")),
        "output": (
            "Why tanh(c) times a gate at the output?",
            gates("nog", "noaf", "gate_only_output", "sigmoid_output"),
        ),
        "relu": ("Can gates be ReLU?", tuple({"cell.gate_activation": name} for name in relus)),
        "peepholes": (
            "Do peepholes matter?",
            ({"cell.peepholes": "diagonal"}, {"cell.peepholes": "full"}),
        ),
        "forget_bias": (
            "Does the forget bias matter?",
            ({"cell.forget_bias": 0.0}, {"cell.forget_bias": 5.0}, chrono),
        ),
        "gate_gradients": (
            "Does weighting gate gradients help?",
            (
                *({"cell.gradient_weight": weight} for weight in (0.5, 2.0, 5.0)),
                {"cell.activity_weighting": True},
            ),
        ),
    }


QUESTION = {
    "": "Which parts of the LSTM does it need, when every variant may choose its learning rate?",
    **{preset: asked for preset, (asked, _) in questions("airline").items()},
}
BASELINE = VANILLA
METRIC = "valid/loss"
DIRECTION = "min"
SCALE = {"adding": "log"}  # solved and failed seeds lie factors of hundreds apart
PRESETS = tuple(questions("airline"))

RATES = {
    "airline": (1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2),
    "jsb": (1e-3, 3e-3, 6e-3, 1e-2),
    "adding": (1e-3, 2e-3, 5e-3, 1e-2),
    "etth1": (3e-4, 1e-3, 3e-3, 1e-2),
}
FOUR = RATES | {"airline": (3e-3, 1e-2, 3e-2, 1e-1)}  # for the questions


SMALL = {
    "airline": {},
    "jsb": {"cell.hidden": 64, "train.num_steps": 400, "train.checkpoint_every": 400},
    "adding": {
        "cell.hidden": 32, "task.length": 50, "train.num_steps": 1000, "train.eval_every": 200,
    },
    "etth1": {"cell.hidden": 16, "train.num_steps": 100, "train.checkpoint_every": 100},
}  # fmt: skip


def chosen(arg):
    """(task, question, what `small` sets, what is left for the config file)."""
    words = [word for word in arg.split(",") if word]
    task = next((word for word in words if word in RATES), "airline")
    question = next((word for word in words if word in QUESTION), "")
    small = SMALL[task] if "small" in words else {}
    rest = [word for word in words if word not in (task, question, "small")]
    return task, question, small, ",".join(rest)


def get_config(arg: str = ""):
    task, _, small, rest = chosen(arg)
    file, _, preset = CONFIGS.get(task, f"configs/{task}.py").partition(":")
    config = config_file(file, ",".join(filter(None, (preset, rest))))
    config.update_from_flattened_dict(small)
    return config


def sweep(arg: str = ""):
    task, question, small, _ = chosen(arg)
    variants, rates = PARTS, RATES[task]
    if question:
        variants = (VANILLA, *questions(task, small)[question][1])
        rates = FOUR[task]
    yield from product(variants, grid({"optimizer.learning_rate": rates, "seed": range(5)}))
