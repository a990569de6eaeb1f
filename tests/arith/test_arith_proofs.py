# SPDX-License-Identifier: Apache-2.0
"""Proofs with symbolic ranges and assumptions, index ranges, linear forms, iterator maps."""

from __future__ import annotations

import pytest

from heddle.arith import (
    Analyzer,
    Interval,
    detect_iter_map,
    estimate_range,
    linear_form,
    union_range,
)
from heddle.ir.expr import Expr, Var, const, floormod, minimum
from heddle.support import InternalError

o, i, j, k, m, n, x = (Var(name) for name in "oijkmnx")


def test_fused_and_tiled_indices_stay_in_bounds() -> None:
    a = Analyzer()
    a.bind(i, 0, m)
    a.bind(j, 0, n)
    assert a.can_prove((i * n + j < m * n) & (i * n + j >= 0))
    assert not a.can_prove(i * n + j < m * n - 1)
    assert a.simplify((i * n + j) // n) is i
    assert a.simplify((i * n + j) % n) is j
    b = Analyzer()
    b.bind(o, 0, n // 4)
    b.bind(i, 0, 4)
    assert b.can_prove(o * 4 + i < n)
    assert not b.can_prove(o * 4 + i < n - 1)
    assert b.can_prove(minimum(o * 4 + i, k - 1) < k)


def test_assumptions_hold_inside_their_block_only() -> None:
    a = Analyzer()
    a.bind(o, 0, (n + 3) // 4)
    a.bind(i, 0, 4)
    assert not a.can_prove(o * 4 + i < n)
    with a.assume(o * 4 + i < n):
        assert a.can_prove(o * 4 + i <= n)
        assert a.can_prove(n >= 1)
        assert a.bounds(o * 4 + i - n).hi == -1
    assert not a.can_prove(o * 4 + i < n)
    with a.assume((x > 3) & (x < 9)):
        assert a.bounds(x * 2 + 1) == Interval(9, 17)
    with a.assume(floormod(n, 8).equal(0)):
        assert a.modular(n * 3 + 1) == (24, 1)
        assert a.simplify(n // 4 * 4) is n
        assert a.can_prove_equal(n % 2, 0)
    assert a.modular(n) == (1, 0)


def test_binding_again_replaces_the_range() -> None:
    a = Analyzer()
    a.bind(x, 0, 4)
    assert a.bounds(x + 1) == Interval(1, 4)
    a.bind(x, 2, 4)
    assert a.bounds(x + 1) == Interval(3, 6)
    with a.scope():
        a.bind_value(x, n + 1)
        assert a.simplify(x - n).value == 1
    assert a.bounds(x) == Interval(2, 5)
    with pytest.raises(InternalError, match="mentions x"):
        a.bind_value(x, x + 1)


RANGES = [
    (o * 8 + i * 2 + k, {i: (0, 4), k: (0, 3)}, o * 8, 9),
    ((o * 8 + i) // 4, {i: (0, 8)}, o * 2, 2),
    ((o * 6 + i) // 4, {i: (0, 6)}, o + o // 2, 2),
    ((o * 4 + i) % 8, {i: (0, 4)}, o % 2 * 4, 4),
    ((o * 4 + i) // 5, {i: (0, 4)}, o * 4 // 5, 2),
    ((o * 4 + i) % 5, {i: (0, 4)}, 0, 5),
    (i * n + j, {i: (0, 4), j: (0, n)}, 0, n * 4),
    (n - 1 - i, {i: (0, 4)}, n - 4, 4),
    (minimum(o * 4 + i, n - 1), {i: (0, 4)}, minimum(o * 4, n - 1), 4),
    (i + j, {i: (0, 4), j: (i, 3)}, 0, 9),
]


@pytest.mark.parametrize("value, domain, low, extent", RANGES)
def test_ranges_of_indices(value: Expr, domain: dict, low: Expr | int, extent: Expr | int) -> None:
    a = Analyzer()
    found = estimate_range(value, domain, analyzer=a)
    assert found is not None
    assert a.can_prove_equal(found.min, low)
    assert a.can_prove_equal(found.extent, extent)


def test_ranges_that_cannot_be_given() -> None:
    assert estimate_range(i * j, {i: (0, 4), j: (0, 4)}) is not None  # bounded by constants
    assert estimate_range(i * j, {i: (0, n), j: (0, n)}) is None


def test_unions() -> None:
    found = union_range((o * 4, 4), (o * 4 + 2, 6))
    assert Analyzer().can_prove_equal(found.min, o * 4)
    assert found.extent.value == 8


def test_linear_forms() -> None:
    form = linear_form((i + n) * 4 + j - j * 3, [i, j, k])
    assert form is not None
    assert form.coefficients == {i: 4, j: -2, k: 0}
    assert Analyzer().can_prove_equal(form.base, n * 4)
    assert linear_form(i * 4 + 3, [i]).constant == 3
    assert linear_form(i // 2, [i]) is None
    assert linear_form(i * n, [i]) is None


REASONS = [
    ([o * 2 + i], {o: (0, 8), i: (0, 4)}, "expected a digit of scale"),
    ([o], {o: (0, 8), i: (0, 4)}, "no index depends on"),
    ([o, o], {o: (0, 8)}, "overlap or leave a gap"),
    ([o * i], {o: (0, 8), i: (0, 4)}, "product of loop variables"),
    ([o // 2], {o: (0, 8)}, "overlap or leave a gap"),
]


@pytest.mark.parametrize("indices, domain, reason", REASONS)
def test_maps_that_are_none(indices: list[Expr], domain: dict, reason: str) -> None:
    found = detect_iter_map(indices, domain)
    assert not found
    assert reason in found.reason


def test_symbolic_iterator_maps() -> None:
    tiled = detect_iter_map([o * 4 + i], {o: (0, (n + 3) // 4), i: (0, 4)}, o * 4 + i < n)
    assert tiled.is_bijective
    assert tiled.sums[0].extent is tiled.sums[0].splits[0].extent
    fused = detect_iter_map([k // n, k % n], {k: (0, n * 8)})
    assert fused.is_bijective
    assert fused.sums[0].splits[0].lower is n
    partial = detect_iter_map([k // 4, k % 4], {k: (0, 15)})
    assert partial
    assert not partial.is_bijective
    assert detect_iter_map([k + 3], {k: (0, 4)}, const(True, "bool")).sums[0].base.value == 3
