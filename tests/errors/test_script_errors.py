# SPDX-License-Identifier: Apache-2.0
"""Scripts that must fail: each says what is wrong, at line and column, with a caret."""

from __future__ import annotations

import pytest

from heddle import op  # the operators that graph scripts call
from heddle.script import G, I, T, parse
from heddle.support import UserError

assert op  # imported for its effect

LOOP = '@T.prim_func\ndef f(A: T.Buffer((8,), "float32"), n: T.int64):\n'
GRAPH = '@G.function\ndef f(x: G.Tensor((2, 3), "float32")):\n'
CHOICE = '@G.function\ndef f(c: G.Tensor((), "bool")):\n'

# (script, the part of line `line` that carries the caret, line, message)
CASES = {
    "unknown name": (LOOP + "    A[m] = 0.0\n", "m", 3, "`m` is not defined"),
    "near name": (LOOP + "    A[nn] = 0.0\n", "nn", 3, "`nn` is not defined; did you mean `n`?"),
    "unknown intrinsic": (
        LOOP + "    A[0] = T.expp(A[0])\n",
        "T.expp",
        3,
        "there is no `T.expp`; did you mean `exp`?",
    ),
    "rank": (
        LOOP + "    A[0, n] = 0.0\n",
        "A[0, n]",
        3,
        "buffer `A` has 1 dimensions, got 2 indices",
    ),
    "store dtype": (
        LOOP + "    A[0] = n\n",
        "n",
        3,
        "store to buffer `A` of float32: the value is int64; cast it",
    ),
    "mixed dtypes": (
        LOOP + "    A[0] = A[0] + n\n",
        "A[0] + n",
        3,
        "`A[0] + n` of float32 and int64: the dtypes differ; cast one of them",
    ),
    "integer division": (
        LOOP + "    A[n / 2] = 0.0\n",
        "n / 2",
        3,
        "`/` of int64: use `//` (floor) or T.truncdiv for integers",
    ),
    "float index": (
        LOOP + "    A[1.5] = 0.0\n",
        "1.5",
        3,
        "an index must be an integer, got float32",
    ),
    "rebound name": (
        LOOP + "    v = A[0]\n    for i in T.serial(8):\n        v = A[i]\n",
        "v = A[i]",
        5,
        "`v` is already defined here; names are bound once",
    ),
    "loop over a list": (
        LOOP + "    for i in [1, 2]:\n        A[i] = 0.0\n",
        "[1, 2]",
        3,
        "a loop runs over T.serial, T.parallel, T.vectorized, T.unrolled, T.grid or range",
    ),
    "grid arity": (
        LOOP + "    for i, j in T.grid(8):\n        A[i] = 0.0\n",
        "i, j",
        3,
        "T.grid of 1 loops, but 2 variables",
    ),
    "axis outside a block": (
        LOOP + "    vi = T.axis.spatial(8, n)\n",
        "vi = T.axis.spatial(8, n)",
        3,
        "T.axis.spatial stands directly in a block: with T.block(...)",
    ),
    "axis kind": (
        LOOP + '    with T.block("b"):\n        vi = T.axis.spacial(8, n)\n',
        "T.axis.spacial",
        4,
        "there is no `T.axis.spacial`; did you mean `spatial`?",
    ),
    "remap of no loop": (
        LOOP + '    with T.block("b"):\n        vi = T.axis.remap("S", [n])\n',
        "n",
        4,
        "`n` is not a loop around this block",
    ),
    "region rank": (
        LOOP + '    with T.block("b"):\n        T.reads(A[0:4, 0:4])\n',
        "A[0:4, 0:4]",
        4,
        "buffer `A` has 1 dimensions, the region 2",
    ),
    "missing argument": (
        LOOP + "    A[0] = T.cast(n)\n",
        "T.cast(n)",
        3,
        "T.cast: argument `dtype` is missing",
    ),
    "unknown argument": (
        LOOP + "    for i in T.serial(8, step=2):\n        A[i] = 0.0\n",
        "step=2",
        3,
        "T.serial has no argument `step`; it has `extent`, `start`, `dtype`, `annotations`",
    ),
    "unknown dtype": (
        LOOP + '    A[0] = T.cast(n, "float31")\n',
        '"float31"',
        3,
        "unknown dtype `float31`",
    ),
    "condition": (
        LOOP + "    if n:\n        A[0] = 0.0\n",
        "n",
        3,
        "expected a condition (bool), got int64",
    ),
    "statement": (
        LOOP + "    import os\n",
        "import os",
        3,
        "a `Import` statement is not part of a loop function",
    ),
    "lambda": (
        LOOP + "    A[0] = (lambda: 1)()\n",
        "(lambda: 1)()",
        3,
        "is not a function of the script language",
    ),
    "eval": (
        LOOP + "    eval('1')\n",
        "eval('1')",
        3,
        "`eval` is not a function of the script language",
    ),
    "untyped parameter": (
        "@T.prim_func\ndef f(A):\n    pass\n",
        "A",
        2,
        "parameter `A` needs a type: T.Buffer(",
    ),
    "decorator": ("@jit\ndef f():\n    pass\n", "jit", 1, "`@jit` is not one of @T.prim_func"),
    "syntax": (LOOP + "    A[0] = = 1\n", "=", 3, "not Python syntax: invalid syntax"),
    "division by zero": (
        LOOP + "    A[n // 0] = 0.0\n",
        "n // 0",
        3,
        "FloorDiv by the constant zero",
    ),
    "constant too large": (
        LOOP + "    A[T.int8(300)] = 0.0\n",
        "T.int8(300)",
        3,
        "constant 300 does not fit in int8",
    ),
    "after a tab of non-ASCII text": (
        LOOP + '    assert n < 3, "größer" + m\n',
        "m",
        3,
        "`m` is not defined",
    ),
    "unknown operator": (
        GRAPH + "    y = op.reluu(x)\n    return y\n",
        "op.reluu",
        3,
        "there is no operator `reluu`; did you mean `relu`",
    ),
    "operator attribute": (
        GRAPH + "    y = op.relu(x, speed=3)\n    return y\n",
        "op.relu(x, speed=3)",
        3,
        "op.relu has no attribute `speed`",
    ),
    "no return": (
        GRAPH + "    y = op.relu(x)\n",
        "y = op.relu(x)",
        3,
        "a graph function ends in `return <value>`",
    ),
    "tensor arithmetic": (
        GRAPH + "    return x + x\n",
        "x + x",
        3,
        "tensors are combined by operators such as op.add(x, y)",
    ),
    "missing constant": (
        GRAPH + '    return G.constants["w"]\n',
        'G.constants["w"]',
        3,
        'constant "w" is not in the table of constants (0 entries)',
    ),
    "result type": (
        GRAPH.replace("):", ') -> G.Tensor((3,), "float32"):') + "    return x\n",
        "return x",
        3,
        'the value has type G.Tensor((2, 3), "float32"), but G.Tensor((3,), "float32") is written',
    ),
    "tuple index": (
        GRAPH + "    t = (x, x)\n    return t[2]\n",
        "t[2]",
        4,
        "index 2 of a tuple of 2 fields",
    ),
    "branches": (
        CHOICE + "    if c:\n        a = c\n    else:\n        b = c\n    return a\n",
        "b = c",
        6,
        "both branches must end in an assignment to one name, got `a` and `b`",
    ),
    "call without type": (
        CHOICE.replace("f(", "g(") + "    return c\n\n" + CHOICE + "    y = g(c)\n    return y\n",
        "g(c)",
        7,
        "the call of a function needs its type",
    ),
    "two functions of one name": (
        "@I.ir_module\nclass M:\n    f = I.extern('a')\n    f = I.extern('b')\n",
        "f = I.extern('b')",
        4,
        "the module has two functions `f`",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_message_and_caret(case: str) -> None:
    script, marked, line, message = CASES[case]
    with pytest.raises(UserError) as caught:
        parse(script)
    error = caught.value
    assert message in error.message
    text = script.splitlines()[line - 1]
    assert error.span is not None
    assert (error.span.file, error.span.line) == ("<script>", line)
    assert text[error.span.column : error.span.end_column] == marked
    shown = str(error).splitlines()
    carets = shown[-1].split("|", 1)[1][1:]
    assert carets == " " * error.span.column + "^" * len(marked)
    assert shown[-2].endswith(text)


@pytest.mark.parametrize("text", ["", "# nothing\n", "x = 1\n", "\0", "(" * 500, "1 +" * 9 + "1"])
def test_no_script(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert caught.value.span is not None


def test_nesting() -> None:
    deep = LOOP + f"    A[{'n + (' * 150}n{')' * 150}] = 0.0\n"
    parse(deep)
    with pytest.raises(UserError, match="nested"):
        parse(LOOP + f"    A[{'-' * 5000}n] = 0.0\n")


def test_decorator_points_into_this_file() -> None:
    with pytest.raises(UserError) as caught:

        @T.prim_func
        def wrong(A: T.Buffer((8,), "float32")):  # type: ignore[no-untyped-def]
            A[0] = A[missing]

    span = caught.value.span
    assert span is not None
    assert span.file == __file__
    assert "A[0] = A[missing]" in span.source_line()
    assert span.source_line()[span.column : span.end_column] == "missing"
    assert "`missing` is not defined" in str(caught.value)


def test_class_decorator_points_into_this_file() -> None:
    with pytest.raises(UserError) as caught:

        @I.ir_module
        class Module:
            @G.function
            def main(x: G.Tensor((2,), "float32")):  # type: ignore[no-untyped-def]
                return op.relu(z)

    span = caught.value.span
    assert span is not None
    assert span.source_line()[span.column : span.end_column] == "z"


def test_names_of_the_language_outside_scripts() -> None:
    with pytest.raises(AttributeError, match="meaning only inside"):
        T.exp(1.0)
