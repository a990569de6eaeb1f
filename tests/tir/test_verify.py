# SPDX-License-Identifier: Apache-2.0
"""The verifier: what it accepts, and each thing that it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from heddle.ir.dtype import FLOAT64
from heddle.ir.expr import Add, FloatImm, IntImm, Var, const
from heddle.ir.module import IRModule
from heddle.support import Span, UserError
from heddle.tir.build import (
    decl_buffer,
    load,
    loop,
    make_block,
    point,
    prim_func,
    reduction,
    seq,
    spatial,
    store,
)
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    ForKind,
    IfThenElse,
    PrimFunc,
    Range,
    Stmt,
)
from heddle.tir.verify import verify

N = 8


class Parts:
    """The pieces of `for i: block B: C[vi] = A[vi]`, to be put together wrongly."""

    def __init__(self) -> None:
        self.a = decl_buffer((N,), name="A")
        self.c = decl_buffer((N,), name="C")
        self.i = Var("i")
        self.axis = spatial(N, self.i, "vi")
        self.vi = self.axis.var

    def block(self, **changes: Any) -> Block:
        made = make_block(
            "B",
            [self.axis],
            store(self.c, load(self.a, self.vi), self.vi),
            reads=[point(self.a, [self.vi])],
            writes=[point(self.c, [self.vi])],
        )
        return made.replace(**changes) if changes else made

    def func(self, body: Stmt | None = None, **loop_changes: Any) -> PrimFunc:
        around = loop(self.i, N, self.block() if body is None else body)
        around = around.replace(**loop_changes) if loop_changes else around
        return prim_func([self.a, self.c], around, name="f")


def undefined_variable(p: Parts) -> PrimFunc:
    return p.func(p.block(predicate=Var("z") < 3))


def undefined_buffer(p: Parts) -> PrimFunc:
    other = decl_buffer((N,), name="X")
    return p.func(p.block(body=store(p.c, load(other, p.vi), p.vi)))


def defined_twice(p: Parts) -> PrimFunc:
    return p.func(loop(p.i, 2, p.block()))


def two_blocks(p: Parts) -> PrimFunc:
    second = spatial(N, p.i, "vj")
    other = make_block(
        "B",
        [second],
        store(p.c, 1.0, second.var),
        reads=[],
        writes=[point(p.c, [second.var])],
    )
    return p.func(seq(p.block(), other))


def wrong_rank(p: Parts) -> PrimFunc:
    return p.func(p.block(body=BufferStore(p.c, FloatImm(1.0, p.c.dtype), (p.vi, p.vi))))


def wrong_dtype(p: Parts) -> PrimFunc:
    return p.func(p.block(body=BufferStore(p.c, const(1.0, FLOAT64), (p.vi,))))


def mixed_operands(p: Parts) -> PrimFunc:
    value = Add(load(p.a, p.vi), const(1.0, FLOAT64))
    return p.func(p.block(body=BufferStore(p.c, value, (p.vi,))))


def float_index(p: Parts) -> PrimFunc:
    value = BufferLoad(p.a, (const(1.0, "float32"),))  # type: ignore[call-arg]
    return p.func(p.block(body=store(p.c, value, p.vi)))


def undeclared_read(p: Parts) -> PrimFunc:
    return p.func(p.block(reads=()))


def undeclared_write(p: Parts) -> PrimFunc:
    return p.func(p.block(writes=()))


def read_elsewhere(p: Parts) -> PrimFunc:
    return p.func(p.block(reads=(point(p.a, [p.vi + 1]),)))


def out_of_domain(p: Parts) -> PrimFunc:
    return p.func(extent=const(N + 1))


def out_of_domain_in_spite_of_the_predicate(p: Parts) -> PrimFunc:
    return p.func(p.block(predicate=p.i < N + 2), extent=const(N + 4))


def out_of_bounds(p: Parts) -> PrimFunc:
    body = store(p.c, load(p.a, p.vi + N), p.vi)
    return p.func(p.block(body=body, reads=(point(p.a, [p.vi + N]),)))


def store_out_of_bounds(p: Parts) -> PrimFunc:
    index = p.vi - N
    return p.func(p.block(body=store(p.c, 0.0, index), writes=(point(p.c, [index]),)))


def parallel_reduction(p: Parts) -> PrimFunc:
    k = reduction(N, p.i, "vk")
    zero = const(0)
    total = load(p.c, zero) + load(p.a, k.var)
    block = make_block(
        "S",
        [k],
        store(p.c, total, zero),
        reads=[point(p.a, [k.var])],
        writes=[point(p.c, [zero])],
        init=store(p.c, 0.0, zero),
    )
    return p.func(block, kind=ForKind.PARALLEL)


def condition_of_int(p: Parts) -> PrimFunc:
    return p.func(IfThenElse(IntImm(1), p.block()))


def region_rank(p: Parts) -> PrimFunc:
    one = Range(const(0), const(1))
    return p.func(p.block(reads=(BufferRegion(p.a, (one, one)),)))


REFUSED: dict[Callable[[Parts], PrimFunc], str] = {
    undefined_variable: "f > block `root` > loop `i` > block `B`: `z` is used but not defined here",
    undefined_buffer: "load of `X`, which is not defined here",
    defined_twice: "loop `i`: `i` is defined twice",
    two_blocks: "two blocks are called `B`",
    wrong_rank: "store to `C` with 2 indices; it has 1 dimensions",
    wrong_dtype: "store to `C` of float32: the value is float64",
    mixed_operands: "Add of float32 and float64",
    float_index: "index 0 of `A` must be an integer, got float32",
    undeclared_read: "`A` is not among the reads that the block declares",
    undeclared_write: "`C` is not among the writes that the block declares",
    read_elsewhere: "the access to `A` lies outside the reads that the block declares",
    out_of_domain: "the binding of `vi` leaves [0, extent) where the predicate holds: at i = 8 it "
    "is 8, and the extent is 8",
    out_of_domain_in_spite_of_the_predicate: "the binding of `vi` leaves [0, extent)",
    out_of_bounds: "index 0 of `A` lies in [8, 15], outside [0, 8)",
    store_out_of_bounds: "index 0 of `C` lies in [-8, -1], outside [0, 8)",
    parallel_reduction: "parallel loop `i` carries the reduction variable `vk`: its iterations",
    condition_of_int: "a condition must be bool, got int64",
    region_rank: "a region of `A` has 2 dimensions, the buffer 1",
}


@pytest.mark.parametrize("build", REFUSED, ids=lambda build: build.__name__)
def test_refused(build: Callable[[Parts], PrimFunc]) -> None:
    with pytest.raises(UserError, match=re.escape(REFUSED[build])):
        verify(build(Parts()))


def test_accepted() -> None:
    parts = Parts()
    verify(parts.func())
    verify(IRModule({"f": Parts().func(), "g": Parts().func()}))


def test_accepts_a_guarded_remainder() -> None:
    parts = Parts()
    verify(parts.func(parts.block(predicate=parts.i < N), extent=const(N + 4)))


def test_symbolic_remainder_loops() -> None:
    n, o, i, t = Var("n"), Var("o"), Var("i"), Var("t")
    a, c = (Buffer(name, (n,), decl_buffer((1,)).dtype) for name in "AC")

    def copy_at(name: str, binding: Any) -> Block:
        axis = spatial(n, binding, "vi")
        place = [axis.var]
        return make_block(
            name,
            [axis],
            store(c, load(a, place), place),
            reads=[point(a, place)],
            writes=[point(c, place)],
        )

    main = loop(o, n // 4, loop(i, 4, copy_at("main", o * 4 + i)))
    verify(prim_func([a, c], seq(main, loop(t, n % 4, copy_at("tail", n // 4 * 4 + t)))))
    o, i = Var("o"), Var("i")
    bad = loop(o, (n + 3) // 4, loop(i, 4, copy_at("main", o * 4 + i)))
    with pytest.raises(UserError, match="the binding of `vi` leaves"):
        verify(prim_func([a, c], bad))


def test_errors_point_at_the_source() -> None:
    parts = Parts()
    body = parts.block().body.replace(span=Span("kernel.py", 4, 4, text="    C[vi] = A[vi]"))
    with pytest.raises(UserError, match=r"--> kernel.py:4:5"):
        verify(parts.func(parts.block(body=body, reads=())))
