# SPDX-License-Identifier: Apache-2.0
"""Scripts as people write them: decorators, inference, the shorter forms."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op, te
from heddle.graph import nodes as graph
from heddle.ir import DType, IRModule, first_mismatch, structural_equal
from heddle.ir.expr import IntImm, Var
from heddle.script import G, I, T, parse, to_text
from heddle.support import UserError
from heddle.tir.access import detect_access_regions
from heddle.tir.build import collect, shape_symbols
from heddle.tir.interp import run
from heddle.tir.nodes import Block, For, ForKind, LetStmt, PrimFunc
from heddle.tir.verify import verify

SIZE = 16
DTYPE = "float32"


@T.prim_func
def matmul(
    A: T.Buffer((n, SIZE), DTYPE), B: T.Buffer((SIZE, 8), DTYPE), C: T.Buffer((n, 8), DTYPE)
):
    """Documentation is welcome."""
    for i, j, k in T.grid(n, 8, SIZE):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0
            C[vi, vj] += A[vi, vk] * B[vk, vj]


def test_decorated_function_computes(rng: np.random.Generator) -> None:
    assert isinstance(matmul, PrimFunc)
    assert matmul.attrs == {"name": "matmul"}
    assert [var.name for var in shape_symbols(matmul)] == ["n"]
    a = rng.standard_normal((5, 16)).astype(np.float32)
    b = rng.standard_normal((16, 8)).astype(np.float32)
    c = np.zeros((5, 8), np.float32)
    run(matmul, a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5, atol=1e-5)


def test_equal_to_tensor_expression() -> None:
    n = Var("n")
    A, B = te.placeholder((n, 16), DTYPE, "A"), te.placeholder((16, 8), DTYPE, "B")
    k = te.reduce_axis(16, "k")
    C = te.compute((n, 8), lambda i, j: te.sum(A[i, k] * B[k, j], axis=[k]), name="C")
    expected = te.create_prim_func([A, B, C], name="matmul")
    assert first_mismatch(expected, matmul) is None


def test_surrounding_values() -> None:
    width, half, kind = 4, DType.of("float16"), np.int64(3)

    @T.prim_func
    def scale(A: T.Buffer((8, width), half), B: T.Buffer((8, width), half)):
        for i in range(8):
            for j in T.vectorized(width):
                B[i, j] = A[i, j] * 2 + width // 3 + kind if i < kind else A[i, j] * np.pi

    assert scale.params[0].dtype is half
    loops = collect(scale.body, For)
    assert [loop.kind for loop in loops] == [ForKind.SERIAL, ForKind.VECTORIZED]
    assert "A[i, j] * 2.0 + 1.0 + 3.0" in to_text(scale)
    assert "3.141592653589793" in to_text(scale)


def test_module_class() -> None:
    @I.ir_module
    class Module:
        I.module_attrs({"opset": 17})
        m = T.var("int64")
        c_function = I.extern("c_function")

        @T.prim_func
        def double(X: T.Buffer((m, 3), "float32"), Y: T.Buffer((m, 3), "float32")):
            for i, j in T.grid(m, 3):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = X[vi, vj] * 2.0

        @G.function
        def main(x: G.Tensor((m, 3), "float32")) -> G.Tensor((m, 3), "float32"):
            y = G.call_dps(double, (x,), out=G.Tensor((m, 3), "float32"))
            return op.relu(op.add(y, 1.0))

    assert isinstance(Module, IRModule)
    assert list(Module) == ["c_function", "double", "main"]
    main = Module["main"]
    assert isinstance(main, graph.Function)
    assert [b.var.name for b in main.bindings] == ["y", "lv", "lv_1"]
    assert main.result is main.bindings[-1].var
    assert main.params[0].type.shape[0] is Module["double"].params[0].shape[0]
    assert first_mismatch(Module, parse(to_text(Module))) is None


def test_quoted_symbols_and_default_regions() -> None:
    text = """
from heddle.script import T

@T.prim_func
def f(A: T.Buffer(("n", "n * 2 + 1"), "int32"), B: T.Buffer(("n",), "int32"), m: T.int32):
    # comments are no problem
    s = T.alloc_buffer((4,), "int32", scope="local")
    for i in T.parallel(n):
        with T.block("B"):
            vi = T.axis.spatial(n, i)
            T.where(0 <= i < n - 1)
            w = A[vi, 0] + m
            for k in T.serial(4):
                s[k] = A[vi, k * 2 + 1] * w
            B[vi] = s[0] + s[3]
"""
    func = parse(text)
    assert isinstance(func, PrimFunc)
    printed = to_text(func)
    assert "T.where(0 <= i and i < n - 1)" in printed
    assert "T.reads(A[vi, 0], A[vi, 1:8], s[0], s[3])" in printed
    assert "T.writes(s[0:4], B[vi])" in printed
    assert len(collect(func.body, LetStmt)) == 1
    assert first_mismatch(func, parse(printed)) is None


def test_access_regions() -> None:
    func = parse(
        """
@T.prim_func
def f(
    A: T.Buffer((64, 64), "float32"), index: T.Buffer((64,), "int64"), B: T.Buffer(64, "float32")
):
    for io in T.serial(8):
        with T.block("outer"):
            vo = T.axis.spatial(8, io)
            for ii in T.serial(8):
                for k in T.serial(4, start=2):
                    with T.block("inner"):
                        vi = T.axis.spatial(64, vo * 8 + ii)
                        vk = T.axis.reduce(4, k - 2)
                        with T.init():
                            B[vi] = 0.0
                        B[vi] += A[vi, 63 - vk * 3] + A[index[vi], vk // 2]
"""
    )
    blocks = {block.name: block for block in collect(func.body, Block)}
    inner, outer = blocks["inner"], blocks["outer"]
    assert [str(r) for r in inner.reads] == [
        "A[vi, 63 - vk * 3]",
        "index[vi]",
        "A[index[vi], vk // 2]",
    ]
    assert [str(r) for r in inner.writes] == ["B[vi]"]
    assert [str(r) for r in outer.writes] == ["B[vo * 8:vo * 8 + 8]"]
    first = outer.reads[0]
    assert str(first.ranges[0].min) == "vo * 8"
    assert first.ranges[1].extent.value == 10  # 63 - 3 * vk for vk in [0, 4)
    third = outer.reads[2]
    assert structural_equal(third.ranges[1].extent, IntImm(64))  # not linear: all of it
    reads, writes = detect_access_regions(inner)
    assert structural_equal((reads, writes), (inner.reads, inner.writes))


def test_graph_forms() -> None:
    text = """
@I.ir_module
class Module:
    @G.function
    def helper(x: G.Tensor((2, 2), "float32")) -> G.Tensor((2, 2), "float32"):
        return x

    @G.function
    def main(x: G.Tensor((2, 2), "float32"), c: G.Tensor((), "bool")):
        \"\"\"Documentation.\"\"\"
        G.func_attr({"entry": True})
        h: G.Tensor((2, 2), "float32") = helper(x)
        w = G.const([[1, 2], [3, 4]], "float32")
        if c:
            y = op.matmul(h, w)
        else:
            t = (op.relu(h), w)
            y = t[0]
        return (y, op.add(y, -1))
"""
    module = parse(text)
    assert isinstance(module, IRModule)
    assert first_mismatch(module, parse(str(module))) is None
    main = module["main"]
    assert isinstance(main, graph.Function)
    branch = next(b.value for b in main.bindings if isinstance(b.value, graph.If))
    assert [b.var.name for b in branch.otherwise.bindings] == ["lv", "t"]


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    matmul.show()
    out = capsys.readouterr().out
    assert parse(out) is not None
    assert out == str(matmul) + "\n"


@T.macro
def relu(x):
    return T.max(x, 0.0)


@T.macro
def clear(buffer, extent):
    """Statements take the place of the call."""
    for i in T.serial(extent):
        buffer[i] = relu(-1.0 * SIZE)


@T.macro
def broken(x):
    return x + unknown


def test_macros() -> None:
    @T.prim_func
    def f(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        i = A[0]
        clear(B, 8)
        B[0] = relu(i + A[1])

    @T.prim_func(name="f")
    def expected(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        first = A[0]
        for k in T.serial(8):
            B[k] = 0.0
        B[0] = T.max(first + A[1], 0.0)

    assert first_mismatch(f, expected) is None


@T.macro
def doubled(buffer, i):
    with T.block("doubled"):
        buffer[i] = buffer[i] * 2.0


@T.macro
def doubled_twice(buffer, i):
    doubled(buffer, i)
    doubled(buffer, i)


def test_blocks_of_macros_get_names_of_their_own() -> None:
    @T.prim_func
    def f(A: T.Buffer((8,), "float32")):
        doubled_twice(A, 1)
        doubled(A, 2)

    names = [block.name for block in collect(f.body, Block)]
    assert names == ["root", "doubled", "doubled_1", "doubled_2"]
    verify(f)


def test_error_in_a_macro_of_a_macro_tells_both_calls() -> None:
    with pytest.raises(UserError, match="expected an expression, got tuple") as caught:

        @T.prim_func
        def f(A: T.Buffer((8,), "float32")):
            doubled_twice(A, (1, 2))

    assert [how for how, _ in caught.value.callers] == [
        "in macro `doubled`, called here",
        "in macro `doubled_twice`, called here",
    ]
    lines = [place.source_line().strip() for _, place in caught.value.callers]
    assert lines == ["doubled(buffer, i)", "doubled_twice(A, (1, 2))"]
    assert str(caught.value).count("-->") == 3


def test_error_in_a_macro_points_into_it() -> None:
    with pytest.raises(UserError, match="`unknown` is not defined") as caught:

        @T.prim_func
        def f(A: T.Buffer((8,), "float32")):
            A[0] = broken(A[1])

    span = caught.value.span
    assert span is not None
    assert span.source_line() == "    return x + unknown"
    ((how, place),) = caught.value.callers
    assert how == "in macro `broken`, called here"
    assert place.source_line().strip() == "A[0] = broken(A[1])"
