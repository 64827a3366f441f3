"""Tasks by name. Each module has its rows `OPTIONS` and `build(config) -> Task`."""

from __future__ import annotations

from lstm_jax.tasks import mnist, vowels
from lstm_jax.tasks.forecast import forecast as forecast_task
from lstm_jax.tasks.language import language as language_task
from lstm_jax.tasks.music import polyphonic
from lstm_jax.tasks.synthetic import (
    adding,
    copy_memory,
    counting,
    parity,
    random_data,
    temporal_order,
)

TASKS = {
    "adding": adding,
    "copy_memory": copy_memory,
    "counting": counting,
    "forecast": forecast_task,
    "language": language_task,
    "mnist": mnist,
    "parity": parity,
    "polyphonic": polyphonic,
    "random_data": random_data,
    "temporal_order": temporal_order,
    "vowels": vowels,
}
