# SPDX-License-Identifier: Apache-2.0
"""Parsing of scalar expressions, types and attribute values.

Expressions are built as they are written: `x + 0` stays a sum. Only arithmetic on plain numbers
is computed here (`128 // 16` is 8).
"""

from __future__ import annotations

import ast
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from heddle.graph.data import data_type
from heddle.ir import BOOL, INT64, DType
from heddle.ir import expr as E
from heddle.ir.types import (
    Constructor,
    DataType,
    FunctionType,
    SelfType,
    TensorType,
    TupleType,
    Type,
)
from heddle.runtime.data import Adt
from heddle.script.numbers import call_context, call_dtype, number
from heddle.script.parse_base import Declared, Macro, ParserBase, suggestion
from heddle.script.views import View
from heddle.support import UserError
from heddle.tir.intrin import INTRINSICS
from heddle.tir.nodes import Buffer, BufferLoad

_BINARY: Final[Mapping[type, tuple[Callable[..., Any], Any]]] = {
    ast.Add: (operator.add, E.Add),
    ast.Sub: (operator.sub, E.Sub),
    ast.Mult: (operator.mul, E.Mul),
    ast.Div: (operator.truediv, E.Div),
    ast.FloorDiv: (operator.floordiv, E.FloorDiv),
    ast.Mod: (operator.mod, E.FloorMod),
}
_COMPARE: Final[Mapping[type, tuple[Callable[..., Any], Any]]] = {
    ast.Eq: (operator.eq, E.EQ),
    ast.NotEq: (operator.ne, E.NE),
    ast.Lt: (operator.lt, E.LT),
    ast.LtE: (operator.le, E.LE),
    ast.Gt: (operator.gt, E.GT),
    ast.GtE: (operator.ge, E.GE),
}
_BITS: Final = {
    ast.BitAnd: "bitwise_and",
    ast.BitOr: "bitwise_or",
    ast.BitXor: "bitwise_xor",
    ast.LShift: "shift_left",
    ast.RShift: "shift_right",
}
_TWO: Final[Mapping[str, Any]] = {
    "min": E.Min,
    "max": E.Max,
    "truncdiv": E.TruncDiv,
    "truncmod": E.TruncMod,
}
_NUMBER: Final = (bool, int, float)


class ExprParser(ParserBase):
    """Scalar expressions. `value` gives a plain number or an `Expr`; `scalar` always an `Expr`."""

    def scalar(self, node: ast.expr, expected: DType | None = None) -> E.Expr:
        """`node` as an expression; a plain number takes the dtype `expected`."""
        return self.to_expr(node, self.value(node), expected)

    def to_expr(self, node: ast.AST, value: Any, expected: DType | None = None) -> E.Expr:
        if isinstance(value, E.Expr):
            return value
        if isinstance(value, _NUMBER):
            with self.located(node):
                made = number(value, expected)
            return self.spanned(made, node)
        if isinstance(value, str):
            return E.StringImm(value, span=self.span(node))
        if isinstance(value, (Buffer, View)):
            self.fail(node, f"`{value.name}` is a buffer; read an element of it: {value.name}[...]")
        self.fail(node, f"expected an expression, got {type(value).__name__}")

    def condition(self, node: ast.expr) -> E.Expr:
        """`node` as a boolean expression."""
        made = self.scalar(node)
        if not made.dtype.is_bool:
            self.fail(node, f"expected a condition (bool), got {made.dtype}")
        return made

    def integer(self, node: ast.expr, what: str) -> int:
        """`node` as a Python integer."""
        value = self.value(node)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(node, f"{what} must be an integer constant")
        return value

    def string(self, node: ast.expr, what: str) -> str:
        """`node` as a Python string."""
        value = self.value(node)
        if not isinstance(value, str):
            self.fail(node, f"{what} must be a string")
        return value

    def dtype(self, node: ast.expr) -> DType:
        """`"float32"`, `T.float32`, or a name for such a string."""
        name = self.namespaced(node, "T")
        value = name if name is not None else self.value(node)
        if isinstance(value, DType):
            return value
        if not isinstance(value, str):
            self.fail(node, 'expected a dtype such as "float32"')
        with self.located(node):
            return DType.of(value)

    def spanned(self, made: E.Expr, node: ast.AST) -> E.Expr:
        """`made`, just built, with the position of `node`."""
        made.span = self.span(node)
        return made

    # -- dispatch ----------------------------------------------------------------------------

    def value(self, node: ast.AST) -> Any:
        """A plain number or string, an expression, or a buffer."""
        handler = _HANDLERS.get(type(node))
        if handler is None:
            self.fail(node, f"{_describe(node)} is not part of the script language")
        return handler(self, node)

    def constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, (bool, int, float, str)):
            return node.value
        self.fail(node, f"the constant {node.value!r} has no meaning here")

    def name(self, node: ast.Name) -> Any:
        found = self.lookup(node.id)
        if found is None:
            found = self.outer_value(node.id)
        if isinstance(found, Declared):
            return found.var
        if found is not None:
            return found
        if not self.implicit_symbols:
            self.unknown_name(node, node.id)
        return self.symbol(node.id, INT64)

    def symbol(self, name: str, dtype: DType) -> E.Var:
        """A symbolic dimension, which its first use declares."""
        var = E.Var(name, dtype)
        self.scopes[min(1, len(self.scopes) - 1)][name] = var
        return var

    def attribute(self, node: ast.Attribute) -> Any:
        if isinstance(node.value, ast.Name) and self.lookup(node.value.id) is None:
            base = self.outer_value(node.value.id)
            value = getattr(base, node.attr, None) if isinstance(base, types.ModuleType) else None
            if isinstance(value, (*_NUMBER, str, DType)):
                return value
        self.fail(node, f"`{ast.unparse(node)}` is not a value")

    def sequence(self, node: ast.Tuple | ast.List) -> Any:
        return tuple(self.value(item) for item in node.elts)

    # -- operators ---------------------------------------------------------------------------

    def binary(self, node: ast.BinOp) -> Any:
        """A sum may have thousands of terms: the left spine is walked in a loop."""
        spine = [node]
        while isinstance(spine[-1].left, ast.BinOp):
            spine.append(spine[-1].left)
        left = self.value(spine[-1].left)
        for item in reversed(spine):
            left = self.combine(item, left, self.value(item.right))
        return left

    def combine(self, node: ast.BinOp, a: Any, b: Any) -> Any:
        if type(node.op) in _BITS:
            return self.bits(node, a, b)
        pair = _BINARY.get(type(node.op))
        if pair is None:
            self.fail(node, f"the operator in `{_short(node)}` is not part of the script language")
        plain, kind = pair
        if isinstance(a, _NUMBER) and isinstance(b, _NUMBER):
            try:
                return plain(a, b)
            except ZeroDivisionError:
                self.fail(node, "division by the constant zero")
        return self.build(node, kind, a, b)

    def build(self, node: ast.AST, kind: Any, a: Any, b: Any) -> E.Expr:
        """The node `kind` of two operands, after the checks that the builders make."""
        left, right = self.pair(node, a, b)
        with self.located(node):
            _check_operands(kind, left, right)
        made: E.Expr = kind(left, right, span=self.span(node))
        return made

    def pair(self, node: ast.AST, a: Any, b: Any) -> tuple[E.Expr, E.Expr]:
        """Two operands in one dtype; a plain number takes the other's."""
        left = self.to_expr(node, a, b.dtype if isinstance(b, E.Expr) else None)
        right = self.to_expr(node, b, left.dtype)
        if not isinstance(a, E.Expr) and not isinstance(b, E.Expr):
            left = self.to_expr(node, a, right.dtype)
        if left.dtype is right.dtype:
            return left, right
        try:
            return E._pair(left, right, f"`{_short(node)}`")
        except UserError as error:
            self.fail(node, error.message)

    def bits(self, node: ast.BinOp, a: Any, b: Any) -> E.Expr:
        left, right = self.pair(node, a, b)
        if left.dtype.is_bool and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
            kind = E.And if isinstance(node.op, ast.BitAnd) else E.Or
            return kind(left, right, span=self.span(node))
        return self.intrinsic(node, _BITS[type(node.op)], [left, right], None, None)

    def unary(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return E.Not(self.condition(node.operand), span=self.span(node))
        if isinstance(node.op, ast.UAdd):
            return value
        if isinstance(node.op, ast.Invert):
            made = self.to_expr(node, value)
            if made.dtype.is_bool:
                return E.Not(made, span=self.span(node))
            return self.intrinsic(node, "bitwise_not", [made], None, None)
        if isinstance(value, _NUMBER):
            return -value
        made = self.to_expr(node, value)
        return E.Sub(E.const(0, made.dtype), made, span=self.span(node))

    def compare(self, node: ast.Compare) -> Any:
        parts = [node.left, *node.comparators]
        values = [self.value(part) for part in parts]
        result: Any = None
        for op, a, b in zip(node.ops, values, values[1:], strict=False):
            pair = _COMPARE.get(type(op))
            if pair is None:
                self.fail(node, f"`{_short(node)}`: this comparison is not part of the language")
            plain, kind = pair
            numbers = isinstance(a, _NUMBER) and isinstance(b, _NUMBER)
            one = plain(a, b) if numbers else kind(*self.pair(node, a, b), span=self.span(node))
            result = one if result is None else self.junction(node, E.And, result, one)
        return result

    def boolean(self, node: ast.BoolOp) -> Any:
        kind = E.And if isinstance(node.op, ast.And) else E.Or
        result = self.value(node.values[0])
        for item in node.values[1:]:
            result = self.junction(node, kind, result, self.value(item))
        return result

    def junction(self, node: ast.AST, kind: Any, a: Any, b: Any) -> Any:
        if isinstance(a, bool) and isinstance(b, bool):
            return (a and b) if kind is E.And else (a or b)
        left, right = self.to_expr(node, a), self.to_expr(node, b)
        for item in (left, right):
            if not item.dtype.is_bool:
                self.fail(node, f"`{_short(node)}` needs conditions (bool), got {item.dtype}")
        return kind(left, right, span=self.span(node))

    def conditional(self, node: ast.IfExp) -> E.Expr:
        args = [node.test, node.body, node.orelse]
        return self.intrinsic(node, "if_then_else", [self.value(a) for a in args], None, None)

    # -- buffers and calls -------------------------------------------------------------------

    def subscript(self, node: ast.Subscript) -> BufferLoad:
        buffer, indices = self.element(node)
        return BufferLoad(buffer, indices, span=self.span(node))

    def element(self, node: ast.Subscript) -> tuple[Buffer, tuple[E.Expr, ...]]:
        """The buffer and the indices of `A[i, j]`."""
        found = self.value(node.value)
        if isinstance(found, View):
            return found.region.buffer, found.place(self.indices(node, found))
        if not isinstance(found, Buffer):
            self.fail(node.value, f"`{_short(node.value)}` is not a buffer")
        return found, self.indices(node, found)

    def indices(self, node: ast.Subscript, buffer: Buffer | View) -> tuple[E.Expr, ...]:
        """The indices of an element of `buffer`."""
        index = node.slice
        items = index.elts if isinstance(index, ast.Tuple) else [index]
        for item in items:
            if isinstance(item, ast.Slice):
                self.fail(item, "a range is no index; it has a meaning in T.reads and T.writes")
        made = tuple(self.scalar(item) for item in items)
        if len(items) != buffer.ndim:
            self.fail(
                node,
                f"buffer `{buffer.name}` has {buffer.ndim} dimensions, got {len(items)} indices",
            )
        for item, value in zip(items, made, strict=True):
            if not value.dtype.is_int:
                self.fail(item, f"an index must be an integer, got {value.dtype}")
        return made

    def call(self, node: ast.Call) -> Any:
        name = self.called(node)
        macro = self.macro(node)
        if macro is not None:
            return self.expand(node, macro)
        if name is None:
            if isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
                return self.two_operands(node, node.func.id)
            self.fail(node, f"`{_short(node.func)}` is not a function of the script language")
        if name in _CALLS:
            return _CALLS[name](self, node)
        if name in _TWO or name == "select":
            return self.two_operands(node, name)
        if name in INTRINSICS:
            return self.keyword_intrinsic(node, name, list(node.args))
        if _is_dtype(name):
            return self.typed(node, DType.of(name))
        known = {*INTRINSICS, *_CALLS, *_TWO, "select", "float32", "int64"}
        self.fail(node.func, f"there is no `T.{name}`{suggestion(name, known)}")

    def expand(self, node: ast.Call, macro: Macro) -> Any:
        """The value of a macro whose body is one `return`."""
        values = self.macro_arguments(node, macro)
        body = macro.body()
        if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
            self.fail(node, f"macro `{macro.node.name}` is made of statements and has no value")
        with self.inside(macro, values, node):
            return self.value(body[0].value)

    def macro_arguments(self, node: ast.Call, macro: Macro) -> dict[str, Any]:
        """The arguments of a macro's call by parameter name."""
        parameters = tuple(arg.arg for arg in macro.node.args.args)
        given = self.arguments(node, parameters)
        return {name: self.value(item) for name, item in given.items()}

    def two_operands(self, node: ast.Call, name: str) -> E.Expr:
        if name == "select":
            given = self.arguments(node, ("condition", "a", "b"))
            a, b = self.pair(node, self.value(given["a"]), self.value(given["b"]))
            return E.Select(self.condition(given["condition"]), a, b, span=self.span(node))
        given = self.arguments(node, ("a", "b"))
        a, b = self.value(given["a"]), self.value(given["b"])
        if isinstance(a, _NUMBER) and isinstance(b, _NUMBER) and name in ("min", "max"):
            return min(a, b) if name == "min" else max(a, b)  # type: ignore[return-value]
        return self.build(node, _TWO[name], a, b)

    def keyword_intrinsic(self, node: ast.Call, name: str, args: list[ast.expr]) -> E.Expr:
        dtype, attrs = None, None
        for keyword in node.keywords:
            if keyword.arg == "dtype":
                dtype = self.dtype(keyword.value)
            elif keyword.arg == "attrs":
                attrs = self.attribute_value(keyword.value)
            else:
                self.fail(keyword, f"T.{name} has no argument `{keyword.arg}`")
        known = INTRINSICS.get(name)
        if known is not None and known.arity >= 0 and len(args) != known.arity:
            self.fail(node, f"T.{name} takes {known.arity} arguments, got {len(args)}")
        return self.intrinsic(node, name, [self.value(arg) for arg in args], dtype, attrs)

    def intrinsic(
        self, node: ast.AST, name: str, values: list[Any], dtype: DType | None, attrs: Any
    ) -> E.Expr:
        """The call of an intrinsic; plain numbers take the dtype of the other arguments."""
        context = call_context(name, values) if name in INTRINSICS else None
        args = tuple(self.to_expr(node, value, context) for value in values)
        if name == "if_then_else":
            if not args[0].dtype.is_bool:
                self.fail(node, f"if_then_else needs a condition (bool), got {args[0].dtype}")
            if args[1].dtype is not args[2].dtype:
                args = (args[0], *self.pair(node, values[1], values[2]))
        known = INTRINSICS.get(name)
        if known is not None:
            wanted = known.operands
            for arg in args:
                wrong_float = wanted == "float" and not arg.dtype.is_float
                if wrong_float or (wanted == "int" and not arg.dtype.is_int):
                    self.fail(node, f"T.{name} needs {wanted} operands, got {arg.dtype}")
        result = dtype if dtype is not None else call_dtype(name, args)
        if result is None:
            self.fail(node, f'T.{name}: say the result\'s dtype, e.g. dtype="int32"')
        return E.Call(name, args, result, attrs, span=self.span(node))

    def generic_call(self, node: ast.Call) -> E.Expr:
        """`T.call("name", x, dtype="float32")`"""
        if not node.args:
            self.fail(node, "T.call: the name is missing")
        name = self.string(node.args[0], "the name of T.call")
        return self.keyword_intrinsic(node, name, list(node.args[1:]))

    def typed(self, node: ast.Call, dtype: DType) -> E.Expr:
        """`T.float16(1.5)`, `T.float32("inf")`; of an expression, the conversion."""
        given = self.arguments(node, ("value",))
        value = self.value(given["value"])
        if isinstance(value, E.Expr):
            return E.Cast(value, dtype, span=self.span(node))
        if isinstance(value, str):
            if value not in ("inf", "-inf", "nan") or not dtype.is_float:
                self.fail(node, f'T.{dtype}("{value}"): only a float can be "inf", "-inf", "nan"')
            value = float(value)
        with self.located(node):
            if isinstance(value, float) and not dtype.is_float:
                raise UserError(f"T.{dtype}({value}): not an integer")
            return self.spanned(E.const(value, dtype), node)

    def cast(self, node: ast.Call) -> E.Expr:
        given = self.arguments(node, ("value", "dtype"))
        return E.Cast(self.scalar(given["value"]), self.dtype(given["dtype"]), span=self.span(node))

    def ramp(self, node: ast.Call) -> E.Expr:
        given = self.arguments(node, ("base", "stride", "lanes"))
        base, stride = self.scalar(given["base"]), self.scalar(given["stride"])
        return E.Ramp(base, stride, self.integer(given["lanes"], "lanes"), span=self.span(node))

    def broadcast(self, node: ast.Call) -> E.Expr:
        given = self.arguments(node, ("value", "lanes"))
        lanes = self.integer(given["lanes"], "lanes")
        return E.Broadcast(self.scalar(given["value"]), lanes, span=self.span(node))

    def let(self, node: ast.Call) -> E.Expr:
        given = self.arguments(node, ("name", "value", "body"))
        name, value = given["name"], self.scalar(given["value"])
        if not isinstance(name, ast.Name):
            self.fail(name, "T.let: the first argument must be a name")
        with self.scope():
            var = self.bind(name, name.id, lambda: E.Var(name.id, value.dtype))
            return E.Let(value, var, self.scalar(given["body"]), span=self.span(node))

    def variable(self, node: ast.Call) -> E.Var:
        """`T.var("int32", "n")` in a shape: a symbol whose dtype is not int64."""
        given = self.arguments(node, ("dtype", "name"))
        name, dtype = self.string(given["name"], "a name"), self.dtype(given["dtype"])
        if not self.implicit_symbols:
            self.fail(node, "T.var with a name declares a dimension, so it stands in a shape")
        return self.symbol(name, dtype)

    def string_value(self, node: ast.Call) -> E.Expr:
        given = self.arguments(node, ("value",))
        return E.StringImm(self.string(given["value"], "T.string"), span=self.span(node))

    def dtype_value(self, node: ast.Call) -> DType:
        return self.dtype(self.arguments(node, ("name",))["name"])

    # -- shapes, types, attributes -----------------------------------------------------------

    def shape(self, node: ast.expr) -> tuple[E.Expr, ...]:
        """A tuple of dimensions; a string holds an expression of symbols."""
        items = node.elts if isinstance(node, (ast.Tuple, ast.List)) else None
        if items is None:
            value = self.value(node)
            values = value if isinstance(value, tuple) else (value,)
            return tuple(self.to_expr(node, item) for item in values)
        return tuple(self.dimension(item) for item in items)

    def dimension(self, node: ast.expr) -> E.Expr:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self.scalar(self.quoted(node))
        made = self.scalar(node)
        if not made.dtype.is_int:
            self.fail(node, f"a dimension must be an integer, got {made.dtype}")
        return made

    def quoted(self, node: ast.Constant) -> ast.expr:
        """The expression in a string, with the position of the string."""
        try:
            inner: ast.expr = ast.parse(str(node.value), mode="eval").body
        except SyntaxError:
            self.fail(node, f"{node.value!r} is not an expression")
        for item in ast.walk(inner):
            ast.copy_location(item, node)
        return inner

    def type(self, node: ast.expr) -> Type:
        """A type of the graph level, where new names in shapes declare symbols."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = self.quoted(node)
        name = self.called(node, "G")
        if self.namespaced(node, "G") == "Self":
            return SelfType(span=self.span(node))
        if isinstance(node, ast.Name) and isinstance(outer := self.outer_value(node.id), Adt):
            return data_type(outer)
        before, self.implicit_symbols = self.implicit_symbols, True
        try:
            if name == "Data" and isinstance(node, ast.Call):
                return self.data_type(node)
            if name == "Tensor" and isinstance(node, ast.Call):
                given = self.arguments(node, ("shape", "dtype"), ("name",))
                shape, dtype = self.shape(given["shape"]), self.dtype(given["dtype"])
                return TensorType(shape, dtype, span=self.span(node))
            if name == "Tuple" and isinstance(node, ast.Call):
                return TupleType(tuple(self.type(a) for a in node.args), span=self.span(node))
            if name == "Func" and isinstance(node, ast.Call):
                given = self.arguments(node, ("params", "result"))
                items = getattr(given["params"], "elts", [])
                return FunctionType(tuple(self.type(a) for a in items), self.type(given["result"]))
        finally:
            self.implicit_symbols = before
        self.fail(node, 'expected a type such as G.Tensor((n, 128), "float32") or G.Tuple(...)')

    def data_type(self, node: ast.Call) -> DataType:
        """`G.Data("Tree", Leaf=(G.Tensor((), "int64"),), Node=(G.Self, G.Self))`."""
        if len(node.args) != 1:
            self.fail(node, "G.Data: expected a name, then constructors: Leaf=(...), Node=(...)")
        constructors = []
        for keyword in node.keywords:
            if keyword.arg == "name":  # of a parameter
                continue
            if keyword.arg is None or not isinstance(keyword.value, (ast.Tuple, ast.List)):
                self.fail(keyword.value, "G.Data: the fields of a constructor are a tuple of types")
            fields = tuple(self.type(item) for item in keyword.value.elts)
            constructors.append(Constructor(keyword.arg, fields, span=self.span(keyword.value)))
        name = self.string(node.args[0], "the name of a data type")
        return DataType(name, tuple(constructors), span=self.span(node))

    def attribute_value(self, node: ast.expr) -> Any:
        """A Python value: literals, dtypes, types, and expressions where they are written."""
        if isinstance(node, ast.Constant):
            if node.value is Ellipsis or isinstance(node.value, complex):
                self.fail(node, f"`{_short(node)}` is not an attribute value")
            return node.value
        if isinstance(node, ast.Tuple):
            return tuple(self.attribute_value(item) for item in node.elts)
        if isinstance(node, ast.List):
            return [self.attribute_value(item) for item in node.elts]
        if isinstance(node, ast.Dict):
            return self.dictionary(node)
        if self.called(node, "G") is not None:
            return self.type(node)
        if self.called(node) == "opaque":
            self.fail(node, "this attribute has no text form, so it cannot be parsed")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "float":
                text = self.arguments(node, ("value",))["value"]
                with_text = self.value(text)
                if with_text in ("inf", "-inf", "nan"):
                    return float(with_text)
        return self.value(node)

    def dictionary(self, node: ast.Dict) -> dict[Any, Any]:
        result = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                self.fail(node, "`**` has no meaning here")
            result[self.attribute_value(key)] = self.attribute_value(value)
        return result


def _is_dtype(name: str) -> bool:
    try:
        DType.of(name)
    except UserError:
        return False
    return True


def _check_operands(kind: Any, left: E.Expr, right: E.Expr) -> None:
    dtype = left.dtype
    if kind is E.Div and not dtype.is_float:
        raise UserError(f"`/` of {dtype}: use `//` (floor) or T.truncdiv for integers")
    integers = (E.FloorDiv, E.FloorMod, E.TruncDiv, E.TruncMod)
    if kind in integers and not dtype.is_int:
        raise UserError(f"{kind.__name__} needs integers, got {dtype}")
    if kind in integers and E.as_int(right) == 0:
        raise UserError(f"{kind.__name__} by the constant zero")
    if dtype.element is BOOL and kind in (E.Add, E.Sub, E.Mul):
        raise UserError(f"arithmetic on {dtype}: convert it with T.cast")


def _short(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _describe(node: ast.AST) -> str:
    return f"`{_short(node)}` ({type(node).__name__})"


_HANDLERS: Final[Mapping[type, Callable[..., Any]]] = {
    ast.Constant: ExprParser.constant,
    ast.Name: ExprParser.name,
    ast.Attribute: ExprParser.attribute,
    ast.Tuple: ExprParser.sequence,
    ast.List: ExprParser.sequence,
    ast.BinOp: ExprParser.binary,
    ast.UnaryOp: ExprParser.unary,
    ast.Compare: ExprParser.compare,
    ast.BoolOp: ExprParser.boolean,
    ast.IfExp: ExprParser.conditional,
    ast.Subscript: ExprParser.subscript,
    ast.Call: ExprParser.call,
}
_CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "call": ExprParser.generic_call,
    "cast": ExprParser.cast,
    "ramp": ExprParser.ramp,
    "broadcast": ExprParser.broadcast,
    "let": ExprParser.let,
    "var": ExprParser.variable,
    "string": ExprParser.string_value,
    "dtype": ExprParser.dtype_value,
}
