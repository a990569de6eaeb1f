# SPDX-License-Identifier: Apache-2.0
"""Tables of graph rewrite rules, indexed by the operator at the root of what they match."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from heddle.graph.nodes import Call, GraphExpr
from heddle.passes.graph.anf import Rewriter

RuleFunction: TypeAlias = Callable[[Rewriter, Call], GraphExpr | None]


@dataclass(slots=True)
class Rule:
    """One rule: what it does (the first line of its docstring), where it stands, how often it
    fired."""

    function: RuleFunction
    doc: str
    place: str
    hits: int = 0


@dataclass(slots=True)
class RuleTable:
    """Rules by operator name.

    @RULES.add("transpose")
    def transpose_of_transpose(rewriter, call): ...
    """

    by_op: dict[str, list[Rule]] = field(default_factory=dict)

    def add(self, *names: str) -> Callable[[RuleFunction], RuleFunction]:
        """Decorator: offer calls of these operators to the function."""

        def attach(function: RuleFunction) -> RuleFunction:
            code = function.__code__
            doc = (function.__doc__ or "").strip().split("\n", 1)[0]
            rule = Rule(function, doc, f"{code.co_filename}:{code.co_firstlineno}")
            for name in names:
                self.by_op.setdefault(name, []).append(rule)
            return function

        return attach
