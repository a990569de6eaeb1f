# SPDX-License-Identifier: Apache-2.0
"""Loops of ONNX that append to their caches, as exported decoders do: past and new together."""

from __future__ import annotations

import resource

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest

import heddle
from heddle.frontend.onnx import from_onnx
from heddle.graph.dims import simplify_dim
from heddle.ir import IRModule
from heddle.ir.expr import as_int, const
from heddle.ir.walk import free_vars, substitute
from heddle.passes.graph.plan import plan_memory
from heddle.support import UserError
from heddle.tir.nodes import Buffer, PrimFunc

HEADS, SIZE, WORDS = 2, 8, 11


def decoder(rows: int = 1, *, attention: bool = True) -> onnx.ModelProto:
    """A loop over one layer of attention whose keys and values grow by `rows` in each iteration."""
    table = np.random.default_rng(3).standard_normal((WORDS, HEADS * SIZE)).astype(np.float32)
    attend = """
          turned = Transpose <perm = [0, 1, 3, 2]> (keys)
          scores = MatMul (query, turned)
          weights = Softmax <axis = -1> (scores)
          seen = MatMul (weights, values)
    """
    total = """
          axes = Constant <value = int64[1] {2}> ()
          first_sum = ReduceSum <keepdims = 1> (keys, axes)
          second_sum = ReduceSum <keepdims = 1> (values, axes)
          both = Sub (first_sum, second_sum)
          seen = Sin (both)
    """
    text = f"""
    <ir_version: 10, opset_import: ["" : 18]>
    decode (int64 start, int64 most, float[1, {HEADS}, s, {SIZE}] k, float[1, {HEADS}, s, {SIZE}] v)
        => (int64 last, float[1, {HEADS}, t, {SIZE}] keys1, float[1, {HEADS}, t, {SIZE}] values1) {{
      yes = Constant <value = bool {{1}}> ()
      last, keys1, values1 = Loop (most, yes, start, k, v) <
        body = step (int64 i, bool go, int64 token, float[1, {HEADS}, p, {SIZE}] past_keys,
                     float[1, {HEADS}, p, {SIZE}] past_values)
            => (bool on, int64 next, float[1, {HEADS}, q, {SIZE}] keys,
                float[1, {HEADS}, q, {SIZE}] values) {{
          on = Identity (go)
          found = Gather (table, token)
          split = Constant <value = int64[4] {{1, {HEADS}, 1, {SIZE}}}> ()
          flat = Constant <value = int64[2] {{1, {HEADS * SIZE}}}> ()
          again = Constant <value = int64[4] {{1, 1, {rows}, 1}}> ()
          query = Reshape (found, split)
          new_key = Cos (query)
          new_value = Neg (query)
          more_keys = Tile (new_key, again)
          more_values = Tile (new_value, again)
          keys = Concat <axis = 2> (past_keys, more_keys)
          values = Concat <axis = 2> (past_values, more_values)
          {attend if attention else total}
          state = Reshape (seen, flat)
          upright = Transpose <perm = [1, 0]> (table)
          words = MatMul (state, upright)
          best = ArgMax <axis = 1, keepdims = 0> (words)
          none = Constant <value = int64[1] {{0}}> ()
          next = Squeeze (best, none)
        }}
      >
    }}
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    return proto


def given(filled: int, most: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(filled)
    k, v = (rng.standard_normal((1, HEADS, filled, SIZE)).astype(np.float32) for _ in "kv")
    return {"start": np.asarray(3), "most": np.asarray(most), "k": k, "v": v}


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_values(rows: int, attention: bool) -> None:
    proto = decoder(rows, attention=attention)
    executable = heddle.compile(from_onnx(proto, bounds={"most": 20}), cache=False)
    reference = onnx.reference.ReferenceEvaluator(proto)
    for filled, most in ((1, 1), (4, 0), (2, 20), (5, 13)):
        inputs = given(filled, most)
        for got, want in zip(executable(**inputs), reference.run(None, inputs), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def whole_caches(module: IRModule) -> list[str]:
    """The kernels that a body calls and that write as much as a cache."""
    lowered = heddle.optimize(module)
    (body,) = plan_memory(lowered).functions.values()
    found = []
    for name in body.kernels:
        kernel = lowered[name]
        assert isinstance(kernel, PrimFunc)
        out = kernel.params[-1]
        count = 1
        for dim in out.shape if isinstance(out, Buffer) else ():
            known = substitute(dim, dict.fromkeys(free_vars(dim), const(1000)))
            count *= as_int(simplify_dim(known)) or 0
        if not name.endswith("in_place") and count >= 1000 * SIZE:
            found.append(name)
    return found


def test_nothing_of_the_size_of_a_cache_is_written() -> None:
    module = from_onnx(decoder(), bounds={"most": 2000})
    assert whole_caches(module) == []
    plan = plan_memory(heddle.optimize(module))
    (body,) = plan.functions.values()
    assert {2: 2, 3: 3}.items() <= dict(body.shared).items()
    assert "index_copy_in_place" in plan.kernels


def test_sums_of_a_cache_read_a_copy_of_its_filled_part() -> None:
    """A prefix is a kernel of its own there; this shows that `whole_caches` sees copies."""
    module = from_onnx(decoder(attention=False), bounds={"most": 2000})
    assert whole_caches(module) == ["prefix_1"]


def test_memory_is_flat_over_2000_tokens() -> None:
    module = from_onnx(decoder(), bounds={"most": 2000})
    executable = heddle.compile(module, cache=False)
    inputs = given(1, 2000)
    want = executable(**inputs)[0].item()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5):
        assert executable(**inputs)[0].item() == want
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024


def test_more_iterations_than_there_is_room_for() -> None:
    executable = heddle.compile(from_onnx(decoder(), bounds={"most": 6}), cache=False)
    with pytest.raises(UserError, match="is 9, expected 0 to 8"):
        executable(**given(2, 8))


def grouped_decoder() -> onnx.ModelProto:
    """As exporters write it: four heads share two of keys, by Expand, and a mask grows with the
    caches."""
    width = 4 * SIZE
    table = np.random.default_rng(5).standard_normal((WORDS, width)).astype(np.float32)
    cache = f"float[1, 2, {{0}}, {SIZE}]"
    text = f"""
    <ir_version: 10, opset_import: ["" : 18]>
    decode (int64 start, int64 most, {cache.format("s")} k, {cache.format("s")} v,
            float[1, 1, 1, s] m)
        => (int64 last, {cache.format("t")} k1, {cache.format("t")} v1, float[1, 1, 1, t] m1) {{
      yes = Constant <value = bool {{1}}> ()
      last, k1, v1, m1 = Loop (most, yes, start, k, v, m) <
        body = step (int64 i, bool go, int64 token, {cache.format("p")} past_keys,
                     {cache.format("p")} past_values, float[1, 1, 1, p] past_mask)
            => (bool on, int64 next, {cache.format("q")} keys, {cache.format("q")} values,
                float[1, 1, 1, q] mask) {{
          on = Identity (go)
          found = Gather (table, token)
          heads = Constant <value = int64[4] {{1, 4, 1, {SIZE}}}> ()
          groups = Constant <value = int64[4] {{1, 2, 1, {SIZE}}}> ()
          zero = Constant <value = int64[1] {{0}}> ()
          half = Constant <value = int64[1] {{{2 * SIZE}}}> ()
          two = Constant <value = int64[1] {{2}}> ()
          three = Constant <value = int64[1] {{3}}> ()
          query = Reshape (found, heads)
          part = Slice (found, zero, half)
          row = Reshape (part, groups)
          new_key = Cos (row)
          new_value = Neg (row)
          seen = Constant <value = float[1, 1, 1, 1] {{0.0}}> ()
          keys = Concat <axis = 2> (past_keys, new_key)
          values = Concat <axis = 2> (past_values, new_value)
          mask = Concat <axis = 3> (past_mask, seen)
          sizes = Shape (keys)
          length = Slice (sizes, two, three)
          first = Constant <value = int64[3] {{1, 2, 2}}> ()
          all_heads = Constant <value = int64[2] {{1, 4}}> ()
          size = Constant <value = int64[1] {{{SIZE}}}> ()
          repeated = Concat <axis = 0> (first, length, size)
          joined = Concat <axis = 0> (all_heads, length, size)
          key_groups = Unsqueeze (keys, two)
          value_groups = Unsqueeze (values, two)
          more_keys = Expand (key_groups, repeated)
          more_values = Expand (value_groups, repeated)
          every_key = Reshape (more_keys, joined)
          every_value = Reshape (more_values, joined)
          turned = Transpose <perm = [0, 1, 3, 2]> (every_key)
          product = MatMul (query, turned)
          scores = Add (product, mask)
          weights = Softmax <axis = -1> (scores)
          mixed = MatMul (weights, every_value)
          flat = Constant <value = int64[2] {{1, {width}}}> ()
          state = Reshape (mixed, flat)
          upright = Transpose <perm = [1, 0]> (table)
          words = MatMul (state, upright)
          best = ArgMax <axis = 1, keepdims = 0> (words)
          next = Squeeze (best, zero)
        }}
      >
    }}
    """
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    return proto


def test_grouped_heads_and_a_mask_that_grows() -> None:
    proto = grouped_decoder()
    module = from_onnx(proto, bounds={"most": 12})
    assert whole_caches(module) == []
    executable = heddle.compile(module, cache=False)
    reference = onnx.reference.ReferenceEvaluator(proto)
    for filled, most in ((1, 3), (4, 12)):
        rng = np.random.default_rng(filled)
        mask = np.where(rng.random((1, 1, 1, filled)) < 0.5, -np.inf, 0.0).astype(np.float32)
        inputs = {**given(filled, most), "m": mask}
        for got, want in zip(executable(**inputs), reference.run(None, inputs), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)
