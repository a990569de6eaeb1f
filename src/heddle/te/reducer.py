# SPDX-License-Identifier: Apache-2.0
"""Reductions of several values at once, by a combiner that the user writes.

largest = te.argmax((k, A[i, k]), axis=k)

both = te.reducer(lambda a, b: (a[0] + b[0], a[1] + b[1]), lambda x, y: (0.0, 0.0))
total, squares = te.compute((n,), lambda i: both((A[i, k], A[i, k] * A[i, k]), axis=k))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, ExprLike, Var, as_expr, const, logical_or, select
from heddle.support import UserError
from heddle.te.blocks import read_regions, sources_of, to_loads
from heddle.te.tensor import Group, Grouped, ReduceAxis, Tensor
from heddle.tir.build import for_nest, load, make_block, point, reduction, seq, spatial, store
from heddle.tir.intrin import isnan
from heddle.tir.nodes import Buffer, LetStmt, Stmt

Combine = Callable[[tuple[Expr, ...], tuple[Expr, ...]], Sequence[ExprLike]]
Identity = Callable[..., Sequence[ExprLike]]


def reducer(combine: Combine, identity: Identity, name: str = "reduce") -> Reducer:
    """A reduction of several values that belong together.

    combine: from two tuples of expressions, their combination; it must be associative and
    commutative, since steps run in any order. identity: from the dtypes of the values, the tuple
    that combines with any other to that other.

    The reducer is called with the values and the axes inside of `te.compute`, which then gives a
    tuple of tensors.
    """
    return Reducer(combine, identity, name)


class Reducer:
    """See `reducer`."""

    def __init__(self, combine: Combine, identity: Identity, name: str) -> None:
        self.combine = combine
        self.identity = identity
        self.name = name

    def __call__(
        self, sources: Sequence[ExprLike | ReduceAxis], axis: ReduceAxis | Sequence[ReduceAxis]
    ) -> Grouped:
        """The reduction of `sources` over `axis`."""
        axes = (axis,) if isinstance(axis, ReduceAxis) else tuple(axis)
        if not isinstance(sources, (tuple, list)):
            raise UserError(
                f"{self.name}: the values are a tuple with one for each result, such as "
                f"{self.name}((k, A[i, k]), axis=k); got {type(sources).__name__}"
            )
        values = tuple(
            item.var if isinstance(item, ReduceAxis) else as_expr(item) for item in sources
        )
        if not values or not axes:
            raise UserError(f"{self.name}: needs values and axes to reduce over")
        start = self._typed(self.identity(*(v.dtype for v in values)), values, "the identity")
        return _Reduction(self, values, start, axes)

    def step(self, left: Sequence[Expr], right: Sequence[Expr]) -> tuple[Expr, ...]:
        """The combination of two tuples."""
        made = self.combine(tuple(left), tuple(right))
        return self._typed(made, right, "the combiner")

    def _typed(self, made: Sequence[ExprLike], like: Sequence[Expr], what: str) -> tuple[Expr, ...]:
        if len(made) != len(like):
            raise UserError(f"{self.name}: {what} gives {len(made)} values, expected {len(like)}")
        typed = []
        for position, (item, value) in enumerate(zip(made, like, strict=True)):
            expr = item if isinstance(item, Expr) else const(item, value.dtype)
            if expr.dtype is not value.dtype:
                raise UserError(
                    f"{self.name}: {what} gives {expr.dtype} for value {position}, "
                    f"which is {value.dtype}"
                )
            typed.append(expr)
        return tuple(typed)


class _Reduction(Grouped):
    def __init__(
        self,
        reducer: Reducer,
        values: tuple[Expr, ...],
        start: tuple[Expr, ...],
        axes: tuple[ReduceAxis, ...],
    ) -> None:
        self.reducer = reducer
        self.values = values
        self.start = start
        self.axes = axes

    def compute(
        self, shape: tuple[Expr, ...], axis: tuple[Var, ...], name: str
    ) -> tuple[Tensor, ...]:
        return _ReductionGroup(self, shape, axis, name).tensors


class _ReductionGroup(Group):
    """One block that writes several buffers."""

    def __init__(
        self, made: _Reduction, shape: tuple[Expr, ...], axis: tuple[Var, ...], name: str
    ) -> None:
        self.made = made
        self.shape = shape
        self.axis = axis
        self.tensors = tuple(
            Tensor(shape, value.dtype, f"{name}_v{position}", axis, group=self)
            for position, value in enumerate(made.values)
        )

    def sources(self) -> list[Tensor]:
        return sources_of(self.made.values)

    def lower(self, buffers: Mapping[Tensor, Buffer]) -> Stmt:
        made = self.made
        written = [buffers[tensor] for tensor in self.tensors]
        loops = [(Var(var.name), dim) for var, dim in zip(self.axis, self.shape, strict=True)]
        steps = [(Var(axis.var.name), axis.extent) for axis in made.axes]
        iters = [spatial(dim, var, f"v{var.name}") for var, dim in loops]
        iters += [reduction(dim, var, f"v{var.name}") for var, dim in steps]
        old = (*self.axis, *(axis.var for axis in made.axes))
        values = {var: bound.var for var, bound in zip(old, iters, strict=True)}
        at = [bound.var for bound in iters[: len(loops)]]
        name = self.tensors[0].name
        loaded = [to_loads(value, buffers, values, name) for value in made.values]
        # All results come from the old values, so they are computed before any is stored.
        right = [Var(f"{buffer.name}_right", buffer.dtype) for buffer in written]
        results = made.reducer.step([load(buffer, at) for buffer in written], right)
        fresh = [Var(f"{buffer.name}_new", buffer.dtype) for buffer in written]
        body: Stmt = seq(*(store(b, var, at) for b, var in zip(written, fresh, strict=True)))
        for var, value in reversed(list(zip(fresh, results, strict=True))):
            body = LetStmt(value, var, body)
        for var, value in reversed(list(zip(right, loaded, strict=True))):
            body = LetStmt(value, var, body)
        init = seq(*(store(b, v, at) for b, v in zip(written, made.start, strict=True)))
        block = make_block(
            written[0].name,
            iters,
            body,
            reads=read_regions(loaded, written),
            writes=[point(buffer, at) for buffer in written],
            init=init,
        )
        return for_nest([*loops, *steps], block)


def _position(name: str, better: Callable[[Expr, Expr], Expr], worst: str) -> Reducer:
    """A reducer of (position, value): the first position of the best value; NaN is best of all."""

    def combine(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> tuple[Expr, ...]:
        wins = better(b[1], a[1])
        ties = b[1].equal(a[1])
        if b[1].dtype.is_float:
            wins = logical_or(wins, isnan(b[1]) & ~isnan(a[1]))
            ties = logical_or(ties, isnan(b[1]) & isnan(a[1]))
        wins = logical_or(wins, ties & (b[0] < a[0]))
        return select(wins, b[0], a[0]), select(wins, b[1], a[1])

    def identity(index: DType, value: DType) -> tuple[Any, ...]:
        if value.is_float:
            return index.max_value, float(worst)
        return index.max_value, value.min_value if worst == "-inf" else value.max_value

    return Reducer(combine, identity, name)


argmax = _position("argmax", lambda a, b: a > b, "-inf")
"""`te.argmax((k, A[i, k]), axis=k)`: the first position of the largest value, and that value."""

argmin = _position("argmin", lambda a, b: a < b, "inf")
"""`te.argmin((k, A[i, k]), axis=k)`: the first position of the smallest value, and that value."""
