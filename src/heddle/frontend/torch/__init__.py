# SPDX-License-Identifier: Apache-2.0
"""The PyTorch importer: `from_exported_program(program)` gives an `IRModule` with the graph
function `main`; `from_module(model, inputs)` exports first.

    from heddle.frontend.torch import from_exported_program
    program = torch.export.export(model.eval(), (image,))
    module = from_exported_program(program)

Needs the package `torch` (`pip install heddle[torch]`).
"""

from heddle.frontend.torch.exported import from_exported_program
from heddle.frontend.torch.modules import from_module
from heddle.frontend.torch.registry import supported_operators
from heddle.frontend.torch.report import ImportFailure

__all__ = ["ImportFailure", "from_exported_program", "from_module", "supported_operators"]
