# SPDX-License-Identifier: Apache-2.0
"""Algebraic data types, `match` and closures: values, text, checks, meaning."""

from __future__ import annotations

import numpy as np
import pytest

from heddle import op
from heddle.graph import Call, Constant, GraphBuilder, data_type, verify_module
from heddle.graph.data import declaration
from heddle.ir import IRModule, TensorType, first_mismatch
from heddle.op.interp import interpret
from heddle.runtime.data import Adt, Self, adt, in_order, list_of
from heddle.script import parse
from heddle.support import UserError

Tree = adt("Tree", Leaf=[((2,), "float32")], Node=[Self, Self])
TREE = 'G.Data("Tree", Leaf=(G.Tensor((2,), "float32"),), Node=(G.Self, G.Self))'
ROW = 'G.Tensor((2,), "float32")'

TOTAL = f"""
@I.ir_module
class Module:
    @G.function
    def scale(x: {ROW}, by: {ROW}):
        return op.mul(x, by)

    @G.function
    def total(f: G.Func(({ROW},), {ROW}), t: {TREE}):
        match t:
            case Leaf(x):
                r: {ROW} = f(x)
            case Node(left, right):
                a: {ROW} = total(f, left)
                b: {ROW} = total(f, right)
                r: {ROW} = op.add(a, b)
        return r

    @G.function
    def main(t: {TREE}, w: {ROW}):
        f: G.Func(({ROW},), {ROW}) = G.closure(scale, (w,))
        y: {ROW} = total(f, t)
        return y
"""


def test_arrays_of_a_value() -> None:
    a, b = Tree.Leaf([1, 2]), Tree.Leaf([3, 4])
    shared = Tree.Node(a, b)
    tag, row, children, leaves = Tree.Node(shared, shared).arrays()
    assert tag.tolist() == [0, 0, 1, 1]
    assert row.tolist() == [0, 1, 0, 1]
    assert children.tolist() == [[-1, -1], [-1, -1], [0, 1], [2, 2]]
    np.testing.assert_array_equal(leaves, [[1, 2], [3, 4]])
    assert leaves.dtype == np.float32
    assert Tree.arrays == ("tag", "row", "children", "Leaf.0")


def test_a_pool_has_a_row_at_least() -> None:
    numbers = list_of((), "int64")
    assert [a.shape for a in numbers.Nil().arrays()] == [(1,), (1,), (1, 1), (1,)]


def test_deep_values_do_not_recurse() -> None:
    numbers = list_of((), "int64")
    value = numbers.Nil()
    for k in range(20_000):
        value = numbers.Cons(k, value)
    assert len(in_order(value)) == 20_001
    assert value.arrays()[3][-1] == 19_999


def test_declarations_there_and_back() -> None:
    assert declaration(data_type(Tree)) == Tree
    assert Adt.from_json(Tree.to_json()) == Tree
    assert repr(Tree) == "Tree = Leaf(float32 (2,)) | Node(Self, Self)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tree.Leaf([1, 2, 3]), r"Tree.Leaf: field 0 has shape \(3,\), expected \(2,\)"),
        (lambda: Tree.Leaf(["a", "b"]), "Tree.Leaf: field 0 is <U1, expected float32"),
        (lambda: Tree.Node(Tree.Leaf([1, 2])), "Tree.Node takes 2 fields, got 1"),
        (lambda: Tree.Node(1, 2), "Tree.Node: field 0 must be a Tree, got int"),
        (lambda: adt("Endless", More=[Self]), "no constructor is without Endless itself"),
        (lambda: adt("Odd", A=[3]), "Odd.A: a field is Self or a pair"),
    ],
)
def test_values_that_do_not_fit(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]


def test_unknown_constructor() -> None:
    with pytest.raises(AttributeError, match="Tree has no Twig; it has Leaf, Node"):
        Tree.Twig()


def test_prints_and_parses() -> None:
    module = parse(TOTAL)
    verify_module(module)
    assert first_mismatch(parse(str(module)), module) is None
    assert "case Node(left, right):" in str(module)


def test_interpreted() -> None:
    tree = Tree.Node(Tree.Leaf([1, 2]), Tree.Node(Tree.Leaf([3, 4]), Tree.Leaf([5, 6])))
    w = np.asarray([10, 100], np.float32)
    np.testing.assert_array_equal(interpret(parse(TOTAL), [tree, w]), [90, 1200])


def test_interpreter_checks_the_type() -> None:
    other = list_of((2,), "float32").Nil()
    with pytest.raises(UserError, match=r"input `t` is List = .*expected Tree = Leaf"):
        interpret(parse(TOTAL), [other, np.ones(2, np.float32)])


MATCH = f"@G.function\ndef f(t: {TREE}):\n    match t:\n"


@pytest.mark.parametrize(
    ("arms", "message", "line"),
    [
        (("Leaf(x)", "r = x"), "`match` on Tree has no arm for Node", 3),
        (("Leaf(x)", "r = x", "Twig(a)", "r = a"), "Tree has no constructor Twig", 6),
        (("Leaf(x, y)", "r = x", "_", "r = y"), "Leaf has 1 fields, got 2", 4),
        (("Leaf(x) if x", "r = x", "_", "r = y"), "an arm of a graph function has no guard", 4),
        (("Node(Leaf(x), b)", "r = x", "_", "r = y"), "patterns are not nested", 4),
        (("Leaf(x)", "r = x", "_", "s = t"), "assignment to one name, got `r`, `s`", 3),
    ],
)
def test_scripts_that_do_not_match(arms: tuple[str, ...], message: str, line: int) -> None:
    cases = zip(arms[::2], arms[1::2], strict=True)
    text = "".join(f"        case {form}:\n            {body}\n" for form, body in cases)
    with pytest.raises(UserError) as caught:
        parse(f"{MATCH}{text}    return r\n")
    assert message in str(caught.value)
    assert f":{line}:" in str(caught.value)


def test_verifier_names_missing_constructors() -> None:
    module = parse(TOTAL)
    total = module["total"]
    binding = total.bindings[0]  # type: ignore[attr-defined]
    broken = binding.replace(value=binding.value.replace(arms=binding.value.arms[:1]))
    bad = module.with_functions({"total": total.replace(bindings=(broken,))})  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="value `r`: `match` on Tree has no arm for Node"):
        verify_module(bad)


def test_builder() -> None:
    b = GraphBuilder("main")
    tree, w = b.param("t", Tree), b.param("w", TensorType.of((2,), "float32"))
    zero = Constant(np.zeros(2, np.float32))
    r = b.emit_match(tree, {"Leaf": lambda x: op.mul(x, w), "_": lambda: zero})
    module = IRModule({"main": b.finish(r)})
    verify_module(module)
    assert first_mismatch(parse(str(module)), module) is None
    leaf = Tree.Leaf([3, 4])
    ones = np.asarray([2, 2], np.float32)
    np.testing.assert_array_equal(interpret(module, [leaf, ones]), [6, 8])
    np.testing.assert_array_equal(interpret(module, [Tree.Node(leaf, leaf), ones]), [0, 0])


def test_builder_names_missing_constructors() -> None:
    b = GraphBuilder("main")
    tree = b.param("t", Tree)
    with pytest.raises(UserError, match="`match` on Tree has no arm for Node"):
        b.emit_match(tree, {"Leaf": lambda x: x})
    with pytest.raises(UserError, match="Leaf has 1 fields, its arm takes 2"):
        b.emit_match(tree, {"Leaf": lambda x, y: x, "_": lambda: tree})


def test_lambda_captures() -> None:
    row = TensorType.of((2,), "float32")
    b = GraphBuilder("main")
    x, w = b.param("x", row), b.param("w", row)
    held, scale = b.emit_lambda("scale", [row], lambda item: item * w + w)
    y = b.call("twice", (held, x), row)
    twice = GraphBuilder("twice")
    f, item = twice.param("f", held.type), twice.param("item", row)
    once = twice.emit(Call(f, (item,), {}, row))
    again = twice.emit(Call(f, (once,), {}, row))
    module = IRModule({"main": b.finish(y), "scale": scale, "twice": twice.finish(again)})
    verify_module(module)
    assert [param.name for param in scale.params] == ["item", "w"]
    got = interpret(module, [np.asarray([1, 2], np.float32), np.asarray([3, 5], np.float32)])
    np.testing.assert_array_equal(got, [(1 * 3 + 3) * 3 + 3, (2 * 5 + 5) * 5 + 5])
