# SPDX-License-Identifier: Apache-2.0
"""parse(to_text(x)) is structurally equal to x, for every kind of node."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from heddle import op, te
from heddle.graph import nodes as graph
from heddle.ir import (
    BOOL,
    FLOAT32,
    FLOAT64,
    HANDLE,
    INT32,
    INT64,
    DType,
    ExternFunc,
    FunctionType,
    GlobalVar,
    IRModule,
    TensorType,
    TupleType,
    first_mismatch,
    post_order,
    structural_hash,
)
from heddle.ir import expr as E
from heddle.script import parse, to_text
from heddle.tir import nodes as tir
from heddle.tir.build import TRUE, decl_buffer, load, make_block, point, prim_func, store
from heddle.tir.nodes import ForKind, IterKind, PrimFunc

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
).split()


def check(root: Any, constants: dict[str, np.ndarray] | None = None) -> str:
    """Round trip `root`; gives the text."""
    table: dict[str, np.ndarray] = {} if constants is None else constants
    text = to_text(root, constants=table)
    again = parse(text, constants=table)
    mismatch = first_mismatch(root, again)
    assert mismatch is None, f"{mismatch}\n{text}"
    assert structural_hash(root) == structural_hash(again), text
    assert to_text(again, constants=dict(table)) == text
    return text


def around(value: E.Expr, *extra: E.Var) -> PrimFunc:
    """A function that evaluates `value`; variables in it are parameters."""
    names = list(dict.fromkeys([*extra, *(n for n in variables(value) if n not in extra)]))
    return PrimFunc(tuple(names), tir.Evaluate(value), {"name": "f"})


def variables(value: E.Expr) -> list[E.Var]:
    bound = {n.var for n in post_order(value) if isinstance(n, E.Let)}
    return [n for n in post_order(value) if isinstance(n, E.Var) and n not in bound]


x, y, z = E.Var("x"), E.Var("y"), E.Var("z")
fx, fy = E.Var("fx", DType.of("float32")), E.Var("fy", DType.of("float32"))
hx = E.Var("hx", DType.of("float16"))
bx, by = E.Var("bx", BOOL), E.Var("by", BOOL)
one, zero = E.IntImm(1), E.IntImm(0)


def imm(value: float, dtype: str = "float32") -> E.FloatImm:
    return E.FloatImm(value, DType.of(dtype))


EXPRESSIONS: list[E.Expr] = [
    *(kind(x, y) for kind in (E.Add, E.Sub, E.Mul, E.FloorDiv, E.FloorMod, E.TruncDiv)),
    *(kind(x, y) for kind in (E.TruncMod, E.Min, E.Max, E.EQ, E.NE, E.LT, E.LE, E.GT, E.GE)),
    E.Div(fx, fy),
    E.And(bx, by),
    E.Or(bx, by),
    E.Not(bx),
    E.Not(E.And(bx, E.Not(E.Or(by, bx)))),
    E.And(bx, E.And(by, bx)),
    E.And(E.And(bx, by), bx),
    E.Or(E.And(bx, by), E.And(E.Or(bx, by), by)),
    E.EQ(E.LT(x, y), bx),
    E.Add(x, zero),
    E.Add(zero, x),
    E.Mul(one, one),
    E.Add(E.Add(x, y), E.Add(y, z)),
    E.Sub(x, E.Sub(y, E.Sub(z, x))),
    E.Mul(E.Add(x, one), E.FloorDiv(y, E.Mul(z, E.IntImm(3)))),
    E.FloorMod(E.FloorDiv(E.Mul(x, y), z), E.Sub(x, y)),
    E.Sub(zero, x),
    E.Mul(E.IntImm(-3), x),
    E.Mul(x, E.IntImm(-3)),
    E.IntImm(-(2**63)),
    E.IntImm(2**63 - 1),
    E.LT(one, E.IntImm(2)),
    E.And(E.IntImm(1, BOOL), E.IntImm(0, BOOL)),
    E.Not(E.IntImm(1, BOOL)),
    E.Min(one, E.IntImm(2)),
    E.Add(fx, imm(1.0)),
    E.Mul(imm(-0.0), fx),
    E.Add(hx, imm(0.1, "float16")),
    E.Add(imm(1.0), imm(2.0)),
    E.Max(hx, imm(-math.inf, "float16")),
    imm(math.nan),
    imm(math.inf, "float64"),
    imm(0.1),
    imm(1e-45),
    imm(1.7976931348623157e308, "float64"),
    imm(3.0, "bfloat16"),
    *(E.const(1, dtype) for dtype in DTYPES),
    *(E.Cast(x, DType.of(dtype)) for dtype in DTYPES),
    E.Cast(E.IntImm(3, INT32), FLOAT32),
    E.Select(bx, x, y),
    E.Select(E.LT(x, one), imm(0.0), imm(1.0)),
    E.Select(E.LT(x, one), hx, imm(1.0, "float16")),
    E.Let(E.Add(x, one), y, E.Mul(y, y)),
    E.Let(x, y, E.Let(E.Add(y, one), z, E.Sub(z, y))),
    E.Ramp(x, one, 8),
    E.Ramp(E.IntImm(3, INT32), E.IntImm(1, INT32), 4),
    E.Add(E.Broadcast(fx, 16), E.Broadcast(imm(2.0), 16)),
    E.Broadcast(E.IntImm(7, DType.of("int8")), 32),
    E.Call("exp", (fx,), FLOAT32),
    E.Call("exp", (E.Broadcast(fx, 4),), DType.of("float32x4")),
    E.Call("pow", (hx, imm(2.0, "float16")), DType.of("float16")),
    E.Call("pow", (fx, E.FloatImm(2.0, FLOAT32)), FLOAT32),
    E.Call("isnan", (fx,), BOOL),
    E.Call("if_then_else", (E.LT(x, one), hx, imm(0.0, "float16")), DType.of("float16")),
    E.Call("if_then_else", (bx, one, zero), INT64),
    E.Call("fma", (fx, imm(2.0), fy), FLOAT32),
    E.Call("shift_right", (x, one), INT64),
    E.Call("reinterpret", (fx,), INT32),
    E.Call("call_extern", (E.StringImm('say "hi"\n'), one, imm(2.0)), INT32),
    E.Call("call_extern", (E.StringImm("f"), one), FLOAT64),
    E.Call("where", (fx, fy), FLOAT32),
    E.Call("my.intrinsic", (fx,), FLOAT32, {"mode": 3, "ways": ("a", "b")}),
    E.Call("nothing", (), HANDLE),
    E.Call("exp", (fx,), FLOAT32, {}),
]


@pytest.mark.parametrize("value", EXPRESSIONS, ids=lambda value: to_text(value)[:40])
def test_expressions(value: E.Expr) -> None:
    check(around(value))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_stores(dtype: str) -> None:
    buffer = decl_buffer((4,), dtype, "A")
    value = E.const(1, dtype)
    body = tir.Seq((store(buffer, value, 0), store(buffer, load(buffer, 0), x)))
    text = check(PrimFunc((buffer, x), body, {"name": "f"}))
    assert "A[0] = 1" in text or "A[0] = True" in text


def test_deep_and_shared_expressions() -> None:
    deep: E.Expr = x
    for _ in range(100_000):
        deep = E.Add(deep, y)
    shared: E.Expr = x
    for _ in range(40):
        shared = E.Mul(shared, shared)
    right: E.Expr = x
    for _ in range(5_000):
        right = E.Sub(y, E.Max(right, z))
    A = decl_buffer((x,), "int64", "A")
    loops = tir.For(zero, shared, ForKind.SERIAL, E.Var("i"), store(A, right, deep))
    func = PrimFunc((A, y, z), loops, {"name": "f"})
    text = to_text(func)
    assert max(map(len, text.splitlines())) < 4000
    again = parse(text)
    assert first_mismatch(func, again) is None


def test_long_sequence() -> None:
    A = decl_buffer((100_000,), "float32", "A")
    body = tir.Seq(tuple(store(A, float(i % 7), i) for i in range(20_000)))
    check(PrimFunc((A,), body, {"name": "f"}))


def test_deep_statements_print() -> None:
    A = decl_buffer((1,), "float32", "A")
    body: tir.Stmt = store(A, 1.0, 0)
    for i in range(2_000):
        body = tir.For(zero, E.IntImm(2), ForKind.PARALLEL, E.Var(f"i{i}"), body)
    assert to_text(body).count("T.parallel(2)") == 2_000


def test_many_flat_lets() -> None:
    A = decl_buffer((1,), "int64", "A")
    names = [E.Var("v") for _ in range(3_000)]
    body: tir.Stmt = store(A, names[-1], 0)
    for before, var in reversed(list(zip([x, *names], names, strict=False))):
        body = tir.LetStmt(E.Add(before, one), var, body)
    check(PrimFunc((A, x), body, {"name": "f"}))


def statements() -> tuple[PrimFunc, ...]:
    n, i, j, k = E.Var("n"), E.Var("i"), E.Var("j"), E.Var("k", INT32)
    A = decl_buffer((n, 128), "float32", "A", strides=(E.Mul(n, E.IntImm(2)), 1), alignment=16)
    B = decl_buffer((), "int8", "odd name", scope="local")
    tmp = decl_buffer((8,), "float32", "tmp", scope="local")
    put = store(A, 1.0, (i, j))
    vector = tir.BufferStore(A, E.Broadcast(imm(0.5), 4), (E.IntImm(0), E.Ramp(zero, one, 4)))
    seq = tir.Seq
    bodies: list[tir.Stmt] = [
        put,
        vector,
        seq(()),
        seq((put,)),
        seq((put, seq(()), vector)),
        seq((put, seq((put, vector)), seq((seq((put,)),)))),
        tir.For(zero, n, ForKind.SERIAL, E.Var("k"), put),
        tir.For(i, n, ForKind.PARALLEL, E.Var("k"), put),
        tir.For(zero, E.IntImm(8), ForKind.VECTORIZED, E.Var("k"), put, {"hint": (1, "a", None)}),
        tir.For(E.IntImm(2), E.IntImm(8), ForKind.UNROLLED, E.Var("k"), put),
        tir.For(E.IntImm(0, INT32), E.IntImm(8, INT32), ForKind.SERIAL, k, put),
        tir.IfThenElse(E.LT(i, n), put),
        tir.IfThenElse(E.LT(i, n), put, vector),
        tir.IfThenElse(E.LT(i, n), put, tir.IfThenElse(E.EQ(i, j), vector, seq(()))),
        tir.IfThenElse(TRUE, seq((put, vector)), tir.IfThenElse(E.EQ(i, j), vector)),
        tir.While(E.LT(load(A, (0, 0)), imm(3.0)), put),
        tir.LetStmt(E.Add(i, one), E.Var("v"), put),
        seq((tir.LetStmt(load(A, (i, 0)), E.Var("v", FLOAT32), seq((put, put))), vector)),
        seq((put, tir.LetStmt(i, E.Var("i"), seq((put, vector))))),
        tir.Allocate(tmp, store(tmp, 1.0, 0)),
        seq((tir.Allocate(tmp, store(tmp, 1.0, 0)), put)),
        tir.Evaluate(i),
        tir.Evaluate(E.Call("call_extern", (E.StringImm("f"), i), INT32)),
        tir.Assert(E.LT(i, n), 'i is "too" large'),
        store(B, load(B, ()), ()),
    ]
    return tuple(PrimFunc((A, B, i, j), body, {"name": "f", "noalias": True}) for body in bodies)


@pytest.mark.parametrize("func", statements(), ids=range(len(statements())))
def test_statements(func: PrimFunc) -> None:
    check(func)


def block_function(**changes: Any) -> PrimFunc:
    n, i, k = E.Var("n"), E.Var("i"), E.Var("k")
    A, C = decl_buffer((n, 64), "float32", "A"), decl_buffer((n,), "float32", "C")
    inner = decl_buffer((4,), "float32", "inner", scope="local")
    vi, vk = E.Var("vi"), E.Var("vk")
    region = tir.BufferRegion(
        A,
        (
            tir.Range(E.Mul(vi, E.IntImm(2)), E.IntImm(16)),
            tir.Range(E.IntImm(3), E.Sub(n, one)),
        ),
    )
    block = make_block(
        "C",
        (tir.IterVar(n, IterKind.SPATIAL, i, vi), tir.IterVar(n, IterKind.REDUCTION, k, vk)),
        store(C, load(C, vi) + load(A, (vi, vk)), vi),
        reads=[point(A, (vi, vk)), region],
        writes=[point(C, (vi,))],
        init=store(C, 0.0, vi),
    ).replace(**changes)
    loops = tir.For(zero, n, ForKind.SERIAL, i, tir.For(zero, n, ForKind.SERIAL, k, block))
    return prim_func([A, C], loops, name="f", alloc_buffers=[inner])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"predicate": E.LT(x, one)},
        {"annotations": {"tile": [1, 2], "inner": {"a": 1.5, "dtype": DType.of("int8")}}},
        {"init": None, "reads": (), "writes": ()},
        {"body": tir.Seq(())},
        {"alloc_buffers": (decl_buffer((3,), "bool", "flags"),)},
        {"iters": (tir.IterVar(x, IterKind.ORDERED, x, E.Var("vo")),), "reads": (), "writes": (),
         "init": None, "body": tir.Evaluate(x)},
    ],
)  # fmt: skip
def test_blocks(changes: dict[str, Any]) -> None:
    func = block_function(**changes)
    if "x" in to_text(func):
        func = func.replace(params=(*func.params, x))
    check(func)


def test_root_blocks() -> None:
    func = block_function()
    root = func.body
    assert 'T.block("root")' not in check(func)
    assert 'T.block("root")' in check(func.replace(body=root.replace(annotations={"a": 1})))
    check(func.replace(body=root.body))  # blocks without a root
    A = decl_buffer((1,), "float32", "A")
    check(prim_func([A], store(A, 1.0, 0)))  # a root without blocks
    check(PrimFunc((A,), make_block("solo", (), store(A, 1.0, 0), reads=(), writes=())))


def test_regions() -> None:
    A = decl_buffer((x, y, 64), "float32", "A")
    ranges = [
        (zero, E.IntImm(64)), (zero, x), (one, E.IntImm(5)), (E.IntImm(5), x), (x, E.IntImm(1)),
        (x, zero), (E.Add(x, y), E.IntImm(4)), (E.Mul(x, y), E.Sub(y, x)), (zero, E.Add(zero, x)),
        (x, E.Add(x, y)), (E.IntImm(0), E.IntImm(1)), (E.IntImm(7), E.IntImm(1)),
    ]  # fmt: skip
    for low, extent in ranges:
        region = tir.BufferRegion(A, (tir.Range(low, extent),) * 3)
        block = make_block("b", (), tir.Evaluate(x), reads=[region], writes=[region])
        check(prim_func([A, x, y], block))


def test_names_that_repeat() -> None:
    """Equal names of different variables are told apart, odd ones become identifiers."""
    twins = [E.Var("i"), E.Var("i"), E.Var("for"), E.Var("a.b"), E.Var("T"), E.Var("0")]
    A = decl_buffer((8,), "float32", "A")
    B = decl_buffer((8,), "float32", "A")
    body: tir.Stmt = store(B, load(A, E.Sub(twins[0], twins[1])), E.Add(twins[2], twins[3]))
    for var in twins:
        body = tir.For(zero, E.IntImm(2), ForKind.PARALLEL, var, body)
    check(PrimFunc((A, B), body, {"name": "for"}))


def test_one_variable_in_several_loops() -> None:
    i = E.Var("i")
    A = decl_buffer((8,), "float32", "A")
    loop = tir.For(zero, E.IntImm(8), ForKind.SERIAL, i, store(A, 1.0, i))
    other = tir.For(zero, E.IntImm(4), ForKind.SERIAL, i, store(A, 2.0, i))
    assert 'i = T.var("int64")' in check(PrimFunc((A,), tir.Seq((loop, other, loop))))
    fresh = tir.For(zero, E.IntImm(4), ForKind.SERIAL, j := E.Var("i"), store(A, 2.0, j))
    assert "T.var" not in check(PrimFunc((A,), tir.Seq((loop, fresh))))


@pytest.mark.parametrize("attrs", [
    {}, {"name": "other", "flag": False, "none": None, "bytes": b"\0x", "float": 1e300},
    {"inf": math.inf, "nan": math.nan, "list": [1, [2.5, ()]], "int": E.IntImm(3), 7: "seven",
     "imm": imm(1.5, "float16"), "string": E.StringImm("s"), "type": TensorType.of((1,), "int8")},
])  # fmt: skip
def test_function_attributes(attrs: dict[Any, Any]) -> None:
    A = decl_buffer((1,), "float32", "A")
    check(PrimFunc((A,), store(A, 1.0, 0), attrs))


def test_symbols_of_other_dtypes() -> None:
    m = E.Var("m", INT32)
    A = decl_buffer((E.Cast(m, INT64),), "float32", "A")
    B = decl_buffer((m,), "float32", "B")
    check(PrimFunc((A, B), store(A, 1.0, 0)))


# -- graph level ------------------------------------------------------------------------------


def tensor(shape: Any, dtype: str = "float32") -> TensorType:
    return TensorType.of(shape, dtype)


def function(*bindings: Any, params: Any = (), result: Any = None, **attrs: Any) -> graph.Function:
    """A function of (value, name) pairs; the last value is returned."""
    made = [
        graph.Binding(v, name if isinstance(name, graph.Var) else graph.Var(name, v.type))
        for v, name in bindings
    ]
    return graph.Function(tuple(params), tuple(made), result or made[-1].var, attrs)


def test_graph_calls() -> None:
    n = E.Var("n")
    a = graph.Var("input.1", tensor((n, 64)))
    relu = op.get("relu")(a)
    r = graph.Var("r", relu.type)
    add = op.get("add")(r, a)
    s = graph.Var("/layer/add", add.type)
    reduced = op.get("sum")(s, axes=(1,), keepdims=True)
    pair = graph.Tuple((r, s))
    p = graph.Var("p", pair.type)
    func = function(
        (relu, r), (add, s), (pair, p), (graph.TupleGetItem(p, 1), "q"), (r, "alias"),
        (graph.Tuple(()), "nothing"), (reduced, "total"), params=[a], opset=17, note="a\nb",
    )  # fmt: skip
    text = check(func)
    assert 'name="input.1"' in text
    assert "op.sum(" in text


def test_graph_nested_calls_stay_nested() -> None:
    a = graph.Var("a", tensor((2, 3)))
    inner = op.get("relu")(a)
    check(function((op.get("relu")(inner), "y"), params=[a]))
    check(graph.Function((a,), (), inner))


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_constants(dtype: str, rng: np.random.Generator) -> None:
    values = rng.uniform(0, 100, (2, 3)).astype(DType.of(dtype).numpy)
    check(function((graph.Constant(values), "c")))
    check(function((graph.Constant(np.asarray(values[0, 0])), "c")))
    check(function((graph.Constant(np.zeros((0, 3), values.dtype)), "c")))


def test_odd_constants() -> None:
    values = np.array([math.nan, math.inf, -math.inf, -0.0, 1e-45, 0.1, 3.4e38], np.float32)
    text = check(function((graph.Constant(values), "c")))
    assert "0.1, " in text  # the shortest spelling
    payload = np.array([0x7FC00001], np.uint32).view(np.float32)
    table: dict[str, np.ndarray] = {}
    check(function((graph.Constant(payload), "c")), table)
    assert len(table) == 1
    check(function((graph.Constant(np.arange(6, dtype=np.int64).reshape(2, 3).T), "c")))
    check(function((graph.Constant(np.array([1e300, -1e-300])), "c")))
    check(function((graph.Constant(np.array([0.1], ml_dtypes.bfloat16)), "c")))


def test_large_constants_go_to_the_table(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    a = graph.Var("a", tensor((2, 8)))
    w = graph.Constant(weight)
    func = function((w, "w"), (op.get("matmul")(a, w), "y"), params=[a])
    table: dict[str, np.ndarray] = {"c0": np.zeros(3)}
    text = check(func, table)
    assert list(table) == ["c0", "c1"]
    assert table["c1"] is weight
    assert "# float32 (8, 8)" in text


def branches() -> graph.Function:
    a = graph.Var("a", tensor((2, 3)))
    c = graph.Var("c", tensor((), "bool"))

    def arm(value: graph.GraphExpr) -> graph.Branch:
        v = graph.Var("v", value.type)
        return graph.Branch((graph.Binding(value, v),), v)

    relu = op.get("relu")(a)
    nested = graph.If(c, arm(relu), graph.Branch((), a), relu.type)
    return function((graph.If(c, arm(relu), arm(nested), relu.type), "out"), params=[a, c])


def test_if() -> None:
    func = branches()
    text = check(func.replace(bindings=(func.bindings[0],)))
    assert text.count("else:") == 2


def test_modules() -> None:
    n = E.Var("n")
    A, B = te.placeholder((n, 4), "float32", "A"), te.placeholder((4, 2), "float32", "B")
    k = te.reduce_axis(4, "k")
    C = te.compute((n, 2), lambda i, j: te.sum(A[i, k] * B[k, j], axis=[k]), name="C")
    kernel = te.create_prim_func([A, B, C], name="kernel")
    a, b = graph.Var("a", tensor((n, 4))), graph.Var("b", tensor((4, 2)))
    out = tensor((n, 2))
    calls = [
        (graph.CallDPS(GlobalVar("kernel"), (a, b), out), "c"),
        (graph.CallDPS(GlobalVar("no identifier"), (a,), TupleType((out, out)), {"x": 1}), "d"),
        (graph.Call(GlobalVar("helper"), (a,), {}, a.type), "e"),
        (graph.Call(GlobalVar("while"), (a,), {"deep": True}, a.type), "kernel"),
    ]
    main = function(*calls, params=[a, b], entry=True)
    other = graph.Var("a", tensor((n, 4)))
    helper = function((other, "x"), params=[other])
    functions = {
        "kernel": kernel, "main": main, "helper": helper, "while": helper, "again": kernel,
        "no identifier": ExternFunc("c_symbol"), "extern": ExternFunc("c_symbol_2"),
    }  # fmt: skip
    text = check(IRModule(functions, {"target": "native", "opset": (1, 2)}))
    assert 'n = T.var("int64")' in text  # one symbol in several functions
    check(IRModule({}))
    check(IRModule({"one": kernel}))


def test_types_as_attributes_and_fragments() -> None:
    n = E.Var("n")
    type_ = FunctionType((tensor((n, 4)),), TupleType((tensor((), "int8"),)))
    assert to_text(type_) == (
        'G.Func((G.Tensor((n, 4), "float32"),), G.Tuple(G.Tensor((), "int8")))'
    )
    A = decl_buffer((n, 4), "float32", "A")
    assert to_text(A) == 'A: T.Buffer((n, 4), "float32")'
    assert str(store(A, n.astype("float32"), (n, 0))) == 'A[n, 0] = T.cast(n, "float32")'
    assert repr(n + 1) == "<Add n + 1>"
    assert str(point(A, (n, one))) == "A[n, 1]"
    assert str(GlobalVar("f")) == "f"
    assert "If on" in str(branches().bindings[0].value)


def test_opaque_attributes_print_but_do_not_parse() -> None:
    A = decl_buffer((1,), "float32", "A")
    text = to_text(PrimFunc((A,), store(A, 1.0, 0), {"odd": {1, 2}}))
    assert 'T.opaque("{1, 2}")' in text
    with pytest.raises(Exception, match="no text form"):
        parse(text)


def test_spans_are_positions_in_the_text() -> None:
    func = parse("@T.prim_func\ndef f(A: T.Buffer((8,), 'int64')):\n    A[0] = A[1] + 2\n")
    assert isinstance(func, PrimFunc)
    body = func.body
    assert isinstance(body, tir.BufferStore)
    assert (body.span.line, body.span.column, body.span.end_column) == (3, 4, 19)
    assert (body.value.span.line, body.value.span.column) == (3, 11)
