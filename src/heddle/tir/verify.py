# SPDX-License-Identifier: Apache-2.0
"""The well-formedness verifier of loop-level functions.

It checks: every name is defined once and before its use; accesses have as many indices as the
buffer has dimensions, and dtypes agree; block names are unique, blocks declare what they access
and their bindings stay within their domains; no access is certainly out of bounds; parallel and
vectorised loops carry no reduction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Final, NoReturn

from heddle.arith import Analyzer
from heddle.ir import expr as ir
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.module import IRModule
from heddle.ir.node import Node
from heddle.ir.structural import structural_equal
from heddle.ir.walk import post_order, pre_order, uses_var
from heddle.support import UserError
from heddle.tir.build import shape_symbols
from heddle.tir.interp import evaluate
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    IterKind,
    IterVar,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)


def verify(target: PrimFunc | IRModule) -> None:
    """Raise `UserError` when a loop-level function (or one of a module's) is not well formed.

    The message names the place by the loops and blocks around it; it ends in the source line when
    the statement has a span.
    """
    if isinstance(target, IRModule):
        for name, func in target.functions.items():
            if isinstance(func, PrimFunc):
                _Verifier(name).run(func)
        return
    _Verifier(str(target.attrs.get("name", "main"))).run(target)


class _Verifier:
    def __init__(self, name: str) -> None:
        self.path = [name]
        self.defined: set[Node] = set()
        """Names in scope."""
        self.ever: set[Node] = set()
        """Names that were in scope anywhere: each is defined once."""
        self.blocks: set[str] = set()
        self.loops: list[For] = []
        self.block: Block | None = None
        self.guarded = 0
        self.symbols: tuple[Var, ...] = ()
        """Symbolic dimensions of the parameters: never negative."""

    def fail(self, node: Node, message: str) -> NoReturn:
        where = " > ".join(self.path)
        raise UserError(f"{where}: {message}", span=getattr(node, "span", None))

    def run(self, func: PrimFunc) -> None:
        for param in func.params:
            if not isinstance(param, (Buffer, Var)):
                self.fail(param, f"a parameter is a {type(param).__name__}")
        self.symbols = shape_symbols(func)
        for param in func.params:
            self.define(param, param)
            if isinstance(param, Buffer):
                for dim in param.layout:
                    symbols = (n for n in pre_order(dim) if isinstance(n, Var))
                    self.defined.update(symbols)
        self.stmt(func.body)

    # -- names -------------------------------------------------------------------------------

    def define(self, name: Any, at: Node) -> None:
        if name in self.ever:
            self.fail(at, f"`{name.name}` is defined twice")
        self.ever.add(name)
        self.defined.add(name)

    @contextmanager
    def scope(self, *names: Any, at: Node, label: str = "") -> Iterator[None]:
        """Define `names` for a while."""
        for name in names:
            self.define(name, at)
        if label:
            self.path.append(label)
        yield
        if label:
            self.path.pop()
        self.defined.difference_update(names)

    def allocation(self, buffer: Buffer, at: Node) -> None:
        if buffer.elem_offset is not None:
            self.fail(at, f"buffer `{buffer.name}` is no parameter and cannot have an elem_offset")
        for dim in buffer.layout:
            self.index(dim, at, f"a dimension of `{buffer.name}`")

    # -- statements --------------------------------------------------------------------------

    def stmt(self, stmt: Stmt) -> None:
        check = _CHECKS.get(type(stmt))
        if check is None:
            self.fail(stmt, f"unknown statement {type(stmt).__name__}")
        check(self, stmt)

    def seq(self, stmt: Seq) -> None:
        for child in stmt.stmts:
            self.stmt(child)

    def loop(self, stmt: For) -> None:
        self.index(stmt.min, stmt, "the start of a loop")
        self.index(stmt.extent, stmt, "the extent of a loop")
        if not stmt.var.dtype.is_int:
            self.fail(stmt, f"loop variable `{stmt.var.name}` is {stmt.var.dtype}")
        if stmt.kind is ForKind.VECTORIZED and as_int(stmt.extent) is None:
            self.fail(stmt, f"vectorised loop `{stmt.var.name}` needs a constant extent")
        self.loops.append(stmt)
        with self.scope(stmt.var, at=stmt, label=f"loop `{stmt.var.name}`"):
            self.stmt(stmt.body)
        self.loops.pop()

    def store(self, stmt: BufferStore) -> None:
        self.value(stmt.value, stmt)
        lanes = self.access(stmt.buffer, stmt.indices, stmt, "store to")
        expected = stmt.buffer.dtype.with_lanes(lanes)
        if stmt.value.dtype is not expected:
            self.fail(
                stmt,
                f"store to `{stmt.buffer.name}` of {expected}: the value is {stmt.value.dtype}",
            )
        self.declared(stmt.buffer, stmt.indices, stmt, writes=True)

    def evaluate(self, stmt: Evaluate) -> None:
        self.value(stmt.value, stmt)

    def let(self, stmt: LetStmt) -> None:
        self.value(stmt.value, stmt)
        if stmt.value.dtype is not stmt.var.dtype:
            self.fail(stmt, f"`{stmt.var.name}` is {stmt.var.dtype}, its value {stmt.value.dtype}")
        with self.scope(stmt.var, at=stmt):
            self.stmt(stmt.body)

    def condition(self, value: Expr, at: Node) -> None:
        self.value(value, at)
        if not value.dtype.is_bool:
            self.fail(at, f"a condition must be bool, got {value.dtype}")

    def branch(self, stmt: IfThenElse) -> None:
        self.condition(stmt.condition, stmt)
        self.guarded += 1
        self.stmt(stmt.then)
        if stmt.otherwise is not None:
            self.stmt(stmt.otherwise)
        self.guarded -= 1

    def while_(self, stmt: While) -> None:
        self.condition(stmt.condition, stmt)
        self.guarded += 1
        self.stmt(stmt.body)
        self.guarded -= 1

    def assertion(self, stmt: Assert) -> None:
        self.condition(stmt.condition, stmt)

    def allocate(self, stmt: Allocate) -> None:
        self.allocation(stmt.buffer, stmt)
        with self.scope(stmt.buffer, at=stmt):
            self.stmt(stmt.body)

    # -- blocks ------------------------------------------------------------------------------

    def enter_block(self, stmt: Block) -> None:
        if stmt.name in self.blocks:
            self.fail(stmt, f"two blocks are called `{stmt.name}`")
        self.blocks.add(stmt.name)
        self.path.append(f"block `{stmt.name}`")
        self.condition(stmt.predicate, stmt)
        for bound in stmt.iters:
            self.index(bound.binding, bound, f"the binding of `{bound.var.name}`")
            self.index(bound.extent, bound, f"the extent of `{bound.var.name}`")
            self.carried(stmt, bound)
        self.bindings(stmt)
        outer, self.block = self.block, stmt
        variables = [bound.var for bound in stmt.iters]
        with self.scope(*variables, at=stmt):
            for buffer in stmt.alloc_buffers:
                self.allocation(buffer, stmt)
            with self.scope(*stmt.alloc_buffers, at=stmt):
                never = self.never(stmt)
                self.guarded += never
                for region in (*stmt.reads, *stmt.writes):
                    self.region(region, stmt)
                if stmt.init is not None:
                    self.stmt(stmt.init)
                self.stmt(stmt.body)
                self.guarded -= never
        self.block = outer
        self.path.pop()

    def never(self, block: Block) -> bool:
        """Whether a block certainly does not run: the tail of a split may be empty."""
        known = as_int(block.predicate)
        return known == 0 if known is not None else self.refuted(block.predicate)

    def refuted(self, condition: Expr) -> bool:
        """Whether a condition on the loops around certainly does not hold."""
        return as_int(self.analyzer().simplify(condition)) == 0

    def carried(self, block: Block, bound: IterVar) -> None:
        if bound.kind is IterKind.SPATIAL:
            return
        for loop in self.loops:
            if as_int(loop.extent) == 1:
                continue
            if (
                loop.kind is ForKind.VECTORIZED
                and block.init is None
                and (bound.kind is IterKind.REDUCTION)
            ):
                continue  # lanes are combined; the vectorizer checks that it can
            if loop.kind in (ForKind.PARALLEL, ForKind.VECTORIZED) and uses_var(
                bound.binding, loop.var
            ):
                self.fail(
                    block,
                    f"{loop.kind.value} loop `{loop.var.name}` carries the {bound.kind.value} "
                    f"variable `{bound.var.name}`: its iterations would race",
                )

    def bindings(self, block: Block) -> None:
        """Every binding stays in [0, extent) wherever the predicate holds."""
        if not block.iters:
            return
        analyzer = self.analyzer()
        open_ = [b for b in block.iters if not _within(analyzer, b)]
        if not open_:
            return
        with analyzer.assume(block.predicate):
            open_ = [bound for bound in open_ if not _within(analyzer, bound)]
        for bound in open_:
            witness = self.witness(block, bound)
            if witness:
                self.fail(
                    bound,
                    f"the binding of `{bound.var.name}` leaves [0, extent) where the predicate "
                    f"holds: {witness}",
                )

    def witness(self, block: Block, bound: IterVar) -> str:
        """An iteration at which a binding is out of its domain; empty when none is found.

        What arithmetic can neither prove nor refute is tried at some iterations, most of them at
        the ends of loops. What memory says is not known here.
        """
        if any(
            type(found) is BufferLoad
            for part in (block.predicate, bound.binding)
            for found in pre_order(part)
        ):
            return ""
        random = Random(0)
        inside = evaluate(block.predicate)
        value, extent = evaluate(bound.binding), evaluate(bound.extent)
        outer = [n for n in self.defined if type(n) is Var and n.dtype.is_int]
        for _ in range(_TRIALS):
            env: dict[Any, Any] = {var: random.randrange(1, 40) for var in outer}
            for around in () if self.block is None else self.block.iters:
                env[around.var] = random.randrange(max(1, evaluate(around.extent)(env)))
            if not _enter_loops(env, self.loops, random) or not inside(env):
                continue
            reached, limit = value(env), extent(env)
            if not 0 <= reached < limit:
                at = ", ".join(f"{n.var.name} = {env[n.var]}" for n in self.loops)
                return f"at {at} it is {reached}, and the extent is {limit}"
        return ""

    def analyzer(self) -> Analyzer:
        """An analyzer that knows the loops and iteration variables around."""
        analyzer = Analyzer()
        for symbol in self.symbols:
            analyzer.bind(symbol, 0)
        for loop in self.loops:
            analyzer.bind(loop.var, loop.min, loop.extent)
        if self.block is not None:
            for bound in self.block.iters:
                analyzer.bind(bound.var, 0, bound.extent)
        return analyzer

    def region(self, region: BufferRegion, at: Block) -> None:
        buffer = region.buffer
        if buffer not in self.defined:
            self.fail(at, f"the regions name `{buffer.name}`, which is not defined here")
        if len(region.ranges) != buffer.ndim:
            self.fail(
                at,
                f"a region of `{buffer.name}` has {len(region.ranges)} dimensions, the buffer "
                f"{buffer.ndim}",
            )
        for part in region.ranges:
            self.index(part.min, at, f"a region of `{buffer.name}`")
            self.index(part.extent, at, f"a region of `{buffer.name}`")

    def declared(
        self, buffer: Buffer, indices: tuple[Expr, ...], at: Node, *, writes: bool
    ) -> None:
        """The block around declares the access (the root block declares nothing)."""
        block = self.block
        if block is None or (not block.reads and not block.writes and not block.iters):
            return
        if buffer in block.alloc_buffers:
            return
        regions = block.writes if writes else (*block.reads, *block.writes)
        own = [region for region in regions if region.buffer is buffer]
        what = "writes" if writes else "reads"
        if not own:
            self.fail(at, f"`{buffer.name}` is not among the {what} that the block declares")
        if all(_apart(region, indices) for region in own):
            self.fail(
                at, f"the access to `{buffer.name}` lies outside the {what} that the block declares"
            )

    # -- expressions -------------------------------------------------------------------------

    def index(self, value: Expr, at: Node, what: str) -> None:
        if not value.dtype.is_int:
            self.fail(at, f"{what} must be an integer, got {value.dtype}")
        self.value(value, at)

    def access(self, buffer: Buffer, indices: tuple[Expr, ...], at: Node, what: str) -> int:
        """Check one access; gives its lanes."""
        if buffer not in self.defined:
            self.fail(at, f"{what} `{buffer.name}`, which is not defined here")
        if len(indices) != buffer.ndim:
            self.fail(
                at,
                f"{what} `{buffer.name}` with {len(indices)} indices; it has {buffer.ndim} "
                "dimensions",
            )
        for dim, index in enumerate(indices):
            self.index(index, at, f"index {dim} of `{buffer.name}`")
            if index.dtype.lanes > 1 and dim + 1 != buffer.ndim:
                self.fail(at, f"index {dim} of `{buffer.name}` has lanes; only the last one may")
        return indices[-1].dtype.lanes if indices else 1

    def value(self, value: Expr, at: Node) -> None:
        local: set[Node] = set()
        lazy = self.guarded or any(
            type(n) is ir.Call and n.name == "if_then_else" for n in pre_order(value)
        )
        for found in post_order(value):
            if type(found) is ir.Let:
                local.add(found.var)
        for found in post_order(value):
            if isinstance(found, Var):
                if found not in self.defined and found not in local:
                    self.fail(at, f"`{found.name}` is used but not defined here")
            elif isinstance(found, BufferLoad):
                self.access(found.buffer, found.indices, at, "load of")
                self.declared(found.buffer, found.indices, at, writes=False)
                if not lazy:
                    self.in_bounds(found.buffer, found.indices, at)
            else:
                self.operands(found, at)
        if isinstance(at, BufferStore) and value is at.value and not self.guarded:
            self.in_bounds(at.buffer, at.indices, at)

    def operands(self, value: Any, at: Node) -> None:
        kind = type(value).__name__
        if isinstance(value, ir.BinaryExpr):
            if value.a.dtype is not value.b.dtype:
                self.fail(at, f"{kind} of {value.a.dtype} and {value.b.dtype}")
            if isinstance(value, (ir.And, ir.Or)) and not value.a.dtype.is_bool:
                self.fail(at, f"{kind} of {value.a.dtype}, which is not bool")
            if isinstance(value, (ir.FloorDiv, ir.FloorMod)) and as_int(value.b) == 0:
                self.fail(at, f"{kind} by the constant zero")
        elif isinstance(value, ir.Select):
            if not value.condition.dtype.is_bool or value.a.dtype is not value.b.dtype:
                self.fail(
                    at,
                    f"Select of {value.a.dtype} and {value.b.dtype} on {value.condition.dtype}",
                )
        elif isinstance(value, (ir.IntImm, ir.FloatImm)) and not _fits(value.value, value.dtype):
            self.fail(at, f"constant {value.value!r} does not fit in {value.dtype}")

    def in_bounds(self, buffer: Buffer, indices: tuple[Expr, ...], at: Node) -> None:
        """Raise when an index is certainly outside its dimension."""
        if len(indices) != buffer.ndim:
            return
        for dim, (index, size) in enumerate(zip(indices, buffer.shape, strict=True)):
            limit = as_int(size)
            if type(index) is Var or index.dtype.lanes != 1 or not index.dtype.is_int:
                continue
            reach = self.analyzer().bounds(index)
            if reach.lo > reach.hi:
                continue  # a loop around runs never
            if reach.hi < 0 or (limit is not None and reach.lo >= limit):
                self.fail(
                    at,
                    f"index {dim} of `{buffer.name}` lies in [{reach.lo}, {reach.hi}], outside "
                    f"[0, {'its dimension' if limit is None else limit})",
                )


_TRIALS: Final = 200


def _enter_loops(env: dict[Any, Any], loops: list[For], random: Random) -> bool:
    """Choose an iteration of each loop; False when one has none."""
    for loop in loops:
        start, count = evaluate(loop.min)(env), evaluate(loop.extent)(env)
        if count <= 0:
            return False
        offset = random.choice((0, count - 1, random.randrange(count)))
        env[loop.var] = start + offset
    return True


def _within(analyzer: Analyzer, bound: IterVar) -> bool:
    reach, extent = analyzer.bounds(bound.binding), as_int(bound.extent)
    if extent is not None and reach.lo >= 0 and reach.hi < extent:
        return True
    return analyzer.can_prove(bound.binding >= 0) and analyzer.can_prove(
        bound.binding < bound.extent
    )


def _apart(region: BufferRegion, indices: tuple[Expr, ...]) -> bool:
    """Whether an access certainly lies outside a region (constants apart, as far as is seen)."""
    for part, index in zip(region.ranges, indices, strict=True):
        if structural_equal(part.min, index):
            continue
        size = as_int(part.extent)
        distance = as_int(Analyzer().simplify(index - part.min)) if index.dtype.lanes == 1 else None
        if distance is not None and size is not None and not 0 <= distance < size:
            return True
    return False


def _fits(value: float, dtype: DType) -> bool:
    if dtype.is_float:
        return isinstance(value, (int, float))
    return isinstance(value, int) and dtype.min_value <= value <= dtype.max_value


_CHECKS: Final[dict[type, Callable[[_Verifier, Any], None]]] = {
    Seq: _Verifier.seq,
    For: _Verifier.loop,
    BufferStore: _Verifier.store,
    Evaluate: _Verifier.evaluate,
    LetStmt: _Verifier.let,
    IfThenElse: _Verifier.branch,
    While: _Verifier.while_,
    Assert: _Verifier.assertion,
    Allocate: _Verifier.allocate,
    Block: _Verifier.enter_block,
}
