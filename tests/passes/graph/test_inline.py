# SPDX-License-Identifier: Apache-2.0
"""Calls of graph functions replaced by their bodies."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op
from heddle.graph import Call, Function, GraphBuilder, GraphExpr, Tuple, TupleGetItem, Var
from heddle.ir import GlobalVar, IRModule, TensorType, structural_equal
from heddle.ir.expr import Var as Symbol
from heddle.passes.graph.inline import inline
from heddle.passes.graph.normalise import normalise
from heddle.support import UserError
from tests.passes.graph.support import build, check_values, main_of, ops_of


def _call(name: str, *args: GraphExpr, shape: tuple[int, ...]) -> Call:
    return Call(GlobalVar(name), args, {}, TensorType.of(shape, "float32"))


def _doubled_rows() -> Function:
    """(n, m) -> (n * m,), twice the elements."""
    n, m = Symbol("n"), Symbol("m")
    builder = GraphBuilder("doubled")
    a = builder.param("a", TensorType.of((n, m), "float32"))
    return builder.finish(builder.emit(op.reshape(a + a, shape=(n * m,))))


def test_symbols_become_the_sizes_of_the_caller() -> None:
    module = build(lambda x: op.exp(_call("doubled", x, shape=(6,))), (2, 3))
    module = module.with_functions({"doubled": _doubled_rows()})
    flat = inline(module, "main")
    assert ops_of(IRModule({"main": flat})) == ["add", "reshape", "exp"]
    assert flat.bindings[1].var.type.static_shape == (6,)
    check_values(module, IRModule({"main": flat}))


def test_each_call_has_values_of_its_own() -> None:
    def body(x: Var, y: Var) -> GraphExpr:
        return _call("doubled", x, shape=(6,)) * _call("doubled", y, shape=(6,))

    module = build(body, (2, 3), (3, 2)).with_functions({"doubled": _doubled_rows()})
    flat = inline(module, "main")
    assert ops_of(IRModule({"main": flat})) == ["add", "reshape", "add", "reshape", "mul"]
    check_values(module, IRModule({"main": flat}))


def test_functions_that_return_tuples() -> None:
    builder = GraphBuilder("both")
    a = builder.param("a", TensorType.of((3,), "float32"))
    both = builder.finish(Tuple((builder.emit(op.sin(a)), builder.emit(op.cos(a)))))
    outer = GraphBuilder("main")
    x = outer.param("x", TensorType.of((3,), "float32"))
    pair = outer.emit(Call(GlobalVar("both"), (x,), {}, both.result.type))
    result = outer.emit(op.add(TupleGetItem(pair, 0), TupleGetItem(pair, 1)))
    module = IRModule({"main": outer.finish(result), "both": both})
    flat = normalise(IRModule({"main": inline(module, "main")}))
    assert ops_of(flat) == ["sin", "cos", "add"]
    check_values(module, flat)


def test_nothing_to_inline_is_the_same_object() -> None:
    module = build(lambda x: op.exp(x), (3,))
    assert inline(module, "main") is main_of(module)
    called = build(lambda x: _call("doubled", x, shape=(6,)), (2, 3))
    called = called.with_functions({"doubled": _doubled_rows()})
    assert inline(called, "main", keep=frozenset({"doubled"})) is main_of(called)


def test_recursion_is_told() -> None:
    module = build(lambda x: _call("main", x, shape=(3,)), (3,))
    with pytest.raises(UserError, match="cannot be inlined: `main` -> `main`"):
        inline(module, "main")


def test_arithmetic_on_graph_expressions() -> None:
    x = Var("x", TensorType.of((2, 2), "float32"))
    two = np.full((2, 2), 2, np.float32)
    pairs = [
        (x + 1, op.add(x, 1)),
        (two - x, op.sub(two, x)),
        (3 * x, op.mul(3, x)),
        (x / 2, op.div(x, 2)),
        (x @ x, op.matmul(x, x)),
        (x**2, op.pow(x, 2)),
        (-x, op.negative(x)),
    ]
    for written, called in pairs:
        assert structural_equal(written, called)
    chosen = op.where(op.greater(x, 0.0), x, 0.0)
    assert str(chosen.type.dtype) == "float32", "a number takes the dtype of what it may replace"
