# SPDX-License-Identifier: Apache-2.0
"""Positions in sequences that are known at run time only, compiled, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import heddle
from heddle.support import UserError

ort = pytest.importorskip("onnxruntime", reason="the values to compare with")
RNG = np.random.default_rng(30)
X = RNG.standard_normal((6, 5)).astype(np.float32)
Z = RNG.standard_normal((2, 3)).astype(np.float32)
FIXED, FREE = ("6, 5", "2, 3"), ("n, m", "k, l")


def check(text: str, *calls: dict[str, Any]) -> heddle.Executable:
    """Every call of one executable gives what ONNX Runtime gives, shapes included."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]>\n{text}')
    executable = heddle.compile(proto, cache=False)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for inputs in calls:
        found = executable(**inputs)
        values = found if isinstance(found, tuple) else (found,)
        for got, want in zip(values, session.run(None, inputs), strict=True):
            np.testing.assert_array_equal(got.numpy(), want)
    return executable


@pytest.mark.parametrize(("first", "second"), [FIXED, FREE])
def test_item_at_a_position(first: str, second: str) -> None:
    text = f"""
    g (float[{first}] x, float[{second}] z, int64 p) => (float[a, b] y) {{
      parts = SequenceConstruct (x, z, x)
      y = SequenceAt (parts, p)
    }}"""
    executable = check(text, *({"x": X, "z": Z, "p": np.asarray(at)} for at in (0, 1, 2, -2)))
    with pytest.raises(UserError, match="`y_size` is -1, expected 0 to 1"):
        executable(x=X, z=Z, p=np.asarray(3))


def test_items_of_one_shape() -> None:
    text = """
    g (float[n, m] x, int64 p) => (float[a, b] y) {
      minus = Neg (x)
      parts = SequenceConstruct (x, minus)
      y = SequenceAt (parts, p)
    }"""
    executable = check(text, *({"x": X, "p": np.asarray(at)} for at in (0, 1, -1)))
    with pytest.raises(UserError, match="`y_size` is -1, expected 0 to 1"):
        executable(x=X, p=np.asarray(-3))


@pytest.mark.parametrize(("first", "second"), [FIXED, FREE])
def test_item_that_is_erased(first: str, second: str) -> None:
    text = f"""
    g (float[{first}] x, float[{second}] z, int64 p) => (float[a, b] y, float[c, d] w) {{
      parts = SequenceConstruct (x, z, x)
      less = SequenceErase (parts, p)
      zero = Constant <value = int64 {{0}}> ()
      one = Constant <value = int64 {{1}}> ()
      y = SequenceAt (less, zero)
      w = SequenceAt (less, one)
    }}"""
    check(text, *({"x": X, "z": Z, "p": np.asarray(at)} for at in (0, 1, -1)))


@pytest.mark.parametrize(("first", "second"), [FIXED, FREE])
def test_item_that_is_inserted(first: str, second: str) -> None:
    text = f"""
    g (float[{first}] x, float[{second}] z, int64 p) =>
        (float[a, b] y, float[c, d] w, float[e, f] v) {{
      minus = Neg (x)
      parts = SequenceConstruct (x, minus)
      more = SequenceInsert (parts, z, p)
      zero = Constant <value = int64 {{0}}> ()
      one = Constant <value = int64 {{1}}> ()
      two = Constant <value = int64 {{2}}> ()
      y = SequenceAt (more, zero)
      w = SequenceAt (more, one)
      v = SequenceAt (more, two)
    }}"""
    check(text, *({"x": X, "z": Z, "p": np.asarray(at)} for at in (0, 1, 2, -1)))


@pytest.mark.parametrize("dims", ["6, 5", "n, m"])
def test_sizes_of_parts(dims: str) -> None:
    text = f"""
    g (float[{dims}] x, int64[3] sizes, int64 p) => (float[a, b] y) {{
      parts = SplitToSequence (x, sizes)
      y = SequenceAt (parts, p)
    }}"""
    pairs = (((1, 2, 3), 0), ((2, 0, 4), 2), ((2, 0, 4), 1))
    check(text, *({"x": X, "sizes": np.asarray(s), "p": np.asarray(at)} for s, at in pairs))
