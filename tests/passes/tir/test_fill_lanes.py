# SPDX-License-Identifier: Apache-2.0
"""Local buffers are stored by whole vectors, and results do not depend on what lies in between."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import GraphBuilder
from heddle.ir import IRModule, TensorType, structural_equal
from heddle.ir.expr import Var
from heddle.ir.walk import pre_order
from heddle.passes.tir.fill_lanes import fill_lanes
from heddle.script import T
from heddle.tir.build import collect
from heddle.tir.nodes import BufferStore, IfThenElse, PrimFunc

RNG = np.random.default_rng(11)


def guarded(func: PrimFunc) -> list[str]:
    """The buffers that are still stored under a condition that depends on a lane."""
    names = []
    for branch in collect(fill_lanes(func).body, IfThenElse):
        if any(isinstance(n, Var) and n.name == "lane" for n in pre_order(branch.condition)):
            names += [store.buffer.name for store in collect(branch, BufferStore)]
    return names


def test_the_last_vector_of_a_local_buffer_is_whole() -> None:
    @T.prim_func
    def func(x: T.Buffer((37,), "float32"), out: T.Buffer((37,), "float32")):
        for block in range(3):
            acc = T.allocate((1, 16), "float32", scope="local")
            for lane in T.vectorized(16):
                if block * 16 + lane < 37:
                    acc[0, lane] = x[block * 16 + lane]
            for lane in T.vectorized(16):
                if block * 16 + lane < 37:
                    acc[0, lane] = acc[0, lane] * acc[0, lane]
            for lane in T.vectorized(16):
                if block * 16 + lane < 37:
                    out[block * 16 + lane] = acc[0, lane]

    assert guarded(func) == ["out"]


def test_no_room_for_the_whole_vector() -> None:
    @T.prim_func
    def func(x: T.Buffer((37,), "float32"), out: T.Buffer((37,), "float32")):
        acc = T.allocate((37,), "float32", scope="local")
        for block in range(3):
            for lane in T.vectorized(16):
                if block * 16 + lane < 37:
                    acc[block * 16 + lane] = x[block * 16 + lane]
        for i in range(37):
            out[i] = acc[36 - i]

    assert structural_equal(fill_lanes(func), func)


def test_lanes_that_another_store_writes_are_left_to_it() -> None:
    @T.prim_func
    def func(x: T.Buffer((32,), "float32"), out: T.Buffer((16,), "float32")):
        acc = T.allocate((16,), "float32", scope="local")
        for lane in T.vectorized(16):
            acc[lane] = x[lane + 16]
        for lane in T.vectorized(16):
            if lane < 5:
                acc[lane] = x[lane]
        for i in range(16):
            out[i] = acc[i]

    assert structural_equal(fill_lanes(func), func)


def test_integers_are_not_divided_by_what_lies_in_other_lanes() -> None:
    @T.prim_func
    def func(
        x: T.Buffer((37,), "int32"), y: T.Buffer((37,), "int32"), out: T.Buffer((37,), "int32")
    ):
        for block in range(3):
            acc = T.allocate((16,), "int32", scope="local")
            for lane in T.vectorized(16):
                if block * 16 + lane < 37:
                    acc[lane] = x[block * 16 + lane] // y[block * 16 + lane]
            for lane in T.vectorized(16):
                if block * 16 + lane < 37:
                    out[block * 16 + lane] = acc[lane]

    assert structural_equal(fill_lanes(func), func)


def attention(queries: int | Var, keys: int) -> IRModule:
    main = GraphBuilder("main")
    q = main.param("q", TensorType.of((1, queries, 2, 32), "float32"))
    k = main.param("k", TensorType.of((1, keys, 2, 32), "float32"))
    v = main.param("v", TensorType.of((1, keys, 2, 32), "float32"))
    turned = [op.transpose(value, permutation=(0, 2, 1, 3)) for value in (q, k, v)]
    scores = turned[0] @ op.transpose(turned[1], permutation=(0, 1, 3, 2))
    mixed = op.softmax(scores) @ turned[2]
    return IRModule({"main": main.finish(op.transpose(mixed, permutation=(0, 2, 1, 3)))})


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = np.einsum("nshd,nthd->nhst", q, k)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("nhst,nthd->nshd", weights, v)


@pytest.mark.parametrize("length", [1, 33, 40])
def test_attention_of_any_number_of_queries(length: int) -> None:
    executable = heddle.compile(attention(length, length), cache=False, num_threads=1)
    q, k, v = (RNG.standard_normal((1, length, 2, 32)).astype(np.float32) for _ in range(3))
    np.testing.assert_allclose(
        executable(q, k, v).numpy(), reference(q, k, v), rtol=1e-4, atol=1e-5
    )


def test_attention_of_an_open_number_of_queries() -> None:
    executable = heddle.compile(attention(Var("n"), 24), cache=False, num_threads=1)
    for length in (1, 15, 33, 36, 48):
        q = RNG.standard_normal((1, length, 2, 32)).astype(np.float32)
        k, v = (RNG.standard_normal((1, 24, 2, 32)).astype(np.float32) for _ in range(2))
        got = executable(q, k, v).numpy()
        np.testing.assert_allclose(got, reference(q, k, v), rtol=1e-4, atol=1e-5)
