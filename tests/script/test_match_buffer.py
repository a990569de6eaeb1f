# SPDX-License-Identifier: Apache-2.0
"""`T.match_buffer`: parameters given as handles, and names for boxes of buffers."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import heddle
from heddle.ir import first_mismatch
from heddle.script import T, parse, to_text
from heddle.support import UserError
from heddle.tir.interp import run
from heddle.tir.nodes import PrimFunc
from heddle.tir.verify import verify

TARGETS = ["native", "c"]


@T.prim_func
def rows(a: T.handle, b: T.handle):
    n = T.int64()
    m = T.var("int64")
    A = T.match_buffer(a, (n, m), "float32", strides=(s, 1), elem_offset=o)
    B = T.match_buffer(b, (n, m), "float32")
    for i, j in T.grid(n, m):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] + T.cast(o, "float32")


def test_a_handle_is_the_parameter_that_it_is_matched_with() -> None:
    @T.prim_func(name="rows")
    def expected(
        A: T.Buffer((n, m), "float32", strides=(s, 1), elem_offset=o),
        B: T.Buffer((n, m), "float32"),
    ):
        for i, j in T.grid(n, m):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] + T.cast(o, "float32")

    assert first_mismatch(rows, expected) is None
    assert first_mismatch(rows, parse(to_text(rows))) is None
    verify(rows)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 4), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


class Shifted:
    """A DLPack tensor whose first element lies two elements behind its data pointer."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **_options: Any) -> Any:
        capsule = self.array.__dlpack__()
        find = ctypes.pythonapi.PyCapsule_GetPointer
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        tensor = _Tensor.from_address(find(capsule, b"dltensor"))
        tensor.data -= 8
        tensor.byte_offset += 8
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_strides_and_offsets_are_bound_by_the_call(target: str, rng: np.random.Generator) -> None:
    whole = rng.standard_normal((5, 9)).astype(np.float32)
    part, out = whole[1:4, 2:6], np.zeros((3, 4), np.float32)
    built = heddle.build(rows, target)
    built(part, out)
    np.testing.assert_array_equal(out, part)
    built(Shifted(part), out)
    np.testing.assert_array_equal(out, part + 2)
    expected = np.zeros_like(out)
    run(rows, part, expected)
    np.testing.assert_array_equal(expected, part)
    for wrong, message in (
        (whole[3:0:-1, 2:6], "stride 0 is -9, must not be negative"),
        (whole[1:4, 0:8:2], "stride 1 is 2, expected 1"),
    ):
        with pytest.raises(UserError, match=message):
            built(wrong, out)


def test_fixed_offset_is_checked() -> None:
    func = parse(
        """
@T.prim_func
def f(A: T.Buffer((n,), "float32", elem_offset=2), B: T.Buffer((n,), "float32")):
    for i in T.serial(n):
        B[i] = A[i]
"""
    )
    built = heddle.build(func)
    data, out = np.arange(6, dtype=np.float32), np.zeros(4, np.float32)
    built(Shifted(data[2:]), out)
    np.testing.assert_array_equal(out, data[2:])
    with pytest.raises(UserError, match="elem_offset is 0, expected 2"):
        built(data[2:], out)


def test_only_parameters_have_offsets() -> None:
    func = parse(
        """
@T.prim_func
def f(A: T.Buffer((4,), "float32")):
    b = T.allocate((4,), "float32", elem_offset=2)
    b[0] = A[0]
"""
    )
    assert isinstance(func, PrimFunc)
    with pytest.raises(UserError, match="`b` is no parameter and cannot have an elem_offset"):
        verify(func)


def test_views_are_other_names_for_boxes() -> None:
    @T.prim_func
    def f(A: T.Buffer((8, 8), "float32"), B: T.Buffer((4, 4), "float32")):
        for io in T.serial(2):
            with T.block("b"):
                vo = T.axis.spatial(2, io)
                S = T.match_buffer(
                    A[vo * 4 : vo * 4 + 4, 2:6], (4, q), "float32", strides=(s0, 1), elem_offset=off
                )
                column = T.match_buffer(S[0:4, 1], (4,))
                T.reads(S[0:4, 0:4])
                T.writes(B[0:4, 0:4])
                for i, j in T.grid(4, q):
                    B[i, j] = S[i, j] + column[i] + T.cast(s0 + off, "float32")

    @T.prim_func(name="f")
    def expected(A: T.Buffer((8, 8), "float32"), B: T.Buffer((4, 4), "float32")):
        for io in T.serial(2):
            with T.block("b"):
                vo = T.axis.spatial(2, io)
                T.reads(A[vo * 4 : vo * 4 + 4, 2:6])
                T.writes(B[0:4, 0:4])
                for i, j in T.grid(4, 4):
                    offset = T.alias(8 + (vo * 4 * 8 + 2))
                    B[i, j] = A[vo * 4 + i, 2 + j] + A[vo * 4 + i, 3] + T.cast(offset, "float32")

    assert first_mismatch(f, expected) is None
    assert first_mismatch(f, parse(to_text(f))) is None


def test_vectors_of_a_view() -> None:
    @T.prim_func
    def f(A: T.Buffer((8, 8), "float32")):
        S = T.match_buffer(A[2:4, 0:8], (2, 8))
        S[1, T.ramp(4, 1, 4)] = S[0, T.ramp(0, 1, 4)]

    data = np.arange(64, dtype=np.float32).reshape(8, 8)
    expected = data.copy()
    expected[3, 4:] = expected[2, :4]
    heddle.build(f)(data)
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("S = T.match_buffer(A[0:4, 0:4], (4, 5))", "the dimension is 4 .* known to be 5"),
        ("S = T.match_buffer(A[0:4, 0:4], (4, 4), strides=(7, 1))", "the stride is 8"),
        ("S = T.match_buffer(A[1:4, 0:4], (3, 4), elem_offset=7)", "the offset is 8"),
        ('S = T.match_buffer(A, (8, 8), "int8")', "`A` holds float32"),
        ("S = T.match_buffer(A[0:4, 0:4], (16,))", "only dimensions of extent 1 may be left out"),
        ("S = T.match_buffer(A, (8, 8), strides=(1,))", "2 dimensions but 1 strides"),
        ("S = T.match_buffer(3, (8, 8))", "`3` is not a buffer or a region of one"),
    ],
)
def test_views_that_do_not_fit(line: str, message: str) -> None:
    text = f'@T.prim_func\ndef f(A: T.Buffer((8, 8), "float32")):\n    {line}\n    A[0, 0] = 1.0\n'
    with pytest.raises(UserError, match=message) as caught:
        parse(text)
    assert caught.value.span is not None
    assert caught.value.span.line == 3


def test_a_handle_is_matched_once() -> None:
    text = """
@T.prim_func
def f(a: T.handle):
    A = T.match_buffer(a, (4,), "float32")
    B = T.match_buffer(a, (4,), "float32")
    A[0] = B[1]
"""
    with pytest.raises(UserError, match="parameter `a` is matched twice"):
        parse(text)
