"""The cell contract, function by function: what goes in and comes out, in shapes by the legend.

Every function of a cell is wrapped in one that says its shapes; jaxtyping and beartype hold the
cell to them while an unroll traces it. Nothing is computed.
"""

from typing import Any

import beartype
import jax
import jaxtyping
import numpy as np
import pytest
import registry
from jaxtyping import Float, Key, PyTree, Shaped

import lstm_jax
from lstm_jax.core import Array, Cell, Noted, noted

pytestmark = pytest.mark.usefixtures("strict_types")

H = registry.H
shaped = jaxtyping.jaxtyped(typechecker=beartype.beartype)
Numbers = dict[str, Float[Array, "..."]]


def held_to_its_shapes(cell: Cell) -> Cell:
    """The cell, each of its functions checked on the way in and out; N stands for any width."""

    @shaped
    def init(key: Key[Array, ""], in_features: int) -> Numbers:
        return cell.init(key, in_features)

    @shaped
    def initial_carry(params: dict, batch_shape: tuple) -> PyTree[Float[Array, "..."]]:
        carry = cell.initial_carry(params, batch_shape)
        assert carry._fields == cell.info.carry
        assert all(leaf.shape[:-1] == batch_shape for leaf in carry)
        return carry

    @shaped
    def project(
        params: dict, xs: Float[Array, "*S D"], keys: Key[Array, "*S"] | None = None
    ) -> PyTree[Shaped[Array, "..."]] | Noted:
        z = cell.project(params, xs, keys)
        steps = xs.shape[:-1]
        assert all(leaf.shape[:-1] == steps for leaf in jax.tree.leaves(noted(z)[0]))
        return z

    @shaped
    def recur(params: dict, carry: PyTree[Float[Array, "*S _"]]) -> PyTree[Float[Array, "*S _"]]:
        return cell.recur(params, carry)

    @shaped
    def merge(params: dict, z: Any, r: Any) -> PyTree[Float[Array, "*S _"]]:
        u = cell.merge(params, z, r)
        blocks = u if isinstance(u, tuple) else (u,)
        assert [b.shape[-1] for b in blocks] == [len(names) * H for names in cell.info.blocks]
        return u

    @shaped
    def update(
        params: dict,
        carry: PyTree[Float[Array, "*S ?H"], " C"],  # pyright: ignore[reportUndefinedVariable]
        gate: Any,
    ) -> tuple[
        PyTree[Float[Array, "*S ?H"], " C"],  # pyright: ignore[reportUndefinedVariable]
        Float[Array, "*S Y"],
    ]:
        return cell.update(params, carry, gate)

    checked = cell._replace(init=init, initial_carry=initial_carry, project=project)
    return checked._replace(recur=recur, merge=merge, update=update)


def unrolled(case: registry.Case, cell: Cell, engine: str) -> Any:
    data, keys = registry.data_of(case.build()), registry.keys_of(case)
    params, carry, xs = jax.tree.map(np.float32, data[:3])

    def loss(params, carry, xs):
        carry, ys = lstm_jax.unroll(cell, params, xs, carry, key=keys, engine=engine)
        return ys.sum()

    return jax.eval_shape(jax.grad(loss), params, carry, xs)


@pytest.mark.parametrize("case", registry.CASES, ids=str)
def test_every_function_of_a_cell_keeps_the_shapes_of_the_contract(case):
    unrolled(case, held_to_its_shapes(case.build()), "auto")


LSTM = registry.by_name["lstm"].build()
BROKEN = {
    "init": lambda key, in_features: [*LSTM.init(key, in_features).values()],
    "initial_carry": lambda params, batch_shape: LSTM.initial_carry(params, (*batch_shape, 1)),
    "project": lambda params, xs, keys=None: LSTM.project(params, xs)[..., None],
    "recur": lambda params, carry: LSTM.recur(params, carry)[..., 0],
    "merge": lambda params, z, r: (z + r)[..., :-1],
    "update": lambda params, carry, gate: (carry, gate("o", carry.c)[..., None]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_function_that_breaks_the_contract_is_found(name):
    cell = held_to_its_shapes(LSTM._replace(**{name: BROKEN[name]}))
    with pytest.raises((jaxtyping.TypeCheckError, AssertionError)):
        unrolled(registry.by_name["lstm"], cell, "scan")
