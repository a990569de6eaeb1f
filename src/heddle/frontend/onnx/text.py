# SPDX-License-Identifier: Apache-2.0
"""Tensors of strings.

Heddle has no such dtype. A tensor of strings is a `Text`: numbers of strings in a table that is
known when importing, and a model computes with the numbers. What an operator does to a string it
does here to each of the table; operators that move elements move the numbers. So a model may say
at run time which string it is (the label of a class), but not take strings that it has never seen:
inputs that are strings have to be known when importing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx

from heddle.frontend.onnx.narrow import MOVES
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.values import Text, Value
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

if TYPE_CHECKING:
    from heddle.frontend.onnx.node import Node

_TABLE_LIMIT: Final = 1 << 20
_RAW: Final = frozenset(("Equal", "Shape", "Size"))
_MOVES: Final = MOVES | {"Compress", "Where"}
# Which inputs are elements, where it is not the first alone (None: all).
_ELEMENTS: Final[dict[str, tuple[int, ...] | None]] = {
    "Concat": None,
    "Equal": (0, 1),
    "Where": (1, 2),
}


def is_text(number: int) -> bool:
    """Whether an ONNX element type is that of strings."""
    return number == onnx.TensorProto.STRING


def of_strings(array: Any) -> Text:
    """A known array of strings (str, or bytes of UTF-8) as a value."""
    data = np.asarray(array, dtype=object)
    table: dict[str, int] = {}
    codes = np.empty(data.shape, np.int64)
    for at, item in np.ndenumerate(data):
        try:
            text = item.decode() if isinstance(item, bytes) else item
        except UnicodeDecodeError:
            raise UserError(f"string {at} is not UTF-8") from None
        if not isinstance(text, str):
            raise UserError(f"element {at} is {type(text).__name__}, expected a string")
        codes[at] = table.setdefault(text, len(table))
    return Text(Constant(codes), tuple(table))


def decoded(codes: np.ndarray, table: Sequence[str]) -> np.ndarray:
    """Numbers as the strings that they stand for: an array of objects."""
    strings = np.empty(len(table), object)
    strings[:] = list(table)
    return np.asarray(strings[codes], object)


def strings_of(node: Node, value: Value, what: str) -> np.ndarray:
    """The array of strings (objects) of a value that must be known now."""
    text = as_text(value)
    return decoded(node.known(text.codes, what), text.table)


def as_text(value: Value) -> Text:
    """`value`, which has to be a tensor of strings."""
    if not isinstance(value, Text):
        raise UserError("expected a tensor of strings")
    return value


def lookup(node: Node, text: Text, values: np.ndarray) -> GraphExpr:
    """values[number] for each element: what a function makes of the strings of the table."""
    if not len(values):  # then there is no element either
        values = np.zeros(1, values.dtype)
    return node.op.gather(Constant(values), text.codes, axis=0)  # type: ignore[no-any-return]


def mapped(node: Node, text: Text, function: Callable[[str], str]) -> Text:
    """Each string replaced by what `function` makes of it."""
    new = of_strings([function(item) for item in text.table])
    assert isinstance(new.codes, Constant)
    return Text(lookup(node, text, new.codes.data), new.table)


def joined(node: Node, a: Text, b: Text) -> Text:
    """Strings of `a` followed by those of `b`, broadcast."""
    if isinstance(a.codes, Constant) and isinstance(b.codes, Constant):
        left, right = strings_of(node, a, "X"), strings_of(node, b, "Y")
        return of_strings(np.asarray(left + right, object))
    if len(a.table) * len(b.table) > _TABLE_LIMIT:
        raise Unsupported(f"{len(a.table)} strings followed by {len(b.table)} others")
    pair = node.op.add(node.op.mul(a.codes, np.int64(len(b.table))), b.codes)
    # Numbers of equal strings have to be equal.
    both = of_strings([x + y for x in a.table for y in b.table])
    assert isinstance(both.codes, Constant)
    return Text(lookup(node, Text(pair, ()), both.codes.data), both.table)


def labels(strings: Sequence[str], number: GraphExpr, node: Node) -> Text:
    """The strings that computed positions in a list choose."""
    chosen = of_strings(list(strings))
    assert isinstance(chosen.codes, Constant)
    return Text(lookup(node, Text(number, ()), chosen.codes.data), chosen.table)


# -- operators that move elements ------------------------------------------------------------


def opened(node: Node) -> tuple[str, ...] | None:
    """For an operator that moves or compares elements: put numbers for its strings, all of one
    table, which is returned; None when there are none, or results are not strings."""
    texts = [value for value in node.inputs if isinstance(value, Text)]
    if not texts or node.proto.domain not in ("", "ai.onnx"):
        return None
    if node.op_type not in _MOVES | _RAW:
        return None
    places = _ELEMENTS.get(node.op_type, (0,))
    for at, value in enumerate(node.inputs):
        element = places is None or at in places
        if isinstance(value, Text) is not element:
            found = "a tensor of strings" if isinstance(value, Text) else "no tensor of strings"
            raise UserError(f"input {at} is {found}, but input {node.inputs.index(texts[0])} is")
    table: dict[str, int] = {}
    for text in texts:
        for item in text.table:
            table.setdefault(item, len(table))

    def renumbered(text: Text) -> GraphExpr:
        if text.table == tuple(table)[: len(text.table)]:
            return text.codes
        return lookup(node, text, np.asarray([table[item] for item in text.table], np.int64))

    node.inputs = [renumbered(v) if isinstance(v, Text) else v for v in node.inputs]
    return None if node.op_type in _RAW else tuple(table)


def closed(results: Sequence[Value], table: tuple[str, ...] | None) -> list[Value]:
    """The results of an operator that moves strings of `table`."""
    if table is None:
        return list(results)
    return [Text(value, table) if isinstance(value, GraphExpr) else value for value in results]
