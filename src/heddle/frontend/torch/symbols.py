# SPDX-License-Identifier: Apache-2.0
"""Symbolic dimensions: sympy expressions of a torch export as integer expressions of Heddle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import sympy
import torch

from heddle.frontend.torch.report import Unsupported
from heddle.graph.dims import simplify_dim
from heddle.ir import expr as e
from heddle.passes.graph.host_plan import SYMBOL_MAX

Dim: TypeAlias = int | e.Expr


def _fold(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(first: Any, *rest: Any) -> Any:
        for item in rest:
            first = function(first, item)
        return first

    return apply


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "Add": _fold(lambda a, b: a + b),
    "Mul": _fold(lambda a, b: a * b),
    "Max": _fold(e.maximum),
    "Min": _fold(e.minimum),
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "CeilDiv": lambda a, b: -((-a) // b),
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "ModularIndexing": lambda a, b, c: (a // b) % c,
    "Identity": lambda a: a,
    "TruncToInt": lambda a: a,
}


class Symbols:
    """The symbols of one program: `dim` turns what torch says of a size into ours."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """names: how symbols of torch ("s77") are to be called."""
        self._names = dict(names or {})
        self._vars: dict[str, e.Expr] = {}
        self._ranges: dict[str, tuple[int, int]] = {}
        self._wholes: dict[str, e.Expr] = {}
        self._computed: dict[str, e.Expr] = {}
        self._apart: dict[sympy.Basic, e.Expr] = {}

    def dim(self, value: Any) -> Dim:
        """A size: an integer, or an expression of symbols. `Unsupported` when it depends on data
        or is no polynomial of symbols with floor divisions."""
        if isinstance(value, int):
            return value
        if not isinstance(value, torch.SymInt):
            raise Unsupported(f"a size that is a {type(value).__name__}")
        return self.of_sympy(value.node.expr)

    def shape(self, dims: Any) -> tuple[Dim, ...]:
        """The dimensions of a shape."""
        return tuple(self.dim(dim) for dim in dims)

    def of_sympy(self, value: sympy.Expr) -> Dim:
        """An integer expression of sympy."""
        found = self._convert(value)
        known = e.as_int(found) if isinstance(found, e.Expr) else int(found)
        if known is not None:
            return known
        assert isinstance(found, e.Expr)
        return simplify_dim(found)

    def _convert(self, value: sympy.Basic) -> Any:
        if value in self._apart:
            return self._apart[value]
        if isinstance(value, sympy.Integer):
            return e.const(int(value))
        if isinstance(value, sympy.Symbol):
            return self._symbol(value)
        if isinstance(value, sympy.Pow) and isinstance(value.exp, sympy.Integer):
            if value.exp > 0:
                base = self._convert(value.base)
                return _FUNCTIONS["Mul"](*[base] * int(value.exp))
        if isinstance(value, sympy.Mul):
            return self._product(value)
        convert = _FUNCTIONS.get(type(value).__name__)
        if convert is None:
            raise Unsupported(f"the size {value} (a {type(value).__name__}) is computed")
        return convert(*(self._convert(argument) for argument in value.args))

    def _product(self, value: sympy.Mul) -> Any:
        """Products; torch writes exact divisions as products with a rational."""
        above, below = sympy.fraction(value)
        if below == 1:
            return _FUNCTIONS["Mul"](*(self._convert(item) for item in value.args))
        return self._convert(above) // self._convert(below)

    def _symbol(self, symbol: sympy.Symbol) -> e.Expr:
        name = symbol.name
        if name not in self._vars:
            raise Unsupported(
                f"the size `{name}` depends on data"
                if name.startswith("u")
                else f"the size `{name}` is the size of no input"
            )
        return self._vars[name]

    def bind_bare(self, values: Any) -> None:
        """Define the symbols that are themselves among these sizes, before `bind` has to derive
        them from sizes that are computed."""
        for value in values:
            if isinstance(value, torch.SymInt) and isinstance(value.node.expr, sympy.Symbol):
                self.bind(value)

    def knows(self, value: torch.SymInt) -> bool:
        """Whether all symbols of a size are defined."""
        expression = value.node.expr
        known = all(symbol.name in self._vars for symbol in expression.free_symbols)
        return known or expression in self._apart

    def bind(self, value: Any) -> Dim:
        """The dimension of a parameter; it defines the symbol that occurs in it when nothing did
        before. Of a size a * s + b the symbol is one d for the whole, and s is (d - b) // a: the
        dimension is that expression of d, which for legal sizes is d. Of any other size the symbol
        is one for the whole that says nothing of s."""
        if isinstance(value, int):
            return value
        expression = value.node.expr
        if isinstance(expression, sympy.Integer):
            return int(expression)
        unknown = [s for s in expression.free_symbols if s.name not in self._vars]
        if not unknown:
            return self.of_sympy(expression)
        low, high = _bounds(value, expression)
        if isinstance(expression, sympy.Symbol):
            return self._define(expression.name, expression.name, low, high)
        symbol = unknown[0]
        slope = sympy.expand(expression).coeff(symbol, 1)
        offset = sympy.expand(expression - slope * symbol)
        if not (slope.is_Integer and offset.is_Integer and slope > 0):
            # Not a linear function of one symbol: a symbol that knows nothing of the others.
            self._apart[expression] = whole = self._define(str(expression), "size", low, high)
            return whole
        derived = self._define(str(expression), str(expression), low, high)
        self._vars[symbol.name] = (derived - int(offset)) // int(slope)
        self._wholes[str(expression)] = derived
        return derived if slope == 1 else self.of_sympy(expression)

    def define(self, size: Any, value: e.Expr) -> None:
        """Let a size that depends on data ("u0") be `value`, a symbol bound at run time."""
        if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
            self._vars[size.node.expr.name] = value

    def axis(self, value: Any, name: str) -> Dim:
        """What a parameter declares for the dimension that `bind` gives: the same where that is a
        number or a symbol, else a symbol for its size."""
        bound = self.bind(value)
        if not isinstance(bound, e.Expr) or isinstance(bound, e.Var):
            return bound
        whole = self._wholes.get(str(value.node.expr))
        if whole is None:
            whole = self._define(name, name, 0, SYMBOL_MAX)
        assert isinstance(whole, e.Var)
        self._computed[whole.name] = bound
        return whole

    def _define(self, key: str, name: str, low: int, high: int) -> e.Expr:
        clean = re.sub(r"\W+", "_", self._names.get(name, name)).strip("_") or "dim"
        while clean in self._ranges:
            clean += "_"
        self._vars[key] = variable = e.Var(clean)
        self._ranges[clean] = (low, high)
        return variable

    @property
    def computed(self) -> dict[str, e.Expr]:
        """The values that symbols must have given the others, for the attribute
        "symbol_values"."""
        return dict(self._computed)

    @property
    def ranges(self) -> dict[str, tuple[int, int]]:
        """The smallest and largest legal value of each symbol, for the attribute
        "symbol_ranges"."""
        return dict(self._ranges)


def _bounds(value: torch.SymInt, expression: sympy.Expr) -> tuple[int, int]:
    """The range in which the program holds. Sizes 0 and 1 are excluded by torch only because it
    specialises on them, but its graph is right for its range alone."""
    bounds = value.node.shape_env.bound_sympy(expression)
    low = int(bounds.lower) if bounds.lower.is_finite else 0
    high = int(bounds.upper) if bounds.upper.is_finite and bounds.upper.is_Integer else SYMBOL_MAX
    return max(0, low), min(high, SYMBOL_MAX)
