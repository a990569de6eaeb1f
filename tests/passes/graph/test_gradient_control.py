# SPDX-License-Identifier: Apache-2.0
"""Gradients of conditionals and loops, against differences and against PyTorch's formulae."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import heddle.ir
from heddle import op
from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import CallDPS, Constant, Function, GraphExpr, Tuple, TupleGetItem
from heddle.graph.verify import verify_module
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var
from heddle.op.interp import interpret
from heddle.support import UserError

F = "float64"


def scalar(value: float) -> Constant:
    return Constant(np.asarray(value, F))


def check(module: IRModule, inputs: Sequence[np.ndarray], wrt: Sequence[str]) -> None:
    """The gradients of the first result, interpreted and compiled, beside central differences."""
    made = heddle.value_and_grad(module, wrt)
    verify_module(made)
    found = interpret(made, inputs)
    names = [param.name for param in module["main"].params]  # type: ignore[attr-defined]
    executable = heddle.compile(made)
    for one, two in zip(found, executable(*inputs), strict=True):
        np.testing.assert_allclose(two.numpy(), one, rtol=1e-9, atol=1e-9)
    for name, gradient in zip(wrt, found[-len(wrt) :], strict=True):
        at = names.index(name)
        expected = np.zeros_like(inputs[at])
        for place in np.ndindex(*inputs[at].shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [item.copy() for item in inputs]
                moved[at][place] += step
                result = interpret(module, moved)
                ends.append(float(result[0] if isinstance(result, tuple) else result))
            expected[place] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def conditional() -> IRModule:
    """sum(if mean(x) > 0 then tanh(x w), x else x, x x)."""
    b = GraphBuilder("main")
    x, w = b.param("x", TensorType.of((4,), F)), b.param("w", TensorType.of((4,), F))
    shifted = b.emit(op.add(x, scalar(0.1)))
    positive = b.emit(op.greater(op.mean(x, axes=(0,), keepdims=False), scalar(0.0)))
    both = b.emit_if(
        positive,
        lambda: Tuple((b.emit(op.tanh(op.mul(shifted, w))), b.emit(op.identity(shifted)))),
        lambda: Tuple((b.emit(op.identity(shifted)), b.emit(op.mul(x, shifted)))),
    )
    first, second = (b.emit(field) for field in _fields(both, 2))
    return IRModule({"main": b.finish(op.sum(op.mul(first, op.exp(second)), axes=(0,)))})


def _fields(value: GraphExpr, count: int) -> list[GraphExpr]:
    return [TupleGetItem(value, at) for at in range(count)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_conditional(sign: float) -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.standard_normal(4)) * sign
    check(conditional(), [x, rng.standard_normal(4)], ["x", "w"])


def recurrence(*, stop_early: bool = False, rows: int | str = 3) -> IRModule:
    """h = tanh(h w + u[i]), five times or until |h| is large; every product of two is stacked."""
    size = Var("n") if isinstance(rows, str) else rows
    step = GraphBuilder("step")
    i = step.param("i", TensorType.of((), "int64"))
    h = step.param("h", TensorType.of((size, 4), F))
    w = step.param("w", TensorType.of((4, 4), F))
    u = step.param("u", TensorType.of((5, 4), F))
    following = step.emit(op.tanh(op.add(op.matmul(h, w), op.gather(u, i, axis=0))))
    total = op.sum(op.abs(following), axes=(0, 1), keepdims=False)
    going = step.emit(op.less(total, scalar(3.0 if stop_early else 1e9)))
    body = step.finish(Tuple((going, following, step.emit(op.mul(following, h)))))
    main = GraphBuilder("main")
    x = main.param("x", TensorType.of((size, 4), F))
    w = main.param("w", TensorType.of((4, 4), F))
    u = main.param("u", TensorType.of((5, 4), F))
    begin = Constant(np.asarray(True)) if stop_early else None
    _, (last,), (stack,) = main.emit_loop(
        "step", body, carried=(op.mul(x, scalar(0.5)),), captured=(w, u), limit=5, condition=begin
    )
    used = stack if not stop_early else op.slice(stack, starts=(0,), ends=(1,), axes=(0,))
    loss = op.add(
        op.sum(op.mul(last, last), axes=(0, 1), keepdims=False),
        op.sum(op.mul(used, scalar(0.3)), axes=(0, 1, 2), keepdims=False),
    )
    return IRModule({"main": main.finish(main.emit(loss)), "step": body})


@pytest.mark.parametrize("rows", [3, "n"])
@pytest.mark.parametrize("stop_early", [False, True])
def test_loop(stop_early: bool, rows: int | str) -> None:
    rng = np.random.default_rng(1)
    x, w, u = rng.standard_normal((3, 4)), rng.standard_normal((4, 4)) * 0.6, rng.random((5, 4))
    check(recurrence(stop_early=stop_early, rows=rows), [x, w, u], ["x", "w", "u"])


def test_loop_of_conditionals() -> None:
    step = GraphBuilder("step")
    i = step.param("i", TensorType.of((), "int64"))
    h = step.param("h", TensorType.of((3,), F))
    w = step.param("w", TensorType.of((3,), F))
    even = step.emit(op.equal(op.floor_mod(i, Constant(np.asarray(2))), Constant(np.asarray(0))))
    new = step.emit_if(
        even, lambda: step.emit(op.mul(h, w)), lambda: step.emit(op.sin(op.add(h, w)))
    )
    body = step.finish(Tuple((even, new)))
    main = GraphBuilder("main")
    x, w = main.param("x", TensorType.of((3,), F)), main.param("w", TensorType.of((3,), F))
    _, (last,), _ = main.emit_loop("step", body, carried=(x,), captured=(w,), limit=4)
    module = IRModule({"main": main.finish(op.sum(last, axes=(0,))), "step": body})
    rng = np.random.default_rng(2)
    check(module, [rng.standard_normal(3), rng.standard_normal(3)], ["x", "w"])


def test_loop_in_a_conditional() -> None:
    step = GraphBuilder("step")
    step.param("i", TensorType.of((), "int64"))
    h, w = step.param("h", TensorType.of((3,), F)), step.param("w", TensorType.of((3,), F))
    body = step.finish(Tuple((op.identity(Constant(np.asarray(True))), op.mul(op.tanh(h), w))))
    main = GraphBuilder("main")
    x, w = main.param("x", TensorType.of((3,), F)), main.param("w", TensorType.of((3,), F))

    def looping() -> GraphExpr:
        return main.emit_loop("step", body, carried=(x,), captured=(w,), limit=3)[1][0]

    positive = main.emit(op.greater(op.sum(x, axes=(0,)), scalar(0.0)))
    found = main.emit_if(positive, looping, lambda: main.emit(op.mul(x, x)))
    module = IRModule({"main": main.finish(op.sum(found, axes=(0,))), "step": body})
    for x_value in (np.array([0.5, 0.2, 0.3]), np.array([-0.5, 0.2, -0.3])):
        check(module, [x_value, np.array([0.7, -0.2, 1.1])], ["x", "w"])


def test_second_gradients_of_a_conditional() -> None:
    """The gradient is a module like any other."""
    first = heddle.grad(conditional(), ["x", "w"])
    main = first["main"]
    assert isinstance(main, Function)
    b = GraphBuilder.continuing(main)
    assert isinstance(main.result, Tuple)
    total = b.emit(op.sum(op.mul(main.result.fields[0], main.result.fields[1]), axes=(0,)))
    module = IRModule({"main": b.finish(total)})
    rng = np.random.default_rng(0)
    check(module, [np.abs(rng.standard_normal(4)), rng.standard_normal(4)], ["x", "w"])


def test_what_is_missing_inside_is_named() -> None:
    b = GraphBuilder("main")
    x = b.param("x", TensorType.of((4,), F))
    table = heddle.ir.GlobalVar("table")
    positive = b.emit(op.greater(op.sum(x, axes=(0,)), scalar(0.0)))
    y = b.emit_if(
        positive, lambda: b.emit(CallDPS(table, (x,), x.type)), lambda: b.emit(op.mul(x, x))
    )
    module = IRModule({"main": b.finish(op.sum(y, axes=(0,)))})
    with pytest.raises(UserError, match="no gradient for\n  loop function `table`: `table`"):
        heddle.grad(module, "x")


def endless_loop() -> IRModule:
    """x is doubled until its sum is 9 at least; the sum of what is left."""
    step = GraphBuilder("step")
    step.param("i", TensorType.of((), "int64"))
    h = step.param("h", TensorType.of((4,), F))
    going = step.emit(op.less(op.sum(h, axes=(0,)), scalar(9.0)))
    body = step.finish(Tuple((going, op.mul(h, scalar(2.0)))))
    main = GraphBuilder("main")
    x = main.param("x", TensorType.of((4,), F))
    begin = Constant(np.asarray(True))
    _, (last,), _ = main.emit_loop("step", body, carried=(x,), condition=begin)
    return IRModule({"main": main.finish(op.sum(last, axes=(0,))), "step": body})


def test_a_loop_without_an_end_has_no_gradient() -> None:
    message = r"a loop without a bound on its iterations \(see max_trip_count\): `loop`"
    with pytest.raises(UserError, match=message):
        heddle.grad(endless_loop(), "x")


def test_a_loop_whose_most_iterations_are_given() -> None:
    made = heddle.value_and_grad(endless_loop(), "x", max_trip_count=6)
    executable = heddle.compile(made, cache=False)
    for start, count in ((9.0, 1), (1.0, 3), (0.1, 6)):
        x = np.full(4, start)
        value, gradient = executable(x)
        np.testing.assert_allclose(value.numpy(), 4 * start * 2**count, rtol=1e-5)
        np.testing.assert_allclose(gradient.numpy(), np.full(4, 2.0**count), rtol=1e-5)
    with pytest.raises(UserError, match="ran more than 6 times"):
        executable(np.full(4, 0.001))
    with pytest.raises(UserError, match="max_trip_count is 0, expected at least 1"):
        heddle.grad(endless_loop(), "x", max_trip_count=0)
