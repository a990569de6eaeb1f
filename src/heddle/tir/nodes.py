# SPDX-License-Identifier: Apache-2.0
"""The loop-level IR on one page.

A `PrimFunc` computes on `Buffer`s. Its body is a root `Block` of loops; inside them, `Block`s are
the units that schedules move: each declares its iteration variables (how every one is bound to the
loops around it, and whether it is spatial or a reduction), the regions it reads and writes, an
optional `init` that runs before the first reduction step, and a body. After scheduling, blocks are
lowered away and only loops, allocations and stores remain.

    PrimFunc   ::= params (Buffer | Var)*, body Block
    Stmt       ::= Block | For | While | Seq | IfThenElse | LetStmt | Allocate
                 | BufferStore | Evaluate | Assert
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, ExprLike, Var, as_expr, as_int
from heddle.ir.module import BaseFunc
from heddle.ir.node import Node, binder, derived, field, node, refers
from heddle.support import UserError

NO_ANNOTATIONS: Final[Mapping[str, object]] = {}


@node
class Buffer(Node):
    """A typed view of memory: `shape` elements of `dtype`, row-major unless `strides` says else.

    elem_offset: of a parameter, how many elements its first one lies behind the address that the
    call hands over; None is 0.
    scope: "global" (parameters, and intermediate buffers in the arena), "local" (small, private to
    one iteration of the loops around it: registers or stack). `alignment` is in bytes. Two buffers
    never overlap, except where memory planning placed them so. A buffer is a name: rewriting a
    function never rebuilds one by accident, `heddle.tir.build.replace_buffers` does it on purpose.
    """

    IDENTITY = True

    name: str
    shape: tuple[Expr, ...] = refers()
    dtype: DType
    strides: tuple[Expr, ...] | None = refers(default=None)
    scope: str = field(default="global")
    alignment: int = field(default=64)
    elem_offset: Expr | None = refers(default=None)

    @property
    def layout(self) -> tuple[Expr, ...]:
        """The expressions that say where its elements are: shape, strides, offset."""
        offset = () if self.elem_offset is None else (self.elem_offset,)
        return (*self.shape, *(self.strides or ()), *offset)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape as Python integers, or None when a dimension is symbolic."""
        dims = tuple(as_int(dim) for dim in self.shape)
        return None if None in dims else dims  # type: ignore[return-value]

    def __getitem__(self, indices: ExprLike | Sequence[ExprLike]) -> BufferLoad:
        return BufferLoad(self, self.checked_indices(indices))

    def checked_indices(self, indices: ExprLike | Sequence[ExprLike]) -> tuple[Expr, ...]:
        """One expression per dimension; `UserError` for another number of indices."""
        given = tuple(indices) if isinstance(indices, (tuple, list)) else (indices,)
        if len(given) != self.ndim:
            raise UserError(
                f"buffer `{self.name}` has {self.ndim} dimensions, got {len(given)} indices"
            )
        return tuple(as_expr(index) for index in given)


@node
class BufferLoad(Expr):
    """`buffer[indices]`. An index with lanes (a `Ramp`, only in the last dimension) makes it a
    vector load; `buffer` names its definition and is not a child."""

    buffer: Buffer = refers()
    indices: tuple[Expr, ...]
    dtype: DType = derived()

    def _derive(self) -> None:
        lanes = self.indices[-1].dtype.lanes if self.indices else 1
        dtype = self.buffer.dtype
        self.dtype = dtype if lanes == 1 else dtype.with_lanes(lanes)


@node
class Range(Node):
    """The half-open interval [min, min + extent)."""

    min: Expr
    extent: Expr


@node
class BufferRegion(Node):
    """A box of a buffer, one `Range` per dimension."""

    buffer: Buffer = refers()
    ranges: tuple[Range, ...]


class Stmt(Node):
    """Base of statements."""

    __slots__ = ()


@node
class BufferStore(Stmt):
    """`buffer[indices] = value`"""

    buffer: Buffer = refers()
    value: Expr
    indices: tuple[Expr, ...]


@node
class Evaluate(Stmt):
    """An expression evaluated for its effect (a call)."""

    value: Expr


@node
class Seq(Stmt):
    """Statements in order; never empty inside, `Seq(())` does nothing."""

    stmts: tuple[Stmt, ...]


@node
class LetStmt(Stmt):
    """`body` with `var` bound to `value`."""

    value: Expr
    var: Var = binder()
    body: Stmt


@node
class Assert(Stmt):
    """Fails the call with `message` when `condition` is false."""

    condition: Expr
    message: str


@node
class IfThenElse(Stmt):
    """`then` when `condition` holds, else `otherwise`."""

    condition: Expr
    then: Stmt
    otherwise: Stmt | None = field(default=None)


class ForKind(Enum):
    """How the iterations of a loop run: in order, on the thread pool, as vector lanes, or as
    copies of the body."""

    SERIAL = "serial"
    PARALLEL = "parallel"
    VECTORIZED = "vectorized"
    UNROLLED = "unrolled"

    def __repr__(self) -> str:
        return f"ForKind.{self.name}"


@node
class For(Stmt):
    """A loop of `var` over [min, min + extent)."""

    min: Expr
    extent: Expr
    kind: ForKind
    var: Var = binder()
    body: Stmt
    annotations: Mapping[str, object] = field(default=NO_ANNOTATIONS)


@node
class While(Stmt):
    """A loop that runs while `condition` holds."""

    condition: Expr
    body: Stmt


class IterKind(Enum):
    """What iterations of a block may do: SPATIAL ones are independent and write distinct
    elements, REDUCTION ones accumulate in any order, ORDERED ones run in order."""

    SPATIAL = "spatial"
    REDUCTION = "reduction"
    ORDERED = "ordered"

    def __repr__(self) -> str:
        return f"IterKind.{self.name}"


@node
class IterVar(Node):
    """One iteration variable of a block: it takes the values [0, extent) of `binding`, an
    expression of the loop variables around the block."""

    extent: Expr
    kind: IterKind
    binding: Expr
    var: Var = binder()


@node
class Block(Stmt):
    """The unit of scheduling. See the module's documentation.

    Instances of the block run for those values of the loops around it where `predicate` holds;
    what reads memory in it is looked at where the rest of it holds.
    `init`, if any, runs before the body when every REDUCTION iteration variable is 0.
    `alloc_buffers` are buffers that live inside the block. The name is unique in a PrimFunc.
    """

    name: str
    iters: tuple[IterVar, ...] = binder()
    predicate: Expr
    alloc_buffers: tuple[Buffer, ...] = binder()
    reads: tuple[BufferRegion, ...]
    writes: tuple[BufferRegion, ...]
    init: Stmt | None
    body: Stmt
    annotations: Mapping[str, object] = field(default=NO_ANNOTATIONS)


@node
class Allocate(Stmt):
    """`body` with memory for `buffer` (lowered form of a block's `alloc_buffers`)."""

    buffer: Buffer = binder()
    body: Stmt


@node
class PrimFunc(BaseFunc):
    """A loop-level function: `params` are buffers and scalars, outputs are buffers it writes.

    Symbolic dimensions are variables in the shapes of the buffer parameters; the first occurrence
    binds them. Attributes: "name" is the symbol; "noalias" (default) promises that buffer
    parameters do not overlap.
    """

    params: tuple[Node, ...] = binder()
    body: Stmt
    attrs: Mapping[str, object] = field(default=NO_ANNOTATIONS)

    @property
    def args(self) -> tuple[Node, ...]:
        """The parameters, in the order in which a call gives them."""
        return self.params
