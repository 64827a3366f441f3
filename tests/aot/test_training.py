"""Chunks of training steps, compiled for four devices: what they exchange, and what they keep."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from aot import hlo, programs, topology

from lstm_jax.model import model

pytestmark = pytest.mark.aot

PLATFORMS = topology.installed()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return programs.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", programs.CASES, ids=str)
def test_a_chunk_of_steps(case, platform, files):
    """The gradients are summed once a step, and nothing is exchanged inside the loop over time."""
    made = programs.make(case, platform, files)
    sums = [found for found in made.reductions if found.size >= made.parameters]
    if case.mode == "pack":
        assert not hlo.exchanges(made.text), "a device of a pack waits for another"
    else:
        assert [found.name for found in made.reductions] == ["all-reduce"] and len(sums) == 1
        assert not made.inside
    assert set(range(made.state)) <= hlo.aliased(made.text), "memory of the state is not taken over"
    assert made.temporaries <= case.temporaries[platform] * 2**20


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_sum_inside_the_loop_over_time_is_found(platform, monkeypatch):
    """The control of the test above: a cell that asks the other devices at every step of time."""
    build_cell = model.build_cell

    def talkative(options: Any) -> Any:
        cell = build_cell(options)

        def recur(params, carry):
            return jax.lax.pmean(cell.recur(params, carry), "data")

        return cell._replace(recur=recur)

    monkeypatch.setattr(model, "build_cell", talkative)
    made = programs.make(programs.Case("adding.py", programs.EVEN, "pmap"), platform, {})
    assert {found.depth for found in made.inside} == {2}
    assert {found.name for found in made.inside} == {"all-reduce"}


def test_a_compiler_is_there():
    assert PLATFORMS, "neither libtpu nor XLA for CUDA is installed: make test-aot"
