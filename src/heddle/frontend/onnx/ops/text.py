# SPDX-License-Identifier: Apache-2.0
"""Operators on strings (see `frontend/onnx/text.py`), and conversions from and to them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.text import as_text, joined, lookup, mapped, of_strings, strings_of
from heddle.frontend.onnx.values import Text, Value
from heddle.graph import Constant
from heddle.ir import DType
from heddle.support import UserError


@converts("StringConcat")
def _string_concat(node: Node) -> Any:
    return joined(node, as_text(node.value(0)), as_text(node.value(1)))


@converts("RegexFullMatch")
def _regex_full_match(node: Node) -> Any:
    """The standard says RE2; what Python's `re` reads otherwise is refused there or here."""
    pattern = node.attr.string("pattern")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"attribute `pattern` is no regular expression: {error}") from None
    text = as_text(node.value(0))
    found = [compiled.fullmatch(item) is not None for item in text.table]
    return lookup(node, text, np.asarray(found, bool))


@converts("StringNormalizer")
def _string_normalizer(node: Node) -> Any:
    case = node.attr.string("case_change_action", "NONE")
    changes = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}
    if case not in changes:
        raise UserError(f"attribute `case_change_action` is `{case}`, expected NONE, LOWER, UPPER")
    stopwords = node.attr.strings("stopwords", ())
    text = as_text(node.value(0))
    if not stopwords:
        return mapped(node, text, changes[case])
    key = str if node.attr.flag("is_case_sensitive") else str.lower
    dropped = {key(word) for word in stopwords}
    data = strings_of(node, text, "X")  # how many remain decides the shape
    if data.ndim not in (1, 2) or (data.ndim == 2 and data.shape[0] != 1):
        raise UserError(f"`X` has shape {data.shape}, expected [C] or [1, C]")
    kept = [changes[case](item) for item in data.ravel() if key(item) not in dropped] or [""]
    return of_strings(np.asarray(kept, object).reshape((1,) * (data.ndim - 1) + (-1,)))


@converts("StringSplit")
def _string_split(node: Node) -> Any:
    """Strings need to be known: how many parts there are at most decides the shape."""
    data = strings_of(node, node.value(0), "X")
    delimiter = node.attr.string("delimiter", "") or None
    most = node.attr.int("maxsplit", -1)
    parts = [item.split(delimiter, most) for item in data.ravel()]
    counts = np.asarray([len(part) for part in parts], np.int64)
    width = int(counts.max(initial=0))
    table = np.full((len(parts), width), "", object)
    for row, part in enumerate(parts):
        table[row, : len(part)] = part
    return of_strings(table.reshape((*data.shape, width))), Constant(counts.reshape(data.shape))


# -- conversions -----------------------------------------------------------------------------


def to_text(node: Node, value: Value) -> Text:
    """Numbers, which have to be known, as strings."""
    if isinstance(value, Text):
        return value
    data = node.known(value, "input")
    return of_strings(np.frompyfunc(_written, 1, 1)(data))


def _written(item: Any) -> str:
    if isinstance(item, (bool, np.bool_)):
        return "1" if item else "0"
    if isinstance(item, (int, np.integer)):
        return str(int(item))
    if item != item:
        return "NaN"
    if abs(item) == np.inf:
        return "INF" if item > 0 else "-INF"
    return repr(item) if isinstance(item, float) else str(item)


def from_text(node: Node, text: Text, dtype: DType) -> Any:
    """Strings as the numbers that they spell; those of the table that spell none are an error."""
    values = np.empty(len(text.table), dtype.numpy)
    for at, item in enumerate(text.table):
        try:
            values[at] = float(item) if dtype.is_float else int(item)
        except (ValueError, OverflowError):
            raise Unsupported(f"the string `{item}` as {dtype}") from None
    return lookup(node, text, values)
