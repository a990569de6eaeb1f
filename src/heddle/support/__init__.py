# SPDX-License-Identifier: Apache-2.0
"""Diagnostics, environment knobs and the disk cache: what every other package may use."""

from heddle.support.diagnostics import Span
from heddle.support.errors import HeddleError, InternalError, UserError

__all__ = ["HeddleError", "InternalError", "Span", "UserError"]
