# SPDX-License-Identifier: Apache-2.0
"""Proof by looking at every case: maps of small iteration spaces.

Splits that do not divide what was fused before leave indices such as `(i * 9 + j) // 8 % 2`, which
the algebra of iterator maps does not take apart. Their domains are small, and numpy looks at a
million cases in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from heddle.ir import expr as ir
from heddle.ir.expr import Expr, IntImm, Var
from heddle.ir.walk import free_vars, post_order

MOST_CASES: Final = 1 << 20

_OPERATIONS: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ir.Add: np.add,
    ir.Sub: np.subtract,
    ir.Mul: np.multiply,
    ir.FloorDiv: np.floor_divide,
    ir.FloorMod: np.mod,
    ir.Min: np.minimum,
    ir.Max: np.maximum,
    ir.LT: np.less,
    ir.LE: np.less_equal,
    ir.GT: np.greater,
    ir.GE: np.greater_equal,
    ir.EQ: np.equal,
    ir.NE: np.not_equal,
    ir.And: np.logical_and,
    ir.Or: np.logical_or,
}


def maps_distinctly(
    indices: Sequence[Expr], domains: Mapping[Var, tuple[int, int]], predicate: Sequence[Expr]
) -> bool | None:
    """Whether different iterations where all of `predicate` holds give different `indices`.

    domains: (minimum, extent) of every loop. Loops that share no index are looked at apart. None
    when there are too many cases, or something in the indices is not an operation on integers.

    >>> i, j = Var("i"), Var("j")
    >>> f = i * 9 + j
    >>> maps_distinctly([f // 8, f % 8], {i: (0, 4), j: (0, 9)}, [f < 32])
    True
    """
    for group in _connected(indices, domains):
        mine = [index for index in indices if any(var in group for var in free_vars(index))]
        guards = [part for part in predicate if set(free_vars(part)) <= group]
        answer = _group_distinct(mine, {var: domains[var] for var in group}, guards)
        if answer is not True:
            return answer
    return True


def _connected(indices: Sequence[Expr], domains: Mapping[Var, tuple[int, int]]) -> list[set[Var]]:
    """The loops in groups: two are in one group when some index has both."""
    groups = [{var} for var in domains]
    for index in indices:
        used = set(free_vars(index))
        touched = [group for group in groups if group & used]
        groups = [group for group in groups if not group & used]
        if touched:
            groups.append(set().union(*touched))
    return groups


def _group_distinct(
    indices: Sequence[Expr], domains: Mapping[Var, tuple[int, int]], guards: Sequence[Expr]
) -> bool | None:
    count = 1
    for _, extent in domains.values():
        count *= extent
    if count > MOST_CASES:
        return None
    if count <= 1:
        return True
    axes = [np.arange(low, low + extent) for low, extent in domains.values()]
    grid = dict(zip(domains, np.meshgrid(*axes, indexing="ij", sparse=True), strict=True))
    shape = tuple(extent for _, extent in domains.values())
    kept = np.ones(shape, bool)
    columns = []
    for value, is_guard in [*((g, True) for g in guards), *((i, False) for i in indices)]:
        cases = _evaluate(value, grid)
        if cases is None:
            return None
        if is_guard:
            kept &= np.asarray(cases, bool)
        else:
            columns.append(np.broadcast_to(cases, shape))
    rows = np.stack([column[kept] for column in columns], axis=1) if columns else None
    if rows is None:
        return int(kept.sum()) <= 1
    return len(np.unique(rows, axis=0)) == len(rows)


def _evaluate(root: Expr, grid: Mapping[Var, Any]) -> Any:
    values: dict[Any, Any] = dict(grid)
    for found in post_order(root):
        if found in values:
            continue
        if isinstance(found, IntImm):
            values[found] = found.value
        elif type(found) in _OPERATIONS:
            a, b = values[found.a], values[found.b]  # type: ignore[attr-defined]
            values[found] = _OPERATIONS[type(found)](a, b)
        else:
            return None
    return values[root]
