# SPDX-License-Identifier: Apache-2.0
"""`cache_index`: index arithmetic done once, into a buffer of integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from heddle.ir.expr import (
    Add,
    Cast,
    Expr,
    FloorDiv,
    FloorMod,
    IntImm,
    Max,
    Min,
    Mul,
    Sub,
    Var,
    as_int,
)
from heddle.ir.walk import free_vars, post_order, rewrite, substitute
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import below_root, buffer_names, check_scope
from heddle.schedule.primitives.inline import add_buffers
from heddle.schedule.refs import BlockLike, BlockRef
from heddle.schedule.region import expr_key, has_loops
from heddle.schedule.state import edit
from heddle.support.names import fresh_name
from heddle.tir.build import for_nest, load, make_block, point, seq, shape_symbols, spatial, store
from heddle.tir.nodes import Block, Buffer, BufferLoad, BufferStore, Stmt

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

_NAME = "cache_index"

_ARITHMETIC: Final = (Add, Sub, Mul, FloorDiv, FloorMod, Min, Max, Cast, IntImm, Var)
"""What may be computed ahead: it has no effect, reads nothing and cannot fail."""


@primitive
def cache_index(sch: Schedule, block: BlockLike, scope: str, *, repeats: int = 1) -> list[BlockRef]:
    """Compute the indices with which a block accesses buffers once, and let it look them up.

    >>> sch = Schedule(resized())
    >>> sch.cache_index("C", "global")
    [block `C_index`]
    >>> print(sketch(sch.func))
    C_index = alloc((20,))
    for ax0 in range(20):
        C_index[ax0] = ax0 * 3 // 5
    for i, j in grid(20, 8):
        C[i, j] = A[C_index[i], j]

    What is looked up are the indices that compute something: more than a variable, a constant or
    their sum. With `repeats` above 1 it is the largest parts of indices that occur at least so many
    times in the block. Each gets a buffer over the iteration variables that it depends on, and a
    block that fills it, to be moved by compute_at. Returns these blocks.
    """
    node = sch.block(block)
    check_scope(sch, _NAME, scope)
    if repeats < 1:
        raise fail(sch, _NAME, f"`repeats` must be positive, got {repeats}")
    if has_loops(node):
        raise fail(sch, _NAME, f"block `{node.name}` accesses buffers in loops of its own", node)
    symbols = {*shape_symbols(sch.func), *(p for p in sch.func.params if isinstance(p, Var))}
    chosen = _chosen(node, repeats, symbols)
    if not chosen:
        times = "" if repeats == 1 else f" {repeats} times"
        raise fail(
            sch,
            _NAME,
            f"block `{node.name}` computes nothing{times} in its indices that could be looked up: "
            "that takes a product, quotient, remainder or sum of its iteration variables",
            node,
        )
    place = below_root(sch.state.path(node))
    taken, blocks = buffer_names(sch.state), set(sch.state.block_links)
    fills: list[Stmt] = []
    buffers: list[Buffer] = []
    names: list[str] = []
    lookups: dict[Any, BufferLoad] = {}
    for key, value in chosen.items():
        used = [bound for bound in node.iters if bound.var in set(free_vars(value))]
        title = fresh_name(f"{node.name}_index", taken)
        buffer = Buffer(title, tuple(b.extent for b in used), value.dtype, None, scope)
        names.append(fresh_name(title, blocks))
        fills.append(_filling(names[-1], buffer, node, value))
        buffers.append(buffer)
        lookups[key] = load(buffer, [bound.var for bound in used])
        taken.add(title)
        blocks.add(names[-1])
    changed = edit(place, {node: _looking_up(node, lookups)})
    assert changed is not None
    sch.set_func(add_buffers(sch.state.edited({place: seq(*fills, changed)}), *buffers))
    return [BlockRef(name) for name in names]


def _accesses(node: Block) -> Iterator[Expr]:
    """Each index of each access of a block."""
    for part in (node.init, node.body):
        for found in post_order(part) if part is not None else ():
            if isinstance(found, (BufferLoad, BufferStore)):
                yield from found.indices


def _chosen(node: Block, repeats: int, symbols: set[Var]) -> dict[Any, Expr]:
    """The expressions to look up, by their keys: the largest that may be and occur so often."""
    variables = {bound.var for bound in node.iters}
    counts: Counter[Any] = Counter()
    for index in _accesses(node):
        counts.update(
            expr_key(part) for part in _parts(index) if _computes(part, variables, symbols)
        )
    found: dict[Any, Expr] = {}

    def choose(value: Expr) -> None:
        key = expr_key(value)
        if counts[key] >= repeats:
            found[key] = value
        else:
            for child in value.children():
                if isinstance(child, Expr):
                    choose(child)

    for index in _accesses(node):
        if repeats > 1 or _computes(index, variables, symbols):
            choose(index)
    return found


def _parts(value: Expr) -> Iterator[Expr]:
    """`value` and what it is made of, without the indices of loads inside."""
    yield value
    if not isinstance(value, BufferLoad):
        for child in value.children():
            if isinstance(child, Expr):
                yield from _parts(child)


def _computes(value: Expr, variables: set[Var], symbols: set[Var]) -> bool:
    """Whether an expression of the iteration variables is worth a look-up, and safe at all their
    values: also where the block would not have computed it."""
    for found in post_order(value):
        if not isinstance(found, _ARITHMETIC) or not found.dtype.is_int:
            return False
        if isinstance(found, (FloorDiv, FloorMod)) and not as_int(found.b):
            return False
    used = set(free_vars(value))
    shifted = isinstance(value, (Add, Sub)) and as_int(value.b) is not None
    base = value.a if shifted else value  # type: ignore[attr-defined]
    if not used & variables or not used <= variables | symbols:
        return False
    return not isinstance(base, (Var, Cast))


def _filling(name: str, buffer: Buffer, node: Block, value: Expr) -> Stmt:
    """A nest that stores `value` for all values of the variables of `node` that it depends on."""
    used = [bound for bound in node.iters if bound.var in set(free_vars(value))]
    loops = [(Var(f"ax{n}"), bound.extent) for n, bound in enumerate(used)]
    iters = [spatial(extent, var, f"v{n}") for n, (var, extent) in enumerate(loops)]
    places = [bound.var for bound in iters]
    own: dict[Var, Expr] = {old.var: new for old, new in zip(used, places, strict=True)}
    stored = store(buffer, substitute(value, own), places)
    return for_nest(
        loops, make_block(name, iters, stored, reads=(), writes=[point(buffer, places)])
    )


def _looking_up(node: Block, lookups: Mapping[Any, BufferLoad]) -> Block:
    """`node` with look-ups in its indices; it declares the same regions and the look-ups.

    The regions keep the arithmetic: other primitives see from it what the block touches."""

    def index(value: Expr) -> Expr:
        found = lookups.get(expr_key(value))
        if found is not None or isinstance(value, BufferLoad):
            return value if found is None else found
        return value.map(lambda child: index(child) if isinstance(child, Expr) else child)  # type: ignore[no-any-return]

    def access(found: Any) -> Any:
        return found.replace(indices=tuple(map(index, found.indices)))

    handlers: dict[type, Callable[[Any], Any]] = {BufferLoad: access, BufferStore: access}
    init = None if node.init is None else rewrite(node.init, handlers)
    body = rewrite(node.body, handlers)
    reads = [point(found.buffer, found.indices) for found in lookups.values()]
    result: Block = node.replace(init=init, body=body, reads=(*node.reads, *reads))
    return result
