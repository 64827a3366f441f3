"""the cells, gate-table rows, options and transforms: equations, size, cost, source.

lstm-jax cells                 all of them
lstm-jax cells slstm           everything about one
lstm-jax cells leaky.py:leaky  the same of a cell or a gate table of your own
lstm-jax cells --markdown      the same as a page of Markdown
"""

from __future__ import annotations

import inspect

from lstm_jax.cells import CELLS, transforms
from lstm_jax.commands.arguments import Arguments, Flag
from lstm_jax.errors import OK
from lstm_jax.model import catalogue
from lstm_jax.model.catalogue import HIDDEN, Entry, learned, parameters, step_flops
from lstm_jax.ops import count

FLAGS = (Flag("markdown", False, "print the table as Markdown"),)


def run(arguments: Arguments) -> int:
    """Print the registry, or what is known of the names given."""
    if arguments.flags.markdown:
        print(catalogue.markdown(), end="")
    elif arguments.words:
        for entry in [entry for word in arguments.words for entry in catalogue.find(word)]:
            _tell(entry)
    else:
        _table(catalogue.entries())
        for what, names in catalogue.words().items():
            print(f"{what}: {names}")
        print("one in full: lstm-jax cells NAME")
    return OK


def _table(entries: list) -> None:
    from rich.console import Console  # start-up
    from rich.table import Table

    table = Table(caption=f"parameters and FLOPs of one step at H = D = {HIDDEN}")
    for column in ("name", "equations", "learned", "source"):
        table.add_column(column, overflow="fold")
    for column in ("parameters", "FLOPs/step"):
        table.add_column(column, justify="right", no_wrap=True)
    kind = ""
    for entry in entries:
        if entry.kind != kind:
            kind = entry.kind
            table.add_section()
            table.add_row(f"[bold]{kind}[/bold]")
        cell = entry.cell()
        size, price = count(parameters(cell)), step_flops(cell)
        text = entry.equations.replace("[", "\\[")
        table.add_row(entry.name, text, learned(cell), entry.source, f"{size:,}", f"{price:,}")
    Console().print(table)


def _tell(entry: object) -> None:
    assert isinstance(entry, Entry)
    cell = entry.cell()
    made = {"cell": CELLS, "transform": transforms.TRANSFORMS}.get(entry.kind, {})
    about = inspect.getdoc(made[entry.name]) if entry.name in made else entry.equations
    print(f"{entry.name} ({entry.kind})\n\n{about}\n")
    print("switch       " + " ".join(f"--config.{part}" for part in entry.switch.split()))
    print(f"source       {entry.source}")
    print(f"carry        {', '.join(cell.info.carry)}")
    print(f"learned      {learned(cell)}")
    for name, leaf in parameters(cell).items():
        print(f"  {name:<20} {list(leaf.shape)}")
    print(f"parameters   {count(parameters(cell)):,} at H = D = {HIDDEN}")
    print(f"FLOPs        {step_flops(cell):,} a step and example\n")
