# SPDX-License-Identifier: Apache-2.0
"""Classical machine learning (domain ai.onnx.ml), as far as it is arithmetic on tensors."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.text import labels, lookup, strings_of
from heddle.frontend.onnx.values import Text
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import as_expr, as_int
from heddle.support import UserError

_DOMAIN: Final = "ai.onnx.ml"


@converts("ArrayFeatureExtractor", domain=_DOMAIN)
def _array_feature_extractor(node: Node) -> Any:
    x = node.tensor(0)
    wide = x if rank(x) > 1 else node.op.unsqueeze(x, axes=(0,))
    index = node.reshape(node.tensor(1), (-1,))
    return node.op.gather(wide, index, axis=rank(wide) - 1)


@converts("Binarizer", domain=_DOMAIN)
def _binarizer(node: Node) -> Any:
    x = node.tensor(0)
    return node.cast(node.op.greater(x, node.attr.float("threshold", 0.0)), dtype(x))


@converts("Scaler", domain=_DOMAIN)
def _scaler(node: Node) -> Any:
    x = node.cast(node.tensor(0), "float32")
    offset, scale = node.attr.floats("offset", (0.0,)), node.attr.floats("scale", (1.0,))
    moved = node.op.sub(x, np.asarray(offset, np.float32))
    return node.op.mul(moved, np.asarray(scale, np.float32))


@converts("Normalizer", domain=_DOMAIN)
def _normalizer(node: Node) -> Any:
    x = node.cast(node.tensor(0), "float32")
    norm = node.attr.string("norm", "MAX")
    last = (rank(x) - 1,)
    if norm == "MAX":
        size = node.op.max(node.op.abs(x), axes=last, keepdims=True)
    elif norm == "L1":
        size = node.op.l1_norm(x, axes=last, keepdims=True)
    elif norm == "L2":
        size = node.op.l2_norm(x, axes=last, keepdims=True)
    else:
        raise UserError(f"attribute `norm` is `{norm}`, expected MAX, L1 or L2")
    safe = node.op.where(node.op.equal(size, 0.0), node.scalar(1, x), size)
    return node.op.div(x, safe)


@converts("Imputer", domain=_DOMAIN)
def _imputer(node: Node) -> Any:
    x = node.tensor(0)
    kind = dtype(x)
    if kind.is_float:
        new = np.asarray(node.attr.floats("imputed_value_floats"), kind.numpy)
        old: Any = node.attr.float("replaced_value_float", 0.0)
    else:
        new = np.asarray(node.attr.ints("imputed_value_int64s"), kind.numpy)
        old = node.attr.int("replaced_value_int64", 0)
    missing = node.op.isnan(x) if old != old else node.op.equal(x, node.scalar(old, x))
    return node.op.where(missing, new, x)


@converts("FeatureVectorizer", domain=_DOMAIN)
def _feature_vectorizer(node: Node) -> Any:
    parts = [node.cast(x, "float32") for x in node.tensors()]
    flat = [x if rank(x) == 2 else node.reshape(x, (shape(x)[0], -1)) for x in parts]
    return flat[0] if len(flat) == 1 else node.op.concat(*flat, axis=1)


@converts("LinearRegressor", domain=_DOMAIN)
def _linear_regressor(node: Node) -> Any:
    x = node.cast(node.tensor(0), "float32")
    targets = node.attr.int("targets", 1)
    weights = np.asarray(node.attr.floats("coefficients"), np.float32).reshape(targets, -1)
    result = node.op.matmul(x, np.ascontiguousarray(weights.T))
    bias = node.attr.floats("intercepts", None)
    if bias is not None:
        result = node.op.add(result, np.asarray(bias, np.float32))
    return transformed(node, result, node.attr.string("post_transform", "NONE"))


_TRANSFORMS: Final = ("NONE", "SOFTMAX", "SOFTMAX_ZERO", "LOGISTIC")
_ZERO: Final = 1e-7
"""What is nearer to 0 counts as 0 in SOFTMAX_ZERO."""


def transformed(node: Node, x: GraphExpr, transform: str) -> GraphExpr:
    """The scores after `post_transform`."""
    if transform not in _TRANSFORMS:
        raise Unsupported(f"post_transform {transform}")
    if transform == "SOFTMAX":
        return node.op.softmax(x, axis=rank(x) - 1)  # type: ignore[no-any-return]
    if transform == "SOFTMAX_ZERO":
        return _softmax_zero(node, x)
    return node.op.sigmoid(x) if transform == "LOGISTIC" else x  # type: ignore[no-any-return]


def _softmax_zero(node: Node, x: GraphExpr) -> GraphExpr:
    """A softmax that leaves out, and leaves at 0, what is 0."""
    last = (rank(x) - 1,)
    there = node.op.greater(node.op.abs(x), node.scalar(_ZERO, x))
    most = node.op.max(x, axes=last, keepdims=True)
    power = node.op.exp(node.op.sub(x, most))
    power = node.op.where(there, power, node.op.mul(x, node.op.exp(node.op.negative(most))))
    total = node.op.sum(power, axes=last, keepdims=True)
    return node.op.div(power, total)  # type: ignore[no-any-return]


@converts("LabelEncoder", domain=_DOMAIN)
def _label_encoder(node: Node) -> Any:
    """The value of the last key that equals an element, else the default."""
    keys, values = _column(node, "keys"), _column(node, "values")
    if len(keys) != len(values):
        raise UserError(f"{len(keys)} keys for {len(values)} values")
    return _encoded(node, keys, values, _default(node, values.dtype))


def _encoded(node: Node, keys: np.ndarray, values: np.ndarray, default: Any) -> Any:
    """Elements replaced by the values of their keys; strings are arrays of objects."""
    if values.dtype == object:
        # Computed is which value it is; the default is behind them.
        place: Any = _encoded(node, keys, np.arange(len(values)), np.asarray(len(values)))
        return labels([*values, default], place, node)
    held = node.value(0)
    if isinstance(held, Text) is not (keys.dtype == object):
        raise UserError(f"the input and the keys are not both strings: keys are {keys.dtype}")
    if isinstance(held, Text):
        known = dict(zip(keys, values, strict=True))
        found = [known.get(item, default) for item in held.table]
        return lookup(node, held, np.asarray(found, values.dtype))
    x = node.tensor(0)
    result: Any = node.op.broadcast_to(Constant(default), shape=shape(x))
    for key, value in zip(keys, values, strict=True):
        same = node.op.isnan(x) if key != key else node.op.equal(x, node.scalar(key, x))
        result = node.op.where(same, Constant(np.asarray(value)), result)
    return result


@converts("CategoryMapper", domain=_DOMAIN)
def _category_mapper(node: Node) -> Any:
    """Strings to integers or back, which the element type of the input decides."""
    strings = _objects(node.attr.strings("cats_strings"))
    numbers = np.asarray(node.attr.ints("cats_int64s"), np.int64)
    if len(strings) != len(numbers):
        raise UserError(f"{len(strings)} strings for {len(numbers)} integers")
    if isinstance(node.value(0), Text):
        return _encoded(node, strings, numbers, np.asarray(node.attr.int("default_int64", -1)))
    return _encoded(node, numbers, strings, node.attr.string("default_string", "_Unused"))


@converts("OneHotEncoder", domain=_DOMAIN)
def _one_hot_encoder(node: Node) -> Any:
    """float32[..., categories]: 1 at the category of an element, zeros where there is none."""
    if not node.attr.flag("zeros", True):
        raise Unsupported("attribute `zeros` is 0: an error for elements of no category")
    held = node.value(0)
    if isinstance(held, Text):
        cats: Any = node.attr.strings("cats_strings")
        x: Any = lookup(
            node, held, np.asarray([cats.index(t) if t in cats else -1 for t in held.table])
        )
        cats = np.arange(len(cats))
    else:
        x = node.cast(node.tensor(0), "int64")
        cats = np.asarray(node.attr.ints("cats_int64s"), np.int64)
    wide = node.op.unsqueeze(x, axes=(rank(x),))
    return node.cast(node.op.equal(wide, Constant(cats)), "float32")


def _objects(strings: Any) -> np.ndarray:
    data = np.empty(len(strings), object)
    data[:] = list(strings)
    return data


def _column(node: Node, side: str) -> np.ndarray:
    """The keys, or the values, of a label encoder; strings as objects."""
    if f"{side}_strings" in node.attr:
        return _objects(node.attr.strings(f"{side}_strings"))
    if f"{side}_int64s" in node.attr:
        return np.asarray(node.attr.ints(f"{side}_int64s"), np.int64)
    if f"{side}_floats" in node.attr:
        return np.asarray(node.attr.floats(f"{side}_floats"), np.float32)
    held = node.attr.value(f"{side}_tensor")
    return np.ravel(strings_of(node, held, side) if isinstance(held, Text) else held.data)


def _default(node: Node, kind: np.dtype) -> Any:
    if "default_tensor" in node.attr:
        held: Any = node.attr.value("default_tensor")
        if isinstance(held, Text) is not (kind.kind == "O"):
            raise UserError("`default_tensor` and the values are not both strings")
        data = strings_of(node, held, "default_tensor") if isinstance(held, Text) else held.data
        return data.ravel()[0] if kind.kind == "O" else np.asarray(data.ravel()[0], kind)
    if kind.kind == "O":
        return node.attr.string("default_string", "_Unused")
    if kind == np.int64:
        return np.asarray(node.attr.int("default_int64", -1), kind)
    return np.asarray(node.attr.float("default_float", -0.0), kind)


@converts("ZipMap", domain=_DOMAIN)
def _zip_map(node: Node) -> Any:
    """A row of values for each map that the operator makes, a column for each of its keys: what the
    maps hold, as a tensor. The keys stay in the model."""
    x = node.tensor(0)
    keys = class_names(node)
    if as_int(as_expr(shape(x)[-1])) not in (None, len(keys)):
        raise UserError(f"{len(keys)} keys for {shape(x)[-1]} columns")
    return node.reshape(x, (1, len(keys))) if rank(x) == 1 else node.op.identity(x)


# -- classes ---------------------------------------------------------------------------------


def class_names(node: Node) -> np.ndarray:
    """The names of the classes: integers, or strings as objects."""
    for name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
        if name in node.attr:
            strings = name.endswith("strings")
            found = node.attr.strings(name) if strings else node.attr.ints(name)
            if len(found):
                return _objects(found) if strings else np.asarray(found, np.int64)
    raise UserError("the names of the classes are missing (`classlabels_...`)")


def label_of(node: Node, names: np.ndarray, place: GraphExpr) -> Any:
    """The names of the classes at computed places."""
    if names.dtype.kind == "O":
        return labels(list(names), place, node)
    return node.op.gather(Constant(names), place, axis=0)


@converts("LinearClassifier", domain=_DOMAIN)
def _linear_classifier(node: Node) -> Any:
    """The class of the largest score, and the scores."""
    x = node.cast(node.tensor(0), "float32")
    names = class_names(node)
    bias = np.asarray(node.attr.floats("intercepts", ()), np.float32)
    coefficients = np.asarray(node.attr.floats("coefficients"), np.float32)
    weights = coefficients.reshape(-1, node.static_dim(x, 1, "X"))
    scores = node.op.matmul(x, np.ascontiguousarray(weights.T))
    if bias.size:
        scores = node.op.add(scores, bias)
    if (len(weights), len(names)) == (1, 2):
        return _one_of_two(node, names, scores)
    if len(weights) != len(names):
        raise UserError(f"{len(weights)} rows of coefficients for {len(names)} classes")
    found = transformed(node, scores, node.attr.string("post_transform", "NONE"))
    return label_of(node, names, node.op.argmax(scores, axis=1)), found


def _one_of_two(node: Node, names: np.ndarray, scores: GraphExpr) -> Any:
    """One score for two classes: the second one where it is positive. As ONNX Runtime does, the
    first has what is left to 1, whatever `post_transform` but LOGISTIC."""
    zero = node.scalar(0, scores)
    second = node.cast(node.op.greater(scores, zero), "int64")
    label = label_of(node, names, node.reshape(second, (shape(scores)[0],)))
    transform = node.attr.string("post_transform", "NONE")
    if transform == "PROBIT":
        raise Unsupported("post_transform PROBIT")
    if transform == "LOGISTIC":
        scores = node.op.sigmoid(scores)
    rest = node.op.sub(node.scalar(1, scores), scores)
    return label, node.op.concat(rest, scores, axis=1)
