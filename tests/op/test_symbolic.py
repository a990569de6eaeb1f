# SPDX-License-Identifier: Apache-2.0
"""Operators on symbolic shapes: what is inferred, and values of the kernel at several sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from heddle import op, te
from heddle.graph import Call, Var
from heddle.graph.dims import same_shape
from heddle.ir import TensorType
from heddle.ir.expr import Var as Symbol
from heddle.ir.expr import as_expr
from heddle.support import UserError
from heddle.tir import interp

N, M = Symbol("n"), Symbol("m")


def _x(*shape: object) -> Var:
    return Var("x", TensorType.of(shape, "float32"))


CASES: list[tuple[str, Callable[[], Call], tuple[object, ...]]] = [
    ("add", lambda: op.add(_x(N, 1, 4), _x(M, 1)), (N, M, 4)),
    ("matmul", lambda: op.matmul(_x(N, 3, M), _x(M, 5)), (N, 3, 5)),
    ("merge", lambda: op.reshape(_x(N, M, 12), shape=(-1, 12)), (N * M, 12)),
    ("heads", lambda: op.reshape(_x(N, M, 12), shape=(N, M, 3, -1)), (N, M, 3, 4)),
    ("unheads", lambda: op.reshape(_x(N, M, 3, 4), shape=(N, M, 12)), (N, M, 12)),
    ("flatten", lambda: op.flatten(_x(N, 3, 4)), (N, 12)),
    ("concat", lambda: op.concat(_x(N, 2), _x(M, 2), axis=0), (N + M, 2)),
    ("slice", lambda: op.slice(_x(N, 6), starts=(0,), ends=(2**60,)), (N, 6)),
    ("last", lambda: op.slice(_x(N, 6), starts=(-2,), ends=(2**60,), axes=(1,)), (N, 2)),
    ("softmax", lambda: op.softmax(_x(N, M)), (N, M)),
    ("mean", lambda: op.mean(_x(N, M, 2), axes=(1,), keepdims=True), (N, 1, 2)),
    ("layer_norm", lambda: op.layer_norm(_x(N, M, 4), _x(4), axis=-1), (N, M, 4)),
    ("conv", lambda: op.conv(_x(N, 2, M, 5), _x(3, 2, 3, 3), pads=(1, 1, 1, 1)), (N, 3, M, 5)),
    ("pool", lambda: op.max_pool(_x(1, 1, M + 2, 5), kernel=(3, 3)), (1, 1, M, 3)),
    ("range", lambda: op.range(count=N, start=N, step=2, dtype="float32"), (N,)),
    ("expand", lambda: op.broadcast_to(_x(N, 1), shape=(N, M)), (N, M)),
    (
        "blocked",
        lambda: op.layout_transform(_x(N, 6, M, 2), source="NCHW", target="NCHW4c"),
        (N, 2, M, 2, 4),
    ),
]


@pytest.mark.parametrize("name, make, shape", CASES, ids=[case[0] for case in CASES])
def test_shape_and_values(name: str, make: Callable[[], Call], shape: tuple[object, ...]) -> None:
    call = make()
    assert isinstance(call.type, TensorType)
    assert same_shape(call.type.shape, [as_expr(dim) for dim in shape]), call.type.shape
    inputs = [
        te.placeholder(a.type.shape, a.type.dtype, name=f"x{i}") for i, a in enumerate(call.args)
    ]
    func = te.create_prim_func([*inputs, *call.callee.compute(inputs, call.attrs)], name=name)
    rng = np.random.default_rng(7)
    for n, m in ((2, 3), (1, 4), (3, 1)):
        sizes = {N: n, M: m}
        args = [
            rng.normal(size=_concrete(a.type.shape, sizes)).astype("float32") for a in call.args
        ]
        attrs = {key: _attribute(value, sizes) for key, value in call.attrs.items()}
        expected = call.callee.evaluate(args, attrs)
        result = np.empty(_concrete(call.type.shape, sizes), "float32")
        interp.run(func, *args, result)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def _concrete(shape: object, sizes: dict[Symbol, int]) -> list[int]:
    return [int(interp.evaluate(dim)(sizes)) for dim in shape]


def _attribute(value: object, sizes: dict[Symbol, int]) -> object:
    if isinstance(value, tuple):
        return tuple(_attribute(item, sizes) for item in value)
    return int(interp.evaluate(value)(sizes)) if hasattr(value, "dtype") else value


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: op.add(_x(N), _x(M)), r"op.add: shapes \(n,\) and \(m,\) do not broadcast"),
        (lambda: op.add(_x(N), _x(4)), "do not broadcast"),
        (lambda: op.reshape(_x(N, 4), shape=(M, 4)), "not have as many elements"),
        (lambda: op.reshape(_x(3, 4), shape=(5, -1)), "does not divide"),
        (lambda: op.matmul(_x(3, N), _x(4, 5)), "inner dimensions differ: `a` has n, `b` has 4"),
        (lambda: op.exp(Var("i", TensorType.of((2,), "int32"))), "argument `x` has dtype int32"),
        (lambda: op.conv(_x(1, 3, 5, 5), _x(4, 2, 3, 3)), "has 3 channels, but `w`"),
        (lambda: op.conv(_x(1, 2, 5, 5), _x(4, 2, 3, 3), strides=(0, 1)), "`strides`"),
        (lambda: op.softmax(_x(3, 4), axis=2), "axis 2 is out of range"),
        (lambda: op.relu(), "tensor `x` is missing"),
        (lambda: op.relu(_x(1), _x(1)), r"got 2 tensors, expected \(x\)"),
        (lambda: op.relu(_x(1), alpha=1), "op.relu has no attribute `alpha`"),
        (lambda: op.reshape(_x(1)), "attribute `shape` is missing"),
        (lambda: op.gelu(_x(1), approximate="yes"), 'expected one of "none", "tanh"'),
        (lambda: op.transpose(_x(1, 2), permutation=(0, 0)), "does not order"),
        (lambda: op.get("rellu"), "did you mean `relu`"),
        (lambda: op.concat(_x(2, 3), _x(2, 4), axis=0), "does not join"),
        (lambda: op.layout_transform(_x(1, 2), source="NC", target="N4cc"), "not a layout"),
    ],
)
def test_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_absent_optional() -> None:
    x, bias = _x(2, 4), _x(4)
    call = op.layer_norm(x, None, bias)
    assert call.args == (x, bias)
    assert call.attrs["absent"] == ("scale",)
    again = call.callee(*call.args, **call.attrs)
    assert again.args == call.args
    assert again.attrs == call.attrs
    assert "absent" not in op.layer_norm(x).attrs
