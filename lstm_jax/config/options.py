"""Every option of every config, each defined in one row: name, default, meaning, range, use.

The tasks' own rows stand in their files, as `OPTIONS`. Whatever asks about an option reads its row:
defaults, validation, `lstm-jax config`, docs/options.md, what a pack may vary, what may change
midway.
"""

from __future__ import annotations

from typing import Literal

from ml_collections import ConfigDict

from lstm_jax.option import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    SHARE,
    SIZE,
    Option,
    Range,
)
from lstm_jax.tasks import task_of

Mark = Literal["numeric", "placement", "midway", "period"]

# fmt: off
OPTIONS = {
    "": (
        Option("seed", 0, "of parameters, data order and dropout alike",
               Range("from 0 to 4294967295", lambda v: 0 <= v < 2**32), numeric=True),
    ),
    # The task; its own options stand in its file.
    "task": (
        Option("name", "forecast", "an entry of tasks.TASKS, or FILE.py:BUILD of your own"),
        Option("data_dir", "",
               'where data files lie; "": LSTM_JAX_DATA, then the cache, then download'),
    ),
    # The recurrent cell; "" always means the cell's own choice.
    "cell": (
        Option("name", "lstm", "an entry of cells.CELLS, or FILE.py:NAME; see `lstm-jax cells`"),
        Option("hidden", 64, "H, units of a layer", SIZE),
        Option("gates", "lstm", "a row of gates.GATES: lstm, cifg, ...; or FILE.py:NAME"),
        Option("gate_activation", "", "of i, f and o at once; a name or FILE.py:NAME, as below"),
        Option("input_gate_activation", "", "of i alone; wins over gate_activation",
               option_of="gate_activation", gate="i"),
        Option("forget_gate_activation", "", "of f alone", option_of="gate_activation", gate="f"),
        Option("output_gate_activation", "", "of o alone", option_of="gate_activation", gate="o"),
        Option("candidate_activation", "", "of g"),
        Option("output_activation", "", "of c on its way to h"),
        Option("activation", "", "of a cell without gates (rnn, indrnn)"),
        Option("reset", "", "of a gru: after | before the recurrent matmul"),
        Option("peepholes", "none", "none | diagonal | diagonal_remaining | full"),
        Option("layer_norm", "none", "none | branch | recirculated"),
        Option("cell_clip", 0.0, "c stays within +- this; 0: off", NOT_NEGATIVE),
        Option("forget_bias", 1.0, "where the forget gate's bias starts", numeric=True),
        Option("forget_init", "constant", "constant (forget_bias) | chrono | linspace | power_law",
               option_of="forget_bias"),
        Option("t_max", 0.0, "chrono: the longest dependency, in steps", NOT_NEGATIVE,
               option_of="forget_bias"),
        Option("kernel_init", "",
               "input kernels: an entry of initializers.KERNELS, or FILE.py:NAME"),
        Option("recurrent_init", "per_gate",
               "recurrent kernels: per_gate | fused | identity | ..."),
        Option("projection", 0, "P: h is a linear image of size P; 0: none", NOT_NEGATIVE,
               transform="projection.size"),
        Option("variational_input", 0.0, "dropout rate on x, one mask a sequence", RATE,
               numeric=True, transform="variational_dropout.input_rate"),
        Option("variational_hidden", 0.0,
               "dropout rate on the h that feeds back, one mask a sequence", RATE, numeric=True,
               transform="variational_dropout.hidden_rate"),
        Option("recurrent_dropout", 0.0, "dropout rate on the candidate alone", RATE, numeric=True,
               transform="recurrent_dropout.rate"),
        Option("weight_drop", 0.0,
               "dropout rate on the recurrent kernel's entries, one mask a sequence", RATE,
               numeric=True, transform="weight_drop.rate"),
        Option("zoneout_c", 0.0, "probability that a unit keeps its old c", SHARE, numeric=True,
               transform="zoneout.rate_c"),
        Option("zoneout_h", 0.0, "probability that a unit keeps its old h", SHARE, numeric=True,
               transform="zoneout.rate_h"),
        Option("gradient_weight", 0.0, "factor on the gradient through the gates; 0: untouched",
               NOT_NEGATIVE, numeric=True, transform="gradient_weighting.weights"),
        Option("gradient_weight_gates", (),
               "the gates it weighs, as in i,f; (): all but the candidate"),
        Option("activity_weighting", False, "weigh that gradient by gate output times gate input",
               transform="activity_weighting"),
        Option("recurrent_gradient_clip", 0.0,
               "bound on the gradient through time, entry by entry; 0: off", NOT_NEGATIVE,
               transform="recurrent_gradient_clipping.limit"),
        Option("learned_carry", False, "the initial c and h are parameters",
               transform="learned_carry"),
        Option("transforms", (), "Cell -> Cell of your own, each FILE.py:NAME, around all others"),
        Option("dtype", "float32",
               "what the matmuls compute in: float32 | bfloat16; state stays float32"),
    ),
    # From features to outputs: encoder -> layers -> readout -> head.
    "model": (
        Option("encoder", "none", "none | embedding (ids only) | conv | FILE.py:NAME"),
        Option("embedding", 128, "features of the embedding", SIZE),
        Option("tied", False, "the embedding doubles as the output layer"),
        Option("conv_features", (32,), "channels of each 1-d convolution of the conv encoder",
               Range("channel counts, each a positive whole number",
                     lambda v: min(v, default=0) >= 1)),
        Option("conv_width", 5, "steps that each convolution sees", SIZE),
        Option("layers", 1, "L, recurrent layers",
               Range("from 1 to 128; each is compiled by itself", lambda v: 1 <= v <= 128)),
        Option("bidirectional", False, "each layer runs both ways"),
        Option("merge", "concat", "how the two ways meet: concat | sum | mean | mul"),
        Option("residual", False, "add a layer's input to its output where the sizes agree"),
        Option("skip", False, "the input reaches every layer, and every layer the readout"),
        Option("dropout", 0.0, "rate between recurrent layers", RATE, numeric=True),
        Option("input_dropout", 0.0, "rate on the encoded inputs", RATE, numeric=True),
        Option("input_noise", 0.0,
               "deviation of Gaussian noise on the encoded inputs, training only", NOT_NEGATIVE,
               numeric=True),
        Option("head_hidden", 0, "units of a dense layer before the last one; 0: none",
               NOT_NEGATIVE),
        Option("head_activation", "identity", "of the dense layer of head_hidden"),
        Option("head_dropout", 0.0, "rate before the last dense layer", RATE, numeric=True),
        Option("engine", "auto",
               "how the recurrence is run and differentiated; an entry of engines, "
               "chunked:SIZE or deferred:bfloat16"),
    ),
    # The gradient's way to the parameters.
    "optimizer": (
        Option("name", "adam", "adam | adamw | rmsprop | sgd | FILE.py:NAME"),
        Option("learning_rate", 1e-3, "where the schedule starts, after the warm-up", POSITIVE,
               numeric=True, midway=True),
        Option("schedule", "constant",
               "constant | piecewise | cosine | exponential | FILE.py:NAME"),
        Option("decay_every", 1000,
               "steps between two drops (piecewise), or per factor (exponential)", SIZE),
        Option("decay_factor", 0.1, "of a drop; cosine: the fraction left at the end", FRACTION,
               numeric=True),
        Option("decay_start", 0, "step at which the schedule begins", NOT_NEGATIVE),
        Option("warmup_steps", 0, "linear from 0; 0: none", NOT_NEGATIVE),
        Option("clip_norm", 0.0, "largest global norm of the gradient; 0: off", NOT_NEGATIVE,
               numeric=True),
        Option("weight_decay", 0.0, "on matrices; decoupled under adamw", NOT_NEGATIVE,
               numeric=True),
        Option("momentum", 0.0, "of sgd and rmsprop", RATE, numeric=True),
        Option("nesterov", False, "look ahead along the momentum"),
        Option("beta1", 0.9, "adam's average of gradients", RATE),
        Option("beta2", 0.999, "adam's and rmsprop's average of squares", RATE),
        Option("epsilon", 1e-8, "added to the root of the average of squares", POSITIVE),
    ),
    # The loop.
    "train": (
        Option("num_steps", 1000, "updates of the parameters", SIZE, midway=True),
        Option("batch_size", 32, "the global one, whatever the number of devices", SIZE),
        Option("accumulate", 1,
               "turns that each device takes its share of a batch in, to save memory", SIZE,
               placement=True),
        Option("log_every", 50, "steps between two log lines; whatever else is due ends one early",
               SIZE, midway=True, period=True),
        Option("eval_every", 100, "steps between two evaluations on the validation split", SIZE,
               midway=True, period=True),
        Option("checkpoint_every", 500, "steps between two checkpoints", SIZE, midway=True,
               period=True),
        Option("histogram_every", 0,
               "parameter and gradient histograms; 0: some ten a run, none in a pack", NOT_NEGATIVE,
               midway=True, period=True),
        Option("diagnose_every", 0,
               "how gradients, gates and memory behave (diagnostics); 0: never", NOT_NEGATIVE,
               midway=True, period=True),
        Option("best_metric", "loss",
               "on the validation split; chooses the parameters that are kept"),
        Option("patience", 0,
               "evaluations without a better one before stopping early; 0: never stop",
               NOT_NEGATIVE, midway=True),
        Option("keep_last", 3, "newest checkpoints kept", SIZE, midway=True),
        Option("keep_best", 1, "best checkpoints kept", NOT_NEGATIVE, midway=True),
        Option("keep_every", 0, "a checkpoint every so many steps is kept for ever; 0: none",
               NOT_NEGATIVE, midway=True, period=True),
        Option("on_nan", "stop", "a step that is not finite: stop | skip | rollback (nonfinite.py)",
               midway=True),
        Option("nan_limit", 3, "skipped steps in a row, or rollbacks, until the run has diverged",
               SIZE, midway=True),
        Option("rollback_factor", 0.5, "of the learning rate at each rollback",
               Range("above 0, up to 1", lambda v: 0 < v <= 1), midway=True),
        Option("grace_seconds", 0.0,
               "from a signal to the end of the process; 0: as long as it takes", NOT_NEGATIVE,
               midway=True),
        Option("compile", "full",
               "full | quick: on a CPU compiled in a third of the time, slower steps",
               placement=True),
        Option("strict", False, "hidden transfers, leaked tracers, a second compilation are errors",
               midway=True),
    ),
    # Devices.
    "parallel": (
        Option("mode", "jit",
               "jit (the compiler places the sums) | shard_map | pmap (an alias of it)",
               placement=True),
        Option("data", 0,
               "devices that share a batch, of all processes; 0: as many as gain; -1: all",
               Range("0 to choose, -1 for all devices, or how many", lambda v: v >= -1),
               placement=True),
        Option("trials", -1, "local devices on the trial axis of a pack; -1: all",
               Range("-1 for all devices, or how many", lambda v: v == -1 or v >= 1),
               placement=True),
        Option("remat", 0,
               "time in chunks of so many steps, run again backwards; -1: sqrt(T); 0: off",
               Range("-1 for sqrt(T), 0 for none, or steps a chunk", lambda v: v >= -1),
               placement=True),
        Option("distributed", "auto", "several processes: auto | off | HOST:PORT of process 0",
               placement=True),
        Option("timeout", 300, "seconds to wait for the other processes at the start", SIZE,
               placement=True),
    ),
}
# fmt: on


def sections(task: str = "forecast") -> dict[str, tuple[Option, ...]]:
    """{"cell": its rows} of a config of `task`, whose own rows follow those of every task.

    Raises:
      UsageError: nobody knows the task.
    """
    own = task_of(task).OPTIONS
    name, *rest = OPTIONS["task"]
    return OPTIONS | {"task": (name._replace(default=task), *rest, *own)}


def options(task: str = "forecast") -> dict[str, Option]:
    """{"cell.hidden": its row}: the options of a config of `task`."""
    found = sections(task).items()
    return {f"{name}.{row.name}".lstrip("."): row for name, rows in found for row in rows}


def default_config(task: str = "forecast") -> ConfigDict:
    """Every section at its defaults, with the options of `task` in `config.task`."""
    tree = {name: {row.name: row.default for row in rows} for name, rows in sections(task).items()}
    return ConfigDict(tree.pop("") | tree)


def marked(mark: Mark, task: str = "forecast") -> list[str]:
    """The options of a config of `task` whose row says yes to `mark`."""
    return [name for name, row in options(task).items() if getattr(row, mark)]
