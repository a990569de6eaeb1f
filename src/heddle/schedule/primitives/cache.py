# SPDX-License-Identifier: Apache-2.0
"""Primitives that stage what a block reads or writes in a buffer of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heddle.ir.expr import Var
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.inline import add_buffers
from heddle.schedule.refs import BlockLike, BlockRef
from heddle.schedule.state import State, edit, walk
from heddle.support.names import fresh_name
from heddle.tir.build import (
    for_nest,
    load,
    make_block,
    point,
    replace_buffers,
    seq,
    spatial,
    store,
)
from heddle.tir.nodes import Allocate, Block, Buffer, BufferRegion, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

SCOPES = ("global", "local")


def buffer_of(
    sch: Schedule, name: str, block: Block, regions: Sequence[BufferRegion], index: int, what: str
) -> Buffer:
    """The buffer that `index` counts among the distinct ones of `regions`."""
    buffers = list(dict.fromkeys(region.buffer for region in regions))
    if not 0 <= index < len(buffers):
        names = [buffer.name for buffer in buffers]
        raise fail(
            sch,
            name,
            f"block `{block.name}` {what} {len(buffers)} buffers {names}: index {index} does not "
            f"exist",
            block,
        )
    return buffers[index]


def check_scope(sch: Schedule, name: str, scope: str) -> None:
    """Raise unless `scope` is a memory scope."""
    if scope not in SCOPES:
        raise fail(sch, name, f'`scope` must be one of {list(SCOPES)}, got "{scope}"')


def buffer_names(state: State) -> set[str]:
    """The names of all buffers of the function."""
    names = {p.name for p in state.func.params if isinstance(p, Buffer)}
    names.update(buffer.name for buffer in state.root.alloc_buffers)
    names.update(s.buffer.name for s in walk(state.func.body) if type(s) is Allocate)
    return names


def _copy_of(state: State, buffer: Buffer, suffix: str, scope: str) -> Buffer:
    name = fresh_name(f"{buffer.name}_{suffix}", buffer_names(state))
    return Buffer(name, buffer.shape, buffer.dtype, None, scope)


def _copy_nest(name: str, source: Buffer, target: Buffer) -> tuple[Stmt, Block]:
    """Loops around a block that copies `source` to `target`."""
    loops = [Var(f"ax{dim}") for dim in range(source.ndim)]
    iters = [
        spatial(extent, var, f"v{dim}")
        for dim, (var, extent) in enumerate(zip(loops, source.shape, strict=True))
    ]
    place = [bound.var for bound in iters]
    block = make_block(
        name,
        iters,
        store(target, load(source, place), place),
        reads=[point(source, place)],
        writes=[point(target, place)],
    )
    return for_nest(list(zip(loops, source.shape, strict=True)), block), block


def root_child(sch: Schedule, name: str, block: Block, others: Sequence[Block], why: str) -> Stmt:
    """The statement directly below the root that holds `block`, and none of `others`."""
    path = sch.state.path(block)
    child = below_root(path)
    for other in others:
        if below_root(sch.state.path(other)) is child:
            raise fail(
                sch,
                name,
                f"block `{other.name}`, which {why}, shares a loop nest with `{block.name}`; "
                f"call {name} before moving one of them into the other's loops",
                other,
            )
    return child


def below_root(path: list[Stmt]) -> Stmt:
    """The statement of the root block on a path: past the root and its sequence."""
    # The root block, then perhaps a sequence, then the statement.
    position = 1
    while position < len(path) - 1 and hasattr(path[position], "stmts"):
        position += 1
    return path[position]


@primitive
def cache_read(sch: Schedule, block: BlockLike, read_index: int, scope: str) -> BlockRef:
    """Copy a buffer that a block reads into a new buffer, and let the block read that one.

    >>> sch = Schedule(chain())
    >>> sch.cache_read("C", 0, "local")
    block `B_local`
    >>> print(sketch(sch.func))
    B = alloc((32,))
    B_local = alloc((32,), scope="local")
    for i in range(32):
        B[i] = A[i] + 1.0
    for ax0 in range(32):
        B_local[ax0] = B[ax0]
    for i in range(32):
        C[i] = B_local[i] * 2.0

    `read_index` counts the distinct buffers that the block reads. Returns the copying block
    (named like its buffer), to be moved by compute_at.
    """
    node = sch.block(block)
    check_scope(sch, "cache_read", scope)
    buffer = buffer_of(sch, "cache_read", node, node.reads, read_index, "reads")
    if any(region.buffer is buffer for region in node.writes):
        raise fail(
            sch,
            "cache_read",
            f"block `{node.name}` also writes `{buffer.name}`; use cache_write",
            node,
        )
    writers = [b for b in sch.state.writers.get(buffer, ()) if b is not node]
    place = root_child(sch, "cache_read", node, writers, f"writes `{buffer.name}`")
    cached = _copy_of(sch.state, buffer, scope, scope)
    name = sch.state.fresh_block_name(cached.name)
    copy, _ = _copy_nest(name, buffer, cached)
    reader = replace_buffers(node, {buffer: cached})
    changed = edit(place, {node: reader})
    assert changed is not None
    sch.set_func(add_buffers(sch.state.edited({place: seq(copy, changed)}), cached))
    return BlockRef(name)


@primitive
def cache_write(sch: Schedule, block: BlockLike, write_index: int, scope: str) -> BlockRef:
    """Let a block compute in a new buffer, and copy that to where it wrote before.

    >>> sch = Schedule(chain())
    >>> sch.cache_write("C", 0, "local")
    block `C_write`
    >>> print(sketch(sch.func))
    B = alloc((32,))
    C_local = alloc((32,), scope="local")
    for i in range(32):
        B[i] = A[i] + 1.0
    for i in range(32):
        C_local[i] = B[i] * 2.0  # C
    for ax0 in range(32):
        C[ax0] = C_local[ax0]  # C_write

    `write_index` counts the distinct buffers that the block writes. Returns the copying block
    (`<buffer>_write`), to be moved by reverse_compute_at.
    """
    node = sch.block(block)
    check_scope(sch, "cache_write", scope)
    buffer = buffer_of(sch, "cache_write", node, node.writes, write_index, "writes")
    writers = sch.state.writers[buffer]
    inside = {writer.name for writer in writers}
    readers = [b for b in sch.state.readers.get(buffer, ()) if b.name not in inside]
    why = f"reads `{buffer.name}`"
    last = root_child(sch, "cache_write", node, readers, why)
    cached = _copy_of(sch.state, buffer, scope, scope)
    changes: dict[Stmt, Stmt | None] = {}
    for writer in writers:
        changes[writer] = replace_buffers(writer, {buffer: cached})
        last = root_child(sch, "cache_write", writer, readers, why)
    order = list(sch.state.block_links)
    for reader in readers:
        if order.index(reader.name) < order.index(writers[-1].name):
            raise fail(
                sch,
                "cache_write",
                f"block `{reader.name}` reads `{buffer.name}` before `{writers[-1].name}` writes",
                reader,
            )
    name = sch.state.fresh_block_name(f"{buffer.name}_write")
    copy, _ = _copy_nest(name, cached, buffer)
    changed = edit(last, changes)
    assert changed is not None
    outer = {key: value for key, value in changes.items() if not _inside(sch, key, last)}
    sch.set_func(add_buffers(sch.state.edited({**outer, last: seq(changed, copy)}), cached))
    return BlockRef(name)


@primitive
def cache_inplace(sch: Schedule, block: BlockLike, write_index: int, scope: str) -> list[BlockRef]:
    """Let a block that updates a buffer in place do so in a copy, made before and stored after.

    >>> sch = Schedule(row_sum())
    >>> i, k = sch.get_loops("S")
    >>> sch.decompose_reduction("S", i)
    block `S_init`
    >>> sch.cache_inplace("S", 0, "local")
    [block `S_local`, block `S_write`]
    >>> print(sketch(sch.func))
    S_local = alloc((8,), scope="local")
    for i in range(8):
        S[i] = 0.0  # S_init
    for ax0 in range(8):
        S_local[ax0] = S[ax0]
    for i, k in grid(8, 64):
        S_local[i] = S_local[i] + A[i, k]  # S
    for ax0 in range(8):
        S[ax0] = S_local[ax0]  # S_write

    `write_index` counts the distinct buffers that the block writes; it must read that one as well.
    Returns the block that fills the copy and the one that stores it. Both copy the whole buffer and
    stay where they are: the block is not the only one that writes either buffer.
    """
    name = "cache_inplace"
    node = sch.block(block)
    check_scope(sch, name, scope)
    buffer = buffer_of(sch, name, node, node.writes, write_index, "writes")
    if node.init is not None or all(region.buffer is not buffer for region in node.reads):
        why = "begins each element with its init" if node.init is not None else "does not read it"
        raise fail(
            sch,
            name,
            f"block `{node.name}` writes `{buffer.name}` but {why}; use cache_write",
            node,
        )
    users = [*sch.state.writers[buffer], *sch.state.readers[buffer]]
    others = [b for b in users if b.name != node.name]
    place = root_child(sch, name, node, others, f"uses `{buffer.name}`")
    cached = _copy_of(sch.state, buffer, scope, scope)
    filled, fill = _copy_nest(sch.state.fresh_block_name(cached.name), buffer, cached)
    stored, keep = _copy_nest(sch.state.fresh_block_name(f"{buffer.name}_write"), cached, buffer)
    changed = edit(place, {node: replace_buffers(node, {buffer: cached})})
    assert changed is not None
    sch.set_func(add_buffers(sch.state.edited({place: seq(filled, changed, stored)}), cached))
    return [BlockRef(fill.name), BlockRef(keep.name)]


def _inside(sch: Schedule, block: Stmt, above: Stmt) -> bool:
    return any(found is above for found in sch.state.path(block))  # type: ignore[arg-type]


@primitive
def set_scope(sch: Schedule, block: BlockLike, write_index: int, scope: str) -> None:
    """Change the memory scope of an intermediate buffer that a block writes.

    >>> sch = Schedule(chain())
    >>> sch.set_scope("B", 0, "local")
    >>> print(sketch(sch.func))
    B = alloc((32,), scope="local")
    for i in range(32):
        B[i] = A[i] + 1.0
    for i in range(32):
        C[i] = B[i] * 2.0
    """
    node = sch.block(block)
    check_scope(sch, "set_scope", scope)
    buffer = buffer_of(sch, "set_scope", node, node.writes, write_index, "writes")
    if sch.state.is_parameter(buffer):
        raise fail(
            sch, "set_scope", f"`{buffer.name}` is a parameter of the function: it stays global"
        )
    new = buffer.replace(scope=scope)
    sch.set_func(replace_buffers(sch.func, {buffer: new}))
