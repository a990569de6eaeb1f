# SPDX-License-Identifier: Apache-2.0
"""Heddle for PyTorch. Importing this registers the backend of `torch.compile`; where Heddle is
installed as a package, torch finds it without.

    import heddle.torch
    fast = torch.compile(model, backend="heddle")
    module = heddle.torch.from_exported_program(torch.export.export(model, (image,)))
"""

from heddle.driver.dynamo import FallbackWarning, backend
from heddle.frontend.torch import ImportFailure, from_exported_program, supported_operators

__all__ = [
    "FallbackWarning",
    "ImportFailure",
    "backend",
    "from_exported_program",
    "supported_operators",
]
