# SPDX-License-Identifier: Apache-2.0
"""Which regions of which buffers a block reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from heddle.ir import Node, post_order, structural_equal, substitute
from heddle.ir.expr import Add, Call, Expr, IntImm, Mul, Sub, Var, add, as_int, const, mul, sub
from heddle.tir.nodes import (
    Allocate,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    For,
    IterKind,
    LetStmt,
    Range,
)

Regions = tuple[BufferRegion, ...]


def detect_access_regions(block: Block) -> tuple[Regions, Regions]:
    """The regions that one instance of `block` reads and writes.

    An access outside any loop of the block's body is a point. Loops inside the body widen indices
    that are linear in the loop variables to the range they cover, other indices, and those read
    from what the block itself writes, to the whole dimension. Blocks inside the body count by what
    they declare; `address_of` stands for the whole buffer, read and written. Each distinct region
    is listed once, in the order of the accesses; buffers that live inside the block are left out,
    and so is the accumulator of a reduction among the reads (it is written at the same place).

    Before: `for k in T.serial(4): C[i] = C[i] + A[i, k * 2]`; reads `C[i], A[i, 0:7]`.
    """
    finder = _Finder()
    if block.init is not None:
        finder.visit(block.init)
    finder.visit(block.body)
    local = finder.local | set(block.alloc_buffers)
    changing = local | {region.buffer for region in finder.writes}
    writes = _lasting(finder.writes, local, changing)
    reads = _lasting(finder.reads, local, changing)
    if any(axis.kind is IterKind.REDUCTION for axis in block.iters):
        reads = tuple(region for region in reads if not _among(writes, region))
    return reads, writes


def _lasting(found: Iterable[BufferRegion], local: set[Buffer], changing: set[Buffer]) -> Regions:
    """The regions of buffers that are not `local`; where an index is read from a buffer that the
    block changes, whole dimensions."""
    lasting: list[BufferRegion] = []
    for region in found:
        if region.buffer in local:
            continue
        parts = zip(region.ranges, region.buffer.shape, strict=True)
        ranges = tuple(
            Range(const(0), dim) if _reads(part, changing) else part for part, dim in parts
        )
        _add(lasting, BufferRegion(region.buffer, ranges))
    return tuple(lasting)


def _reads(part: Range, buffers: set[Buffer]) -> bool:
    return any(
        isinstance(found, BufferLoad) and found.buffer in buffers
        for bound in (part.min, part.extent)
        for found in post_order(bound)
    )


class _Finder:
    def __init__(self) -> None:
        self.reads: list[BufferRegion] = []
        self.writes: list[BufferRegion] = []
        self.local: set[Buffer] = set()

    def visit(self, root: Node) -> None:
        """Collect the accesses below `root`; each loop widens those of its body."""
        stack: list[tuple[Node, tuple[For, ...], Mapping[Var, Expr]]] = [(root, (), {})]
        while stack:
            node, loops, values = stack.pop()
            if isinstance(node, Block):
                self._nested_block(node, loops, values)
                continue
            if isinstance(node, For):
                self._loads((node.min, node.extent), loops, values)
                stack.append((node.body, (*loops, node), values))
            elif isinstance(node, LetStmt):
                self._loads((node.value,), loops, values)
                bound = {**values, node.var: substitute(node.value, values)}
                stack.append((node.body, loops, bound))
            elif isinstance(node, Expr):
                self._loads((node,), loops, values)
            else:
                if isinstance(node, Allocate):
                    self.local.add(node.buffer)
                if isinstance(node, BufferStore):
                    ranges = _relax(node.indices, node.buffer, loops, values)
                    _add(self.writes, BufferRegion(node.buffer, ranges))
                stack.extend((child, loops, values) for child in reversed(node.children()))

    def _loads(
        self, roots: Iterable[Expr], loops: tuple[For, ...], values: Mapping[Var, Expr]
    ) -> None:
        for root in roots:
            nodes = list(post_order(root))
            calls = [n for n in nodes if isinstance(n, Call) and n.name == "address_of"]
            places = {call.args[0] for call in calls}
            for node in nodes:
                if node in places:
                    self._anything(node)
                elif isinstance(node, BufferLoad):
                    ranges = _relax(node.indices, node.buffer, loops, values)
                    _add(self.reads, BufferRegion(node.buffer, ranges))

    def _anything(self, element: Node) -> None:
        """Who is given the address of an element may read and write the whole buffer."""
        assert isinstance(element, BufferLoad)
        ranges = tuple(Range(const(0), dim) for dim in element.buffer.shape)
        for found in (self.reads, self.writes):
            _add(found, BufferRegion(element.buffer, ranges))

    def _nested_block(
        self, block: Block, loops: tuple[For, ...], values: Mapping[Var, Expr]
    ) -> None:
        self.local.update(block.alloc_buffers)
        bound = dict(values)
        for axis in block.iters:
            self._loads((axis.binding,), loops, values)
            bound[axis.var] = substitute(axis.binding, values)
        for found, regions in ((self.reads, block.reads), (self.writes, block.writes)):
            for region in regions:
                lows = _relax([item.min for item in region.ranges], region.buffer, loops, bound)
                sizes = zip(lows, region.ranges, strict=True)
                ranges = tuple(_grow(low, substitute(item.extent, bound)) for low, item in sizes)
                _add(found, BufferRegion(region.buffer, ranges))


def _add(found: list[BufferRegion], region: BufferRegion) -> None:
    if not _among(found, region):
        found.append(region)


def _among(found: Iterable[BufferRegion], region: BufferRegion) -> bool:
    return any(
        other.buffer is region.buffer and structural_equal(other.ranges, region.ranges)
        for other in found
    )


def _grow(low: Range, extent: Expr) -> Range:
    """The union of [x, x + extent) for the x of a range."""
    return Range(low.min, sub(add(low.extent, extent), const(1)))


def _relax(
    indices: Iterable[Expr], buffer: Buffer, loops: tuple[For, ...], values: Mapping[Var, Expr]
) -> tuple[Range, ...]:
    """Per index, the range that it covers while the loops run."""
    ranges = []
    for index, dim in zip(indices, buffer.shape, strict=True):
        found = _cover(substitute(index, values), loops)
        ranges.append(Range(const(0), dim) if found is None else found)
    return tuple(ranges)


def _cover(index: Expr, loops: tuple[For, ...]) -> Range | None:
    """The range of `index` over the loops, the innermost first; None where it is not linear."""
    low, extent = index, const(1)
    if index.dtype.lanes != 1:
        return None
    for loop in reversed(loops):
        split = _linear(low, loop.var)
        if split is None:
            return None
        factor, rest = split
        if factor == 0:
            continue
        last = sub(loop.extent, const(1, loop.extent.dtype))
        span = mul(last, const(abs(factor), last.dtype))
        extent = add(extent, span.astype("int64"))
        start = loop.min if factor > 0 else add(loop.min, last)
        low = add(rest, mul(start, const(factor, start.dtype)))
        if any(node is other.var for other in loops for node in post_order(extent)):
            return None
    return Range(low, extent)


def _linear(expr: Expr, var: Var) -> tuple[int, Expr] | None:
    """`(c, rest)` with `expr == c * var + rest`, or None."""
    if expr is var:
        return 1, const(0, var.dtype)
    if not any(node is var for node in post_order(expr)):
        return 0, expr
    if isinstance(expr, (Add, Sub)):
        left, right = _linear(expr.a, var), _linear(expr.b, var)
        if left is None or right is None:
            return None
        if isinstance(expr, Add):
            return left[0] + right[0], add(left[1], right[1])
        return left[0] - right[0], sub(left[1], right[1])
    if isinstance(expr, Mul):
        factor, other = as_int(expr.b), expr.a
        if factor is None:
            factor, other = as_int(expr.a), expr.b
        inner = None if factor is None else _linear(other, var)
        if factor is not None and inner is not None:
            scale = IntImm(factor, other.dtype)
            return inner[0] * factor, mul(inner[1], scale)
    return None
