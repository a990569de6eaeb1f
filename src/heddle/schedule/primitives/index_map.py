# SPDX-License-Identifier: Apache-2.0
"""Index maps: functions from indices to indices, given as the text of a lambda."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heddle.ir.expr import Expr, Var, as_expr, as_int
from heddle.schedule.affine import estimate
from heddle.schedule.primitives.base import fail

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}


def parse_index_map(
    sch: Schedule, name: str, text: str, count: int, what: str
) -> tuple[list[Var], list[Expr]]:
    """The `count` parameters of an index map as variables, and its results over them."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise fail(sch, name, f"`index_map` is no Python expression: {error.msg}") from None
    if not isinstance(tree, ast.Lambda):
        raise fail(
            sch,
            name,
            f'`index_map` must be a lambda such as "lambda i: (i // 4, i % 4)", got `{text}`',
        )
    variables = {argument.arg: Var(argument.arg) for argument in tree.args.args}
    if len(variables) != count:
        raise fail(sch, name, f"{what}: {count}, `index_map` takes {len(variables)}")
    body = tree.body.elts if isinstance(tree.body, ast.Tuple) else [tree.body]

    def value(part: ast.expr) -> Expr:
        if isinstance(part, ast.Name) and part.id in variables:
            return variables[part.id]
        if isinstance(part, ast.Constant) and type(part.value) is int:
            return as_expr(part.value)
        if isinstance(part, ast.BinOp) and type(part.op) in _OPERATORS:
            right = value(part.right)
            if isinstance(part.op, (ast.FloorDiv, ast.Mod)) and as_int(right) == 0:
                raise fail(sch, name, f"`index_map` divides by zero in `{ast.unparse(part)}`")
            made: Expr = _OPERATORS[type(part.op)](value(part.left), right)
            return made
        raise fail(sch, name, f"`index_map` cannot use `{ast.unparse(part)}`")

    return list(variables.values()), [value(part) for part in body]


def extents_of(
    sch: Schedule,
    name: str,
    text: str,
    images: Sequence[Expr],
    domain: Mapping[Var, tuple[Expr, Expr]],
) -> list[Expr]:
    """The size of each dimension that an index map leads to."""
    shape: list[Expr] = []
    for image in images:
        box = estimate(image, domain)
        if box is None or box.low.terms or box.low.constant:
            raise fail(sch, name, f"an index of `{text}` does not run from 0")
        shape.append(box.extent)
    return shape
