"""write a file to start from: a cell, a gate table, a task or a study of your own.

  lstm-jax new cell leaky          leaky.py: a cell, its reference in NumPy, a config
  lstm-jax new gate lazy           lazy.py: a gate table, an activation, a config
  lstm-jax new task marked         marked.py: a task with options of its own, a config
  lstm-jax new study rates         rates/study.py: a question, variants, trials

Each runs as it is, says how in its first lines, and passes `lstm-jax check` (a study `sweep plan`).
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from lstm_jax.commands.arguments import Arguments
from lstm_jax.errors import OK, UsageError, lookup

FLAGS = ()
TEMPLATES = Path(__file__).parent / "templates"
KINDS = {
    "cell": "{name}.py",
    "gate": "{name}.py",
    "task": "{name}.py",
    "study": "{name}/study.py",
}


def run(arguments: Arguments) -> int:
    """Write it, and print how to run it."""
    if len(arguments.words) != 2:
        raise UsageError(
            f"expected a kind and a name, as in: lstm-jax new cell leaky; kinds: {', '.join(KINDS)}"
        )
    kind, name = arguments.words
    file = Path(lookup("kind of part", kind, KINDS).format(name=name))
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is no name in Python; expected one such as my_{kind}")
    if file.exists():
        raise UsageError(f"{file} exists already; choose another name, or move it away")
    text = (TEMPLATES / f"{kind}.txt").read_text().replace("NAME", name)
    head, commands, rest = text.split("\n\n", 2)
    commands = aligned(commands)
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n\n".join([head, commands, rest]))
    print(f"{file}\n\n" + commands.removesuffix('\n"""'))
    return OK


def aligned(commands: str) -> str:
    """Lines `command  what it does`, the second column one below the other."""
    pairs = [re.split(r" {2,}", line) for line in commands.splitlines()]
    width = max(len(pair[0]) for pair in pairs)
    return "\n".join("     ".join([first.ljust(width), *rest]).rstrip() for first, *rest in pairs)
