# SPDX-License-Identifier: Apache-2.0
"""Proofs by looking at every case."""

from heddle.arith.enumerate import MOST_CASES, maps_distinctly
from heddle.ir.expr import Var
from heddle.tir import intrin

x, y = Var("x"), Var("y")


def test_fused_and_split_again_with_a_rest():
    fused = x * 9 + y
    indices = [fused // 16, fused // 8 % 2, fused % 8]
    domains = {x: (0, 4), y: (0, 9)}
    assert maps_distinctly(indices, domains, [fused < 32]) is True
    assert maps_distinctly(indices[1:], domains, [fused < 32]) is False


def test_loops_that_share_no_index_are_looked_at_apart():
    most = MOST_CASES // 2
    assert maps_distinctly([x, y + 1], {x: (0, most), y: (0, most)}, []) is True
    assert maps_distinctly([x + y], {x: (0, most), y: (0, most)}, []) is None


def test_a_loop_in_no_index_repeats():
    assert maps_distinctly([x], {x: (0, 4), y: (0, 2)}, []) is False
    assert maps_distinctly([x], {x: (0, 4), y: (0, 1)}, []) is True


def test_what_is_no_integer_operation_is_not_decided():
    value = intrin.call_extern("f", x, dtype="int64")
    assert maps_distinctly([value], {x: (0, 4)}, []) is None
