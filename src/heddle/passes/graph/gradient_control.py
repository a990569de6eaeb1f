# SPDX-License-Identifier: Apache-2.0
"""Gradients through conditionals and loops.

The gradient of a conditional is one with the same condition, whose branches compute again what the
branches of the first computed, and go back through that. A loop keeps what it carried into each
iteration, stacked; its gradient is a loop over the iterations, the last one first, that computes
each again from there and goes back through it:

    n, y, rows = loop(body, x, w)    ->  n, y, rows, saved = loop(body_saving, x, w)
                                         d_x, d_w = loop(body_reverse, d_y, 0, n, saved, d_rows, w)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from heddle.graph.builder import GraphBuilder
from heddle.graph.nodes import (
    BindDim,
    Binding,
    Branch,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir import INT64, GlobalVar, IRModule, TensorType, TupleType, Type
from heddle.ir.expr import Expr, as_expr, as_int, const
from heddle.ir.walk import rewrite
from heddle.op.registry import ops
from heddle.passes.graph.anf import Rewriter, atoms_of, dims_attribute
from heddle.passes.graph.inline import copied, inline
from heddle.passes.graph.normalise import normalise
from heddle.support import UserError

if TYPE_CHECKING:
    from heddle.passes.graph.gradient import Reverse

Part: TypeAlias = tuple[Var, int, GraphExpr]
"""A contribution to the gradient of a variable (-1), or of a field of it."""


@dataclass
class Scope:
    """The module that is differentiated, and the function that is being written.

    functions: bodies of loops that were made.
    """

    module: IRModule
    rules: Mapping[str, Callable[..., Any]]
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    functions: dict[str, Function] = field(default_factory=dict)

    def flat(self, name: str) -> Function:
        """A graph function without calls of others (but of those that have rules)."""
        whole = self.module.with_functions(self.functions)
        inlined = inline(whole, name, keep=frozenset(self.rules))
        found = normalise(IRModule({name: inlined}))[name]
        assert isinstance(found, Function)
        return found

    def add(self, stem: str, function: Function) -> str:
        """Add a function to the module; its name."""
        name, count = stem, 0
        while name in self.module or name in self.functions:
            count += 1
            name = f"{stem}_{count}"
        self.functions[name] = function.replace(attrs={**function.attrs, "name": name})
        return name


# -- what can be differentiated ----------------------------------------------------------------


def missing_in(value: GraphExpr) -> str:
    """Why a conditional or a loop has no gradient; empty when it has."""
    if isinstance(value, If):
        bindings = (*value.then.bindings, *value.otherwise.bindings)
        sized = any(isinstance(binding.value, BindDim) for binding in bindings)
        return "a conditional that computes sizes" if sized else ""
    if isinstance(value, Loop):
        known = _rows(value) is not None
        return "" if known else "a loop without a bound on its iterations (see max_trip_count)"
    return "a size that is computed"


def _rows(loop: Loop) -> Expr | None:
    """So many iterations a loop has at most; None when nothing says."""
    bound = as_int(loop.bound)
    if bound is None or bound > 0:
        return loop.bound
    limit = loop.limit
    return as_expr(int(limit.data)) if isinstance(limit, Constant) else None


def with_bounds(module: IRModule, most: int) -> IRModule:
    """The module in which loops that nothing bounds run at most so many times. Where the states of
    their iterations are kept, running more often is an error."""
    if most < 1:
        raise UserError(f"max_trip_count is {most}, expected at least 1")

    def bounded(loop: Loop) -> Loop:
        return loop.replace(bound=const(most)) if _rows(loop) is None else loop

    changed = {
        name: rewrite(function, {Loop: bounded})
        for name, function in module.functions.items()
        if isinstance(function, Function)
    }
    return module.with_functions(changed)


def parts_of(reverse: Reverse, value: GraphExpr) -> Iterator[Reverse]:
    """The walks over the branches of a conditional, or over the body of a loop."""
    if isinstance(value, If):
        captured = _captured(reverse, value)
        for branch in (value.then, value.otherwise):
            yield _walk(reverse, branch.bindings, _fields(branch.result), captured)
    elif isinstance(value, Loop) and _rows(value) is not None:
        function = reverse.scope.flat(value.body.name)
        floats = [param for param in function.params[1:] if _is_float(param.type)]
        yield _walk(reverse, function.bindings, _fields(function.result)[1:], floats)


def _walk(
    reverse: Reverse, bindings: Sequence[Binding], outputs: Sequence[GraphExpr], to: Sequence[Var]
) -> Reverse:
    return type(reverse)(reverse.scope, bindings, outputs, to)


def _captured(reverse: Reverse, value: If) -> list[Var]:
    """The variables outside through which the targets act on a conditional."""
    found = dict.fromkeys(atom for atom in atoms_of(value) if isinstance(atom, Var))
    return [var for var in found if var in reverse.active]


def has_gradient(type_: Type) -> bool:
    if isinstance(type_, TupleType):
        return any(map(has_gradient, type_.fields))
    return isinstance(type_, TensorType) and type_.dtype.is_float


def gradient_keys(var: Var) -> list[tuple[Var, int]]:
    """What of a variable has gradients: itself (-1), or its fields."""
    if not isinstance(var.type, TupleType):
        return [(var, -1)]
    return [(var, at) for at, type_ in enumerate(var.type.fields) if has_gradient(type_)]


def _fields(result: GraphExpr) -> tuple[GraphExpr, ...]:
    return result.fields if isinstance(result, Tuple) else (result,)


def _is_float(type_: Type) -> bool:
    return isinstance(type_, TensorType) and type_.dtype.is_float


# -- conditionals --------------------------------------------------------------------------------


def if_gradient(
    reverse: Reverse, value: If, var: Var, douts: Sequence[GraphExpr | None]
) -> list[Part]:
    """Contributions to the gradients of what the branches use."""
    captured = _captured(reverse, value)
    keys = [key for item in captured for key in gradient_keys(item)]

    def arm(branch: Branch) -> Callable[[], GraphExpr]:
        return lambda: _backward(reverse, branch, captured, douts)

    builder = reverse.scope.builder
    chosen = builder.emit_if(
        value.condition, arm(value.then), arm(value.otherwise), name=f"d_{var.name}_if"
    )
    if len(keys) == 1:
        return [(*keys[0], chosen)]
    return [(*key, TupleGetItem(chosen, at)) for at, key in enumerate(keys)]


def _backward(
    reverse: Reverse, branch: Branch, captured: Sequence[Var], douts: Sequence[GraphExpr | None]
) -> GraphExpr:
    """A branch once more, and the gradients of what it uses; emitted into the present branch."""
    builder = reverse.scope.builder
    function = Function((), branch.bindings, branch.result, {})
    bindings, result = copied(reverse.scope.module, function, (), frozenset(reverse.rules))
    inner = reverse.within(bindings, _fields(result), captured)
    builder.extend(inner.bindings)
    gradients = inner.run(douts if isinstance(result, Tuple) or len(douts) == 1 else [tuple(douts)])
    own = {binding.var for binding in builder.bindings}
    fresh = [item if item in own else builder.emit(ops.identity(item)) for item in gradients]
    return fresh[0] if len(fresh) == 1 else Tuple(tuple(fresh))


# -- loops ---------------------------------------------------------------------------------------


def saving_states(function: Function, loops: set[Var], scope: Scope) -> Function:
    """The function whose `loops` stack what they carry into each iteration, behind their other
    results."""
    rewriter = Rewriter(function)
    for binding in function.bindings:
        if binding.var not in loops:
            rewriter.copy_binding(binding)
            continue
        loop = rewriter.resolve(binding.value)
        assert isinstance(loop, Loop)
        rewriter.alias_new(binding.var, rewriter.emit(_saving(loop, scope), like=binding.var))
    return rewriter.finish()


def _saving(loop: Loop, scope: Scope) -> Loop:
    body = scope.flat(loop.body.name)
    builder = GraphBuilder.continuing(body)
    carried = body.params[1 : 1 + len(loop.carried)]
    saved = [builder.emit(ops.identity(item), name=f"{item.name}_saved") for item in carried]
    function = builder.finish(Tuple((*_fields(body.result), *saved)), attrs=body.attrs)
    rows = _rows(loop)
    assert rows is not None
    assert isinstance(loop.type, TupleType)
    kept = [item.type for item in loop.carried]
    stacked = [TensorType((rows, *t.shape), t.dtype) for t in kept if isinstance(t, TensorType)]
    name = scope.add(f"{loop.body.name}_saving", function)
    new: Loop = loop.replace(
        body=GlobalVar(name), bound=rows, type=TupleType((*loop.type.fields, *stacked))
    )
    return new


def loop_gradient(
    reverse: Reverse, loop: Loop, var: Var, douts: Sequence[GraphExpr | None]
) -> list[Part]:
    """Contributions to the gradients of what a loop that `saving_states` made starts from and
    uses."""
    builder, count = reverse.scope.builder, len(loop.carried)
    assert isinstance(loop.type, TupleType)
    items = [builder.emit(TupleGetItem(var, at)) for at in range(len(loop.type.fields))]
    saved = items[len(items) - count :]
    states = [at for at in range(count) if _is_float(loop.carried[at].type)]
    used = [at for at, item in enumerate(loop.captured) if item in reverse.active]
    rows = list(enumerate(douts[1 + count : len(items) - count]))
    stacked = [at for at, part in rows if part is not None]
    step = _Step(loop, states, used, stacked)
    d_rows = [part for _, part in rows if part is not None]
    function = step.function(reverse, items[0], saved, d_rows)
    name = reverse.scope.add(f"{loop.body.name}_reverse", function)
    given = [(at, douts[1 + at]) for at in states]
    ends = [_zeros(loop.carried[at].type) if part is None else part for at, part in given]
    sums = [_zeros(loop.captured[at].type) for at in used]
    _, found, _ = builder.emit_loop(
        name,
        reverse.scope.functions[name],
        carried=(*ends, *sums),
        captured=(items[0], *saved, *d_rows, *loop.captured),
        limit=items[0],
        name=f"d_{var.name}_loop",
    )
    starts = [*(loop.carried[at] for at in states), *(loop.captured[at] for at in used)]
    return [(to, -1, part) for to, part in zip(starts, found, strict=True) if isinstance(to, Var)]


@dataclass
class _Step:
    """One iteration of the gradient of a loop. Positions: of the `states` that are floats, of the
    captured values `used` on the way, of the `stacked` results that have gradients."""

    loop: Loop
    states: list[int]
    used: list[int]
    stacked: list[int]

    def function(
        self, outer: Reverse, number: Var, saved: Sequence[Var], d_rows: Sequence[GraphExpr]
    ) -> Function:
        """(iteration, d_states, sums, number of iterations, saved states, d_rows, captured) to
        (going, d_states, sums)."""
        scope, loop = outer.scope, self.loop
        builder = GraphBuilder(f"{loop.body.name}_reverse")
        turn = builder.param("iteration", TensorType((), INT64))
        d_states = [builder.param(f"d_state_{at}", loop.carried[at].type) for at in self.states]
        sums = [builder.param(f"sum_{at}", loop.captured[at].type) for at in self.used]
        total = builder.param("iterations", number.type)
        kept = [builder.param(f"saved_{at}", item.type) for at, item in enumerate(saved)]
        rows = [builder.param(f"d_row_{at}", item.type) for at, item in enumerate(d_rows)]
        captured = [
            builder.param(f"captured_{at}", item.type) for at, item in enumerate(loop.captured)
        ]
        one = Constant(np.asarray(1, np.int64))
        place = builder.emit(ops.sub(ops.sub(total, one), turn), name="place")
        states = [builder.emit(ops.gather(item, place, axis=0)) for item in kept]
        body = scope.flat(loop.body.name)
        bindings, result = copied(
            scope.module, body, [place, *states, *captured], frozenset(scope.rules)
        )
        results = _fields(result)[: len(_fields(result)) - len(saved)]
        inside = Scope(scope.module, scope.rules, builder, scope.functions)
        targets = [states[at] for at in self.states] + [captured[at] for at in self.used]
        walk = outer.within(bindings, results[1:], targets)
        walk.scope = inside
        builder.extend(walk.bindings)
        gradients = walk.run(self._seeds(results, d_states, rows, place))
        found = [*gradients[: len(d_states)]]
        for old, more in zip(sums, gradients[len(d_states) :], strict=True):
            found.append(ops.add(old, more))
        going = ops.identity(Constant(np.asarray(True)))
        own = {*(binding.var for binding in builder.bindings)}
        fresh = [item if item in own else _own(item) for item in found]
        return builder.finish(Tuple((going, *fresh)))

    def _seeds(
        self,
        results: Sequence[GraphExpr],
        d_states: Sequence[Var],
        rows: Sequence[Var],
        place: Var,
    ) -> list[GraphExpr | None]:
        """The gradients of the results of the body but the first."""
        seeds: list[GraphExpr | None] = [None] * (len(results) - 1)
        for at, d_state in zip(self.states, d_states, strict=True):
            seeds[at] = d_state
        for at, row in zip(self.stacked, rows, strict=True):
            seeds[len(self.loop.carried) + at] = ops.gather(row, place, axis=0)
        return seeds


def _own(value: GraphExpr) -> GraphExpr:
    """A value that is a parameter as a result of its own."""
    return ops.identity(value) if isinstance(value, (Var, Constant)) else value  # type: ignore[no-any-return]


def _zeros(type_: Type) -> GraphExpr:
    assert isinstance(type_, TensorType)
    found: GraphExpr = ops.full(shape=dims_attribute(type_.shape), value=0.0, dtype=type_.dtype)
    return found


__all__ = [
    "Scope",
    "if_gradient",
    "loop_gradient",
    "missing_in",
    "parts_of",
    "saving_states",
]
