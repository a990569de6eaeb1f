# SPDX-License-Identifier: Apache-2.0
"""Recursion, data types and closures as native code: values, limits, messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import heddle
from benchmarks.tree_lstm import random_tree, random_weights, tree_lstm, with_numpy
from heddle.graph import verify_module
from heddle.ir import IRModule
from heddle.op.interp import interpret
from heddle.passes.graph.normalise import normalise
from heddle.passes.graph.tail_calls import loop_tail_calls
from heddle.runtime.data import Self, Value, adt, list_of
from heddle.script import parse
from heddle.support import UserError

NUMBER = 'G.Tensor((), "int64")'
ROW = 'G.Tensor((k,), "float32")'


def module(*functions: str) -> IRModule:
    """A module of functions, each given from its name on; `N` and `R` are short for types."""
    text = "@I.ir_module\nclass Module:\n"
    for function in functions:
        lines = function.replace("$N", NUMBER).replace("$R", ROW).strip("\n").split("\n")
        text += "    @G.function\n" + "".join(f"    {line}\n" for line in lines)
    made = parse(text)
    verify_module(made)
    return made


def compiled(made: IRModule) -> heddle.Executable:
    return heddle.compile(made, cache=False, num_threads=1)


TWICE = """
def f(n: $N, x: $R):
    G.func_attr({"depth": 20})
    stop = op.less_equal(n, 0)
    if stop:
        r: $R = x
    else:
        m = op.sub(n, 1)
        y: $R = f(m, x)
        z: $R = f(m, op.mul(x, 0.5))
        r: $R = op.add(op.tanh(y), z)
    return r
"""
MAIN = """
def main(n: $N, x: $R):
    y: $R = f(n, x)
    return op.mul(y, 2.0)
"""


def test_two_calls_and_the_limit() -> None:
    made = module(TWICE, MAIN)
    exe = compiled(made)
    x = np.asarray([0.3, -2.0, 1.0], np.float32)
    for n in (0, 1, 4, 9):
        want = interpret(made, [np.asarray(n), x])
        np.testing.assert_allclose(exe(n, x).numpy(), want, rtol=1e-5)
    exe(19, np.ones(0, np.float32))
    with pytest.raises(UserError, match="f: the recursion is deeper than the limit of 20 levels"):
        exe(20, x)
    np.testing.assert_allclose(exe(0, x).numpy(), 2 * x)  # and goes on working


def test_functions_that_call_each_other() -> None:
    def one(name: str, other: str, result: str) -> str:
        return f"""
def {name}(n: $N):
    G.func_attr({{"depth": 50}})
    stop = op.equal(n, 0)
    if stop:
        r: G.Tensor((), "bool") = G.const({result}, "bool")
    else:
        o: G.Tensor((), "bool") = {other}(op.sub(n, 1))
        r: G.Tensor((), "bool") = op.logical_not(op.logical_not(o))
    return r
"""

    main = 'def main(n: $N):\n    r: G.Tensor((), "bool") = even(n)\n    return r\n'
    exe = compiled(module(one("even", "odd", "True"), one("odd", "even", "False"), main))
    assert [bool(exe(n).numpy()) for n in range(5)] == [True, False, True, False, True]
    with pytest.raises(UserError, match="deeper than the limit"):
        exe(400)


def test_main_calls_itself() -> None:
    made = module(TWICE.replace("f(", "main("))
    x = np.asarray([0.3, -2.0], np.float32)
    got = compiled(made)(np.asarray(3), x).numpy()
    np.testing.assert_allclose(got, interpret(made, [np.asarray(3), x]), rtol=1e-5)


def test_shapes_must_not_change() -> None:
    shrinking = """
def f(n: $N, x: $R):
    stop = op.less_equal(n, 0)
    if stop:
        r: G.Tensor((), "float32") = op.sum(x, axes=(0,), keepdims=False)
    else:
        both: G.Tensor((k + k,), "float32") = op.concat(x, x, axis=0)
        s: G.Tensor((), "float32") = f(op.sub(n, 1), both)
        r: G.Tensor((), "float32") = op.mul(s, 2.0)
    return r
"""
    main = 'def main(n: $N, x: $R):\n    y: G.Tensor((), "float32") = f(n, x)\n    return y\n'
    with pytest.raises(UserError, match=r"recursion: dimension `k` of `f` is .*stay the same"):
        compiled(module(shrinking, main))


def test_depth_must_fit_the_stack() -> None:
    deep = TWICE.replace("20", "1000000")
    message = "`f`: the attribute depth is 1000000, but the native stack has room for"
    with pytest.raises(UserError, match=message):
        compiled(module(deep, MAIN))


POWER = """
def f(n: $N, x: $R, acc: $R):
    stop = op.less_equal(n, 0)
    if stop:
        r: $R = acc
    else:
        r: $R = f(op.sub(n, 1), x, op.mul(acc, x))
    return r
"""


def test_tail_calls_have_no_limit() -> None:
    main = "def main(n: $N, x: $R):\n    y: $R = f(n, x, op.mul(x, 2.0))\n    return y\n"
    made = module(POWER, main)
    looped = loop_tail_calls(normalise(made))
    verify_module(looped)
    assert "G.loop(f_step" in str(looped)
    x = np.asarray([0.99, 1.01], np.float32)
    exe = compiled(made)
    for n in (0, 1, 7):
        np.testing.assert_allclose(exe(n, x).numpy(), 2 * x ** (n + 1), rtol=1e-5)
        np.testing.assert_allclose(interpret(looped, [np.asarray(n), x]), 2 * x ** (n + 1), 1e-5)
    np.testing.assert_array_equal(exe(100_000, np.ones(1, np.float32)).numpy(), [2])


# -- data types -----------------------------------------------------------------------------------

TREE = 'G.Data("Tree", Leaf=(G.Tensor((2,), "float32"),), Node=(G.Self, G.Self))'
Tree = adt("Tree", Leaf=[((2,), "float32")], Node=[Self, Self])
PAIR = 'G.Tensor((2,), "float32")'
LIST = 'G.Data("List", Nil=(), Cons=(G.Tensor((2,), "float32"), G.Self))'


def tree_of(leaves: int, rng: np.random.Generator) -> Value:
    if leaves == 1:
        return Tree.Leaf(rng.standard_normal(2).astype(np.float32))
    left = int(rng.integers(1, leaves))
    return Tree.Node(tree_of(left, rng), tree_of(leaves - left, rng))


BOTTOM_UP = f"""
def f(t: {TREE}, w: G.Tensor((2, 2), "float32")):
    match t:
        case Leaf(x):
            r: {PAIR} = x
        case Node(left, right):
            a: {PAIR} = f(left, w)
            b: {PAIR} = f(right, w)
            r: {PAIR} = op.tanh(op.add(op.matmul(a, w), b))
    return r
"""
ROOT = f"""
def main(t: {TREE}, w: G.Tensor((2, 2), "float32")):
    y: {PAIR} = f(t, w)
    return y
"""


@pytest.fixture(scope="module")
def bottom_up() -> heddle.Executable:
    return compiled(module(BOTTOM_UP, ROOT))


def test_fold_over_trees(bottom_up: heddle.Executable, tmp_path: Path) -> None:
    made = module(BOTTOM_UP, ROOT)
    loaded = heddle.load(bottom_up.export_library(tmp_path / "tree.so"))
    rng = np.random.default_rng(0)
    w = rng.standard_normal((2, 2)).astype(np.float32)
    for leaves in (1, 2, 3, 17):
        tree = tree_of(leaves, rng)
        want = interpret(made, [tree, w])
        for exe in (bottom_up, loaded):
            np.testing.assert_allclose(exe(tree, w).numpy(), want, rtol=1e-5)
            np.testing.assert_allclose(exe(w=w, t=tree).numpy(), want, rtol=1e-5)
            np.testing.assert_allclose(exe(*tree.arrays(), w).numpy(), want, rtol=1e-5)


def test_fold_has_no_limit(bottom_up: heddle.Executable) -> None:
    tree = leaf = Tree.Leaf([0.1, 0.2])
    for _ in range(30_000):
        tree = Tree.Node(tree, leaf)
    assert np.isfinite(bottom_up(tree, np.eye(2, dtype=np.float32)).numpy()).all()


def test_wrong_values(bottom_up: heddle.Executable) -> None:
    w = np.eye(2, dtype=np.float32)
    with pytest.raises(UserError, match=r"input `t` is List = Nil\(\).*expected Tree = Leaf"):
        bottom_up(list_of((), "int64").Nil(), w)


def test_any_numbers_in_the_arrays_are_safe(bottom_up: heddle.Executable) -> None:
    rng = np.random.default_rng(1)
    tag, row, children, leaves = tree_of(9, rng).arrays()
    w = np.eye(2, dtype=np.float32)
    for _ in range(20):
        wild = [rng.integers(-(2**62), 2**62, a.shape) for a in (tag, row, children)]
        bottom_up(tag, wild[1], children, leaves, w)
        with pytest.raises(UserError, match=r"`t.tag`: node 0 has tag -?\d+, expected 0 to 1"):
            bottom_up(*wild, leaves, w)
        wild[2][tag == 1] %= np.flatnonzero(tag == 1)[:, None]  # what is no child does not count
        bottom_up(tag, wild[1], wild[2], leaves, w)
    with pytest.raises(UserError, match="t_nodes"):
        bottom_up(*(a[:0] for a in (tag, row, children)), leaves, w)


def test_arrays_with_cycles() -> None:
    """A walk along a list whose end leads back would not end."""
    walk = f"""
def last(xs: {LIST}, found: {PAIR}):
    match xs:
        case Cons(x, rest):
            r: {PAIR} = last(rest, x)
        case _:
            r: {PAIR} = found
    return r
"""
    main = f"""
def main(xs: {LIST}):
    y: {PAIR} = last(xs, G.const([0, 0], "float32"))
    return y
"""
    exe = compiled(module(walk, main))
    pairs = list_of((2,), "float32")
    values = pairs.Cons([1, 2], pairs.Cons([3, 4], pairs.Nil()))
    np.testing.assert_array_equal(exe(values).numpy(), [3, 4])
    tag, row, children, rows = values.arrays()
    np.testing.assert_array_equal(exe(tag, row, children, rows).numpy(), [3, 4])
    for node, below in ((1, 1), (1, 2), (2, -1), (2, 3)):
        cyclic = children.copy()
        cyclic[node, 0] = below
        message = (
            f"`xs.children`: child 0 of node {node} is node {below}, expected one of the nodes"
        )
        with pytest.raises(UserError, match=message):
            exe(tag, row, cyclic, rows)


TOP_DOWN = f"""
def f(t: {TREE}, above: {PAIR}):
    match t:
        case Leaf(x):
            r: {PAIR} = op.mul(x, above)
        case Node(left, right):
            below = op.mul(above, 0.5)
            a: {PAIR} = f(left, below)
            b: {PAIR} = f(right, above)
            r: {PAIR} = op.sub(a, b)
    return r
"""


def test_recursion_with_other_arguments() -> None:
    main = f"def main(t: {TREE}, w: {PAIR}):\n    y: {PAIR} = f(t, w)\n    return y\n"
    made = module(TOP_DOWN, main)
    exe = compiled(made)
    rng = np.random.default_rng(2)
    w = rng.standard_normal(2).astype(np.float32)
    for leaves in (1, 2, 30):
        tree = tree_of(leaves, rng)
        np.testing.assert_allclose(exe(tree, w).numpy(), interpret(made, [tree, w]), rtol=1e-4)
    tree = leaf = Tree.Leaf([0.1, 0.2])
    for _ in range(1_500):
        tree = Tree.Node(leaf, tree)
    exe(tree, w)
    for _ in range(5_000):
        tree = Tree.Node(leaf, tree)
    with pytest.raises(UserError, match=r"f: the recursion is deeper than the limit of \d+ levels"):
        exe(tree, w)


FOLDS = [
    f"def step(acc: {PAIR}, x: {PAIR}, w: {PAIR}):\n    return op.add(op.mul(acc, w), x)\n",
    f"""
def right(f: G.Func(({PAIR}, {PAIR}), {PAIR}), start: {PAIR}, xs: {LIST}):
    match xs:
        case Nil():
            r: {PAIR} = start
        case Cons(x, rest):
            acc: {PAIR} = right(f, start, rest)
            r: {PAIR} = f(acc, x)
    return r
""",
    f"""
def left(f: G.Func(({PAIR}, {PAIR}), {PAIR}), start: {PAIR}, xs: {LIST}):
    match xs:
        case Cons(x, rest):
            acc: {PAIR} = f(start, x)
            r: {PAIR} = left(f, acc, rest)
        case _:
            r: {PAIR} = start
    return r
""",
    f"""
def main(xs: {LIST}, w: {PAIR}):
    f: G.Func(({PAIR}, {PAIR}), {PAIR}) = G.closure(step, (w,))
    y: {PAIR} = right(f, G.const([0, 0], "float32"), xs)
    z: {PAIR} = left(f, y, xs)
    return (y, z)
""",
]


def test_closures_over_lists() -> None:
    made = module(*FOLDS)
    exe = compiled(made)
    pairs = list_of((2,), "float32")
    rng = np.random.default_rng(3)
    xs, w = pairs.Nil(), np.asarray([0.5, -0.9], np.float32)
    for length in range(4):
        for got, want in zip(exe(xs, w), interpret(made, [xs, w]), strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, err_msg=str(length))
        xs = pairs.Cons(rng.standard_normal(2).astype(np.float32), xs)
    for _ in range(20_000):
        xs = pairs.Cons([1, 1], xs)
    np.testing.assert_allclose(exe(xs, w)[0].numpy(), [2, 1 / 1.9], rtol=1e-5)


def test_closures_must_be_known() -> None:
    kind = f"G.Func(({PAIR},), {PAIR})"
    scale = f"def scale(x: {PAIR}, w: {PAIR}):\n    return op.mul(x, w)\n"
    head = f"def main(x: {PAIR}):\n    f: {kind} = G.closure(scale, (x,))\n"
    with pytest.raises(UserError, match="`main`: a function value is returned; it can be called"):
        compiled(module(scale, f"{head}    return f\n"))
    choice = """
    c = op.less(op.sum(x), 0.0)
    if c:
        g: {0} = f
    else:
        g: {0} = f
    y: {1} = g(x)
    return y
"""
    chosen = module(scale, head + choice.lstrip("\n").format(kind, PAIR))
    with pytest.raises(UserError, match="`main`: a function value is chosen by a condition"):
        compiled(chosen)
    with pytest.raises(UserError, match="`main` takes a function: what comes from outside"):
        compiled(module(f"def main(f: {kind}, x: {PAIR}):\n    y: {PAIR} = f(x)\n    return y\n"))


def test_parts_of_a_value_can_be_chosen() -> None:
    main = f"""
def main(t: {TREE}, c: G.Tensor((), "bool"), w: G.Tensor((2, 2), "float32")):
    match t:
        case Leaf(x):
            u: {TREE} = t
        case Node(a, b):
            if c:
                v: {TREE} = a
            else:
                v: {TREE} = b
            u: {TREE} = v
    y: {PAIR} = f(u, w)
    return y
"""
    exe = compiled(module(BOTTOM_UP, main))
    w = np.eye(2, dtype=np.float32)
    a, b = Tree.Leaf([1, 2]), Tree.Leaf([3, 4])
    assert exe(Tree.Node(a, b), np.asarray(True), w).numpy().tolist() == [1, 2]
    assert exe(Tree.Node(a, b), np.asarray(False), w).numpy().tolist() == [3, 4]
    assert exe(a, np.asarray(False), w).numpy().tolist() == [1, 2]


def test_an_input_as_a_result() -> None:
    exe = compiled(module(f"def main(t: {TREE}):\n    return t\n"))
    found = exe(Tree.Node(Tree.Leaf([1, 2]), Tree.Leaf([3, 4])))
    assert [leaf.fields[0].tolist() for leaf in found.children] == [[1, 2], [3, 4]]


def test_tree_lstm() -> None:
    """100 trees of differing shape, one library."""
    rng = np.random.default_rng(4)
    weights = random_weights(32, 50, rng)
    made = tree_lstm(weights)
    verify_module(made)
    exe = compiled(made)
    for _ in range(100):
        tree = random_tree(int(rng.integers(1, 25)), 50, rng)
        np.testing.assert_allclose(exe(tree).numpy(), with_numpy(weights, tree), 1e-5, 1e-6)
