# SPDX-License-Identifier: Apache-2.0
"""Ensembles of decision trees (domain ai.onnx.ml)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, shape
from heddle.frontend.onnx.ops.classical import class_names, label_of, transformed
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.support import UserError

_DOMAIN: Final = "ai.onnx.ml"
_DEPTH_LIMIT: Final = 64

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
    return transformed(node, result, transforms[number] if 0 <= number < 5 else str(number))


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
    function = node.attr.string("aggregate_function", "SUM")
    if function not in ("SUM", "AVERAGE"):
        raise Unsupported(f"aggregate_function {function}")
    ids = node.attr.ints("target_ids")
    result, trees = _old_sums(node, "target", node.attr.int("n_targets", max(ids) + 1))
    if function == "AVERAGE":
        result = node.op.div(result, float(trees))
    base = node.attr.floats("base_values", None)
    if base is not None:
        result = node.op.add(result, np.asarray(base, np.float32))
    return transformed(node, result, node.attr.string("post_transform", "NONE"))


@converts("TreeEnsembleClassifier", domain=_DOMAIN)
def _tree_ensemble_classifier(node: Node) -> Any:
    """The class of the largest sum, and the sums. Where leaves are about one of two classes, the
    sum is compared with what ONNX Runtime compares it with: with 1/2 when no weight is negative,
    like a probability, else with 0."""
    names = class_names(node)
    ids = sorted(set(node.attr.ints("class_ids")))
    weights = node.attr.floats("class_weights")
    transform = node.attr.string("post_transform", "NONE")
    sums, _ = _old_sums(node, "class", max(len(names), ids[-1] + 1))
    base = node.attr.floats("base_values", None)
    if len(names) != 2 or len(ids) > 1:
        if base is not None and len(names) == 2:
            raise Unsupported("base values of two classes")  # ONNX Runtime has its own idea of them
        if base is not None:
            sums = node.op.add(sums, np.asarray(base, np.float32))
        return label_of(node, names, node.op.argmax(sums, axis=1)), transformed(
            node, sums, transform
        )
    if transform not in ("NONE", "LOGISTIC"):
        raise Unsupported(f"post_transform {transform} of one sum for two classes")
    score = node.op.slice(sums, starts=(ids[0],), ends=(ids[0] + 1,), axes=(1,))
    if base is not None:
        if len(base) != 1:
            raise Unsupported(f"{len(base)} base values for one sum")
        score = node.op.add(score, np.float32(base[0]))
    likely = all(weight >= 0 for weight in weights)
    place = node.cast(node.op.greater(score, 0.5 if likely else 0.0), "int64")
    other = node.op.sub(np.float32(1), score) if likely else node.op.negative(score)
    both = node.op.concat(other, score, axis=1)
    label = label_of(node, names, node.op.squeeze(place, axes=(1,)))
    return label, transformed(node, both, transform)


def _old_sums(node: Node, side: str, count: int) -> tuple[GraphExpr, int]:
    """What the leaves that the rows come to say of each target (`side` of "target") or class,
    summed: [rows, count]; and the number of trees."""
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
    table = _old_weights(node, side, places, count)
    return node.op.sum(node.op.gather(table, state, axis=0), axes=(1,)), len(roots)


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


def _old_weights(
    node: Node, side: str, places: dict[tuple[int, int], int], count: int
) -> np.ndarray:
    """What each node says of each target or class, [nodes, count]: 0 where it is no leaf."""
    names = (f"{side}_treeids", f"{side}_nodeids")
    keys = zip(*(node.attr.ints(name) for name in names), strict=True)
    targets, weights = node.attr.ints(f"{side}_ids"), node.attr.floats(f"{side}_weights")
    table = np.zeros((len(places), count), np.float32)
    for key, target, weight in zip(keys, targets, weights, strict=True):
        if key not in places:
            raise UserError(f"{side} of tree {key[0]} at node {key[1]}, which is not there")
        table[places[key], target] += weight
    return table
