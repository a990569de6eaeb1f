# SPDX-License-Identifier: Apache-2.0
"""Rewrite rules that read like algebra, compiled to Python.

    x, y = variables("x y")
    c1, c2 = constants("c1 c2")
    TABLE = RuleTable(
        (x // c1) // c2 >> x // (c1 * c2),
        (truncdiv(x, y) >> x // y, (x >= 0) & (y > 0)),
    )

A variable matches any expression, the second time only the same one; a constant matches an
int64 constant. Operands of commutative operators match in both orders. A condition over constants
is computed; any other comparison in a condition must be provable by the analyzer. The right side
is built through the simplifier, so it is simplified again.

Expressions that rules see are canonical: constants stand on the right, `x - 3` matches `x + c1`,
and equal expressions are the same object. A table is indexed by the type of the root and compiled
when first used. Every rule knows where it is written and how often it fired.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from heddle.ir import expr as ir
from heddle.ir.dtype import INT64
from heddle.ir.expr import Expr
from heddle.support import InternalError

Rewriter = Callable[[Any, Any], "Expr | None"]

_COMMUTATIVE: Final = {"Add", "Mul", "Min", "Max", "And", "Or", "EQ", "NE"}
_SIGN: Final = {
    "Add": "+", "Mul": "*", "FloorDiv": "//", "FloorMod": "%", "And": "&", "Or": "|", "Sub": "-",
    "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!=",
}  # fmt: skip
_FIELDS: Final = {
    "Not": ("a",), "Select": ("condition", "a", "b"), "Cast": ("value",),
}  # fmt: skip
_COMPARE: Final = ("LT", "LE", "GT", "GE", "EQ", "NE")


class Pattern:
    """A pattern, a result or a condition: an operator and its operands, or a leaf."""

    __slots__ = ("kind", "operands", "value")
    __hash__ = object.__hash__

    def __init__(self, kind: str, *operands: PatternLike, value: str | int = "") -> None:
        self.kind = kind
        self.operands = tuple(_as_pattern(operand) for operand in operands)
        self.value = value

    def __add__(self, other: PatternLike) -> Pattern:
        return Pattern("Add", self, other)

    def __sub__(self, other: PatternLike) -> Pattern:
        return Pattern("Sub", self, other)

    def __mul__(self, other: PatternLike) -> Pattern:
        return Pattern("Mul", self, other)

    def __floordiv__(self, other: PatternLike) -> Pattern:
        return Pattern("FloorDiv", self, other)

    def __mod__(self, other: PatternLike) -> Pattern:
        return Pattern("FloorMod", self, other)

    def __and__(self, other: PatternLike) -> Pattern:
        return Pattern("And", self, other)

    def __or__(self, other: PatternLike) -> Pattern:
        return Pattern("Or", self, other)

    def __invert__(self) -> Pattern:
        return Pattern("Not", self)

    def __lt__(self, other: PatternLike) -> Pattern:
        return Pattern("LT", self, other)

    def __le__(self, other: PatternLike) -> Pattern:
        return Pattern("LE", self, other)

    def __gt__(self, other: PatternLike) -> Pattern:
        return Pattern("GT", self, other)

    def __ge__(self, other: PatternLike) -> Pattern:
        return Pattern("GE", self, other)

    def __eq__(self, other: PatternLike) -> Pattern:  # type: ignore[override]
        return Pattern("EQ", self, other)

    def __ne__(self, other: PatternLike) -> Pattern:  # type: ignore[override]
        return Pattern("NE", self, other)

    def __rshift__(self, result: PatternLike) -> Rule:
        frame = sys._getframe(1)
        return Rule(self, _as_pattern(result), frame.f_code.co_filename, frame.f_lineno)

    def __bool__(self) -> bool:
        raise InternalError("a pattern has no truth value: use & | ~ in conditions")

    def __repr__(self) -> str:
        if self.kind in ("variable", "constant", "number", "boolean"):
            return str(self.value)
        if self.kind in _SIGN:
            left, right = self.operands
            return f"({left!r} {_SIGN[self.kind]} {right!r})"
        if self.kind == "Not":
            return f"~{self.operands[0]!r}"
        return f"{self.kind.lower()}({', '.join(map(repr, self.operands))})"


PatternLike = Pattern | int


def _as_pattern(value: PatternLike) -> Pattern:
    if isinstance(value, Pattern):
        return value
    return Pattern("boolean" if isinstance(value, bool) else "number", value=value)


def variables(names: str) -> tuple[Pattern, ...]:
    """Patterns that match any expression."""
    return tuple(Pattern("variable", value=name) for name in names.split())


def constants(names: str) -> tuple[Pattern, ...]:
    """Patterns that match an int64 constant."""
    return tuple(Pattern("constant", value=name) for name in names.split())


def minimum(a: PatternLike, b: PatternLike) -> Pattern:
    """The pattern `min(a, b)`."""
    return Pattern("Min", a, b)


def maximum(a: PatternLike, b: PatternLike) -> Pattern:
    """The pattern `max(a, b)`."""
    return Pattern("Max", a, b)


def truncdiv(a: PatternLike, b: PatternLike) -> Pattern:
    """The pattern of a division that rounds towards zero."""
    return Pattern("TruncDiv", a, b)


def truncmod(a: PatternLike, b: PatternLike) -> Pattern:
    """The pattern of the remainder of `truncdiv`."""
    return Pattern("TruncMod", a, b)


def select(condition: PatternLike, a: PatternLike, b: PatternLike) -> Pattern:
    """The pattern `select(condition, a, b)`; it stands for the lazy `if_then_else` too."""
    return Pattern("Select", condition, a, b)


def integer(x: Pattern) -> Pattern:
    """The condition that `x` is of an integer dtype."""
    return Pattern("integer", x)


class Rule:
    """`pattern >> result`, with the `condition` under which it holds and its place in the code."""

    __slots__ = ("condition", "file", "hits", "line", "pattern", "result")

    def __init__(self, pattern: Pattern, result: Pattern, file: str, line: int) -> None:
        self.pattern = pattern
        self.result = result
        self.file = file
        self.line = line
        self.condition: Pattern | None = None
        self.hits = 0

    def __repr__(self) -> str:
        given = "" if self.condition is None else f", {self.condition!r}"
        place = f"{os.path.basename(self.file)}:{self.line}"
        return f"{place}: {self.pattern!r} >> {self.result!r}{given}"


class RuleTable:
    """Rules of one theme, tried in order; see the module's documentation."""

    def __init__(self, *rules: Rule | tuple[Rule, Pattern]) -> None:
        self.rules: list[Rule] = []
        self._rewriters: dict[str, Rewriter | None] = {}
        for given in rules:
            if isinstance(given, Rule):
                self.rules.append(given)
            else:
                rule, rule.condition = given[0], given[1]
                self.rules.append(rule)

    def rewriter(self, kind: str) -> Rewriter | None:
        """The compiled rules whose root is the node class `kind`; None when there are none.

        It takes the simplifier and a node with canonical operands, and gives the node that takes
        its place, or None when no rule matches.
        """
        if kind not in self._rewriters:
            rules = [rule for rule in self.rules if rule.pattern.kind == kind]
            self._rewriters[kind] = _compile(kind, rules) if rules else None
        return self._rewriters[kind]

    def source(self, kind: str) -> str:
        """The Python that the rules with this root compile to (to read, to debug)."""
        return _source(kind, [rule for rule in self.rules if rule.pattern.kind == kind])


def _compile(kind: str, rules: list[Rule]) -> Rewriter:
    scope: dict[str, Any] = {"RULES": rules, "INT64": INT64, **vars(ir)}
    code = compile(_source(kind, rules), f"<rules of {kind}>", "exec")
    exec(code, scope)
    return scope["rewrite"]  # type: ignore[no-any-return]


def _source(kind: str, rules: list[Rule]) -> str:
    lines = ["def rewrite(s, n):"]
    for number, rule in enumerate(rules):
        seen = set()
        for order in _orders(rule.pattern):
            if repr(order) in seen:
                continue
            seen.add(repr(order))
            writer = _MatchWriter()
            writer.root(order)
            if rule.condition is not None:
                writer.test(writer.condition(rule.condition))
            writer.line(f"RULES[{number}].hits += 1")
            writer.line(f"return {writer.result(rule.result)}")
            lines += [f"    # {rule!r}", *writer.lines]
    return "\n".join([*lines, "    return None"])


def _orders(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern with the operands of each commutative operator in both orders."""
    if not pattern.operands:
        yield pattern
        return
    for operands in itertools.product(*(list(_orders(operand)) for operand in pattern.operands)):
        yield Pattern(pattern.kind, *operands)
        # Constants stand on the right of canonical nodes, so the other order cannot occur.
        if pattern.kind in _COMMUTATIVE and operands[1].kind not in ("constant", "number"):
            yield Pattern(pattern.kind, operands[1], operands[0])


class _MatchWriter:
    """Writes the tests of one rule as nested ifs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.bound: set[str] = set()
        self.count = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def test(self, condition: str) -> None:
        self.line(f"if {condition}:")
        self.depth += 1

    def root(self, pattern: Pattern) -> None:
        self.operands(pattern, "n")

    def operands(self, pattern: Pattern, name: str) -> None:
        fields = _FIELDS.get(pattern.kind, ("a", "b"))
        named = []
        for operand, field in zip(pattern.operands, fields, strict=True):
            part = self.fresh()
            self.line(f"{part} = {name}.{field}")
            named.append((operand, part))
        for operand, part in named:
            self.match(operand, part)

    def fresh(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def match(self, pattern: Pattern, name: str) -> None:
        if pattern.kind == "variable":
            if pattern.value in self.bound:
                self.test(f"{name} is {pattern.value}")
            else:
                self.line(f"{pattern.value} = {name}")
                self.bound.add(str(pattern.value))
        elif pattern.kind in ("constant", "number"):
            self.test(f"type({name}) is IntImm and {name}.dtype is INT64")
            self.constant(pattern, f"{name}.value")
        elif pattern.kind == "Add":
            # The only sum a pattern may name is "something plus a constant".
            rest, value = self.fresh(), self.fresh()
            self.line(f"{rest}, {value} = s.split_constant({name})")
            self.test(f"{value} != 0")
            self.match(pattern.operands[0], rest)
            self.constant(pattern.operands[1], value)
        else:
            self.test(f"type({name}) is {pattern.kind}")
            self.operands(pattern, name)

    def constant(self, pattern: Pattern, value: str) -> None:
        if pattern.kind == "number":
            self.test(f"{value} == {pattern.value}")
        elif pattern.value in self.bound:
            self.test(f"{value} == {pattern.value}")
        else:
            self.line(f"{pattern.value} = {value}")
            self.bound.add(str(pattern.value))

    def result(self, pattern: Pattern) -> str:
        if pattern.kind == "variable":
            return str(pattern.value)
        if pattern.kind == "boolean":
            return f"s.boolean({pattern.value})"
        if _is_number(pattern):
            return f"s.integer({_arithmetic(pattern)})"
        parts = ", ".join(self.result(operand) for operand in pattern.operands)
        if pattern.kind == "Not":
            return f"s.negate({parts})"
        if pattern.kind == "Select":
            return f"s.choose(n, {parts})"
        return f"s.make({pattern.kind}, {parts})"

    def condition(self, pattern: Pattern) -> str:
        if pattern.kind in ("And", "Or"):
            word = " and " if pattern.kind == "And" else " or "
            return f"({word.join(self.condition(operand) for operand in pattern.operands)})"
        if pattern.kind == "Not":
            return f"(not {self.condition(pattern.operands[0])})"
        if pattern.kind == "integer":
            return f"{pattern.operands[0].value}.dtype.is_int"
        if pattern.kind in _COMPARE:
            if all(_is_number(operand) for operand in pattern.operands):
                return _arithmetic(pattern)
            left, right = (self.result(operand) for operand in pattern.operands)
            return f"s.proves({pattern.kind}, {left}, {right})"
        raise InternalError(f"`{pattern!r}` cannot be a condition")


def _is_number(pattern: Pattern) -> bool:
    leaf = pattern.kind in ("constant", "number")
    return leaf or (bool(pattern.operands) and all(map(_is_number, pattern.operands)))


def _arithmetic(pattern: Pattern) -> str:
    if not pattern.operands:
        return str(pattern.value)
    left, right = (_arithmetic(operand) for operand in pattern.operands)
    if pattern.kind in ("Min", "Max"):
        return f"{pattern.kind.lower()}({left}, {right})"
    return f"({left} {_SIGN[pattern.kind]} {right})"


def all_rules(tables: Iterable[RuleTable]) -> list[Rule]:
    """Every rule of the tables, in order."""
    return [rule for table in tables for rule in table.rules]
