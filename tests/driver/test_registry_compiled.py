# SPDX-License-Identifier: Apache-2.0
"""Every operator, compiled: what the kernels give is what the numpy rules give.

All samples of an operator go through the whole pipeline as one module, for the machine's own
target and for smaller ones that it can also run.
"""

import numpy as np
import pytest

from heddle import op
from heddle.driver.api import compile
from heddle.driver.gradient import grad
from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import GraphExpr, Tuple, TupleGetItem
from heddle.ir import IRModule, TensorType
from heddle.op.interp import interpret
from heddle.op.sample import Sample

# float32 sums in another order and elementary functions within a few ulp; half types round once.
TOLERANCES = {"float32": 2e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}
COMPILED = [name for name in op.all_ops() if op.get(name).has_rule("compute")]
TARGETS = ["native", "llvm -mcpu=haswell", "llvm -mcpu=x86-64"]


def compile_samples(name: str, samples: list[Sample], target: str):
    """One module that calls the operator once per sample; the arrays to call it with."""
    builder, operator = GraphBuilder(), op.get(name)
    feeds, expected, results = {}, [], []
    for number, sample in enumerate(samples):
        arrays = sample.draw(seed=number)
        args = []
        for position, array in enumerate(arrays):
            if array is None:
                args.append(None)
                continue
            label = f"x{number}_{position}"
            args.append(builder.param(label, TensorType.of(array.shape, array.dtype)))
            feeds[label] = array
        value = builder.emit(operator(*args, **sample.attrs))
        present = [array for array in arrays if array is not None]
        reference = operator.evaluate(present, operator(*args, **sample.attrs).attrs)
        if isinstance(reference, tuple):
            for index, part in enumerate(reference):
                results.append(builder.emit(TupleGetItem(value, index)))
                expected.append(part)
        else:
            results.append(value)
            expected.append(reference)
    function = builder.finish(Tuple(tuple(results)))
    return compile(IRModule({"main": function}), target, cache=False), feeds, expected


def check(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Equal for integers; within the tolerance of the dtype for floats."""
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    tolerance = TOLERANCES.get(str(expected.dtype))
    if tolerance is None:
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    wide, reference = actual.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(reference[np.isfinite(reference)]).max(initial=1e-6)
    np.testing.assert_allclose(
        wide, reference, rtol=tolerance, atol=tolerance * scale, err_msg=what
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_operator_agrees_with_numpy(name, target):
    samples = op.get(name).sample_cases
    assert samples, f"op.{name} has no samples"
    executable, feeds, expected = compile_samples(name, samples, target)
    outputs = executable(**feeds)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for index, (actual, reference) in enumerate(zip(outputs, expected, strict=True)):
        check(actual.numpy(), np.asarray(reference), f"op.{name}, result {index}")


def _results(value: GraphExpr) -> list[GraphExpr]:
    """The results of floats of a call."""
    if isinstance(value.type, TensorType):
        parts = [value]
    else:
        parts = [TupleGetItem(value, index) for index in range(len(value.type.fields))]
    return [part for part in parts if part.type.dtype.is_float]


def weighted_sum(name: str) -> tuple[IRModule, list[str], dict[str, np.ndarray]]:
    """`main` is one number of all samples of an operator; the names of the arguments of floats; the
    arrays to call it with."""
    builder, operator, rng = GraphBuilder(), op.get(name), np.random.default_rng(3)
    feeds, wrt, total = {}, [], op.cast(0.0, dtype="float32")
    for number, sample in enumerate(operator.sample_cases):
        args = []
        for position, array in enumerate(sample.draw(seed=number)):
            label = f"x{number}_{position}"
            args.append(None)
            if array is not None:
                args[-1] = builder.param(label, TensorType.of(array.shape, array.dtype))
                feeds[label] = array
                wrt += [label] if args[-1].type.dtype.is_float else []
        for index, part in enumerate(_results(builder.emit(operator(*args, **sample.attrs)))):
            weight = builder.param(f"w{number}_{index}", part.type)
            dtype = part.type.dtype.numpy
            feeds[weight.name] = rng.uniform(-1, 1, part.type.static_shape).astype(dtype)
            total = total + op.cast(op.sum(part * weight), dtype="float32")
    return IRModule({"main": builder.finish(builder.emit(total))}), wrt, feeds


@pytest.mark.parametrize("name", [n for n in COMPILED if op.get(n).has_rule("grad")])
def test_compiled_gradient_agrees_with_numpy(name):
    module, wrt, feeds = weighted_sum(name)
    differentiated = grad(module, wrt)
    outputs = compile(differentiated, "native", cache=False)(**feeds)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for label, actual, reference in zip(
        wrt, outputs, interpret(differentiated, feeds), strict=True
    ):
        check(actual.numpy(), reference, f"op.{name}, gradient of {label}")
