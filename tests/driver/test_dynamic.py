# SPDX-License-Identifier: Apache-2.0
"""Networks compiled once for all sizes: many calls, bounded memory, no compilation on the way."""

from __future__ import annotations

import gc
import resource

import numpy as np
import pytest

from heddle import op
from heddle.driver import api
from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import Constant
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var
from heddle.op.interp import interpret
from heddle.support import UserError

WIDTH, HEADS, MOST_BATCH, MOST_LENGTH = 16, 2, 3, 24
CALLS, CHECKED = 10_000, 50


def attention_block() -> IRModule:
    """x + attention of the normalised x over heads, for every batch and length."""
    rng = np.random.default_rng(0)
    batch, length = Var("batch"), Var("length")
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((batch, length, WIDTH), "float32"))

    def weight(*shape: int) -> Constant:
        return Constant((rng.standard_normal(shape) / WIDTH**0.5).astype(np.float32))

    def emit(name: str, *args: object, **attrs: object) -> object:
        return builder.emit(op.get(name)(*args, **attrs))

    normal = emit("layer_norm", x, weight(WIDTH), weight(WIDTH), axis=-1)
    parts = [
        emit(
            "transpose",
            emit(
                "reshape",
                emit("matmul", normal, weight(WIDTH, WIDTH)),
                shape=(batch, length, HEADS, WIDTH // HEADS),
            ),
            permutation=(0, 2, 1, 3),
        )
        for _ in range(3)
    ]
    mixed = emit("attention", *parts, scale=0.3)
    joined = emit("reshape", emit("transpose", mixed, permutation=(0, 2, 1, 3)), shape=x.type.shape)
    result = emit("add", x, emit("matmul", joined, weight(WIDTH, WIDTH)))
    ranges = {"batch": (1, MOST_BATCH), "length": (1, MOST_LENGTH)}
    return IRModule({"main": builder.finish(result, attrs={"symbol_ranges": ranges})})


def test_ten_thousand_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    module = attention_block()
    executable = api.compile(module, num_threads=1)
    for name in ("compile_kernels", "import_model"):
        monkeypatch.setattr(api, name, lambda *_args, **_options: pytest.fail("compiled again"))
    rng = np.random.default_rng(1)
    data = rng.standard_normal((MOST_BATCH, MOST_LENGTH, WIDTH)).astype(np.float32)
    sizes = np.stack([rng.integers(1, most + 1, CALLS) for most in (MOST_BATCH, MOST_LENGTH)], 1)
    sizes[0] = MOST_BATCH, MOST_LENGTH  # the most memory that there is to take
    settled = 0
    for position, (batch, length) in enumerate(sizes):
        given = np.ascontiguousarray(data[:batch, :length])
        found = executable(given).numpy()
        assert found.shape == given.shape
        if position % (CALLS // CHECKED) == 0:
            wanted = interpret(module, [given])
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
        if position == CALLS // 4:
            gc.collect()
            settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled
    assert grown <= 1024, f"7500 calls took {grown} KiB"


def test_sizes_out_of_range_are_named() -> None:
    executable = api.compile(attention_block())
    data = np.zeros((MOST_BATCH, MOST_LENGTH + 1, WIDTH), np.float32)
    message = "input `x`: dimension 1 is 25, expected `length` from 1 to 24"
    with pytest.raises(UserError, match=message):
        executable(data)
    with pytest.raises(UserError, match="dimension 0 is 0, expected `batch` from 1 to 3"):
        executable(data[:0, :4])


@pytest.mark.parametrize("inner", [(2,), (8,), (9,), (6, 2), ("b", 4), (3, "b")])
def test_products_of_rows_with_a_symbolic_outer_size(inner: tuple[int | str, ...]) -> None:
    """Rows of several axes are tiled together, whether or not the tile is a multiple of what the
    inner ones number."""
    rng = np.random.default_rng(1)
    sizes = {"a": Var("a"), "b": Var("b")}
    builder = GraphBuilder("main")
    dims = (sizes["a"], *(sizes[d] if isinstance(d, str) else d for d in inner), 5)
    x = builder.param("x", TensorType.of(dims, "float32"))
    weight = rng.standard_normal((5, 12)).astype(np.float32)
    product = builder.emit(op.get("matmul")(x, Constant(weight)))
    executable = api.compile(IRModule({"main": builder.finish(product)}), cache=False)
    for a, b in ((1, 3), (4, 1), (17, 5)):
        shape = (a, *(b if isinstance(d, str) else d for d in inner), 5)
        value = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(executable(value).numpy(), value @ weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "left, right",
    [
        ((2, "a", 5, "b", 7), (7, 5)),  # columns that are as many as some of the rows
        (("a", "a", 3, 7), (7, "a")),  # rows of three axes, and columns of symbolic number
        (("a", "b", "b", 7), (7, "a")),
    ],
)
def test_products_of_symbolic_rows_and_columns(
    left: tuple[int | str, ...], right: tuple[int | str, ...]
) -> None:
    rng = np.random.default_rng(1)
    sizes = {"a": Var("a"), "b": Var("b")}
    builder = GraphBuilder("main")
    args = [
        builder.param(name, TensorType.of([sizes.get(d, d) for d in dims], "float32"))
        for name, dims in (("x", left), ("w", right))
    ]
    function = builder.finish(builder.emit(op.get("matmul")(*args)))
    executable = api.compile(IRModule({"main": function}), cache=False)
    for numbers in ({"a": 1, "b": 3}, {"a": 4, "b": 1}, {"a": 17, "b": 16}):
        x, w = (rng.standard_normal([numbers.get(d, d) for d in dims]) for dims in (left, right))
        x, w = x.astype(np.float32), w.astype(np.float32)
        np.testing.assert_allclose(executable(x, w).numpy(), x @ w, rtol=1e-4, atol=1e-4)
