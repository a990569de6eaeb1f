# SPDX-License-Identifier: Apache-2.0
"""Every operator's call and kernel survive being printed and parsed."""

from __future__ import annotations

import pytest

from heddle import op, te
from heddle.graph import nodes as graph
from heddle.ir import BaseFunc, DType, TensorType, first_mismatch, structural_hash
from heddle.op.sample import Sample
from heddle.script import parse, to_text

SAMPLES = [(name, case) for name, item in op.all_ops().items() for case in item.sample_cases]


def _functions(name: str, case: Sample) -> list[BaseFunc]:
    operator = op.get(name)
    arrays = case.draw(0)
    args = [
        None
        if array is None
        else graph.Var(f"x{i}", TensorType.of(array.shape, DType.of(array.dtype)))
        for i, array in enumerate(arrays)
    ]
    call = operator(*args, **case.attrs)
    params = tuple(arg for arg in args if arg is not None)
    result = graph.Var("y", call.type)
    functions: list[BaseFunc] = [graph.Function(params, (graph.Binding(call, result),), result, {})]
    if operator.has_rule("compute"):
        inputs = [te.placeholder(p.type.shape, p.type.dtype, p.name) for p in params]
        outputs = operator.compute(inputs, call.attrs)
        functions.append(te.create_prim_func([*inputs, *outputs], name=name))
    return functions


@pytest.mark.parametrize("name, case", SAMPLES, ids=lambda item: str(item)[:20])
def test_round_trip(name: str, case: Sample) -> None:
    for func in _functions(name, case):
        text = to_text(func)
        again = parse(text)
        mismatch = first_mismatch(func, again)
        assert mismatch is None, f"{mismatch}\n{text}"
        assert structural_hash(func) == structural_hash(again)
