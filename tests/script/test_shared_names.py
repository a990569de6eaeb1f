# SPDX-License-Identifier: Apache-2.0
"""Functions of one module may bind the same variable objects; equality does not care."""

from __future__ import annotations

from heddle import op
from heddle.graph import nodes as graph
from heddle.ir import IRModule, TensorType, first_mismatch, structural_hash
from heddle.ir.expr import Var
from heddle.script import parse, to_text


def test_functions_that_share_variables() -> None:
    n = Var("n")
    x = graph.Var("x", TensorType.of((n, 3), "float32"))
    call = op.get("relu")(x)
    y = graph.Var("y", call.type)
    func = graph.Function((x,), (graph.Binding(call, y),), y, {})
    other = graph.Function((x,), (graph.Binding(call, y),), x, {})
    module = IRModule({"one": func, "two": other})
    again = parse(to_text(module))
    assert isinstance(again, IRModule)
    assert first_mismatch(module, again) is None
    assert first_mismatch(again, module) is None
    assert structural_hash(module) == structural_hash(again)
    swapped = IRModule({"one": other, "two": func})
    mismatch = first_mismatch(module, swapped)
    assert mismatch is not None
    assert mismatch.path == ".functions['one'].result"
    assert structural_hash(module) != structural_hash(swapped)
