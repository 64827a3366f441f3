"""Every option of every config, defined once, with what it means.

A 0 stands for off and "" for the part's own choice. There are no Nones and no lists, because the
command line could not override them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from ml_collections import ConfigDict

from lstm_jax.errors import lookup
from lstm_jax.tasks import TASKS

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
    "cell.variational_input",
    "cell.variational_hidden",
    "cell.weight_drop",
    "cell.gradient_weight",
    "model.dropout",
    "model.input_dropout",
    "model.input_noise",
    "model.head_dropout",
)


# Say where and how a run is computed, not what: its numbers are the same but for rounding.
PLACEMENT = (
    "task.pipeline",
    "train.accumulate",
    "train.compile",
    "parallel.mode",
    "parallel.data",
    "parallel.trials",
    "parallel.remat",
    "parallel.distributed",
    "parallel.timeout",
)


# May change while a run goes on: what is watched, kept and done, not what is computed from what.
MIDWAY = (
    "optimizer.learning_rate",
    "train.num_steps",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.histogram_every",
    "train.diagnose_every",
    "train.patience",
    "train.keep_last",
    "train.keep_best",
    "train.keep_every",
    "train.on_nan",
    "train.nan_limit",
    "train.rollback_factor",
    "train.grace_seconds",
    "train.strict",
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


def help_lines(task: str = "forecast") -> dict[str, str]:
    """{"cell.hidden": "H, units of a layer"}: the comment on the line that defines each option."""
    sections = {
        "": (default_config,),
        "task.": (task_fields, lookup("task", task, TASKS).fields),
        "cell.": (cell_fields,),
        "model.": (model_fields,),
        "optimizer.": (optimizer_fields,),
        "train.": (train_fields,),
        "parallel.": (parallel_fields,),
    }
    return {
        section + name: text
        for section, functions in sections.items()
        for function in functions
        for name, text in _COMMENTED.findall(_source(function))
    }


def _source(function: Callable) -> str:
    """Its lines, "" for a task that was not written in a file."""
    try:
        return inspect.getsource(function)
    except OSError:
        return ""


_COMMENTED = re.compile(r"^ +\w+\.(\w+) = .*?  # (.+)$", re.MULTILINE)


def task_fields(task: str) -> ConfigDict:
    """The task's own fields beside the two that every task has."""
    fields = ConfigDict()
    fields.name = task  # an entry of tasks.TASKS
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
    cell.projection = 0  # P: h is a linear image of size P; 0: none
    cell.variational_input = 0.0  # dropout rate on x, one mask a sequence
    cell.variational_hidden = 0.0  # dropout rate on the h that feeds back, one mask a sequence
    cell.recurrent_dropout = 0.0  # dropout rate on the candidate alone
    cell.weight_drop = 0.0  # dropout rate on the recurrent kernel's entries, one mask a sequence
    cell.zoneout_c = 0.0  # probability that a unit keeps its old c
    cell.zoneout_h = 0.0  # probability that a unit keeps its old h
    cell.gradient_weight = 0.0  # factor on the gradient through the gates; 0: untouched
    cell.gradient_weight_gates = ()  # the gates it weighs, as in i,f; (): all but the candidate
    cell.activity_weighting = False  # weigh that gradient by gate output times gate input
    cell.recurrent_gradient_clip = 0.0  # bound on the gradient through time, entry by entry; 0: off
    cell.learned_carry = False  # the initial c and h are parameters
    cell.dtype = "float32"  # what the matmuls compute in: float32 | bfloat16; state stays float32
    return cell


def model_fields() -> ConfigDict:
    """From features to outputs: encoder -> layers -> readout -> head."""
    model = ConfigDict()
    model.encoder = "none"  # none | embedding (ids only) | conv
    model.embedding = 128  # features of the embedding
    model.tied = False  # the embedding doubles as the output layer
    model.conv_features = (32,)  # channels of each 1-d convolution of the conv encoder
    model.conv_width = 5  # steps that each convolution sees
    model.layers = 1  # L, recurrent layers
    model.bidirectional = False  # each layer runs both ways
    model.merge = "concat"  # how the two ways meet: concat | sum | mean | mul
    model.residual = False  # add a layer's input to its output where the sizes agree
    model.skip = False  # the input reaches every layer, and every layer the readout
    model.dropout = 0.0  # rate between recurrent layers
    model.input_dropout = 0.0  # rate on the encoded inputs
    model.input_noise = 0.0  # deviation of Gaussian noise on the encoded inputs, training only
    model.head_hidden = 0  # units of a dense layer before the last one; 0: none
    model.head_activation = "identity"  # of the dense layer of head_hidden
    model.head_dropout = 0.0  # rate before the last dense layer
    model.engine = "auto"  # how the recurrence is run and differentiated; an entry of engines
    return model


def optimizer_fields() -> ConfigDict:
    """The gradient's way to the parameters."""
    optimizer = ConfigDict()
    optimizer.name = "adam"  # adam | adamw | rmsprop | sgd
    optimizer.learning_rate = 1e-3  # where the schedule starts, after the warm-up
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
    optimizer.epsilon = 1e-8  # added to the root of the average of squares
    return optimizer


def train_fields() -> ConfigDict:
    """The loop."""
    train = ConfigDict()
    train.num_steps = 1000  # updates of the parameters
    train.batch_size = 32  # the global one, whatever the number of devices
    train.accumulate = 1  # turns that each device takes its share of a batch in, to save memory
    train.log_every = 50  # steps between two log lines; whatever else is due ends one early
    train.eval_every = 100  # steps between two evaluations on the validation split
    train.checkpoint_every = 500  # steps between two checkpoints
    train.histogram_every = 0  # parameter and gradient histograms; 0: some ten, none in a pack
    train.diagnose_every = 0  # how gradients, gates and memory behave (diagnostics); 0: never
    train.best_metric = "loss"  # on the validation split; chooses the parameters that are kept
    train.patience = 0  # evaluations without a better one before stopping early; 0: never stop
    train.keep_last = 3  # newest checkpoints kept
    train.keep_best = 1  # best checkpoints kept
    train.keep_every = 0  # a checkpoint every so many steps is kept for ever; 0: none
    train.on_nan = "stop"  # a step that is not finite: stop | skip | rollback (nonfinite.py)
    train.nan_limit = 3  # skipped steps in a row, or rollbacks, until the run has diverged
    train.rollback_factor = 0.5  # of the learning rate at each rollback
    train.grace_seconds = 0.0  # from a signal to the end of the process; 0: as long as it takes
    train.compile = "full"  # full | quick: on a CPU compiled in a third of the time, slower steps
    train.strict = False  # hidden transfers, leaked tracers, a second compilation are errors
    return train


def parallel_fields() -> ConfigDict:
    """Devices."""
    parallel = ConfigDict()
    parallel.mode = "jit"  # jit (the compiler places the sums) | shard_map | pmap (an alias of it)
    parallel.data = 0  # devices that share a batch, of all processes; 0: as many as gain; -1: all
    parallel.trials = -1  # local devices on the trial axis of a pack; -1: all
    parallel.remat = 0  # time in chunks of so many steps, run again backwards; -1: sqrt(T); 0: off
    parallel.distributed = "auto"  # several processes: auto | off | HOST:PORT of process 0
    parallel.timeout = 300  # seconds to wait for the other processes at the start
    return parallel
