# SPDX-License-Identifier: Apache-2.0
"""Printing of scalar expressions: iterative, so that depth is bounded by memory only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from heddle.ir import INT64, DType, Node
from heddle.ir import expr as E
from heddle.ir.node import init_fields
from heddle.ir.types import (
    DataType,
    FunctionType,
    SelfType,
    TensorType,
    TupleType,
    Type,
)
from heddle.script.names import Names, quote
from heddle.script.numbers import NUMBERS, call_context, call_dtype, number_text, typed_text
from heddle.tir.intrin import INTRINSICS
from heddle.tir.nodes import Buffer, BufferLoad, BufferRegion, Range

# Binding strength of Python's operators.
OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, ATOM = range(1, 9)
MAX_PIECES: Final = 4000
MAX_DEPTH: Final = 60
_ALIAS_DEPTH: Final = 30
_ALIAS_SIZE: Final = 200

_BINARY: Final[Mapping[type, tuple[str, int, int, int]]] = {
    E.Add: ("+", SUM, SUM, PRODUCT),
    E.Sub: ("-", SUM, SUM, PRODUCT),
    E.Mul: ("*", PRODUCT, PRODUCT, UNARY),
    E.Div: ("/", PRODUCT, PRODUCT, UNARY),
    E.FloorDiv: ("//", PRODUCT, PRODUCT, UNARY),
    E.FloorMod: ("%", PRODUCT, PRODUCT, UNARY),
    E.EQ: ("==", COMPARE, SUM, SUM),
    E.NE: ("!=", COMPARE, SUM, SUM),
    E.LT: ("<", COMPARE, SUM, SUM),
    E.LE: ("<=", COMPARE, SUM, SUM),
    E.GT: (">", COMPARE, SUM, SUM),
    E.GE: (">=", COMPARE, SUM, SUM),
    E.And: ("and", AND, AND, NOT),
    E.Or: ("or", OR, OR, AND),
}
_FUNCTIONS: Final[Mapping[type, str]] = {
    E.TruncDiv: "truncdiv",
    E.TruncMod: "truncmod",
    E.Min: "min",
    E.Max: "max",
}
# Names under `T` that mean something else than an intrinsic.
KEYWORDS: Final = frozenset(
    "Buffer alias alloc_buffer allocate axis block block_attr bool broadcast call cast dtype "
    "evaluate func_attr grid init let match_buffer max min opaque parallel prim_func ramp reads "
    "select seq serial truncdiv truncmod unrolled var vectorized where writes".split()
)


class TooLargeError(Exception):
    """An expression is too large or too deep to stand in one line."""


class Typed:
    """A number that has to be spelled with its dtype."""

    __slots__ = ("node",)

    def __init__(self, node: Any) -> None:
        self.node = node


Item: TypeAlias = tuple[Any, int, "DType | None"]
Piece: TypeAlias = str | Item


class ExprPrinter:
    """Text of expressions, types and attribute values, with the names of `names`."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.pending: dict[Node, str] = {}
        self.bounded = False

    def text(self, root: Any, expected: DType | None = None, level: int = 0) -> str:
        """`root` as Python; in brackets when it binds less than `level`.

        Raises `TooLargeError` for an expression that does not fit a line, while `bounded`.
        """
        output: list[str] = []
        stack: list[tuple[Piece, int]] = [((root, level, expected), 0)]
        while stack:
            piece, depth = stack.pop()
            if isinstance(piece, str):
                output.append(piece)
                continue
            if self.bounded and (len(output) > MAX_PIECES or depth > MAX_DEPTH):
                raise TooLargeError
            stack.extend((part, depth + 1) for part in reversed(self.pieces(*piece)))
        return "".join(output)

    def pieces(self, node: Any, level: int, expected: DType | None) -> list[Piece]:
        """One step of printing: strings, and the operands with the level they need."""
        if type(node) is Typed:
            return [typed_text(node.node)]
        alias = None if isinstance(node, E.Var) else self.names.find(node)
        if alias is not None:
            return [alias]
        operator = _BINARY.get(type(node))
        if operator is not None:
            sign, own, left, right = operator
            a, b = self.operands(node)
            middle: list[Piece] = [(a, left, node.b.dtype), f" {sign} ", (b, right, node.a.dtype)]
            return ["(", *middle, ")"] if own < level else middle
        handler = _HANDLERS.get(type(node))
        if handler is not None:
            return handler(self, node, level, expected)
        return [self.fallback(node)]

    def operands(self, node: Any) -> tuple[Any, Any]:
        """Both operands; of two numbers, the first must carry the dtype."""
        if isinstance(node.a, NUMBERS) and isinstance(node.b, NUMBERS):
            return Typed(node.a), node.b
        return node.a, node.b

    def var(self, node: E.Var) -> str:
        """A variable: its declaration where it is pending, else its name."""
        return self.pending.pop(node) if node in self.pending else self.names.of(node)

    def call(self, node: E.Call, level: int, expected: DType | None) -> list[Piece]:
        plain = node.name in INTRINSICS and node.name not in KEYWORDS
        context = call_context(node.name, node.args) if plain else None
        parts: list[list[Piece]] = [[(arg, 0, context)] for arg in node.args]
        if not plain:
            parts.insert(0, [quote(node.name)])
        if not plain or node.dtype is not call_dtype(node.name, node.args):
            parts.append([f'dtype="{node.dtype}"'])
        if node.attrs is not None:
            parts.append([f"attrs={self.value(node.attrs)}"])
        return [f"T.{node.name if plain else 'call'}(", *_join(parts), ")"]

    def load(self, node: BufferLoad, level: int, expected: DType | None) -> list[Piece]:
        parts: list[list[Piece]] = [[(index, 0, None)] for index in node.indices]
        return [f"{self.names.of(node.buffer)}[", *(_join(parts) or ["()"]), "]"]

    def let(self, node: E.Let, level: int, expected: DType | None) -> list[Piece]:
        # The name stays taken: the body is printed later, when this call is long over.
        name = self.names.find(node.var) or self.names.define(node.var, node.var.name)
        return [f"T.let({name}, ", (node.value, 0, None), ", ", (node.body, 0, None), ")"]

    def region(self, region: BufferRegion) -> str:
        """`A[i, 0:n]`"""
        parts = [self.range(item) for item in region.ranges]
        return f"{self.names.of(region.buffer)}[{', '.join(parts) or '()'}]"

    def range(self, item: Range) -> str:
        low, extent = item.min, item.extent
        if _is_int64(extent) and extent.value == 1:  # type: ignore[attr-defined]
            return self.text(low)
        start = self.text(low)
        if _is_int64(low):
            if _is_int64(extent):
                return f"{start}:{low.value + extent.value}"  # type: ignore[attr-defined]
            if low.value == 0:  # type: ignore[attr-defined]
                return f"{start}:{self.text(extent)}"
            return f"{start}:{typed_text(low)} + {self.text(extent, low.dtype, PRODUCT)}"
        return f"{start}:{self.text(low, None, SUM)} + {self.text(extent, low.dtype, PRODUCT)}"

    def shape(self, dims: Iterable[E.Expr]) -> str:
        """A tuple of expressions."""
        return _tuple([self.text(dim) for dim in dims])

    def type(self, node: Type) -> str:
        """A type, as the graph level writes it."""
        if isinstance(node, TensorType):
            return f'G.Tensor({self.shape(node.shape)}, "{node.dtype}")'
        if isinstance(node, TupleType):
            return f"G.Tuple({', '.join(self.type(item) for item in node.fields)})"
        if isinstance(node, FunctionType):
            params = _tuple([self.type(item) for item in node.params])
            return f"G.Func({params}, {self.type(node.result)})"
        if isinstance(node, SelfType):
            return "G.Self"
        if isinstance(node, DataType):
            forms = [
                f"{item.name}={_tuple([self.type(f) for f in item.fields])}"
                for item in node.constructors
            ]
            return f"G.Data({', '.join([quote(node.name), *forms])})"
        return self.fallback(node)

    def value(self, value: Any) -> str:
        """An attribute value as Python text that the parser reads back."""
        if isinstance(value, float) and type(value) is float:
            finite = value == value and value not in (float("inf"), float("-inf"))
            return repr(value) if finite else f'float("{value}")'
        if type(value) is str:
            return quote(value)
        if value is None or type(value) in (bool, int, bytes):
            return repr(value)
        if isinstance(value, tuple) and type(value) is tuple:
            return _tuple([self.value(item) for item in value])
        if isinstance(value, list):
            return f"[{', '.join(self.value(item) for item in value)}]"
        if isinstance(value, Mapping):
            items = (f"{self.value(key)}: {self.value(item)}" for key, item in value.items())
            return f"{{{', '.join(items)}}}"
        if isinstance(value, DType):
            return f'T.dtype("{value}")'
        if isinstance(value, (E.IntImm, E.FloatImm)):
            return typed_text(value)
        if isinstance(value, E.StringImm):
            return f"T.string({quote(value.value)})"
        if isinstance(value, E.Expr):
            return self.text(value)
        if isinstance(value, Type):
            return self.type(value)
        return f"T.opaque({quote(repr(value))})"

    def fallback(self, node: Any) -> str:
        """A node of a class that has no syntax of its own (printed only, not parsed)."""
        if not isinstance(node, Node):
            return repr(node)
        fields = (getattr(node, spec.name) for spec in init_fields(type(node)))
        return f"{type(node).__name__}({', '.join(self._field(item) for item in fields)})"

    def _field(self, value: Any) -> str:
        if isinstance(value, E.Expr):
            return self.text(value)
        if isinstance(value, Buffer):
            return self.names.of(value)
        if isinstance(value, tuple):
            return _tuple([self._field(item) for item in value])
        if isinstance(value, Node):
            return getattr(value, "name", None) or type(value).__name__
        name = getattr(value, "name", None)
        return name if isinstance(name, str) else repr(value)


def _is_int64(node: Any) -> bool:
    return isinstance(node, E.IntImm) and node.dtype is INT64


def _join(parts: list[list[Piece]]) -> list[Piece]:
    joined: list[Piece] = []
    for part in parts:
        joined.extend([", ", *part] if joined else part)
    return joined


def _tuple(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _function(printer: ExprPrinter, node: Any, level: int, expected: Any) -> list[Piece]:
    a, b = printer.operands(node)
    name = _FUNCTIONS[type(node)]
    return [f"T.{name}(", (a, 0, node.b.dtype), ", ", (b, 0, node.a.dtype), ")"]


def _select(printer: ExprPrinter, node: Any, level: int, expected: Any) -> list[Piece]:
    a, b = printer.operands(node)
    ab: list[Piece] = [(a, 0, node.b.dtype), ", ", (b, 0, node.a.dtype)]
    return ["T.select(", (node.condition, 0, None), ", ", *ab, ")"]


def _not(printer: ExprPrinter, node: Any, level: int, expected: Any) -> list[Piece]:
    operand = Typed(node.a) if isinstance(node.a, NUMBERS) else node.a
    middle: list[Piece] = ["not ", (operand, NOT, None)]
    return ["(", *middle, ")"] if NOT < level else middle


_HANDLERS: Final[Mapping[type, Callable[..., list[Piece]]]] = {
    E.Var: lambda p, n, level, expected: [p.var(n)],
    E.IntImm: lambda p, n, level, expected: [number_text(n, expected)],
    E.FloatImm: lambda p, n, level, expected: [number_text(n, expected)],
    E.StringImm: lambda p, n, level, expected: [quote(n.value)],
    E.Not: _not,
    E.Select: _select,
    E.Cast: lambda p, n, level, expected: ["T.cast(", (n.value, 0, None), f', "{n.dtype}")'],
    E.Ramp: lambda p, n, level, expected: [
        *("T.ramp(", (n.base, 0, None), ", ", (n.stride, 0, None), f", {n.lanes})")
    ],
    E.Broadcast: lambda p, n, level, expected: [
        *("T.broadcast(", (n.value, 0, None), f", {n.lanes})")
    ],
    E.Call: ExprPrinter.call,
    E.Let: ExprPrinter.let,
    BufferLoad: ExprPrinter.load,
    **dict.fromkeys(_FUNCTIONS, _function),
}


def plan_aliases(roots: Iterable[Node]) -> list[Node]:
    """The subexpressions to name so that each line stays small, operands before users.

    Shared subexpressions and those that pass a depth or a size are chosen; nothing below the body
    of a `Let`, where a name from outside could not see the variable.
    """
    chosen: dict[Node, None] = {}
    measures: dict[Node, tuple[int, int]] = {}
    uses: dict[Node, int] = {}
    order = _operands_first(roots, uses)
    for node in order:
        depth, size = 1, 1
        for child in _visible(node):
            child_depth, child_size = (1, 1) if child in chosen else measures[child]
            depth, size = max(depth, child_depth + 1), size + child_size
        measures[node] = depth, size
        shared = uses[node] > 1 and size > 2
        if isinstance(node, E.Expr) and (depth > _ALIAS_DEPTH or size > _ALIAS_SIZE or shared):
            chosen[node] = None
    return list(chosen)


def _visible(node: Node) -> tuple[Node, ...]:
    return (node.value,) if isinstance(node, E.Let) else node.children()


def _operands_first(roots: Iterable[Node], uses: dict[Node, int]) -> list[Node]:
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
            continue
        uses[node] = uses.get(node, 0) + 1
        if node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(_visible(node)))
    return order
