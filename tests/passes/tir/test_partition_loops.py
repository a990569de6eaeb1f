# SPDX-License-Identifier: Apache-2.0
"""Tiles of an open number of rows run without conditions, up to the last."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import Constant, GraphBuilder
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var
from heddle.ir.walk import pre_order
from heddle.passes.tir.lower import lower
from heddle.target import parse
from heddle.tir.nodes import For, ForKind, IfThenElse, PrimFunc

RNG = np.random.default_rng(5)
WEIGHTS = RNG.standard_normal((48, 2048)).astype(np.float32)


def product() -> IRModule:
    """relu(x @ WEIGHTS) for x of any number of rows."""
    main = GraphBuilder("main")
    x = main.param("x", TensorType.of((Var("n"), 48), "float32"))
    return IRModule({"main": main.finish(op.relu(x @ Constant(WEIGHTS)))})


def test_full_tiles_have_no_conditions() -> None:
    target = parse("llvm -mcpu=skylake-avx512")
    optimised = heddle.optimize(product(), target=target)
    (kernel,) = (f for f in optimised.functions.values() if isinstance(f, PrimFunc))
    versions = [
        found.body
        for found in pre_order(lower(kernel, target).body)
        if isinstance(found, For) and found.kind is ForKind.SERIAL
        if isinstance(found.body, IfThenElse) and found.body.otherwise is not None
    ]
    assert len(versions) == 1
    assert not any(isinstance(inner, IfThenElse) for inner in pre_order(versions[0].then))
    assert versions[0].otherwise is not None
    assert any(isinstance(inner, IfThenElse) for inner in pre_order(versions[0].otherwise))


@pytest.mark.parametrize("threads", [1, 2])
def test_values_for_every_number_of_rows(threads: int) -> None:
    executable = heddle.compile(product(), cache=False, num_threads=threads)
    for rows in range(1, 40):
        x = RNG.standard_normal((rows, 48)).astype(np.float32)
        want = np.maximum(x @ WEIGHTS, 0)
        np.testing.assert_allclose(executable(x).numpy(), want, rtol=1e-4, atol=1e-4)
