"""Configs: every option defined once, overrides with types, and objects built from both.

A config is a locked `ConfigDict` with the sections seed, task, cell, model, optimizer, train and
parallel. Numbers that may differ between the trials of one compiled program are `NUMERIC`: `split`
takes them out as arrays, `bind` puts arrays (or tracers) back, and every builder takes either.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lstm_jax.core import UsageError, lookup

# Enter compiled code as arrays. A 0 among them is off: it stays a Python 0 and leaves no trace.
NUMERIC = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.decay_factor",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
    "cell.forget_bias",
    "cell.zoneout_c",
    "cell.zoneout_h",
    "cell.recurrent_dropout",
    "cell.variational_dropout",
    "cell.weight_drop",
    "model.dropout",
    "model.input_dropout",
    "model.input_noise",
    "model.head_dropout",
)


def default_config(task: str = "forecast") -> ConfigDict:
    """Every section at its defaults, with the fields of `task` in `config.task`."""
    config = ConfigDict()
    config.seed = 0  # of parameters, data order and dropout alike
    config.task = task_fields(task)
    config.cell = cell_fields()
    config.model = model_fields()
    config.optimizer = optimizer_fields()
    config.train = train_fields()
    config.parallel = parallel_fields()
    return config


def task_fields(task: str) -> ConfigDict:
    """The task's own fields beside the two that every task has."""
    from lstm_jax.tasks import TASKS

    fields = ConfigDict()
    fields.name = task
    fields.data_dir = ""  # where data files lie; "": LSTM_JAX_DATA, then the cache, then download
    fields.update(lookup("task", task, TASKS).fields())
    fields.name = task
    return fields


def cell_fields() -> ConfigDict:
    """Options of the recurrent cell; "" always means the cell's own choice."""
    cell = ConfigDict()
    cell.name = "lstm"  # an entry of cells.CELLS; `lstm-jax cells` lists them
    cell.hidden = 64  # H, units of a layer
    cell.gates = "lstm"  # a row of the gate table gates.GATES: lstm, cifg, nfg, ...
    cell.gate_activation = ""  # of i, f and o at once
    cell.input_gate_activation = ""  # of i alone; wins over gate_activation
    cell.forget_gate_activation = ""  # of f alone
    cell.output_gate_activation = ""  # of o alone
    cell.candidate_activation = ""  # of g
    cell.output_activation = ""  # of c on its way to h
    cell.activation = ""  # of a cell without gates (rnn, indrnn)
    cell.reset = ""  # of a gru: after | before the recurrent matmul
    cell.peepholes = "none"  # none | diagonal | learned | full
    cell.layer_norm = "none"  # none | branch | recirculated
    cell.cell_clip = 0.0  # c stays within +- this; 0: off
    cell.forget_bias = 1.0  # where the forget gate's bias starts
    cell.forget_init = "constant"  # constant (forget_bias) | chrono | linspace | power_law
    cell.t_max = 0.0  # chrono: the longest dependency, in steps
    cell.kernel_init = ""  # input kernels: an entry of initializers.KERNELS
    cell.recurrent_init = "per_gate"  # recurrent kernels: per_gate | fused | identity | ...
    cell.dtype = "float32"  # what the matmuls compute in: float32 | bfloat16; state stays float32
    return cell


def model_fields() -> ConfigDict:
    """From features to outputs: encoder -> layers -> readout -> head."""
    model = ConfigDict()
    model.encoder = "none"  # none | embedding (ids only) | conv
    model.embedding = 128  # features of the embedding
    model.tied = False  # the embedding doubles as the output layer
    model.conv_features = (32,)  # channels of each 1-d convolution of the conv encoder
    model.conv_width = 5  # steps that each of them sees
    model.layers = 1  # L, recurrent layers
    model.bidirectional = False  # each layer runs both ways
    model.merge = "concat"  # how the two ways meet: concat | sum | mean | mul
    model.residual = False  # add a layer's input to its output where the sizes agree
    model.skip = False  # the input reaches every layer, and every layer the readout
    model.dropout = 0.0  # rate between recurrent layers
    model.input_dropout = 0.0  # rate on the encoded inputs
    model.input_noise = 0.0  # standard deviation of Gaussian noise on them, training only
    model.head_hidden = 0  # units of a dense layer before the last one; 0: none
    model.head_activation = "identity"  # of that dense layer
    model.head_dropout = 0.0  # rate before the last dense layer
    model.engine = "auto"  # how the recurrence is run and differentiated; an entry of engines
    return model


def optimizer_fields() -> ConfigDict:
    """The gradient's way to the parameters."""
    optimizer = ConfigDict()
    optimizer.name = "adam"  # adam | adamw | rmsprop | sgd
    optimizer.learning_rate = 1e-3
    optimizer.schedule = "constant"  # constant | piecewise | cosine | exponential
    optimizer.decay_every = 1000  # steps between two drops (piecewise), or per factor (exponential)
    optimizer.decay_factor = 0.1  # of a drop; cosine: the fraction left at the end
    optimizer.decay_start = 0  # step at which the schedule begins
    optimizer.warmup_steps = 0  # linear from 0; 0: none
    optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0: off
    optimizer.weight_decay = 0.0  # on matrices; decoupled under adamw
    optimizer.momentum = 0.0  # of sgd and rmsprop
    optimizer.nesterov = False  # look ahead along the momentum
    optimizer.beta1 = 0.9  # adam's average of gradients
    optimizer.beta2 = 0.999  # adam's and rmsprop's average of squares
    optimizer.epsilon = 1e-8  # added to the root of it
    return optimizer


def train_fields() -> ConfigDict:
    """The loop."""
    train = ConfigDict()
    train.num_steps = 1000
    train.batch_size = 32
    train.log_every = 50  # steps in one compiled call, and between two log lines
    train.eval_every = 100  # a multiple of log_every; so are the next two
    train.checkpoint_every = 500
    train.histogram_every = 0  # parameter and gradient histograms; 0: with every checkpoint
    train.best_metric = "loss"  # on the validation split; chooses the parameters that are kept
    train.patience = 0  # evaluations without a better one before stopping early; 0: never stop
    train.keep_last = 3  # newest checkpoints kept
    train.keep_best = 1  # best checkpoints kept
    train.keep_every = 0  # checkpoints at multiples of this step are kept for ever; 0: none
    return train


def parallel_fields() -> ConfigDict:
    """Devices."""
    parallel = ConfigDict()
    parallel.mode = "jit"  # jit (mesh and shardings) | pmap
    parallel.data = 1  # devices on the batch axis; -1: all
    return parallel


# ---------------------------------------------------------------------------------------------
# Numbers in, numbers out


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"optimizer.learning_rate": 1e-3, ...} from nested sections."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, (ConfigDict, dict))
        flat.update(flatten(value, name + ".") if nested else {name: value})
    return flat


def split(config: ConfigDict) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(static, hyper): what shapes the program, and the numbers that flow through it as arrays."""
    static = flatten(config)
    active = [name for name in NUMERIC if name in static and (static[name] or name == "seed")]
    hyper = {name: static.pop(name) for name in active}
    kind = lambda name: np.uint32 if name == "seed" else np.float32
    return static, {name: np.asarray(value, kind(name)) for name, value in hyper.items()}


def bind(config: ConfigDict, hyper: dict[str, Any]) -> SimpleNamespace:
    """`config` as attributes, with the fields named in `hyper` replaced by its arrays."""

    def tree(section: Any, prefix: str) -> SimpleNamespace:
        fields = {}
        for key, value in section.items():
            name = f"{prefix}{key}"
            nested = isinstance(value, (ConfigDict, dict))
            fields[key] = tree(value, name + ".") if nested else hyper.get(name, value)
        return SimpleNamespace(**fields)

    return tree(config, "")


def signature(config: ConfigDict) -> str:
    """Equal for two configs exactly when one compiled program can serve both."""
    static, hyper = split(config)
    return _hash({"static": static, "numeric": sorted(hyper)})


def config_hash(config: ConfigDict) -> str:
    """Equal for two configs exactly when all their fields are."""
    return _hash(flatten(config))


def to_json(config: ConfigDict) -> str:
    """The resolved config as written to config.json."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def _hash(tree: Any) -> str:
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------
# Objects out


def build_task(config: Any) -> Any:
    """The `Task` that `config.task.name` names."""
    from lstm_jax.tasks import TASKS

    return lookup("task", config.task.name, TASKS).build(config)


def build_cell(cell: Any) -> Any:
    """The `Cell` of the `cell` section: a constructor of `CELLS`, then the transforms that are on.

    A field reaches the constructor if the constructor has an option of its name.

    Raises:
      UsageError: a field that is set but means nothing to this cell, or what the cell refuses.
    """
    from lstm_jax.cells import CELLS

    constructor = lookup("cell", cell.name, CELLS)
    options = cell_options(constructor)
    _check_meaning(cell, options)
    return constructor(cell.hidden, **_constructor_arguments(cell, options))


def cell_options(constructor: Callable) -> dict[str, inspect.Parameter]:
    """The keyword options of a constructor; `**options` stands for those of `lstm`."""
    from lstm_jax.cells import lstm

    parameters = inspect.signature(constructor).parameters.values()
    named = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return {**cell_options(lstm), **named} if passes_on else named


# Which constructor option a field belongs to, where it is not the one of its own name.
OPTION_OF = {
    "input_gate_activation": "gate_activation",
    "forget_gate_activation": "gate_activation",
    "output_gate_activation": "gate_activation",
    "forget_init": "forget_bias",
    "t_max": "forget_bias",
}
PER_GATE = {
    "i": "input_gate_activation",
    "f": "forget_gate_activation",
    "o": "output_gate_activation",
}
EVERY_CELL = ("name", "hidden", "dtype")


def _takes(options: dict[str, inspect.Parameter], field: str) -> bool:
    option = options.get(OPTION_OF.get(field, field))
    if option is None:
        return False
    return field not in PER_GATE.values() or "Mapping" in str(option.annotation)


def _check_meaning(cell: Any, options: dict[str, inspect.Parameter]) -> None:
    """Raises UsageError for a field that is set but belongs to other cells."""
    for field, default in cell_fields().items():
        value = getattr(cell, field)
        is_set = isinstance(value, (str, int, float)) and value != default
        if is_set and field not in EVERY_CELL and not _takes(options, field):
            takes = ", ".join(f for f in cell_fields() if _takes(options, f))
            raise UsageError(
                f"cell.{field}={value!r} means nothing to cell {cell.name!r}, which takes: {takes}; "
                f"leave it at {default!r} or choose another cell.name"
            )


def _constructor_arguments(cell: Any, options: dict[str, inspect.Parameter]) -> dict[str, Any]:
    special = {
        "gate_activation": _gate_activation,
        "forget_bias": _forget_bias,
        "dtype": _dtype,
    }
    taken = {
        name: special[name](cell) if name in special else getattr(cell, name)
        for name in options
        if hasattr(cell, name)
    }
    return {name: value for name, value in taken.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and value == ""


def _gate_activation(cell: Any) -> str | dict[str, str]:
    """One name for all gates, or a name a gate where one has its own."""
    own = {gate: getattr(cell, field) for gate, field in PER_GATE.items()}
    if not any(own.values()):
        return cell.gate_activation
    from lstm_jax.gates import gate_table

    learned = gate_table(cell.gates).learned()
    shared = {gate: cell.gate_activation for gate in own if gate in learned}
    chosen = {gate: name or shared.get(gate, "") for gate, name in own.items()}
    return {gate: name for gate, name in chosen.items() if name}


def _forget_bias(cell: Any) -> Any:
    """A number, or one of the initialisers of `initializers.BIASES`."""
    from lstm_jax.initializers import BIASES

    initializer = lookup("forget_init", cell.forget_init, BIASES)
    if cell.forget_init == "constant":
        return cell.forget_bias
    return initializer(cell.t_max) if cell.forget_init == "chrono" else initializer()


def _dtype(cell: Any) -> Any:
    import jax.numpy as jnp

    return lookup("dtype", cell.dtype, {"float32": None, "bfloat16": jnp.bfloat16})
