# SPDX-License-Identifier: Apache-2.0
"""Proofs by looking at every case."""

from heddle.arith.enumerate import MOST_CASES, maps_distinctly
from heddle.ir.expr import Var
from heddle.tir import intrin

I, J, K = Var("i"), Var("j"), Var("k")


def test_fused_and_split_again_with_a_rest():
    fused = I * 9 + J
    indices = [fused // 16, fused // 8 % 2, fused % 8]
    domains = {I: (0, 4), J: (0, 9)}
    assert maps_distinctly(indices, domains, [fused < 32]) is True
    assert maps_distinctly(indices[1:], domains, [fused < 32]) is False


def test_loops_that_share_no_index_are_looked_at_apart():
    most = MOST_CASES // 2
    assert maps_distinctly([I, J + 1], {I: (0, most), J: (0, most)}, []) is True
    assert maps_distinctly([I + J], {I: (0, most), J: (0, most)}, []) is None


def test_a_loop_in_no_index_repeats():
    assert maps_distinctly([I], {I: (0, 4), J: (0, 2)}, []) is False
    assert maps_distinctly([I], {I: (0, 4), J: (0, 1)}, []) is True


def test_what_is_no_integer_operation_is_not_decided():
    value = intrin.call_extern("f", I, dtype="int64")
    assert maps_distinctly([value], {I: (0, 4)}, []) is None
