"""A run of a second with everything in it: 100 steps, ten saves, ten evaluations, figures."""

from lstm_jax.config import default_config


def get_config(arg: str = ""):
    config = default_config("adding")
    config.task.update({"length": 6, "eval_size": 10})
    config.cell.update({"hidden": 4, "kernel_init": "uniform", "recurrent_init": "uniform"})
    config.model.head_dropout = 0.1
    config.train.update({"num_steps": 100, "batch_size": 4, "log_every": 5})
    config.train.update({"eval_every": 10, "checkpoint_every": 10})
    if arg == "long":
        config.train.num_steps = 10**9
    return config
