# SPDX-License-Identifier: Apache-2.0
"""Allocations that follow each other element by element share their memory."""

from __future__ import annotations

from heddle.passes.tir.write_in_place import write_in_place
from heddle.script import T
from heddle.tir.build import collect
from heddle.tir.nodes import Allocate, PrimFunc


def allocated(func: PrimFunc) -> int:
    return len(collect(write_in_place(func).body, Allocate))


def test_a_buffer_that_is_not_read_again_is_written_over() -> None:
    @T.prim_func
    def func(x: T.Buffer((64,), "float32"), out: T.Buffer((64,), "float32")):
        a = T.allocate((64,), "float32", scope="local")
        b = T.allocate((64,), "float32", scope="local")
        for i in range(64):
            a[i] = x[i] * 2.0
        for i, j in T.grid(16, 4):
            b[i * 4 + j] = T.exp(a[i * 4 + j])
        for i in range(64):
            out[i] = b[63 - i]

    assert allocated(func) == 1


def test_a_buffer_that_is_read_again_is_kept() -> None:
    @T.prim_func
    def func(x: T.Buffer((64,), "float32"), out: T.Buffer((64,), "float32")):
        a = T.allocate((64,), "float32", scope="local")
        b = T.allocate((64,), "float32", scope="local")
        for i in range(64):
            a[i] = x[i] * 2.0
        for i in range(64):
            b[i] = T.exp(a[i])
        for i in range(64):
            out[i] = b[63 - i] + a[i]

    assert allocated(func) == 2


def test_another_place_of_the_source_is_not_overwritten() -> None:
    @T.prim_func
    def func(x: T.Buffer((64,), "float32"), out: T.Buffer((64,), "float32")):
        a = T.allocate((64,), "float32", scope="local")
        b = T.allocate((64,), "float32", scope="local")
        for i in range(64):
            a[i] = x[i] * 2.0
        for i in range(64):
            b[i] = a[i] - a[63 - i]
        for i in range(64):
            out[i] = b[i]

    assert allocated(func) == 2


def test_an_element_that_is_computed_twice_is_not_overwritten() -> None:
    @T.prim_func
    def func(x: T.Buffer((64,), "float32"), out: T.Buffer((64,), "float32")):
        a = T.allocate((64,), "float32", scope="local")
        b = T.allocate((64,), "float32", scope="local")
        for i in range(64):
            a[i] = x[i] * 2.0
        for i, j in T.grid(16, 8):
            b[i * 3 + j] = T.exp(a[i * 3 + j])
        for i in range(64):
            out[i] = b[i]

    assert allocated(func) == 2
