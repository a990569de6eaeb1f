# SPDX-License-Identifier: Apache-2.0
"""How lower floors find operators by name: the operator library registers its lookup here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from heddle.support import InternalError

_LIBRARY: Final = "heddle.op"
_resolver: Callable[[str], Any] | None = None


def set_op_resolver(resolver: Callable[[str], Any]) -> None:
    """Called by the operator library when it is imported."""
    global _resolver
    _resolver = resolver


def resolve_op(name: str) -> Any:
    """The operator `name`, as `Call.callee` holds it; `UserError` when there is none."""
    if _resolver is None:
        # The library lies above this floor, and is loaded by the first who asks.
        importlib.import_module(_LIBRARY)
    if _resolver is None:
        raise InternalError("no operator library is loaded")
    return _resolver(name)
