# SPDX-License-Identifier: Apache-2.0
"""Hybrid functions that must fail: the message, and the line and column with the caret."""

from __future__ import annotations

import ast

import pytest

from heddle.script.hybrid import HybridParser
from heddle.script.parse_base import Context, Source
from heddle.support import UserError

HEAD = """\
def f(a, b):
    n = var("n")
    A = bind_buffer(a, shape=[n, 4])
    B = bind_buffer(b, shape=[n])
"""
ROWS = HEAD + '    for i in iter_range(n, iter_type="data_par"):\n'

# (function, the text under the caret, message)
CASES = {
    "unbound parameter": (
        "def f(a, b):\n    A = bind_buffer(a, shape=[4])\n",
        "b",
        (
            "parameter `b` is not bound: write A = bind_buffer(b, shape=[...]), or give a scalar "
            'its dtype, b: "float32"'
        ),
    ),
    "bound twice": (
        HEAD + "    C = bind_buffer(a, shape=[4])\n",
        "a",
        "parameter `a` is bound twice",
    ),
    "no parameter": (
        HEAD + "    C = bind_buffer(c, shape=[4])\n",
        "c",
        "bind_buffer: the first argument is a parameter of the function",
    ),
    "unused symbol": (
        HEAD + '    m = var("m")\n',
        'var("m")',
        "no buffer parameter has a dimension `m`",
    ),
    "unknown iter_type": (
        HEAD + '    for i in iter_range(n, iter_type="dataPar"):\n        B[i] = 0\n',
        '"dataPar"',
        (
            'there is no iter_type "dataPar"; there are "data_par", "reduce", "ordered", '
            '"parallel", "vectorized", "unrolled", "opaque"'
        ),
    ),
    "no range": (
        HEAD + "    for i in A:\n        B[i] = 0\n",
        "A",
        "a loop runs over iter_range(...) or range(...)",
    ),
    "all write one element": (
        ROWS
        + '        for j in iter_range(4, iter_type="data_par"):\n            B[i] = A[i, j]\n',
        "B[i] = A[i, j]",
        (
            "iterations of the data_par loop `j` would all write `B[i]`; a loop that accumulates "
            'is iter_type="reduce", one that runs in order "ordered"'
        ),
    ),
    "reads another iteration": (
        ROWS + "        B[i] = B[i - 1] + A[i, 0]\n",
        "B[i - 1]",
        (
            "iterations of the data_par loop `i` read `B[i - 1]`, which other iterations write "
            '(`B[i]`); a loop whose iterations run in order is iter_type="ordered"'
        ),
    ),
    "reduction without accumulation": (
        ROWS + '        for k in iter_range(4, iter_type="reduce"):\n            B[i] = A[i, k]\n',
        "B[i] = A[i, k]",
        "the reduce loop `k` does not accumulate: each iteration overwrites `B[i]`",
    ),
    "reduction axis as index": (
        HEAD + '    for i in iter_range(n, iter_type="reduce"):\n        B[i] += A[i, 0]\n',
        "B[i] += A[i, 0]",
        (
            "the reduce loop `i` is an index of what it writes, `B[i]`; independent iterations are "
            'iter_type="data_par"'
        ),
    ),
    "dtype of a name": (
        ROWS + "        s = 0\n        s += A[i, 0]\n        B[i] = s\n",
        "s += A[i, 0]",
        "`s + A[i, 0]` of int64 and float32: the dtypes differ; cast one of them",
    ),
    "unknown name": (
        ROWS + "        B[i] = A[i, 0] + aa\n",
        "aa",
        "`aa` is not defined",
    ),
    "rank": (
        ROWS + "        B[i] = A[i]\n",
        "A[i]",
        "buffer `A` has 2 dimensions, got 1 indices",
    ),
    "no effect": (
        ROWS + "        exp(A[i, 0])\n",
        "exp(A[i, 0])",
        "an expression that stands alone has no effect",
    ),
    "statement": (
        HEAD + "    return B\n",
        "return B",
        "a `Return` statement is not part of a hybrid function",
    ),
    "unknown function": (
        ROWS + "        B[i] = cosine(A[i, 0])\n",
        "cosine(A[i, 0])",
        "`cosine` is not a function of the script language",
    ),
    "declared in a loop": (
        ROWS + '        m = var("m")\n',
        'm = var("m")',
        "var(...) stands directly in the function",
    ),
    "assigned loop variable": (
        ROWS + "        i += 1\n",
        "i",
        "`i` cannot be changed",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_message_and_caret(case: str) -> None:
    text, marked, message = CASES[case]
    context = Context(Source(text, "user.py"))
    node = ast.parse(text).body[0]
    with pytest.raises(UserError) as caught:
        HybridParser(context).function(node)
    error = caught.value

    assert error.message == message
    assert error.span is not None
    line = text.splitlines()[error.span.line - 1]
    assert line[error.span.column : error.span.end_column] == marked
    assert f"--> user.py:{error.span.line}:{error.span.column + 1}" in str(error)
