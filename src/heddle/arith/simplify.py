# SPDX-License-Identifier: Apache-2.0
"""The simplifier: bottom-up, iterative, memoised; sums are canonical, the rest is rules.

Every result is interned: equal canonical expressions are one object, so that rules compare with
`is` and sums index their terms by identity. Only int64 arithmetic is treated as arithmetic of
integers that never overflow; other integer types and floats are folded where that is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from heddle.arith import compare, division, floats, vectors
from heddle.arith.bounds import BoundsEvaluator
from heddle.arith.facts import Facts
from heddle.arith.modular import modular_of_sum
from heddle.arith.pattern import Rewriter
from heddle.arith.prover import Prover
from heddle.arith.rules import TABLES
from heddle.arith.sums import Sum, accumulate
from heddle.ir import expr as ir
from heddle.ir.dtype import BOOL, INT64
from heddle.ir.expr import Add, Call, Cast, Expr, FloatImm, IntImm, Let, Mul, Not, Select, Sub, Var
from heddle.ir.node import Node, init_fields
from heddle.ir.walk import substitute, uses_var

MAX_PRODUCT_TERMS = 32
"""Products of sums are expanded up to this many terms, and kept as they are beyond."""

_REWRITERS: dict[type, tuple[Rewriter, ...]] = {}
_LINEAR = (Add, Sub, Mul)


def _rewriters(kind: type) -> tuple[Rewriter, ...]:
    if kind not in _REWRITERS:
        found = (table.rewriter(kind.__name__) for table in TABLES)
        _REWRITERS[kind] = tuple(rewriter for rewriter in found if rewriter is not None)
    return _REWRITERS[kind]


class Simplifier:
    """The state of one analyzer: interned expressions, sums, memos and the current facts."""

    def __init__(self) -> None:
        self.facts = Facts()
        self.memo: dict[Node, Any] = {}
        self.interned: dict[Any, Any] = {}
        self.order: dict[Expr, int] = {}
        self.sums: dict[Expr, Sum] = {}
        self.sum_table: dict[Any, Expr] = {}
        self.factors: dict[Expr, tuple[Expr, ...]] = {}
        self.seen: set[Var] = set()
        self.let_values: dict[Var, Expr] = {}
        self.made: dict[tuple[type, Expr, Expr], Expr] = {}
        self._mentions: dict[tuple[Expr, Var], bool] = {}
        self.bounds = BoundsEvaluator(self)
        self.prover = Prover(self)

    # -- the walk -----------------------------------------------------------------------------

    def run(self, root: Expr) -> Expr:
        """`root` simplified."""
        memo = self.memo
        stack: list[Node] = [root]
        while stack:
            current = stack[-1]
            if current in memo:
                stack.pop()
                continue
            leaves, constant = None, 0
            if _linear_operands(current):
                leaves, constant = self._flatten(current)
                operands: Any = leaves
            else:
                operands = current.children()
            missing = [operand for operand in operands if operand not in memo]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            result = self._visit(current) if leaves is None else self._add_up(leaves, constant)
            result = self._apply_facts(result)
            memo[current] = result
            memo[result] = result
        return memo[root]  # type: ignore[no-any-return]

    def _flatten(self, root: Any) -> tuple[dict[Any, int], int]:
        """The operands of a tree of `+`, `-` and `* constant` with their coefficients.

        Nodes are visited once each, parents before children, so that a DAG with many paths costs
        as much as its nodes. A product of two non-constants is an operand.
        """
        memo = self.memo
        order: list[Any] = []
        entered: set[Any] = set()
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            current, expanded = stack.pop()
            if expanded:
                order.append(current)
                continue
            if current in entered:
                continue
            entered.add(current)
            stack.append((current, True))
            if current is root or current not in memo:
                stack.extend((operand, False) for operand in reversed(_linear_operands(current)))
        count = dict.fromkeys(order, 0)
        count[root] = 1
        constant = 0
        leaves: dict[Any, int] = {}
        for current in reversed(order):
            times = count[current]
            inner = _linear_operands(current) if current is root or current not in memo else ()
            if not inner:
                if type(current) is IntImm:
                    constant += times * current.value
                else:
                    leaves[current] = times
            elif type(current) is Mul:
                factor: Any = current.b if type(current.b) is IntImm else current.a
                count[inner[0]] += times * factor.value
            else:
                count[inner[0]] += times
                count[inner[1]] += times if type(current) is Add else -times
        return {leaf: leaves[leaf] for leaf in order if leaf in leaves}, constant

    def _add_up(self, leaves: dict[Any, int], constant: int) -> Expr:
        terms: dict[Expr, int] = {}
        for leaf, factor in leaves.items():
            part = self.sum_of(self.memo[leaf])
            accumulate(terms, part, factor)
            constant += factor * part.constant
        return self.build(Sum(terms, constant))

    def _visit(self, current: Any) -> Expr:
        handler = _HANDLERS.get(type(current))
        if handler is not None:
            return handler(self, current)
        rebuilt = current.map(self.memo.__getitem__)
        if isinstance(rebuilt, ir.BinaryExpr):
            return self.make(type(rebuilt), rebuilt.a, rebuilt.b)
        return self.intern(rebuilt)  # type: ignore[no-any-return]

    def _apply_facts(self, result: Expr) -> Expr:
        facts = self.facts
        if result.dtype is BOOL:
            known = facts.truths.get(result)
            return result if known is None else self.boolean(known)
        if facts.parts and result.dtype is INT64 and type(result) is not IntImm:
            interval = self.bounds.of(result)
            if interval.is_single:
                return self.integer(int(interval.lo))
        return result

    # -- interning ----------------------------------------------------------------------------

    def intern(self, value: Any) -> Any:
        """The one node that stands for everything equal to `value` (its operands are interned)."""
        key = _key(value)
        found = self.interned.get(key)
        if found is None:
            self.interned[key] = found = value
            self.order[value] = len(self.order)
        return found

    def integer(self, value: int) -> Expr:
        """The int64 constant `value`."""
        return self.intern(IntImm(value, INT64))  # type: ignore[no-any-return]

    def boolean(self, value: bool) -> Expr:
        """The constant true or false."""
        return self.intern(IntImm(int(value), BOOL))  # type: ignore[no-any-return]

    # -- sums ---------------------------------------------------------------------------------

    def sum_of(self, value: Expr) -> Sum:
        """A canonical int64 expression as a sum."""
        found = self.sums.get(value)
        if found is not None:
            return found
        return Sum({}, value.value) if type(value) is IntImm else Sum({value: 1}, 0)

    def build(self, total: Sum) -> Expr:
        """The canonical expression of a sum."""
        total = division.recombine(self, total)
        terms, constant = total.terms, total.constant
        if not terms:
            return self.integer(constant)
        if len(terms) == 1 and constant == 0:
            ((term, count),) = terms.items()
            if count == 1:
                return term
        key = (constant, frozenset(terms.items()))
        found = self.sum_table.get(key)
        if found is None:
            found = self.intern(total.render())
            self.sum_table[key] = found
            self.sums[found] = total
        return found

    def multiply(self, a: Sum, b: Sum) -> Sum:
        """The product of two sums, expanded unless that has too many terms."""
        if not a.terms:
            return b.scale(a.constant)
        if not b.terms:
            return a.scale(b.constant)
        width = (len(a.terms) + (a.constant != 0)) * (len(b.terms) + (b.constant != 0))
        if width > MAX_PRODUCT_TERMS:
            return Sum({self.intern(Mul(self.build(a), self.build(b))): 1}, 0)
        terms: dict[Expr, int] = {}
        for left, m in a.terms.items():
            for right, n in b.terms.items():
                accumulate(terms, Sum({self.monomial(left, right): 1}, 0), m * n)
        accumulate(terms, Sum(a.terms, 0), b.constant)
        accumulate(terms, Sum(b.terms, 0), a.constant)
        return Sum(terms, a.constant * b.constant)

    def monomial(self, a: Expr, b: Expr) -> Expr:
        """The product of two terms."""
        factors = [*self.factors.get(a, (a,)), *self.factors.get(b, (b,))]
        factors.sort(key=lambda factor: self.order.get(factor, -1))
        key = ("product", *factors)
        found = self.interned.get(key)
        if found is None:
            found = factors[0]
            for factor in factors[1:]:
                found = Mul(found, factor)
            found = self.interned[key] = self.intern(found)
            self.factors[found] = tuple(factors)
        return found  # type: ignore[no-any-return]

    def split_constant(self, value: Expr) -> tuple[Expr, int]:
        """A canonical expression as `rest + constant`."""
        if value.dtype is not INT64:
            return value, 0
        total = self.sum_of(value)
        if total.constant == 0 or not total.terms:
            return value, 0
        return self.build(Sum(total.terms, 0)), total.constant

    # -- building canonical nodes of canonical operands ----------------------------------------

    def make(self, kind: Any, a: Expr, b: Expr) -> Expr:
        """The binary node `kind` of two canonical operands, simplified."""
        if a.dtype is INT64:
            handler = _INT64_HANDLERS.get(kind)
            if handler is not None:
                key = (kind, a, b)
                found = self.made.get(key)
                if found is None:
                    found = self.made[key] = handler(self, a, b)
                return found
        elif a.dtype.lanes > 1:
            result = vectors.simplify(self, kind, a, b)
            if result is not None:
                return result
        elif a.dtype is not BOOL:
            result = floats.fold(self, kind, a, b)
            if result is not None:
                return result
        return self.finish(_BUILDERS[kind](a, b))

    def finish(self, value: Expr) -> Expr:
        """A node of canonical operands after the rules for its type."""
        value = self.intern(value)
        for rewriter in _rewriters(type(value)):
            result = rewriter(self, value)
            if result is not None:
                return result
        return value

    def negate(self, value: Expr) -> Expr:
        """`not value`"""
        return self.finish(ir.logical_not(value))

    def choose(self, like: Expr, condition: Expr, a: Expr, b: Expr) -> Expr:
        """`select(condition, a, b)`, lazy when `like` is an `if_then_else`."""
        if type(condition) is IntImm:
            return a if condition.value else b
        if a is b:
            return a
        chosen = Select(condition, a, b)
        if type(like) is Select:
            return self.finish(chosen)
        for rewriter in _rewriters(Select):
            # The rules see a Select, and hand the lazy node back in to `choose`.
            result = rewriter(_Lazily(self, like), chosen)
            if result is not None:
                return result
        return self.intern(like.replace(args=(condition, a, b)))  # type: ignore[no-any-return]

    def proves(self, kind: type, a: Expr, b: Expr) -> bool:
        """Whether the comparison `kind` of two canonical int64 expressions is provable."""
        if a.dtype is not INT64 or b.dtype is not INT64:
            return False
        return compare.shown(self, kind, self.sum_of(a) - self.sum_of(b))

    def modulus(self, total: Sum, divisor: int) -> int | None:
        """The one remainder that `total` leaves, if its divisibility shows it."""
        coefficient, base = modular_of_sum(self, total)
        return base % divisor if coefficient % divisor == 0 else None

    def mentions(self, value: Expr, var: Var) -> bool:
        """Whether `var` occurs in a canonical expression."""
        if value is var or type(value) is Var:
            return value is var
        key = (value, var)
        found = self._mentions.get(key)
        if found is None:
            found = self._mentions[key] = uses_var(value, var)
        return found

    def forget(self) -> None:
        """Drop what was derived from the facts, after they changed."""
        self.memo = {}
        self.made = {}
        self.bounds.memo = {}
        self.prover.memo = {}


class _Lazily:
    """The simplifier as the rules for `select` see it when the root is an `if_then_else`."""

    def __init__(self, simplifier: Simplifier, like: Expr) -> None:
        self._simplifier = simplifier
        self._like = like

    def __getattr__(self, name: str) -> Any:
        return getattr(self._simplifier, name)

    def choose(self, _root: Expr, condition: Expr, a: Expr, b: Expr) -> Expr:
        return self._simplifier.choose(self._like, condition, a, b)


def _linear_operands(value: Any) -> tuple[Any, ...]:
    """What a linear node adds up; nothing for a leaf."""
    kind = type(value)
    if kind not in _LINEAR or value.dtype is not INT64:
        return ()
    if kind is not Mul:
        return (value.a, value.b)
    if type(value.b) is IntImm:
        return (value.a,)
    return (value.b,) if type(value.a) is IntImm else ()


def _key(value: Any) -> Any:
    kind = type(value)
    if isinstance(value, ir.BinaryExpr):
        return (kind, value.a, value.b)
    if kind is Var:
        return value
    if kind is IntImm:
        return (value.value, value.dtype)
    if kind is FloatImm:
        return (float.hex(value.value), value.dtype)
    if kind is Call and value.name.startswith("call_"):
        return value  # may have effects: never the same as another
    parts = []
    for spec in init_fields(kind):
        part = getattr(value, spec.name)
        if isinstance(part, Mapping):
            part = ("mapping", id(part))
        parts.append(part)
    return (kind, *parts)


def _visit_var(s: Simplifier, var: Var) -> Expr:
    s.seen.add(var)
    value = s.facts.values.get(var)
    if value is not None:
        return value
    if var.dtype is INT64:
        interval = s.facts.intervals.get(var)
        if interval is not None and interval.is_single:
            return s.integer(int(interval.lo))
    return s.intern(var)  # type: ignore[no-any-return]


def _visit_mul(s: Simplifier, value: Mul) -> Expr:
    return s.make(Mul, s.memo[value.a], s.memo[value.b])


def _visit_let(s: Simplifier, value: Let) -> Expr:
    bound = s.memo[value.value]
    if isinstance(bound, (Var, IntImm, FloatImm)):
        return s.run(substitute(value.body, {value.var: bound}))
    if bound.dtype is INT64:
        s.let_values[value.var] = bound
    body = s.memo[value.body]
    return s.intern(value.replace(value=bound, body=body))  # type: ignore[no-any-return]


def _visit_cast(s: Simplifier, value: Cast) -> Expr:
    inner = s.memo[value.value]
    if value.dtype is inner.dtype:
        return inner  # type: ignore[no-any-return]
    folded = floats.fold_cast(inner, value.dtype)
    return s.intern(folded)  # type: ignore[no-any-return]


def _visit_call(s: Simplifier, value: Call) -> Expr:
    rebuilt = value.map(s.memo.__getitem__)
    if rebuilt.name == "if_then_else":
        return s.choose(rebuilt, *rebuilt.args)
    return s.intern(rebuilt)  # type: ignore[no-any-return]


def _visit_select(s: Simplifier, value: Select) -> Expr:
    rebuilt = value.map(s.memo.__getitem__)
    return s.choose(rebuilt, rebuilt.condition, rebuilt.a, rebuilt.b)


def _visit_not(s: Simplifier, value: Not) -> Expr:
    return s.negate(s.memo[value.a])


_HANDLERS: dict[type, Callable[[Simplifier, Any], Expr]] = {
    Var: _visit_var,
    Mul: _visit_mul,
    Let: _visit_let,
    Cast: _visit_cast,
    Call: _visit_call,
    Select: _visit_select,
    Not: _visit_not,
}


def _make_add(s: Simplifier, a: Expr, b: Expr) -> Expr:
    return s.build(s.sum_of(a) + s.sum_of(b))


def _make_sub(s: Simplifier, a: Expr, b: Expr) -> Expr:
    return s.build(s.sum_of(a) - s.sum_of(b))


def _make_mul(s: Simplifier, a: Expr, b: Expr) -> Expr:
    return s.build(s.multiply(s.sum_of(a), s.sum_of(b)))


_INT64_HANDLERS: dict[type, Callable[[Simplifier, Expr, Expr], Expr]] = {
    Add: _make_add,
    Sub: _make_sub,
    Mul: _make_mul,
    ir.FloorDiv: division.floordiv,
    ir.FloorMod: division.floormod,
    ir.EQ: compare.equal,
    ir.NE: compare.not_equal,
    ir.LT: compare.less,
    ir.LE: compare.less_equal,
    ir.GT: compare.greater,
    ir.GE: compare.greater_equal,
}

_BUILDERS: dict[type, Callable[[Expr, Expr], Expr]] = {
    Add: ir.add,
    Sub: ir.sub,
    Mul: ir.mul,
    ir.Div: ir.div,
    ir.FloorDiv: ir.floordiv,
    ir.FloorMod: ir.floormod,
    ir.TruncDiv: ir.truncdiv,
    ir.TruncMod: ir.truncmod,
    ir.Min: ir.minimum,
    ir.Max: ir.maximum,
    ir.And: ir.logical_and,
    ir.Or: ir.logical_or,
    **{
        kind: (lambda a, b, kind=kind: ir.compare(kind, a, b))  # type: ignore[misc]
        for kind in (ir.EQ, ir.NE, ir.LT, ir.LE, ir.GT, ir.GE)
    },
}
