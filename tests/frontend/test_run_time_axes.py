# SPDX-License-Identifier: Apache-2.0
"""Axes, steps and sizes that are known at run time only, compiled, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import heddle
from heddle.support import UserError
from tests.frontend.run_time_models import check, model

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
    with pytest.raises(UserError, match="must be known when compiling, or at least how many"):
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


def test_axes_that_are_spread_or_not() -> None:
    proto = model("g (float[n, m] x, int64[3] to) => (float[a, b, c] y) { y = Expand (x, to) }")
    sizes = ((MATRIX, (2, 6, 1)), (MATRIX[:1], (3, 4, 5)), (MATRIX.reshape(30, 1), (1, 1, 7)))
    check(proto, *({"x": x, "to": whole(*to)} for x, to in sizes), bounds={"to": 8})


def test_nothing_along_an_axis() -> None:
    proto = model("""
    g (float[0, 3] x, int64[1] from) => (float[a, b] y, float[c, d] z, int64[e] w) {
      end = Constant <value = int64[1] {9}> ()
      y = Slice (x, from, end)
      z, w = Unique <axis = 0> (x)
    }""")
    check(proto, {"x": MATRIX[:0, :3], "from": whole(0)})


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
