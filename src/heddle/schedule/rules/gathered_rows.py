# SPDX-License-Identifier: Apache-2.0
"""The rows of a product, gathered into whole tiles.

The lines of a small image are shorter than a tile of registers, and their number divides into no
tiles that share what they load. Copied one after another, with zeros after the last, they do:

    for h, v, k in grid(7, 7, K):                for k, r in grid(K, 52):
        C[h, v] += x[h, v + k] * w[k]      ->        y[k, r] = x[r // 7, r % 7 + k] if r < 49 else 0
                                                 for r, k in grid(52, K):
                                                     C[r] += y[k, r] * w[k]

The copy lies in the order in which tiles read it, each row of a tile after the other.
"""

from __future__ import annotations

from heddle.ir.expr import as_int
from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import Contraction
from heddle.schedule.rules.elementwise import schedule_elementwise
from heddle.schedule.rules.rows import flatten_rows
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.target import Target


def gather_rows(
    sch: Schedule,
    block: BlockRef,
    epilogue: BlockRef,
    facts: Contraction,
    rows: int,
    target: Target,
) -> None:
    """Copy what `block`, whose operands are `facts`, reads row by row, for tiles of `rows` rows;
    `epilogue` is the only block that reads its output."""
    x = facts.x.buffer
    flatten_rows(sch, block, epilogue, gathered=True)
    node = sch.block(block)
    names = [f"a{position}" for position in range(len(node.iters))]
    reads = [part.buffer for part in node.reads]
    loaded = next(part for part in node.reads if part.buffer is x)
    used = [
        name
        for name, axis in zip(names, node.iters, strict=True)
        if any(uses_var(part.min, axis.var) for part in loaded.ranges)
    ]
    written = [part.min for part in node.writes[0].ranges]
    spatial = [n for n, axis in zip(names, node.iters, strict=True) if axis.var in written]
    row = [name for name in used if name in spatial][-1]
    *outer, step, element = [name for name in used if name != row]
    order = ", ".join((*outer, row, step, element))
    gathered = sch.reindex_cache_read(
        block, reads.index(x), "global", f"lambda {', '.join(names)}: ({order},)"
    )
    sch.pad_einsum(block, [rows if name == row else 1 for name in names])
    (crop,) = sch.consumers(block)
    if crop != epilogue:
        sch.compute_inline(crop)
    (padded,) = sch.consumers(gathered)
    if padded != block:
        sch.compute_inline(gathered)
        gathered = padded
    shape = sch.block(gathered).writes[0].buffer.shape
    dims = [f"d{position}" for position in range(len(shape))]
    last = f"{dims[-2]} * {as_int(shape[-1])} + {dims[-1]}"
    index_map = f"lambda {', '.join(dims)}: ({', '.join((*dims[:-2], last))},)"
    sch.transform_layout(gathered, "write", 0, index_map)
    sch.transform_block_layout(gathered, index_map)
    schedule_elementwise(sch, gathered, target)
