# SPDX-License-Identifier: Apache-2.0
"""Columns of a product that fill no whole vectors.

A tile under masks keeps the lanes that it must not write, which costs an instruction for every
multiply-add and, worse, registers. Lanes of zeros cost nothing: the last vector is loaded under a
mask, multiplied whole, and only the result is cut.

    for i, j, k in grid(M, 24, K):              for i, j, k in grid(M, 32, K):
        C[i, j] += x[i, k] * w[k, j]      ->        C[i, j] += x[i, k] * (w[k, j] if j < 24 else 0)
    for i, j in grid(M, 24):                    for i, j in grid(M, 24):
        D[i, j] = f(C[i, j])                        D[i, j] = f(C[i, j])
"""

from __future__ import annotations

import math

from heddle.ir.expr import Var, as_int
from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import Contraction, contraction_of
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.target import Target


def fill_vectors(
    sch: Schedule, block: BlockRef, epilogue: BlockRef | None, target: Target
) -> BlockRef | None:
    """Let `block`, a contraction, compute whole vectors of columns where its own number of them is
    known and leaves some lanes over. Returns the epilogue, which cuts the result: a new one where
    `epilogue` is None and there is something to cut."""
    facts = contraction_of(sch.block(block))
    if facts is None or not _has_loose_lanes(facts, target):
        return epilogue
    extent = facts.extent(facts.vector)
    assert extent is not None
    multiples = [1] * len(facts.block.iters)
    multiples[facts.vector] = _lanes(extent, target)
    before = sch.get_blocks()
    sch.pad_einsum(block, multiples)
    *padded, crop = (name for name in sch.get_blocks() if name not in before)
    for copy in padded:
        sch.compute_inline(copy)
    if epilogue is None:
        return crop
    sch.compute_inline(crop)
    return epilogue


def _lanes(extent: int, target: Target) -> int:
    """Lanes of the vectors for `extent` columns: few columns have short vectors."""
    return min(target.vector_lanes(32), 1 << (extent - 1).bit_length())


def _has_loose_lanes(facts: Contraction, target: Target) -> bool:
    extent = facts.extent(facts.vector)
    if extent is None or extent % _lanes(extent, target) == 0 or facts.x_has_vector:
        return False
    plain = all(isinstance(dim.min, Var) for dim in facts.block.writes[0].ranges)
    return plain and facts.w_contiguous and _is_padded(facts, extent, target)


def _is_padded(facts: Contraction, extent: int, target: Target) -> bool:
    """Whether `w` can be read with zeros after its columns: it is indexed by them as they are, or
    lies in panels that go on to whole vectors."""
    var = facts.block.iters[facts.vector].var
    used = [at for at, index in enumerate(facts.w.indices) if uses_var(index, var)]
    if len(used) == 1:
        return facts.w.indices[used[0]] is var
    sizes = [as_int(facts.w.buffer.shape[at]) for at in used]
    panels = math.prod(size or 0 for size in sizes)
    return panels >= -(-extent // _lanes(extent, target)) * _lanes(extent, target)
