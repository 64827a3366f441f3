"""The catalogue: complete, priced, and the one the docs show."""

import pytest

from lstm_jax.cells import CELLS
from lstm_jax.cells.gates import GATES
from lstm_jax.cells.transforms import TRANSFORMS
from lstm_jax.cli import main
from lstm_jax.errors import UsageError
from lstm_jax.model import catalogue
from lstm_jax.ops import count


def test_everything_is_listed():
    listed = {(entry.kind, entry.name) for entry in catalogue.entries()}
    assert {name for kind, name in listed if kind == "cell"} == set(CELLS)
    assert {name for kind, name in listed if kind == "gates"} == set(GATES)
    assert {name for kind, name in listed if kind == "transform"} == set(TRANSFORMS)


def test_every_entry_has_equations_and_a_source():
    for entry in catalogue.entries():
        assert entry.equations and entry.source, entry.name


def test_standard_lstm_is_counted_by_hand():
    cell = next(entry.cell() for entry in catalogue.entries() if entry.name == "lstm")
    h = d = catalogue.HIDDEN
    assert count(catalogue.parameters(cell)) == 4 * h * (d + h + 1)
    matmuls = 2 * 4 * h * (d + h)
    assert matmuls < catalogue.step_flops(cell) < 1.05 * matmuls


@pytest.mark.slow
def test_the_docs_show_products_alone():
    """Their FLOPs are the equations'; how many others there are is up to JAX's version."""
    h = d = catalogue.HIDDEN
    row = next(line for line in catalogue.markdown().splitlines() if line.startswith("| cifg "))
    assert f"| {2 * 3 * h * (d + h):,} |" in row


@pytest.mark.slow
def test_switches_are_overrides_that_work():
    from lstm_jax.config import default_config
    from lstm_jax.config.overrides import apply_overrides
    from lstm_jax.model.cell import build_cell

    for entry in catalogue.entries():
        given = dict(part.split("=") for part in entry.switch.split())
        config = apply_overrides(default_config(), {"cell.hidden": "128", **given})
        made, shown = build_cell(config.cell), entry.cell()
        assert count(catalogue.parameters(made)) == count(catalogue.parameters(shown)), entry.name
        assert made.info.transforms == shown.info.transforms, entry.name


@pytest.mark.slow
def test_the_page_has_every_entry_in_a_row_of_its_own():
    """`make docs` makes the page from this: there is no file that could be out of date."""
    rows = [line for line in catalogue.markdown().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0][2:] for row in rows[1:]] == [e.name for e in catalogue.entries()]
    assert {row.count(" | ") for row in rows} == {6}


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'slstm'"):
        catalogue.find("sltsm")


@pytest.mark.slow
def test_verb(capsys):
    assert main(["cells"]) == 0
    table = capsys.readouterr().out
    assert "cifg" in table and "zoneout" in table
    assert main(["cells", "cifg"]) == 0
    assert "f = 1 - i" in capsys.readouterr().out
