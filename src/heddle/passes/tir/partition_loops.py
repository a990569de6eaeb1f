# SPDX-License-Identifier: Apache-2.0
"""Split loops where a condition inside stops being always true, so that full tiles run unguarded.

    for i in range(25):                        for i in range(24):
        for r in unrolled(8):                      for r in unrolled(8):
            if i * 8 + r < 197:        ->              body(i * 8 + r)
                body(i * 8 + r)                for r in unrolled(5):
                                                   body(24 * 8 + r)

A parallel loop is not split, nor is a serial one whose length is known at run time only: its body
gets two versions, one for the iterations in which the conditions inside always hold (one only when
it is annotated `{"partition": False}`). Conditions that the loops around them decide are dropped on
the way.

    for i in range((n + 7) // 8):              for i in range((n + 7) // 8):
        for r in unrolled(8):          ->          if i * 8 + 7 < n:
            if i * 8 + r < n:                          for r in unrolled(8):
                body(i * 8 + r)                            body(i * 8 + r)
                                                   else: ...
"""

from __future__ import annotations

import contextlib
from typing import Any

from heddle.arith import Analyzer
from heddle.ir.dtype import BOOL
from heddle.ir.expr import (
    LE,
    LT,
    Call,
    Expr,
    Select,
    Var,
    as_int,
    const,
    logical_and,
    logical_not,
)
from heddle.ir.structural import structural_equal
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.tir.build import seq
from heddle.tir.fresh import with_fresh_vars
from heddle.tir.nodes import (
    Allocate,
    Block,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)
from heddle.tir.predicate import conjuncts

_SPLIT = (ForKind.SERIAL, ForKind.UNROLLED)

_MOST_GUARDS = 2
"""Conditions of a parallel loop that double its body."""


def partition_loops(func: PrimFunc) -> PrimFunc:
    """`func` with its serial loops split where that makes conditions inside them constant."""
    body = _Partition().visit(func.body)
    return func if body is func.body else func.replace(body=body)


class _Partition:
    def __init__(self) -> None:
        self.around: list[For] = []
        self.assumed: list[Expr] = []
        self._known: dict[tuple[object, ...], tuple[Analyzer, contextlib.ExitStack]] = {}

    def visit(self, stmt: Stmt) -> Stmt:
        if isinstance(stmt, For):
            return self.visit_for(stmt)
        if isinstance(stmt, Seq):
            stmts = [self.visit(child) for child in stmt.stmts]
            same = all(new is old for new, old in zip(stmts, stmt.stmts, strict=True))
            return stmt if same else seq(*stmts)
        if isinstance(stmt, IfThenElse):
            condition = self.known(stmt.condition)
            decided = as_int(condition)
            if decided is not None:
                kept = stmt.then if decided else stmt.otherwise
                return Seq(()) if kept is None else self.visit(kept)
            then = self.visit(stmt.then)
            otherwise = None if stmt.otherwise is None else self.visit(stmt.otherwise)
            return IfThenElse(condition, then, otherwise, span=stmt.span)
        if isinstance(stmt, BufferStore):
            value = rewrite(stmt.value, {Call: self.choose, Select: self.choose})
            return stmt if value is stmt.value else stmt.replace(value=value)
        if isinstance(stmt, (Allocate, LetStmt, While, Block)):
            body = self.visit(stmt.body)
            rebuilt: Stmt = stmt if body is stmt.body else stmt.replace(body=body)
            return rebuilt
        return stmt

    def choose(self, value: Any) -> Expr:
        """One side of a conditional expression, when the loops around it decide."""
        if isinstance(value, Select):
            condition, a, b = value.condition, value.a, value.b
        elif value.name == "if_then_else":
            condition, a, b = value.args
        else:
            return value  # type: ignore[no-any-return]
        known = self.known(condition)
        decided = as_int(known)
        if decided is not None:
            return a if decided else b  # type: ignore[no-any-return]
        if isinstance(value, Select):
            return Select(known, a, b, span=value.span)
        return value.replace(args=(known, a, b))  # type: ignore[no-any-return]

    def visit_for(self, loop: For) -> Stmt:
        extent, start = as_int(loop.extent), as_int(loop.min)
        if loop.kind in _SPLIT and extent is not None and extent > 1 and start is not None:
            middle = self.split_point(loop, start, extent)
            if middle is not None:
                first = self.part(loop, start, middle - start)
                rest = self.part(with_fresh_vars(loop), middle, start + extent - middle)
                return seq(first, rest)
        self.around.append(loop)
        guards = self.guards(loop) if _has_versions(loop) else []
        body = self.versions(loop.body, guards)
        self.around.pop()
        if body is loop.body:
            return loop
        return For(
            loop.min, loop.extent, loop.kind, loop.var, body, loop.annotations, span=loop.span
        )

    def part(self, loop: For, start: int, extent: int) -> Stmt:
        made = For(
            const(start),
            const(extent),
            loop.kind,
            loop.var,
            loop.body,
            loop.annotations,
            span=loop.span,
        )
        return self.visit_for(made)

    def split_point(self, loop: For, start: int, extent: int) -> int | None:
        """Where some condition changes from provable to not, or back; None if nowhere."""
        inner = [found for found in pre_order(loop.body) if isinstance(found, For)]
        end = start + extent
        for condition in _conditions(loop.body, loop.var):
            if self.holds(condition, loop, inner, start, end):
                continue
            if self.holds(condition, loop, inner, start, start + 1):
                middle = _bisect(
                    lambda p, c=condition: self.holds(c, loop, inner, start, p), start + 1, end
                )
                return middle
            if self.holds(condition, loop, inner, end - 1, end):
                middle = end - _bisect(
                    lambda n, c=condition: self.holds(c, loop, inner, end - n, end), 1, extent
                )
                return middle
        return None

    def holds(self, condition: Expr, loop: For, inner: list[For], low: int, high: int) -> bool:
        """Whether `condition` is true for all values of the loop in [low, high)."""
        analyzer = self.analyzer()
        with analyzer.scope():
            analyzer.bind(loop.var, low, high - low)
            for nested in inner:
                analyzer.bind(nested.var, nested.min, nested.extent)
            return analyzer.can_prove(condition)

    def known(self, condition: Expr) -> Expr:
        """What is left of a condition, given the loops around it: its undecided conjuncts."""
        analyzer = self.analyzer()
        left: Expr = const(True, BOOL)
        for part in conjuncts(condition):
            simple = as_int(analyzer.simplify(part))
            if simple == 0:
                return const(False, BOOL)
            left = left if simple else logical_and(left, part)
        return left

    def analyzer(self) -> Analyzer:
        """What is known of the loops around the present statement; to be asked, not told more."""
        place = (*self.around, None, *self.assumed)
        if place not in self._known:
            analyzer = Analyzer()
            for loop in self.around:
                analyzer.bind(loop.var, loop.min, loop.extent)
            assumptions = contextlib.ExitStack()  # they hold for as long as it is kept
            for condition in self.assumed:
                assumptions.enter_context(analyzer.assume(condition))
            self._known[place] = analyzer, assumptions
        return self._known[place][0]

    def guards(self, loop: For) -> list[Expr]:
        """Conditions on an iteration of `loop` under which conditions inside always hold."""
        inner = [found for found in pre_order(loop.body) if isinstance(found, For)]
        worst = {found.var: (found.min, found.min + found.extent - 1) for found in inner}
        found: list[Expr] = []
        analyzer = self.analyzer()
        for condition in _conditions(loop.body, loop.var):
            extreme = _extreme(condition, worst, analyzer)
            if extreme is None or not uses_var(extreme, loop.var):
                continue
            known = analyzer.simplify(extreme)
            if as_int(known) is None and not any(structural_equal(known, g) for g in found):
                found.append(known)
        return found[:_MOST_GUARDS]

    def versions(self, body: Stmt, guards: list[Expr]) -> Stmt:
        """`body` for iterations in which the first guard holds and for the others, and so on."""
        if not guards:
            return self.visit(body)
        guard, *rest = guards
        self.assumed.append(guard)
        full = self.versions(body, rest)
        self.assumed[-1] = logical_not(guard)
        other = self.versions(with_fresh_vars(body), rest)
        self.assumed.pop()
        return IfThenElse(guard, full, other)


def _has_versions(loop: For) -> bool:
    """Whether a loop is not split, but has two versions of its body."""
    if not loop.annotations.get("partition", True):
        return False
    of_any_length = loop.kind is ForKind.SERIAL and as_int(loop.extent) is None
    return of_any_length or loop.kind is ForKind.PARALLEL


def _extreme(
    condition: Expr, worst: dict[Var, tuple[Expr, Expr]], analyzer: Analyzer
) -> Expr | None:
    """`condition` where it is hardest to fulfil: at the ends of the ranges of the inner loops."""
    if not isinstance(condition, (LT, LE)):
        return None
    difference = condition.a - condition.b
    ends: dict[Var, Expr] = {}
    for var, (first, last) in worst.items():
        if uses_var(difference, var):
            step = as_int(analyzer.simplify(substitute(difference, {var: var + 1}) - difference))
            if step is None:
                return None
            ends[var] = last if step > 0 else first
    extreme = substitute(condition, ends)
    if any(uses_var(extreme, var) for var in worst):  # an inner loop is as long as another says
        return None
    return extreme


def _bisect(holds: object, low: int, high: int) -> int:
    """The largest p in [low, high) for which `holds(p)`, given that it holds at `low`."""
    assert callable(holds)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _conditions(body: Stmt, var: Var) -> list[Expr]:
    """The conditions below `body` that depend on `var`, each conjunct by itself; none that reads
    memory, which says something else where the loop has not written it yet."""
    found: list[Expr] = []
    for child in pre_order(body):
        if isinstance(child, (IfThenElse, Select)):
            condition = child.condition
        elif isinstance(child, Call) and child.name == "if_then_else":
            condition = child.args[0]
        elif isinstance(child, Block):
            condition = child.predicate
        else:
            continue
        found.extend(
            part for part in conjuncts(condition) if uses_var(part, var) and not _reads(part)
        )
    return found


def _reads(condition: Expr) -> bool:
    return any(isinstance(node, BufferLoad) for node in pre_order(condition))
