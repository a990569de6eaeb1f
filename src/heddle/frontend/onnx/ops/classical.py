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
from heddle.support import UserError

_DOMAIN: Final = "ai.onnx.ml"
_DEPTH_LIMIT: Final = 64


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
    return _transformed(node, result, node.attr.string("post_transform", "NONE"))


_TRANSFORMS: Final = ("NONE", "SOFTMAX", "LOGISTIC")


def _transformed(node: Node, x: GraphExpr, transform: str) -> GraphExpr:
    if transform not in _TRANSFORMS:
        raise Unsupported(f"post_transform {transform}")
    if transform == "SOFTMAX":
        return node.op.softmax(x, axis=rank(x) - 1)  # type: ignore[no-any-return]
    return node.op.sigmoid(x) if transform == "LOGISTIC" else x  # type: ignore[no-any-return]


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


# -- trees -----------------------------------------------------------------------------------

_COMPARISONS: Final = ("less_equal", "less", "greater_equal", "greater", "equal", "not_equal")
_MEMBER: Final = 6


@converts("TreeEnsemble", domain=_DOMAIN)
def _tree_ensemble(node: Node) -> Any:
    """All trees go down one level at a time: the state of a row in a tree is the number of a node,
    or of a leaf (behind those of the nodes), which is its own successor."""
    x = node.tensor(0)
    kind = dtype(x).numpy
    splits = node.attr.tensor("nodes_splits").astype(kind)
    modes = node.attr.tensor("nodes_modes").astype(np.int64)
    count, leaves = len(splits), node.attr.tensor("leaf_weights").astype(kind)
    after = [_successors(node, side, count, len(leaves)) for side in ("true", "false")]
    roots = np.asarray(node.attr.ints("tree_roots"), np.int64)
    features = np.append(np.asarray(node.attr.ints("nodes_featureids")), np.zeros(len(leaves), int))
    filled = np.append(splits, np.zeros(len(leaves), kind))
    sets = _members(node, modes, kind, count + len(leaves))
    missing = np.zeros(count + len(leaves), bool)
    missing[:count] = node.attr.ints("nodes_missing_value_tracks_true", (0,) * count)
    state: Any = node.op.broadcast_to(Constant(roots), shape=(shape(x)[0], len(roots)))
    for _ in range(_depth(after, roots, count)):
        value = node.op.gather_elements(x, node.op.gather(features, state, axis=0), axis=1)
        passed = node.op.logical_and(node.op.isnan(value), node.op.gather(missing, state, axis=0))
        mode = node.op.gather(np.append(modes, np.zeros(len(leaves), int)), state, axis=0)
        for number in sorted(set(modes.tolist())):
            if number == _MEMBER:
                known = node.op.gather(sets, state, axis=0)
                same = node.op.equal(node.op.unsqueeze(value, axes=(2,)), known)
                holds = node.op.greater(node.op.sum(node.cast(same, "int32"), axes=(2,)), 0)
            else:
                bound = node.op.gather(filled, state, axis=0)
                holds = node.call(_COMPARISONS[number], value, bound)
            here = node.op.logical_and(node.op.equal(mode, number), holds)
            passed = node.op.logical_or(passed, here)
        state = node.op.where(
            passed, node.op.gather(after[0], state, axis=0), node.op.gather(after[1], state, axis=0)
        )
    return _aggregated(node, node.op.sub(state, count), leaves, len(roots))


def _successors(node: Node, side: str, count: int, leaves: int) -> np.ndarray:
    ids = np.asarray(node.attr.ints(f"nodes_{side}nodeids"), np.int64)
    is_leaf = np.asarray(node.attr.ints(f"nodes_{side}leafs"), bool)
    if len(ids) != count or len(is_leaf) != count:
        raise UserError(f"{len(ids)} successors and {len(is_leaf)} marks for {count} nodes")
    limit = np.where(is_leaf, leaves, count)
    if (ids < 0).any() or (ids >= limit).any():
        raise UserError("a successor is no node and no leaf")
    return np.append(np.where(is_leaf, ids + count, ids), np.arange(count, count + leaves))


def _depth(after: list[np.ndarray], roots: np.ndarray, count: int) -> int:
    """The number of steps after which every way has come to a leaf."""
    level, steps = {int(root) for root in roots}, 0
    while any(state < count for state in level):
        level = {int(side[state]) for state in level for side in after}
        steps += 1
        if steps > _DEPTH_LIMIT:
            raise Unsupported(f"trees of more than {_DEPTH_LIMIT} levels")
    return steps


def _members(node: Node, modes: np.ndarray, kind: np.dtype, total: int) -> np.ndarray:
    """The members of each node's set, filled up with NaN, which equals nothing."""
    if not (modes == _MEMBER).any():
        return np.full((total, 1), np.nan, kind)
    groups: list[list[float]] = [[]]
    for value in node.attr.tensor("membership_values").ravel().tolist():
        if np.isnan(value):
            groups.append([])
        else:
            groups[-1].append(value)
    result = np.full((total, max(1, *map(len, groups))), np.nan, kind)
    for at, members in zip(np.flatnonzero(modes == _MEMBER), groups, strict=False):
        result[at, : len(members)] = members
    return result


def _aggregated(node: Node, leaf: GraphExpr, weights: np.ndarray, trees: int) -> GraphExpr:
    """What the leaves of all trees say of each target: [rows, targets]."""
    targets = np.asarray(node.attr.ints("leaf_targetids"), np.int64)
    count = node.attr.int("n_targets", int(targets.max()) + 1)
    function = node.attr.int("aggregate_function", 1)
    if function not in (0, 1, 2, 3):
        raise UserError(f"attribute `aggregate_function` is {function}, expected 0 to 3")
    if function in (2, 3):
        limits = np.finfo(weights.dtype)
        name, empty = ("min", limits.max) if function == 2 else ("max", limits.min)
    else:
        name, empty = "sum", 0.0
    table = np.full((len(weights), count), empty, weights.dtype)
    table[np.arange(len(weights)), targets] = weights
    result = node.call(name, node.op.gather(table, leaf, axis=0), axes=(1,))
    if function == 0:
        result = node.op.div(result, float(trees))
    transforms = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    number = node.attr.int("post_transform", 0)
    return _transformed(node, result, transforms[number] if 0 <= number < 5 else str(number))


_OLD_MODES: Final = {
    "BRANCH_LEQ": "less_equal",
    "BRANCH_LT": "less",
    "BRANCH_GTE": "greater_equal",
    "BRANCH_GT": "greater",
    "BRANCH_EQ": "equal",
    "BRANCH_NEQ": "not_equal",
    "LEAF": "",
}


@converts("TreeEnsembleRegressor", domain=_DOMAIN)
def _tree_ensemble_regressor(node: Node) -> Any:
    """The older form of `TreeEnsemble`: leaves are nodes, with any number of targets each."""
    x = node.cast(node.tensor(0), "float32")
    if "nodes_values_as_tensor" in node.attr:
        raise Unsupported("trees in float64")
    places, after, roots = _old_trees(node)
    values = np.asarray(node.attr.floats("nodes_values"), np.float32)
    features = np.asarray(node.attr.ints("nodes_featureids"), np.int64)
    modes = node.attr.strings("nodes_modes")
    tracks = node.attr.ints("nodes_missing_value_tracks_true", ()) or (0,) * len(modes)
    if not len(values) == len(features) == len(modes) == len(tracks) == len(places):
        raise UserError("the attributes of the nodes differ in length")
    state: Any = node.op.broadcast_to(Constant(roots), shape=(shape(x)[0], len(roots)))
    for _ in range(_old_depth(after, roots)):
        value = node.op.gather_elements(x, node.op.gather(features, state, axis=0), axis=1)
        bound = node.op.gather(values, state, axis=0)
        missing = node.op.gather(np.asarray(tracks, bool), state, axis=0)
        passed = node.op.logical_and(node.op.isnan(value), missing)
        for name in sorted(set(modes) - {"LEAF"}):
            if name not in _OLD_MODES:
                raise UserError(f"attribute `nodes_modes` has `{name}`")
            holds = node.call(_OLD_MODES[name], value, bound)
            which = np.asarray([mode == name for mode in modes])
            here = node.op.logical_and(node.op.gather(which, state, axis=0), holds)
            passed = node.op.logical_or(passed, here)
        state = node.op.where(
            passed, node.op.gather(after[0], state, axis=0), node.op.gather(after[1], state, axis=0)
        )
    return _old_targets(node, state, places, len(roots))


def _old_trees(node: Node) -> tuple[dict[tuple[int, int], int], list[np.ndarray], np.ndarray]:
    """Where each node (tree, number) stands, the successors of each, and the first of each tree."""
    trees, numbers = node.attr.ints("nodes_treeids"), node.attr.ints("nodes_nodeids")
    places = {pair: at for at, pair in enumerate(zip(trees, numbers, strict=True))}
    leaf = [mode == "LEAF" for mode in node.attr.strings("nodes_modes")]
    after = []
    for side in ("true", "false"):
        ids = node.attr.ints(f"nodes_{side}nodeids")
        try:
            found = [at if leaf[at] else places[tree, ids[at]] for at, tree in enumerate(trees)]
        except KeyError as error:
            raise UserError(f"a successor is no node: {error}") from None
        after.append(np.asarray(found, np.int64))
    reached = {int(to) for side in after for at, to in enumerate(side) if to != at}
    roots = [at for at in range(len(trees)) if at not in reached]
    return places, after, np.asarray(roots, np.int64)


def _old_depth(after: list[np.ndarray], roots: np.ndarray) -> int:
    level, steps = {int(root) for root in roots}, 0
    while any(side[at] != at for at in level for side in after):
        level = {int(side[at]) for at in level for side in after}
        steps += 1
        if steps > _DEPTH_LIMIT:
            raise Unsupported(f"trees of more than {_DEPTH_LIMIT} levels")
    return steps


def _old_targets(
    node: Node, state: GraphExpr, places: dict[tuple[int, int], int], trees: int
) -> GraphExpr:
    """What the leaves say of each target, [rows, targets]."""
    function = node.attr.string("aggregate_function", "SUM")
    if function not in ("SUM", "AVERAGE"):
        raise Unsupported(f"aggregate_function {function}")
    keys = zip(node.attr.ints("target_treeids"), node.attr.ints("target_nodeids"), strict=True)
    targets = node.attr.ints("target_ids")
    table = np.zeros((len(places), node.attr.int("n_targets", max(targets) + 1)), np.float32)
    weights = node.attr.floats("target_weights")
    for key, target, weight in zip(keys, targets, weights, strict=True):
        if key not in places:
            raise UserError(f"target of tree {key[0]} at node {key[1]}, which is not there")
        table[places[key], target] += weight
    result = node.op.sum(node.op.gather(table, state, axis=0), axes=(1,))
    if function == "AVERAGE":
        result = node.op.div(result, float(trees))
    base = node.attr.floats("base_values", None)
    if base is not None:
        result = node.op.add(result, np.asarray(base, np.float32))
    return _transformed(node, result, node.attr.string("post_transform", "NONE"))
