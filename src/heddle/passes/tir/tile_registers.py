# SPDX-License-Identifier: Apache-2.0
"""Products of tiles get tile registers, and accumulators stay in them over loops.

    C[...] = 0                                   tile_config(...)
    for k in range(K):                           tile_zero(0), tile_zero(1)
        tile_product(A[k], B[k, 0], C[0])   ->   for k in range(K):
        tile_product(A[k], B[k, 1], C[1])            tile_load(2, A[k]), tile_load(3, B[k, 0])
                                                     tile_dot(0, 2, 3), tile_load(3, B[k, 1])
                                                     tile_dot(1, 2, 3)
                                                 tile_store(0, C[0]), tile_store(1, C[1])

A loop that does nothing but products of tiles, into places that it does not move, keeps these in
registers when there are enough; a single product loads and stores its accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from heddle.arith import Analyzer
from heddle.ir.dtype import INT32
from heddle.ir.expr import Call, Expr, StringImm, Var, as_int, const
from heddle.ir.structural import structural_hash
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.support import InternalError, UserError
from heddle.tir.build import element_count, seq
from heddle.tir.intrinsics_amx import COLUMNS, REGISTERS, STEPS
from heddle.tir.nodes import (
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    PrimFunc,
    Seq,
    Stmt,
)

_MOST_UNROLLED: Final = 16
_RELEASE: Final = Evaluate(Call("tile_release", (), INT32))


def assign_tile_registers(func: PrimFunc) -> PrimFunc:
    """`func` (flat) with each `tile_product` made of loads, products and stores of registers."""
    if not any(_is_product(found) for found in pre_order(func.body)):
        return func
    changed: PrimFunc = func.replace(body=_configured_once(_place(func.body)))
    return changed


def _configured_once(body: Stmt) -> Stmt:
    """`body` with one configuration per task where all are alike: it takes as long as dozens of
    products."""
    found = [n for n in pre_order(body) if isinstance(n, Call) and n.name == "tile_config"]
    if len({structural_hash(call) for call in found}) > 1:
        return body
    configure = Evaluate(found[0])
    without: Stmt = rewrite(body, {Seq: _without_configuration})

    def in_task(loop: For) -> For:
        if loop.kind is not ForKind.PARALLEL or not _works_on_tiles(loop.body):
            return loop
        if any(isinstance(n, For) and n.kind is ForKind.PARALLEL for n in pre_order(loop.body)):
            return loop
        return loop.replace(body=seq(configure, loop.body, _RELEASE))  # type: ignore[no-any-return]

    inside: Stmt = rewrite(without, {For: in_task})
    return seq(configure, inside, _RELEASE) if _works_outside_tasks(inside) else inside


def _works_on_tiles(stmt: Stmt) -> bool:
    return any(isinstance(n, Call) and n.name == "tile_dot" for n in pre_order(stmt))


def _works_outside_tasks(stmt: Stmt) -> bool:
    if isinstance(stmt, For) and stmt.kind is ForKind.PARALLEL:
        return False
    if isinstance(stmt, Evaluate):
        return _works_on_tiles(stmt)
    return any(_works_outside_tasks(n) for n in stmt.children() if isinstance(n, Stmt))


def _without_configuration(stmt: Seq) -> Stmt:
    kept = [
        part
        for part in stmt.stmts
        if not (
            isinstance(part, Evaluate)
            and isinstance(part.value, Call)
            and part.value.name == "tile_config"
        )
    ]
    return stmt if len(kept) == len(stmt.stmts) else seq(*kept)


def _is_product(node: object) -> bool:
    return isinstance(node, Call) and node.name == "tile_product"


def _products(stmt: Stmt) -> list[Call] | None:
    """The products that a statement consists of, loops left out; None when it does anything
    else (prefetches aside)."""
    if isinstance(stmt, Evaluate):
        if _is_product(stmt.value):
            return [stmt.value]  # type: ignore[list-item]
        is_hint = isinstance(stmt.value, Call) and stmt.value.name == "prefetch"
        return [] if is_hint else None
    if isinstance(stmt, For) and stmt.kind is not ForKind.PARALLEL:
        return _products(stmt.body)
    if isinstance(stmt, Seq):
        found: list[Call] = []
        for part in stmt.stmts:
            inner = _products(part)
            if inner is None:
                return None
            found += inner
        return found
    return None


def _place(stmt: Stmt) -> Stmt:
    """`stmt` with the largest parts that are products only put into registers."""
    if isinstance(stmt, Seq):
        made: list[Stmt] = []
        for part in stmt.stmts:
            found = _products(part)
            if not found:
                made.append(_place(part))
                continue
            nest = _Nest()
            try:
                body = nest.part(part, {})
            except _Unsuitable:
                made.append(_inner(part))
                continue
            zeros = made[-1] if made and nest.is_zeroed_by(made[-1]) else None
            if zeros is not None:
                made.pop()
            made.append(nest.finish(body, zeroed=zeros is not None))
        return seq(*made)
    found = _products(stmt)
    if found:
        nest = _Nest()
        try:
            return nest.finish(nest.part(stmt, {}), zeroed=False)
        except _Unsuitable:
            return _inner(stmt)
    return rewrite_children(stmt)


def rewrite_children(stmt: Stmt) -> Stmt:
    """`stmt` with its statements placed."""
    return stmt.map(lambda child: _place(child) if isinstance(child, Stmt) else child)  # type: ignore[no-any-return]


def _inner(stmt: Stmt) -> Stmt:
    """A part that does not fit as a whole: its body may."""
    if isinstance(stmt, Evaluate):
        raise UserError("a product of tiles needs more registers than there are")
    return rewrite_children(stmt)


class _Unsuitable(Exception):
    """A part's accumulators cannot be kept in registers."""


@dataclass
class _Nest:
    """The registers of one nest: accumulators, then left operands, then right operands."""

    accumulators: dict[str, tuple[Expr, Expr, int]] = field(default_factory=dict)
    """Address, pitch and rows of the accumulators, by what they are."""
    lefts: set[str] = field(default_factory=set)
    """The left operands, by what they are before loops move them."""
    rows: int = 0
    moved: set[Var] = field(default_factory=set)
    analyzer: Analyzer = field(default_factory=Analyzer)

    def part(self, stmt: Stmt, values: dict[Var, Expr]) -> Stmt:
        """`stmt` with numbered accumulators; unrolled loops are written out."""
        if isinstance(stmt, For):
            extent, low = as_int(stmt.extent), as_int(stmt.min)
            copied = extent is not None and low is not None and extent <= _MOST_UNROLLED
            if (stmt.kind is ForKind.UNROLLED and copied) or (extent == 1 and low is not None):
                assert extent is not None
                assert low is not None
                steps = range(low, low + extent)
                return self.sequence([(stmt.body, {**values, stmt.var: const(n)}) for n in steps])
            self.moved.add(stmt.var)
            return stmt.replace(body=self.part(stmt.body, values))  # type: ignore[no-any-return]
        if isinstance(stmt, Seq):
            return self.sequence([(part, values) for part in stmt.stmts])
        return self.sequence([(stmt, values)])

    def sequence(self, parts: list[tuple[Stmt, dict[Var, Expr]]]) -> Stmt:
        """Statements in order; neighbouring products share what they load."""
        made: list[Stmt] = []
        for stmt, values in parts:
            if isinstance(stmt, Evaluate):
                value = rewrite(substitute(stmt.value, values), {})
                made.append(Evaluate(self.numbered(value) if _is_product(value) else value))
            else:
                inner = self.part(stmt, values)
                made += inner.stmts if isinstance(inner, Seq) else [inner]
        return seq(*made)

    def numbered(self, call: Expr) -> Call:
        """A product with its addresses simplified."""
        assert isinstance(call, Call)
        args = [self.simplified(arg) for arg in call.args]
        address, pitch, rows = args[6], args[7], as_int(args[1])
        assert rows is not None
        if uses_var(address, self.moved):
            raise _Unsuitable
        self.accumulators.setdefault(_key(address), (address, pitch, rows))
        self.lefts.add(_key(args[2]))
        if self.rows not in (0, rows):
            raise _Unsuitable
        self.rows = rows
        if len(self.accumulators) > REGISTERS - 2:
            raise _Unsuitable
        return Call("tile_product", tuple(args), INT32)

    def simplified(self, arg: Expr) -> Expr:
        if isinstance(arg, Call) and arg.name == "address_of":
            place = arg.args[0]
            assert isinstance(place, BufferLoad)
            index = self.analyzer.simplify(place.indices[0])
            return Call("address_of", (BufferLoad(place.buffer, (index,)),), arg.dtype)
        return arg if isinstance(arg, StringImm) else self.analyzer.simplify(arg)

    # -- registers -------------------------------------------------------------------------------

    def finish(self, body: Stmt, *, zeroed: bool) -> Stmt:
        """The nest with its accumulators in registers, loaded before (or zero) and stored after."""
        numbers = {key: number for number, key in enumerate(self.accumulators)}
        body = self.with_registers(body, numbers)
        before, after = [self.config()], []
        for number, (address, pitch, _) in enumerate(self.accumulators.values()):
            register = const(number)
            if zeroed:
                before.append(_tile("tile_zero", register))
            else:
                before.append(_tile("tile_load", register, address, pitch))
            after.append(_tile("tile_store", register, address, pitch))
        return seq(*before, body, *after)

    def first_right(self) -> int:
        """The first register of a right operand: one at least, more where left operands are few, so
        that one is loaded while another is used."""
        return min(len(self.accumulators) + len(self.lefts), REGISTERS - 1)

    def config(self) -> Stmt:
        """Rows of each register."""
        others = self.first_right()
        rows = [self.rows] * others + [STEPS] * (REGISTERS - others)
        return _tile("tile_config", *(const(count) for count in rows))

    def with_registers(self, stmt: Stmt, numbers: dict[str, int]) -> Stmt:
        if isinstance(stmt, For):
            return stmt.replace(body=self.with_registers(stmt.body, numbers))  # type: ignore[no-any-return]
        parts = stmt.stmts if isinstance(stmt, Seq) else (stmt,)
        made: list[Stmt] = []
        run: list[Call] = []
        for part in parts:
            if isinstance(part, Evaluate) and _is_product(part.value):
                run.append(part.value)  # type: ignore[arg-type]
                continue
            made += self.loads_and_dots(run, numbers)
            run = []
            made.append(self.with_registers(part, numbers) if isinstance(part, For) else part)
        made += self.loads_and_dots(run, numbers)
        return seq(*made)

    def loads_and_dots(self, run: list[Call], numbers: dict[str, int]) -> list[Stmt]:
        """Products one after the other: by right operand, each loaded once; left operands stay in
        registers while there are any."""
        made: list[Stmt] = []
        lefts: dict[str, int] = {}
        first = self.first_right()
        free = list(range(len(numbers), first))
        rights: dict[str, list[Call]] = {}
        for call in run:
            rights.setdefault(_key(call.args[4]), []).append(call)
        for turn, group in enumerate(rights.values()):
            address, pitch = group[0].args[4:6]
            right = const(first + turn % (REGISTERS - first))
            made.append(_tile("tile_load", right, address, pitch))
            for call in group:
                key = _key(call.args[2])
                if key not in lefts:
                    if not free:
                        free = list(lefts.values())
                        lefts.clear()
                    lefts[key] = free.pop(0)
                    made.append(_tile("tile_load", const(lefts[key]), *call.args[2:4]))
                number = numbers[_key(call.args[6])]
                operands = (const(number), const(lefts[key]), right)
                made.append(_tile("tile_dot", call.args[0], *operands))
        return made

    # -- zeros -----------------------------------------------------------------------------------

    def is_zeroed_by(self, stmt: Stmt) -> bool:
        """Whether `stmt` does nothing but set all elements of the accumulators' buffer to zero,
        and the accumulators are all of it."""
        extents = 1
        while isinstance(stmt, For):
            size = as_int(stmt.extent)
            if size is None or as_int(stmt.min) != 0:
                return False
            extents *= size
            stmt = stmt.body
        if not isinstance(stmt, BufferStore) or not isinstance(stmt.value, Expr):
            return False
        buffers = {_buffer_of(address) for address, _, _ in self.accumulators.values()}
        count = element_count(stmt.buffer.shape)
        held = sum(rows * COLUMNS for _, _, rows in self.accumulators.values())
        zero = getattr(stmt.value, "value", None)
        whole = buffers == {stmt.buffer} and count == extents == held
        return whole and stmt.buffer.scope == "local" and zero == 0


def _tile(name: str, *args: Expr) -> Stmt:
    return Evaluate(Call(name, args, INT32))


def _key(address: Expr) -> str:
    """What tells addresses apart: the buffer and the place in it."""
    assert isinstance(address, Call)
    place = address.args[0]
    assert isinstance(place, BufferLoad)
    return f"{id(place.buffer)} {structural_hash(place.indices[0])}"


def _buffer_of(address: Expr) -> Buffer:
    assert isinstance(address, Call)
    place = address.args[0]
    if not isinstance(place, BufferLoad):
        raise InternalError("the address of no element")
    return place.buffer
