"""The environment of every test, set before JAX starts."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # simulated: meshes without accelerators
os.environ["MPLBACKEND"] = "Agg"
