# SPDX-License-Identifier: Apache-2.0
"""Probabilities of classes from those of pairs of classes."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.expr import Expr, const, logical_and, maximum
from heddle.ir.expr import Var as Symbol
from heddle.op.common import require_ndim, require_shape
from heddle.op.registry import operator
from heddle.op.sample import case, floats
from heddle.support import UserError
from heddle.tir import intrin
from heddle.tir.build import decl_buffer, for_nest, load, loop, seq, store
from heddle.tir.nodes import Allocate, Buffer, LetStmt, Stmt, While

_ROUNDS: Final = 100
_ERROR: Final = 0.005


@operator("couple", kind="opaque", dtypes="float")
def couple(x: TensorType, *, classes: int) -> TensorType:
    """Probabilities of classes, [n, classes], from those of pairs, [n, pairs]: of i < j, in the
    order (0, 1), (0, 2), ..., (1, 2), ..., how likely i is if it is one of the two.

    The second method of Wu, Lin and Weng, "Probability estimates for multi-class classification by
    pairwise coupling" (2004), with the stopping rule of LIBSVM: at most 100 rounds, until no class
    is off by more than 0.005 / classes.
    """
    require_ndim(x, "x", 2)
    if classes < 2:
        raise UserError(f"classes is {classes}, expected two or more")
    require_shape(x, "x", [x.shape[0], const(classes * (classes - 1) // 2)])
    return TensorType((x.shape[0], const(classes)), x.dtype)


@couple.rule("compute")
def _(x: te.Tensor, *, classes: int) -> te.Tensor:
    count, kind = const(classes), x.dtype

    def body(ins: list[Buffer], outs: list[Buffer], row: Expr) -> Stmt:
        chosen = outs[0]
        table, pull = (
            decl_buffer(shape, kind, name, scope="local")
            for shape, name in (((classes, classes), "table"), ((classes,), "pull"))
        )
        # The mean pull and the largest error, and the rounds that were done.
        state = decl_buffer((2,), kind, "state", scope="local")
        rounds = decl_buffer((1,), "int64", "rounds", scope="local")
        work = _Work(classes, row, chosen, table, pull, state)
        more = logical_and(
            load(rounds, const(0)) < _ROUNDS, load(state, const(1)) >= const(_ERROR / classes, kind)
        )
        turn = seq(
            work.adjust(), work.measure(), store(rounds, load(rounds, const(0)) + 1, const(0))
        )
        at = Symbol("i")
        start = loop(at, count, store(chosen, const(1.0 / classes, kind), (row, at)))
        whole = seq(
            work.fill(ins[0]),
            start,
            work.measure(),
            store(rounds, const(0), const(0)),
            While(more, turn),
        )
        for buffer in (table, pull, state, rounds):
            whole = Allocate(buffer, whole)
        return whole

    shape = (x.shape[0], count)
    result: te.Tensor = te.extern(shape, [x], body, kind, name="couple", rows=x.shape[:1])
    return result


class _Work:
    """The parts of a round for one row. table: the quadratic form Q that the probabilities p
    minimise; pull: Q p; state: p Q p, and the largest distance of a pull from it."""

    def __init__(
        self, classes: int, row: Expr, chosen: Buffer, table: Buffer, pull: Buffer, state: Buffer
    ) -> None:
        self.classes = classes
        self.row = row
        self.chosen = chosen
        self.table = table
        self.pull = pull
        self.state = state

    def fill(self, pairs: Buffer) -> Stmt:
        """Q: off the diagonal -r[i, j] * r[j, i], on it the sum of the squares of r[j, i]."""
        one = const(1.0, pairs.dtype)
        number = {pair: at for at, pair in enumerate(_pairs(self.classes))}

        def share(i: int, j: int) -> Expr:
            if i < j:
                return load(pairs, (self.row, const(number[i, j])))
            return one - load(pairs, (self.row, const(number[j, i])))

        steps = []
        for i, j in itertools.product(range(self.classes), repeat=2):
            if i != j:
                value = const(0.0, pairs.dtype) - share(i, j) * share(j, i)
            else:
                others = [share(other, i) for other in range(self.classes) if other != i]
                value = others[0] * others[0]
                for other in others[1:]:
                    value = value + other * other
            steps.append(store(self.table, value, (const(i), const(j))))
        return seq(*steps)

    def measure(self) -> Stmt:
        """Pulls and the largest error, from the probabilities."""
        i, j, k = Symbol("i"), Symbol("j"), Symbol("k")
        kind = self.table.dtype
        zero, mean, error = const(0.0, kind), const(0), const(1)
        term = load(self.table, (i, j)) * load(self.chosen, (self.row, j))
        more = store(self.pull, load(self.pull, i) + term, i)
        part = load(self.chosen, (self.row, i)) * load(self.pull, i)
        row = seq(
            store(self.pull, zero, i),
            loop(j, const(self.classes), more),
            store(self.state, load(self.state, mean) + part, mean),
        )
        away = intrin.fabs(load(self.pull, k) - load(self.state, mean))
        worst = store(self.state, maximum(load(self.state, error), away), error)
        return seq(
            store(self.state, zero, mean),
            loop(i, const(self.classes), row),
            store(self.state, zero, error),
            loop(k, const(self.classes), worst),
        )

    def adjust(self) -> Stmt:
        """Each class in turn moves to where its pull is the mean, and all are scaled to sum 1."""
        i, j = Symbol("i"), Symbol("j")
        kind = self.table.dtype
        move, scale = Symbol("move", kind), Symbol("scale", kind)
        mean, own = load(self.state, const(0)), load(self.table, (i, i))
        ahead = load(self.pull, i)
        place = (self.row, i)
        taken = (mean + move * (move * own + const(2.0, kind) * ahead)) / scale / scale
        pull = (load(self.pull, j) + move * load(self.table, (i, j))) / scale
        others = seq(
            store(self.pull, pull, j),
            store(self.chosen, load(self.chosen, (self.row, j)) / scale, (self.row, j)),
        )
        turn = seq(
            store(self.chosen, load(self.chosen, place) + move, place),
            store(self.state, taken, const(0)),
            for_nest([(j, const(self.classes))], others),
        )
        whole = LetStmt((mean - ahead) / own, move, LetStmt(const(1.0, kind) + move, scale, turn))
        return loop(i, const(self.classes), whole)


def _pairs(classes: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(classes), 2))


@couple.rule("numpy")
def _(x: np.ndarray, *, classes: int) -> np.ndarray:
    return np.stack([_coupled(row, classes) for row in x]) if len(x) else np.zeros((0, classes))


def _coupled(pairs: np.ndarray, classes: int) -> np.ndarray:
    share = np.zeros((classes, classes), pairs.dtype)
    for (i, j), value in zip(_pairs(classes), pairs, strict=True):
        share[i, j], share[j, i] = value, 1 - value
    table = -share * share.T
    np.fill_diagonal(table, (share * share).sum(axis=0))
    chosen = np.full(classes, 1 / classes, pairs.dtype)
    for _round in range(_ROUNDS + 1):
        pull = table @ chosen
        mean = chosen @ pull
        if np.abs(pull - mean).max() < _ERROR / classes or _round == _ROUNDS:
            break
        for i in range(classes):
            move = (mean - pull[i]) / table[i, i]
            chosen[i] += move
            mean = (mean + move * (move * table[i, i] + 2 * pull[i])) / (1 + move) / (1 + move)
            pull = (pull + move * table[i]) / (1 + move)
            chosen /= 1 + move
    return chosen


couple.not_differentiable("rounds stop where the error is small")


def _sample(rows: int, classes: int) -> Any:
    return case(floats(rows, classes * (classes - 1) // 2, low=0.05, high=0.95), classes=classes)


couple.samples(_sample(5, 2), _sample(7, 3), _sample(3, 5), _sample(0, 3))
