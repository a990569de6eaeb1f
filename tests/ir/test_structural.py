# SPDX-License-Identifier: Apache-2.0
"""Structural equality, its mismatch paths, and the hash that keys the disk cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np

from heddle.ir import TensorType, first_mismatch, structural_equal, structural_hash
from heddle.ir import expr as ir
from heddle.ir.expr import Add, Call, Let, Var, const
from heddle.support import Span

n = Var("n")


def _let(name: str, addend: int = 1) -> Let:
    var = Var(name)
    return Let(n * 2, var, var + addend)


def test_bound_names_do_not_matter() -> None:
    assert structural_equal(_let("a"), _let("b"))
    assert structural_hash(_let("a")) == structural_hash(_let("b"))


def test_bound_variables_correspond_one_to_one() -> None:
    a, b, c, d = (Var(name) for name in "abcd")
    left = Let(n, a, Let(n, b, a + b))
    assert structural_equal(left, Let(n, c, Let(n, d, c + d)))
    assert not structural_equal(left, Let(n, c, Let(n, d, c + c)))
    assert not structural_equal(left, Let(n, c, Let(n, d, d + c)))
    assert structural_hash(left) != structural_hash(Let(n, c, Let(n, d, d + c)))


def test_free_variables_are_themselves() -> None:
    x, y = Var("x"), Var("x")
    assert not structural_equal(x + 1, y + 1)
    assert structural_equal(x + 1, y + 1, map_free_vars=True)
    assert not structural_equal(x + y, y + y, map_free_vars=True)


def test_the_path_names_the_first_difference() -> None:
    mismatch = first_mismatch(_let("a", 1), _let("b", 2))
    assert mismatch is not None
    assert mismatch.path == ".body.b.value"
    assert str(mismatch) == "at .body.b.value: 1 is not 2"
    calls = [Call("f", (n, const(k)), ir.INT64, {"axis": k}) for k in (1, 2)]
    assert str(first_mismatch(*calls)) == "at .args[1].value: 1 is not 2"
    attrs = [Call("f", (n,), ir.INT64, {"axis": k}) for k in (1, 2)]
    assert str(first_mismatch(*attrs)) == "at .attrs['axis']: 1 is not 2"
    dims = [TensorType.of((1, n, k), "float32") for k in (3, 4)]
    assert str(first_mismatch(*dims)) == "at .shape[2].value: 3 is not 4"
    assert str(first_mismatch(n + 1, n - 1)) == "at <root>: Add is not Sub"


def test_spans_do_not_count_dtypes_and_values_do() -> None:
    spanned = Add(n, const(1), span=Span("f.py", 1))
    assert structural_equal(spanned, Add(n, const(1)))
    assert structural_hash(spanned) == structural_hash(Add(n, const(1)))
    assert not structural_equal(const(1, "int32"), const(1, "int64"))
    assert structural_hash(const(1, "int32")) != structural_hash(const(1, "int64"))
    assert not structural_equal(const(True, "bool"), const(1, "int64"))


def test_floats_compare_bit_by_bit_where_it_matters() -> None:
    nan = [const(float("nan"), "float32") for _ in range(2)]
    assert structural_equal(*nan)
    zeros = [const(value, "float32") for value in (0.0, -0.0)]
    assert not structural_equal(*zeros)
    assert structural_hash(zeros[0]) != structural_hash(zeros[1])


def test_arrays_in_attributes_compare_by_content() -> None:
    def call(values: list[float]) -> Call:
        return Call("f", (n,), ir.INT64, {"table": np.array(values, np.float32)})

    assert structural_equal(call([1, 2]), call([1, 2]))
    assert structural_hash(call([1, 2])) == structural_hash(call([1, 2]))
    assert not structural_equal(call([1, 2]), call([1, 3]))
    assert structural_hash(call([1, 2])) != structural_hash(call([1, 3]))


def test_the_hash_is_the_same_in_every_process() -> None:
    program = (
        "from heddle.ir import structural_hash\n"
        "from heddle.ir.expr import Call, INT64, Var\n"
        "n, m = Var('n'), Var('m')\n"
        "e = (n * 4 + m) // 8 < n\n"
        "print(structural_hash(Call('f', (e, n), INT64, {'b': {'y': 1, 'x': (2.5, 'z')}, 'a': 2})))"
    )
    found = set()
    for seed in ("0", "1", "77"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True
        )
        found.add(run.stdout)
    assert len(found) == 1


def test_sets_in_attributes_hash_alike() -> None:
    names = [f"name{k}" for k in range(40)]
    a = Call("f", (n,), ir.INT64, {"s": frozenset(names)})
    b = Call("f", (n,), ir.INT64, {"s": frozenset(reversed(names))})
    assert structural_equal(a, b)
    assert structural_hash(a) == structural_hash(b)


def test_deep_and_shared_structures() -> None:
    def deep(var: Var) -> ir.Expr:
        e: ir.Expr = var
        for k in range(50_000):
            e = Add(e, const(k % 9))
        return e

    def shared(var: Var) -> ir.Expr:
        e: ir.Expr = var
        for _ in range(60):  # 2**60 paths
            e = Add(e, e)
        return e

    start = time.process_time()
    a, b = Var("a"), Var("b")
    assert structural_equal(deep(a), deep(b), map_free_vars=True)
    assert structural_hash(deep(a)) == structural_hash(deep(b))
    assert structural_equal(shared(a), shared(b), map_free_vars=True)
    assert structural_hash(shared(a)) == structural_hash(shared(b))
    assert time.process_time() - start < 20
