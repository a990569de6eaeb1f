# SPDX-License-Identifier: Apache-2.0
"""Rows (before, after), each also evaluated at random points of the ranges it was given."""

from __future__ import annotations

import random
import time

import pytest

from heddle.arith import Analyzer, Interval
from heddle.arith.pattern import all_rules
from heddle.arith.rules import TABLES
from heddle.ir import expr as ir
from heddle.ir import structural_equal
from heddle.ir.expr import (
    Add,
    Expr,
    FloatImm,
    FloorDiv,
    IntImm,
    Min,
    Var,
    cast,
    const,
    if_then_else,
    maximum,
    minimum,
    select,
    truncdiv,
    truncmod,
)
from tests.arith.arith_helpers import evaluate, text

i, j, x, y, z, n = (Var(name) for name in "ijxyzn")
RANGES = {i: (0, 8), j: (0, 4), n: (1, 50)}  # (minimum, extent); x, y, z are unbounded
p, q = Var("p", ir.BOOL), Var("q", ir.BOOL)
b, c = Var("b", ir.DType.of("int8")), Var("c", ir.DType.of("int8"))
true, false = const(True, "bool"), const(False, "bool")

ROWS: list[tuple[Expr, Expr | int]] = [
    # sums
    ((x * 4 + x * 2 - x) * 3 - 2, x * 15 - 2),
    (x * n + y * n - (x + y) * n, 0),
    ((x + 1) * (x - 1), x * x - 1),
    (-x - y + x, y * -1),
    # division and remainder
    ((i * 4 + j) // 4, i),
    ((i * 4 + j) % 4, j),
    ((i * 4 + j) // 8, i // 2),
    ((i * 4 + j) % 8, i % 2 * 4 + j),
    (x // 4 * 4 + x % 4, x),
    ((x + 3) // 4 * 4 + (x + 3) % 4, x + 3),
    (x - x // 4 * 4, x % 4),
    (x // 8 % 4 + x // 32 * 4, x // 8),
    (x // 4 // 8, x // 32),
    ((x // 4 + 3) // 8, (x + 12) // 32),
    (x // n // n, x // (n * n)),
    (x % 32 // 4, x // 4 % 8),
    (x % 32 % 8, x % 8),
    ((x % n) % n, x % n),
    ((x % 8 * 4 + j) % 16, x % 4 * 4 + j),
    (x // -3, (x * -1) // 3),
    (x * n // n, x),
    ((x * n + y) // n, x + y // n),
    ((x * (n + 1)) // (n + 1), x),
    (truncdiv(i, 3), i // 3),
    (truncmod(i, 3), i % 3),
    # min and max
    (minimum(i, 9), i),
    (minimum(x + 1, x + 3), x + 1),
    (maximum(x + 1, x + 3), x + 3),
    (minimum(minimum(x, 9), 5), minimum(x, 5)),
    (maximum(maximum(x, 9), 5), maximum(x, 9)),
    (minimum(minimum(x, y), x), minimum(x, y)),
    (maximum(maximum(x, y), y), maximum(x, y)),
    (minimum(maximum(x, y), x), x),
    (maximum(minimum(x, y), x), x),
    (minimum(minimum(x, y), y + 2), minimum(x, y)),
    (maximum(maximum(x, y), y - 2), maximum(x, y)),
    (minimum(maximum(x, 5), 3), 3),
    (maximum(minimum(x, 3), 5), 5),
    (minimum(maximum(x, y), maximum(x, z)), maximum(x, minimum(y, z))),
    (maximum(minimum(x, y), minimum(x, z)), minimum(x, maximum(y, z))),
    (minimum(minimum(x, y), minimum(x, z)), minimum(y, minimum(x, z))),
    (maximum(maximum(x, y), maximum(x, z)), maximum(y, maximum(x, z))),
    (minimum(x // 4, y // 4), minimum(x, y) // 4),
    (maximum(x // 4, y // 4), maximum(x, y) // 4),
    (minimum(x // 4, 3), minimum(x, 12) // 4),
    (maximum(x // 4, 3), maximum(x, 12) // 4),
    (minimum(x * 3, y * 3), minimum(x, y) * 3),
    (minimum(x * -3, y * -3), maximum(x, y) * -3),
    (maximum(x * 3, y * 3), maximum(x, y) * 3),
    (maximum(x * -3, y * -3), minimum(x, y) * -3),
    # comparisons
    (i < 8, true),
    (i >= 8, false),
    (i * 4 + j < 16, i < 4),
    (x * 4 < 18, x < 5),
    ((x * 2).equal(y * 4 + 1), false),
    (x + 3 <= y, x + 2 < y),
    (x // 4 < 3, x < 12),
    (x // 4 < y, x < y * 4),
    (y < x // 4, y * 4 + 3 < x),
    ((x // 4).equal(3), None),
    (minimum(x, y) < z, (x < z) | (y < z)),
    (maximum(x, y) < z, (x < z) & (y < z)),
    (z < minimum(x, y), (z < x) & (z < y)),
    (z < maximum(x, y), (z < x) | (z < y)),
    (select(x < y, 1, 2).equal(1), x < y),
    (select(x < y, 1, 2).equal(2), ~(x < y)),
    # logic
    ((x < y) & (x < y), x < y),
    ((x < y) & ~(x < y), false),
    ((x < y) | ~(x < y), true),
    ((x < y) | (x < y), x < y),
    ((x < 4) & (x < 8), x < 4),
    ((x < 4) | (x < 8), x < 8),
    ((x > 4) & (x > 8), const(8) < x),
    ((x > 4) | (x > 8), const(4) < x),
    ((x < 4) & (x > 8), false),
    ((x < 9) | (x > 4), true),
    (x.equal(3) & x.equal(4), false),
    (x.equal(3) & (x < 4), x.equal(3)),
    (x.equal(3) & (x < 3), false),
    (x.equal(3) & (x > 2), x.equal(3)),
    (x.equal(3) & (x > 3), false),
    (((x < y) & (z < y)) & (x < y), (x < y) & (z < y)),
    (((x < y) | (z < y)) & (x < y), x < y),
    (((x < y) | (z < y)) | (x < y), (x < y) | (z < y)),
    (((x < y) & (z < y)) | (x < y), x < y),
    ((x < y) & (x < y + 2), x < y),
    ((x < y) | (x < y + 2), x < y + 2),
    (~(x < y) & ~(y < x), None),
    (~x.equal(y), x.not_equal(y)),
    (~x.not_equal(y), x.equal(y)),
    (~((x < y) & x.equal(z)), None),
    (~((x < y) | x.equal(z)), None),
    (p & ~p, false),
    ((p & q) & ~p, false),
    ((p | q) & ~p, q & ~p),
    (p | ~p, true),
    ((p | q) | ~p, true),
    ((p & q) | ~p, q | ~p),
    (~~p, p),
    (~(b <= c), c < b),
    (~(b > c), b <= c),
    (~(b >= c), b < c),
    # choices
    (select(~p, x, y), select(p, y, x)),
    (select(x < y, z, z), z),
    (select(x.equal(y), select(x.equal(y), 1, 2), 3), select(x.equal(y), 1, 3)),
    (select(x.equal(y), 1, select(x.equal(y), 2, 3)), select(x.equal(y), 1, 3)),
    (if_then_else(i < 8, x, y), x),
]


def _analyzer() -> Analyzer:
    analyzer = Analyzer()
    for var, (low, extent) in RANGES.items():
        analyzer.bind(var, low, extent)
    return analyzer


def _points(count: int = 40) -> list[dict[Var, int]]:
    rng = random.Random(7)
    points = []
    for _ in range(count):
        point = {var: rng.randrange(low, low + extent) for var, (low, extent) in RANGES.items()}
        points.append(point | {var: rng.randint(-20, 20) for var in (x, y, z, b, c)})
        points[-1] |= {var: rng.randint(0, 1) for var in (p, q)}
    return points


@pytest.mark.parametrize(
    "before, after", ROWS, ids=lambda e: text(e) if isinstance(e, Expr) else ""
)
def test_row(before: Expr, after: Expr | int | None) -> None:
    analyzer = _analyzer()
    result = analyzer.simplify(before)
    if after is not None:
        expected = const(after) if isinstance(after, int) else after
        assert analyzer.simplify(expected) is result, f"{text(before)} became {text(result)}"
    assert analyzer.simplify(result) is result
    for point in _points():
        assert evaluate(before, point) == evaluate(result, point), (text(result), point)


def test_rows_are_written_in_canonical_form() -> None:
    """The right sides above are what comes out, up to the order of commutative operands."""
    assert structural_equal(_analyzer().simplify((i * 4 + j) % 8), i % 2 * 4 + j)
    assert structural_equal(_analyzer().simplify(x + 3 <= y), x + 2 < y)
    assert structural_equal(_analyzer().simplify(1 - x - y * 2), 1 - x - y * 2)


def test_every_rule_names_its_place_and_fires() -> None:
    for before, _ in ROWS:
        _analyzer().simplify(before)
    rules = all_rules(TABLES)
    assert all(rule.file.endswith(".py") and rule.line > 0 for rule in rules)
    silent = [repr(rule) for rule in rules if not rule.hits]
    assert not silent, "\n".join(silent)


def test_floats_fold_only_where_that_is_exact() -> None:
    f = Var("f", ir.DType.of("float32"))
    simplify = Analyzer().simplify
    assert simplify(f * 1.0) is f
    assert simplify(f / 1.0) is f
    for kept in (f + 0.0, f * 0.0, f - f, f / f):
        assert structural_equal(simplify(kept), kept)
    third = simplify(const(1.0, "float32") / const(3.0, "float32"))
    assert isinstance(third, FloatImm)
    assert third.value == 0.3333333432674408
    assert structural_equal(simplify(~(f < f)), ~(f < f))


def test_narrow_integers_wrap() -> None:
    simplify = Analyzer().simplify
    assert structural_equal(simplify((b + const(100, "int8")) < b), (b + const(100, "int8")) < b)
    assert simplify(cast(const(300), "uint8")).value == 44
    wide = cast(b, "int64")
    assert _analyzer().bounds(wide + 1) == Interval(-127, 128)
    assert structural_equal(simplify(cast(cast(b, "int32"), "int64")), wide)


def test_vectors_of_indices() -> None:
    simplify = _analyzer().simplify
    ramp = ir.Ramp(i * 8, const(1), 4)
    four = ir.Broadcast(const(4), 4)
    assert structural_equal(simplify(ramp * four), ir.Ramp(i * 32, const(4), 4))
    assert structural_equal(simplify(ramp // four), ir.Broadcast(i * 2, 4))
    assert structural_equal(simplify(ramp % four), ir.Ramp(const(0), const(1), 4))
    assert structural_equal(simplify(ramp + four), ir.Ramp(i * 8 + 4, const(1), 4))


def test_calls_with_effects_are_never_merged() -> None:
    first, second = (ir.Call("call_extern", (ir.StringImm("rand"),), ir.INT64) for _ in range(2))
    assert structural_equal(Analyzer().simplify(first - second), first - second)


def test_deep_and_wide_expressions() -> None:
    many = [Var(f"v{k}") for k in range(100)]
    deep: Expr = x
    for k in range(100_000):
        deep = Add(deep, many[k % 100])
    doubled: Expr = x
    shared: Expr = i
    for _ in range(14):
        doubled = Add(doubled, doubled)
        shared = FloorDiv(Add(shared, shared), IntImm(2))
    chain: Expr = x
    for k in range(3000):
        chain = Min(Add(chain, IntImm(k % 7 + 1)), many[k % 10])
    analyzer = _analyzer()
    start = time.process_time()
    assert structural_equal(analyzer.simplify(doubled), x * 2**14)
    assert analyzer.simplify(shared) is i
    total = sum(1000 * many[k] for k in range(100)) + x
    assert analyzer.simplify(deep) is analyzer.simplify(total)
    assert analyzer.bounds(deep).hi == float("inf")
    analyzer.simplify(chain)
    # Quadratic or path-counting work would take minutes; the margin is for a busy machine.
    assert time.process_time() - start < 10
