# SPDX-License-Identifier: Apache-2.0
"""Random programs of updates, branches and loops over caches, against the interpreter: nothing is
written over that somebody still reads."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import Constant, GraphBuilder, GraphExpr, Tuple, TupleGetItem, Var
from heddle.ir import IRModule, TensorType
from heddle.ir.module import BaseFunc
from heddle.op.interp import interpret

ROWS, SIZE, CACHES = 5, 3, 3
CACHE = TensorType.of((ROWS, SIZE), "float32")
INT = TensorType.of((), "int64")


class Program:
    """A seeded program; `functions` are the bodies of its loops."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.functions: dict[str, BaseFunc] = {}
        self.loops = 0

    def module(self) -> IRModule:
        main = GraphBuilder("main")
        caches = [main.param(f"c{k}", CACHE) for k in range(CACHES)]
        flag, number = main.param("flag", TensorType.of((), "bool")), main.param("number", INT)
        results = self.steps(main, caches, flag, number, depth=0)
        return IRModule({"main": main.finish(Tuple(tuple(results))), **self.functions})

    def steps(
        self, b: GraphBuilder, caches: list[GraphExpr], flag: Var, number: Var, depth: int
    ) -> list[GraphExpr]:
        """The caches after a few random steps: some are the old ones, in any order."""
        caches = list(caches)
        for _ in range(int(self.rng.integers(1, 5))):
            kinds = ["write", "write", "whole", "read", "swap", "branch", "branch", "loop"]
            kind = kinds[int(self.rng.integers(len(kinds) if depth < 2 else 5))]
            at = int(self.rng.integers(CACHES))
            other = caches[int(self.rng.integers(CACHES))]
            if kind == "write":
                caches[at] = b.emit(self.written(b, caches[at], other))
            elif kind == "whole":
                caches[at] = b.emit(op.tanh(op.add(caches[at], 0.5)))
            elif kind == "read":
                caches[at] = b.emit(op.add(op.mul(caches[at], 0.5), other))
            elif kind == "swap":
                caches[at], caches[0] = caches[0], caches[at]
            elif kind == "branch":
                caches = self.branch(b, caches, flag, number, depth)
            else:
                caches = self.loop(b, caches, flag, number, depth)
        return caches

    def written(self, b: GraphBuilder, cache: GraphExpr, other: GraphExpr) -> GraphExpr:
        row = Constant(np.asarray([self.rng.integers(ROWS)]))
        part = b.emit(op.sum(op.mul(other, 0.3), axes=(0,), keepdims=True))
        found: GraphExpr = op.index_copy(cache, row, part, axis=0)
        return found

    def branch(
        self, b: GraphBuilder, caches: list[GraphExpr], flag: Var, number: Var, depth: int
    ) -> list[GraphExpr]:
        even = b.emit(op.equal(op.bitwise_and(number, 1), int(self.rng.integers(2))))
        which = flag if self.rng.integers(2) else even

        def arm() -> GraphExpr:
            if self.rng.integers(3) == 0:
                return Tuple(tuple(self.rng.permutation(np.asarray(caches, object)).tolist()))
            return Tuple(tuple(self.steps(b, caches, flag, number, depth + 1)))

        made = b.emit_if(which, arm, arm)
        return [b.emit(TupleGetItem(made, k)) for k in range(CACHES)]

    def loop(
        self, b: GraphBuilder, caches: list[GraphExpr], flag: Var, number: Var, depth: int
    ) -> list[GraphExpr]:
        name = f"body_{self.loops}"
        self.loops += 1
        body = GraphBuilder(name)
        i = body.param("i", INT)
        own: list[GraphExpr] = [body.param(f"c{k}", CACHE) for k in range(CACHES)]
        inner = body.param("flag", TensorType.of((), "bool"))
        results = self.steps(body, own, inner, i, depth + 1)
        function = body.finish(Tuple((Constant(np.asarray(True)), *results)))
        self.functions[name] = function
        count = int(self.rng.integers(0, 4))
        _, finals, _ = b.emit_loop(name, function, carried=caches, captured=(flag,), limit=count)
        return list(finals)


@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed: int) -> None:
    module = Program(seed).module()
    donate = ["c0", "c2"] if seed % 2 else []
    executable = heddle.compile(module, cache=False, donate=donate)
    rng = np.random.default_rng(seed)
    for flag in (True, False):
        for number in (0, 1):
            caches = [rng.standard_normal((ROWS, SIZE)).astype(np.float32) for _ in range(CACHES)]
            given = [*caches, np.asarray(flag), np.asarray(number)]
            want = interpret(module, [item.copy() for item in given])
            found = [item.numpy().copy() for item in executable(*given)]
            for got, expected in zip(found, want, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
