"""The environment of every test and of the processes it starts, set before JAX starts."""

import gc
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # simulated: meshes without accelerators
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # nobody reads those programs

# One folder of compiled programs for all tests of a session, workers and subprocesses included:
# most of what a training test costs is compiling a program that another test compiled before.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    PROGRAMS = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(
        prefix="lstm-jax-programs-"
    )
else:
    PROGRAMS = ""

import jax
import pytest

# Before the package, whose public functions it checks, and after the environment.
import typed  # noqa: F401

from lstm_jax import plugins

gc.set_threshold(50_000)  # a tenth of the time of a suite that traces went into looking for garbage


@pytest.fixture
def strict_types():
    """An error where an operation mixes types: nothing widens, or narrows, unasked."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def no_parts():
    """A process that has read no part of the user's own, before and after."""
    plugins.forget()
    yield
    plugins.forget()


def pytest_unconfigure() -> None:
    if PROGRAMS:
        shutil.rmtree(PROGRAMS, ignore_errors=True)
