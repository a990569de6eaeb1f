# SPDX-License-Identifier: Apache-2.0
"""Primitives that change how an intermediate buffer lies in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from heddle.arith import detect_iter_map
from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.walk import rewrite, substitute
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import buffer_of
from heddle.schedule.primitives.index_map import extents_of, parse_index_map
from heddle.schedule.refs import BlockLike
from heddle.tir.build import load, store
from heddle.tir.nodes import Buffer, BufferLoad, BufferRegion, BufferStore, Range, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def transform_layout(
    sch: Schedule, block: BlockLike, side: str, index: int, index_map: str
) -> None:
    """Store an intermediate buffer in another layout; every access to it is rewritten.

    >>> sch = Schedule(blurred())
    >>> sch.transform_layout("B", "write", 0, "lambda i, j: (j // 4, i, j % 4)")
    >>> print(sketch(sch.func))
    B = alloc((2, 16, 4))
    for i, j in grid(16, 8):
        B[j // 4, i, j % 4] = A[i, j] + 1.0
    for i, j, k in grid(14, 8, 3):
        with init: C[i, j] = 0.0
        C[i, j] = C[i, j] + B[j // 4, i + k, j % 4]

    `side` ("read" or "write") and `index` choose the buffer among those of the block, `index_map`
    is the text of a function from old to new indices: "lambda i, j: (i // 16, j, i % 16)". Sums,
    differences, products, `//` and `%` may occur in it. It must map no two elements to one.
    """
    name = "transform_layout"
    node = sch.block(block)
    if side not in ("read", "write"):
        raise fail(sch, name, f'`side` must be "read" or "write", got "{side}"')
    regions = node.reads if side == "read" else node.writes
    buffer = buffer_of(sch, name, node, regions, index, f"{side}s")
    if sch.state.is_parameter(buffer):
        raise fail(
            sch, name, f"`{buffer.name}` is a parameter of the function: its layout is given"
        )
    what = f"dimensions of `{buffer.name}`"
    variables, images = parse_index_map(sch, name, index_map, buffer.ndim, what)
    domain = {var: (const(0), dim) for var, dim in zip(variables, buffer.shape, strict=True)}
    found = detect_iter_map(images, domain)
    if not found:
        raise fail(sch, name, f"`{index_map}` does not number the elements: {found.reason}")
    shape = extents_of(sch, name, index_map, images, domain)
    new: Buffer = buffer.replace(shape=tuple(shape), strides=None)
    sch.set_func(
        sch.func.replace(body=_moved(sch, buffer, new, lambda old: _image(variables, images, old)))
    )


@primitive
def storage_align(
    sch: Schedule, block: BlockLike, write_index: int, axis: int, factor: int, offset: int
) -> None:
    """Give an intermediate buffer rows whose distance in memory suits the machine.

    >>> sch = Schedule(blurred())
    >>> sch.storage_align("B", 0, 0, 16, 4)
    >>> print(sketch(sch.func))
    B = alloc((16, 8))
    for i, j in grid(16, 8):
        B[i, j] = A[i, j] + 1.0
        # storage_align: [[0, 0, 16, 4]]
    for i, j, k in grid(14, 8, 3):
        with init: C[i, j] = 0.0
        C[i, j] = C[i, j] + B[i + k, j]

    In the lowered function, the stride of dimension `axis`, in elements, is the smallest that holds
    the dimensions inside it and is `offset` more than a multiple of `factor`: rows that do not fall
    on the same cache set, or that start at a vector boundary; here they are 20 elements apart.
    `write_index` counts the buffers that the block writes.
    """
    name = "storage_align"
    node = sch.block(block)
    buffer = buffer_of(sch, name, node, node.writes, write_index, "writes")
    if sch.state.is_parameter(buffer):
        raise fail(
            sch, name, f"`{buffer.name}` is a parameter of the function: its layout is given"
        )
    if not 0 <= axis < buffer.ndim - 1:
        raise fail(
            sch,
            name,
            f"`axis` must be a dimension of `{buffer.name}` before its last, in "
            f"[0, {buffer.ndim - 1}), got {axis}",
        )
    if factor < 1 or not 0 <= offset < factor:
        raise fail(
            sch,
            name,
            f"`factor` must be positive and `offset` in [0, factor), got {factor} and {offset}",
        )
    rows: Any = node.annotations.get(name, [])
    kept = [row for row in rows if row[:2] != [write_index, axis]]
    entry = [write_index, axis, factor, offset]
    sch.change({node: node.replace(annotations={**node.annotations, name: [*kept, entry]})})


def _image(variables: list[Var], images: list[Expr], old: Sequence[Expr]) -> list[Expr]:
    values: dict[Var, Expr] = dict(zip(variables, old, strict=True))
    return [substitute(image, values) for image in images]


def _moved(
    sch: Schedule, old: Buffer, new: Buffer, place: Callable[[Sequence[Expr]], list[Expr]]
) -> Stmt:
    def region(found: BufferRegion) -> BufferRegion:
        if found.buffer is not old:
            return found
        if any(as_int(part.extent) != 1 for part in found.ranges):
            raise fail(sch, "transform_layout", f"a block accesses boxes of `{old.name}`")
        starts = place([part.min for part in found.ranges])
        return BufferRegion(new, tuple(Range(start, const(1)) for start in starts))

    handlers: dict[type, Callable[[Any], Any]] = {
        BufferLoad: lambda n: load(new, place(n.indices)) if n.buffer is old else n,
        BufferStore: lambda n: store(new, n.value, place(n.indices)) if n.buffer is old else n,
        BufferRegion: region,
    }
    result: Stmt = rewrite(sch.func.body, handlers, memo={old: new})
    return result
