"""A graph as C over vectors of units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from lstm_jax.engines.native.lanes import BOOLS, OVER_UNITS, Graph, Key

C: dict[str, str] = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "max": "vmax({}, {})",
    "min": "vmin({}, {})",
    "exp": "vexp({})",
    "log": "vlog({})",
    "log1p": "vlog1p({})",
    "expm1": "vexpm1({})",
    "tanh": "vtanh({})",
    "logistic": "vsigmoid({})",
    "abs": "vabs({})",
    "sign": "vsign({})",
    "sqrt": "vsqrt({})",
    "sin": "vsin({})",
    "cos": "vcos({})",
    "erf": "verf({})",
    "pow": "vpow({}, {})",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
    "and": "{} & {}",
    "or": "{} | {}",
    "xor": "{} ^ {}",
    "not": "~{}",
    "true": "{} != 0.0f",
    "number": "pick({}, all(1), all(0))",
    "select": "pick({}, {}, {})",
}
CHEAP = {"add", "sub", "mul", "neg"}
AGAIN = 3  # so many cheap operations are sooner done again than brought from memory


class Place(NamedTuple):
    """Where a vector lies: in which stream, and how many vectors behind its first."""

    stream: int
    behind: int = 0

    def at(self, pointer: str) -> str:
        where = pointer.format(self.stream)
        return f"{where} + {self.behind} * LANES" if self.behind else where


class Function(NamedTuple):
    """C of `void name(long rows, long groups, long last, float* spill, const Stream* s)`.

    `spilled`: vectors of a row and a group that it keeps in `spill` from one pass to the next.
    """

    text: str
    spilled: int


def function(
    name: str,
    graph: Graph,
    inputs: dict[Key, Place],
    stores: Sequence[tuple[Place, int]],
    sums: Sequence[tuple[Place, int]] = (),
    alike: Sequence[Key] = (),
    late: int = 0,
) -> Function:
    """For every row, nodes from streams into streams.

    `stores` (place, node) are written, the first `late` of them where inputs may lie, `sums` are
    added up over the rows. Inputs `alike` hold one number for all units. Where the graph sums over
    units, a row is gone over once for what comes before a sum and once for what comes after, all
    its groups each time.
    """
    passes = _Passes(graph, inputs, frozenset(alike))
    outputs = [node for _, node in (*stores, *sums)]
    passes.read(outputs)
    if passes.count == 1:
        body, spilled = passes.one(stores, sums), 0
    else:
        body, spilled = passes.several(stores, sums, late), len(passes.spilled)
    head = f"void {name}(long rows, long groups, long last, float* spill, const Stream* s) {{"
    return Function("\n".join([head, *(f"  {line}" for line in body), "}", ""]), spilled)


class _Passes:
    """A graph by passes over the groups of a row; sums over units are known after a pass."""

    def __init__(self, graph: Graph, inputs: dict[Key, Place], alike: frozenset[Key]) -> None:
        self.graph, self.inputs, self.alike = graph, inputs, alike

    def read(self, outputs: Sequence[int]) -> None:
        """The pass of every node, and whether it is the same for all units."""
        self.nodes = self.graph.needed(outputs)
        self.level: dict[int, int] = {}
        self.whole: set[int] = set()
        for n in self.nodes:
            operation, *rest = self.graph.nodes[n]
            of = self.graph.operands(n)
            summed = operation == OVER_UNITS
            self.level[n] = max((self.level[k] for k in of), default=0) + summed
            known = rest[0] in self.alike if operation == "input" else set(of) <= self.whole
            if summed or known:
                self.whole.add(n)
        self.count = 1 + max(self.level.values(), default=0)

    # One pass -------------------------------------------------------------------------------------

    def one(self, stores: Sequence, sums: Sequence) -> list[str]:
        """A loop over rows of one group; what no row changes is done before it."""
        fixed: set[int] = set()
        before, within = [], []
        for n in self.nodes:
            operation, *rest = self.graph.nodes[n]
            still = set(self.graph.operands(n)) <= fixed
            if operation == "input":
                still = rest[0][0] == "param"
            if still:
                fixed.add(n)
            (before if still else within).append(self.line(n, "s[{}].at" if still else "p{}"))
        within += [f"store({place.at('p{}')}, n{n});" for place, n in stores]
        within += [f"sum{n} = sum{n} + n{n};" for _, n in sums]
        moving = self.streams(n for n in self.nodes if n not in fixed)
        moving = sorted(moving | {place.stream for place, _ in stores})
        before += [f"V sum{n} = load({place.at('s[{}].at')});" for place, n in sums]
        before += [f"float* p{k} = s[{k}].at; const long d{k} = s[{k}].step;" for k in moving]
        within += [f"p{k} += d{k};" for k in moving]
        after = [f"store({place.at('s[{}].at')}, sum{n});" for place, n in sums]
        return [*before, "for (long r = 0; r < rows; r++) {", *_inner(within), "}", *after]

    def streams(self, nodes: Iterable[int]) -> set[int]:
        """The streams of the inputs among these nodes."""
        found = (self.graph.nodes[n] for n in nodes)
        return {self.inputs[rest[0]].stream for operation, *rest in found if operation == "input"}

    def line(self, n: int, at: str) -> str:
        """The definition of a node; `at`: how an input's stream is read, by its place."""
        operation, *rest = self.graph.nodes[n]
        if operation == "input":
            where = self.inputs[rest[0]].at(at)
            text = f"all(*({where}))" if rest[0] in self.alike else f"load({where})"
        elif operation == "constant":
            text = f"all({literal(rest[0])})"
        else:
            text = C[operation].format(*(f"n{k}" for k in rest))
        return f"{'M' if operation in BOOLS else 'V'} n{n} = {text};"

    # Several --------------------------------------------------------------------------------------

    def several(self, stores: Sequence, sums: Sequence, late: int) -> list[str]:
        last = self.count - 1
        self.aims: list[list[int]] = [[] for _ in range(self.count)]
        writes: list[list[tuple[int, str]]] = [[] for _ in range(self.count)]
        for order, (place, n) in enumerate(stores):
            at = last if order < late else self.level[n]
            self.aims[at].append(n)
            writes[at].append((place.stream, f"store({place.at('p{}')}, n{n});"))
        for place, n in sums:
            self.aims[self.level[n]].append(n)
            where = place.at("p{}")
            writes[self.level[n]].append((place.stream, f"store({where}, load({where}) + n{n});"))
        for n in self.summed:
            (of,) = self.graph.operands(n)
            self.aims[self.level[n] - 1].append(of)
            writes[self.level[n] - 1].append((-1, f"t{n} = t{n} + (V)((M)n{of} & there);"))
        lines = [line for k in range(self.count) for line in self.a_pass(k, writes[k])]
        return ["for (long r = 0; r < rows; r++) {", *_inner(lines), "}"]

    @cached_property
    def summed(self) -> list[int]:
        return [n for n in self.nodes if self.graph.nodes[n][0] == OVER_UNITS]

    def a_pass(self, k: int, writes: list[tuple[int, str]]) -> Iterator[str]:
        """One pass over the groups, and the sums that it brings."""
        totals = [n for n in self.summed if self.level[n] == k + 1]
        for n in self.nodes:
            if n in self.whole and self.level[n] == k and n not in self.summed:
                yield self.line(n, "s[{0}].at + r * s[{0}].step")
        yield from (f"V t{n} = all(0);" for n in totals)
        own = [n for n in self.spilled if self.level[n] == k]
        nodes = sorted(self.reached([*self.aims[k], *own], k))
        old = [n for n in nodes if n in self.spilled and self.level[n] < k]
        streams = self.streams(nodes) | {k for k, _ in writes}
        moved = [(f"p{s}", f"s[{s}].at + r * s[{s}].step", f"s[{s}].across")
                 for s in sorted(streams - {-1})]  # fmt: skip
        moved += [(f"q{n}", f"spill + {self.spilled[n]} * groups * LANES", "LANES")
                  for n in [*own, *old]]  # fmt: skip
        yield "{"
        yield from (f"  float* {p} = {at}; const long d{p} = {step};" for p, at, step in moved)
        yield "  for (long g = 0; g < groups; g++) {"
        yield from ["    const M there = units(g + 1 < groups ? LANES : last);"] * bool(totals)
        yield from (f"    {self.fetched(n) if n in old else self.line(n, 'p{}')}" for n in nodes)
        yield from (f"    store(q{n}, (V)n{n});" for n in own)
        yield from (f"    {line}" for _, line in writes)
        yield from (f"    {p} += d{p};" for p, _, _ in moved)
        yield "  }"
        yield "}"
        yield from (f"V n{n} = all(total(t{n}));" for n in totals)

    def fetched(self, n: int) -> str:
        kind = "M" if self.graph.is_bool(n) else "V"
        return f"{kind} n{n} = ({kind})load(q{n});"

    @cached_property
    def spilled(self) -> dict[int, int]:
        """The slots of the nodes that a later pass takes from memory."""
        found: set[int] = set()
        for k in reversed(range(self.count)):
            reached = self.reached([*self.aims[k], *(n for n in found if self.level[n] == k)], k)
            found |= {n for n in reached if self.level[n] < k and not self.light(n)}
        return {n: slot for slot, n in enumerate(sorted(found))}

    def reached(self, aims: Sequence[int], k: int) -> set[int]:
        """The nodes by unit that pass k computes, loads or fetches on its way to its aims."""
        todo, seen = list(aims), set()
        while todo:
            n = todo.pop()
            if n in seen or n in self.whole:
                continue
            seen.add(n)
            if self.level[n] == k or self.light(n):
                todo += self.graph.operands(n)
        return seen

    def light(self, n: int) -> bool:
        """Whether a node is sooner computed again in a later pass."""
        return self.weight[n] <= AGAIN

    @cached_property
    def weight(self) -> dict[int, int]:
        """Cheap operations behind each node, as far as they are so few that they matter."""
        found: dict[int, int] = {}
        for n in self.nodes:
            operation = self.graph.nodes[n][0]
            behind = sum(found[k] for k in self.graph.operands(n))
            cost = 1 + behind if operation in CHEAP else AGAIN + 1
            free = operation in ("input", "constant") or n in self.whole
            found[n] = 0 if free else min(cost, AGAIN + 1)
        return found


def _inner(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def literal(value: float) -> str:
    """A number as C writes it, to the last bit."""
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value.hex()}f"
