# SPDX-License-Identifier: Apache-2.0
"""The backend of `torch.compile`: importing this registers it as "heddle".

import heddle.torch                     # not needed when Heddle is installed
fast = torch.compile(model, backend="heddle")
"""

from heddle.driver.dynamo.backend import backend, register
from heddle.driver.dynamo.partition import FallbackWarning

__all__ = ["FallbackWarning", "backend", "register"]
