"""Must gates be sigmoids? Six other functions in i, f and o, one gate at a time and all together.

Hypothesis: what is unbounded in f or i lets the cell grow and the gradient explode; what is bounded
in [0, 1] (hard sigmoid, clipped ReLU) does as well as the sigmoid; the output gate forgives most.

  lstm-jax sweep launch --study=experiments/activations[:jsb]
  lstm-jax diagnose --workdir=sweeps/activations     cell growth and gradient flow: the explanation
  lstm-jax report --workdir=sweeps/activations

Cost: 500 trials in 25 packs; 15 minutes on 2 cores for the airline series, hours for `:jsb`.
"""

from lstm_jax.sweep import config_file, grid, product

QUESTION = "Which gates need to be sigmoids, and what goes wrong where they do not?"
BASELINE = {"cell.gate_activation": ""}
METRIC = "valid/loss"
DIRECTION = "min"

FIELDS = (
    "cell.input_gate_activation",
    "cell.forget_gate_activation",
    "cell.output_gate_activation",
    "cell.gate_activation",
)
OTHERS = ("hard_sigmoid", "tanh", "relu", "relu1", "softsign", "identity")
RATES = {"airline": (1e-3, 3e-3, 1e-2, 3e-2), "jsb": (1e-3, 3e-3, 6e-3, 1e-2)}


def split_arg(arg):
    words = [word for word in arg.split(",") if word]
    return "jsb" if "jsb" in words else "airline", ",".join(w for w in words if w != "jsb")


def get_config(arg: str = ""):
    task, rest = split_arg(arg)
    return config_file(f"configs/{task}.py", rest)


def sweep(arg: str = ""):
    rates = RATES[split_arg(arg)[0]]
    variants = [BASELINE, *({field: name} for field in FIELDS for name in OTHERS)]
    yield from product(variants, grid({"optimizer.learning_rate": rates, "seed": range(5)}))
