# SPDX-License-Identifier: Apache-2.0
"""`HostPlan`: a graph function as a flat list of steps on placed memory.

It is what is left of `main` after fusion, lowering and memory planning, and all that the code
generator needs to write the native host function. Most steps are kernel calls,

    call.kernel(*addresses of call.args, *values of call.scalars)

the others call graph functions, which have plans of their own: once, one of two, or in a loop.

Every size and offset is an int64 expression over `plan.symbols`, a constant when nothing is
dynamic. All offsets are multiples of `ALIGNMENT`, except those of views into the middle of a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import numpy as np

from heddle.graph.dims import simplify_dim
from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, IntImm, Var, maximum
from heddle.ir.structural import structural_equal
from heddle.ir.types import TensorType
from heddle.ir.walk import substitute

ALIGNMENT: Final = 64
"""Bytes that the starts of the arena, of the constants and of every value in them align to."""

SYMBOL_MAX: Final = (1 << 31) - 1
"""Largest value of a symbolic dimension, unless the model says otherwise."""

StorageKind: TypeAlias = Literal["input", "output", "constant", "arena", "chosen"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A place in memory: `offset` bytes into input or output number `index`, or into the constants
    or the arena (whose `index` is 0), or what choice number `index` of the function has chosen."""

    kind: StorageKind
    index: int
    offset: Expr

    @staticmethod
    def input(index: int) -> Storage:
        """The start of input number `index`."""
        return Storage("input", index, IntImm(0))

    @staticmethod
    def output(index: int) -> Storage:
        """The start of output number `index`."""
        return Storage("output", index, IntImm(0))

    @property
    def aligned(self) -> bool:
        """Whether the address is known to be a multiple of `ALIGNMENT`: the caller of a model
        hands over inputs and outputs that are aligned to their elements only."""
        offset = self.offset
        known = isinstance(offset, IntImm) and offset.value % ALIGNMENT == 0
        return self.kind in ("constant", "arena") and known


def same_storage(left: Storage, right: Storage) -> bool:
    """Whether two places begin at one address."""
    same = (left.kind, left.index) == (right.kind, right.index)
    return same and structural_equal(left.offset, right.offset)


@dataclass(frozen=True, slots=True)
class ScalarLoad:
    """A number that is in memory when the call is made: the only element of a tensor."""

    storage: Storage
    dtype: DType


@dataclass(frozen=True, slots=True)
class KernelCall:
    """One call of a loop function.

    kernel: its name in the module. args: where its buffer parameters lie, in order. scalars: the
    values (int64 unless the parameter says else) of its scalar parameters in order, then of its
    `tir.shape_symbols` in order. label: the layers of the model that it computes, for profiles.
    """

    kernel: str
    args: tuple[Storage, ...]
    scalars: tuple[Expr | ScalarLoad, ...]
    label: str = ""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """One call of a graph function of the module.

    inputs, outputs: where its parameters and results lie. symbols: the values of its symbolic
    dimensions, in the order of its plan. arena: where its working memory begins.
    """

    function: str
    inputs: tuple[Storage, ...]
    outputs: tuple[Storage, ...]
    symbols: tuple[Expr, ...]
    arena: Storage


@dataclass(frozen=True, slots=True)
class BranchStep:
    """One of two calls with the same outputs, but for those `chosen`: each the number of a choice,
    and where it lies after the first and after the second call."""

    condition: ScalarLoad
    then: FunctionCall
    otherwise: FunctionCall
    chosen: tuple[tuple[int, Storage, Storage], ...] = ()


@dataclass(frozen=True, slots=True)
class LoopStep:
    """Calls of `body`, as `graph.Loop` says.

    The inputs of `body` are the number of the iteration, the carried values and those captured; its
    outputs whether to go on, the next carried values, and the first row of each stacked value.
    carried: where each carried value comes from, where it ends up and its bytes; iterations take
    turns between the place where it ends up and the output of `body`, which are the same place for
    those that the body writes over. row_bytes: of each stacked value. count: where the number of
    iterations goes.
    """

    body: FunctionCall
    limit: ScalarLoad | None
    condition: ScalarLoad | None
    carried: tuple[tuple[Storage, Storage, Expr], ...]
    row_bytes: tuple[Expr, ...]
    bound: Expr
    count: Storage


@dataclass(frozen=True, slots=True)
class BindStep:
    """Gives a symbol the value of a number in memory, at most `bound`."""

    symbol: Var
    value: ScalarLoad
    bound: Expr


@dataclass(frozen=True, slots=True)
class DepthStep:
    """Leaves with an error unless the symbol `left`, the levels of recursion that there is memory
    for, is at least 1; `limit` is the number of all levels."""

    left: Var
    limit: Var


Step: TypeAlias = "KernelCall | FunctionCall | BranchStep | LoopStep | BindStep | DepthStep"


@dataclass(frozen=True, slots=True)
class PlanTensor:
    """An input or output of the model."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class DataInput:
    """A value of an algebraic data type among the inputs, laid out as `heddle.runtime.data` says.

    tags, children: the positions of these inputs. arity: of each constructor, the nodes below one.
    """

    tags: int
    children: int
    arity: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanConstant:
    """A constant and the byte offset of its (row-major) data in the constants."""

    offset: int
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """How good the plan is, in bytes, with symbolic dimensions at a nominal value.

    arena: the size of the arena. live_peak: the largest sum of values that are alive at once, which
    no plan can go below. unshared: the sum of all intermediate values, what no reuse would need.
    """

    arena: int
    live_peak: int
    unshared: int


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A model, ready for code generation.

    symbols: the symbolic dimensions, each a variable in the shape of some input; the first place
    binds it. symbol_ranges: the smallest and largest legal value of each. symbol_values: what some
    must be, by position, given the others. Dimensions of outputs are expressions of `symbols` and
    of `late_symbols`, which steps bind on the way; of those the largest values, expressions of
    `symbols`. Outputs never overlap inputs, constants, the arena or each other; but output `k` is
    the memory of input `shared[k]`, one of those that are `donated`: their memory is written to,
    and overlaps no other input. functions: the plans of the graph functions that are called, by
    name; their constants are among those of the whole. data: inputs that are values of data types.
    """

    name: str
    inputs: tuple[PlanTensor, ...]
    outputs: tuple[PlanTensor, ...]
    symbols: tuple[Var, ...]
    symbol_ranges: tuple[tuple[int, int], ...]
    constants: tuple[PlanConstant, ...]
    constants_size: int
    arena_size: Expr
    steps: tuple[Step, ...]
    report: MemoryReport = field(default=MemoryReport(0, 0, 0))
    late_symbols: Mapping[Var, Expr] = field(default_factory=dict)
    functions: Mapping[str, HostPlan] = field(default_factory=dict)
    symbol_values: tuple[tuple[int, Expr], ...] = ()
    donated: tuple[int, ...] = ()
    shared: Mapping[int, int] = field(default_factory=dict)
    data: tuple[DataInput, ...] = ()

    @property
    def calls(self) -> tuple[KernelCall, ...]:
        """The kernel calls of this function, then those of the functions that it calls."""
        plans = (self, *self.functions.values())
        return tuple(s for plan in plans for s in plan.steps if isinstance(s, KernelCall))

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels that are called, each once, in order of first use."""
        return tuple(dict.fromkeys(call.kernel for call in self.calls))

    def constant_bytes(self) -> np.ndarray:
        """All constants laid out as one uint8 array of `constants_size` bytes, aligned."""
        spare = np.zeros(self.constants_size + ALIGNMENT, np.uint8)
        start = -spare.ctypes.data % ALIGNMENT
        image = spare[start : start + self.constants_size]
        for constant in self.constants:
            raw = np.ascontiguousarray(constant.data).reshape(-1).view(np.uint8)
            image[constant.offset : constant.offset + raw.size] = raw
        return image


def largest(size: Expr, bounds: Mapping[Var, Expr]) -> Expr:
    """The largest value of a size whose symbols in `bounds` are between zero and these.

    Sizes rise or fall in each symbol, so the ends are enough. A bound names no later symbol.
    """
    for symbol, bound in reversed(bounds.items()):
        ends = [substitute(size, {symbol: end}) for end in (bound, IntImm(0))]
        if ends[0] is not size:
            size = simplify_dim(maximum(*ends))
    return size
