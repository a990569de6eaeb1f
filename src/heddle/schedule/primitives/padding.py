# SPDX-License-Identifier: Apache-2.0
"""Primitives for padding: taking it apart, and adding it to reach whole tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from heddle.ir.expr import (
    GE,
    GT,
    LE,
    LT,
    Add,
    Call,
    Cast,
    Expr,
    Mul,
    Select,
    Var,
    as_int,
    const,
    if_then_else,
    logical_and,
)
from heddle.ir.walk import post_order, substitute, uses_var
from heddle.schedule.affine import Around, affine
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.block_iters import plain_nest
from heddle.schedule.primitives.cache import buffer_names, root_child
from heddle.schedule.primitives.inline import add_buffers, single_store
from heddle.schedule.primitives.loops import rebind
from heddle.schedule.primitives.rfactor import Reduction, reduction_of
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef
from heddle.schedule.region import all_reads, point_reads
from heddle.schedule.state import edit
from heddle.support.names import fresh_name
from heddle.tir.build import (
    TRUE,
    for_nest,
    load,
    make_block,
    point,
    seq,
    shape_symbols,
    spatial,
    store,
)
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    IterKind,
    IterVar,
    Stmt,
)
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def decompose_padding(sch: Schedule, block: BlockLike, loop: LoopRef) -> BlockRef:
    """Split a block that copies with padding: fill with the constant first, then copy the inside.

    >>> sch = Schedule(padded())
    >>> (i,) = sch.get_loops("P")
    >>> sch.decompose_padding("P", i)
    block `P_pad`
    >>> print(sketch(sch.func))
    P = alloc((32,))
    for i in range(32):
        P[i] = 0.0  # P_pad
    for i in range(30):
        P[i + 1] = A[i]
    for i in range(30):
        C[i] = P[i] + P[i + 2]

    The block must store `if_then_else(inside, value, constant)` (or a select). The new block comes
    right before `loop`. Loops over an iteration variable of their own are shortened to the inside;
    elsewhere a predicate selects it. Returns the filling block, called `<block>_pad`.
    """
    name = "decompose_padding"
    node = sch.block(block)
    stored = single_store(sch, name, node)
    inside, value, fill = _padding(sch, node, stored)
    loops = sch.state.loops(node)
    position = next((n for n, found in enumerate(loops) if found.var is loop.var), None)
    if position is None:
        raise fail(sch, name, f"{loop} is not around block `{node.name}`", loop, node)
    inner = loops[position:]
    for above, below in zip(inner, [*inner[1:], node], strict=True):
        if above.body is not below:
            raise fail(sch, name, f"block `{node.name}` must be alone in {loop}", node)
    filling = _filling(sch, node, stored, fill, inner)
    nest = _inside_nest(node, stored, value, inside, inner)
    sch.change({sch.state.loop(loop.var): seq(filling[0], nest)})
    return BlockRef(filling[1].name)


def _padding(sch: Schedule, node: Block, stored: BufferStore) -> tuple[Expr, Expr, Expr]:
    value: Any = stored.value
    parts: tuple[Expr, Expr, Expr] | None = None
    if type(value) is Call and value.name == "if_then_else":
        parts = value.args  # type: ignore[assignment]
    elif type(value) is Select:
        parts = (value.condition, value.a, value.b)
    constant = parts is not None and not any(
        type(n) in (Var, BufferLoad) for n in post_order(parts[2])
    )
    condition_loads = parts is not None and any(type(n) is BufferLoad for n in post_order(parts[0]))
    if parts is None or not constant or condition_loads:
        raise fail(
            sch,
            "decompose_padding",
            f"block `{node.name}` must store if_then_else(inside, value, constant), it stores "
            f"`{value}`",
            node,
        )
    return parts


def _filling(
    sch: Schedule, node: Block, stored: BufferStore, fill: Expr, inner: list[For]
) -> tuple[Stmt, Block]:
    """Loops like `inner`, with variables of their own, around a block that stores the constant."""
    fresh: dict[Var, Expr] = {n.var: Var(n.var.name, n.var.dtype) for n in inner}
    values: dict[Var, Expr] = {}
    iters: list[IterVar] = []
    for bound in node.iters:
        var = Var(bound.var.name, bound.var.dtype)
        values[bound.var] = var
        iters.append(bound.replace(binding=substitute(bound.binding, fresh), var=var))
    place = [substitute(index, values) for index in stored.indices]
    made = make_block(
        sch.state.fresh_block_name(f"{node.name}_pad"),
        iters,
        store(stored.buffer, fill, place),
        reads=(),
        writes=[point(stored.buffer, place)],
        predicate=substitute(node.predicate, fresh),
    )
    body: Stmt = made
    for old in reversed(inner):
        bounds = substitute(old.min, fresh), substitute(old.extent, fresh)
        body = For(*bounds, old.kind, fresh[old.var], body, old.annotations)  # type: ignore[arg-type]
    return body, made


def _inside_nest(
    node: Block,
    stored: BufferStore,
    value: Expr,
    inside: Expr,
    inner: list[For],
) -> Stmt:
    """The block where `inside` holds: in shorter loops, or under a predicate."""
    limits: dict[Var, tuple[int, int | None]] = {}
    guard: Expr = TRUE
    bindings: dict[Var, Expr] = {bound.var: bound.binding for bound in node.iters}
    for part in conjuncts(inside):
        limit = _limit(part, node, inner)
        if limit is None:
            guard = logical_and(guard, substitute(part, bindings))
            continue
        var, low, high = limit
        old_low, old_high = limits.get(var, (0, None))
        ends = [end for end in (old_high, high) if end is not None]
        limits[var] = (max(old_low, low), min(ends) if ends else None)
    values: dict[Var, Expr] = {}
    extents: dict[Var, Expr] = {}
    for loop in inner:
        if loop.var in limits:
            low, high = limits[loop.var]
            size = as_int(loop.extent)
            assert size is not None
            high = size if high is None else min(high, size)
            values[loop.var] = loop.var + low
            extents[loop.var] = const(max(high - low, 0))
    copying = store(stored.buffer, value, stored.indices)
    body: Stmt = node.replace(
        body=copying,
        reads=tuple(point_reads([copying], ())),
        predicate=logical_and(node.predicate, guard),
    )
    body = rebind(body, values)
    for loop in reversed(inner):
        body = loop.replace(extent=extents.get(loop.var, loop.extent), body=body)
    return body


def _limit(part: Expr, node: Block, inner: list[For]) -> tuple[Var, int, int | None] | None:
    """The loop that a condition `v >= low` or `v < high` on an iteration variable is about, with
    the limits; None when it is no such condition or the variable has no loop of its own."""
    if type(part) not in (LT, LE, GT, GE):
        return None
    left, right = affine(part.a), affine(part.b)  # type: ignore[attr-defined]
    if type(part) in (LT, LE):
        left, right = right, left
    total = left.plus(right, -1)  # total > 0, or >= 0
    if type(part) in (LT, GT):
        total.constant -= 1
    if len(total.terms) != 1:
        return None
    ((atom, count),) = total.terms.values()
    own = [b for b in node.iters if b.var is atom]
    if not own or abs(count) != 1 or type(own[0].binding) is not Var:
        return None
    var = own[0].binding
    plain = [n for n in inner if n.var is var and as_int(n.min) == 0 and as_int(n.extent)]
    shared = [b for b in node.iters if b is not own[0] and uses_var(b.binding, var)]
    if not plain or shared or uses_var(node.predicate, var):
        return None
    if any(uses_var(n.extent, var) or uses_var(n.min, var) for n in inner):
        return None
    return (var, -total.constant, None) if count > 0 else (var, 0, total.constant + 1)


# -- pad_einsum ----------------------------------------------------------------------------------


@primitive
def pad_einsum(sch: Schedule, block: BlockLike, padding: Sequence[int]) -> None:
    """Pad the iteration variables of a sum of products up to multiples, so that tiles divide them.

    >>> sch = Schedule(product(5, 32, 24))
    >>> sch.pad_einsum("C", [4, 1, 1])
    >>> print(sketch(sch.func))
    C_pad = alloc((8, 32))
    A_pad = alloc((8, 24))
    for ax0, ax1 in grid(8, 24):
        A_pad[ax0, ax1] = T.if_then_else(ax0 < 5, A[ax0, ax1], 0.0)
    for i, j, k in grid(8, 32, 24):
        with init: C_pad[i, j] = 0.0  # C
        C_pad[i, j] = C_pad[i, j] + A_pad[i, k] * B[k, j]
    for ax0, ax1 in grid(5, 32):
        C[ax0, ax1] = C_pad[ax0, ax1]  # C_crop

    `padding` holds a multiple for each iteration variable (1 leaves it alone). What is read is
    copied with zeros around it, what is written is cropped. The block must have a plain nest of its
    own; what it writes is accessed with iteration variables alone, and what it reads with the
    padded ones alone in the dimensions that they index. What has elements enough for the spatial
    ones (a matrix in whole panels) is not copied: its values there reach only what is cropped.
    """
    name = "pad_einsum"
    node = sch.block(block)
    nest = plain_nest(sch, name, node)
    what = reduction_of(sch, name, node)
    sizes = _padded_sizes(sch, node, padding)
    if not sizes:
        return
    _check_zeros(sch, node, what, sizes)
    loads = _outgrown(sch, node, what, sizes)
    for access in [*loads, load(what.buffer, what.indices)]:
        padded = set(sizes) if access.buffer is not what.buffer else {b.var for b in node.iters}
        _check_plain(sch, node, access, padded)
    _check_told(sch, node, what, sizes)
    place = root_child(sch, name, node, _neighbours(sch, node), "shares buffers")
    extents = {bound.var: bound.extent for bound in node.iters}
    before, copies = _padded_inputs(sch, loads, sizes, extents)
    output, after = _cropped_output(sch, node, what, sizes)
    changed = _padded_block(node, what, sizes, copies, output)
    inner: Stmt = changed
    for loop in reversed(nest):
        bound = next(b for b in node.iters if b.binding is loop.var)
        inner = loop.replace(extent=sizes.get(bound.var, loop.extent), body=inner)
    around = edit(place, {nest[0]: inner})
    assert around is not None
    edited = sch.state.edited({place: seq(*before, around, *after)})
    made = [*([output] if output is not what.buffer else []), *dict.fromkeys(copies.values())]
    sch.set_func(add_buffers(edited, *made))


def _check_plain(sch: Schedule, node: Block, access: BufferLoad, padded: set[Var]) -> None:
    """Raise unless each index that uses variables of `padded` is one of them."""
    found = [index for index in access.indices if uses_var(index, padded)]
    unit = zip(access.indices, access.buffer.shape, strict=True)
    fixed = [index for index, dim in unit if index not in found and as_int(dim) != 1]
    partial = access.buffer in {region.buffer for region in node.writes} and fixed
    if partial or any(type(index) is not Var for index in found) or len(set(found)) != len(found):
        raise fail(
            sch,
            "pad_einsum",
            f"block `{node.name}` accesses `{access}`; each index must be an iteration "
            "variable of its own (reindex makes it so)",
            node,
        )


def _neighbours(sch: Schedule, node: Block) -> list[Block]:
    """The blocks that write what `node` reads, or read what it writes."""
    found = [b for r in all_reads(node) for b in sch.state.writers.get(r.buffer, ())]
    found += [b for r in node.writes for b in sch.state.readers.get(r.buffer, ())]
    return [b for b in found if b is not node]


def _outgrown(
    sch: Schedule, node: Block, what: Reduction, sizes: dict[Var, Expr]
) -> list[BufferLoad]:
    """The loads that must read zeros where variables grow."""
    domain = {b.var: (const(0), sizes.get(b.var, b.extent)) for b in node.iters}
    around = Around(domain, shape_symbols(sch.func))
    summed = {b.var for b in node.iters if b.kind is not IterKind.SPATIAL and b.var in sizes}

    def is_inside(access: BufferLoad) -> bool:
        return all(
            around.nonnegative(index) and around.nonnegative(size - 1 - index)
            for index, size in zip(access.indices, access.buffer.shape, strict=True)
        )

    found = []
    for access in post_order(what.value):
        if type(access) is not BufferLoad:
            continue
        grown = {var for var in sizes if any(uses_var(i, var) for i in access.indices)}
        if grown & summed or (grown and not is_inside(access)):
            found.append(access)
    return found


def _padded_sizes(sch: Schedule, node: Block, padding: Sequence[int]) -> dict[Var, Expr]:
    """The new extent of each iteration variable that grows."""
    if len(padding) != len(node.iters) or any(multiple < 1 for multiple in padding):
        names = [bound.var.name for bound in node.iters]
        raise fail(
            sch,
            "pad_einsum",
            f"`padding` must hold a positive integer for each of {names}, got {list(padding)}",
        )
    sizes: dict[Var, Expr] = {}
    for bound, multiple in zip(node.iters, padding, strict=True):
        static = as_int(bound.extent)
        if static is None or static % multiple:
            if multiple > 1:
                sizes[bound.var] = (bound.extent + (multiple - 1)) // multiple * multiple
    return sizes


def _check_zeros(sch: Schedule, node: Block, what: Reduction, sizes: dict[Var, Expr]) -> None:
    """Raise unless padded steps of the reduction add zero."""
    factors = _factors(what.value)
    for bound in node.iters:
        if bound.kind is IterKind.SPATIAL or bound.var not in sizes:
            continue
        zero = any(type(f) is BufferLoad and uses_var(f, bound.var) for f in factors)
        if what.combiner is not Add or not zero:
            raise fail(
                sch,
                "pad_einsum",
                f"padding the {bound.kind.value} variable `{bound.var.name}` would change the "
                f"result of block `{node.name}`: it must sum products with a factor that is read "
                f"with `{bound.var.name}`",
                node,
            )


def _check_told(sch: Schedule, node: Block, what: Reduction, sizes: dict[Var, Expr]) -> None:
    """Raise when a spatial variable that grows tells no element of the result: each would be
    computed several times, and then the loop is no longer one over different elements."""
    for bound in node.iters:
        if bound.kind is IterKind.SPATIAL and bound.var in sizes and bound.var not in what.indices:
            raise fail(
                sch,
                "pad_einsum",
                f"padding `{bound.var.name}` would compute each element of `{what.buffer.name}` "
                f"several times: block `{node.name}` does not write with that variable; its "
                "padding must be 1",
                node,
            )


def _factors(value: Expr) -> list[Expr]:
    if type(value) is Mul:
        return [*_factors(value.a), *_factors(value.b)]
    return _factors(value.value) if type(value) is Cast else [value]


def _padded_inputs(
    sch: Schedule, loads: list[BufferLoad], sizes: dict[Var, Expr], extents: dict[Var, Expr]
) -> tuple[list[Stmt], dict[Any, Buffer]]:
    """Blocks that copy what is read into padded buffers, by buffer and indices."""
    nests: list[Stmt] = []
    made: dict[Any, Buffer] = {}
    names = buffer_names(sch.state)
    blocks = set(sch.state.block_links)
    for access in loads:
        key = access.buffer, access.indices
        if key in made or not any(index in sizes for index in access.indices):
            continue
        buffer = access.buffer
        shape = [
            sizes.get(index, dim)  # type: ignore[call-overload]
            for index, dim in zip(access.indices, buffer.shape, strict=True)
        ]
        title = fresh_name(f"{buffer.name}_pad", names)
        names.add(title)
        padded = Buffer(title, tuple(shape), buffer.dtype)
        made[key] = padded
        name = fresh_name(title, blocks)
        blocks.add(name)
        nests.append(_pad_nest(name, buffer, padded, access.indices, sizes, extents))
    return nests, made


def _pad_nest(
    name: str,
    source: Buffer,
    target: Buffer,
    indices: tuple[Expr, ...],
    sizes: dict[Var, Expr],
    extents: dict[Var, Expr],
) -> Stmt:
    loops = [Var(f"ax{dim}") for dim in range(source.ndim)]
    iters = [
        spatial(extent, var, f"v{dim}")
        for dim, (var, extent) in enumerate(zip(loops, target.shape, strict=True))
    ]
    place = [bound.var for bound in iters]
    inside: Expr = TRUE
    for index, var in zip(indices, place, strict=True):
        if index in sizes:
            inside = logical_and(inside, var < extents[index])
    value = if_then_else(inside, load(source, place), const(0, source.dtype))
    block = make_block(
        name,
        iters,
        store(target, value, place),
        reads=[point(source, place)],
        writes=[point(target, place)],
    )
    return for_nest(list(zip(loops, target.shape, strict=True)), block)


def _cropped_output(
    sch: Schedule, node: Block, what: Reduction, sizes: dict[Var, Expr]
) -> tuple[Buffer, list[Stmt]]:
    """The buffer that the padded block writes, and the block that crops it."""
    if not any(index in sizes for index in what.indices):
        return what.buffer, []
    others = [b.name for b in sch.state.writers[what.buffer] if b is not node]
    if others:
        raise fail(sch, "pad_einsum", f"`{what.buffer.name}` is also written by {others}")
    shape = [
        sizes.get(index, dim)  # type: ignore[call-overload]
        for index, dim in zip(what.indices, what.buffer.shape, strict=True)
    ]
    title = fresh_name(f"{what.buffer.name}_pad", buffer_names(sch.state))
    output = Buffer(title, tuple(shape), what.buffer.dtype)
    extents = {bound.var: bound.extent for bound in node.iters}
    loops = [Var(f"ax{dim}") for dim in range(output.ndim)]
    bounds = [
        extents.get(index, dim)  # type: ignore[call-overload]
        for index, dim in zip(what.indices, what.buffer.shape, strict=True)
    ]
    iters = [
        spatial(extent, var, f"v{dim}")
        for dim, (var, extent) in enumerate(zip(loops, bounds, strict=True))
    ]
    place = [bound.var for bound in iters]
    crop = make_block(
        sch.state.fresh_block_name(f"{node.name}_crop"),
        iters,
        store(what.buffer, load(output, place), place),
        reads=[point(output, place)],
        writes=[point(what.buffer, place)],
    )
    return output, [for_nest(list(zip(loops, bounds, strict=True)), crop)]


def _padded_block(
    node: Block,
    what: Reduction,
    sizes: dict[Var, Expr],
    copies: dict[Any, Buffer],
    output: Buffer,
) -> Block:
    def retarget(value: Expr) -> Expr:
        memo = {
            n: load(copies[n.buffer, n.indices], n.indices)
            for n in post_order(value)
            if type(n) is BufferLoad and (n.buffer, n.indices) in copies
        }
        changed: Expr = substitute(value, memo)  # type: ignore[arg-type]
        return changed

    value = retarget(what.value)
    iters = tuple(b.replace(extent=sizes.get(b.var, b.extent)) for b in node.iters)
    result: Block = node.replace(
        iters=iters,
        init=store(output, what.start, what.indices),
        body=store(output, what.combiner(load(output, what.indices), value), what.indices),
        reads=tuple(point_reads([store(output, value, what.indices)], ())),
        writes=(point(output, what.indices),),
    )
    return result
