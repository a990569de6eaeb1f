# SPDX-License-Identifier: Apache-2.0
"""If, Loop and Scan: decided and unrolled while importing where that is possible and short, else
conditions and loops of the compiled model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.frontend.onnx.node import Node, normal_axis, rank, shape
from heddle.frontend.onnx.ops.growth import Growth, ShapesChange, SizesDiffer, appended_rows
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import at_most, dimensions_as_scalars, largest, product
from heddle.frontend.onnx.values import Symbolic, Value, tensor_type
from heddle.graph import BindDim, Branch, Constant, GraphBuilder, GraphExpr, If, Tuple, Var
from heddle.graph.dims import same_dim, same_type, show_type
from heddle.ir import INT64, TensorType, TupleType
from heddle.ir.expr import Expr, as_expr, as_int, const, maximum
from heddle.passes.graph.outline import captured_by, closed
from heddle.support import UserError

_UNROLL_LIMIT: Final = 4096
_SHORT: Final = 16
"""Loops of known length up to here are unrolled, which lets shapes and sequences change."""

_ONE: Final = Constant(np.asarray(1))


def _body(node: Node, name: str, inputs: list[Value]) -> list[Value]:
    """The outputs of a subgraph for these inputs; what this node emitted before comes first."""
    given = node.flush(inputs)
    results = node.importer.run_graph(node.attr.graph(name), given, node.scope)
    return [node.unpoisoned(value) for value in results]


def _scalar(node: Node, value: Value, dtype: str) -> GraphExpr:
    """A value of one element without its axes."""
    tensor = node.cast(node.as_tensor(value), dtype)
    return tensor if rank(tensor) == 0 else node.reshape(tensor, ())


# -- If --------------------------------------------------------------------------------------


@converts("If")
def _if(node: Node) -> Any:
    where = node.value(0)
    if not isinstance(where, Constant):
        try:
            return _run_time_if(node, _scalar(node, where, "bool"))
        except Unsupported as problem:
            _blame(node, problem, where)
            raise
    condition = where.data
    if condition.size != 1 or condition.dtype != np.bool_:
        raise UserError(f"the condition is {condition.dtype} of shape {condition.shape}")
    return tuple(_body(node, "then_branch" if condition.item() else "else_branch", []))


def _blame(node: Node, problem: Unsupported, *ends: Value) -> None:
    """What is not possible at run time may be when these values are known: note where they come
    from, so that they are asked for."""
    found = [value for value in ends if isinstance(value, GraphExpr)]
    problem.inputs |= frozenset().union(*map(node.importer.sources_of, found))


def _run_time_if(node: Node, condition: GraphExpr) -> Any:
    builder = node.importer.builder
    (where,) = node.flush([condition])
    assert isinstance(where, GraphExpr)

    def run(name: str) -> Callable[[], GraphExpr]:
        def emit() -> GraphExpr:
            results = [node.as_tensor(value) for value in _body(node, name, [])]
            return Tuple(tuple(item for item in node.flush(results) if isinstance(item, GraphExpr)))

        return emit

    branches = [builder.branch(run(name)) for name in ("then_branch", "else_branch")]
    branches, shapes = _same_shapes(node, branches)
    value = If(where, *branches, branches[0].result.type)
    result = builder.emit(value, name=node.outputs[0] or "if")
    node.importer.derive_sources(result, where)
    return _fields(node, result, shapes)


def _same_shapes(
    node: Node, branches: Sequence[Branch]
) -> tuple[list[Branch], list[tuple[Expr, ...] | None]]:
    """The branches with results of one type. Where shapes differ, results are padded flat tensors,
    with their dimensions as further results; the shapes with the largest of these are given."""
    rows = [branch.result.fields for branch in branches if isinstance(branch.result, Tuple)]
    most: list[tuple[Expr, ...] | None] = []
    rooms = {
        binding.value.symbol: binding.value.bound
        for branch in branches
        for binding in branch.bindings
        if isinstance(binding.value, BindDim)
    }
    for a, b in zip(*rows, strict=True):
        x, y = tensor_type(a), tensor_type(b)
        if x.dtype is not y.dtype or x.ndim != y.ndim:
            raise Unsupported(
                f"the branches give {show_type(x)} and {show_type(y)}: element types and numbers "
                "of dimensions must agree"
            )
        pairs = zip(x.shape, y.shape, strict=True)
        dims = tuple(maximum(at_most(p, rooms), at_most(q, rooms)) for p, q in pairs)
        most.append(None if same_type(x, y) else dims)
    if not any(most):
        return list(branches), most
    return [_padded(node, branch, most) for branch in branches], most


def _padded(node: Node, branch: Branch, largest: Sequence[tuple[Expr, ...] | None]) -> Branch:
    builder = node.importer.builder
    assert isinstance(branch.result, Tuple)
    fields = branch.result.fields

    def emit() -> GraphExpr:
        values: list[GraphExpr] = []
        sizes: list[GraphExpr] = []
        for item, dims in zip(fields, largest, strict=True):
            if dims is not None:
                own = tensor_type(item).shape
                flat = op.reshape(item, shape=(product(own),))
                values.append(op.extend(flat, shape=(_plain(product(dims)),)))
                sizes.extend(dimensions_as_scalars(node, own))
            else:
                values.append(item)
        return Tuple((*values, *sizes))

    return builder.branch(emit, after=branch.bindings)


def _plain(value: Expr) -> int | Expr:
    known = as_int(value)
    return value if known is None else known


def _fields(
    node: Node, result: Var, largest: Sequence[tuple[Expr, ...] | None]
) -> tuple[GraphExpr, ...]:
    """The results of a conditional; those of differing shapes cut to the shape that they have."""
    assert isinstance(result.type, TupleType)
    items = [node.item(result, at) for at in range(len(result.type.fields))]
    sizes = iter(items[len(largest) :])
    found = []
    for item, dims in zip(items, largest, strict=False):
        if dims is None:
            found.append(item)
            continue
        own = [node.bind_dim(next(sizes), bound) for bound in dims]
        flat = node.op.prefix(item, shape=(product(own),))
        found.append(node.reshape(flat, own))
    return tuple(found)


# -- Loop ------------------------------------------------------------------------------------


@converts("Loop")
def _loop(node: Node) -> Any:
    state = list(node.inputs[2:])
    trips = node.value(0) if node.has(0) else None
    length = int(trips.data.item()) if isinstance(trips, Constant) else None
    going = node.value(1) if node.has(1) else Constant(np.asarray(True))
    tensors = all(isinstance(value, (GraphExpr, Symbolic)) for value in state)
    known = isinstance(going, Constant) and length is not None
    if not tensors or (known and length is not None and length <= _SHORT):
        mark = node.importer.report.mark()
        try:
            return _unrolled(node, state, going, length)
        except Unsupported:
            if not tensors:
                raise
            node.importer.report.rewind(mark)
    try:
        return _run_time_loop(node, state, going)
    except Unsupported as problem:
        _blame(node, problem, trips, going)
        raise


def _unrolled(node: Node, state: list[Value], start: Value, length: int | None) -> Any:
    """The trip count must be known, and the condition as well when there is one."""
    going = bool(node.known(start, "cond").all())
    kept: list[list[GraphExpr]] = []
    count = 0
    if length is None and node.has(0):
        node.integer(0, "M")  # says why it is not known
    while going and (length is None or count < length):
        if count >= _UNROLL_LIMIT:
            raise Unsupported(f"a loop of more than {_UNROLL_LIMIT} iterations")
        first: list[Value] = [Constant(np.asarray(count)), Constant(np.asarray(True))]
        results = _body(node, "body", [*first, *state])
        going = bool(node.known(results[0], "cond of the body").all())
        state = results[1 : 1 + len(state)]
        kept.append([node.as_tensor(value) for value in results[1 + len(state) :]])
        count += 1
    scans = _stack(node, kept, len(node.outputs) - len(state))
    return (*state, *scans)


def _stack(node: Node, rows: list[list[GraphExpr]], count: int) -> list[Any]:
    if count and not rows:
        raise Unsupported("a loop without iterations that gives a scan output")
    return [
        node.op.concat(*(node.op.unsqueeze(row[at], axes=(0,)) for row in rows), axis=0)
        for at in range(count)
    ]


def _run_time_loop(node: Node, state: Sequence[Value], start: Value) -> Any:
    limit = _scalar(node, node.value(0), "int64") if node.has(0) else None
    always = isinstance(start, Constant) and bool(start.data.all())
    condition = None if always else _scalar(node, start, "bool")
    carried = [node.as_tensor(value) for value in state]

    def body(iteration: Var, own: list[Var]) -> list[Value]:
        formal = node.attr.graph("body").input
        dims = formal[0].type.tensor_type.shape.dim if formal else ()
        first = node.reshape(iteration, (1,)) if len(dims) == 1 else iteration
        return _body(node, "body", [first, Constant(np.asarray(True)), *own])

    mark = node.importer.report.mark()
    try:
        made = LoopBody(node, carried, body)
    except ShapesChange as change:
        for together in (True, False):
            node.importer.report.rewind(mark)
            growth = Growth(node, change, lambda: _bound(node, limit, 1), together=together)
            try:
                made = LoopBody(node, growth.packed(carried), growth.around(body))
            except SizesDiffer:
                continue
            return growth.unpacked(_looped(node, made, limit, condition))
    return _looped(node, made, limit, condition)


def _looped(
    node: Node,
    made: LoopBody,
    limit: GraphExpr | None,
    condition: GraphExpr | None,
) -> tuple[GraphExpr, ...]:
    """The final values and the stacked ones of a loop over this body."""
    goes_on = isinstance(made.going, Constant) and bool(made.going.data.all())
    if condition is None and not goes_on:
        condition = Constant(np.asarray(True))
    bound = _bound(node, limit, len(made.rows))
    count, finals, rows = made.loop(limit, condition, bound)
    if not rows:
        return finals
    exact = condition is None and isinstance(limit, Constant)
    size = bound if exact or condition is None else node.bind_dim(count, bound)
    return (*finals, *(_rows(node, item, size) for item in rows))


def _rows(node: Node, item: GraphExpr, size: Expr) -> GraphExpr:
    dims = tensor_type(item).shape
    if same_dim(dims[0], size):
        return item
    return node.op.prefix(item, shape=(size, *dims[1:]))  # type: ignore[no-any-return]


def _bound(node: Node, limit: GraphExpr | None, rows: int) -> Expr:
    """The most iterations that a loop with `rows` stacked values may make."""
    if not rows:
        return const(0)
    known = node.value(0) if node.has(0) else None
    if isinstance(known, Symbolic) and known.data.size == 1:
        return as_expr(known.data.item())
    if isinstance(known, Constant) and known.data.item() <= 1 << 24:
        return const(int(known.data.item()))
    most = None if known is None else largest(node, known, 0)
    if most is not None:
        return most
    raise Unsupported(
        "results that grow with each iteration of a loop whose number of iterations has no bound: "
        "`M` must be a number or a dimension, or be in `bounds`",
        inputs=frozenset() if limit is None else node.importer.sources_of(limit),
    )


class LoopBody:
    """The body of a loop as a function of its own, and the calls of it."""

    def __init__(
        self,
        node: Node,
        carried: Sequence[GraphExpr],
        run: Callable[[Var, list[Var]], list[Value]],
    ) -> None:
        self.node = node
        importer = node.importer
        given = node.flush(list(carried))
        self.carried = [item for item in given if isinstance(item, GraphExpr)]
        outer = importer.builder
        importer.builder = builder = GraphBuilder(outer.fresh_name(f"{outer.name}_loop"))
        try:
            iteration = builder.param("iteration", TensorType((), INT64))
            own = [builder.param(f"carried_{at}", x.type) for at, x in enumerate(self.carried)]
            results = run(iteration, own)
            going = _scalar(node, results[0], "bool")
            values = [node.as_tensor(value) for value in results[1:]]
            self._check(values, own)
            fields = [x for x in node.flush([going, *values]) if isinstance(x, GraphExpr)]
            function = builder.finish(Tuple(tuple(fields)))
        finally:
            importer.builder = outer
        self.going, self.rows = fields[0], fields[1 + len(self.carried) :]
        self.captured = [
            var
            for var in captured_by(function.bindings, function.result)
            if var not in function.params
        ]
        self.name = builder.name
        importer.bodies[self.name] = closed(function, self.captured)

    def _check(self, values: Sequence[GraphExpr], own: Sequence[Var]) -> None:
        before = [tensor_type(value) for value in self.carried]
        after = [tensor_type(value) for value in values[: len(before)]]
        for at, (old, new) in enumerate(zip(before, after, strict=True)):
            if old.dtype is not new.dtype or old.ndim != new.ndim:
                raise Unsupported(
                    f"carried value {at} is {show_type(old)} before the loop and "
                    f"{show_type(new)} after an iteration; element types and numbers of "
                    f"dimensions must stay, or the loop have at most {_SHORT} iterations"
                )
        if not all(same_type(old, new) for old, new in zip(before, after, strict=True)):
            builder = self.node.importer.builder
            appended = [appended_rows(builder, *pair) for pair in zip(own, values, strict=False)]
            raise ShapesChange(before, after, appended)

    def loop(
        self, limit: GraphExpr | None, condition: GraphExpr | None, bound: Expr
    ) -> tuple[GraphExpr, tuple[GraphExpr, ...], tuple[GraphExpr, ...]]:
        """Emit the loop: the number of iterations, the carried values, the stacked ones."""
        node = self.node
        ends = [item for item in (limit, condition) if item is not None]
        flushed = iter(node.flush(ends))
        first = None if limit is None else next(flushed)
        second = None if condition is None else next(flushed)
        assert first is None or isinstance(first, GraphExpr)
        assert second is None or isinstance(second, GraphExpr)
        found = node.importer.builder.emit_loop(
            self.name,
            node.importer.bodies[self.name],
            carried=self.carried,
            captured=self.captured,
            limit=first,
            condition=second,
            bound=bound,
            name=node.outputs[0] or "loop",
        )
        for var in (found[0], *found[1], *found[2]):
            node.importer.derive_sources(var, Tuple((*self.carried, *self.captured, *ends)))
        return found


# -- Scan ------------------------------------------------------------------------------------

_Parts = Sequence[tuple[GraphExpr, int, int]]
"""What is scanned, along which axis, and whether backwards."""


@converts("Scan", since=8)
def _batched_scan(node: Node) -> Any:
    """As operator set 8 has it: everything has a batch axis in front, rows of a batch are scanned
    one by one, and lengths beside the data may say how much of each."""
    if node.has(0):
        raise Unsupported("`sequence_lens`: what is behind the end of a sequence is not defined")
    count = node.attr.int("num_scan_inputs")
    values = [node.as_tensor(value) for value in node.inputs[1:]]
    batch = node.static_dim(values[-1], 0, "the first scanned input")
    if not 0 < count <= len(values):
        raise UserError(f"`num_scan_inputs` is {count}, with {len(values)} inputs")
    if not 0 < batch <= _SHORT:
        raise Unsupported(f"a batch of {batch}, expected 1 to {_SHORT}")
    reverse = node.attr.ints("directions", (0,) * count)
    states = len(values) - count
    rows: list[Any] = []
    for at in range(batch):
        own = [node.op.gather(value, np.asarray(at), axis=0) for value in values]
        parts = [(x, 0, back) for x, back in zip(own[states:], reverse, strict=True)]
        rows.append(_scanned(node, list(own[:states]), parts))
    return tuple(
        node.op.concat(*(node.op.unsqueeze(row[at], axes=(0,)) for row in rows), axis=0)
        for at in range(len(rows[0]))
    )


@converts("Scan", since=9)
def _scan(node: Node) -> Any:
    count = node.attr.int("num_scan_inputs")
    values = node.inputs
    state: list[Value] = list(values[: len(values) - count])
    scanned = [node.as_tensor(value) for value in values[len(values) - count :]]
    axes = node.attr.ints("scan_input_axes", (0,) * count)
    reverse = node.attr.ints("scan_input_directions", (0,) * count)
    if not scanned:
        raise UserError("`num_scan_inputs` is 0")
    places = [normal_axis(axis, rank(x)) for axis, x in zip(axes, scanned, strict=True)]
    return _scanned(node, state, list(zip(scanned, places, reverse, strict=True)))


def _scanned(node: Node, state: list[Value], parts: _Parts) -> Any:
    first, axis, _ = parts[0]
    length = shape(first)[axis]
    if isinstance(length, int) and length <= _SHORT:
        mark = node.importer.report.mark()
        try:
            return _unrolled_scan(node, state, parts, length)
        except Unsupported:
            node.importer.report.rewind(mark)
    return _run_time_scan(node, state, parts, as_expr(length))


def _run_time_scan(node: Node, state: Sequence[Value], parts: _Parts, length: Expr) -> Any:
    carried = [node.as_tensor(value) for value in state]
    limit = length_as_limit(node, length)
    scanned = [x for x in node.flush([x for x, _, _ in parts]) if isinstance(x, GraphExpr)]

    def body(iteration: Var, own: list[Var]) -> list[Value]:
        rows: list[Value] = []
        for x, (_, axis, back) in zip(scanned, parts, strict=True):
            at: GraphExpr = iteration
            if back:
                last = node.op.sub(limit, _ONE)
                at = node.op.sub(last, iteration)
            rows.append(node.op.gather(x, at, axis=axis))
        results = _body(node, "body", [*own, *rows])
        return [Constant(np.asarray(True)), *results]

    made = LoopBody(node, carried, body)
    _, finals, rows = made.loop(limit, None, length)
    return (*finals, *_scan_outputs(node, rows, len(finals), length))


def length_as_limit(node: Node, length: Expr) -> GraphExpr:
    """A dimension as the number of iterations of a loop."""
    known = as_int(length)
    if known is not None:
        return Constant(np.asarray(known))
    return dimensions_as_scalars(node, [length])[0]


def backwards(node: Node, rows: GraphExpr, length: Expr) -> GraphExpr:
    """Stacked rows in reverse."""
    places = node.op.range(count=_plain(length), step=-1, dtype="int64")
    places = node.op.add(places, node.op.sub(length_as_limit(node, length), _ONE))
    return node.op.gather(rows, places, axis=0)  # type: ignore[no-any-return]


def _scan_outputs(
    node: Node, rows: Sequence[GraphExpr], states: int, length: Expr
) -> list[GraphExpr]:
    """Stacked values with the new axis where, and in the direction that, the node says."""
    outputs = len(node.outputs) - states
    axes = node.attr.ints("scan_output_axes", (0,) * outputs)
    reverse = node.attr.ints("scan_output_directions", (0,) * outputs)
    found = []
    for at, item in enumerate(rows):
        value = item
        if reverse[at]:
            value = backwards(node, value, length)
        axis = normal_axis(axes[at], rank(value))
        if axis:
            order = list(range(1, rank(value)))
            order.insert(axis, 0)
            value = node.op.transpose(value, permutation=tuple(order))
        found.append(value)
    return found


def _unrolled_scan(node: Node, state: list[Value], parts: _Parts, length: int) -> Any:
    rows: list[list[GraphExpr]] = []
    for step in range(length):
        cuts: list[Value] = []
        for x, axis, back in parts:
            at = length - 1 - step if back else step
            cut = node.op.slice(x, starts=(at,), ends=(at + 1,), axes=(axis,))
            cuts.append(node.op.squeeze(cut, axes=(axis,)))
        results = _body(node, "body", [*state, *cuts])
        state = results[: len(state)]
        rows.append([node.as_tensor(value) for value in results[len(state) :]])
    stacked = _stack(node, rows, len(node.outputs) - len(state))
    return (*state, *_scan_outputs(node, stacked, len(state), const(length)))
