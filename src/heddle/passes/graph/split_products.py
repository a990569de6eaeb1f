# SPDX-License-Identifier: Apache-2.0
"""Deep products with constant matrices as sums of products that the caches of a core hold.

    h = gelu(x @ w)                      h1 = gelu(x @ w[:, :768])
    y = h @ v                   ->       y1 = h1 @ v[:768]
                                         h2 = gelu(x @ w[:, 768:])
                                         y = y1 + h2 @ v[768:]

Each part reads some columns of the left operand. Where elementwise work on products makes that
operand, and nothing else reads it, these columns are computed part by part as well: each is then
read where it was just written. Otherwise they are copied together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, TypeAlias

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, Function, GraphExpr, Var
from heddle.ir.expr import as_int
from heddle.ir.module import IRModule
from heddle.passes.graph.anf import (
    Rewriter,
    atoms_of,
    map_functions,
    nominal_size,
    op_name,
    shape_of,
    tensor_type,
)
from heddle.passes.graph.eliminate import eliminate_dead_code

Parts: TypeAlias = Callable[[int, int, int], tuple[int, ...]]
"""How deep the parts of a product of so many rows, columns and such a depth had better be."""

_BY_CHANNEL: Final = frozenset({"batch_norm", "broadcast_to", "quantize", "dequantize"})
"""Elementwise by kind, but not the same on some columns: an attribute names an axis or a shape."""


@dataclass(frozen=True, slots=True)
class SplitProducts:
    """The pass. parts: into what a product is split; one part leaves it as it is."""

    parts: Parts

    def __call__(self, module: IRModule) -> IRModule:
        """Replace products that are too deep by sums."""
        split = map_functions(module, lambda function: _Splitting(function, self.parts).run())
        return module if split is module else eliminate_dead_code(split)


class _Splitting(Rewriter):
    """`columns` are the columns of values of the old function that the new one has."""

    def __init__(self, function: Function, parts: Parts) -> None:
        super().__init__(function)
        self.parts = parts
        self.bound = {binding.var: binding.value for binding in function.bindings}
        self.columns: dict[tuple[GraphExpr, int, int], GraphExpr] = {}
        self.readers: dict[Var, set[Var | None]] = defaultdict(set)
        for binding in function.bindings:
            self._note_reader(binding.value, binding.var)
        self._note_reader(function.result, None)

    def _note_reader(self, value: GraphExpr, reader: Var | None) -> None:
        for atom in atoms_of(value):
            if isinstance(atom, Var):
                self.readers[atom].add(reader)

    def run(self) -> Function:
        for binding in self.function.bindings:
            matrix = _constant_matrix(binding.value)
            if matrix is None or len(self._depths(binding.value, matrix)) == 1:
                self.copy_binding(binding)
            else:
                total = self._product(binding.var, matrix).replace(span=binding.value.span)
                self.alias_new(binding.var, self.emit(total, like=binding.var))
        return self.finish()

    def _depths(self, product: GraphExpr, matrix: np.ndarray) -> tuple[int, ...]:
        rows = nominal_size(shape_of(product)[:-1])
        depth, columns = matrix.shape
        return self.parts(rows, columns, depth)

    def _product(self, var: Var, matrix: np.ndarray) -> GraphExpr:
        """What `var`, a product, is for some columns of its matrix: a sum if it is deep."""
        call = self.bound[var]
        assert isinstance(call, Call)
        depths = self._depths(call, matrix)
        x = call.args[0]
        if len(depths) == 1:
            return op.matmul(self.resolve(x), Constant(np.ascontiguousarray(matrix)))
        made = self._made_by_parts(x, var)
        total: GraphExpr | None = None
        for start, stop in pairwise(accumulate(depths, initial=0)):
            part = op.matmul(
                self._columns(x, start, stop, made),
                Constant(np.ascontiguousarray(matrix[start:stop])),
            )
            if total is not None:
                part = op.add(self.emit(part, name=f"{var.name}_part"), total)
            total = part if stop == matrix.shape[0] else self.emit(part, name=f"{var.name}_sum")
        assert total is not None
        return total

    def _made_by_parts(self, x: GraphExpr, reader: Var) -> set[Var]:
        """The values behind `x` whose columns are computed by parts, for nothing but `reader` needs
        them: elementwise work up to products, and these. No value at all without a product."""
        columns = _columns_of(x)
        made: set[Var] = set()
        waiting = [x]
        while waiting:
            item = waiting.pop()
            if not isinstance(item, Var) or item in made:
                continue
            if not self.readers[item] <= {*made, reader}:
                continue  # if all its readers come to be computed so, the last one leads here again
            value = self.bound.get(item)
            if _constant_matrix(value) is not None:
                made.add(item)
            elif isinstance(value, Call) and _works_by_column(value):
                made.add(item)
                waiting += [arg for arg in value.args if _has_columns(arg, columns)]
        products = any(_constant_matrix(self.bound[item]) is not None for item in made)
        return made if products else set()

    def _columns(self, item: GraphExpr, start: int, stop: int, made: set[Var]) -> GraphExpr:
        """Some columns of a value of the old function."""
        key = item, start, stop
        if key not in self.columns:
            value = self._value_of_columns(item, start, stop, made)
            name = f"{item.name}_columns" if isinstance(item, Var) else ""
            self.columns[key] = self.emit(value, name=name)
        return self.columns[key]

    def _value_of_columns(
        self, item: GraphExpr, start: int, stop: int, made: set[Var]
    ) -> GraphExpr:
        if isinstance(item, Constant):
            return Constant(np.ascontiguousarray(item.data[..., start:stop]))
        if item not in made:
            return op.slice(self.resolve(item), starts=(start,), ends=(stop,), axes=(-1,))
        assert isinstance(item, Var)
        value = self.bound[item]
        assert isinstance(value, Call)
        matrix = _constant_matrix(value)
        if matrix is not None:
            return self._product(item, matrix[:, start:stop]).replace(span=value.span)
        columns = _columns_of(item)
        args = [
            self._columns(arg, start, stop, made)
            if _has_columns(arg, columns)
            else self.resolve(arg)
            for arg in value.args
        ]
        return value.callee(*args, **value.attrs).replace(span=value.span)


def _constant_matrix(value: object) -> np.ndarray | None:
    """The matrix [depth, columns] of floats that a value is a product with, or None."""
    if op_name(value) != "matmul":
        return None
    assert isinstance(value, Call)
    x, weight = value.args
    if not isinstance(weight, Constant) or weight.data.ndim != 2 or len(shape_of(x)) < 2:
        return None
    if weight.data.dtype not in (np.float32, np.float64) or value.attrs.get("transpose_a"):
        return None
    if value.attrs.get("out_dtype") is not None:
        return None
    return weight.data.T if value.attrs.get("transpose_b") else weight.data


def _columns_of(item: GraphExpr) -> int:
    """The columns of an operand of a product with a constant matrix, which tells them."""
    columns = as_int(shape_of(item)[-1])
    assert columns is not None
    return columns


def _works_by_column(call: Call) -> bool:
    """Whether a call does the same on some columns of its operands."""
    if op_name(call) in ("", *_BY_CHANNEL) or tensor_type(call) is None:
        return False
    return call.callee.kind in ("elementwise", "broadcast")


def _has_columns(item: GraphExpr, columns: int) -> bool:
    """Whether an operand has so many columns, rather than one for all of them."""
    return columns != 1 and as_int(next(reversed(shape_of(item)), None)) == columns
