# SPDX-License-Identifier: Apache-2.0
"""What `explain` says of kernels whose figures can be counted by hand."""

from __future__ import annotations

import pytest

from heddle import te
from heddle.schedule import Schedule
from heddle.support import UserError
from tests.workbench.kernels import LARGE, device, product, rows_taken, tiled, transposed

FLOAT = 4
LINE = 64


def explained(sch, **options):
    return sch.explain(target=device(), measure=False, **options)


def test_operations_and_bytes():
    found = explained(Schedule(product()))
    assert found.flops == 2 * LARGE**3
    assert found.bytes == 3 * LARGE**2 * FLOAT
    assert found.intensity == pytest.approx(2 * LARGE**3 / (3 * LARGE**2 * FLOAT))
    assert found.cores == 1
    assert found.source == "L2"


def test_a_tile_of_vectors():
    block = explained(tiled(rows=4, vectors=2)).block("C")
    assert (block.vector, block.lanes, block.kind) == ("j_2", 16, "contraction")
    registers = block.registers
    assert (registers.accumulators, registers.operands, registers.passing) == (8, 2, 1)
    assert registers.needed == 11
    assert not registers.spills
    loads = {access.buffer: access for access in block.accesses if access.kind == "load"}
    assert (loads["A"].pattern, loads["A"].issued) == ("broadcast", LARGE * LARGE * LARGE // 32)
    assert (loads["B"].pattern, loads["B"].issued) == ("contiguous", LARGE**3 // 16 // 4)
    assert loads["C"].resident
    assert loads["C"].issued == LARGE * LARGE // 16
    assert "loops      i_0 parallel 16, j_0 serial 2, k serial 64" in str(block)
    assert "registers  11 of 32" in str(block)


def test_too_large_a_tile_spills():
    block = explained(tiled(rows=16, vectors=2)).block("C")
    assert block.registers.needed == 35
    assert block.registers.spills
    assert "SPILLS" in str(block)


def test_footprint_of_each_level():
    block = explained(tiled(rows=4, vectors=2)).block("C")
    levels = {level.where: level for level in block.levels}
    whole = LARGE * LARGE * FLOAT
    assert levels["all of it"].bytes == {"C": whole, "A": whole, "B": whole}
    assert levels["i_0"].bytes == {"C": 4 * LARGE * FLOAT, "A": 4 * LARGE * FLOAT, "B": whole}
    assert levels["j_0"].bytes == {
        "C": 4 * 2 * LINE,
        "A": 4 * LARGE * FLOAT,
        "B": LARGE * 2 * LINE,
    }
    assert levels["k"].bytes == {"C": 4 * 2 * LINE, "A": 4 * LINE, "B": 2 * LINE}
    assert [level.fits for level in block.levels] == ["L2", "L1", "L1", "L1"]


def test_traffic_stays_where_it_fits():
    block = explained(tiled()).block("C")
    whole = LARGE * LARGE * FLOAT
    # One iteration of i_0 fits in the first cache: B stays there, rows of A and C pass once.
    assert block.traffic["L2"] == 3 * whole
    assert block.traffic["L3"] == 3 * whole


def test_private_buffers_are_no_traffic():
    sch = Schedule(product())
    sch.cache_write("C", 0, "local")
    i, _j, _k = sch.get_loops("C")
    sch.reverse_compute_at("C_write", i)
    block = explained(sch).block("C")
    private = {level.where: level.bytes["C_local"] for level in block.levels}
    assert private["all of it"] == LARGE * FLOAT
    assert explained(sch).bytes == 3 * LARGE * LARGE * FLOAT


def test_patterns_of_lanes():
    block = explained(transposed()).block("B")
    found = {access.text: (access.pattern, access.stride) for access in block.accesses}
    assert found["A[vj, vi]"] == ("strided", 32)
    assert found["A[vi, 0]"] == ("broadcast", 0)
    assert found["B[vi, vj]"] == ("contiguous", 1)


def test_packed_panels_are_contiguous():
    n = 64
    a, b = te.placeholder((n, n), name="A"), te.placeholder((n // 32, n, 32), name="B")
    k = te.reduce_axis(n, name="k")
    c = te.compute((n, n), lambda i, j: te.sum(a[i, k] * b[j // 32, k, j % 32], axis=k), name="C")
    sch = Schedule(te.create_prim_func([a, b, c], name="packed"))
    i, j, k = sch.get_loops("C")
    j_0, j_1 = sch.split(j, factors=[None, 16])
    sch.reorder(i, j_0, k, j_1)
    sch.vectorize(j_1)
    patterns = {access.buffer: access.pattern for access in explained(sch).block("C").accesses}
    assert patterns["B"] == "contiguous"


def test_symbolic_sizes():
    sch = Schedule(rows_taken())
    assert explained(sch).flops is None
    assert "?" in str(explained(sch))
    found = explained(sch, sizes={"rows": 10})
    assert found.flops == 10 * 32
    with pytest.raises(UserError, match="`cols` is no symbolic dimension; there are `rows`"):
        explained(sch, sizes={"cols": 1})


def test_gathers():
    sch = Schedule(rows_taken())
    i, j = sch.get_loops("out")
    sch.reorder(j, i)
    _, i_1 = sch.split(i, factors=[None, 8])
    sch.vectorize(i_1)
    block = explained(sch, sizes={"rows": 16}).block("out")
    found = {access.buffer: access.pattern for access in block.accesses}
    assert found == {"index": "contiguous", "table": "gather", "out": "strided"}


def test_an_unknown_block():
    with pytest.raises(UserError, match="there is no block `D`; there are `C`"):
        explained(Schedule(product())).block("D")


def test_the_measured_machine():
    found = tiled().explain()
    assert found.machine is None or 0 < found.attainable_gflops <= found.machine.peak_gflops
    assert found.machine is None or set(found.block("C").bounds) >= {"arithmetic", "memory"}
