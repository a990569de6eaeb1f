# SPDX-License-Identifier: Apache-2.0
"""The ONNX importer: `from_onnx(model)` gives an `IRModule` with the graph function `main`.

    from heddle.frontend.onnx import from_onnx
    module = from_onnx("resnet50.onnx", shapes={"image": (1, 3, 224, 224)})

`coverage(model)` tells what of a model can be imported, and `@converter("Name", domain="mine")`
declares what an operator of one's own means.

Needs the package `onnx` (`pip install heddle[onnx]`).
"""

from heddle.frontend.onnx.coverage import Coverage, coverage
from heddle.frontend.onnx.importer import from_onnx
from heddle.frontend.onnx.node import Node
from heddle.frontend.onnx.registry import converts as converter
from heddle.frontend.onnx.registry import supported_operators
from heddle.frontend.onnx.report import ImportFailure, Unsupported

__all__ = [
    "Coverage",
    "ImportFailure",
    "Node",
    "Unsupported",
    "converter",
    "coverage",
    "from_onnx",
    "supported_operators",
]
