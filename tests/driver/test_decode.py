# SPDX-License-Identifier: Apache-2.0
"""Steps of a decoder: attention of one query over the filled part of a cache."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import BindDim, GraphBuilder, Tuple
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var, const
from heddle.passes.graph.plan import plan_memory
from heddle.schedule.rules.single_query import find_single_query
from heddle.schedule.schedule import Schedule
from heddle.tir.nodes import PrimFunc


def step(capacity: int, *, heads: int = 2, groups: int = 2, size: int = 16) -> IRModule:
    """(query, key, value, at, keys, values) -> attention over the rows up to `at`, and caches."""
    main = GraphBuilder("main")
    query = main.param("query", TensorType.of((1, heads, 1, size), "float32"))
    new = [main.param(name, TensorType.of((1, groups, 1, size), "float32")) for name in "kv"]
    at = main.param("at", TensorType.of((), "int64"))
    kind = TensorType.of((1, groups, capacity, size), "float32")
    caches = [main.param(name, kind) for name in ("keys", "values")]
    row = main.emit(op.reshape(at, shape=(1,)))
    written = [
        main.emit(op.index_copy(cache, row, item, axis=2))
        for cache, item in zip(caches, new, strict=True)
    ]
    rows = Var("rows")
    main.emit(BindDim(main.emit(op.add(at, 1)), const(capacity), rows))
    seen = [op.prefix(item, shape=(1, groups, rows, size)) for item in written]
    mixed = main.emit(op.attention(query, *seen, scale=size**-0.5), name="mixed")
    return IRModule({"main": main.finish(Tuple((mixed, *written)))})


def reference(query: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    group = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat(group, 1).astype(float), values.repeat(group, 1).astype(float)
    scores = np.einsum("nhsd,nhtd->nhst", query, keys) * query.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("nhst,nhtd->nhsd", weights / weights.sum(-1, keepdims=True), values)


@pytest.mark.parametrize(("heads", "groups", "size"), [(2, 2, 16), (6, 2, 20), (3, 1, 64)])
def test_steps(heads: int, groups: int, size: int) -> None:
    module = step(50, heads=heads, groups=groups, size=size)
    executable = heddle.compile(module, cache=False, donate=["keys", "values"])
    rng = np.random.default_rng(size)
    keys, values = (np.full((1, groups, 50, size), np.nan, np.float32) for _ in range(2))
    for at in range(50):
        query = rng.standard_normal((1, heads, 1, size)).astype(np.float32)
        k, v = (rng.standard_normal((1, groups, 1, size)).astype(np.float32) for _ in range(2))
        mixed, *_ = executable(query, k, v, np.asarray(at), keys, values)
        np.testing.assert_array_equal(keys[:, :, at : at + 1], k)
        want = reference(query, keys[:, :, : at + 1], values[:, :, : at + 1])
        np.testing.assert_allclose(mixed.numpy(), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(heddle.UserError, match="`rows` is 51, expected 0 to 50"):
        executable(query, k, v, np.asarray(50), keys, values)


def test_caches_are_read_where_they_lie() -> None:
    module = step(4096)
    main = module["main"].replace(attrs={"donate": ("keys", "values")})
    lowered = heddle.optimize(module.with_functions({"main": main}))
    plan = plan_memory(lowered)
    assert plan.shared == {1: 4, 2: 5}
    assert plan.report.arena < 10_000  # the mask of 4096 truth values, and little else
    assert set(plan.kernels) == {"index_copy_in_place", "full", "attention", "add"}


@pytest.mark.parametrize("seed", range(12))
def test_single_queries(seed: int) -> None:
    """Random layouts, masks, groups and dtypes, scheduled by the rule for one query."""
    rng = np.random.default_rng(seed)
    batch, groups, group = (int(n) for n in rng.integers(1, 4, 3))
    keys, depth, width = (
        int(rng.integers(1, 90)),
        int(rng.integers(1, 70)),
        int(rng.integers(2, 99)),
    )
    dtype = "float16" if seed % 4 == 3 else "float32"
    sizes = {"N": batch, "H": groups * group, "S": 1, "D": depth}
    layouts = {
        "q_layout": ["NHSD", "NSHD"][seed % 2],
        "k_layout": ["NHSD", "NSHD", "NHDS"][seed % 3],
        "v_layout": ["NHSD", "NSHD"][seed // 2 % 2],
        "out_layout": ["NHSD", "NSHD"][seed % 2],
    }
    shapes = []
    for name in ("q", "k", "v"):
        own = dict(sizes)
        if name != "q":
            own |= {"H": groups, "S": keys, "D": depth if name == "k" else width}
        shapes.append(tuple(own[axis] for axis in layouts[f"{name}_layout"]))
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    if seed % 3:
        mask = rng.standard_normal((batch, 1, 1, keys)).astype("float32")
        arrays.append(mask.astype(dtype) if seed % 3 == 1 else mask > -1.0)
        arrays[-1][..., 0] = True
    builder = GraphBuilder("main")
    params = [
        builder.param(f"x{at}", TensorType.of(array.shape, array.dtype.name))
        for at, array in enumerate(arrays)
    ]
    attrs = {"scale": 0.3, **layouts}
    module = IRModule({"main": builder.finish(op.attention(*params, **attrs))})
    lowered = heddle.optimize(module, stop_after="lower")
    (kernel,) = (f for f in lowered.functions.values() if isinstance(f, PrimFunc))
    assert find_single_query(Schedule(kernel)) is not None
    found = heddle.compile(module, cache=False)(*arrays).numpy()
    wide = [a.astype("float32") if a.dtype.kind == "f" else a for a in arrays]
    call = op.attention(*wide, **attrs)
    want = op.get("attention").evaluate(wide, call.attrs)
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [1, 5, 33])
def test_several_queries_over_a_part(queries: int, masked: bool) -> None:
    """A prompt is read at once, behind what the cache holds already."""
    rows = Var("rows")
    main = GraphBuilder("main")
    query = main.param("query", TensorType.of((2, 4, queries, 8), "float32"))
    caches = [main.param(name, TensorType.of((2, 2, 70, 8), "float32")) for name in "kv"]
    mask = main.param("mask", TensorType.of((1, 1, queries, rows), "float32"))
    seen = [op.prefix(cache, shape=(2, 2, rows, 8)) for cache in caches]
    found = op.attention(query, *seen, *([mask] if masked else []), scale=0.4)
    module = IRModule({"main": main.finish(Tuple((found, op.sum(mask, axes=(0, 1, 2, 3)))))})
    lowered = heddle.optimize(module, stop_after="canonicalise")
    assert "prefix" not in str(lowered)
    executable = heddle.compile(module, cache=False)
    rng = np.random.default_rng(queries)
    for count in (1, 16, 37, 70):
        q, k, v = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in ((2, 4, queries, 8), (2, 2, 70, 8), (2, 2, 70, 8))
        )
        given = rng.standard_normal((1, 1, queries, count)).astype(np.float32)
        wide = [q, k[:, :, :count], v[:, :, :count], *([given] if masked else [])]
        want = op.get("attention").evaluate(wide, op.attention(*wide, scale=0.4).attrs)
        k[:, :, count:] = v[:, :, count:] = np.nan
        got, _ = executable(q, k, v, given)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)


PROGRAM = """
import ctypes, mmap, sys
from pathlib import Path
import numpy as np
import heddle
from tests.driver.test_decode import step

libc = ctypes.CDLL(None, use_errno=True)
PAGE, ROWS, SIZE = mmap.PAGESIZE, 2048, 16
executable = heddle.compile(step(ROWS, heads=1, groups=1), donate=["keys", "values"])
caches = []
for _ in range(2):  # the first page is there; what is behind it must not be touched
    memory = mmap.mmap(-1, ROWS * SIZE * 4)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(base + PAGE), ROWS * SIZE * 4 - PAGE, 0) == 0
    caches.append(np.frombuffer(memory, np.float32).reshape(1, 1, ROWS, SIZE))
x = np.ones((1, 1, 1, SIZE), np.float32)
for at in range(PAGE // (SIZE * 4)):
    executable(x, x, x, np.asarray(at), *caches)
print("untouched", flush=True)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


caches = [np.full((1, 1, ROWS, SIZE), 0.0, np.float32) for _ in range(2)]
sizes = []
for _ in range(3):  # the first time touches the memory that many rows of scores take
    for at in range(2000):
        _, *caches = executable(x, x, x, np.asarray(at), *caches)
    sizes.append(resident())
assert sizes[2] - sizes[0] < 1 << 16, sizes
print("flat", flush=True)
"""


def test_what_is_empty_is_not_touched_and_memory_is_flat() -> None:
    """Rows behind the filled ones lie in pages that are not accessible; then come
    2,000 steps, three times."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["untouched", "flat"]
