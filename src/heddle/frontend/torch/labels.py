# SPDX-License-Identifier: Apache-2.0
"""What a node is called: by the layer of the user's module that it belongs to."""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from heddle.support import Span

_NOISE = re.compile(r"^(L__self__|L\['self'\]|self)\.?")
_INDEX = re.compile(r"\[['\"]?(\w+)['\"]?\]")
_CALL = re.compile(r"@\d+$")


def layer_of(fx_node: fx.Node) -> str:
    """The path of the innermost module that a node belongs to, as in "encoder.layer.0.query";
    empty for the outermost."""
    stack: Any = fx_node.meta.get("nn_module_stack")
    if not stack:
        return ""
    entry = list(stack.values())[-1]
    path = entry[0] if isinstance(entry, tuple) else str(entry)
    # Dynamo spells paths as expressions: L['self'].layers[0].linear, _modules included.
    path = _CALL.sub("", path).replace("._modules", "")
    path = _NOISE.sub("", path)
    path = _INDEX.sub(r".\1", path)
    return path.strip(".")


def name_of(fx_node: fx.Node) -> str:
    """The layer and the node, as in "encoder.layer.0.query.linear_3"."""
    layer = layer_of(fx_node)
    return f"{layer}.{fx_node.name}" if layer else fx_node.name


def span_of(fx_node: fx.Node | None, program: str, number: int, label: str) -> Span:
    """The place of a node in the program, with its operator and arguments as the text."""
    text = label
    if fx_node is not None:
        arguments = ", ".join(str(item) for item in fx_node.all_input_nodes)
        text = f"{label}: {fx_node.target}({arguments})"
    return Span(f"<{program}>", number, 0, end_column=len(label), text=text)
