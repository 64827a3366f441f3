"""Studies: trials that differ only in numbers train together in one compiled program.

A study is a folder `experiments/NAME` with a `study.py`; see docs/sweeps.md.
"""

from lstm_jax.sweep.define.draws import (
    choice,
    grid,
    integers,
    log_uniform,
    product,
    random,
    sobol,
    uniform,
    zipped,
)
from lstm_jax.sweep.define.study import config_file

__all__ = [
    "choice",
    "config_file",
    "grid",
    "integers",
    "log_uniform",
    "product",
    "random",
    "sobol",
    "uniform",
    "zipped",
]
