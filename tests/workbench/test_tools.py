# SPDX-License-Identifier: Apache-2.0
"""`show`, `check`, `bench` and `asm` of a schedule."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from heddle.driver.workbench.assembly import find_loops
from heddle.driver.workbench.values import largest_difference
from heddle.ir.walk import rewrite
from heddle.schedule import Schedule, ScheduleError
from heddle.schedule.rules import default_schedule
from heddle.script import T
from heddle.support import UserError
from heddle.target import native, parse
from heddle.tir.nodes import BufferStore
from tests.workbench.kernels import product, rows_taken, tiled


@T.prim_func
def squares(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
    for i in T.serial(16):
        with T.block("B"):
            vi = T.axis.spatial(16, i)
            B[vi] = T.call_extern("square", A[vi], dtype="float32")


def shown(sch, **options) -> str:
    file = io.StringIO()
    sch.show(file=file, **options)
    return file.getvalue()


def test_show_prints_what_changed():
    sch = Schedule(product(16))
    assert shown(sch) == f"{sch.func}\n"
    assert shown(sch) == "# nothing changed since the last show\n"
    i, _j, k = sch.get_loops("C")
    sch.parallel(i)
    first = shown(sch, context=0)
    assert "\n+    for i in T.parallel(16):\n" in first
    sch.unroll(k)
    last = shown(sch, context=0, since="step")
    assert "T.unrolled(16)" in last
    assert "T.parallel" not in last
    assert "+    for i in T.parallel(16):" in shown(sch, since="start", colour=False)
    coloured = shown(sch, since="start", colour=True)
    assert "\x1b[32m+    for i in T.parallel(16):\x1b[0m" in coloured
    with pytest.raises(UserError, match="`since` must be one of show, step, start"):
        sch.show(since="yesterday")


def test_check_accepts_what_keeps_values():
    for reference in ("interpreted", "compiled"):
        result = tiled(32).check(reference=reference, seed=3)
        assert result.elements == 32 * 32
        assert result.errors["C"] <= result.tolerance["C"] < 1e-4
        assert result.reference == reference
        assert f"({32 * 32} elements, {reference})" in str(result)


def test_check_takes_inputs_by_name_and_position():
    left = np.eye(32, dtype=np.float32)
    tiled(32).check({"A": left})
    tiled(32).check([left])
    with pytest.raises(UserError, match="there is no parameter"):
        tiled(32).check({"Q": left})
    with pytest.raises(UserError, match=r"input `A`: expected float32 of shape \(32, 32\), got"):
        tiled(32).check([left.astype(np.float64)])


def test_check_catches_what_changes_values():
    sch = tiled(32)

    def one_more(store):
        if store.buffer.name != "C":
            return store
        return store.replace(value=store.value + 0.25)

    sch.set_func(rewrite(sch.func, {BufferStore: one_more}))
    with pytest.raises(ScheduleError, match=r"changed the values of `C`: at \[\d+, \d+\] it is"):
        sch.check()


def test_check_draws_indices_in_bounds():
    result = Schedule(rows_taken()).check(sizes={"rows": 5})
    assert result.elements == 5 * 32
    assert result.errors["out"] == 0.0


def test_differences():
    inf, nan = np.inf, np.nan
    want = np.array([1.0, inf, nan, -4.0])
    assert largest_difference(want, want) == (0.0, (0,))
    assert largest_difference(want, np.array([1.0, inf, nan, -3.0])) == (0.25, (3,))
    assert largest_difference(want, np.array([1.0, inf, 0.0, -4.0])) == (inf, (2,))
    assert largest_difference(want, np.array([1.0, -inf, nan, -4.0])) == (inf, (1,))


def test_bench_gives_figures():
    result = tiled(32).bench(rounds=2)
    assert result.milliseconds > 0
    assert result.gflops == pytest.approx(2 * 32**3 / result.milliseconds / 1e6)
    assert result.share is None or 0 < result.share < 1.5
    assert "GFLOP/s" in str(result)
    with pytest.raises(UserError, match="rounds must be at least 1, got 0"):
        tiled(32).bench(rounds=0)


def test_bench_of_symbolic_sizes():
    result = Schedule(rows_taken()).bench(rounds=1, sizes={"rows": 100})
    assert result.gflops == pytest.approx(100 * 32 / result.milliseconds / 1e6)


LOOPS = """\
f:
\tmovq %rdi, %rax
.LBB0_1:
\txorl %ecx, %ecx
.LBB0_2:
\tvmovups (%rax), %zmm1
\tvfmadd231ps %zmm1, %zmm2, %zmm0
\tvmovups %zmm0, 64(%rsp)
\tjne .LBB0_2
\tjne .LBB0_1
.LBB0_3:
\tvaddss %xmm0, %xmm1, %xmm0
\tjne\t.LBB0_3
\tjmp .LBB0_4
.LBB0_4:
\tretq
"""


def test_loops_of_an_assembly_text():
    hot, other = find_loops(LOOPS)
    lines = LOOPS.splitlines()
    assert lines[hot.first] == ".LBB0_2:"
    assert lines[hot.last] == "\tjne .LBB0_2"
    assert (hot.instructions, hot.vector, hot.fma, hot.spills) == (4, 3, 1, 1)
    assert (lines[other.first], other.vector) == (".LBB0_3:", 0)


def test_loops_of_another_processor():
    target = parse("llvm -mcpu=neoverse-n1")
    hot = default_schedule(product(64), target).asm(target=target).hot
    assert hot.fma >= 8
    assert hot.fma < hot.vector <= hot.instructions
    assert hot.spills == 0


@pytest.mark.skipif(not native().has("avx512f"), reason="counts registers of AVX-512")
def test_the_hot_loop_is_the_tile():
    made = default_schedule(product(64), native()).asm()
    assert made.hot.fma >= 8
    assert made.hot.spills == 0
    assert "vfmadd" in made.hot_text
    assert f"> hot loop: {made.hot}" in str(made)


def test_the_code_of_one_block():
    sch = default_schedule(product(256), native())
    names = [block.name for block in sch.get_blocks()]
    assert "C" in names
    alone = sch.asm("C")
    assert alone.hot is not None
    assert alone.hot.fma == sch.asm().hot.fma
    with pytest.raises(ScheduleError, match="there is no block `nothing`"):
        sch.asm("nothing")


def test_kernels_that_call_c_functions(tmp_path: Path):
    """They are linked with `libs`, and their loops stay scalar."""
    source = tmp_path / "square.c"
    source.write_text("float square(float x) { return x * x; }\n")
    sch = Schedule(squares)
    sch.vectorize(sch.split(sch.get_loops("B")[0], [None, 8])[1])
    for reference in ("interpreted", "compiled"):
        result = sch.check(libs=[source], reference=reference)
        assert result.errors == {"B": 0.0}
    assert sch.bench(rounds=1, libs=[source]).milliseconds > 0
    assert "square" in str(sch.asm())
    with pytest.raises(UserError, match="nothing says what the C function `square` computes"):
        sch.check()
    with pytest.raises(UserError, match="calls a C function that is not in this process"):
        sch.bench(rounds=1)
