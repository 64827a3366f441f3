"""A graph as C over vectors of units."""

from __future__ import annotations

from collections.abc import Sequence

from lstm_jax.engines.native.lanes import BOOLS, Graph, Key

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


def function(
    name: str,
    graph: Graph,
    streams: Sequence[Key],
    stores: Sequence[tuple[int, int]],
    sums: Sequence[tuple[int, int]] = (),
    alike: Sequence[Key] = (),
) -> str:
    """`void name(long rows, const Stream* s)`: for every row, nodes from streams into streams.

    `streams` are the keys of the inputs, by place; `stores` (place, node) are written, `sums` are
    added up over the rows. Inputs `alike` hold one number for all units.
    """
    place = {key: n for n, key in enumerate(streams)}
    outputs = [node for _, node in (*stores, *sums)]
    fixed: set[int] = set()
    before, within = [], []
    for n in graph.needed(outputs):
        operation, *rest = graph.nodes[n]
        still = operation == "constant" or set(graph.operands(n)) <= fixed
        if operation == "input":
            still = rest[0][0] == "param"
            at = f"s[{place[rest[0]]}]"
            where = f"{at}.at" + ("" if still else f" + r * {at}.step")
            text = f"all(*({where}))" if rest[0] in alike else f"load({where})"
        elif operation == "constant":
            text = f"all({literal(rest[0])})"
        else:
            text = C[operation].format(*(f"n{k}" for k in rest))
        if still:
            fixed.add(n)
        kind = "M" if operation in BOOLS else "V"
        (before if still else within).append(f"{kind} n{n} = {text};")
    within += [f"store(s[{k}].at + r * s[{k}].step, n{n});" for k, n in stores]
    within += [f"sum{k} = sum{k} + n{n};" for k, n in sums]
    before += [f"V sum{k} = load(s[{k}].at);" for k, _ in sums]
    after = [f"store(s[{k}].at, sum{k});" for k, _ in sums]
    body = [f"  {line}" for line in before]
    body += ["  for (long r = 0; r < rows; r++) {", *(f"    {line}" for line in within), "  }"]
    body += [f"  {line}" for line in after]
    return "\n".join([f"void {name}(long rows, const Stream* s) {{", *body, "}", ""])


def literal(value: float) -> str:
    """A number as C writes it, to the last bit."""
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value.hex()}f"
