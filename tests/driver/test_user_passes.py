# SPDX-License-Identifier: Apache-2.0
"""Passes of the user's own in the pipeline, and the validator that names a wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.driver.validate import ValueValidator
from heddle.graph import GraphBuilder
from heddle.graph.nodes import Call
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Var as Symbol
from heddle.ir.passes import Pass
from heddle.ir.walk import rewrite
from heddle.op.interp import interpret
from heddle.script import parse
from heddle.support import UserError
from heddle.tir.nodes import BufferStore, PrimFunc

WEIGHTS = np.random.default_rng(5).standard_normal((6, 6)).astype(np.float32)


def network() -> IRModule:
    """tanh(relu(x @ w) + x), with names"""
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((4, 6), "float32"))
    product = builder.emit(op.matmul(x, WEIGHTS), name="product")
    cut = builder.emit(op.relu(product), name="cut")
    total = builder.emit(op.add(cut, x), name="total")
    return IRModule({"main": builder.finish(builder.emit(op.tanh(total), name="result"))})


def negate_relu(module: IRModule) -> IRModule:
    """Wrong: relu becomes neg."""

    def change(call: Call) -> Call:
        return op.negative(*call.args) if call.callee is op.relu else call

    return module.with_functions({"main": rewrite(module["main"], {Call: change})})


def drop_relu(module: IRModule) -> IRModule:
    """Wrong, but not for positive numbers."""

    def change(call: Call) -> Call:
        return op.add(*call.args, 0.0) if call.callee is op.relu else call

    return module.with_functions({"main": rewrite(module["main"], {Call: change})})


def keep(module: IRModule) -> IRModule:
    """Right: nothing changes."""

    def copy(call: Call) -> Call:
        return call.replace(attrs=dict(call.attrs))

    return module.with_functions({"main": rewrite(module["main"], {Call: copy})})


def shift_stores(module: IRModule) -> IRModule:
    """Wrong, at the loop level: what is stored to an output is one more."""

    def change(func: PrimFunc) -> PrimFunc:
        return rewrite(func, {BufferStore: lambda store: store.replace(value=store.value + 1.0)})

    loops = {n: change(f) for n, f in module.functions.items() if isinstance(f, PrimFunc)}
    return module.with_functions(loops)


def inputs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, 6)).astype(np.float32)


def test_a_pass_of_both_kinds_runs_in_its_place():
    seen = []

    def look(module: IRModule) -> IRModule:
        seen.append(sorted(type(func).__name__ for func in module.functions.values()))
        return module

    passes = [
        ("before", "normalise", look),
        ("after", "lower", Pass("look_again", look)),
        ("after", "look_again", lambda module: look(module)),
    ]
    heddle.optimize(network(), passes=passes)
    assert seen[0] == ["Function"]
    assert seen[1] == seen[2]
    assert "PrimFunc" in seen[1]


def test_compile_takes_passes():
    x = inputs()
    wrong = heddle.compile(network(), passes=[("after", "normalise", negate_relu)])
    assert np.allclose(wrong(x), np.tanh(-(x @ WEIGHTS) + x), rtol=1e-4, atol=1e-4)
    right = heddle.compile(network())
    expected = np.tanh(np.maximum(x @ WEIGHTS, 0) + x)
    assert np.allclose(right(x), expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_insertion():
    def run(*passes):
        return heddle.optimize(network(), passes=list(passes))

    with pytest.raises(
        UserError, match="there is no pass `nothing`; the passes are: separate_main"
    ):
        run(("after", "nothing", keep))
    with pytest.raises(UserError, match=r"passes\[0\]: 'amid' is no place; there are before"):
        run(("amid", "fuse", keep))
    with pytest.raises(UserError, match=r'passes\[0\] must be like \("after", "fuse", my_pass\)'):
        run(keep)
    with pytest.raises(UserError, match=r"passes\[0\]: expected a function of a module, got int"):
        run(("after", "fuse", 3))
    with pytest.raises(UserError, match="two passes are named `fuse`"):
        run(("after", "lower", Pass("fuse", keep)))
    with pytest.raises(UserError, match="pass `forgets` must give an IRModule, it gave NoneType"):
        run(("after", "fuse", Pass("forgets", lambda module: None)))


def test_the_whole_pipeline_keeps_values(tmp_path: Path):
    validator = ValueValidator(folder=tmp_path)
    module = heddle.optimize(network(), passes=[("after", "fuse", keep)], validate=validator)
    x = inputs(1)
    expected = np.tanh(np.maximum(x @ WEIGHTS, 0) + x)
    assert np.allclose(interpret(module, [x]), expected, rtol=1e-4, atol=1e-4)
    assert not list(tmp_path.iterdir())


def test_the_wrong_pass_is_named_with_a_small_repro(tmp_path: Path):
    passes = [("after", "normalise", keep), ("after", "keep", negate_relu)]
    validator = ValueValidator(folder=tmp_path, seed=2)
    with pytest.raises(UserError, match="pass `negate_relu` changed what the model") as caught:
        heddle.optimize(network(), passes=passes, validate=validator)
    folder = tmp_path / "negate_relu"
    assert f"run {folder / 'run.py'} to see it on 1 operation" in str(caught.value)
    before = parse((folder / "before.py").read_text())
    assert [binding.value.callee.name for binding in before["main"].bindings] == ["relu"]
    program = [sys.executable, str(folder / "run.py")]
    path = {"PYTHONPATH": str(Path(heddle.__file__).parents[1])}
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, **path})
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert printed.count("before") == printed.count("after") == 1
    assert "-" not in printed[printed.index("before") : printed.index("after")]
    assert "-" in printed[printed.index("after") :]


def test_what_takes_two_operations_to_show(tmp_path: Path):
    def drop_relu_of_product(module: IRModule) -> IRModule:
        made = {binding.var: binding.value for binding in module["main"].bindings}

        def change(call: Call) -> Call:
            if call.callee is not op.relu or call.args[0] not in made:
                return call
            return op.add(*call.args, 0.0)

        return module.with_functions({"main": rewrite(module["main"], {Call: change})})

    validator = ValueValidator(folder=tmp_path)
    passes = [("after", "normalise", drop_relu_of_product)]
    with pytest.raises(UserError, match="to see it on 2 operations"):
        heddle.optimize(network(), passes=passes, validate=validator)
    before = parse(
        (tmp_path / "drop_relu_of_product" / "before.py").read_text(),
        constants={"c0": WEIGHTS},
    )
    names = [binding.value.callee.name for binding in before["main"].bindings]
    assert names == ["matmul", "relu"]


def test_symbolic_dimensions_and_given_inputs(tmp_path: Path):
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((Symbol("n"), 6), "float32"))
    cut = builder.emit(op.relu(x), name="cut")
    module = IRModule({"main": builder.finish(builder.emit(op.exp(cut), name="result"))})
    positive = np.full((2, 6), 0.5, np.float32)
    passes = [("after", "normalise", drop_relu)]
    fine = ValueValidator(folder=tmp_path, inputs={"x": positive})
    heddle.optimize(module, passes=passes, validate=fine)
    with pytest.raises(UserError, match="pass `drop_relu` changed"):
        heddle.optimize(module, passes=passes, validate=ValueValidator(folder=tmp_path))


def test_a_wrong_loop_function_is_found(tmp_path: Path):
    validator = ValueValidator(folder=tmp_path)
    passes = [("after", "lower", shift_stores)]
    with pytest.raises(UserError, match="pass `shift_stores` changed what the model computes"):
        heddle.optimize(network(), passes=passes, validate=validator)
    assert "T.prim_func" in (tmp_path / "shift_stores" / "before.py").read_text()


def test_a_pass_that_breaks_the_module(tmp_path: Path):
    def forget(module: IRModule) -> IRModule:
        main = module["main"]
        return module.with_functions({"main": main.replace(bindings=main.bindings[1:])})

    validator = ValueValidator(folder=tmp_path)
    with pytest.raises(UserError, match=r"pass `forget` changed .* it no longer runs"):
        heddle.optimize(network(), passes=[("after", "canonicalise", forget)], validate=validator)


def test_too_much_to_interpret_is_told(tmp_path: Path):
    validator = ValueValidator(folder=tmp_path, limit=100)
    with pytest.raises(UserError, match=r"after pass `lower` the module takes .* too many"):
        heddle.optimize(network(), validate=validator)
    heddle.optimize(network(), validate=ValueValidator(limit=100), stop_after="fuse")


def test_validate_is_checked():
    with pytest.raises(UserError, match='validate must be "values" or a ValueValidator'):
        heddle.compile(network(), validate="speed")
    with pytest.raises(UserError, match="`main` has no parameter `y`"):
        heddle.optimize(network(), validate=ValueValidator(inputs={"y": WEIGHTS}))
