# SPDX-License-Identifier: Apache-2.0
"""`Analyzer`: simplification, bounds and proofs about integer expressions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from heddle.arith.interval import BOOLEAN, INFINITY, Interval
from heddle.arith.modular import modular_of
from heddle.arith.simplify import Simplifier
from heddle.arith.sums import Sum
from heddle.ir import expr as ir
from heddle.ir.dtype import BOOL, INT64
from heddle.ir.expr import Expr, ExprLike, IntImm, Var, as_expr
from heddle.support import InternalError

_COMPARISONS = (ir.EQ, ir.LT, ir.LE, ir.GT, ir.GE)


class Analyzer:
    """Simplifies and bounds integer expressions under what it was told about their variables.

    >>> i, j = Var("i"), Var("j")
    >>> a = Analyzer()
    >>> a.bind(i, 0, 8)
    >>> a.bind(j, 0, 4)
    >>> a.bounds(i * 4 + j)
    Interval(lo=0, hi=31)
    >>> a.simplify((i * 4 + j) // 4) is i
    True

    Results are canonical within one analyzer: equal expressions simplify to the same object.
    int64 arithmetic is taken not to overflow. A simplified expression never evaluates what the
    original did not; loads may be evaluated fewer times.
    """

    def __init__(self) -> None:
        self._s = Simplifier()

    @property
    def simplifier(self) -> Simplifier:
        """The state behind this analyzer, for the other modules of `heddle.arith`."""
        return self._s

    # -- telling it ---------------------------------------------------------------------------

    def bind(self, var: Var, minimum: ExprLike, extent: ExprLike | None = None) -> None:
        """`var` takes the values [minimum, minimum + extent); without extent, no upper end.

        Both may be symbolic, in variables that are bound before or not at all. Binding a variable
        again replaces what was known about its range.
        """
        s = self._s
        self._check_var(var)
        lowest = s.sum_of(s.run(as_expr(minimum)))
        facts = s.facts
        interval = Interval(s.bounds.of_sum(lowest).lo, INFINITY)
        highest: Sum | None = None
        if extent is not None:
            highest = lowest + s.sum_of(s.run(as_expr(extent))).shift(-1)
            interval = Interval(interval.lo, s.bounds.of_sum(highest).hi)
        self._changed(var)
        facts.values.pop(var, None)
        facts.symbolic.pop(var, None)
        facts.intervals[var] = interval
        if highest is not None and (highest.terms or lowest.terms):
            facts.symbolic[var] = (lowest, highest)

    def bind_value(self, var: Var, value: ExprLike) -> None:
        """`var` is `value`: it is replaced wherever it occurs."""
        simplified = self._s.run(as_expr(value))
        if simplified.dtype is not var.dtype:
            raise InternalError(f"{var.name} is {var.dtype}, its value {simplified.dtype}")
        if self._s.mentions(simplified, var):
            raise InternalError(f"the value of {var.name} mentions {var.name}")
        self._changed(var)
        self._s.facts.values[var] = simplified

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Bindings and assumptions made within the `with` block end with it."""
        s = self._s
        saved = (s.facts, s.memo, s.made, s.bounds.memo, s.prover.memo)
        s.facts = s.facts.copy()
        s.forget()
        try:
            yield
        finally:
            s.facts, s.memo, s.made, s.bounds.memo, s.prover.memo = saved

    @contextmanager
    def assume(self, condition: ExprLike) -> Iterator[None]:
        """Within the `with` block, `condition` holds. Bindings made inside end with it too.

        >>> n, a = Var("n"), Analyzer()
        >>> with a.assume(n > 3):
        ...     a.can_prove(n * 2 >= 8)
        True
        """
        learned = self._s.run(as_expr(condition))
        with self.scope():
            self._learn(learned, value=True)
            yield

    def _learn(self, condition: Expr, *, value: bool) -> None:
        """Remember that a simplified condition has this value."""
        s = self._s
        kind = type(condition)
        if kind is (ir.And if value else ir.Or):
            self._learn(condition.a, value=value)  # type: ignore[attr-defined]
            self._learn(condition.b, value=value)  # type: ignore[attr-defined]
        elif kind is ir.Not:
            self._learn(condition.a, value=not value)  # type: ignore[attr-defined]
        elif kind in _COMPARISONS and condition.a.dtype is INT64 and value:  # type: ignore[attr-defined]
            difference = s.sum_of(condition.b) - s.sum_of(condition.a)  # type: ignore[attr-defined]
            self._learn_comparison(kind, difference)
        s.facts.truths[condition] = value
        if kind in (ir.EQ, ir.NE, ir.LT):
            s.facts.truths[s.negate(condition)] = not value
        s.forget()

    def _learn_comparison(self, kind: type, difference: Sum) -> None:
        """`difference` is b - a of a known comparison of a and b."""
        facts = self._s.facts
        if not difference.terms:
            return
        if kind is ir.LT:
            facts.learn_part(difference.shift(-1))
        elif kind is ir.LE:
            facts.learn_part(difference)
        elif kind is ir.EQ:
            facts.learn_part(difference)
            facts.learn_part(difference.scale(-1))
            self._learn_divisibility(difference)

    def _learn_divisibility(self, difference: Sum) -> None:
        if len(difference.terms) != 1:
            return
        ((term, count),) = difference.terms.items()
        if type(term) is ir.FloorMod and type(term.b) is IntImm and abs(count) == 1:
            dividend = self._s.sum_of(term.a)
            base = -difference.constant * count
            if len(dividend.terms) == 1:
                ((inner, factor),) = dividend.terms.items()
                if factor == 1 and term.b.value > 0:
                    known = (term.b.value, (base - dividend.constant) % term.b.value)
                    self._s.facts.divisible[inner] = known

    def _check_var(self, var: Var) -> None:
        if not isinstance(var, Var) or not var.dtype.is_int:
            raise InternalError(f"only an integer variable can be bound, got {var!r}")

    def _changed(self, var: Var) -> None:
        """What was derived from the facts stays valid for a variable never seen before."""
        s = self._s
        if var in s.seen or var in s.facts.intervals or var in s.facts.values:
            s.forget()

    # -- asking it ----------------------------------------------------------------------------

    def simplify(self, value: ExprLike) -> Expr:
        """An equal expression in canonical form."""
        return self._s.run(as_expr(value))

    def bounds(self, value: ExprLike) -> Interval:
        """An interval that holds every value; exact for sums of independent variables."""
        simplified = self._s.run(as_expr(value))
        if simplified.dtype is BOOL:
            return self._s.bounds.of(simplified).intersect(BOOLEAN)
        return self._s.bounds.of(simplified)

    def can_prove(self, condition: ExprLike) -> bool:
        """Whether `condition` is shown to hold always. False means "not shown"."""
        return self._proves(self._s.run(as_expr(condition)))

    def _proves(self, condition: Expr) -> bool:
        if isinstance(condition, IntImm):
            return bool(condition.value)
        if isinstance(condition, ir.And):
            return self._proves(condition.a) and self._proves(condition.b)
        if isinstance(condition, ir.Or):
            return self._proves(condition.a) or self._proves(condition.b)
        return False

    def can_prove_equal(self, a: ExprLike, b: ExprLike) -> bool:
        """Whether two values are shown to be always equal."""
        left, right = as_expr(a), as_expr(b)
        if left.dtype is not right.dtype:
            return False
        if left.dtype is not INT64:
            return self._s.run(left) is self._s.run(right)
        return self._proves(self._s.run(ir.compare(ir.EQ, left, right)))

    def modular(self, value: ExprLike) -> tuple[int, int]:
        """`(coefficient, base)`: the value is a multiple of `coefficient`, plus `base`.

        Coefficient 0 is a constant, (1, 0) means that nothing is known.
        """
        return modular_of(self._s, self._s.run(as_expr(value)))
