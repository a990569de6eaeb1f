# SPDX-License-Identifier: Apache-2.0
"""rolling_buffer: each row of a sliding window is computed once, in a buffer of its size."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import heddle
from heddle import target, te
from heddle.ir import first_mismatch
from heddle.ir.expr import Var, const
from heddle.passes.tir.lower import lower
from heddle.schedule import LoopRef, Schedule, ScheduleError, Trace, replay
from heddle.schedule.compact import compact_buffers
from heddle.schedule.examples import blurred, chain
from heddle.schedule.state import walk
from heddle.script import parse, to_text
from heddle.tir.interp import evaluate, run
from heddle.tir.nodes import Allocate, PrimFunc
from heddle.tir.verify import verify
from tests.schedule.kernels import check_same, conv2d, inputs_of, output_of, stencil


def windows(rows: int, kernel: int, stride: int, *, back: bool = False) -> PrimFunc:
    """`C[i, j] = sum(B[i * stride + k, j])`, or from the last row to the first; `B = A + 1`."""
    size = (rows - 1) * stride + kernel
    a = te.placeholder((size, 6), name="A")
    b = te.compute((size, 6), lambda i, j: a[i, j] + 1.0, name="B")
    r = te.reduce_axis(kernel, "k")

    def row(i: Var):
        return (rows - 1 - i) * stride if back else i * stride

    c = te.compute((rows, 6), lambda i, j: te.sum(b[row(i) + r, j], axis=r), name="C")
    return te.create_prim_func([a, c], name="windows")


def check(sch: Schedule, before: PrimFunc) -> None:
    """The schedule keeps the values, as it is, compacted, lowered, printed and replayed."""
    verify(sch.func)
    check_same(before, sch.func)
    compacted = compact_buffers(sch.func)
    verify(compacted)
    check_same(before, compacted)
    lowered = lower(compacted, target.native())
    verify(lowered)
    inputs = inputs_of(before)
    expected = output_of(before, inputs)
    out = np.full(expected.size, np.nan, np.float32)
    run(lowered, *[array.ravel() for array in inputs], out)
    # float32 sums of at most 27 terms of size 1, in the same order but for fused operations.
    np.testing.assert_allclose(out, expected.ravel(), rtol=1e-5, atol=1e-5)
    assert first_mismatch(parse(to_text(sch.func)), sch.func, map_free_vars=True) is None
    again = replay(Trace.from_json(sch.trace.to_json()), before)
    assert first_mismatch(again.func, sch.func, map_free_vars=True) is None


def rolled(func: PrimFunc, position: int = 0) -> tuple[Schedule, LoopRef]:
    sch = Schedule(func)
    loop = sch.get_loops("C")[position]
    sch.compute_at("B", loop)
    sch.rolling_buffer("B", loop)
    return sch, loop


def runs(func: PrimFunc, block: str) -> int:
    """How many times the body of a block runs."""
    sch = Schedule(func)
    node = sch.block(block)
    loops = sch.state.loops(node)
    inside = evaluate(node.predicate)
    points: list[dict[Var, int]] = [{}]
    for loop in loops:
        points = [
            {**env, loop.var: evaluate(loop.min)(env) + n}
            for env in points
            for n in range(evaluate(loop.extent)(env))
        ]
    return sum(bool(inside(env)) for env in points)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("rows", "kernel", "stride"), [(9, 3, 1), (7, 3, 2), (5, 5, 3), (2, 4, 1)])
def test_each_row_is_computed_once(rows: int, kernel: int, stride: int, back: bool) -> None:
    func = windows(rows, kernel, stride, back=back)
    sch, _ = rolled(func)
    buffer = sch.block("B").writes[0].buffer
    assert buffer.static_shape == (kernel, 6)
    assert runs(sch.func, "B") == ((rows - 1) * stride + kernel) * 6
    check(sch, func)


@pytest.mark.parametrize("target_name", ["native", "c"])
def test_compiled(target_name: str) -> None:
    func = windows(9, 5, 2)
    sch, _ = rolled(func)
    sch.vectorize(sch.get_loops("B")[-1])
    _, j, k = sch.get_loops("C")
    sch.reorder(k, j)
    sch.vectorize(j)
    check(sch, func)
    inputs = inputs_of(func)
    out = np.full((9, 6), np.nan, np.float32)
    heddle.build(sch.func, target_name)(*inputs, out)
    # float32 sums of 5 terms of size 1.
    np.testing.assert_allclose(out, output_of(func, inputs), rtol=1e-5, atol=1e-5)


def test_tiles_that_overlap() -> None:
    func = blurred(12, 8)
    sch = Schedule(func)
    i, j, _ = sch.get_loops("C")
    i_0, i_1 = sch.split(i, [None, 5])
    j_0, j_1 = sch.split(j, [None, 4])
    sch.reorder(i_0, j_0, i_1, j_1)
    sch.compute_at("B", j_0)
    sch.rolling_buffer("B", i_0)
    assert sch.block("B").writes[0].buffer.static_shape == (7, 8)
    sch.vectorize(sch.get_loops("B")[-1])
    check(sch, func)


def test_parallel_strips_roll_in_buffers_of_their_own() -> None:
    func = blurred(12, 8)
    sch = Schedule(func)
    i, _, _ = sch.get_loops("C")
    i_0, i_1 = sch.split(i, [None, 4])
    sch.compute_at("B", i_1)
    sch.rolling_buffer("B", i_1)
    sch.parallel(i_0)
    strip = next(n for n in walk(compact_buffers(sch.func).body) if type(n) is Allocate)
    assert strip.buffer.static_shape == (3, 8)
    check(sch, func)
    with pytest.raises(ScheduleError, match="loop `i_1` carries the ordered variable `vi_1`"):
        sch.parallel(i_1)
    sch.serial(i_0)
    with pytest.raises(ScheduleError, match="iterations of loop `i_0` would share the rolling"):
        sch.vectorize(i_0)


def test_two_buffers_in_a_row() -> None:
    a = te.placeholder((12, 5), name="A")
    b = te.compute((12, 5), lambda i, j: a[i, j] * 2.0, name="B")
    c = te.compute((10, 5), lambda i, j: b[i, j] + b[i + 2, j], name="C")
    d = te.compute((8, 5), lambda i, j: c[i, j] * c[i + 1, j] + c[i + 2, j], name="D")
    func = te.create_prim_func([a, d], name="cascade")
    sch = Schedule(func)
    i = sch.get_loops("D")[0]
    sch.compute_at("C", i)
    sch.compute_at("B", i)
    sch.rolling_buffer("C", i)
    sch.rolling_buffer("B", i)
    assert [runs(sch.func, name) for name in "BC"] == [12 * 5, 10 * 5]
    check(sch, func)


def test_what_lies_outside_is_left_out() -> None:
    func = stencil(18)
    sch, loop = rolled(func)
    assert runs(sch.func, "B") == 18
    sch.split(loop, [None, 4], tail="peel")
    check(sch, func)


def test_padded_convolution_of_stride_2() -> None:
    func = conv2d(9)
    sch = Schedule(func)
    loop = sch.get_loops("Y")[0]
    sch.compute_at("P", loop)
    sch.rolling_buffer("P", loop)
    assert sch.block("P").writes[0].buffer.static_shape == (3, 11, 3)
    sch.reverse_compute_at("Z", loop)
    check(sch, func)


def test_symbolic_rows() -> None:
    n = Var("n")
    a = te.placeholder((n + 2,), name="A")
    b = te.compute((n + 2,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((n,), lambda i: b[i] * b[i + 2], name="C")
    func = te.create_prim_func([a, c], name="symbolic")
    sch, _ = rolled(func)
    values = np.arange(9, dtype=np.float32)
    for size in (1, 7):
        out = np.full(size, np.nan, np.float32)
        run(sch.func, values[: size + 2], out)
        np.testing.assert_array_equal(out, (values[:size] + 1) * (values[2 : size + 2] + 1))


def diagonal() -> PrimFunc:
    """`C[i, j] = B[i, i + j] + B[i + 1, i + j]`"""
    a = te.placeholder((6, 9), name="A")
    b = te.compute((6, 9), lambda i, j: a[i, j] + 1.0, name="B")
    c = te.compute((5, 4), lambda i, j: b[i, i + j] + b[i + 1, i + j], name="C")
    return te.create_prim_func([a, c])


def at(sch: Schedule, position: int = 0) -> LoopRef:
    loop = sch.get_loops("C")[position]
    sch.compute_at("B", loop)
    return loop


def roll(sch: Schedule, position: int = 0) -> LoopRef:
    loop = at(sch, position)
    sch.rolling_buffer("B", loop)
    return loop


def threads(sch: Schedule) -> None:
    loop = at(sch)
    sch.bind(loop, "blockIdx.x")
    sch.rolling_buffer("B", loop)


def parallel(sch: Schedule) -> None:
    loop = at(sch)
    sch.parallel(loop)
    sch.rolling_buffer("B", loop)


def guarded(sch: Schedule) -> None:
    loop = at(sch)
    row = sch.get_loops("B")[1]
    node = sch.block("B")
    sch.change({node: node.replace(predicate=row.var < 2)})
    sch.rolling_buffer("B", loop)


def strips(sch: Schedule) -> list[LoopRef]:
    loops = sch.split(sch.get_loops("C")[0], [None, 4])
    sch.compute_at("B", loops[1])
    sch.rolling_buffer("B", loops[1])
    return loops


def late() -> PrimFunc:
    """An iteration reads a row that an earlier one computes."""
    a = te.placeholder((9,), name="A")
    b = te.compute((9,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((7,), lambda i: b[i] + b[i + 2], name="C")
    func = te.create_prim_func([a, c])
    sch = Schedule(func)
    sch.compute_at("B", sch.get_loops("C")[0])
    old = sch.get_loops("B")[1]
    short = sch.loop(old).replace(extent=const(2), min=const(1))
    sch.change({sch.loop(old): short})
    return sch.func


CASES: dict[str, tuple[Callable[[], PrimFunc], Callable[[Schedule], object], str]] = {
    "not inside": (
        blurred,
        lambda s: s.rolling_buffer("B", s.get_loops("C")[0]),
        "rolling_buffer: loop `i` is not around block `B`; call compute_at first",
    ),
    "parallel": (
        blurred,
        parallel,
        (
            "rolling_buffer: loop `i` is parallel, and its iterations would share the buffer; make "
            "it serial"
        ),
    ),
    "threads": (blurred, threads, "rolling_buffer: loop `i` is bound to threads, and its"),
    "no overlap": (
        lambda: windows(4, 2, 2),
        roll,
        (
            "rolling_buffer: loop `i` moves the window of `B` by 2 rows, and it has 2: no "
            "iteration needs rows of another (compact_buffers shrinks the buffer)"
        ),
    ),
    "nothing moves": (
        blurred,
        lambda s: roll(s, 1),
        "rolling_buffer: loop `j` moves the window of `B` by 1 rows, and it has 1",
    ),
    "two dimensions": (
        diagonal,
        roll,
        (
            "rolling_buffer: 2 dimensions of `B` move along loop `i`, and exactly one must: block "
            "`B` writes [i + ax0, i + ax1]"
        ),
    ),
    "output": (
        blurred,
        lambda s: s.rolling_buffer("C", s.get_loops("C")[0]),
        "rolling_buffer: block `C` writes `C`, a parameter of the function",
    ),
    "twice": (
        blurred,
        lambda s: s.rolling_buffer("B", roll(s)),
        "rolling_buffer: block `B` runs in the order of `vi`: every run of it counts",
    ),
    "compute_at afterwards": (
        blurred,
        lambda s: s.compute_at("B", (roll(s), s.get_loops("C")[1])[1]),
        (
            "compute_at: `B` is a rolling buffer along loop `i`, so that block `B` has to stay "
            "there; call compute_at before rolling_buffer"
        ),
    ),
    "inlining the reader": (
        lambda: reading(),
        lambda s: (roll(s), s.compute_inline("C")),
        "compute_inline: `B` is a rolling buffer along loop `i`, so that block `C` has to stay",
    ),
    "reordered": (
        lambda: blurred(12, 8),
        lambda s: s.reorder(*reversed(strips(s))),
        "reorder: block `B` runs in the order of ['i_0', 'i_1']: loops of ordered iteration",
    ),
    "rows left out": (
        blurred,
        guarded,
        (
            "rolling_buffer: block `B` runs only where `ax0 < 2`, so that not every iteration of "
            "loop `i` computes its rows; call rolling_buffer before splitting or padding"
        ),
    ),
    "outer rows read": (
        late,
        lambda s: s.rolling_buffer("B", s.get_loops("B")[0]),
        (
            "rolling_buffer: block `C` reads 3 rows of dimension 0 of `B`, which must lie in the 2 "
            "rows from `i + 1` that the same iteration computes"
        ),
    ),
    "read elsewhere": (
        chain,
        lambda s: (s.cache_read("B", 0, "local"), s.rolling_buffer("B", s.get_loops("B")[0])),
        "rolling_buffer: block `C` reads `B` outside loop `i`; choose a loop around all that read",
    ),
}


def reading() -> PrimFunc:
    """`D = C * 2` of a window in C."""
    a = te.placeholder((8,), name="A")
    b = te.compute((8,), lambda i: a[i] + 1.0, name="B")
    c = te.compute((6,), lambda i: b[i] + b[i + 2], name="C")
    d = te.compute((6,), lambda i: c[i] * const(2.0, "float32"), name="D")
    return te.create_prim_func([a, d])


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    build, act, message = CASES[case]
    sch = Schedule(build())
    with pytest.raises(ScheduleError, match="^" + re.escape(message)):
        act(sch)
