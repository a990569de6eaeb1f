# SPDX-License-Identifier: Apache-2.0
"""Building graph functions and verifying them."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op, te
from heddle.graph import (
    Binding,
    Call,
    CallDPS,
    Constant,
    Function,
    GraphBuilder,
    Tuple,
    TupleGetItem,
    Var,
    verify,
    verify_module,
)
from heddle.ir import GlobalVar, IRModule, TensorType, TupleType
from heddle.ir.expr import Var as Symbol
from heddle.support import UserError


def _tensor(*shape: object, dtype: str = "float32") -> TensorType:
    return TensorType.of(shape, dtype)


def test_nested_calls_are_flattened() -> None:
    b = GraphBuilder()
    x = b.param("x", _tensor(2, 3))
    y = b.emit(op.relu(op.add(x, np.float32(1))), name="y")
    func = b.finish(y)
    assert [binding.var.name for binding in func.bindings] == ["add", "y"]
    assert isinstance(func.bindings[0].value.args[1], Constant)
    verify(func)


def test_names_are_unique() -> None:
    b = GraphBuilder()
    x = b.param("x", _tensor(3))
    names = [b.emit(op.relu(x), name="x").name for _ in range(3)]
    assert names == ["x_1", "x_2", "x_3"]
    assert b.emit(op.relu(x), name="x_1").name == "x_1_1"


def test_tuples_and_branches() -> None:
    b = GraphBuilder()
    c = b.param("c", _tensor(dtype="bool"))
    x = b.param("x", _tensor(4, 6))
    parts = b.emit(op.split(x, sizes=(2, 4), axis=1))
    first = b.emit(TupleGetItem(parts, 0))
    y = b.emit_if(c, lambda: op.exp(first), lambda: b.emit(op.negative(first)))
    func = b.finish(Tuple((y, TupleGetItem(parts, 1))))
    verify(func)
    data = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    for flag, expected in ((True, np.exp(data[:, :2])), (False, -data[:, :2])):
        got = op.interpret(func, [np.asarray(flag), data])
        np.testing.assert_allclose(got[0], expected, rtol=1e-6)
        np.testing.assert_array_equal(got[1], data[:, 2:])


def test_symbolic_function_and_hook() -> None:
    n = Symbol("n")
    b = GraphBuilder()
    x = b.param("x", _tensor(n, 4))
    w = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    flat = b.emit(op.reshape(op.matmul(x, w), shape=(n, 2, 3)))
    func = b.finish(b.emit(op.reshape(flat, shape=(n * 2, 3))))
    verify(func)
    data = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    seen: dict[str, tuple[int, ...]] = {}
    got = op.interpret(func, {"x": data}, on_value=lambda name, v: seen.update({name: v.shape}))
    np.testing.assert_allclose(got, (data @ w).reshape(10, 3), rtol=1e-6)
    assert seen == {"matmul": (5, 6), "reshape": (5, 2, 3), "reshape_1": (10, 3)}


def _double_kernel(n: object) -> object:
    a = te.placeholder((n,), "float32", name="a")
    return te.create_prim_func([a, te.compute((n,), lambda i: a[i] * 2.0, name="b")], name="double")


def test_call_dps() -> None:
    n = Symbol("n")
    x = Var("x", _tensor(7))
    y = Var("y", _tensor(7))
    call = CallDPS(GlobalVar("double"), (x,), y.type)
    main = Function((x,), (Binding(call, y),), y)
    module = IRModule({"main": main, "double": _double_kernel(n)})
    verify_module(module)
    data = np.arange(7, dtype=np.float32)
    np.testing.assert_array_equal(op.interpret(module, [data]), data * 2)


def _one(value: object, type_: object, *params: Var) -> Function:
    y = Var("y", type_)
    return Function(params, (Binding(value, y),), y)


def test_errors() -> None:
    x = Var("x", _tensor(7))
    other = Var("z", _tensor(7))
    relu = op.relu(x)
    cases = [
        (Function((x, x), (), x), "`x` is bound twice"),
        (_one(op.relu(other), x.type, x), "`z` is not bound yet here"),
        (_one(op.exp(op.exp(x)), x.type, x), "must be a variable or a constant"),
        (_one(relu, _tensor(8), x), r"float32 \(8,\), what it is bound to float32 \(7,\)"),
        (_one(relu.replace(type=_tensor(9)), _tensor(9), x), "but op.relu gives"),
        (_one(TupleGetItem(Var("t", TupleType((x.type,))), 0), x.type, x), "`t` is not bound yet"),
        (_one(relu, _tensor(Symbol("m")), x), "the variable has type"),
    ]
    for func, message in cases:
        with pytest.raises(UserError, match=message):
            verify(func)


def test_call_dps_errors() -> None:
    x = Var("x", _tensor(7))
    for args, type_, message in [
        ((x, x), x.type, "has 2 parameters, got 2 arguments and 1 outputs"),
        ((x,), _tensor(8), r"buffer `b` of `double` is float32 \(n,\), got float32 \(8,\)"),
        ((x,), _tensor(7, dtype="int32"), "got int32"),
    ]:
        main = _one(CallDPS(GlobalVar("double"), args, type_), type_, x)
        module = IRModule({"main": main, "double": _double_kernel(Symbol("n"))})
        with pytest.raises(UserError, match=message):
            verify_module(module)
    main = _one(Call(GlobalVar("nobody"), (x,), {}, x.type), x.type, x)
    with pytest.raises(UserError, match="has no function `nobody`"):
        verify_module(IRModule({"main": main}))


def test_interpreter_checks_inputs() -> None:
    n = Symbol("n")
    b = GraphBuilder()
    x, y = b.param("x", _tensor(n, 2)), b.param("y", _tensor(n, 2))
    func = b.finish(b.emit(op.add(x, y)))
    ones = np.ones((3, 2), np.float32)
    with pytest.raises(UserError, match=r"missing \['y'\], unknown \['q'\]"):
        op.interpret(func, {"x": ones, "q": ones})
    with pytest.raises(UserError, match="expected 2 inputs"):
        op.interpret(func, [ones])
    with pytest.raises(UserError, match="input `y` is float64"):
        op.interpret(func, [ones, ones.astype(np.float64)])
    with pytest.raises(UserError, match="`y`: dimension 0 is 4, expected 3"):
        op.interpret(func, [ones, np.ones((4, 2), np.float32)])
