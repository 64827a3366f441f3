"""What a cell comes to for generated code: products, and graphs of the step and of its VJP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.activations import ACTIVATIONS
from lstm_jax.cells.gates import gates_of, opening, wides
from lstm_jax.core import Cell, Params, noted
from lstm_jax.engines.masking import Step
from lstm_jax.engines.native.lanes import OVER_UNITS, Graph, Key, Lanes, Unsupported
from lstm_jax.ops import Known, tracing_for

MANY = 20  # arrays of a kind at most; sequence.h has room for more
WIDEST = 6  # pre-activations of one product


class Design(NamedTuple):
    """A cell's step over pre-activations a_j = z_j + r_j, of which some see only x, some only h.

    Inputs of the graphs: ("a", j), ("carry", k), ("param", n), ("note", n); of the way back also
    ("kept", n), ("dcarry", k) and ("dy",).
    """

    hidden: int
    of_z: tuple[int, ...]  # for each pre-activation its block of z, -1 for none
    of_r: tuple[int, ...]  # and of h R
    fed: int  # the carry that R multiplies, -1 for none
    matrix: int  # R among the leaves of the parameters
    forward: Graph
    carry: tuple[int, ...]  # nodes
    y: int
    kept: tuple[int, ...]
    backward: Graph
    da: tuple[int, ...]
    dcarry: tuple[int, ...]
    dparam: tuple[int, ...]
    dnote: tuple[int, ...]
    params: tuple[Key, ...]  # (leaf, place): one number a unit each
    notes: tuple[Key, ...]
    alike: tuple[bool, ...]  # the notes with one number for all units
    kernel: int  # W among the leaves of the parameters, -1 where z is projected before
    bias: int  # and b, -1 for none

    @property
    def only_x(self) -> int:
        return sum(k < 0 for k in self.of_r)

    @property
    def both(self) -> int:
        return sum(z >= 0 and r >= 0 for z, r in zip(self.of_z, self.of_r, strict=True))

    @property
    def mixes(self) -> bool:
        """Whether a unit sees sums over all of them."""
        results = [*self.carry, self.y], [*self.da, *self.dcarry, *self.dparam]
        graphs = zip((self.forward, self.backward), results, strict=True)
        return any(g.nodes[n][0] == OVER_UNITS for g, out in graphs for n in g.needed(out))

    @property
    def same(self) -> bool:
        """Whether the carry that R multiplies is the output."""
        return self.fed >= 0 and self.carry[self.fed] == self.y

    @property
    def straight(self) -> tuple[bool, ...]:
        """The carries whose cotangent reaches the step before other than through R."""
        return tuple(self.backward.value(n) != 0.0 for n in self.dcarry)


def design(cell: Cell, params: Params, carry: Any, steps: Step) -> Design:
    """The design of a cell for parameters, a carry and steps [T, B, ...] of these shapes.

    Raises: Unsupported for what neither a unit by itself nor a sum over units can do, in words.
    """
    return _Reading(cell, params, carry, steps).design()


def _one(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _of_example(leaf: Any) -> jax.ShapeDtypeStruct:
    """One example of [B, ...]."""
    return jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)


class _Reading:
    """One cell being read; its methods fill in the fields in the order of `design`."""

    def __init__(self, cell: Cell, params: Params, carry: Any, steps: Step) -> None:
        self.cell, self.hidden = cell, cell.info.hidden
        if self.hidden < 2:
            raise Unsupported("has fewer than two units")
        self.params = jax.tree.map(_one, params)
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(self.params)]
        self.leaf_names = [jax.tree_util.keystr(p, simple=True, separator="/") for p in paths]
        self.carry = jax.tree.map(_of_example, carry)
        z, notes = jax.eval_shape(lambda p, s: noted(cell.project(p, s)), params, steps)
        step = lambda leaf: _of_example(jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype))  # noqa: E731
        self.z, self.notes = jax.tree.map(step, z), jax.tree.map(step, notes)
        self.steps = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((1, 1, *leaf.shape[2:]), leaf.dtype), steps
        )
        self.opens = opening(cell.info)
        if any(leaf.shape != (1, self.hidden) for leaf in jax.tree.leaves(self.carry)):
            raise Unsupported("carries something else than one number a unit")

    def design(self) -> Design:
        self.enter()
        ahead = Lanes(self.hidden)
        given = self.given(ahead)
        z = self.nodes(ahead, self.z, "z")
        r = self.read(
            ahead, lambda p, c: self.cell.recur(p, c), given[:2], (self.params, self.carry)
        )
        self.product = ahead.product
        self.r = jax.eval_shape(self.cell.recur, self.params, self.carry)
        u = _flat(self.read(ahead, self.merge, (given[0], z, r), (self.params, self.z, self.r)))
        self.simple, of_z, of_r = self.sums(ahead.graph, u)
        self.of_z, self.of_r = of_z, of_r
        lanes, outputs = self.ahead()
        (opened, carry, y) = outputs
        reached = [lanes.graph.nodes[n][0] for n in lanes.graph.needed(opened)]
        self.mixing = OVER_UNITS in reached
        back, cotangents = self.back(len(u))
        return self.joined(lanes.graph, opened, carry, y, back.graph, cotangents)

    # What goes in ---------------------------------------------------------------------------------

    def nodes(self, lanes: Lanes, tree: Any, *key: Any) -> list[np.ndarray]:
        return [
            lanes.inputs(leaf.shape, *key, n, of_bool=leaf.dtype == jnp.bool_)
            for n, leaf in enumerate(jax.tree.leaves(tree))
        ]

    def given(self, lanes: Lanes) -> tuple[list, list, list]:
        """The inputs of parameters, carry and notes; a matrix is only its name."""
        params: list[Any] = []
        for n, leaf in enumerate(jax.tree.leaves(self.params)):
            matrix = len(leaf.shape) > 1 and leaf.shape[0] > MANY
            matrix = matrix or n == self.matrix_leaf(leaf, n)
            params.append(str(n) if matrix else lanes.inputs(leaf.shape, "leaf", n))
        carry = [
            np.full((1, 1), lanes.graph.input("carry", k), object)
            for k, _ in enumerate(jax.tree.leaves(self.carry))
        ]
        return params, carry, self.nodes(lanes, self.notes, "noted")

    def matrix_leaf(self, leaf: Any, n: int) -> int:
        """n where the leaf is named as a kernel: small ones may look like rows of numbers."""
        wide = len(leaf.shape) == 2 and leaf.shape[0] != 1
        return n if wide and self.leaf_names[n] in ("kernel", "recurrent_kernel") else -1

    def read(self, lanes: Lanes, function: Callable, given: Sequence, like: Sequence) -> list:
        """The nodes of `function`'s outputs, flat."""
        with tracing_for("cpu"):
            closed = jax.make_jaxpr(function)(*like)
        flat = [value for part in given for value in part]
        return lanes.read(closed.jaxpr, closed.consts, flat)

    def merge(self, params: Any, z: Any, r: Any) -> tuple:
        z = self.after(params, z, self.steps.x, None) if self.rest else z
        return wides(self.cell.merge(params, z, r))

    # The projection -------------------------------------------------------------------------------

    def enter(self) -> None:
        """Finds W and b where z is x W + b, and what else becomes of x W, to be done by `merge`."""
        self.kernel, self.bias, self.rest = -1, -1, False
        leaves = jax.tree.leaves(self.params)
        if "kernel" not in self.leaf_names:
            return
        at = self.leaf_names.index("kernel")
        if leaves[at].shape != (self.steps.x.shape[-1], self.columns()):
            return
        try:
            found, product = self.entered()
        except (Unsupported, TypeError, AttributeError):  # other uses of W, or none: JAX projects
            return
        self.kernel = at
        if found == product:
            return
        biases = [self.added(found, product, n) for n in range(len(leaves))]
        if True in biases:
            self.bias = biases.index(True)
        else:
            self.z, self.rest = jax.ShapeDtypeStruct((1, self.columns()), jnp.float32), True

    def columns(self) -> int:
        """Of W, for all that is known: those of z."""
        return sum(leaf.shape[-1] for leaf in jax.tree.leaves(self.z))

    def entered(self) -> tuple[list[int], list[int]]:
        """The nodes of z and of the x W that it is made of; the same with keys and without."""
        lanes = Lanes(self.hidden)
        product = jax.ShapeDtypeStruct((1, self.columns()), jnp.float32)
        raw, params = self.nodes(lanes, product, "z"), self.given(lanes)[0]

        def found(keys: Any) -> list[int]:
            outside = ["x"] + ["keys"] * (keys is not None)  # what z must not see
            like = (self.params, product, self.steps.x, keys)
            return _flat(self.read(lanes, self.after, (params, raw, outside), like))

        plain, keyed = found(None), found(self.steps.keys)
        if plain != keyed:
            raise Unsupported("projects in another way where there are keys")
        self.lanes = lanes
        return plain, _flat(raw)

    def added(self, found: list[int], product: list[int], leaf: int) -> bool:
        """Whether z is x W plus this leaf of the parameters."""
        graph, shape = self.lanes.graph, jax.tree.leaves(self.params)[leaf].shape
        rows = [graph.input("leaf", leaf, (n,)) for n, _ in enumerate(product)]
        sums = [graph.add("add", *pair) for pair in zip(product, rows, strict=True)]
        return len(shape) == 1 and found == sums

    def after(self, params: Any, product: Any, x: Any, keys: Any) -> Any:
        """What `project` makes of x W, of one step."""
        x = jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
        matrix = Known(product[None])
        z, _ = noted(self.cell.project(params | {"kernel": matrix}, Step(x, keys)))
        if [seen.shape[2:] for seen in matrix.seen] != [x.shape[2:]]:
            raise Unsupported("projects otherwise than by one product x W")
        return jax.tree.map(lambda leaf: leaf[0], z)

    # Pre-activations ------------------------------------------------------------------------------

    def sums(self, graph: Graph, u: list[int]) -> tuple[bool, tuple, tuple]:
        """(whether `merge` only adds, blocks of z, blocks of r) of the pre-activations."""
        number = {node: n for n, node in enumerate(self.inputs_of(graph, "z"))}
        of_h = {node: n for n, node in enumerate(self.inputs_of(graph, "r"))}
        zs = sum(np.prod(Lanes(self.hidden).shape(leaf.shape), dtype=int)
                 for leaf in jax.tree.leaves(self.z))  # fmt: skip
        rs = self.product[2] if self.product else 0
        parts = [graph.operands(node) or (node,) if graph.nodes[node][0] == "add" else (node,)
                 for node in u]  # fmt: skip
        pairs = [
            (
                next((number[k] for k in part if k in number), -1),
                next((of_h[k] for k in part if k in of_h), -1),
            )
            for part in parts
        ]
        used = [k for part in parts for k in part]
        plain = len(set(used)) == len(used) == zs + rs and set(used) == {*number, *of_h}
        if plain and len(number) == zs and len(of_h) == rs and self.passes_on(pairs):
            return True, tuple(z for z, _ in pairs), tuple(r for _, r in pairs)
        apart = [(n, -1) for n in range(zs)] + [(-1, n) for n in range(rs)]
        return False, tuple(z for z, _ in apart), tuple(r for _, r in apart)

    def passes_on(self, pairs: list[tuple[int, int]]) -> bool:
        """Whether the cotangents of such sums go on as they come: a merge may weigh them."""
        lanes = Lanes(self.hidden)
        u = jax.eval_shape(self.merge, self.params, self.z, self.r)
        z, r, du = (self.nodes(lanes, t, k) for t, k in ((self.z, "z"), (self.r, "r"), (u, "du")))

        def pull(params: Any, z: Any, r: Any, du: tuple) -> tuple:
            return jax.vjp(lambda z, r: self.merge(params, z, r), z, r)[1](du)

        like = (self.params, self.z, self.r, u)
        out = self.read(lanes, pull, (self.given(lanes)[0], z, r, du), like)
        flat = _flat(out)
        sent = _flat(du)
        zs = sum(array.size for array in z)
        there = [(z, z) for z, _ in pairs], [(r, zs + r) for _, r in pairs]
        return all(
            flat[at] == node
            for places in there
            for (block, at), node in zip(places, sent, strict=True)
            if block >= 0
        )

    def inputs_of(self, graph: Graph, kind: str) -> list[int]:
        """The nodes of z's or r's blocks that are there, in the order of their columns."""
        found = [
            (node[1][1:], n)
            for n, node in enumerate(graph.nodes)
            if node[0] == "input" and node[1][0] == kind
        ]
        return [n for _, n in sorted(found)]

    # The step and its VJP -------------------------------------------------------------------------

    def ahead(self) -> tuple[Lanes, tuple]:
        lanes = Lanes(self.hidden)
        params, carry, notes = self.given(lanes)
        a = [lanes.graph.input("a", j) for j in range(len(self.of_z))]
        u = a if self.simple else self.merged(lanes, params, carry, a)
        opened = [self.open(lanes, name, node) for name, node in zip(self.names(), u, strict=True)]
        blocks = [np.full((1, 1), node, object) for node in opened]
        shape = jax.ShapeDtypeStruct((1, self.hidden), jnp.float32)
        like = (self.params, self.carry, self.notes, (shape,) * len(opened))
        out = self.read(lanes, self.update, (params, carry, notes, blocks), like)
        *carry, y = [array.item() for array in out]
        return lanes, (opened, carry, y)

    def names(self) -> list[str]:
        return [name for group in self.opens for name in group]

    def open(self, lanes: Lanes, name: str, node: int) -> int:
        shape = jax.ShapeDtypeStruct((1, self.hidden), jnp.float32)
        out = self.read(
            lanes, ACTIVATIONS[name].function, [[np.full((1, 1), node, object)]], [shape]
        )
        return out[0].item()

    def update(self, params: Any, carry: Any, notes: Any, blocks: tuple) -> tuple:
        return self.cell.update(params, carry, gates_of(self.cell.info, blocks, notes))

    def merged(self, lanes: Lanes, params: list, carry: list, a: list[int]) -> list[int]:
        """The blocks of u from pre-activations that are z and r, each by itself."""
        z, r = self.apart(lanes, params, carry, a)
        like = (self.params, self.z, self.r)
        out = self.read(lanes, self.merge, (params, z, r), like)
        return _flat(out)

    def apart(self, lanes: Lanes, params: list, carry: list, a: list[int]) -> tuple[list, list]:
        """z and r as arrays of nodes."""
        rest = iter(a)

        def arrays(tree: Any) -> list:
            shapes = [lanes.shape(leaf.shape) for leaf in jax.tree.leaves(tree)]
            return [
                np.array([next(rest) for _ in range(int(np.prod(s)))], object).reshape(s)
                for s in shapes
            ]

        z = arrays(self.z)
        if self.product:
            return z, arrays(self.r)
        like = (self.params, self.carry)
        return z, self.read(lanes, self.cell.recur, (params, carry), like)

    def back(self, blocks: int) -> tuple[Lanes, tuple]:
        """The step's VJP, of the opened blocks."""
        lanes = Lanes(self.hidden)
        params, carry, notes = self.given(lanes)
        a = [lanes.graph.input("a", j) for j in range(len(self.of_z))]
        z, r = ([], []) if self.simple else self.apart(lanes, params, carry, a)
        block = jax.ShapeDtypeStruct((1, self.hidden), jnp.float32)
        opened = self.nodes(lanes, (block,) * blocks, "open")
        if self.mixing:  # what is before the sums has to be kept: the gates come of it
            u = self.merged(lanes, params, carry, a)
            pairs = zip(self.names(), u, strict=True)
            opened = [np.full((1, 1), self.open(lanes, name, node), object) for name, node in pairs]
        dcarry = [np.full((1, 1), lanes.graph.input("dcarry", k), object)
                  for k, _ in enumerate(carry)]  # fmt: skip
        dy = [np.full((1, 1), lanes.graph.input("dy"), object)]
        empty = ((), ()) if self.simple else (self.z, self.r)
        like = (self.params, self.carry, self.notes, (block,) * blocks, *empty, self.carry, block)
        given = (params, carry, notes, opened, z, r, dcarry, dy)
        out = self.read(lanes, self.pull, given, like)
        return lanes, self.cut(out, len(a), len(carry))

    def rows(self) -> list[int]:
        """The leaves of the parameters that are numbers of units, not matrices."""
        names = self.given(Lanes(self.hidden))[0]
        leaves = jax.tree.leaves(self.params)
        return [
            n for n, leaf in enumerate(leaves)
            if not isinstance(names[n], str) and jnp.issubdtype(leaf.dtype, jnp.floating)
        ]  # fmt: skip

    def floats(self) -> list[int]:
        """The notes that have a gradient."""
        leaves = jax.tree.leaves(self.notes)
        found = [n for n, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        if any(leaves[n].shape not in ((1, 1), (1, self.hidden)) for n in found):
            raise Unsupported("notes something else than one number a unit, or one for all")
        return found

    def cut(self, out: list, blocks: int, carries: int) -> tuple:
        """(da, dcarry, {leaf: nodes}, {note: nodes})."""
        da, rest, rows = [], list(out), len(self.rows())
        while len(da) < blocks:
            da += list(rest.pop(0).reshape(-1))
        dcarry = [array.item() for array in rest[:carries]]
        dparams = dict(zip(self.rows(), rest[carries : carries + rows], strict=True))
        dnotes = dict(zip(self.floats(), rest[carries + rows :], strict=True))
        return da, dcarry, dparams, dnotes

    def pull(self, params: Any, carry: Any, notes: Any, opened: tuple, z: Any, r: Any,
             dcarry: Any, dy: Any) -> tuple:  # fmt: skip
        """(da, dcarry, dparams, dnotes): the cotangents of what enters the step."""
        rows, floats = self.rows(), self.floats()
        with_rows = lambda some: _with(params, rows, some)  # noqa: E731
        own = _leaves(params, rows)
        # One number for all units has as gradient a sum over units, which is for later.
        said = [jnp.broadcast_to(note, (1, self.hidden)) for note in _leaves(notes, floats)]

        def update(own, carry, said, opened):
            return self.update(with_rows(own), carry, _with(notes, floats, said), opened)

        pull = jax.vjp(update, own, carry, said, opened)[1]
        down, direct, dnotes, dopened = pull((dcarry, dy))
        slopes: list[Any] = [ACTIVATIONS[name].slope for name in self.names()]
        du = [d * s(v) for s, v, d in zip(slopes, opened, dopened, strict=True)]
        if self.simple:
            return du, direct, down, dnotes
        counts = [len(group) for group in self.opens]
        wide, at = [], 0
        for count in counts:
            wide.append(jnp.concatenate(du[at : at + count], axis=-1))
            at += count
        join = lambda own, z, r: self.merge(with_rows(own), z, r)  # noqa: E731
        more, dz, dr = jax.vjp(join, own, z, r)[1](tuple(wide))
        down = jax.tree.map(jnp.add, down, more)
        if self.product:
            return (jax.tree.leaves(dz), jax.tree.leaves(dr)), direct, down, dnotes
        recur = lambda own, carry: self.cell.recur(with_rows(own), carry)  # noqa: E731
        more, through = jax.vjp(recur, own, carry)[1](dr)
        add = lambda one, two: jax.tree.map(jnp.add, one, two)  # noqa: E731
        return jax.tree.leaves(dz), add(direct, through), add(down, more), dnotes

    # All of it together ---------------------------------------------------------------------------

    def joined(self, ahead: Graph, opened: list, carry: list, y: int, back: Graph,
               cotangents: tuple) -> Design:  # fmt: skip
        da, dcarry, dparams, dnotes = cotangents
        order = sorted(range(len(self.of_z)), key=lambda j: (self.of_r[j] >= 0, self.of_z[j] < 0))
        results = [*da, *dcarry]
        wanted = [*ahead.inputs([*carry, y, *opened]), *back.inputs(results)]
        params = tuple(dict.fromkeys(key[1:] for key in wanted if key[0] == "leaf"))
        notes = tuple(dict.fromkeys(key[1:] for key in wanted if key[0] == "noted"))
        dparam = [dparams[leaf][place] if leaf in dparams else back.constant(0.0)
                  for leaf, place in params]  # fmt: skip
        more = back.inputs(dparam)
        params += tuple(
            dict.fromkeys(k[1:] for k in more if k[0] == "leaf" and k[1:] not in params)
        )
        notes += tuple(dict.fromkeys(k[1:] for k in more if k[0] == "noted" and k[1:] not in notes))
        dparam += [back.constant(0.0)] * (len(params) - len(dparam))
        self.check(params)
        dnote = [dnotes[leaf][place] if leaf in dnotes else back.constant(0.0)
                 for leaf, place in notes]  # fmt: skip
        keys = back.inputs([*results, *dparam])
        kept = [key for key in dict.fromkeys(keys) if key[0] in ("open", "a")]
        source = {("open", n, (0, 0)): node for n, node in enumerate(opened)}
        place = {old: new for new, old in enumerate(order)}
        leaves = jax.tree.leaves(self.notes)
        renamed = {("leaf", *key): ("param", n) for n, key in enumerate(params)}
        renamed |= {("noted", *key): ("note", n) for n, key in enumerate(notes)}
        renamed |= {("a", old): ("a", new) for old, new in place.items()}
        kept_as = {key: ("kept", n) for n, key in enumerate(kept)}
        nodes = tuple(source[k] if k[0] == "open" else ahead.input(*k) for k in kept)
        return Design(
            self.hidden,
            tuple(self.of_z[j] for j in order),
            tuple(self.of_r[j] for j in order),
            self.product[0] if self.product else -1,
            int(self.product[1]) if self.product else -1,
            _renamed(ahead, renamed),
            tuple(carry),
            y,
            nodes,
            _renamed(back, renamed | kept_as),
            tuple(da[j] for j in order),
            tuple(dcarry),
            tuple(dparam),
            tuple(dnote),
            params,
            notes,
            tuple(not Lanes(self.hidden).by_unit(leaves[n].shape) for n, _ in notes),
            self.kernel,
            self.bias,
        )

    def check(self, params: tuple[Key, ...]) -> None:
        kinds = [jax.tree.leaves(self.params)[leaf].dtype for leaf, _ in params]
        if any(not jnp.issubdtype(kind, jnp.floating) for kind in kinds):
            raise Unsupported("reads whole numbers among its parameters")
        seen = sum(r >= 0 for r in self.of_r), sum(z >= 0 for z in self.of_z)
        if max(seen) > WIDEST or len(params) > MANY:
            raise Unsupported(
                f"has more than {WIDEST} gates, or more than {MANY} rows of parameters"
            )


def _flat(arrays: list[np.ndarray]) -> list[int]:
    return [node for array in arrays for node in array.reshape(-1)]


def _leaves(tree: Any, which: list[int]) -> list:
    leaves = jax.tree.leaves(tree)
    return [leaves[n] for n in which]


def _with(tree: Any, which: list[int], some: list) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    for n, leaf in zip(which, some, strict=True):
        leaves[n] = leaf
    return jax.tree.unflatten(structure, leaves)


def _renamed(graph: Graph, names: dict[Key, Key]) -> Graph:
    """The graph with other keys for its inputs; nodes keep their numbers."""
    new = Graph()
    new.nodes = [
        ("input", names.get(node[1], node[1])) if node[0] == "input" else node
        for node in graph.nodes
    ]
    return new
