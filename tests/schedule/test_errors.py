# SPDX-License-Identifier: Apache-2.0
"""What primitives refuse: each message once; a refused primitive changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from heddle import te
from heddle.ir.expr import Var
from heddle.schedule import LoopRef, Schedule, ScheduleError
from heddle.support import UserError
from heddle.tir.nodes import PrimFunc
from tests.schedule.kernels import chain, matmul, softmax, stencil


def epilogue() -> PrimFunc:
    return matmul(4, 6, 5, epilogue=True)


def shifted() -> PrimFunc:
    """`C[i] = B[2 * i]`"""
    a = te.placeholder((8,), name="A")
    b = te.compute((8,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((4,), lambda i: b[2 * i], name="C")
    return te.create_prim_func([a, c])


def loop(sch: Schedule, block: str, position: int) -> LoopRef:
    return sch.get_loops(block)[position]


def peeled(sch: Schedule) -> None:
    sch.split(loop(sch, "B", 0), [None, 5], tail="peel")


def consumed(sch: Schedule) -> None:
    i = loop(sch, "C", 0)
    sch.split(i, [None, 2])
    sch.parallel(i)


def vectorized_twice(sch: Schedule) -> None:
    i = loop(sch, "C", 0)
    sch.vectorize(i)
    sch.split(i, [None, 2])


def decomposed(sch: Schedule, then: Callable[[Schedule], object]) -> None:
    sch.decompose_reduction("C", loop(sch, "C", 2))
    then(sch)


def symbolic() -> PrimFunc:
    return chain(Var("n"))


CASES: dict[str, tuple[Callable[[], PrimFunc], Callable[[Schedule], object], str]] = {
    "not a loop": (
        chain,
        lambda s: s.parallel("C"),
        "parallel: argument `loop` must be a loop (from get_loops, split, ...), got str `'C'`",
    ),
    "missing argument": (
        chain,
        lambda s: s.split(loop(s, "C", 0)),
        "split: missing a required argument: 'factors'; the signature is split(",
    ),
    "consumed loop": (
        chain,
        consumed,
        "parallel: argument `loop`: loop `i` does not exist: `split` consumed it",
    ),
    "foreign loop": (
        chain,
        lambda s: s.parallel(LoopRef(Var("x"))),
        "loop `x` does not exist: it is not a loop of this function",
    ),
    "unknown block": (
        chain,
        lambda s: s.compute_inline("D"),
        "compute_inline: argument `block`: there is no block `D`; there are `B`, `C`",
    ),
    "root": (chain, lambda s: s.compute_inline("root"), "there is no block `root`"),
    "factor zero": (
        chain,
        lambda s: s.split(loop(s, "C", 0), [None, 0]),
        "split: argument `factors`: a factor must be positive, got 0",
    ),
    "two unknown factors": (
        chain,
        lambda s: s.split(loop(s, "C", 0), [None, None]),
        "split: argument `factors` must be a list of integers with at most one None",
    ),
    "factors too small": (
        chain,
        lambda s: s.split(loop(s, "C", 0), [2, 3]),
        "split: factors [2, 3] of loop `i` cover 6 iterations of 24; make one factor None",
    ),
    "bad tail": (
        chain,
        lambda s: s.split(loop(s, "C", 0), [None, 5], tail="cut"),
        'split: `tail` must be "predicate" or "peel", got "cut"',
    ),
    "nothing to peel": (
        chain,
        lambda s: s.split(loop(s, "C", 0), [None, 32], tail="peel"),
        "its extent 24 is below the factor 32, so that there is no main loop",
    ),
    "split of a vectorised loop": (
        chain,
        vectorized_twice,
        "split: loop `i` is vectorized; split it before annotating it",
    ),
    "fuse apart": (
        lambda: matmul(3, 4, 5),
        lambda s: s.fuse(loop(s, "C", 0), loop(s, "C", 2)),
        "fuse: loop `k` must be the only statement of loop `i`; reorder the loops first",
    ),
    "reorder across nests": (
        chain,
        lambda s: s.reorder(loop(s, "B", 0), loop(s, "C", 0)),
        "reorder: loop `i` is not in the same nest as `i`: below `i` there is a Block",
    ),
    "reorder twice": (
        chain,
        lambda s: s.reorder(loop(s, "B", 0), loop(s, "B", 0)),
        "reorder: a loop is given twice",
    ),
    "parallel reduction": (
        lambda: matmul(3, 4, 5),
        lambda s: s.parallel(loop(s, "C", 2)),
        (
            "parallel: loop `k` carries the reduction variable `vk` of block `C`: its iterations "
            "update the same elements of `C`"
        ),
    ),
    "vectorised symbolic": (
        symbolic,
        lambda s: s.vectorize(loop(s, "C", 0)),
        "vectorize: the extent of loop `i` is not a constant; split it by a constant",
    ),
    "unrolled symbolic": (
        symbolic,
        lambda s: s.unroll(loop(s, "C", 0)),
        "unroll: the extent of loop `i` is not a constant",
    ),
    "annotation": (
        chain,
        lambda s: s.annotate("C", "key", object()),
        "annotate: argument `value` must be plain data (numbers, strings, lists, dicts)",
    ),
    "no annotation": (
        chain,
        lambda s: s.unannotate("C", "key"),
        "unannotate: block `C` has no annotation `key`; it has none",
    ),
    "inline an output": (
        chain,
        lambda s: s.compute_inline("C"),
        "compute_inline: block `C` writes `C`, a parameter of the function",
    ),
    "inline a reduction": (
        epilogue,
        lambda s: s.compute_inline("C"),
        "compute_inline: block `C` is a reduction; only element-wise blocks can be inlined",
    ),
    "reverse inline into a reduction": (
        epilogue,
        lambda s: (s.compute_inline("D"), s.reverse_compute_inline("E")),
        "reverse_compute_inline: block `C` is a reduction",
    ),
    "reverse inline of a strided read": (
        shifted,
        lambda s: s.reverse_compute_inline("C"),
        "block `C` reads `B` at index 0 with an expression that is not one of its iteration",
    ),
    "reverse inline without producer": (
        chain,
        lambda s: s.reverse_compute_inline("B"),
        "block `B` must read the result of exactly one block, it reads those of none",
    ),
    "compute_at outside": (
        softmax,
        lambda s: s.compute_at("E", loop(s, "S", 0)),
        "compute_at: block `O` reads `E` outside loop `i`; choose a loop around all consumers",
    ),
    "compute_at of an output": (
        chain,
        lambda s: s.compute_at("C", loop(s, "B", 0)),
        "compute_at: block `C` writes `C`, a parameter of the function",
    ),
    "reverse_compute_at of unfinished sums": (
        epilogue,
        lambda s: s.reverse_compute_at("D", loop(s, "C", 2)),
        (
            "reverse_compute_at: loop `k` carries the reduction variable `vk` of block `C`: inside "
            "loop `k`, block `D` would read unfinished values; choose a loop around it"
        ),
    ),
    "reverse_compute_at without producer": (
        chain,
        lambda s: s.reverse_compute_at("B", loop(s, "C", 0)),
        "reverse_compute_at: no block inside loop `i` writes what `B` reads",
    ),
    "reverse_compute_at of a strided read": (
        shifted,
        lambda s: s.reverse_compute_at("C", loop(s, "B", 0)),
        (
            "block `C` reads dimension 0 of `B` with an index that is not an iteration variable "
            "plus a constant"
        ),
    ),
    "reverse_compute_at of a stencil": (
        stencil,
        lambda s: s.reverse_compute_at("C", loop(s, "B", 0)),
        "block `C` reads different parts of what the loop produces",
    ),
    "reverse_compute_at of a reduction": (
        softmax,
        lambda s: s.reverse_compute_at("S", loop(s, "E", 1)),
        "`vr` of block `S` is a reduction variable, and one iteration of the loop produces only",
    ),
    "part of a split": (
        chain,
        lambda s: (peeled(s), s.reverse_compute_at("C", loop(s, "B", 0))),
        "block `B_tail` outside loop `i_0` writes another part of `B`, which `C` reads",
    ),
    "cache_read index": (
        chain,
        lambda s: s.cache_read("C", 1, "local"),
        "cache_read: block `C` reads 1 buffers ['B']: index 1 does not exist",
    ),
    "cache_write scope": (
        chain,
        lambda s: s.cache_write("C", 0, "shared"),
        "cache_write: `scope` must be one of ['global', 'local'], got \"shared\"",
    ),
    "cache_write after moving": (
        chain,
        lambda s: (s.compute_at("B", loop(s, "C", 0)), s.cache_write("B", 0, "local")),
        "cache_write: block `C`, which reads `B`, shares a loop nest with `B`",
    ),
    "scope of a parameter": (
        chain,
        lambda s: s.set_scope("C", 0, "local"),
        "set_scope: `C` is a parameter of the function: it stays global",
    ),
    "move into lanes": (
        softmax,
        lambda s: (s.vectorize(loop(s, "O", 1)), s.compute_at("S", loop(s, "O", 1))),
        "compute_at: loop `j` is vectorized, and lanes cannot run another block",
    ),
    "lanes around a reduction": (
        softmax,
        lambda s: (s.compute_at("S", loop(s, "O", 1)), s.vectorize(loop(s, "O", 1))),
        "vectorize: several lanes of loop `j` would run the same reduction of block `S`",
    ),
    "layout of a parameter": (
        chain,
        lambda s: s.transform_layout("C", "write", 0, "lambda i: (i // 4, i % 4)"),
        "transform_layout: `C` is a parameter of the function: its layout is given",
    ),
    "layout that is no map": (
        chain,
        lambda s: s.transform_layout("B", "write", 0, "lambda i: (i // 4,)"),
        "transform_layout: `lambda i: (i // 4,)` does not number the elements",
    ),
    "layout that is no expression": (
        chain,
        lambda s: s.transform_layout("B", "write", 0, "lambda i: open(i)"),
        "transform_layout: `index_map` cannot use `open(i)`",
    ),
    "decompose without init": (
        chain,
        lambda s: s.decompose_reduction("C", loop(s, "C", 0)),
        "decompose_reduction: block `C` has no init: it is no reduction, or is decomposed already",
    ),
    "decompose inside": (
        lambda: matmul(3, 4, 5),
        lambda s: (
            s.reorder(loop(s, "C", 2), loop(s, "C", 0)),
            s.decompose_reduction("C", loop(s, "C", 2)),
        ),
        "loop `k` is outside loop `i` but carries the reduction variable `vk`",
    ),
    "decompose elsewhere": (
        epilogue,
        lambda s: s.decompose_reduction("C", loop(s, "D", 0)),
        "decompose_reduction: loop `i` is not around block `C`",
    ),
    "decompose around recomputation": (
        softmax,
        lambda s: (
            s.compute_at("S", loop(s, "O", 1)),
            s.decompose_reduction("S", loop(s, "O", 0)),
        ),
        "loop `i` and those inside it run block `S` several times for the same elements",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    build, act, expected = CASES[case]
    sch = Schedule(build())
    with pytest.raises(ScheduleError, match=re.escape(expected)) as caught:
        act(sch)
    assert isinstance(caught.value, UserError)
    # The script is part of the text, but rendered only when somebody looks.
    assert "@T.prim_func" in str(caught.value)


def test_a_refused_primitive_changes_nothing() -> None:
    sch = Schedule(shifted())
    before, steps = sch.func, len(sch.trace)
    with pytest.raises(ScheduleError):
        sch.reverse_compute_at("C", sch.get_loops("B")[0])
    assert sch.func is before
    assert len(sch.trace) == steps


def test_schedule_needs_a_function() -> None:
    with pytest.raises(UserError, match="Schedule needs a PrimFunc"):
        Schedule("matmul")  # type: ignore[arg-type]


def test_places_that_a_buffer_tells_are_looked_at_under_the_same_condition() -> None:
    """The tail of the split would read `at` beyond its end to learn which row to copy."""
    table, at = te.placeholder((5, 3), name="table"), te.placeholder((8,), "int64", name="at")
    e = te.compute((8, 3), lambda i, j: table[at[i], j], name="E")
    sch = Schedule(te.create_prim_func([table, at, e]))
    reads = list(dict.fromkeys(region.buffer.name for region in sch.block("E").reads))
    copy = sch.cache_read("E", reads.index("table"), "local")
    outer, _ = sch.split(loop(sch, "E", 0), [None, 3])
    message = (
        "compute_at: block `E` reads `table_local` at places that another buffer tells, and has "
        "the predicate `i_0 * 3 + i_1 < 8`; move block `table_local` before splitting the loop"
    )
    with pytest.raises(ScheduleError, match=re.escape(message)):
        sch.compute_at(copy, loop(sch, "E", 1))
    assert outer.name == "i_0"
