# SPDX-License-Identifier: Apache-2.0
"""Divisions that the loops around make superfluous go; those that they do not, stay."""

from __future__ import annotations

import pytest

from heddle.passes.tir.simplify_indices import simplify_indices
from heddle.script import parse, to_text

PROGRAM = """
@T.prim_func
def f(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    for i in range(16):
        for j in range(4):
            B[i * 4 + j] = {value}
"""


def program(value: str) -> object:
    return parse(PROGRAM.format(value=value))


@pytest.mark.parametrize(
    "before, after",
    [
        ("A[(i * 4 + j) // 4]", "A[i]"),
        ("A[(i * 4 + j) % 4]", "A[j]"),
        ("A[(i * 4 + j) // 4 * 4 + (i * 4 + j) % 4]", "A[i * 4 + j]"),
        ("A[(i * 4 + j) // 4 - i]", "A[0]"),
        ("T.if_then_else((i * 4 + j) % 4 == 0, A[i], 0.0)", "T.if_then_else(j == 0, A[i], 0.0)"),
        ("A[(i + j) // 3]", "A[(i + j) // 3]"),
        ("A[i + j + 0]", "A[i + j + 0]"),
    ],
)
def test_rows(before: str, after: str) -> None:
    assert to_text(simplify_indices(program(before))) == to_text(program(after))


def test_without_divisions_the_function_stays_the_same_object() -> None:
    func = program("A[i * 4 + j]")
    assert simplify_indices(func) is func
