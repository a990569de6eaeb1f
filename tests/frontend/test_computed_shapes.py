# SPDX-License-Identifier: Apache-2.0
"""Shapes that are computed from the values of inputs: one executable, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import heddle
from heddle.frontend.onnx import ImportFailure, from_onnx
from heddle.support import UserError

ort = pytest.importorskip("onnxruntime", reason="the values to compare with")


def model(text: str) -> onnx.ModelProto:
    """A model of opset 18 in ONNX's own text form."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}')
    onnx.checker.check_model(made, full_check=True)
    return made


def check(text: str, bounds: dict[str, int], *calls: dict[str, Any]) -> Any:
    """Every call of one executable gives what ONNX Runtime gives, shapes included."""
    proto = model(text)
    executable = heddle.compile(from_onnx(proto, bounds=bounds), cache=False)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs in calls:
        found = executable(**inputs)
        values = found if isinstance(found, tuple) else (found,)
        for got, want in zip(values, session.run(None, inputs), strict=True):
            assert got.shape == want.shape, inputs
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    return executable


def ints(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.asarray(values, np.int64)


X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


def test_range() -> None:
    text = """
    g (int64 start, int64 limit, int64 delta, float[k] x) => (int64[n] y, int64[m] z, int64[o] w) {
      y = Range (start, limit, delta)
      one = Constant <value = int64 {1}> ()
      none = Constant <value = int64 {0}> ()
      more = Add (limit, one)
      z = Range (none, more, one)
      size = Size (x)
      w = Range (start, size, one)
    }"""
    ends = [(0, 5, 1), (3, 20, 4), (9, 0, -2), (4, 4, 1), (7, 2, 3), (2, 19, 17)]
    x = np.zeros(12, np.float32)
    calls = [dict(zip(("start", "limit", "delta"), map(np.asarray, e), strict=True)) for e in ends]
    executable = check(text, {"start": 10, "limit": 20}, *({**call, "x": x} for call in calls))
    with pytest.raises(UserError, match="is 25, expected 0 to 20"):
        executable(start=np.asarray(0), limit=np.asarray(25), delta=np.asarray(1), x=x)
    with pytest.raises(UserError, match="expected 0 to 20"):
        executable(start=np.asarray(0), limit=np.asarray(5), delta=np.asarray(0), x=x)


def test_range_of_floats() -> None:
    text = """
    g (float limit, float delta) => (float[n] y) {
      start = Constant <value = float {0.5}> ()
      y = Range (start, limit, delta)
    }"""
    calls = [(3.0, 0.5), (2.9, 0.7), (-3.0, -1.0), (0.0, 1.0)]
    made = [{"limit": np.float32(a), "delta": np.float32(b)} for a, b in calls]
    check(text, {"limit": 8, "delta": 1}, *({k: np.asarray(v) for k, v in m.items()} for m in made))


def test_reshape() -> None:
    text = """
    g (float[n, 6] x, int64[3] shape, int64[1] rows) => (float[a, b, c] y, float[r, s] z) {
      y0 = Reshape (x, shape)
      y = Relu (y0)
      rest = Constant <value = int64[1] {-1}> ()
      both = Concat <axis = 0> (rows, rest)
      z = Reshape (x, both)
    }"""
    shapes = [(2, 3, 2), (-1, 2, 1), (0, 3, -1), (12, 1, 1), (1, 0, 2)]
    calls = [{"x": X, "shape": ints(*s), "rows": ints(4)} for s in shapes]
    executable = check(text, {}, *calls)
    for wrong in ((5, 2, 1), (-1, -1, 12), (-2, -6, 1), (2**62, 4, 3)):
        with pytest.raises(UserError, match=r"is -[12], expected 0 to"):
            executable(x=X, shape=ints(*wrong), rows=ints(4))


def test_expand_and_constant() -> None:
    text = """
    g (float[1, 6] x, int64[3] shape, int64[1] n) =>
      (float[a, b, c] y, float[k, 2] z, float[k, 2] w) {
      y = Expand (x, shape)
      two = Constant <value = int64[1] {2}> ()
      both = Concat <axis = 0> (n, two)
      z = ConstantOfShape <value = float[1] {1.5}> (both)
      column = Constant <value = float[1, 2] {1.0, 2.0}> ()
      wide = Expand (column, both)
      w = Add (wide, z)
    }"""
    calls = [((2, 3, 6), 4), ((1, 1, 1), 0), ((3, 1, 6), 1)]
    made = [{"x": X[:1], "shape": ints(*s), "n": ints(n)} for s, n in calls]
    executable = check(text, {"shape": 6, "n": 5}, *made)
    with pytest.raises(UserError, match="is -1, expected 0 to 6"):
        executable(x=X[:1], shape=ints(1, 1, 5), n=ints(1))


def test_tile() -> None:
    text = """
    g (float[n, 6] x, int64[2] repeats) => (float[a, b] y) {
      y = Tile (x, repeats)
    }"""
    calls = [(1, 1), (3, 2), (0, 2), (2, 1)]
    check(text, {"repeats": 3}, *({"x": X, "repeats": ints(*r)} for r in calls))


def test_split() -> None:
    text = """
    g (float[n, 6] x, int64[3] sizes) => (float[a, 6] u, float[b, 6] v, float[c, 6] y) {
      u, v, w = Split <axis = 0> (x, sizes)
      y = Relu (w)
    }"""
    x = np.random.default_rng(1).standard_normal((7, 6)).astype(np.float32)
    sizes = [(2, 3, 2), (0, 7, 0), (0, 0, 7), (6, 0, 1)]
    executable = check(text, {}, *({"x": x, "sizes": ints(*s)} for s in sizes))
    for wrong in ((2, 3, 1), (-1, 4, 4), (8, 0, -1), (2**63 - 1, 2**63 - 1, 9)):
        with pytest.raises(UserError, match="expected 0 to"):
            executable(x=x, sizes=ints(*wrong))


def test_split_of_nothing() -> None:
    text = """
    g (float[0, 3] x, int64[2] sizes) => (float[a, 3] u, float[b, 3] v) {
      u, v = Split <axis = 0> (x, sizes)
    }"""
    x = np.zeros((0, 3), np.float32)
    executable = check(text, {}, {"x": x, "sizes": ints(0, 0)})
    with pytest.raises(UserError, match="is -1, expected 0 to 0"):
        executable(x=x, sizes=ints(1, -1) + 1)


def test_split_at_the_sizes_of_tensors() -> None:
    """Parts of known dimensions have these dimensions."""
    text = """
    g (float[n, 4] x, float[m, 4] w) => (float[n, 4] y, float[m, 4] z) {
      both = Concat <axis = 0> (x, w)
      first = Shape <start = 0, end = 1> (x)
      second = Shape <start = 0, end = 1> (w)
      sizes = Concat <axis = 0> (first, second)
      u, v = Split <axis = 0> (both, sizes)
      y = Add (u, x)
      z = Mul (v, w)
    }"""
    rng = np.random.default_rng(2)
    pairs = [(1, 5), (4, 4), (3, 1)]
    calls = [{"x": rng.random((n, 4), "f4"), "w": rng.random((m, 4), "f4")} for n, m in pairs]
    check(text, {}, *calls)
    assert "bind_dim" not in str(from_onnx(model(text)))


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_even_split_of_a_symbolic_dimension(parts: int) -> None:
    names = [f"y{at}" for at in range(parts)]
    results = ", ".join(f"float[d{at}, 4] y{at}" for at in range(parts))
    text = f"""
    g (float[n, 4] x) => ({results}) {{
      {", ".join(names)} = Split <axis = 0, num_outputs = {parts}> (x)
    }}"""
    rng = np.random.default_rng(3)
    sizes = [n for n in range(1, 16) if -(-n // parts) * (parts - 1) <= n]
    check(text, {}, *({"x": rng.random((n, 4), "f4")} for n in sizes))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int) -> None:
    text = f"""
    g (int64[n, m] x, int64 depth, float[2] values) => (float[a, b, c] y) {{
      y = OneHot <axis = {axis}> (x, depth, values)
    }}"""
    x = ints(-5, -3, -1, 0, 2, 4).reshape(2, 3)
    values = np.asarray([0.5, 2.5], np.float32)
    calls = [{"x": x, "depth": np.asarray(d), "values": values} for d in (1, 3, 5, 9)]
    executable = check(text, {"depth": 9}, *calls)
    for wrong in (-1, 10):
        with pytest.raises(UserError, match=f"is {wrong}, expected 0 to 9"):
            executable(x=x, depth=np.asarray(wrong), values=values)


@pytest.mark.parametrize("upper", [0, 1])
def test_triangles(upper: int) -> None:
    text = f"""
    g (float[b, n, m] x, int64 k) => (float[b, n, m] y) {{
      y = Trilu <upper = {upper}> (x, k)
    }}"""
    rng = np.random.default_rng(4)
    x = rng.random((2, 4, 6), "f4")
    calls = [{"x": x, "k": np.asarray(k)} for k in (-9, -3, -1, 0, 1, 5, 6)]
    check(text, {}, *calls, {"x": rng.random((1, 5, 2), "f4"), "k": np.asarray(-2)})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pad(mode: str) -> None:
    text = f"""
    g (float[n, 6] x, int64[4] pads, float v) => (float[a, b] y) {{
      y = Pad <mode = "{mode}"> (x, pads{", v" if mode == "constant" else ""})
    }}"""
    calls = [(0, 0, 0, 0), (1, 2, 0, 3), (0, 5, 1, 0), (1, 1, 1, 1)]
    given = {"v": np.asarray(0.25, np.float32)}
    made = [{"x": X, "pads": ints(*p), **(given if mode == "constant" else {})} for p in calls]
    if mode == "constant":
        made.append({"x": X, "pads": ints(-1, 2, 0, -3), **given})
    else:
        text = text.replace(", float v)", ")")
    check(text, {"pads": 5}, *made)


@pytest.mark.parametrize("order", [0, 1])
def test_unique(order: int) -> None:
    text = f"""
    g (float[n] x, int64[m] i) => (float[k] y, int64[k] first, int64[n] which, int64[k] counts,
                                   int64[u] ids) {{
      y, first, which, counts = Unique <sorted = {order}> (x)
      ids = Unique <sorted = {order}> (i)
    }}"""
    rows = [[2.0, 1.0, 2.0, 3.0, 1.0, 1.0], [5.0], [4.0, 4.0], [3.0, 2.0, 1.0]]
    big = ints(7, -(2**63), 2**63 - 1, 7)
    check(text, {}, *({"x": np.asarray(row, np.float32), "i": big} for row in rows))


def test_a_size_without_a_bound_is_asked_for() -> None:
    proto = model("g (int64[2] shape) => (float[a, b] y) { y = ConstantOfShape (shape) }")
    with pytest.raises(ImportFailure, match=r"how large it can be: give .*`bounds`.* of `shape`"):
        from_onnx(proto)
    with pytest.raises(UserError, match=r"bounds: .* no tensor `length`"):
        from_onnx(proto, bounds={"length": 3})
    with pytest.raises(UserError, match="bounds: `shape` is -1, expected"):
        from_onnx(proto, bounds={"shape": -1})


APPEND = """
g (int64 m, float[n, 2] x, float[1, 2] row) => (float[a, 2] all, float[1, 2] last) {
  go = Constant <value = bool {1}> ()
  all, last = Loop (m, go, x, row) <
    body = b (int64 i, bool on, float[p, 2] before, float[1, 2] r) =>
      (bool on1, float[q, 2] after, float[1, 2] r1) {
      s = ReduceSum <keepdims = 1> (before)
      t = Tanh (s)
      r1 = Add (r, t)
      after = Concat <axis = 0> (before, r1)
      limit = Constant <value = float {100.0}> ()
      sum = ReduceSum <keepdims = 0> (r1)
      on1 = Less (sum, limit)
    }
  >
}"""


def test_a_loop_that_appends() -> None:
    rng = np.random.default_rng(3)
    calls = [
        {
            "m": np.asarray(m),
            "x": rng.standard_normal((n, 2)).astype(np.float32),
            "row": rng.standard_normal((1, 2)).astype(np.float32),
        }
        for m, n in ((5, 1), (0, 3), (30, 2), (1, 4))
    ]
    calls.append({**calls[0], "m": np.asarray(30), "row": np.full((1, 2), 45, np.float32)})
    executable = check(APPEND, {"m": 30}, *calls)
    with pytest.raises(UserError, match="expected 0 to"):
        executable(**{**calls[0], "m": np.asarray(31)})
    with pytest.raises(ImportFailure, match="number of iterations has no bound"):
        from_onnx(model(APPEND))


def test_a_loop_that_doubles_needs_a_bound() -> None:
    text = """
    g (int64 m, float[2] x) => (float[a] y) {
      go = Constant <value = bool {1}> ()
      y = Loop (m, go, x) <
        body = b (int64 i, bool on, float[p] before) => (bool on1, float[q] after) {
          on1 = Identity (on)
          half = Relu (before)
          after = Concat <axis = 0> (before, half)
        }
      >
    }"""
    x = np.asarray([1, -1], np.float32)
    check(text, {"y": 64}, *({"m": np.asarray(m), "x": x} for m in (0, 1, 5)))


def test_branches_that_compute_their_shapes() -> None:
    """A branch appends as many numbers as an input says, the other leaves as many out."""
    text = """
    g (bool c, int64[1] k, float[n] x) => (float[a] y) {
      y0 = If (c) <
        then_branch = t () => (float[b] p) {
          zero = ConstantOfShape (k)
          p = Concat <axis = 0> (x, zero)
        },
        else_branch = e () => (float[d] q) {
          none = Constant <value = int64[1] {0}> ()
          q = Slice (x, none, k)
        }
      >
      y = Neg (y0)
    }"""
    x = np.arange(5, dtype=np.float32)
    calls = [(c, k) for c in (True, False) for k in (0, 3, 8)]
    check(text, {"k": 8}, *({"c": np.asarray(c), "k": ints(k), "x": x} for c, k in calls))
