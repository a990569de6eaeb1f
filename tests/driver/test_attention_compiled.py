# SPDX-License-Identifier: Apache-2.0
"""Compiled attention of random shapes, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op, te
from heddle.driver.api import compile
from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import Tuple
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var as Symbol
from heddle.ir.walk import pre_order
from heddle.passes.tir.lower import lower
from heddle.schedule.rules import default_schedule
from heddle.schedule.rules.attention import find_chain
from heddle.schedule.schedule import Schedule
from heddle.target import parse
from heddle.tir.build import element_count
from heddle.tir.nodes import Allocate, BufferStore, For, ForKind, PrimFunc

TARGETS = ["native", "llvm -mcpu=haswell", "llvm -mcpu=x86-64"]
LAYOUTS = {"q_layout": "NSHD", "k_layout": "NSHD", "v_layout": "NSHD", "out_layout": "NSHD"}


def reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None, scale: float, causal: bool
) -> np.ndarray:
    """Rows first, [N, S, H, D], in float64, with nothing clever."""
    group = q.shape[2] // k.shape[2]
    k, v = (np.repeat(x, group, axis=2).astype(np.float64) for x in (k, v))
    scores = np.einsum("nshd,nthd->nhst", q.astype(np.float64), k) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        rows, columns = np.indices(scores.shape[-2:])
        scores[..., columns > rows + scores.shape[-1] - scores.shape[-2]] = -np.inf
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("nhst,nthd->nshd", weights, v)


def random_case(rng: np.random.Generator) -> tuple[list[np.ndarray], dict[str, object]]:
    """Operands [N, S, H, D] and attributes: odd lengths and sizes, groups, masks of every kind."""
    batch, kv_heads, group = rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 4)
    length, depth, width = rng.integers(1, 70), rng.integers(1, 100), rng.integers(1, 100)
    causal = bool(rng.integers(0, 2))
    keys = length + rng.integers(0, 30) if causal else rng.integers(1, 140)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    heads = kv_heads * group
    arrays = [
        draw(batch, length, heads, depth),
        draw(batch, keys, kv_heads, depth),
        draw(batch, keys, kv_heads, width),
    ]
    kind = rng.integers(0, 3)
    if kind:
        wide = [int(dim) if rng.integers(0, 2) else 1 for dim in (batch, heads, length, keys)]
        mask = draw(*wide)
        if kind == 2:
            mask = mask < 1
            mask[..., 0] = True  # no row is hidden as a whole
        arrays.append(mask)
    return arrays, {"scale": float(depth) ** -0.5, "causal": causal}


def check_cases(cases: list[tuple[list[np.ndarray], dict[str, object]]], target: str) -> None:
    """One module of all cases, against the reference."""
    builder, feeds, expected, results = GraphBuilder(), {}, [], []
    for number, (arrays, attrs) in enumerate(cases):
        mask = arrays[3] if len(arrays) > 3 else None
        params = []
        for position, array in enumerate(arrays):
            name = f"x{number}_{position}"
            params.append(builder.param(name, TensorType.of(array.shape, array.dtype)))
            feeds[name] = array
        results.append(builder.emit(op.attention(*params, **LAYOUTS, **attrs)))
        expected.append(reference(*arrays[:3], mask, **attrs))
    executable = compile(
        IRModule({"main": builder.finish(Tuple(tuple(results)))}), target, cache=False
    )
    for got, wanted, array in zip(executable(*feeds.values()), expected, results, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6, err_msg=str(array.type))


@pytest.mark.parametrize("target", TARGETS)
def test_random_shapes(target: str) -> None:
    rng = np.random.default_rng(20)
    check_cases([random_case(rng) for _ in range(6)], target)


def test_sizes_of_one() -> None:
    rng = np.random.default_rng(21)
    cases = []
    for rows, keys, depth, width in ((5, 1, 8, 8), (5, 7, 1, 8), (5, 7, 8, 1), (1, 7, 8, 8)):
        shapes = ((1, rows, 2, depth), (1, keys, 2, depth), (1, keys, 2, width))
        arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        cases.append((arrays, {"scale": 0.5, "causal": False}))
    check_cases(cases, "native")


def test_a_row_that_is_hidden_as_a_whole_is_nan_and_nothing_else_is() -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=(1, 20, 2, 16)).astype(np.float32) for _ in range(3)]
    mask = np.ones((1, 1, 20, 1), bool)
    mask[0, 0, 7] = False
    builder = GraphBuilder()
    params = [
        builder.param(f"x{i}", TensorType.of(a.shape, "float32")) for i, a in enumerate(arrays)
    ]
    params.append(builder.param("mask", TensorType.of(mask.shape, "bool")))
    value = builder.emit(op.attention(*params, **LAYOUTS, scale=0.25))
    executable = compile(IRModule({"main": builder.finish(value)}), cache=False)
    got = np.asarray(executable(*arrays, mask))
    wanted = reference(*arrays, mask, 0.25, False)
    assert np.isnan(got[0, 7]).all()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)


def test_symbolic_lengths() -> None:
    rows, keys = Symbol("rows"), Symbol("keys")
    builder = GraphBuilder()
    q = builder.param("q", TensorType.of((1, rows, 4, 24), "float32"))
    k = builder.param("k", TensorType.of((1, keys, 2, 24), "float32"))
    v = builder.param("v", TensorType.of((1, keys, 2, 24), "float32"))
    value = builder.emit(op.attention(q, k, v, **LAYOUTS, scale=0.2))
    executable = compile(IRModule({"main": builder.finish(value)}), cache=False)
    rng = np.random.default_rng(4)
    for length, count in ((1, 1), (5, 40), (16, 16), (67, 33)):
        arrays = [
            rng.normal(size=(1, n, h, 24)).astype(np.float32)
            for n, h in ((length, 4), (count, 2), (count, 2))
        ]
        wanted = reference(*arrays, None, 0.2, False)
        np.testing.assert_allclose(executable(*arrays), wanted, rtol=0, atol=3e-6)


def lowered(*, causal: bool) -> PrimFunc:
    """The loops of attention of 256 tokens in 12 heads, for AVX-512."""
    q, k, v = (te.placeholder((1, 256, 12, 64), name=name) for name in "qkv")
    given = {"scale": 0.125, "causal": causal, **LAYOUTS}
    (out,) = op.attention.compute([q, k, v], op.attention.canonical_attrs([None] * 4, given))
    target = parse("llvm -mcpu=skylake-avx512")
    func = te.create_prim_func([q, k, v, out], name="attention")
    return lower(default_schedule(func, target).func, target)


def test_scores_are_never_whole() -> None:
    """One parallel loop, and no allocation outside of it or as large as the scores of a head."""
    func = lowered(causal=False)
    assert isinstance(func.body, For)
    assert func.body.kind is ForKind.PARALLEL
    sizes = [element_count(n.buffer.shape) for n in pre_order(func.body) if isinstance(n, Allocate)]
    assert sizes
    assert max(size or 0 for size in sizes) < 256 * 256 // 2


def test_conditions_on_positions_fill_whole_vectors() -> None:
    """Positions are compared in 32 bits: 64 would halve the lanes of everything beside them."""
    stores = [n for n in pre_order(lowered(causal=True).body) if isinstance(n, BufferStore)]
    masked = [n for n in stores if n.buffer.name == "attention_masked"]
    assert masked
    assert {n.value.dtype.lanes for n in masked} == {16}


def test_scores_that_are_wanted_too_are_no_chain() -> None:
    q, k, v = (te.placeholder((1, 20, 2, 16), name=name) for name in "qkv")
    attrs = op.attention.canonical_attrs([None] * 4, {"scale": 0.25, **LAYOUTS})
    (out,) = op.attention.compute([q, k, v], attrs)
    func = te.create_prim_func([q, k, v, out], name="attention")
    assert find_chain(Schedule(func)) is not None
    (weights,) = (b for b in func.body.alloc_buffers if b.name == "attention_weights")
    wanted = func.replace(
        params=(*func.params, weights),
        body=func.body.replace(
            alloc_buffers=tuple(b for b in func.body.alloc_buffers if b is not weights)
        ),
    )
    assert find_chain(Schedule(wanted)) is None
    assert default_schedule(wanted, parse("llvm -mcpu=haswell")).func is not wanted
