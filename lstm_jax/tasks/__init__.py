"""Tasks by name. Each module has `fields() -> ConfigDict` and `build(config) -> Task`."""

from __future__ import annotations

from lstm_jax.tasks import adding, copy_memory, forecast, parity, random_data, temporal_order

TASKS = {
    "adding": adding,
    "copy_memory": copy_memory,
    "forecast": forecast,
    "parity": parity,
    "random_data": random_data,
    "temporal_order": temporal_order,
}
