# SPDX-License-Identifier: Apache-2.0
"""Heddle, a deep learning compiler: models in, fast native code out.

>>> import heddle
>>> exe = heddle.compile("model.onnx")        # doctest: +SKIP
>>> y = exe(x)                                # doctest: +SKIP
>>> exe.export_library("model.so")            # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from heddle.support.version import VERSION

if TYPE_CHECKING:
    from heddle.driver.api import compile, optimize
    from heddle.driver.build import build
    from heddle.driver.gradient import grad, value_and_grad, vjp
    from heddle.ir import IRModule
    from heddle.runtime import Device, Executable, Tensor, load
    from heddle.runtime.data import Self, adt
    from heddle.script.hybrid import hybrid
    from heddle.script.module_file import load_module, save_module
    from heddle.support import HeddleError, InternalError, UserError
    from heddle.target import Target

__version__ = VERSION

# Names are imported when first used: `import heddle` costs what its user needs of it.
_HOMES = {
    "adt": "heddle.runtime.data",
    "Self": "heddle.runtime.data",
    "compile": "heddle.driver.api",
    "build": "heddle.driver.build",
    "grad": "heddle.driver.gradient",
    "hybrid": "heddle.script.hybrid",
    "optimize": "heddle.driver.api",
    "load": "heddle.runtime",
    "load_module": "heddle.script.module_file",
    "save_module": "heddle.script.module_file",
    "value_and_grad": "heddle.driver.gradient",
    "vjp": "heddle.driver.gradient",
    "Executable": "heddle.runtime",
    "Tensor": "heddle.runtime",
    "Device": "heddle.runtime",
    "IRModule": "heddle.ir",
    "Target": "heddle.target",
    "HeddleError": "heddle.support",
    "UserError": "heddle.support",
    "InternalError": "heddle.support",
}

__all__ = [
    "Device",
    "Executable",
    "HeddleError",
    "IRModule",
    "InternalError",
    "Self",
    "Target",
    "Tensor",
    "UserError",
    "__version__",
    "adt",
    "build",
    "compile",
    "grad",
    "hybrid",
    "load",
    "load_module",
    "optimize",
    "save_module",
    "value_and_grad",
    "vjp",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'heddle' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
