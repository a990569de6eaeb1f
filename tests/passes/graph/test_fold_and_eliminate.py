# SPDX-License-Identifier: Apache-2.0
"""Normalising, folding constants, merging equal calls, removing unused ones."""

from __future__ import annotations

import numpy as np

from heddle import op
from heddle.graph import (
    Binding,
    Branch,
    Call,
    Constant,
    Function,
    GraphBuilder,
    GraphExpr,
    If,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var as Symbol
from heddle.passes.graph.eliminate import eliminate_common_subexpressions, eliminate_dead_code
from heddle.passes.graph.fold_constants import FoldConstants, fold_constants
from heddle.passes.graph.fuse import fuse
from heddle.passes.graph.normalise import normalise
from tests.passes.graph.support import build, check_values, main_of, ops_of, weights

F = np.float32
VECTOR = TensorType.of((4,), "float32")


# -- normalise ------------------------------------------------------------------------------------


def test_nested_calls_and_known_tuples_are_flattened() -> None:
    x, t, y = Var("x", VECTOR), Var("t", Tuple((Constant(weights(4)),) * 2).type), Var("y", VECTOR)
    pair = Tuple((x, op.exp(x)))
    call = op.add(TupleGetItem(t, 1), op.relu(TupleGetItem(pair, 0)))
    module = IRModule({"main": Function((x,), (Binding(pair, t), Binding(call, y)), y)})
    after = normalise(module)
    assert ops_of(after) == ["exp", "relu", "add"]
    for binding in main_of(after).bindings:
        assert isinstance(binding.value, Call)
        assert all(isinstance(item, (Var, Constant)) for item in binding.value.args)
    check_values(build(lambda x: op.add(op.exp(x), op.relu(x)), (4,)), after)


def test_a_known_branch_is_taken() -> None:
    x, y = Var("x", VECTOR), Var("y", VECTOR)

    def branch(operator: object) -> Branch:
        inner = Var("inner", VECTOR)
        return Branch((Binding(operator(x), inner),), inner)  # type: ignore[operator]

    for known, name in ((True, "exp"), (False, "tanh")):
        choice = If(Constant(np.array(known)), branch(op.exp), branch(op.tanh), VECTOR)
        module = IRModule({"main": Function((x,), (Binding(choice, y),), y)})
        after = normalise(module)
        assert ops_of(after) == [name]
        check_values(module, after)


def test_normal_form_is_kept() -> None:
    before = build(lambda x: op.relu(op.exp(x)), (4,))
    assert normalise(before) is before


# -- fold constants -------------------------------------------------------------------------------


def test_constants_fold_through_chains() -> None:
    before = build(
        lambda x: op.matmul(x, op.transpose(op.mul(weights(5, 4), F(2)), permutation=(1, 0))),
        (3, 4),
    )
    after = fold_constants(before)
    assert ops_of(after) == ["matmul"]
    check_values(before, after)


def test_parts_of_a_constant_fold() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        parts = builder.emit(op.split(weights(6), sizes=(4, 2)))
        return op.add(x, TupleGetItem(parts, 0))

    before = build(body, (4,))
    after = normalise(fold_constants(before))
    assert ops_of(after) == ["add"]
    check_values(before, after)


def test_a_result_much_larger_than_its_arguments_is_left() -> None:
    before = build(lambda x: op.add(x, op.broadcast_to(weights(1), shape=(256, 256))), (256, 256))
    assert ops_of(fold_constants(before)) == ["broadcast_to", "add"]
    assert ops_of(FoldConstants(max_bytes=1 << 20)(before)) == ["add"]


def test_rearranged_weights_fold_at_any_size() -> None:
    before = build(lambda x: op.matmul(x, op.transpose(weights(300, 200))), (2, 200))
    after = FoldConstants(max_bytes=0)(before)
    assert ops_of(after) == ["matmul"]
    check_values(before, after, tolerance=1e-5)


def test_what_depends_on_the_size_of_an_input_is_left() -> None:
    n = Symbol("n")
    module = build(lambda x: op.mul(x, op.range(count=1, start=n, dtype="float32")), (n, 3))
    assert ops_of(fold_constants(module)) == ["range", "mul"]
    check_values(module, fold_constants(module), n=4)


def test_results_that_are_constants() -> None:
    before = build(lambda x: Tuple((x, Constant(weights(3)))), (4,))
    after = fold_constants(before)
    check_values(before, after)


# -- merge and remove -----------------------------------------------------------------------------


def test_equal_calls_are_merged() -> None:
    before = build(
        lambda x: op.add(op.mul(op.exp(x), F(2)), op.add(op.exp(x), op.mul(op.exp(x), F(2)))), (4,)
    )
    after = eliminate_common_subexpressions(before)
    assert ops_of(after) == ["exp", "mul", "add", "add"]
    check_values(before, after)


def test_calls_that_differ_are_kept() -> None:
    before = build(
        lambda x: op.concat(
            op.sum(x, axes=(0,)),
            op.sum(x, axes=(1,)),
            op.mean(x, axes=(0,)),
            op.reshape(op.mul(x, F(2)), shape=(-1,)),
            op.reshape(op.mul(x, F(3)), shape=(-1,)),
            axis=0,
        ),
        (4, 4),
    )
    assert eliminate_common_subexpressions(before) is before


def test_unused_bindings_and_kernels_go() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        unused = builder.emit(op.exp(x))
        builder.emit(op.tanh(unused))
        return op.relu(x)

    before = build(body, (4,))
    after = eliminate_dead_code(before)
    assert ops_of(after) == ["relu"]
    check_values(before, after)
    fused = fuse(before)
    kept = main_of(fused).bindings[-1:]
    alone = fused.with_functions({"main": main_of(fused).replace(bindings=kept)})
    assert sorted(eliminate_dead_code(alone)) == ["main", "relu"]
    assert eliminate_dead_code(after) is after
