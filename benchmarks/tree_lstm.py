# SPDX-License-Identifier: Apache-2.0
"""A Tree-LSTM over random trees: Heddle, compiled once, against a recursion in eager PyTorch.

    python -m benchmarks.tree_lstm --hidden 128 --trees 100 --threads 1

The network is the binary Tree-LSTM of Tai, Socher and Manning (2015, equations 9 to 14), with words
at the leaves. Every tree has another shape. Both compute the state of the root from all states
below; values are compared tree by tree, in float32, against NumPy in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import heddle
from heddle import op
from heddle.graph import Constant, GraphBuilder, GraphExpr, Tuple, TupleGetItem
from heddle.ir import IRModule, TensorType, TupleType
from heddle.runtime.data import Self, Value, adt

Tree = adt("Tree", Leaf=[((), "int64")], Node=[Self, Self])


@dataclass(frozen=True)
class Weights:
    """Of words (w, h), leaves (h, 3h) and (3h,), inner nodes (2h, 5h) and (5h,); float32."""

    words: np.ndarray
    leaf: np.ndarray
    leaf_bias: np.ndarray
    node: np.ndarray
    node_bias: np.ndarray


def random_weights(hidden: int, words: int, rng: np.random.Generator) -> Weights:
    """Weights that keep activations at an ordinary size."""

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    return Weights(
        normal(words, hidden, scale=1.0),
        normal(hidden, 3 * hidden, scale=hidden**-0.5),
        normal(3 * hidden, scale=0.1),
        normal(2 * hidden, 5 * hidden, scale=(2 * hidden) ** -0.5),
        normal(5 * hidden, scale=0.1),
    )


def random_tree(leaves: int, words: int, rng: np.random.Generator) -> Value:
    """A tree with so many leaves, split at random places."""
    if leaves == 1:
        return Tree.Leaf(rng.integers(words))
    left = int(rng.integers(1, leaves))
    return Tree.Node(random_tree(left, words, rng), random_tree(leaves - left, words, rng))


# -- the network, three times ---------------------------------------------------------------------


def tree_lstm(weights: Weights) -> IRModule:
    """The network as a module: `encode` calls itself on the two children of a node."""
    hidden = weights.words.shape[1]
    state = TensorType.of((1, hidden), "float32")
    encode = GraphBuilder("encode")
    tree = encode.param("tree", Tree)

    def gates(x: GraphExpr, count: int) -> list[GraphExpr]:
        parts = [
            op.slice(x, starts=(k * hidden,), ends=((k + 1) * hidden,), axes=(1,))
            for k in range(count)
        ]
        return [op.sigmoid(part) for part in parts[:-1]] + [op.tanh(parts[-1])]

    def output(opened: GraphExpr, cell: GraphExpr) -> Tuple:
        kept = encode.emit(cell, name="cell")
        return Tuple((opened * op.tanh(kept), kept))

    def leaf(word: GraphExpr) -> GraphExpr:
        x = op.reshape(op.gather(Constant(weights.words), word, axis=0), shape=(1, hidden))
        z = encode.emit(x @ Constant(weights.leaf) + Constant(weights.leaf_bias))
        take, show, new = gates(z, 3)
        return output(show, take * new)

    def node(left: GraphExpr, right: GraphExpr) -> GraphExpr:
        both = [encode.call("encode", (part,), TupleType((state, state))) for part in (left, right)]
        (hl, cl), (hr, cr) = ([TupleGetItem(s, 0), TupleGetItem(s, 1)] for s in both)
        z = encode.emit(
            op.concat(hl, hr, axis=1) @ Constant(weights.node) + Constant(weights.node_bias)
        )
        take, keep_left, keep_right, show, new = gates(z, 5)
        return output(show, take * new + keep_left * cl + keep_right * cr)

    states = encode.emit_match(tree, {"Leaf": leaf, "Node": node})
    main = GraphBuilder("main")
    whole = main.call("encode", (main.param("tree", Tree),), states.type)
    return IRModule({"main": main.finish(TupleGetItem(whole, 0)), "encode": encode.finish(states)})


def with_numpy(weights: Weights, tree: Value) -> np.ndarray:
    """The state of the root, (1, hidden), in float64."""
    wide = [np.asarray(part, np.float64) for part in vars(weights).values()]
    words, leaf, leaf_bias, node, node_bias = wide

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def encode(tree: Value) -> tuple[np.ndarray, np.ndarray]:
        if tree.constructor == "Leaf":
            z = words[tree.fields[0]][None] @ leaf + leaf_bias
            take, show, new = np.split(z, 3, axis=1)
            cell = sigmoid(take) * np.tanh(new)
        else:
            (hl, cl), (hr, cr) = map(encode, tree.fields)
            z = np.concatenate([hl, hr], axis=1) @ node + node_bias
            take, keep_left, keep_right, show, new = np.split(z, 5, axis=1)
            cell = sigmoid(take) * np.tanh(new) + sigmoid(keep_left) * cl + sigmoid(keep_right) * cr
        return sigmoid(show) * np.tanh(cell), cell

    return encode(tree)[0]


def with_torch(weights: Weights) -> Callable[[Value], Any]:
    """The network as one would write it in PyTorch: a recursion in Python."""
    import torch  # an optional extra

    words, leaf, leaf_bias, node, node_bias = map(torch.from_numpy, vars(weights).values())

    def encode(tree: Value) -> tuple[Any, Any]:
        if tree.constructor == "Leaf":
            z = torch.addmm(leaf_bias, words[int(tree.fields[0])][None], leaf)
            take, show, new = z.chunk(3, dim=1)
            cell = take.sigmoid() * new.tanh()
        else:
            (hl, cl), (hr, cr) = encode(tree.fields[0]), encode(tree.fields[1])
            z = torch.addmm(node_bias, torch.cat([hl, hr], dim=1), node)
            take, keep_left, keep_right, show, new = z.chunk(5, dim=1)
            cell = (
                take.sigmoid() * new.tanh() + keep_left.sigmoid() * cl + keep_right.sigmoid() * cr
            )
        return show.sigmoid() * cell.tanh(), cell

    def run(tree: Value) -> Any:
        with torch.inference_mode():
            return encode(tree)[0]

    return run


# -- measuring ------------------------------------------------------------------------------------


def seconds(run: Callable[[Value], Any], trees: Sequence[Value]) -> float:
    """The time of all trees, one after the other."""
    start = time.perf_counter()
    for tree in trees:
        run(tree)
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print a line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--leaves", type=int, default=40, help="at most, in a tree")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(11)
    weights = random_weights(options.hidden, 1000, rng)
    trees = [
        random_tree(int(rng.integers(2, options.leaves + 1)), 1000, rng)
        for _ in range(options.trees)
    ]
    import torch  # an optional extra

    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    exe = heddle.compile(tree_lstm(weights), num_threads=options.threads, cache=False)
    exe.set_num_threads(options.threads)
    compiling = time.perf_counter() - start
    eager = with_torch(weights)
    expected = [with_numpy(weights, tree) for tree in trees]
    nodes = 0
    for tree, want in zip(trees, expected, strict=True):
        nodes += len(tree.arrays()[0])
        np.testing.assert_allclose(exe(tree).numpy(), want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(eager(tree).numpy(), want, rtol=1e-5, atol=1e-5)

    def from_python(tree: Value) -> Any:
        return exe(Value(tree.adt, tree.constructor, tree.fields))  # laid out again every time

    engines = {"heddle": exe, "heddle, layout included": from_python, "pytorch eager": eager}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(options.rounds):  # in turns
        for name, run in engines.items():
            times[name].append(seconds(run, trees))
    print(
        f"{len(trees)} trees, {nodes} nodes, hidden {options.hidden}; compiled in {compiling:.1f} s"
    )
    base = statistics.median(times["pytorch eager"])
    for name, found in times.items():
        middle = statistics.median(found)
        print(
            f"{name:24} {1e6 * middle / nodes:8.2f} us/node   {base / middle:6.2f} x pytorch eager"
        )


if __name__ == "__main__":
    main()
