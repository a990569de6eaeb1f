# SPDX-License-Identifier: Apache-2.0
"""Recurrences, and tensors that hand-written statements compute.

state = te.placeholder((n, m), name="state")
start = te.compute((1, m), lambda t, i: X[t, i], name="start")
step = te.compute((n, m), lambda t, i: state[t - 1, i] + X[t, i], name="step")
sums = te.scan(start, step, state, name="sums")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from heddle.ir.dtype import DType
from heddle.ir.expr import Expr, ExprLike, Var, add, as_expr, as_int, sub
from heddle.ir.structural import structural_equal
from heddle.support import UserError
from heddle.te.blocks import read_regions, sources_of, to_loads
from heddle.te.lower import combined, identity_element
from heddle.te.tensor import Group, Reduce, Tensor
from heddle.tir.access import detect_access_regions
from heddle.tir.build import (
    for_nest,
    full_region,
    make_block,
    point,
    reduction,
    seq,
    spatial,
    store,
)
from heddle.tir.nodes import Block, Buffer, IterKind, IterVar, Stmt

Tensors = Tensor | Sequence[Tensor]


def scan(init: Tensors, update: Tensors, state: Tensors, name: str = "scan") -> Any:
    """The tensor whose first rows are `init` and whose further rows are `update`, in order.

    state: a placeholder of the result's shape: in `update`, `state[t - 1, ...]` is an earlier row
    of the result. init: computes of the first rows. update: a compute of the whole shape, of which
    the rows after those of `init` are used. With sequences of tensors, several results are computed
    together, row by row, and a tuple is given.

    Raises `UserError` when shapes or dtypes differ, or an update reads no earlier row.
    """
    single = isinstance(state, Tensor)
    first, step, place = (
        (item,) if isinstance(item, Tensor) else tuple(item) for item in (init, update, state)
    )
    parts = (first, step, place)
    if len({len(part) for part in parts}) != 1 or not parts[0]:
        counts = ", ".join(str(len(part)) for part in parts)
        raise UserError(f"te.scan `{name}`: {counts} tensors for init, update and state")
    made = _Scan(first, step, place, name).tensors
    return made[0] if single else made


class _Scan(Group):
    def __init__(
        self,
        init: tuple[Tensor, ...],
        update: tuple[Tensor, ...],
        state: tuple[Tensor, ...],
        name: str,
    ) -> None:
        self.init = init
        self.update = update
        self.state = state
        self.name = name
        for start, step, place in zip(init, update, state, strict=True):
            self._check(start, step, place)
        names = [name] if len(state) == 1 else [f"{name}_v{i}" for i in range(len(state))]
        self.tensors = tuple(
            Tensor(place.shape, place.dtype, unique, group=self)
            for place, unique in zip(state, names, strict=True)
        )

    def _check(self, start: Tensor, step: Tensor, state: Tensor) -> None:
        who = f"te.scan `{self.name}`"
        for what, tensor in (("init", start), ("update", step)):
            if tensor.body is None:
                raise UserError(f"{who}: {what} `{tensor.name}` must be a te.compute")
            if tensor.dtype is not state.dtype:
                raise UserError(f"{who}: {what} is {tensor.dtype}, the state {state.dtype}")
            first = 1 if what == "init" else 0
            same = len(tensor.shape) == len(state.shape) and all(
                structural_equal(a, b)
                for a, b in zip(tensor.shape[first:], state.shape[first:], strict=True)
            )
            if not same:
                shapes = [f"({', '.join(map(str, t.shape))})" for t in (tensor, state)]
                raise UserError(f"{who}: {what} has shape {shapes[0]}, the state {shapes[1]}")
        if not state.is_placeholder:
            raise UserError(f"{who}: the state `{state.name}` must be a te.placeholder")
        if as_int(start.shape[0]) is None:
            raise UserError(f"{who}: init `{start.name}` needs a constant number of rows")
        if as_int(start.shape[0]) != as_int(self.init[0].shape[0]):
            raise UserError(f"{who}: all inits must have the same number of rows")

    def sources(self) -> list[Tensor]:
        bodies = [t.body for t in (*self.init, *self.update) if t.body is not None]
        return [tensor for tensor in sources_of(bodies) if tensor not in self.state]

    def lower(self, buffers: Mapping[Tensor, Buffer]) -> Stmt:
        known = {
            **buffers,
            **{s: buffers[t] for s, t in zip(self.state, self.tensors, strict=True)},
        }
        written = [buffers[tensor] for tensor in self.tensors]
        starts = [
            _nest(tensor, buffer, known, f"{buffer.name}_init", None)
            for tensor, buffer in zip(self.init, written, strict=True)
        ]
        rows = self.init[0].shape[0]
        time = Var(self.update[0].axis[0].name)
        steps = [
            _nest(tensor, buffer, known, f"{buffer.name}_update", (time, rows))
            for tensor, buffer in zip(self.update, written, strict=True)
        ]
        extent = sub(self.state[0].shape[0], rows)
        return seq(*starts, for_nest([(time, extent)], seq(*steps)))


def _nest(
    tensor: Tensor,
    buffer: Buffer,
    buffers: Mapping[Tensor, Buffer],
    name: str,
    time: tuple[Var, Expr] | None,
) -> Stmt:
    """The loops and the block of one compute. With `time` (a loop around, and the row at which it
    starts), the first axis is that loop and runs in order."""
    body = tensor.body
    assert body is not None
    axes = body.axes if isinstance(body, Reduce) else ()
    loops = [(Var(var.name), dim) for var, dim in zip(tensor.axis, tensor.shape, strict=True)]
    steps = [(Var(axis.var.name), axis.extent) for axis in axes]
    iters = [spatial(dim, var, f"v{var.name}") for var, dim in loops]
    iters += [reduction(dim, var, f"v{var.name}") for var, dim in steps]
    places: list[Expr] = [bound.var for bound in iters]
    if time is not None:
        loop, first = time
        extent = sub(tensor.shape[0], first)
        iters[0] = IterVar(extent, IterKind.ORDERED, loop, iters[0].var)
        places[0] = add(iters[0].var, first)
        loops = loops[1:]
    old = (*tensor.axis, *(axis.var for axis in axes))
    source = body.source if isinstance(body, Reduce) else body
    value = to_loads(source, buffers, dict(zip(old, places, strict=True)), tensor.name)
    at = places[: tensor.ndim]
    init = None
    # Earlier rows count as read: only the element itself is an accumulator.
    reads = read_regions([value], () if time is not None else (buffer,))
    if isinstance(body, Reduce):
        init = store(buffer, identity_element(body.combiner, buffer.dtype), at)
        value = combined(body.combiner, buffer, at, value)
    block = make_block(
        name,
        iters,
        store(buffer, value, at),
        reads=reads,
        writes=[point(buffer, at)],
        init=init,
    )
    return for_nest([*loops, *steps], block)


def extern(
    shape: Any,
    inputs: Sequence[Tensor],
    function: Callable[..., Stmt],
    dtype: str | DType | Sequence[str | DType] = "float32",
    name: str = "extern",
    *,
    rows: Sequence[ExprLike] = (),
) -> Any:
    """Tensors that statements of loop-level IR compute.

    shape: the shape of the result, or a list of shapes of several. function: from the buffers of
    `inputs` and those of the results, the statement that reads the ones and writes the others
    (`heddle.tir.build`, `call_extern`). It becomes one block. dtype: one for all, or one per
    result. rows: extents of loops around the block, which may run in any order or side by side:
    `function` is handed their variables as well, and writes what belongs to that row only.

        sums = te.extern((1,), [A], lambda ins, outs: total_of(ins[0], outs[0]), name="sums")
        sums = te.extern((n,), [A], lambda ins, outs, i: ..., name="sums", rows=(n,))
    """
    several = isinstance(shape, list)
    shapes: list[Iterable[ExprLike]] = shape if several else [shape]
    dtypes = [dtype] * len(shapes) if isinstance(dtype, (str, DType)) else list(dtype)
    if len(dtypes) != len(shapes):
        raise UserError(f"te.extern `{name}`: {len(shapes)} shapes, but {len(dtypes)} dtypes")
    made = _Extern(shapes, tuple(inputs), function, dtypes, name, rows).tensors
    return made if several else made[0]


class _Extern(Group):
    def __init__(
        self,
        shapes: Sequence[Iterable[ExprLike]],
        inputs: tuple[Tensor, ...],
        function: Callable[..., Stmt],
        dtypes: Sequence[str | DType],
        name: str,
        rows: Sequence[ExprLike],
    ) -> None:
        self.rows = [as_expr(extent) for extent in rows]
        self.inputs = inputs
        self.function = function
        self.name = name
        names = [name] if len(shapes) == 1 else [f"{name}_v{i}" for i in range(len(shapes))]
        self.tensors = tuple(
            Tensor([as_expr(dim) for dim in shape], dtype, unique, group=self)
            for shape, dtype, unique in zip(shapes, dtypes, names, strict=True)
        )

    def sources(self) -> list[Tensor]:
        return list(self.inputs)

    def lower(self, buffers: Mapping[Tensor, Buffer]) -> Stmt:
        ins = [buffers[tensor] for tensor in self.inputs]
        outs = [buffers[tensor] for tensor in self.tensors]
        loops = [(Var(f"r{at}"), extent) for at, extent in enumerate(self.rows)]
        iters = [spatial(extent, var, f"v{var.name}") for var, extent in loops]
        body = self.function(ins, outs, *(axis.var for axis in iters))
        if not isinstance(body, Stmt):
            kind = type(body).__name__
            raise UserError(
                f"te.extern `{self.name}`: the function gives a {kind}, not a statement"
            )
        block: Block = make_block(
            outs[0].name,
            iters,
            body,
            reads=[full_region(buffer) for buffer in ins],
            writes=[full_region(buffer) for buffer in outs],
        )
        found = detect_access_regions(block)
        used = {region.buffer for regions in found for region in regions}
        known = {*ins, *outs}
        strangers = [buffer.name for buffer in used if buffer not in known]
        if strangers:
            raise UserError(
                f"te.extern `{self.name}`: the statement uses `{strangers[0]}`, which is "
                "neither an input nor a result"
            )
        if iters:
            block = block.replace(reads=found[0], writes=found[1])
        return for_nest(loops, block)


__all__ = ["extern", "scan"]
