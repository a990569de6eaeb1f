# SPDX-License-Identifier: Apache-2.0
"""Compiled functions that make values of data types and return them, against the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.driver.api import optimize
from heddle.graph import GraphBuilder, verify_module
from heddle.ir import IRModule, TensorType, first_mismatch
from heddle.op.interp import interpret
from heddle.passes.graph.plan import plan_memory
from heddle.runtime.data import Self, Value, adt, from_arrays, list_of
from heddle.script import parse
from heddle.support import UserError

LIST = 'G.Data("List", Nil=(), Cons=(G.Tensor((2,), "float32"), G.Self))'
TREE = 'G.Data("Tree", Leaf=(G.Tensor((2,), "float32"),), Node=(G.Self, G.Self))'
ROW = 'G.Tensor((2,), "float32")'
INT = 'G.Tensor((), "int64")'
List = list_of((2,), "float32")
Tree = adt("Tree", Leaf=[((2,), "float32")], Node=[Self, Self])


def module(*functions: str) -> IRModule:
    text = "@I.ir_module\nclass Module:\n"
    for function in functions:
        for short, long in (("$L", LIST), ("$T", TREE), ("$R", ROW), ("$I", INT)):
            function = function.replace(short, long)
        lines = function.strip("\n").split("\n")
        text += "    @G.function\n" + "".join(f"    {line}\n" for line in lines)
    made = parse(text)
    verify_module(made)
    assert first_mismatch(parse(str(made)), made) is None
    return made


def compiled(made: IRModule) -> heddle.Executable:
    return heddle.compile(made, cache=False, num_threads=1)


def plain(value: Any) -> Any:
    """A value as tuples and lists, to be compared."""
    if isinstance(value, Value):
        stack, found = [value], []
        while stack:  # depth first; deep values do not exhaust the stack
            node = stack.pop()
            tensors = [f for f in node.fields if not isinstance(f, Value)]
            found.append((node.constructor, [t.tolist() for t in tensors]))
            stack.extend(reversed(node.children))
        return found
    return np.round(np.asarray(value.numpy() if hasattr(value, "numpy") else value), 4).tolist()


def check(made: IRModule, executable: heddle.Executable, *inputs: Any) -> None:
    want = interpret(made, list(inputs))
    found = executable(*inputs)
    for got, expected in zip(
        found if isinstance(found, tuple) else (found,),
        want if isinstance(want, tuple) else (want,),
        strict=True,
    ):
        assert plain(got) == plain(expected)


def numbers(count: int) -> Value:
    value = List.Nil()
    for k in reversed(range(count)):
        value = List.Cons([k, k + 0.5], value)
    return value


def tree_of(leaves: int, rng: np.random.Generator) -> Value:
    if leaves == 1:
        return Tree.Leaf(rng.integers(0, 9, 2))
    left = int(rng.integers(1, leaves))
    return Tree.Node(tree_of(left, rng), tree_of(leaves - left, rng))


TWICE = """
def twice(xs: $L, w: $R):
    match xs:
        case Cons(x, rest):
            more: $L = twice(rest, w)
            y = op.mul(x, w)
            r: $L = G.make("Cons", y, more)
        case _:
            r: $L = xs
    return r
"""
TWICE_MAIN = """
def main(xs: $L, w: $R):
    y: $L = twice(xs, w)
    return y
"""


def test_a_list_from_a_list(tmp_path: Path) -> None:
    made = module(TWICE, TWICE_MAIN)
    executable = compiled(made)
    loaded = heddle.load(executable.export_library(tmp_path / "twice.so"))
    w = np.asarray([2, 4], np.float32)
    for count in (0, 1, 2, 50):
        check(made, executable, numbers(count), w)
        check(made, loaded, numbers(count), w)


def test_results_are_inputs() -> None:
    """In Python the values, elsewhere the arrays: the root comes last."""
    made = module(TWICE, TWICE_MAIN)
    executable = compiled(made)
    w = np.asarray([2, 4], np.float32)
    once = executable(numbers(3), w)
    check(made, executable, once, w)
    arrays = executable._call((*numbers(3).arrays(), w))
    again = executable._call((*(item.numpy() for item in arrays), w))
    found = from_arrays(List, [item.numpy() for item in again])
    assert plain(found) == plain(executable(once, w))


def test_long_lists() -> None:
    executable = compiled(module(TWICE, TWICE_MAIN))
    found = executable(numbers(20_000), np.asarray([2, 4], np.float32))
    assert found.fields[1].fields[0].tolist() == [2, 6]
    assert len(plain(found)) == 20_001


def test_nodes_are_written_in_place() -> None:
    lowered = optimize(module(TWICE, TWICE_MAIN))
    plan = plan_memory(lowered)
    body = plan.functions["twice_node"]
    assert {1, 2, 3} <= set(body.shared)
    names = {step.kernel for f in plan.functions.values() for step in f.calls}
    assert "index_copy" not in {name.rstrip("_0123456789") for name in names}


REVERSE = """
def reverse(xs: $L, acc: $L):
    match xs:
        case Cons(x, rest):
            more: $L = G.make("Cons", x, acc)
            r: $L = reverse(rest, more)
        case _:
            r: $L = acc
    return r
"""
REVERSE_MAIN = """
def main(xs: $L):
    none: $L = G.make("Nil")
    y: $L = reverse(xs, none)
    return y
"""


def test_a_tail_call_that_makes_values() -> None:
    made = module(REVERSE, REVERSE_MAIN)
    assert "reverse_step" in optimize(made, stop_after="loop_tail_calls")
    executable = compiled(made)
    for count in (0, 1, 7, 30):
        check(made, executable, numbers(count))
    found = executable(numbers(5000))
    assert found.fields[0].tolist() == [4999, 4999.5]


MIRROR = """
def mirror(t: $T, w: $R):
    match t:
        case Leaf(x):
            y = op.mul(x, w)
            r: $T = G.make("Leaf", y)
            s: $R = y
            q = (r, s)
        case Node(left, right):
            a: G.Tuple($T, $R) = mirror(left, w)
            b: G.Tuple($T, $R) = mirror(right, w)
            a0 = a[0]
            b0 = b[0]
            a1 = a[1]
            b1 = b[1]
            r: $T = G.make("Node", b0, a0)
            s: $R = op.add(a1, b1)
            q = (r, s)
    return q
"""
MIRROR_MAIN = """
def main(t: $T, w: $R):
    y: G.Tuple($T, $R) = mirror(t, w)
    mirrored: $T = y[0]
    total: $R = y[1]
    return (mirrored, total)
"""


def test_trees_and_tensors_together() -> None:
    made = module(MIRROR, MIRROR_MAIN)
    executable = compiled(made)
    rng = np.random.default_rng(1)
    w = np.asarray([1, 3], np.float32)
    for leaves in (1, 2, 3, 20):
        check(made, executable, tree_of(leaves, rng), w)


def test_a_part_of_an_input_is_a_result() -> None:
    """The left-most leaf; nothing is made."""
    leftmost = """
def leftmost(t: $T):
    match t:
        case Node(left, right):
            r: $T = leftmost(left)
        case _:
            r: $T = t
    return r
"""
    main = "def main(t: $T):\n    y: $T = leftmost(t)\n    return (y, t)\n"
    made = module(leftmost, main)
    executable = compiled(made)
    rng = np.random.default_rng(2)
    for leaves in (1, 2, 9):
        tree = tree_of(leaves, rng)
        found = executable(tree)
        node = tree
        while node.constructor == "Node":
            node = node.fields[0]
        assert plain(found[0]) == plain(node)
        assert plain(found[1]) == plain(tree)


FLATTEN = """
def flatten(t: $T, acc: $L):
    match t:
        case Leaf(x):
            r: $L = G.make("Cons", x, acc)
        case Node(left, right):
            more: $L = flatten(right, acc)
            r: $L = flatten(left, more)
    return r
"""
FLATTEN_MAIN = """
def main(t: $T):
    G.func_attr({"room": 100})
    none: $L = G.make("Nil")
    y: $L = flatten(t, none)
    return y
"""


def test_two_types_and_recursion_of_the_general_kind() -> None:
    made = module(FLATTEN, FLATTEN_MAIN)
    executable = compiled(made)
    rng = np.random.default_rng(3)
    for leaves in (1, 2, 5, 40):
        check(made, executable, tree_of(leaves, rng))
    with pytest.raises(UserError, match="`y_nodes` is 122, expected 0 to 101"):
        executable(tree_of(120, rng))


def test_sorting() -> None:
    """Insertion: a recursion that makes values inside of one that does."""
    insert = """
def insert(x: $R, xs: $L):
    match xs:
        case Cons(y, rest):
            first = op.gather(op.sub(x, y), G.const(0, "int64"), axis=0)
            less = op.less_equal(first, 0.0)
            if less:
                s: $L = G.make("Cons", x, xs)
            else:
                more: $L = insert(x, rest)
                s: $L = G.make("Cons", y, more)
            r: $L = s
        case _:
            r: $L = G.make("Cons", x, xs)
    return r
"""
    sort = """
def sort(xs: $L):
    match xs:
        case Cons(x, rest):
            more: $L = sort(rest)
            r: $L = insert(x, more)
        case _:
            r: $L = xs
    return r
"""
    main = 'def main(xs: $L):\n    G.func_attr({"room": 400})\n    y: $L = sort(xs)\n    return y\n'
    made = module(insert, sort, main)
    executable = compiled(made)
    rng = np.random.default_rng(4)
    for count in (0, 1, 5, 12):
        value = List.Nil()
        for _ in range(count):
            value = List.Cons(rng.integers(0, 100, 2), value)
        check(made, executable, value)
    without = module(insert, sort, "def main(xs: $L):\n    y: $L = sort(xs)\n    return y\n")
    with pytest.raises(UserError, match=r'`sort`: nothing says how many values.*"room"'):
        heddle.compile(without, cache=False)


def test_maps_of_maps_and_sums_of_what_was_made() -> None:
    total = """
def total(xs: $L):
    match xs:
        case Cons(x, rest):
            y: $R = total(rest)
            r: $R = op.add(x, y)
        case _:
            r: $R = G.const([0, 0], "float32")
    return r
"""
    main = """
def main(xs: $L, w: $R, which: G.Tensor((), "bool")):
    if which:
        a: $L = twice(xs, w)
        b: $L = twice(a, w)
        y: $L = b
    else:
        y: $L = xs
    z: $L = twice(y, w)
    s: $R = total(z)
    return (z, s)
"""
    made = module(TWICE, total, main)
    executable = compiled(made)
    for count in (0, 1, 6):
        for which in (True, False):
            check(made, executable, numbers(count), np.asarray([2, 0.5], np.float32), which)


def test_a_list_from_nothing() -> None:
    count_down = """
def count_down(n: $I, acc: $L):
    done = op.less_equal(n, 0)
    if done:
        r: $L = acc
    else:
        x = op.broadcast_to(op.cast(n, dtype="float32"), shape=(2,))
        more: $L = G.make("Cons", x, acc)
        r: $L = count_down(op.sub(n, 1), more)
    return r
"""
    main = """
def main(n: $I):
    G.func_attr({"room": 20})
    none: $L = G.make("Nil")
    y: $L = count_down(n, none)
    return y
"""
    made = module(count_down, main)
    executable = compiled(made)
    for n in (0, 1, 19):
        check(made, executable, np.asarray(n))
    with pytest.raises(UserError, match="`y_nodes` is 32, expected 0 to 21"):
        executable(np.asarray(30))


def test_builder() -> None:
    main = GraphBuilder("main")
    x = main.param("x", TensorType.of((2,), "float32"))
    none = main.make(List, "Nil")
    made = IRModule({"main": main.finish(main.make(List, "Cons", op.mul(x, 2.0), none))})
    verify_module(made)
    check(made, compiled(made), np.asarray([1, 2], np.float32))
    with pytest.raises(UserError, match="List has no Pair; it has Nil, Cons"):
        main.make(List, "Pair")
    with pytest.raises(UserError, match=r"List.Cons has 2 fields, got 1"):
        main.make(List, "Cons", x)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('y: $L = G.make("Pair", x, xs)', "List has no Pair; it has Nil, Cons"),
        ('y: $L = G.make("Cons", x)', "List.Cons has 2 fields, got 1"),
        ('y: $L = G.make("Cons", xs, x)', "field 0 of List.Cons is"),
        ('y = G.make("Cons", x, xs)', "a value needs its type"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module(f"def main(xs: $L, x: $R):\n    {line}\n    return y\n")


def test_two_inputs_of_one_type() -> None:
    append = """
def append(xs: $L, ys: $L):
    match xs:
        case Cons(x, rest):
            more: $L = append(rest, ys)
            r: $L = G.make("Cons", x, more)
        case _:
            r: $L = ys
    return r
"""
    main = "def main(xs: $L, ys: $L):\n    z: $L = append(ys, xs)\n    return z\n"
    made = module(append, main)
    executable = compiled(made)
    for first, second in ((0, 0), (3, 0), (0, 2), (5, 4)):
        check(made, executable, numbers(first), numbers(second))


def test_fields_without_dimensions_and_none_at_all() -> None:
    """Natural numbers as Zero and Succ, and as an integer: two types, in both directions."""
    nat = 'G.Data("Nat", Zero=(), Succ=(G.Self,))'
    box = 'G.Data("Box", Empty=(), Full=(G.Tensor((), "int64"), G.Tensor((3,), "bool")))'
    size = f"""
def size(n: {nat}):
    match n:
        case Succ(less):
            k: $I = size(less)
            r: $I = op.add(k, 1)
        case _:
            r: $I = G.const(0, "int64")
    return r
"""
    main = f"""
def main(n: {nat}, flags: G.Tensor((3,), "bool")):
    k: $I = size(n)
    none = op.equal(k, 0)
    if none:
        b: {box} = G.make("Empty")
    else:
        b: {box} = G.make("Full", k, flags)
    more: {nat} = G.make("Succ", n)
    return (b, more)
"""
    made = module(size, main)
    executable = compiled(made)
    Nat = adt("Nat", Zero=[], Succ=[Self])
    value = Nat.Zero()
    for _ in range(4):
        check(made, executable, value, np.asarray([True, False, True]))
        value = Nat.Succ(value)


def test_parts_that_are_shared_stay_shared() -> None:
    made = module(MIRROR, MIRROR_MAIN)
    leaf = Tree.Leaf([1, 2])
    node = Tree.Node(leaf, leaf)
    found, _ = compiled(made)(Tree.Node(node, node), np.ones(2, np.float32))
    assert found.fields[0] is found.fields[1]
    assert found.fields[0].fields[0] is found.fields[0].fields[1]
