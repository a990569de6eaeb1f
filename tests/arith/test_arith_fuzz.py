# SPDX-License-Identifier: Apache-2.0
"""Random expressions: simplified ones have the same value, bounds hold every value."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from heddle.arith import Analyzer, detect_iter_map, estimate_range, invert_iter_map
from heddle.ir import expr as ir
from heddle.ir import free_vars, substitute, uses_var
from heddle.ir.expr import Expr, Var, const
from tests.arith.arith_helpers import evaluate, text

SEED = int(os.environ.get("ARITH_FUZZ_SEED", "20"))
ARITHMETIC = (ir.Add, ir.Sub, ir.Mul, ir.FloorDiv, ir.FloorMod, ir.Min, ir.Max, ir.TruncDiv)
COMPARISONS = (ir.EQ, ir.NE, ir.LT, ir.LE, ir.GT, ir.GE)


class Generator:
    """Random integer and boolean expressions over four variables."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.vars = [Var(name) for name in "abcd"]
        self.ranges = {}
        for var in self.vars:
            self.ranges[var] = (self.rng.choice([0, 0, 1, -3]), self.rng.choice([1, 2, 4, 5, 8]))

    def integer(self, depth: int) -> Expr:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.1:
            return rng.choice(self.vars) if rng.random() < 0.7 else const(rng.randint(-6, 9))
        if rng.random() < 0.06:
            return ir.Select(
                self.boolean(depth - 1), self.integer(depth - 1), self.integer(depth - 1)
            )
        kind = rng.choice(ARITHMETIC)
        a = self.integer(depth - 1)
        if kind in (ir.FloorDiv, ir.FloorMod, ir.TruncDiv):
            b: Expr = const(rng.choice([2, 3, 4, 4, 6, 8, -3]))
        elif kind is ir.Mul and rng.random() < 0.8:
            b = const(rng.choice([-2, 2, 3, 4, 8]))
        else:
            b = self.integer(depth - 1)
        return kind(a, b)

    def boolean(self, depth: int) -> Expr:
        if depth > 1 and self.rng.random() < 0.4:
            kind = self.rng.choice((ir.And, ir.Or))
            made = kind(self.boolean(depth - 1), self.boolean(depth - 1))
            return ir.Not(made) if self.rng.random() < 0.3 else made
        return self.rng.choice(COMPARISONS)(self.integer(depth - 1), self.integer(depth - 1))

    def points(self, count: int) -> list[dict[Var, int]]:
        return [
            {v: self.rng.randrange(low, low + extent) for v, (low, extent) in self.ranges.items()}
            for _ in range(count)
        ]


@pytest.mark.parametrize("block", range(8))
def test_values_and_bounds(block: int) -> None:
    for seed in range(SEED * 1000 + block * 60, SEED * 1000 + block * 60 + 60):
        g = Generator(seed)
        analyzer = Analyzer()
        for var, (low, extent) in g.ranges.items():
            analyzer.bind(var, low, extent)
        e = g.integer(4) if seed % 3 else g.boolean(4)
        result = analyzer.simplify(e)
        bounds = analyzer.bounds(e)
        coefficient, base = analyzer.modular(e) if seed % 3 else (1, 0)
        for point in g.points(25):
            value = evaluate(e, point)
            where = f"seed {seed}: {text(e)} -> {text(result)} at {point}"
            assert evaluate(result, point) == value, where
            assert value in bounds, f"{where}: {value} not in {bounds}"
            assert value == base if coefficient == 0 else (value - base) % coefficient == 0, where


@pytest.mark.parametrize("block", range(4))
def test_assumptions_stay_sound(block: int) -> None:
    for seed in range(SEED * 1000 + block * 40, SEED * 1000 + block * 40 + 40):
        g = Generator(seed)
        assumed, e = g.boolean(2), g.boolean(3)
        analyzer = Analyzer()
        for var, (low, extent) in g.ranges.items():
            if g.rng.random() < 0.7:
                analyzer.bind(var, low, extent)
        with analyzer.assume(assumed):
            result = analyzer.simplify(e)
        outside = analyzer.simplify(e)
        for point in g.points(30):
            where = f"seed {seed}: {text(e)} given {text(assumed)} at {point}"
            assert evaluate(outside, point) == evaluate(e, point), where
            if evaluate(assumed, point):
                assert evaluate(result, point) == evaluate(e, point), f"{where}: {text(result)}"


@pytest.mark.parametrize("block", range(4))
def test_ranges_hold_every_value(block: int) -> None:
    for seed in range(SEED * 1000 + block * 40, SEED * 1000 + block * 40 + 40):
        g = Generator(seed)
        e = g.integer(3)
        inner = dict(itertools.islice(g.ranges.items(), 2))
        found = estimate_range(e, inner)
        if found is None:
            continue
        for point in g.points(30):
            low = evaluate(found.min, point)
            extent = evaluate(found.extent, point)
            where = f"seed {seed}: {text(e)} at {point}: [{text(found.min)}, +{text(found.extent)})"
            assert low <= evaluate(e, point) < low + extent, where


def _random_loops(rng: random.Random) -> tuple[list[Expr], dict[Var, tuple[int, int]], Expr]:
    """Indices of a loop nest after random splits and fusions, as a schedule makes them."""
    shape = [rng.choice([2, 3, 4, 6, 8]) for _ in range(rng.randint(1, 3))]
    roots = [Var(f"r{k}") for k in range(len(shape))]
    loops: list[tuple[Var, int]] = list(zip(roots, shape, strict=True))
    values: dict[Var, Expr] = {}
    predicate: Expr = const(True, "bool")
    for step in range(rng.randint(0, 4)):
        at = rng.randrange(len(loops))
        var, extent = loops[at]
        if rng.random() < 0.5 and at + 1 < len(loops):
            other, width = loops[at + 1]
            fused = Var(f"f{step}")
            values[var], values[other] = fused // width, fused % width
            loops[at : at + 2] = [(fused, extent * width)]
        else:
            factor = rng.choice([2, 3, 4])
            outer, inner = Var(f"o{step}"), Var(f"i{step}")
            values[var] = outer * factor + inner
            if extent % factor:
                predicate = predicate & (values[var] < extent)
            loops[at : at + 1] = [(outer, -(-extent // factor)), (inner, factor)]
    indices = [_expand(e, values) for e in roots]
    rng.shuffle(loops)
    return indices, {var: (0, extent) for var, extent in loops}, _expand(predicate, values)


def _expand(e: Expr, values: dict[Var, Expr]) -> Expr:
    while uses_var(e, set(values)):
        e = substitute(e, values)
    return e


def test_iterator_maps_are_what_they_say() -> None:
    detected = 0
    for seed in range(SEED * 1000, SEED * 1000 + 150):
        rng = random.Random(seed)
        indices, domains, predicate = _random_loops(rng)
        if rng.random() < 0.2:  # spoil it
            indices[0] = indices[0] // 2 if rng.random() < 0.5 else indices[0] + indices[-1]
        found = detect_iter_map(indices, domains, predicate)
        if not found:
            continue
        detected += 1
        taken = []
        back = invert_iter_map(found, [Var(f"q{k}") for k in range(len(indices))])
        for point in itertools.product(*(range(extent) for _, extent in domains.values())):
            at = dict(zip(domains, point, strict=True))
            if not evaluate(predicate, at):
                continue
            value = tuple(evaluate(index, at) for index in indices)
            taken.append(value)
            names = {v: value[int(v.name[1:])] for e in back.values() for v in free_vars(e)}
            for var, inverse in back.items():
                assert evaluate(inverse, names) == at[var], f"seed {seed}: {var.name}"
        assert len(set(taken)) == len(taken), f"seed {seed}: {[text(e) for e in indices]}"
        if found.is_bijective:
            size = 1
            for total in found.sums:
                size *= evaluate(total.extent, {})
            assert size == len(taken), f"seed {seed}: {[text(e) for e in indices]}"
    assert detected > 60
