# SPDX-License-Identifier: Apache-2.0
"""Control flow and shapes that are decided at run time, compiled, against ONNX Runtime."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx.reference
import pytest

import heddle
from heddle.frontend.onnx import from_onnx
from heddle.passes.graph.plan import plan_memory
from heddle.support import UserError

ort = pytest.importorskip("onnxruntime", reason="the values to compare with")


def model(text: str) -> onnx.ModelProto:
    """A model of opset 18 in ONNX's own text form."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}')
    onnx.checker.check_model(made, full_check=True)
    return made


def check(proto: onnx.ModelProto, *calls: dict[str, Any], **given: Any) -> None:
    """Every call of one executable gives what ONNX Runtime gives, shapes included."""
    executable = heddle.compile(from_onnx(proto, **given), cache=False)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs in calls:
        found = executable(**inputs)
        values = found if isinstance(found, tuple) else (found,)
        for got, want in zip(values, session.run(None, inputs), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


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


MATRIX = np.random.default_rng(20).standard_normal((6, 5)).astype(np.float32)


def whole(*items: int) -> np.ndarray:
    """A vector of int64."""
    return np.asarray(items, np.int64)


def test_axes_and_steps_of_a_slice() -> None:
    proto = model("""
    g (float[n, m] x, int64[2] from, int64[2] to, int64[2] axes, int64[2] steps) => (float[a, b] y)
    { y = Slice (x, from, to, axes, steps) }""")
    cuts = (
        (whole(0, 1), whole(5, 5), whole(0, 1), whole(2, 1)),
        (whole(-1, 1), whole(-100, 5), whole(1, 0), whole(-2, 1)),
        (whole(4, -1), whole(0, -9), whole(-1, -2), whole(-(2**62), -1)),
    )
    names = ("from", "to", "axes", "steps")
    check(proto, *({"x": MATRIX, **dict(zip(names, cut, strict=True))} for cut in cuts))
    executable = heddle.compile(proto, cache=False)
    for axes, steps in ((whole(0, 0), whole(1, 1)), (whole(0, 2), whole(1, 1))):
        inputs = {"from": whole(0, 0), "to": whole(2, 2), "axes": axes, "steps": steps}
        with pytest.raises(UserError, match="is -1, expected 0 to 2"):
            executable(x=MATRIX, **inputs)
    with pytest.raises(UserError, match="is -1, expected 0 to"):
        executable(**{"x": MATRIX, **inputs, "axes": whole(0, 1), "steps": whole(1, 0)})


def test_steps_of_a_slice() -> None:
    proto = model("""
    g (float[6, 5] x, int64[2] steps) => (float[a, b] y) {
      first = Constant <value = int64[2] {-1, 0}> ()
      last = Constant <value = int64[2] {-9, 4}> ()
      axes = Constant <value = int64[2] {0, 1}> ()
      y = Slice (x, first, last, axes, steps)
    }""")
    check(proto, *({"x": MATRIX, "steps": whole(*steps)} for steps in ((-1, 1), (-4, 3))))


REDUCTIONS = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceSumSquare ReduceL1 ReduceL2 "
    "ReduceLogSumExp"
).split()


@pytest.mark.parametrize("name", REDUCTIONS)
def test_axes_of_a_reduction(name: str) -> None:
    proto = model(f"""
    g (float[n, m] x, int64[1] axis, int64[k] axes) => (float[a, b] y, float[c] z, float[d, e] w) {{
      y = {name} (x, axis)
      z = {name} <keepdims = 0> (x, axis)
      w = {name} <noop_with_empty_axes = {int(name in ("ReduceMax", "ReduceSum"))}> (x, axes)
    }}""")
    pairs = ((whole(0), whole(0, 1)), (whole(-1), whole(-2)), (whole(1), whole()))
    check(proto, *({"x": MATRIX, "axis": axis, "axes": axes} for axis, axes in pairs))


def test_reduction_of_nothing() -> None:
    proto = model("""
    g (float[n, m] x, int64[1] axis) => (float[a, b] y) { y = ReduceSum (x, axis) }""")
    empty = np.zeros((0, 5), np.float32)
    check(proto, *({"x": empty, "axis": whole(axis)} for axis in (0, 1)))


def test_axes_that_are_all() -> None:
    proto = model("""
    g (float[n, m] x, int64[2] axes, int64[0] none, float s) => (float y, float z, float w) {
      y = ReduceMax <keepdims = 0> (x, axes)
      total = ReduceSum (x, axes)
      z = Squeeze (total, axes)
      w = ReduceSum (s, none)
    }""")
    scalar, none = np.asarray(2.5, np.float32), whole()
    pairs = ((0, 1), (-1, -2))
    check(proto, *({"x": MATRIX, "axes": whole(*p), "none": none, "s": scalar} for p in pairs))


def test_axes_that_go_and_come() -> None:
    proto = model("""
    g (float[n, k, m] x, int64[1] gone, int64[2] new) => (float[a, b] y, float[c, d, e, f] z) {
      y = Squeeze (x, gone)
      z = Unsqueeze (y, new)
    }""")
    calls = (
        {"x": MATRIX.reshape(6, 1, 5), "gone": whole(1), "new": whole(0, -1)},
        {"x": MATRIX.reshape(1, 6, 5), "gone": whole(-3), "new": whole(2, 1)},
        {"x": MATRIX.reshape(6, 5, 1), "gone": whole(2), "new": whole(-1, -2)},
    )
    check(proto, *calls)
    with pytest.raises(UserError, match="is -1, expected 0 to"):
        heddle.compile(proto, cache=False)(x=calls[0]["x"], gone=whole(0), new=whole(0, 1))


def test_axes_of_unknown_number_that_go() -> None:
    proto = model("g (float[n, m] x, int64[k] axes) => (float[a] y) { y = Squeeze (x, axes) }")
    with pytest.raises(UserError, match="not even the number is known when compiling"):
        heddle.compile(proto, cache=False)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_axes_of_a_padding(mode: str) -> None:
    proto = model(
        f"""
    g (float[n, m] x, int64[2] pads, int64[1] axis) => (float[a, b] y, float[c, d] z) {{
      value = Constant <value = float {{2.0}}> ()
      y = Pad <mode = "{mode}"> (x, pads, value, axis)
      fixed = Constant <value = int64[2] {{1, 2}}> ()
      z = Pad <mode = "{mode}"> (x, fixed, value, axis)
    }}""".replace("{mode}", mode)
    )
    proto.opset_import[0].version = 19
    pairs = ((whole(1, 2), whole(1)), (whole(-1, 2), whole(-2)), (whole(2, -2), whole(0)))
    calls = ({"x": MATRIX, "pads": pads, "axis": axis} for pads, axis in pairs)
    check(proto, *calls, bounds={"pads": 4})


def test_axis_of_running_sums() -> None:
    proto = model("""
    g (float[n, m] x, int64 axis) => (float[n, m] y) { y = CumSum <reverse = 1> (x, axis) }""")
    check(proto, *({"x": MATRIX, "axis": np.asarray(axis)} for axis in (0, 1, -1)))


@pytest.mark.parametrize("side", ["UPPER", "LOWER"])
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_padding_of_a_symbolic_size_with_strides(side: str, kernel: int) -> None:
    same = f'auto_pad = "SAME_{side}", strides = [2, 2]'
    pool = f"{same}, kernel_shape = [{kernel}, {kernel}]"
    proto = model(f"""
    g (float[1, 2, h, w] x, float[3, 2, {kernel}, {kernel}] weights) =>
        (float[1, 3, a, b] y, float[1, 2, a, b] z, float[1, 2, a, b] u, float[1, 2, a, b] v) {{
      y = Conv <{same}> (x, weights)
      z = MaxPool <{pool}> (x)
      u = AveragePool <{pool}> (x)
      v = AveragePool <{pool}, count_include_pad = 1> (x)
    }}""")
    rng = np.random.default_rng(17)
    weights = rng.standard_normal((3, 2, kernel, kernel)).astype(np.float32)
    shapes = ((1, 2, 6, 7), (1, 2, 9, 8))
    xs = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    check(proto, *({"x": x, "weights": weights} for x in xs))


def test_bits_of_what_is_computed() -> None:
    text = '<ir_version: 11, opset_import: ["" : 26]> g (float[n, 5] x) => (int32[n, 5] y) {'
    proto = onnx.parser.parse_model(text + " y = BitCast <to = 6> (x) }")
    check(proto, {"x": MATRIX})


def test_lengths_that_are_reversed() -> None:
    proto = model("""
    g (float[t, n] x, int64[n] lengths) => (float[t, n] y) { y = ReverseSequence (x, lengths) }""")
    check(proto, {"x": MATRIX, "lengths": whole(6, 1, 3, 0, 2)})


def test_the_middle_in_a_computed_size() -> None:
    proto = model("""
    g (float[n, m] x, int64[2] size) => (float[a, b] y) { y = CenterCropPad (x, size) }""")
    sizes = ((3, 9), (9, 2), (6, 5), (1, 8))
    check(proto, *({"x": MATRIX, "size": whole(*size)} for size in sizes), bounds={"size": 9})


def test_the_identity_in_a_symbolic_size() -> None:
    proto = model("g (float[n, m] x) => (float[n, m] y) { y = EyeLike <k = -1> (x) }")
    check(proto, {"x": MATRIX}, {"x": MATRIX[:2]})


def test_dropout_that_may_be_in_training() -> None:
    proto = model("""
    g (float[n, m] x, float ratio, bool training) => (float[n, m] y, bool[n, m] mask) {
      y, mask = Dropout (x, ratio, training)
    }""")
    ratio, on = np.asarray(0.25, np.float32), np.asarray(True)
    off = {"x": MATRIX, "ratio": ratio, "training": np.asarray(False)}
    check(proto, off, {"x": MATRIX, "ratio": np.zeros_like(ratio), "training": on})
    x = np.ones((200, 300), np.float32)
    y, mask = (item.numpy() for item in heddle.compile(proto, cache=False)(x, ratio, on))
    assert abs(mask.mean() - 0.75) < 0.01  # six standard deviations of 60,000 draws
    np.testing.assert_allclose(y, np.where(mask, x / 0.75, 0), rtol=1e-6)


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
