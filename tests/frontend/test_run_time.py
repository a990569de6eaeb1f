# SPDX-License-Identifier: Apache-2.0
"""Control flow and shapes that are decided at run time, compiled, against ONNX Runtime."""

from __future__ import annotations

import resource

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx.reference
import pytest

import heddle
from heddle.passes.graph.plan import plan_memory
from heddle.support import UserError
from tests.frontend.run_time_models import check, model

IF = """
g (bool c, float[n, 4] x) => (float[n, 4] y, float[n, 4] z) {
  s = Mul(x, x)
  y, z = If (c) <
    then_branch = a () => (float[n, 4] p, float[n, 4] q) { p = Relu(x)  q = Add(s, x) },
    else_branch = b () => (float[n, 4] u, float[n, 4] v) { t = Neg(s)  u = Exp(t)  v = Identity(x) }
  >
}
"""


def test_if() -> None:
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, 4)).astype(np.float32) for n in (1, 3, 0, 7)]
    check(model(IF), *({"c": np.asarray(c), "x": x} for x in xs for c in (True, False)))


def test_branches_of_differing_shapes() -> None:
    proto = model("""
    g (bool c, float[n, 4] x) => (float[m, k] y) {
      y = If (c) <
        then_branch = a () => (float[n, 4] p) { p = Relu(x) },
        else_branch = b () => (float[o, 8] q) { q = Concat <axis = 1> (x, x) }
      >
    }""")
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    check(proto, *({"c": np.asarray(c), "x": x} for c in (True, False, True)))


def test_nested() -> None:
    proto = model("""
    g (bool c, bool d, float[5] x) => (float[5] y) {
      y = If (c) <
        then_branch = a () => (float[5] p) {
          p = If (d) <
            then_branch = aa () => (float[5] pp) { pp = Relu(x) },
            else_branch = ab () => (float[5] pq) { pq = Neg(x) }
          >
        },
        else_branch = b () => (float[5] q) { q = Abs(x) }
      >
    }""")
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    flags = (True, False)
    check(proto, *({"c": np.asarray(c), "d": np.asarray(d), "x": x} for c in flags for d in flags))


LOOP = """
g (int64 m, float[n] x) => (float[n] last, float[k, n] all) {
  one = Constant <value = bool {1}> ()
  last, all = Loop (m, one, x) <
    body = b (int64 i, bool go, float[n] a) => (bool on, float[n] next, float[n] out) {
      f = Cast <to = 1> (i)
      next = Add(a, f)
      out = Mul(next, x)
      s = ReduceSum <keepdims = 0> (next)
      lim = Constant <value = float {60.0}> ()
      on = Less(s, lim)
    }
  >
}
"""


def test_loop_needs_a_bound_for_what_it_stacks() -> None:
    with pytest.raises(UserError, match="number of iterations has no bound"):
        heddle.compile(model(LOOP), cache=False)


def test_loop_with_a_condition() -> None:
    proto = model(
        LOOP.replace("int64 m, ", "")
        .replace("Loop (m,", "Loop (m,")
        .replace("one = Constant", "m = Constant <value = int64 {40}> ()  one = Constant", 1)
    )
    rng = np.random.default_rng(2)
    check(proto, *({"x": rng.standard_normal(n).astype(np.float32)} for n in (4, 1, 9)))


def test_while() -> None:
    proto = model(
        """
    g (float[n] x, float limit) => (float[n] y, int64 count) {
      none = Constant <value = int64 {0}> ()
      s0 = ReduceSum <keepdims = 0> (x)
      go0 = Less(s0, limit)
      y, count = Loop ("", go0, x, none) <
        body = b (int64 i, bool go, float[n] a, int64 c) => (bool on, float[n] b1, int64 c1) {
          b1 = Add(a, a)
          one = Constant <value = int64 {1}> ()
          c1 = Add(c, one)
          s = ReduceSum <keepdims = 0> (b1)
          on = Less(s, limit)
        }
      >
    }""".replace('""', "")
    )
    x = np.asarray([1.0, 2.0], np.float32)
    limits = (0.0, 3.5, 100.0, 1e4)
    check(proto, *({"x": x, "limit": np.asarray(v, np.float32)} for v in limits))


def test_scan_over_a_symbolic_axis() -> None:
    proto = model("""
    g (float[t, 3] x, float[3] h) => (float[3] last, float[t, 3] all) {
      last, all = Scan (h, x) <num_scan_inputs = 1,
        body = b (float[3] s, float[3] row) => (float[3] s1, float[3] out) {
          m = Add(s, row)
          s1 = Tanh(m)
          out = Mul(s1, row)
        }
      >
    }""")
    rng = np.random.default_rng(3)
    h = np.zeros(3, np.float32)
    check(
        proto, *({"x": rng.standard_normal((t, 3)).astype(np.float32), "h": h} for t in (1, 30, 5))
    )


def test_scan_outputs_of_a_symbolic_axis_elsewhere_and_backwards() -> None:
    proto = model("""
    g (float[t, 3] x, float[3] h) => (float[3] last, float[3, t] all) {
      last, all = Scan (h, x) <num_scan_inputs = 1, scan_input_directions = [1],
        scan_output_axes = [1], scan_output_directions = [1],
        body = b (float[3] s, float[3] row) => (float[3] s1, float[3] out) {
          s1 = Add(s, row)
          out = Mul(s1, row)
        }
      >
    }""")
    rng = np.random.default_rng(4)
    h = np.ones(3, np.float32)
    xs = (rng.standard_normal((t, 3)).astype(np.float32) for t in (1, 20, 3))
    check(proto, *({"x": x, "h": h} for x in xs))


def test_positions_of_what_is_not_zero() -> None:
    proto = model("""
    g (float[n, 4] x) => (int64[2, k] where, float[k] positive, float[k, 2] twice) {
      zero = Constant <value = float {0.0}> ()
      good = Greater(x, zero)
      where = NonZero (good)
      rows = Transpose (where)
      positive = GatherND (x, rows)
      one = Constant <value = int64[1] {1}> ()
      column = Unsqueeze (positive, one)
      twice = Concat <axis = 1> (column, column)
    }""")
    rng = np.random.default_rng(5)
    check(proto, *({"x": rng.standard_normal((n, 4)).astype(np.float32)} for n in (3, 1, 6)))
    check(proto, {"x": -np.ones((2, 4), np.float32)}, {"x": np.ones((2, 4), np.float32)})


def test_ends_of_a_slice() -> None:
    proto = model("""
    g (float[n, 5] x, int64[2] from, int64[2] to) => (float[a, b] y, float[c, 5] z) {
      axes = Constant <value = int64[2] {0, 1}> ()
      steps = Constant <value = int64[2] {1, -2}> ()
      y = Slice (x, from, to, axes, steps)
      none = Constant <value = int64[1] {0}> ()
      first = Gather (from, none)
      last = Gather (to, none)
      z = Slice (x, first, last)
    }""")
    x = np.random.default_rng(6).standard_normal((6, 5)).astype(np.float32)
    ends = [((0, 4), (6, -6)), ((1, 3), (4, 0)), ((-3, -1), (99, 1)), ((5, 0), (2, 4))]
    arrays = ((np.asarray(a, np.int64), np.asarray(b, np.int64)) for a, b in ends)
    check(proto, *({"x": x, "from": a, "to": b} for a, b in arrays))


def test_a_number_of_largest_elements() -> None:
    proto = model("""
    g (float[n] x, int64[1] k) => (float[m] values, int64[m] places) {
      values, places = TopK (x, k)
    }""")
    x = np.random.default_rng(7).standard_normal(9).astype(np.float32)
    check(proto, *({"x": x, "k": np.asarray([k])} for k in (1, 9, 4)))
    executable = heddle.compile(proto, cache=False)
    message = r"g: dimension `values_size` is 10, expected 0 to 9"
    with pytest.raises(UserError, match=message):
        executable(x=x, k=np.asarray([10]))
    assert executable.infer_shapes(x=x, k=np.asarray([3])) == ((9,), (9,))


@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize(("dims", "axis"), [("n, 3", 0), ("4, n", 1), ("2, n, 3", -2)])
def test_unique_slices(dims: str, axis: int, in_order: int) -> None:
    rank = dims.count(",") + 1
    out = ", ".join(f"d{at}" for at in range(rank))
    proto = model(f"""
    g (float[{dims}] x) => (float[{out}] y, int64[k] at, int64[m] of, int64[k] many) {{
      y, at, of, many = Unique <axis = {axis}, sorted = {in_order}> (x)
    }}""")
    rng = np.random.default_rng(12)
    sizes = ([int(dim) if dim.isdigit() else n for dim in dims.split(", ")] for n in (17, 1, 4))
    xs = [rng.integers(0, 2, shape).astype(np.float32) for shape in sizes]
    check(proto, *({"x": x} for x in xs), {"x": xs[0] * 0})


RESIZE = """
g (float[1, 2, h, w] x, {inputs}) => (float[1, 2, a, b] y) {{
  y = Resize <axes = [2, 3], {attributes}> (x, {roi}, {scales}, {sizes})
}}
"""


@pytest.mark.parametrize(
    "attributes",
    [
        'mode = "nearest", coordinate_transformation_mode = "asymmetric"',
        'mode = "linear"',
        'mode = "cubic", coordinate_transformation_mode = "align_corners"',
        'mode = "linear", antialias = 1',
        'mode = "cubic", antialias = 1, exclude_outside = 1',
        'mode = "linear", keep_aspect_ratio_policy = "not_larger"',
        'mode = "nearest", keep_aspect_ratio_policy = "not_smaller"',
    ],
)
def test_resize_to_computed_sizes(attributes: str) -> None:
    text = RESIZE.format(
        inputs="int64[2] size", attributes=attributes, roi="", scales="", sizes="size"
    )
    x = np.random.default_rng(13).standard_normal((1, 2, 7, 8)).astype(np.float32)
    sizes = ((3, 5), (16, 9), (1, 1), (14, 16))
    calls = ({"x": x, "size": np.asarray(size)} for size in sizes)
    check(model(text), *calls, bounds={"size": 32})


@pytest.mark.parametrize(
    "attributes",
    [
        'mode = "nearest", coordinate_transformation_mode = "align_corners"',
        'mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric"',
        'mode = "cubic", antialias = 1',
    ],
)
def test_resize_by_computed_scales(attributes: str) -> None:
    text = RESIZE.format(
        inputs="float[2] scale", attributes=attributes, roi="", scales="scale", sizes=""
    )
    x = np.random.default_rng(14).standard_normal((1, 2, 7, 8)).astype(np.float32)
    scales = ((0.55, 0.4), (1.4, 2.0), (3.9, 0.3))
    calls = ({"x": x, "scale": np.asarray(scale, np.float32)} for scale in scales)
    check(model(text), *calls, bounds={"scale": 4})


def test_resize_of_a_computed_region() -> None:
    crop = 'mode = "linear", extrapolation_value = 3.0, coordinate_transformation_mode = '
    text = RESIZE.format(
        inputs="float[4] roi, int64[2] size",
        attributes=crop + '"tf_crop_and_resize"',
        roi="roi",
        scales="",
        sizes="size",
    )
    x = np.random.default_rng(15).standard_normal((1, 2, 7, 8)).astype(np.float32)
    boxes = ((0.1, 0.2, 0.9, 0.8), (0.3, -0.2, 1.2, 0.6))
    calls = (
        {"x": x, "roi": np.asarray(box, np.float32), "size": np.asarray(size)}
        for box, size in zip(boxes, ((5, 6), (9, 2)), strict=True)
    )
    check(model(text), *calls, bounds={"size": 9})


@pytest.mark.parametrize("scales", ["0.5, 1.5", "0.7, 2.3"])
def test_resize_of_a_symbolic_dimension(scales: str) -> None:
    proto = model(f"""
    g (float[1, 2, h, w] x) => (float[1, 2, a, b] y) {{
      scale = Constant <value = float[2] {{{scales}}}> ()
      y = Resize <axes = [2, 3], mode = "linear"> (x, , scale)
    }}""")
    rng = np.random.default_rng(16)
    shapes = ((1, 2, 7, 8), (1, 2, 12, 5))
    check(proto, *({"x": rng.standard_normal(shape).astype(np.float32)} for shape in shapes))


def test_non_max_suppression() -> None:
    proto = model("""
    g (float[1, n, 4] boxes, float[1, 2, n] scores, int64[1] most) => (int64[m, 3] chosen) {
      overlap = Constant <value = float[1] {0.4}> ()
      least = Constant <value = float[1] {0.3}> ()
      chosen = NonMaxSuppression (boxes, scores, most, overlap, least)
    }""")
    rng = np.random.default_rng(8)
    for n, most in ((30, 5), (1, 3), (12, 100)):
        corner, size = rng.random((1, n, 2)), 0.2 + 0.3 * rng.random((1, n, 2))
        boxes = np.concatenate([corner, corner + size], axis=2).astype(np.float32)
        scores = rng.random((1, 2, n)).astype(np.float32)
        check(proto, {"boxes": boxes, "scores": scores, "most": np.asarray([most])})


def test_ten_thousand_calls_of_random_sizes_need_no_more_memory() -> None:
    proto = model("""
    g (float[n, m] x) => (float[k] y, float[n, m] z) {
      zero = Constant <value = float {0.0}> ()
      good = Greater(x, zero)
      where = NonZero (good)
      rows = Transpose (where)
      y = GatherND (x, rows)
      t = Tanh (x)
      z = Mul (t, x)
    }""")
    executable = heddle.compile(proto, cache=False)
    rng = np.random.default_rng(9)
    data = rng.standard_normal(64 * 64).astype(np.float32)

    def call() -> None:
        n, m = rng.integers(0, 64, 2)
        x = data[: n * m].reshape(n, m)
        y, z = executable(x)
        assert y.shape == (int((x > 0).sum()),)
        assert z.shape == (n, m)

    for _ in range(500):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(9500):
        call()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048, "KiB more"


def cached_decoder() -> onnx.ModelProto:
    """A loop that looks its token up, writes it into a cache of 12 rows, lets the mean of the rows
    choose the next token, and writes that down: two updates by ScatterND and TensorScatter."""
    rng = np.random.default_rng(4)
    table = onnx.numpy_helper.from_array(rng.standard_normal((9, 4)).astype(np.float32), "table")
    proto = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 24]>
    decode (int64 first, int64 most) => (int64 last, int64[12] written, float[1, 12, 4] rows) {
      yes = Constant <value = bool {1}> ()
      size = Constant <value = int64[1] {12}> ()
      whole = Constant <value = int64[3] {1, 12, 4}> ()
      none = ConstantOfShape <value = int64[1] {-1}> (size)
      empty = ConstantOfShape (whole)
      last, written, rows = Loop (most, yes, first, none, empty) <
        body = step (int64 i, bool go, int64 token, int64[12] out, float[1, 12, 4] cache)
            => (bool on, int64 next, int64[12] kept, float[1, 12, 4] more) {
          one = Constant <value = int64[1] {1}> ()
          row_shape = Constant <value = int64[3] {1, 1, 4}> ()
          axes = Constant <value = int64[2] {0, 1}> ()
          column = Constant <value = int64[2] {4, 1}> ()
          pair = Constant <value = int64[2] {1, 1}> ()
          found = Gather (table, token)
          row = Reshape (found, row_shape)
          at = Reshape (i, one)
          more = TensorScatter <axis = 1> (cache, row, at)
          mean = ReduceSum <keepdims = 0> (more, axes)
          upright = Reshape (mean, column)
          turned = Cos (upright)
          scores = MatMul (table, turned)
          flat = Squeeze (scores)
          next = ArgMax <axis = 0, keepdims = 0> (flat)
          place = Reshape (i, pair)
          new = Reshape (next, one)
          kept = ScatterND (out, place, new)
          zero = Constant <value = int64 {0}> ()
          is_end = Equal (next, zero)
          on = Not (is_end)
        }
      >
    }
    """)
    proto.graph.initializer.append(table)
    return proto


def test_a_loop_writes_its_caches_in_place() -> None:
    proto = cached_decoder()
    executable = heddle.compile(proto, cache=False)
    reference = onnx.reference.ReferenceEvaluator(proto)
    for first in range(9):
        inputs = {"first": np.asarray(first), "most": np.asarray(10)}
        for got, want in zip(executable(**inputs), reference.run(None, inputs), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    kernels = plan_memory(heddle.optimize(proto)).kernels
    assert {"index_copy_in_place", "scatter_nd_in_place"} <= set(kernels)
    assert not {"index_copy", "scatter_nd", "copy"} & set(kernels)
