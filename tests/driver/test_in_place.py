# SPDX-License-Identifier: Apache-2.0
"""Updates in place: caches that loops carry, and those that a caller donates."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import Constant, Function, GraphBuilder, Tuple, Var
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import as_int
from heddle.op.interp import interpret
from heddle.passes.graph.host_plan import HostPlan
from heddle.passes.graph.plan import plan_memory
from heddle.support import UserError

HEADS, SIZE = 4, 8


def cache_type(capacity: int) -> TensorType:
    return TensorType.of((HEADS, capacity, SIZE), "float32")


def update(cache: Var, at: Var, x: Var) -> object:
    """cache[:, at] = tanh(x)"""
    return op.index_copy(cache, op.reshape(at, shape=(1,)), op.tanh(x), axis=1)


def looping(capacity: int) -> IRModule:
    """A loop that writes one row of its cache in each iteration."""
    step = GraphBuilder("step")
    at = step.param("at", TensorType.of((), "int64"))
    cache = step.param("cache", cache_type(capacity))
    x = step.param("x", TensorType.of((HEADS, 1, SIZE), "float32"))
    written = step.emit(update(cache, at, x))
    following = step.emit(op.sum(written, axes=(1,), keepdims=True))
    body = step.finish(Tuple((Constant(np.asarray(True)), written, following)))
    main = GraphBuilder("main")
    start = main.param("start", cache_type(capacity))
    x = main.param("x", TensorType.of((HEADS, 1, SIZE), "float32"))
    count = main.param("count", TensorType.of((), "int64"))
    _, results, _ = main.emit_loop("step", body, carried=(start, x), limit=count)
    return IRModule({"main": main.finish(Tuple(results)), "step": body})


def stepping(capacity: int) -> IRModule:
    """One step; the cache goes in and out."""
    main = GraphBuilder("main")
    cache = main.param("cache", cache_type(capacity))
    at = main.param("at", TensorType.of((), "int64"))
    x = main.param("x", TensorType.of((HEADS, 1, SIZE), "float32"))
    written = main.emit(update(cache, at, x), name="written")
    return IRModule({"main": main.finish(Tuple((op.sum(written, axes=(1,)), written)))})


def donating(module: IRModule, *names: str) -> IRModule:
    main = module["main"]
    assert isinstance(main, Function)
    return module.with_functions({"main": main.replace(attrs={**main.attrs, "donate": names})})


def plan_of(module: IRModule) -> HostPlan:
    return plan_memory(heddle.optimize(module))


def kernels(plan: HostPlan) -> set[str]:
    return set(plan.kernels)


def random(capacity: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(capacity)
    return (
        rng.standard_normal((HEADS, capacity, SIZE)).astype(np.float32),
        rng.standard_normal((HEADS, 1, SIZE)).astype(np.float32),
    )


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_loop(count: int) -> None:
    module = looping(6)
    start, x = random(6)
    before = start.copy()
    executable = heddle.compile(module, cache=False)
    found = [item.numpy() for item in executable(start, x, np.asarray(count))]
    for got, want in zip(found, interpret(module, [start, x, np.asarray(count)]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(start, before)  # it is the caller's


def test_loop_copies_nothing_inside() -> None:
    plan = plan_of(looping(1000))
    body = plan.functions["step"]
    assert body.shared[1] == 1
    assert "index_copy_in_place" in kernels(plan)
    assert "index_copy" not in kernels(plan)
    size = as_int(plan.arena_size)
    assert size is not None
    assert size < 1000 * HEADS * SIZE  # the cache is in the output, and nowhere else


def test_step_without_donation_copies() -> None:
    cache, x = random(6)
    before = cache.copy()
    total, written = heddle.compile(stepping(6), cache=False)(cache, np.asarray(2), x)
    np.testing.assert_array_equal(cache, before)
    np.testing.assert_allclose(written.numpy()[:, 2:3], np.tanh(x), rtol=1e-6)
    np.testing.assert_allclose(total.numpy(), written.numpy().sum(1), rtol=1e-5, atol=1e-6)


def test_donated() -> None:
    executable = heddle.compile(stepping(6), cache=False, donate=["cache"])
    cache, x = random(6)
    want = cache.copy()
    for at in (0, 5, 2):
        want[:, at : at + 1] = np.tanh(x)
        total, written = executable(cache, np.asarray(at), x)
        assert np.shares_memory(written.numpy(), cache)
        np.testing.assert_allclose(cache, want, rtol=1e-6)
        np.testing.assert_allclose(total.numpy(), want.sum(1), rtol=1e-5, atol=1e-6)
    assert [item.donated for item in executable.inputs] == [True, False, False]
    assert [item.lies_in for item in executable.outputs] == [None, 0]


def test_the_work_does_not_grow_with_the_capacity() -> None:
    """Nothing that a call of the plan runs is of the size of the cache."""
    main = GraphBuilder("main")
    cache = main.param("cache", cache_type(100_000))
    at = main.param("at", TensorType.of((), "int64"))
    x = main.param("x", TensorType.of((HEADS, 1, SIZE), "float32"))
    written = main.emit(update(cache, at, x))
    module = donating(IRModule({"main": main.finish(written)}), "cache")
    plan = plan_of(module)
    assert kernels(plan) == {"tanh", "index_copy_in_place"}
    assert as_int(plan.arena_size) == HEADS * SIZE * 4


def test_a_cache_that_is_read_later_is_copied() -> None:
    """old + new needs both: the update may not write over the old one."""
    main = GraphBuilder("main")
    cache = main.param("cache", cache_type(6))
    at = main.param("at", TensorType.of((), "int64"))
    x = main.param("x", TensorType.of((HEADS, 1, SIZE), "float32"))
    written = main.emit(update(cache, at, x))
    both = main.emit(op.mul(cache, 2.0) + op.sum(written, axes=(1,), keepdims=True))
    module = IRModule({"main": main.finish(Tuple((both, written)))})
    executable = heddle.compile(module, cache=False, donate=["cache"])
    old, x = random(6)
    cache = old.copy()
    new = old.copy()
    new[:, 1:2] = np.tanh(x)
    both, written = executable(cache, np.asarray(1), x)
    np.testing.assert_allclose(written.numpy(), new, rtol=1e-6)
    np.testing.assert_allclose(both.numpy(), old * 2 + new.sum(1, keepdims=True), rtol=1e-5)


def test_two_updates_of_one_donated_cache() -> None:
    """Each result is right; at most one of them lies in the memory of the input."""
    main = GraphBuilder("main")
    cache = main.param("cache", cache_type(6))
    x = main.param("x", TensorType.of((HEADS, 1, SIZE), "float32"))
    first = main.emit(op.index_copy(cache, Constant(np.asarray([0])), x, axis=1))
    second = main.emit(op.index_copy(cache, Constant(np.asarray([1])), x, axis=1))
    third = main.emit(op.index_copy(second, Constant(np.asarray([2])), x, axis=1))
    module = IRModule({"main": main.finish(Tuple((first, third)))})
    old, x = random(6)
    results = heddle.compile(module, cache=False, donate=["cache"])(old.copy(), x)
    want = [old.copy(), old.copy()]
    want[0][:, :1] = x
    want[1][:, 1:3] = x
    for got, expected in zip(results, want, strict=True):
        np.testing.assert_allclose(got.numpy(), expected)


def test_loop_over_a_donated_cache() -> None:
    module = looping(6)
    start, x = random(6)
    want = interpret(module, [start, x, np.asarray(3)])
    executable = heddle.compile(module, cache=False, donate=["start"])
    cache, _ = executable(start, x, np.asarray(3))
    assert np.shares_memory(cache.numpy(), start)
    np.testing.assert_allclose(start, want[0], rtol=1e-5, atol=1e-6)


def test_carried_values_that_change_places() -> None:
    """(a, b) = (b, a + 1): neither may be written over the other."""
    step = GraphBuilder("step")
    step.param("i", TensorType.of((), "int64"))
    a, b = (step.param(name, TensorType.of((3,), "float32")) for name in "ab")
    body = step.finish(Tuple((Constant(np.asarray(True)), b, a + 1.0)))
    main = GraphBuilder("main")
    start = main.param("x", TensorType.of((3,), "float32"))
    count = main.param("count", TensorType.of((), "int64"))
    _, results, _ = main.emit_loop("step", body, carried=(start, start * 10.0), limit=count)
    module = IRModule({"main": main.finish(Tuple(results)), "step": body})
    x = np.asarray([1, 2, 3], np.float32)
    executable = heddle.compile(module, cache=False)
    for count_ in range(4):
        want = interpret(module, [x, np.asarray(count_)])
        for got, expected in zip(executable(x, np.asarray(count_)), want, strict=True):
            np.testing.assert_array_equal(got.numpy(), expected)


def test_a_carried_value_that_is_captured_too() -> None:
    step = GraphBuilder("step")
    at = step.param("at", TensorType.of((), "int64"))
    cache = step.param("cache", cache_type(4))
    old = step.param("old", cache_type(4))
    row = step.emit(op.sum(old, axes=(1,), keepdims=True))
    body = step.finish(Tuple((Constant(np.asarray(True)), step.emit(update(cache, at, row)))))
    main = GraphBuilder("main")
    start = main.emit(main.param("x", cache_type(4)) * 2.0)
    _, (result,), _ = main.emit_loop("step", body, carried=(start,), captured=(start,), limit=3)
    module = IRModule({"main": main.finish(result), "step": body})
    x, _ = random(4)
    want = interpret(module, [x])
    found = heddle.compile(module, cache=False)(x)
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-5, atol=1e-6)


def test_updates_that_are_the_data_are_not_written_over() -> None:
    """data[p] = data: what is written is read again."""
    main = GraphBuilder("main")
    x = main.param("x", TensorType.of((9,), "float32"))
    order = main.param("order", TensorType.of((9,), "int64"))
    data = main.emit(x + 1.0)
    moved = main.emit(op.index_copy(data, order, data, axis=0))
    executable = heddle.compile(IRModule({"main": main.finish(moved)}), cache=False)
    rng = np.random.default_rng(0)
    values, places = rng.standard_normal(9).astype(np.float32), rng.permutation(9)
    want = np.empty_like(values)
    want[places] = values + 1
    np.testing.assert_array_equal(executable(values, places).numpy(), want)


def test_errors() -> None:
    module = stepping(6)
    with pytest.raises(UserError, match="donate: there is no input `keys`; the inputs are `cache`"):
        heddle.compile(module, donate=["keys"])
    with pytest.raises(UserError, match=r'donate is a list of inputs, as in \["cache"\]'):
        heddle.compile(module, donate="cache")
    executable = heddle.compile(module, cache=False, donate=["cache"])
    cache, x = random(6)
    executable(cache, np.asarray(0), x)
    cache.flags.writeable = False
    with pytest.raises(UserError, match="input `cache`: is donated but read-only"):
        executable(cache, np.asarray(0), x)
    cache, x = random(6)
    with pytest.raises(UserError, match="`cache`: is donated and shares memory with input `x`"):
        executable(cache, np.asarray(0), cache.reshape(-1)[: HEADS * SIZE].reshape(x.shape))
    total = np.zeros((HEADS, SIZE), np.float32)
    with pytest.raises(UserError, match="is written in place: expected the memory of the donated"):
        executable.call_into([cache, np.asarray(0), x], [total, np.empty_like(cache)])
    executable.call_into([cache, np.asarray(0), x], [total, cache])
    np.testing.assert_allclose(total, cache.sum(1), rtol=1e-5, atol=1e-6)


def test_donation_is_part_of_what_is_cached() -> None:
    cache, x = random(6)
    for donate in ([], ["cache"], []):
        before = cache.copy()
        heddle.compile(stepping(6), donate=donate)(cache, np.asarray(1), x)
        assert np.array_equal(before, cache) == (not donate)
        cache, _ = random(6)
