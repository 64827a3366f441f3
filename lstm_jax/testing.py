"""The laws of a cell, on anybody's: `check_cell(cell)`, or `lstm-jax check FILE.py:NAME`.

(1) The unroll equals a Python loop in float64, values and gradients. (2) Two halves with the carry
handed over equal the whole. (3) A batch equals its rows. (4) A reset equals a fresh start; padding,
holes and rows of length zero change nothing outside themselves, whatever stands in them.
(5) Gradients equal finite differences. (6) One trace a shape, the carry's types a fixed point.
(7) Every engine agrees with `scan`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.gates import step as cell_step
from lstm_jax.core import Cell, Keys, noted
from lstm_jax.engines import ENGINES
from lstm_jax.engines.unroll import unroll
from lstm_jax.errors import UsageError
from lstm_jax.plugins import told

__all__ = ["Broken", "check_cell"]

# Tiny programs run in no time and compile for long: the compiler need not try hard.
QUICK = {"xla_backend_optimization_level": 0}


class Sizes(NamedTuple):
    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        return " ".join(f"{name}={size}" for name, size in self._asdict().items())


# From the smallest up: a law that breaks is tried on these until it breaks again.
SIZES = (
    Sizes(1, 1, 1, 1), Sizes(2, 1, 1, 1), Sizes(1, 2, 1, 1), Sizes(2, 2, 1, 1), Sizes(1, 1, 2, 1),
    Sizes(1, 1, 1, 2), Sizes(3, 1, 1, 2), Sizes(3, 2, 2, 2), Sizes(6, 2, 2, 2), Sizes(6, 4, 3, 2),
)  # fmt: skip


# How far gradients may lie off where gates were kept in fewer bits.
ROUNDED = {"deferred:bfloat16": 0.02}


class Broken(AssertionError):
    """A cell breaks laws: which, on what, and by how much."""


# ---------------------------------------------------------------------------------------------
# Data


class Data(NamedTuple):
    """Float64 parameters, a carry, inputs and every kind of mark."""

    params: dict[str, Any]
    carry: Any
    xs: Any
    lengths: Any
    mask: Any
    resets: Any

    @property
    def valid(self) -> Any:
        return self.mask & (np.arange(len(self.xs))[:, None] < self.lengths)


def _bools(*rows: str) -> Any:
    return np.array([[mark == "1" for mark in row] for row in rows]).T


# Rows: a hole; an end and a reset at the first and the last step; no length at all; padding in
# front with the first reset right after it, and a reset inside a hole.
LENGTHS = np.array([6, 4, 0, 6], np.int32)
MASK = _bools("110111", "111111", "111111", "011011")
RESETS = _bools("000110", "100101", "110000", "010100")


FULL = Sizes(6, 4, 3, 5)


def marks(sizes: Sizes = FULL) -> tuple[Any, Any, Any]:
    """(lengths, mask, resets): as much of the pattern as there is room for."""
    steps, rows = sizes.T, sizes.B
    return np.minimum(LENGTHS[:rows], steps), MASK[:steps, :rows], RESETS[:steps, :rows]


def random_like(shapes: Any, rng: np.random.Generator, scale: float = 0.6) -> Any:
    """A tree of float64 numbers around 0."""
    return jax.tree.map(lambda leaf: scale * rng.standard_normal(leaf.shape), shapes)


def shapes_of(cell: Cell, features: int = 3) -> dict[str, Any]:
    return jax.eval_shape(lambda key: cell.init(key, features), jax.random.key(0))


def data_of(cell: Cell, sizes: Sizes = FULL) -> Data:
    """Nothing at zero or one, which would hide what it multiplies; a carry that steps lead to."""
    rng = np.random.default_rng(0)
    params = random_like(shapes_of(cell, sizes.D), rng)
    before, xs = rng.standard_normal((2, sizes.T, sizes.B, sizes.D))
    carry, _ = jax.jit(partial(unroll, cell, engine="scan"), compiler_options=QUICK)(params, before)
    return Data(params, jax.tree.map(np.asarray, carry), xs, *marks(sizes))


def whole(data: Data) -> Data:
    """Every step of every example counts, and none starts afresh."""
    every = np.ones_like(data.mask)
    lengths = np.full(data.lengths.shape, len(data.xs), np.int32)
    return data._replace(lengths=lengths, mask=every, resets=~every)


def poisoned(data: Data) -> Data:
    """NaN wherever a step does not count."""
    return data._replace(xs=np.where(data.valid[..., None], data.xs, np.nan))


# ---------------------------------------------------------------------------------------------
# A Python loop


def looped(cell: Cell, keys: Keys | None, reference: Callable | None) -> Callable:
    """(data, reverse=False) -> (carry, ys): every example alone, every step in its turn.

    Steps that are not valid might as well not be there. Forwards, a reset makes its step start
    afresh. Backwards, it marks the last step of a segment to run: the next one starts afresh.
    """
    one = referred(reference) if reference else stepping(cell, keys)

    def run(data: Data, reverse: bool = False) -> tuple[Any, Any]:
        rows = [_row(cell, one(data), data, b, reverse) for b in range(data.xs.shape[1])]
        carries, ys = zip(*rows, strict=True)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *carries), np.stack(ys, 1)

    return run


def _row(cell: Cell, one: Callable, data: Data, b: int, reverse: bool) -> tuple[Any, Any]:
    carry = jax.tree.map(lambda leaf: leaf[b], data.carry)
    fresh = jax.tree.map(lambda leaf: np.asarray(leaf[0]), cell.initial_carry(data.params, (1,)))
    counted = [t for t in range(len(data.xs)) if data.valid[t, b]]
    ys, ended = {}, False
    for t in reversed(counted) if reverse else counted:
        if ended if reverse else data.resets[t, b]:
            carry = fresh
        ended = data.resets[t, b]
        carry, ys[t] = one(carry, t, b)
    nothing = np.zeros_like(carry.h)
    return carry, np.stack([ys.get(t, nothing) for t in range(len(data.xs))])


def referred(reference: Callable) -> Callable:
    """The steps of somebody's `reference(params, carry, x) -> (carry, y)`."""
    return lambda data: lambda carry, t, b: reference(data.params, carry, data.xs[t, b])


def stepping(cell: Cell, keys: Keys | None) -> Callable:
    """The steps of the cell itself, each for one example, with its own draw of randomness."""

    @partial(jax.jit, compiler_options=QUICK)
    def advance(params, carry, x, key):
        if keys is not None:
            params = cell.prepare(params, Keys(keys.shared, key[0]))
        z = cell.project(params, x[None], None if keys is None else key[1][None])
        now = jax.tree.map(lambda leaf: leaf[0], noted(z))
        carry = jax.tree.map(lambda leaf: leaf[None], carry)
        return jax.tree.map(lambda leaf: leaf[0], cell_step(cell, params, carry, *now))

    def one(data: Data) -> Callable:
        def step(carry, t, b):
            example = None if keys is None else keys.example[b : b + 1]
            fold = jax.vmap(jax.random.fold_in, (0, None))
            key = 0 if example is None else (example, fold(example, t))
            return jax.tree.map(np.asarray, advance(data.params, carry, data.xs[t, b][None], key))

        return step

    return one


# ---------------------------------------------------------------------------------------------
# A cell on the bench


class Lab:
    """A cell with its data and its compiled functions.

    `expected(data, reverse)` is the Python loop; `bent`: gradients are not those of the values;
    `redrawn`: randomness is drawn anew at every step; `variants`: cells of other types of matmuls;
    `in_full`: also what no option changes, reversed time and rows that are batches of their own.
    """

    def __init__(
        self,
        cell: Cell,
        data: Data,
        expected: Callable[..., tuple[Any, Any]],
        *,
        keys: Keys | None = None,
        bent: bool = False,
        redrawn: bool = False,
        variants: Sequence[Cell] = (),
        in_full: bool = True,
    ):
        self.cell, self.data, self.expected, self.keys = cell, data, expected, keys
        self.bent, self.redrawn, self.in_full = bent, redrawn, in_full
        self.variants = (cell, *variants)
        rng = np.random.default_rng(1)
        out = jax.eval_shape(self.unrolled(), *data[:3])
        self.weights = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), out)
        self.traces: list[int] = []

    def unrolled(self, cell: Cell | None = None, **options: Any) -> Callable:
        options = {"key": self.keys} | options

        def run(params, carry, xs, **marks):
            return unroll(cell or self.cell, params, xs, carry, **options, **marks)

        return run

    def graded(
        self,
        engine: str,
        marks: Sequence[str] = ("lengths", "mask", "resets"),
        reverse: bool = False,
        cell: Cell | None = None,
    ) -> Callable:
        """(params, carry, xs, *marks) -> (carry, ys), gradients of a weighted sum of both."""
        run = self.unrolled(cell, engine=engine, reverse=reverse)

        def loss(params, carry, xs, given):
            out = run(params, carry, xs, **dict(zip(marks, given, strict=True)))
            parts = jax.tree.map(lambda w, v: (w * v).sum(), self.weights, out)
            return sum(jax.tree.leaves(parts)), out

        def values_and_gradients(params, carry, xs, *given):
            (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
                params, carry, xs, given
            )
            return out, grads

        return jax.jit(values_and_gradients, compiler_options=QUICK)

    @cached_property
    def run(self) -> Callable:
        """`graded` under `scan`, which most laws share; it counts how often it is traced."""

        def counting(*args):
            self.traces.append(1)
            return self.cell.update(*args)

        return self.graded("scan", cell=self.cell._replace(update=counting))

    @cached_property
    def found(self) -> tuple[Any, Any]:
        """(values, gradients) of the data."""
        return self.run(*self.data)

    def rows(self, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        """Every example a batch of its own, under vmap."""

        def one(carry, x, key):
            given = None if self.keys is None else Keys(self.keys.shared, key[None])
            run = self.unrolled(engine="scan", key=given)
            return run(params, jax.tree.map(lambda leaf: leaf[None], carry), x[:, None])

        keys = jnp.zeros(xs.shape[1]) if self.keys is None else self.keys.example
        carry, ys = jax.vmap(one, (0, 1, 0))(carry, xs, keys)
        return jax.tree.map(lambda leaf: leaf[:, 0], carry), jnp.moveaxis(ys[:, :, 0], 0, 1)


def close(actual: Any, expected: Any, tol: float = 1e-10, name: str = "(carry, ys)") -> None:
    def check(path, a, b):
        where = name + jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=where)

    jax.tree_util.tree_map_with_path(check, actual, expected)


def same(actual: Any, expected: Any) -> None:
    def check(path, a, b):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, actual, expected)


# ---------------------------------------------------------------------------------------------
# The laws


def laws(lab: Lab, engines: Sequence[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, what raises AssertionError where it is broken) of every law."""
    yield "law 1: values of a Python loop", lambda: law_values(lab)
    yield "laws 1 and 5: gradients of difference quotients", lambda: law_gradients(lab)
    yield "law 4: padding changes nothing outside itself", lambda: law_padding(lab)
    yield "law 4: a reset is a fresh start", lambda: law_resets(lab)
    yield "law 6: one trace, carry types a fixed point", lambda: law_types(lab)
    if lab.in_full:
        yield "law 1: reversed", lambda: law_reversed(lab)
    yield "law 2: two halves are the whole", lambda: law_halves(lab)
    yield "law 3: a batch is its rows", lambda: law_rows(lab)
    for engine in engines:
        yield f"law 7: {engine} agrees with scan", partial(law_engine, lab, engine)


def law_values(lab: Lab) -> None:
    close(lab.found[0], lab.expected(lab.data))


def law_gradients(lab: Lab) -> None:
    """Along one random direction of every leaf."""
    if lab.bent:
        return
    rng, grads = np.random.default_rng(2), lab.found[1]
    for place in range(3):
        for path, leaf in jax.tree_util.tree_leaves_with_path(lab.data[place]):
            direction = rng.standard_normal(leaf.shape)
            quotient = _quotient(lab, place, path, direction)
            slope = np.vdot(_at(grads[place], path), direction)
            where = Data._fields[place] + jax.tree_util.keystr(path)
            np.testing.assert_allclose(slope, quotient, 2e-6, 2e-7, err_msg=where)


def _at(tree: Any, path: Any) -> Any:
    return dict(jax.tree_util.tree_leaves_with_path(tree))[path]


def _quotient(lab: Lab, place: int, path: Any, direction: Any, step: float = 1e-5) -> Any:
    def loss(sign):
        moved = jax.tree_util.tree_map_with_path(
            lambda p, leaf: leaf + sign * step * direction if p == path else leaf, lab.data[place]
        )
        out = lab.expected(lab.data._replace(**{lab.data._fields[place]: moved}))
        return sum(jax.tree.leaves(jax.tree.map(lambda w, v: (w * v).sum(), lab.weights, out)))

    return (loss(1) - loss(-1)) / (2 * step)


def law_padding(lab: Lab) -> None:
    data, ((carry, ys), grads) = lab.data, lab.found
    same(lab.run(*poisoned(data)), ((carry, ys), grads))
    assert not ys[~data.valid].any(), "ys is not 0 at a step that does not count"
    assert not grads[2][~data.valid].any(), "x has a gradient at a step that does not count"
    empty = np.flatnonzero(data.lengths == 0)
    same(jax.tree.map(lambda a: a[empty], carry), jax.tree.map(lambda a: a[empty], data.carry))


def law_resets(lab: Lab) -> None:
    data = whole(lab.data)
    at, rows = len(data.xs) // 2, data.xs.shape[1]
    resets = data.resets.copy()
    resets[at] = True
    (carry, ys), _ = lab.run(*data._replace(resets=resets))
    fresh = jax.tree.map(np.asarray, lab.cell.initial_carry(data.params, (rows,)))
    alone = data.mask.copy()
    alone[:at] = False
    (expected, late), _ = lab.run(*data._replace(mask=alone, carry=fresh))
    same((carry, ys[at:]), (expected, late[at:]))


def law_types(lab: Lab) -> None:
    """One trace for one shape; in float32, also under bfloat16 matmuls, types stay."""
    data = lab.data
    out, _ = lab.found
    lab.run(data.params, out[0], *data[2:])
    assert len(lab.traces) == 1, f"the step was traced {len(lab.traces)} times for one shape"
    cast = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), data[:3])
    like = jax.tree.map(lambda a: (a.shape, a.dtype), cast[1])
    for cell in lab.variants:
        carry, ys = jax.eval_shape(lab.unrolled(cell, engine="scan"), *cast)
        found = jax.tree.map(lambda a: (a.shape, a.dtype), carry)
        assert found == like, (
            f"a step makes the carry {found} of {like}; initial_carry and step should keep to the "
            'type of the parameters, as in jnp.zeros(shape, params["kernel"].dtype)'
        )
        shape = (*data.xs.shape[:2], carry.h.shape[-1])
        assert (ys.dtype, ys.shape) == (jnp.float32, shape), f"ys is {ys.dtype}{ys.shape}"


def law_reversed(lab: Lab) -> None:
    run = lab.unrolled(reverse=True, engine="scan")

    def marked(params, carry, xs, lengths, mask, resets):
        return run(params, carry, xs, lengths=lengths, mask=mask, resets=resets)

    out = jax.jit(marked, compiler_options=QUICK)(*lab.data)
    close(out, lab.expected(lab.data, True))


def law_halves(lab: Lab) -> None:
    """The second half at the place of the first: the same program serves both."""
    data = whole(lab.data)
    steps, split = len(data.xs), max(len(data.xs) // 3, 1)
    if lab.redrawn or steps < 2:
        return  # two halves do not draw what the whole drew
    (carry, ys), _ = lab.run(*data)
    first = np.full(data.lengths.shape, split, np.int32)
    (middle, early), _ = lab.run(*data._replace(lengths=first))
    rest = data._replace(carry=middle, xs=np.roll(data.xs, -split, 0), lengths=steps - first)
    (last, late), _ = lab.run(*rest)
    close((last, np.concatenate([early[:split], late[: steps - split]])), (carry, ys))


def law_rows(lab: Lab) -> None:
    """Alone under vmap, or, where that was shown for its kin, among copies of itself."""
    data = whole(lab.data)
    expected, rows = lab.run(*data)[0], data.xs.shape[1]
    if lab.in_full:
        close(jax.jit(lab.rows, compiler_options=QUICK)(*data[:3]), expected)
        return
    if lab.keys:
        return  # copies would draw each their own
    carry, xs = jax.tree.map(lambda a: a[[1] * rows], data.carry), data.xs[:, [1] * rows]
    carry, ys = lab.run(*data._replace(carry=carry, xs=xs))[0]
    alone = jax.tree.map(lambda a: a[1], expected[0]), expected[1][:, 1]
    for row in range(rows):
        close((jax.tree.map(lambda a: a[row], carry), ys[:, row]), alone)  # noqa: B023


def law_engine(lab: Lab, engine: str) -> None:
    if engine == "native":
        return law_native(lab)
    refused = engine in ("cudnn", "pallas")  # neither has its hardware here
    refused |= engine == "associative" and lab.cell.info.linear is None
    if not refused:
        values, gradients = lab.graded(engine)(*poisoned(lab.data))
        close(values, lab.found[0], 1e-9)
        close(gradients, lab.found[1], ROUNDED.get(engine, 1e-9), "gradients")
        return
    try:
        lab.graded(engine)(*lab.data)
    except UsageError as error:
        assert f"engine {engine!r} cannot" in str(error), str(error)
    else:
        raise AssertionError(f"engine {engine!r} runs a cell that it should refuse")


def law_native(lab: Lab) -> None:
    """In float32, the only type that compiled code knows; a cell that it refuses keeps the law."""
    with jax.enable_x64(False):
        single = copy.copy(lab)
        single.weights, data = narrow(lab.weights), narrow(poisoned(lab.data))
        try:
            found = single.graded("native")(*data)
        except UsageError as error:
            assert "engine 'native' cannot" in str(error), str(error)
            return
        # What is drawn depends on the type.
        expected = single.graded("scan")(*data) if lab.keys else lab.found
        close(found, expected, 2e-5, "((carry, ys), gradients)")


def narrow(tree: Any) -> Any:
    """Every float64 leaf as float32."""
    return jax.tree.map(lambda a: np.float32(a) if a.dtype == np.float64 else a, tree)


# ---------------------------------------------------------------------------------------------
# Anybody's cell


def check_cell(
    cell: Cell | Callable[..., Cell],
    reference: Callable | None = None,
    *,
    key: Any = None,
    bent: bool = False,
    redrawn: bool = False,
) -> list[str]:
    """Hold a cell, or a constructor `(hidden, *, ...) -> Cell`, to the laws; the names of those.

    `reference(params, carry, x) -> (carry, y)` is the step once more in NumPy float64, for one
    example: x [D], a carry of vectors. Without one the loop takes the cell's own step. With `key`
    randomness is on. `bent`: gradients are meant to differ from those of the values; `redrawn`:
    randomness is drawn at every step, so that two halves do not draw what the whole drew.

    Raises:
      Broken: every law that the cell breaks, each with the smallest shapes that show it.
    """

    @cache
    def bench(sizes: Sizes) -> Lab:
        made = cell if isinstance(cell, Cell) else _made(cell, sizes.H)
        keys = None if key is None else Keys(key, jax.random.split(key, sizes.B))
        rounded = () if isinstance(cell, Cell) else _rounded(cell, sizes.H)
        loop = looped(made, keys, reference)
        how = {"keys": keys, "bent": bent, "redrawn": redrawn, "variants": rounded}
        return Lab(made, data_of(made, sizes), loop, **how)

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        tried = judged(bench, FULL)
        fixed = isinstance(cell, Cell)
        lines = [_smallest(bench, name, said, fixed) for name, said in tried.items() if said]
    if lines:
        raise Broken("\n".join([f"{len(lines)} of {len(tried)} laws are broken", *lines]))
    return list(tried)


def _engines() -> list[str]:
    return [engine for engine in ENGINES if engine != "scan"]


def _made(make: Callable[..., Any], hidden: int, **options: Any) -> Cell:
    made = make(hidden, **options)
    if not isinstance(made, Cell):
        raise UsageError(f"{make} returned a {type(made).__name__}, expected a lstm_jax.Cell")
    return made


def _rounded(make: Callable[..., Any], hidden: int) -> tuple[Cell, ...]:
    """The cell with bfloat16 matmuls, where the constructor has an option for it."""
    takes = "dtype" in inspect.signature(make).parameters
    return (_made(make, hidden, dtype=jnp.bfloat16),) if takes else ()


RUNS = "before all laws: the cell runs"


def judged(bench: Callable[[Sizes], Lab], sizes: Sizes, only: str = "") -> dict[str, str]:
    """{law: what is wrong with it at these sizes, "" where it holds}, of all laws or one."""
    try:
        lab = bench(sizes)
        _ = lab.found
    except UsageError:
        raise
    except Exception as error:
        return {RUNS: _reason(error)}
    pairs = [pair for pair in laws(lab, _engines()) if only in ("", pair[0])]
    return {name: _said(law) for name, law in pairs}


def _said(law: Callable[[], None]) -> str:
    try:
        law()
    except Exception as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    """What went wrong: numbers of a comparison, or where somebody's code failed."""
    if isinstance(error, AssertionError):
        return "\n".join(f"    {line}" for line in str(error).splitlines() if line.strip())
    return f"    {told(error) or f'{type(error).__name__}: {error}'}"


def _smallest(bench: Callable[[Sizes], Lab], name: str, said: str, fixed: bool) -> str:
    """The law with the smallest sizes that break it; a cell that is `fixed` has its own H."""
    for sizes in dict.fromkeys(s._replace(H=0) if fixed else s for s in SIZES):
        again = judged(bench, sizes, name).get(name)
        if again:
            return f"{name}, at {_words(sizes)}\n{again}"
    return f"{name}, at {_words(FULL._replace(H=0) if fixed else FULL)}\n{said}"


def _words(sizes: Sizes) -> str:
    return str(sizes).removesuffix(" H=0")
