"""`:smoke` of every config is over in seconds: it compiles quickly, and little."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chorales import write_mat

from lstm_jax.training.check import load_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_smoke_compiles_quickly_and_trains_little(path):
    config = load_config(f"{path}:smoke")
    assert config.train.compile == "quick"
    assert config.train.num_steps <= 20 and config.cell.hidden <= 16
    assert re.search(r"Presets?:.*`smoke`", path.read_text(), re.S)


# What the XLA_FLAGS of the tests hide: here as a user has it.
COMPARE = """
import time
import jax
from functools import partial
from lstm_jax.training import train
from lstm_jax.config.fields import resolve
from lstm_jax.training.check import load_config
from lstm_jax.training.program import build_program

def state(how):
    config = load_config("configs/adding.py:smoke", {"train.compile": how, "parallel.data": "1"})
    program, hyper = build_program(config), resolve(config).hyper
    lowered = program.jit(partial(train.init_state, program)).lower(hyper)
    began = time.process_time()
    compiled = lowered.compile()
    return compiled(hyper), time.process_time() - began

(full, slow), (quick, fast) = state("full"), state("quick")
print(slow, fast)
same = jax.tree.map(lambda a, b: bool(jax.numpy.allclose(a, b, rtol=1e-4, atol=1e-6)), full, quick)
assert jax.tree.all(same)
assert fast < 0.6 * slow, (fast, slow)
"""


def user(*argv, **environment):
    """A process of a user's: one CPU device, no XLA_FLAGS, nothing compiled before."""
    fresh = {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env={**os.environ, **fresh, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_quick_compiles_in_less_time_to_the_same_numbers():
    done = user("-c", COMPARE)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["airline", "counting", "jsb"])
def test_a_smoke_run_compiles_few_programs(name, tmp_path):
    """Figures, too: drawn with JAX's NumPy they compiled up to 126 programs, an operation each."""
    program = str(Path(sys.executable).parent / "lstm-jax")
    more = [f"--config.task.file={write_mat(tmp_path / 'a.mat')}"] if name == "jsb" else []
    flags = (*more, f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path / 'run'}")
    done = user(program, "train", *flags, JAX_LOG_COMPILES="1")
    assert done.returncode == 0, done.stderr
    programs = re.findall(r"Finished XLA compilation of (\S+)", done.stderr)
    assert 5 <= len(programs) <= 15, programs
