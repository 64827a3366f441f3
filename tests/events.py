"""Event files as TensorBoard reads them."""

from pathlib import Path
from typing import Any


def load(workdir: Path) -> Any:
    from tensorboard.backend.event_processing import event_accumulator

    everything = dict.fromkeys(["scalars", "images", "histograms", "tensors"], 0)
    return event_accumulator.EventAccumulator(str(workdir), size_guidance=everything).Reload()
