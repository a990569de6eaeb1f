# SPDX-License-Identifier: Apache-2.0
"""Default schedules on odd shapes: random products, convolutions and reductions, compiled.

`HEDDLE_TEST_SHAPES=n` tries n modules of every kind instead of one.
"""

import os

import numpy as np
import pytest

from heddle import op
from heddle.driver.api import compile
from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import Constant, Tuple
from heddle.ir import IRModule, TensorType
from heddle.support.errors import HeddleError

ROUNDS = int(os.environ.get("HEDDLE_TEST_SHAPES", "1"))
TARGETS = ["native", "llvm -mcpu=haswell", "llvm -mcpu=x86-64"]


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def size(rng, most):
    """Small and odd sizes as often as large ones."""
    return int(rng.integers(1, min(most, 9))) if rng.random() < 0.4 else int(rng.integers(1, most))


def products(rng, constant):
    """Matrix products: (operator, arguments, attributes)."""
    batch = [()] * 3 + [(size(rng, 4),), (2, size(rng, 4))]
    lead = batch[rng.integers(len(batch))]
    m, n, k = size(rng, 140), size(rng, 140), size(rng, 200)
    right = draw(rng, k, n) if constant else draw(rng, *lead, k, n)
    return op.matmul, [draw(rng, *lead, m, k), right], {}


def convolutions(rng, constant):
    """Convolutions, dense, grouped and depthwise."""
    groups = 1
    inputs, outputs = size(rng, 70), size(rng, 70)
    if rng.random() < 0.3:
        inputs = outputs = groups = size(rng, 50)
    elif rng.random() < 0.2:
        groups = 2
        inputs, outputs = 2 * size(rng, 34), 2 * size(rng, 34)
    kernel = int(rng.choice([1, 1, 3, 3, 5]))
    stride, dilation = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    pad = int(rng.integers(0, kernel // 2 + 1)) * dilation
    reach = dilation * (kernel - 1) + 1
    height, width = (reach + size(rng, 20) for _ in range(2))
    args = [
        draw(rng, 1, inputs, height, width),
        draw(rng, outputs, inputs // groups, kernel, kernel),
    ]
    args.append(draw(rng, outputs))
    attrs = {
        "strides": (stride, stride),
        "pads": (pad,) * 4,
        "dilations": (dilation,) * 2,
        "groups": groups,
    }
    return op.conv, args, attrs


def reductions(rng, constant):
    """Sums, softmax and norms over random axes."""
    shape = [size(rng, 40) for _ in range(int(rng.integers(1, 5)))]
    x = draw(rng, *shape)
    axes = tuple(i for i in range(len(shape)) if rng.random() < 0.5) or (len(shape) - 1,)
    kind = rng.integers(4)
    if kind == 0:
        return op.softmax, [x], {"axis": int(axes[0])}
    if kind == 1:
        return op.layer_norm, [x], {"axis": int(axes[0])}
    operator = [op.mean, op.max][kind - 2]
    return operator, [x], {"axes": axes, "keepdims": bool(rng.integers(2))}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", [products, convolutions, reductions])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_random_shapes(make, target, round_):
    rng = np.random.default_rng([round_, TARGETS.index(target)])
    builder, feeds, expected, results = GraphBuilder(), {}, [], []
    for number in range(8):
        constant = bool(rng.integers(2))
        operator, arrays, attrs = make(rng, constant)
        args = []
        for position, array in enumerate(arrays):
            if constant and position > 0:
                args.append(Constant(array))
                continue
            name = f"x{number}_{position}"
            feeds[name] = array
            args.append(builder.param(name, TensorType.of(array.shape, "float32")))
        call = operator(*args, **attrs)
        results.append(builder.emit(op.relu(builder.emit(call))))
        expected.append(np.maximum(operator.evaluate(arrays, call.attrs), 0))
    module = IRModule({"main": builder.finish(Tuple(tuple(results)))})
    try:
        executable = compile(module, target, cache=False)
    except HeddleError as error:
        shapes = {name: array.shape for name, array in feeds.items()}
        pytest.fail(f"seed {round_}, {target}, {shapes}: {error}")
    for number, (actual, reference) in enumerate(zip(executable(**feeds), expected, strict=True)):
        scale = np.abs(reference).max(initial=1e-6)
        np.testing.assert_allclose(
            actual.numpy(), reference, rtol=2e-5, atol=2e-5 * scale, err_msg=f"result {number}"
        )
