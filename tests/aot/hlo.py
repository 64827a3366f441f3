"""What a compiled program does, read from its text: exchanges between devices, loops, aliases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "collective-broadcast",
)
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
OPERATION = re.compile(r"= .*?\s([a-z][a-z0-9\-]*)\(")
CALLED = re.compile(
    r"(?:calls|to_apply|branch_computations|true_computation|false_computation|"
    r"called_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)"
)


class Exchange(NamedTuple):
    """A collective: in how many loops it lies, and how many numbers it exchanges."""

    name: str
    depth: int
    size: int


def exchanges(text: str) -> list[Exchange]:
    """Every collective of the program, one of a computation that is called twice twice."""
    entry, computations = parsed(text)
    return list(_exchanges(computations, entry, 0))


def _exchanges(computations: dict[str, list[str]], name: str, depth: int) -> Iterator[Exchange]:
    for line in computations.get(name, ()):
        found = OPERATION.search(line)
        operation = found.group(1) if found else ""
        if operation.removesuffix("-start") in COLLECTIVES:
            yield Exchange(operation.removesuffix("-start"), depth, _numbers(line))
        if operation == "while":
            body = re.search(r"body=%?([\w.\-]+)", line)
            assert body, line
            yield from _exchanges(computations, body.group(1), depth + 1)
            continue
        for called in CALLED.findall(line):
            for each in re.split(r"[ ,%]+", called):
                yield from _exchanges(computations, each, depth)


def _numbers(line: str) -> int:
    """How many numbers the results of an operation hold."""
    total = 0
    for shape in re.findall(r"[a-z]+\d+\[([\d,]*)\]", line.split("(%")[0].split(" = ")[1]):
        size = 1
        for axis in filter(None, shape.split(",")):
            size *= int(axis)
        total += size
    return total


def parsed(text: str) -> tuple[str, dict[str, list[str]]]:
    """(the entry's name, {computation: its lines})."""
    entry, computations, lines = "", {}, []
    for line in text.splitlines():
        head = HEAD.match(line)
        if head and not line.startswith(" "):
            lines = computations[head.group(2)] = []
            entry = head.group(2) if head.group(1) else entry
        else:
            lines.append(line)
    return entry, computations


def aliased(text: str) -> set[int]:
    """The arguments whose memory a result takes over."""
    head = text.split("\n", 1)[0]
    found = re.search(r"input_output_alias=\{(.*?)\}, entry", head)
    return {int(n) for n in re.findall(r": \((\d+), ", found.group(1))} if found else set()


NO_KERNEL = ("parameter", "get-tuple-element", "bitcast", "tuple", "constant", "after-all")


def kernels(text: str) -> list[int]:
    """How many kernels a GPU launches a turn of every innermost loop, in the program's order."""
    _, computations = parsed(text)
    bodies = re.findall(r" while\(.*?body=%?([\w.\-]+)", text)
    inside = [[OPERATION.search(line) for line in computations[body]] for body in bodies]
    names = [[found.group(1) for found in lines if found] for lines in inside]
    return [sum(n not in NO_KERNEL for n in found) for found in names if "while" not in found]
