"""Tasks by name. Each module has `fields() -> ConfigDict` and `build(config) -> Task`."""

from __future__ import annotations

from lstm_jax.tasks import (
    adding,
    copy_memory,
    counting,
    forecast,
    language,
    mnist,
    parity,
    polyphonic,
    random_data,
    temporal_order,
    vowels,
)

TASKS = {
    "adding": adding,
    "copy_memory": copy_memory,
    "counting": counting,
    "forecast": forecast,
    "language": language,
    "mnist": mnist,
    "parity": parity,
    "polyphonic": polyphonic,
    "random_data": random_data,
    "temporal_order": temporal_order,
    "vowels": vowels,
}
