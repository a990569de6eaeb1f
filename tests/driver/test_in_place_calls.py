# SPDX-License-Identifier: Apache-2.0
"""Updates in place through branches and calls of functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import Constant, Function, GraphBuilder, GraphExpr, Tuple, TupleGetItem, Var
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import as_int
from heddle.op.interp import interpret
from heddle.passes.graph.host_plan import BranchStep, HostPlan
from heddle.passes.graph.plan import plan_memory
from heddle.tir.nodes import Buffer, PrimFunc

ROWS, SIZE = 500, 16
CACHE = TensorType.of((ROWS, SIZE), "float32")
ROW = TensorType.of((1, SIZE), "float32")
INT = TensorType.of((), "int64")
BOOL = TensorType.of((), "bool")


def write(cache: GraphExpr, at: GraphExpr, x: GraphExpr) -> GraphExpr:
    """cache[at] = tanh(x)"""
    found: GraphExpr = op.index_copy(cache, op.reshape(at, shape=(1,)), op.tanh(x), axis=0)
    return found


def branching(
    then: Callable[[GraphBuilder, Var, Var, Var], GraphExpr],
    otherwise: Callable[[GraphBuilder, Var, Var, Var], GraphExpr],
) -> IRModule:
    """(sum of the result's rows, result) of a branch over (cache, at, x)."""
    main = GraphBuilder("main")
    which, cache = main.param("which", BOOL), main.param("cache", CACHE)
    at, x = main.param("at", INT), main.param("x", ROW)
    made = main.emit_if(
        which, lambda: then(main, cache, at, x), lambda: otherwise(main, cache, at, x)
    )
    return IRModule({"main": main.finish(Tuple((op.sum(made, axes=(0,)), made)))})


def donating(module: IRModule, *names: str) -> IRModule:
    main = module["main"]
    assert isinstance(main, Function)
    return module.with_functions({"main": main.replace(attrs={**main.attrs, "donate": names})})


def plan_of(module: IRModule, *donate: str) -> HostPlan:
    return plan_memory(heddle.optimize(donating(module, *donate)))


def copies(module: IRModule, *donate: str) -> list[str]:
    """The kernels that write a whole cache."""
    lowered = heddle.optimize(donating(module, *donate))
    kernels = {name: lowered[name] for name in plan_memory(lowered).kernels}
    return [
        name
        for name, kernel in kernels.items()
        if not name.endswith("in_place")
        and isinstance(kernel, PrimFunc)
        and isinstance(kernel.params[-1], Buffer)
        and [as_int(dim) for dim in kernel.params[-1].shape] == [ROWS, SIZE]
    ]


def random(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cache = rng.standard_normal((ROWS, SIZE)).astype(np.float32)
    return cache, rng.standard_normal((1, SIZE)).astype(np.float32)


def leaves(_b: GraphBuilder, cache: Var, _at: Var, _x: Var) -> GraphExpr:
    return cache


def writes(b: GraphBuilder, cache: Var, at: Var, x: Var) -> GraphExpr:
    return b.emit(write(cache, at, x))


def writes_twice(b: GraphBuilder, cache: Var, at: Var, x: Var) -> GraphExpr:
    first = b.emit(write(cache, at, x))
    seen = b.emit(op.sum(first, axes=(0,), keepdims=True))
    return b.emit(write(first, op.add(at, 1), seen))


def writes_or_leaves(b: GraphBuilder, cache: Var, at: Var, x: Var) -> GraphExpr:
    even = op.equal(op.bitwise_and(at, 1), 0)
    inner = b.emit(even)
    return b.emit_if(inner, lambda: writes(b, cache, at, x), lambda: cache)


FORMS = {
    "leaves": (writes, leaves),
    "both write": (writes_twice, writes),
    "inner branch": (writes_or_leaves, writes),
    "both in place": (writes_or_leaves, leaves),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_donated_cache_through_a_branch(form: str) -> None:
    module = branching(*FORMS[form])
    assert copies(module)
    assert not copies(module, "cache")
    plan = plan_of(module, "cache")
    size = as_int(plan.arena_size)
    assert size is not None
    assert size < ROWS * SIZE * 4
    executable = heddle.compile(module, cache=False, donate=["cache"])
    cache, x = random(1)
    home = cache.ctypes.data
    for which, at in ((True, 3), (False, 7), (True, 4), (False, 8), (True, 498)):
        given = [np.asarray(which), cache.copy(), np.asarray(at), x]
        want = interpret(module, given)
        total, written = executable(np.asarray(which), cache, np.asarray(at), x)
        assert written.numpy().ctypes.data == home
        np.testing.assert_allclose(written.numpy(), want[1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(total.numpy(), want[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_that_the_caller_keeps(form: str) -> None:
    module = branching(*FORMS[form])
    executable = heddle.compile(module, cache=False)
    for which in (True, False):
        cache, x = random(2)
        given = [np.asarray(which), cache, np.asarray(5), x]
        want = interpret(module, [item.copy() for item in given])
        before = cache.copy()
        for got, expected in zip(executable(*given), want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(cache, before)


def test_a_cache_that_is_read_behind_the_branch_is_copied() -> None:
    main = GraphBuilder("main")
    which, cache = main.param("which", BOOL), main.param("cache", CACHE)
    at, x = main.param("at", INT), main.param("x", ROW)
    made = main.emit_if(which, lambda: main.emit(write(cache, at, x)), lambda: cache)
    module = IRModule({"main": main.finish(Tuple((made, op.mul(cache, 2.0))))})
    executable = heddle.compile(module, cache=False, donate=["cache"])
    for chosen in (True, False):
        old, row = random(3)
        want = interpret(module, [np.asarray(chosen), old.copy(), np.asarray(1), row])
        found = executable(np.asarray(chosen), old, np.asarray(1), row)
        for got, expected in zip(found, want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_branch_that_reads_the_old_cache_too() -> None:
    """old + new needs both, so the update is a copy there; the results are right."""

    def both(b: GraphBuilder, cache: Var, at: Var, x: Var) -> GraphExpr:
        return b.emit(op.add(b.emit(op.mul(write(cache, at, x), 0.5)), cache))

    module = branching(both, leaves)
    executable = heddle.compile(module, cache=False, donate=["cache"])
    for chosen in (True, False):
        old, row = random(4)
        given = [np.asarray(chosen), old, np.asarray(1), row]
        want = interpret(module, [item.copy() for item in given])
        for got, expected in zip(executable(*given), want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_two_caches_that_a_branch_exchanges() -> None:
    """Neither may be written over the other."""
    main = GraphBuilder("main")
    which = main.param("which", BOOL)
    caches = [main.param(name, CACHE) for name in ("a", "b")]
    made = main.emit_if(which, lambda: Tuple(tuple(caches[::-1])), lambda: Tuple(tuple(caches)))
    fields = [main.emit(TupleGetItem(made, k)) for k in range(2)]
    module = IRModule({"main": main.finish(Tuple(tuple(op.tanh(item) for item in fields)))})
    executable = heddle.compile(module, cache=False, donate=["a", "b"])
    for chosen in (True, False):
        a, b = random(5)[0], random(6)[0]
        want = interpret(module, [np.asarray(chosen), a.copy(), b.copy()])
        for got, expected in zip(executable(np.asarray(chosen), a, b), want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_two_caches_one_of_which_is_written() -> None:
    main = GraphBuilder("main")
    which = main.param("which", BOOL)
    caches = [main.param(name, CACHE) for name in ("a", "b")]
    at, x = main.param("at", INT), main.param("x", ROW)
    made = main.emit_if(
        which,
        lambda: Tuple((main.emit(write(caches[0], at, x)), caches[1])),
        lambda: Tuple((caches[0], main.emit(write(caches[1], at, x)))),
    )
    fields = [main.emit(TupleGetItem(made, k)) for k in range(2)]
    module = IRModule({"main": main.finish(Tuple(tuple(fields)))})
    assert not copies(module, "a", "b")
    executable = heddle.compile(module, cache=False, donate=["a", "b"])
    a, b = random(7)[0], random(8)[0]
    for chosen in (True, False):
        given = [np.asarray(chosen), a, b, np.asarray(9), random(9)[1]]
        want = interpret(module, [item.copy() for item in given])
        found = executable(*given)
        for got, expected, home in zip(found, want, (a, b), strict=True):
            assert got.numpy().ctypes.data == home.ctypes.data
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def looping() -> IRModule:
    """A loop whose body writes a row of its cache in every second iteration only."""
    step = GraphBuilder("step")
    i, cache, x = step.param("i", INT), step.param("cache", CACHE), step.param("x", ROW)
    even = step.emit(op.equal(op.bitwise_and(i, 1), 0))
    written = step.emit_if(even, lambda: step.emit(write(cache, i, x)), lambda: cache)
    following = step.emit(op.sum(written, axes=(0,), keepdims=True))
    body = step.finish(Tuple((Constant(np.asarray(True)), written, following)))
    main = GraphBuilder("main")
    start, x = main.param("start", CACHE), main.param("x", ROW)
    count = main.param("count", INT)
    _, results, _ = main.emit_loop("step", body, carried=(start, x), limit=count)
    return IRModule({"main": main.finish(Tuple(results)), "step": body})


def test_a_branch_in_a_loop() -> None:
    module = looping()
    assert not copies(module)
    plan = plan_of(module)
    assert plan.functions["step"].shared[1] == 1
    size = as_int(plan.arena_size)
    assert size is not None
    assert size < ROWS * SIZE * 4
    executable = heddle.compile(module, cache=False)
    start, x = random(10)
    for count in (0, 1, 2, 7):
        want = interpret(module, [start, x, np.asarray(count)])
        for got, expected in zip(executable(start, x, np.asarray(count)), want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)


def choosing(*, update: bool) -> IRModule:
    """Sums of one of two caches, which is read, or has a row written first."""
    main = GraphBuilder("main")
    which = main.param("which", BOOL)
    caches = [main.param(name, CACHE) for name in ("a", "b")]
    at, x = main.param("at", INT), main.param("x", ROW)
    made = main.emit_if(which, lambda: caches[0], lambda: caches[1])
    read = main.emit(write(made, at, x)) if update else made
    sums = op.sum(read, axes=(0,))
    both = op.sum(op.add(*caches), axes=(0,))
    return IRModule({"main": main.finish(Tuple((sums, both)))})


@pytest.mark.parametrize("donate", [(), ("a", "b")])
@pytest.mark.parametrize("update", [False, True])
def test_a_cache_that_a_condition_chooses(update: bool, donate: tuple[str, ...]) -> None:
    module = choosing(update=update)
    plan = plan_of(module, *donate)
    chosen = [step.chosen for step in plan.steps if isinstance(step, BranchStep)]
    assert [len(item) for item in chosen] == [1]
    assert bool(copies(module, *donate)) == update
    executable = heddle.compile(module, cache=False, donate=donate)
    for which in (True, False):
        given = [np.asarray(which), random(11)[0], random(12)[0], np.asarray(6), random(13)[1]]
        want = interpret(module, [item.copy() for item in given])
        for got, expected in zip(executable(*given), want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_chosen_cache_is_alive_as_long_as_what_was_chosen() -> None:
    """`first` is read by nobody else, so its memory would be free after the condition."""
    main = GraphBuilder("main")
    which = main.param("which", BOOL)
    x, y = main.param("x", CACHE), main.param("y", CACHE)
    first, second = main.emit(op.tanh(x)), main.emit(op.sin(y))
    made = main.emit_if(which, lambda: first, lambda: second)
    other = main.emit(op.cos(x))
    total = main.emit(op.sum(other, axes=(0,), keepdims=True))
    module = IRModule({"main": main.finish(op.sum(op.mul(made, total), axes=(0,)))})
    executable = heddle.compile(module, cache=False)
    for chosen in (True, False):
        given = [np.asarray(chosen), random(14)[0], random(15)[0]]
        want = interpret(module, given)
        np.testing.assert_allclose(executable(*given).numpy(), want, rtol=1e-3, atol=1e-3)


def test_a_choice_of_choices_in_a_loop() -> None:
    """Two caches take turns: one is read, and the other is written, by turns."""
    step = GraphBuilder("step")
    i = step.param("i", INT)
    a, b, x = step.param("a", CACHE), step.param("b", CACHE), step.param("x", ROW)
    even = step.emit(op.equal(op.bitwise_and(i, 1), 0))
    read = step.emit_if(even, lambda: b, lambda: a)
    row = step.emit(op.sum(read, axes=(0,), keepdims=True))
    made = step.emit_if(
        even,
        lambda: Tuple((step.emit(write(a, i, row)), b)),
        lambda: Tuple((a, step.emit(write(b, i, row)))),
    )
    fields = [step.emit(TupleGetItem(made, k)) for k in range(2)]
    body = step.finish(Tuple((Constant(np.asarray(True)), *fields, op.tanh(op.add(x, row)))))
    main = GraphBuilder("main")
    start = [main.param(name, CACHE) for name in ("p", "q")]
    x, count = main.param("x", ROW), main.param("count", INT)
    _, results, _ = main.emit_loop("step", body, carried=(*start, x), limit=count)
    module = IRModule({"main": main.finish(Tuple(results)), "step": body})
    executable = heddle.compile(module, cache=False)
    assert not copies(module)
    for number in (0, 1, 2, 5):
        given = [random(16)[0], random(17)[0], random(18)[1], np.asarray(number)]
        want = interpret(module, given)
        for got, expected in zip(executable(*given), want, strict=True):
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)
