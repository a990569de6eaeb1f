# SPDX-License-Identifier: Apache-2.0
"""Node classes, dtypes, walks and rewrites."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from heddle.ir import (
    DType,
    free_vars,
    post_order,
    pre_order,
    rewrite,
    structural_equal,
    substitute,
    uses_var,
)
from heddle.ir import expr as ir
from heddle.ir.expr import Add, Call, IntImm, Mul, Var, const
from heddle.support import InternalError, Span, UserError

x, y = Var("x"), Var("y")


def test_map_keeps_the_object_when_nothing_changed() -> None:
    e = x * 2 + y
    assert e.map(lambda child: child) is e
    changed = e.map(lambda child: x if child is y else child)
    assert changed is not e
    assert changed.a is e.a
    assert changed.b is x


def test_map_and_replace_keep_the_span() -> None:
    span = Span("model.py", 3)
    e = Add(x, y, span=span)
    assert e.map(lambda child: y).span is span
    assert e.replace(b=x).span is span
    with pytest.raises(InternalError, match="Add has no field `c`"):
        e.replace(c=x)


def test_equality_and_hash_are_identity() -> None:
    assert Var("a") != Var("a")
    assert len({const(1), const(1)}) == 2


def test_pickling() -> None:
    e = Call("f", (x + 1, x * 2), ir.INT64, {"k": (1, "a")})
    copy = pickle.loads(pickle.dumps(e))
    assert structural_equal(copy, e, map_free_vars=True)
    assert copy.dtype is e.dtype
    assert free_vars(copy)[0] is copy.args[1].a  # one variable, still one


def test_freezing_refuses_assignment() -> None:
    program = "from heddle.ir.expr import Var\nv = Var('x')\nv.name = 'y'\n"
    environment = {
        **os.environ, "HEDDLE_FREEZE_NODES": "1", "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Var.name assigned after construction" in run.stderr


def test_walks_visit_each_object_once_in_order() -> None:
    shared = x + y
    e = shared * shared
    assert [type(n).__name__ for n in post_order(e)] == ["Var", "Var", "Add", "Mul"]
    assert [type(n).__name__ for n in pre_order(e)] == ["Mul", "Add", "Var", "Var"]
    assert free_vars(y * x + y) == [y, x]
    assert uses_var(e, x)
    assert not uses_var(e, {Var("x")})


def test_rewrite_is_bottom_up_and_by_exact_type() -> None:
    seen = []

    def double(e: IntImm) -> IntImm:
        seen.append(e.value)
        return IntImm(e.value * 2, e.dtype)

    e = (x + 3) * 5
    result = rewrite(e, {IntImm: double})
    assert structural_equal(result, (x + 6) * 10)
    assert seen == [3, 5]
    assert rewrite(e, {ir.FloatImm: double}) is e


def test_substitute_replaces_variables_together() -> None:
    assert structural_equal(substitute(x + y * 2, {x: y, y: x}), y + x * 2)
    e = x + 1
    assert substitute(e, {y: x}) is e


def test_deep_walks_do_not_recurse() -> None:
    e: ir.Expr = x
    for k in range(100_000):
        e = Add(e, const(k % 5 + 1))
    assert sum(1 for _ in post_order(e)) == 200_001
    assert free_vars(substitute(e, {x: y})) == [y]
    doubled: ir.Expr = x
    for _ in range(100):
        doubled = Mul(doubled, doubled)
    assert sum(1 for _ in pre_order(doubled)) == 101


def test_dtypes_are_interned() -> None:
    assert DType.of("float32") is DType.of(np.float32) is DType.of(np.dtype("f4"))
    vector = DType.of("int8x16")
    assert (vector.lanes, vector.bits, vector.nbytes, vector.element) == (
        16,
        8,
        16,
        ir.DType.of("int8"),
    )
    assert pickle.loads(pickle.dumps(vector)) is vector
    assert (DType.of("uint8").max_value, DType.of("int8").min_value) == (255, -128)
    with pytest.raises(UserError, match="unknown dtype `float33`"):
        DType.of("float33")


def test_builders_fold_and_wrap() -> None:
    assert (x + 0) is x
    assert (x * 1) is x
    assert (const(100, "int8") + const(100, "int8")).value == -56
    assert (const(-7) // 2).value == -4
    assert ir.truncdiv(const(-7), 2).value == -3
    assert ir.truncmod(const(-7), 2).value == -1
    assert (const(3) < const(4)).value == 1
    with pytest.raises(UserError, match="by the constant zero"):
        x // 0
    with pytest.raises(UserError, match="no truth value"):
        bool(x < y)
    with pytest.raises(UserError, match="the dtypes differ"):
        x + Var("f", DType.of("float32"))
