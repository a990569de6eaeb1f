# SPDX-License-Identifier: Apache-2.0
"""What is handed to `heddle.build` and to the functions it gives: each mistake has its message."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle import te
from heddle.driver.function import BuiltFunction
from heddle.ir.expr import Var
from heddle.script import parse
from heddle.support import UserError


@heddle.hybrid
def scale(a, b, factor: float32):
    n = var("n")
    A = bind_buffer(a, shape=[n, 4])
    B = bind_buffer(b, shape=[n, 4])
    assert factor != 0, "the factor is zero"
    for i in iter_range(n, iter_type="data_par"):
        for j in iter_range(4, iter_type="data_par"):
            B[i, j] = A[i, j] * factor


@pytest.fixture(scope="module", params=["native", "c"])
def built(request: pytest.FixtureRequest) -> BuiltFunction:
    return heddle.build(scale, request.param)


A, B = np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32)
FROZEN = np.zeros((3, 4), np.float32)
FROZEN.flags.writeable = False

CALLS = {
    "missing": ((A, B), "scale: missing argument `factor`, expected `A`, `B`, `factor`"),
    "too many": ((A, B, 1.0, 2), "scale: got 4 arguments, expected `A`, `B`, `factor`"),
    "no tensor": (
        (A, [1.0], 1.0),
        (
            "scale: argument `B`: expected a numpy array, a torch tensor or another object with "
            "__dlpack__, got list"
        ),
    ),
    "dtype": ((A.astype("f8"), B, 1.0), "scale: argument `A`: expected float32, got float64"),
    "rank": ((A[0], B, 1.0), "scale: argument `A`: expected 2 dimensions, got 1 (4,)"),
    "fixed dimension": (
        (A[:, :3].copy(), B, 1.0),
        "scale: argument `A`: dimension 1 is 3, expected 4",
    ),
    "symbolic dimension": (
        (A, np.zeros((2, 4), np.float32), 1.0),
        "scale: argument `B`: dimension 0 is 2, expected n = 3 (`n` is 3 by dimension 0 of `A`)",
    ),
    "layout": (
        (A.T.copy().T, B, 1.0),
        "scale: argument `A`: must be contiguous, got strides (1, 3) in elements",
    ),
    "read-only": ((A, FROZEN, 1.0), "scale: argument `B`: is written, but the array is read-only"),
    "overlap": (
        (B, B, 1.0),
        "scale: argument `B`: is written, and shares memory with argument `A`",
    ),
    "scalar": (
        (A, B, "x"),
        "scale: argument `factor`: expected a number of float32, got 'x' (str)",
    ),
    "assertion": ((A, B, 0.0), "scale: the factor is zero"),
}


@pytest.mark.parametrize("case", CALLS)
def test_call(built: BuiltFunction, case: str) -> None:
    args, message = CALLS[case]
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        built(*args)


def test_names(built: BuiltFunction) -> None:
    with pytest.raises(UserError, match="unknown argument `C`, expected `A`, `B`, `factor`"):
        built(A, B, C=1.0)
    with pytest.raises(UserError, match="argument `A` is given twice"):
        built(A, B, A=A)


CUBE = """
@T.prim_func
def cubes(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in T.serial(8):
        B[i] = T.call_extern("my_cube", A[i], dtype="float32")
"""


@pytest.mark.parametrize("target", ["native", "c"])
def test_missing_c_function(target: str) -> None:
    message = "the C function `my_cube` is called but defined nowhere"
    with pytest.raises(UserError, match=message):
        heddle.build(heddle.IRModule([parse(CUBE)]), target)
    with pytest.raises(UserError, match=message):
        heddle.build(parse(CUBE), target)


def test_bad_library(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        heddle.build(parse(CUBE), libs=[tmp_path / "nothing.c"])
    source = tmp_path / "broken.c"
    source.write_text("int f( {")
    with pytest.raises(UserError, match=r"broken\.c does not compile"):
        heddle.build(parse(CUBE), libs=[source])


def test_modules() -> None:
    with pytest.raises(UserError, match="expected a PrimFunc or an IRModule, got int"):
        heddle.build(3)
    with pytest.raises(UserError, match="two functions are named `scale`"):
        heddle.IRModule([scale, scale])
    with pytest.raises(UserError, match="item 0 is a str, expected a function"):
        heddle.IRModule(["scale"])
    module = heddle.build(heddle.IRModule([scale]), "c")
    with pytest.raises(UserError, match="has no function `other`; it has `scale`"):
        module["other"]
    with pytest.raises(AttributeError):
        module.other


def test_dimension_only_in_an_expression() -> None:
    n = Var("n")
    a = te.placeholder((n * 2,), name="A")
    func = te.create_prim_func([a, te.compute((n * 2,), lambda i: a[i], name="B")], name="f")
    with pytest.raises(UserError, match="dimension `n` occurs only inside expressions"):
        heddle.build(func)


def test_c_has_no_vectors() -> None:
    text = """
@T.prim_func
def f(A: T.Buffer((8,), "float32")):
    A[T.ramp(0, 1, 8)] = T.broadcast(T.float32(1.0), 8)
"""
    with pytest.raises(UserError, match="the C target has no vectors"):
        heddle.build(parse(text), "c")
