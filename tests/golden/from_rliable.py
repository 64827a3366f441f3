"""Writes rliable.json beside this file, in an environment with rliable==1.2.0 and pandas<3."""

import json
from pathlib import Path

import numpy as np
from rliable import library, metrics  # pyright: ignore[reportMissingImports]

random = np.random.default_rng(0)
cases = []
for size in (4, 5, 7, 10, 16):
    x, y = random.gamma(2.0, size=size), random.gamma(2.0, size=5) + 0.2
    scores = {"x": x[:, None]}
    _, interval = library.get_interval_estimates(
        scores,
        lambda s: np.array([metrics.aggregate_mean(s)]),
        method="percentile",
        reps=50_000,
        random_state=np.random.RandomState(0),
    )
    cases.append(
        {
            "x": x.tolist(),
            "y": y.tolist(),
            "iqm": float(metrics.aggregate_iqm(x[:, None])),
            "improvement": float(metrics.probability_of_improvement(x[:, None], y[:, None])),
            "mean_interval": interval["x"][:, 0].tolist(),
        }
    )
found = {"rliable": "1.2.0", "cases": cases}
(Path(__file__).parent / "rliable.json").write_text(json.dumps(found, indent=1) + "\n")
