# SPDX-License-Identifier: Apache-2.0
"""A primitive that makes an integer product fit for instructions with one unsigned operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from heddle.ir.dtype import DType
from heddle.ir.expr import Add, Cast, Expr, Mul, Var, const
from heddle.ir.structural import structural_equal
from heddle.ir.walk import substitute, uses_var
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import below_root, buffer_names, buffer_of
from heddle.schedule.primitives.inline import add_buffers
from heddle.schedule.refs import BlockLike
from heddle.schedule.state import edit
from heddle.support.names import fresh_name
from heddle.tir.build import (
    for_nest,
    load,
    make_block,
    point,
    reduction,
    replace_buffers,
    seq,
    spatial,
    store,
)
from heddle.tir.intrin import bitwise_xor, reinterpret
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    IterKind,
    IterVar,
    Stmt,
)

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


_UINT8 = DType.of("uint8")


def product_of(block: Block) -> tuple[BufferLoad, BufferLoad] | None:
    """The two loads of a block that does `C[...] = C[...] + A[...] * B[...]`, casts aside."""
    body = block.body
    if not isinstance(body, BufferStore) or not isinstance(body.value, Add):
        return None
    for old, term in ((body.value.a, body.value.b), (body.value.b, body.value.a)):
        if not isinstance(old, BufferLoad) or old.buffer is not body.buffer:
            continue
        if not isinstance(term, Mul) or not structural_equal(old.indices, body.indices):
            continue
        loads = [part.value if isinstance(part, Cast) else part for part in (term.a, term.b)]
        if isinstance(loads[0], BufferLoad) and isinstance(loads[1], BufferLoad):
            return loads[0], loads[1]
    return None


def _checked_product(sch: Schedule, name: str, block: Block) -> tuple[BufferLoad, BufferLoad]:
    found = product_of(block)
    zero = isinstance(block.init, BufferStore) and _number(block.init.value) == 0
    if found is None or not zero:
        raise fail(
            sch,
            name,
            f"block `{block.name}` must be a sum of products from 0, `C[...] = C[...] + A[...] * "
            "B[...]` with its init",
            block,
        )
    return found


def _number(value: Expr) -> float | None:
    """The value of a constant, or None."""
    found = getattr(value, "value", None)
    return found if isinstance(found, (int, float)) else None


Element = Callable[[Sequence[Expr]], tuple[Expr, BufferRegion]]
"""The value of an element, given its indices, and what it reads."""


def _elementwise(name: str, target: Buffer, value: Element) -> tuple[Stmt, Block]:
    """Loops around a block that stores `value(indices)` in every element of `target`."""
    loops = [Var(f"ax{dim}") for dim in range(target.ndim)]
    iters = [
        spatial(extent, var, f"v{dim}")
        for dim, (var, extent) in enumerate(zip(loops, target.shape, strict=True))
    ]
    places = [bound.var for bound in iters]
    made, read = value(places)
    block = make_block(
        name, iters, store(target, made, places), reads=[read], writes=[point(target, places)]
    )
    return for_nest(list(zip(loops, target.shape, strict=True)), block), block


# -- signed operands of instructions that take an unsigned one -----------------------------------


@primitive
def shift_to_unsigned(sch: Schedule, block: BlockLike, read_index: int) -> None:
    """Let an integer product read an int8 operand as uint8, 128 more, and take that off again.

    >>> sch = Schedule(integer_product())
    >>> sch.shift_to_unsigned("C", 0)
    >>> print(sketch(sch.func))
    A_shifted = alloc((4, 8))
    B_sum = alloc((16,))
    for ax0, ax1 in grid(4, 8):
        A_shifted[ax0, ax1] = T.reinterpret(T.bitwise_xor(A[ax0, ax1], -128), dtype="uint8")
    for vk, vj in grid(8, 16):
        with init: B_sum[vj] = 0
        B_sum[vj] = B_sum[vj] + T.cast(B[vk, vj], "int32")
    for i, j, k in grid(4, 16, 8):
        with init: C[i, j] = B_sum[j] * -128
        C[i, j] = C[i, j] + T.cast(A_shifted[i, k], "int32") * T.cast(B[k, j], "int32")

    Exact, since integers wrap. `read_index` counts the distinct buffers that the block reads.
    """
    name = "shift_to_unsigned"
    node = sch.block(block)
    loads = _checked_product(sch, name, node)
    buffer = buffer_of(sch, name, node, node.reads, read_index, "reads")
    if buffer.dtype.name != "int8" or not node.writes[0].buffer.dtype.is_int:
        raise fail(sch, name, f"`{buffer.name}` is {buffer.dtype}; int8 and an integer sum wanted")
    other = loads[1] if loads[0].buffer is buffer else loads[0]
    if other.buffer is buffer:
        raise fail(sch, name, f"both factors are loads of `{buffer.name}`")
    names = buffer_names(sch.state)
    shifted = Buffer(fresh_name(f"{buffer.name}_shifted", names), buffer.shape, _UINT8)
    copy, _ = _elementwise(
        sch.state.fresh_block_name(shifted.name),
        shifted,
        lambda p: (
            reinterpret(bitwise_xor(load(buffer, p), const(-128, "int8")), "uint8"),
            point(buffer, p),
        ),
    )
    sums, total, index = _sum_nest(sch, node, other, names)
    result = node.writes[0].buffer
    assert isinstance(node.init, BufferStore)
    start = load(total, index) * const(-128, result.dtype)
    inner: Block = replace_buffers(node, {buffer: shifted})
    inner = inner.replace(
        init=store(result, start, node.init.indices), reads=(*inner.reads, point(total, index))
    )
    place = below_root(sch.state.path(node))
    nest = edit(place, {node: inner})
    assert nest is not None
    sch.set_func(add_buffers(sch.state.edited({place: seq(copy, sums, nest)}), shifted, total))


def _sum_nest(
    sch: Schedule, node: Block, term: BufferLoad, names: set[str]
) -> tuple[Stmt, Buffer, list[Expr]]:
    """Loops that sum `term` over the reduction variables of `node`; the buffer of the sums, and
    its indices in `node`."""
    result = node.writes[0].buffer
    used = [
        bound
        for bound in node.iters
        if bound.kind is IterKind.SPATIAL and any(uses_var(i, bound.var) for i in term.indices)
    ]
    reduced = [bound for bound in node.iters if bound.kind is IterKind.REDUCTION]
    label = fresh_name(f"{term.buffer.name}_sum", names)
    total = Buffer(label, tuple(b.extent for b in used) or (const(1),), result.dtype)
    loops: list[tuple[Var, Expr]] = []
    iters: list[IterVar] = []
    values: dict[Var, Expr] = {}
    for bound in (*reduced, *used):  # the sums' index innermost: it becomes the lanes
        var = Var(bound.var.name)
        loops.append((var, bound.extent))
        make = reduction if bound in reduced else spatial
        iters.append(make(bound.extent, var, bound.var.name))
        values[bound.var] = iters[-1].var
    at: list[Expr] = [values[b.var] for b in used] or [const(0)]
    value = substitute(term, values)
    block = make_block(
        sch.state.fresh_block_name(total.name),
        iters,
        store(total, load(total, at) + value.astype(result.dtype), at),
        reads=[point(term.buffer, value.indices)],
        writes=[point(total, at)],
        init=store(total, const(0, result.dtype), at),
    )
    own: list[Expr] = [b.var for b in used] or [const(0)]
    return for_nest(loops, block), total, own
