# SPDX-License-Identifier: Apache-2.0
"""Gradients of graph functions, by reverse accumulation.

    def main(x, w):                          def main(x, w):
        y = matmul(x, w)                         y = matmul(x, w)
        z = relu(y)                   ->         z = relu(y)
        loss = sum(z)                            loss = sum(z)
        return loss                              d_z = broadcast_to(1, shape=z.shape)
                                                 d_y = where(greater(y, 0), d_z, 0)
                                                 d_w = matmul(x, d_y, transpose_a=True)
                                                 return loss, d_w

Branches and bodies of loops are walked in the same way, see `gradient_control`.

The bindings are walked backwards; what each contributes to the gradients of its arguments is what
its operator's rule "grad" returns, contributions add up. Only bindings between the parameters asked
for and the output are walked. The result is a plain graph function: every pass applies to it, and
it may be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from heddle.graph.builder import GraphBuilder, is_atom
from heddle.graph.dims import show_type
from heddle.graph.nodes import (
    Binding,
    Call,
    CallDPS,
    Constant,
    Function,
    GraphExpr,
    If,
    Loop,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir import IRModule, TensorType, TupleType, Type
from heddle.op.registry import Op, checked_gradients, ops
from heddle.passes.graph.anf import atoms_of, dims_attribute
from heddle.passes.graph.gradient_control import (
    Scope,
    gradient_keys,
    has_gradient,
    if_gradient,
    loop_gradient,
    missing_in,
    parts_of,
    saving_states,
    with_bounds,
)
from heddle.support import Span, UserError

GradientRule: TypeAlias = Callable[..., Any]
"""As the rule "grad" of an operator: `rule(*args, dout=..., out=..., **attrs)`."""

_SHOWN: Final = 4
"""So many places are named for each operator without a gradient."""


def gradient(
    module: IRModule,
    wrt: Sequence[str] | None = None,
    *,
    of: int | str | None = None,
    function: str = "main",
    values: bool = False,
    cotangent: str | None = None,
    rules: Mapping[str, GradientRule] | None = None,
    max_trip_count: int | None = None,
) -> IRModule:
    """The module in which `function` returns gradients with respect to its parameters `wrt` (None:
    all of floats), as a tuple in this order.

    of: the result to differentiate, by position or name, where the function has several. It must
        be a scalar, unless `cotangent` is given.
    values: return the function's own results before the gradients.
    cotangent: the name of a further parameter, of the type of the result: the gradients are then
        those of the sum of the products of result and cotangent.
    rules: gradients of loop functions (and of graph functions, instead of looking into them), by
        name: `rule(*args, dout, out)` returns one graph expression (None: zero) for each argument.
    max_trip_count: the most iterations of loops that nothing else bounds.

    Raises `UserError` when a name is unknown, when the result is no scalar of floats, and when
    operators on the way have no gradient: the message names them all, and who calls them.
    """
    given = dict(rules or {})
    if max_trip_count is not None:
        module = with_bounds(module, max_trip_count)
    scope = Scope(module, given)
    source = scope.flat(function)
    targets = _targets(source, wrt, function)
    output = _output(source, of, function, scalar=cotangent is None)
    reverse = Reverse(scope, source.bindings, [output], targets)
    reverse.refuse_missing()
    loops = reverse.loops()
    if loops:  # what loops carried is needed again, last iteration first
        position = results_of(source).index(output)
        source = saving_states(source, loops, scope)
        output = results_of(source)[position]
    scope.builder = GraphBuilder.continuing(source)
    reverse = Reverse(scope, source.bindings, [output], targets)
    gradients = reverse.run([_seed(scope.builder, output, cotangent)])
    results = [*(results_of(source) if values else ()), *gradients]
    changed = {function: scope.builder.finish(Tuple(tuple(results)))}
    return module.with_functions({**changed, **scope.functions})


def results_of(function: Function) -> tuple[GraphExpr, ...]:
    """What the function returns, one by one."""
    result = function.result
    return result.fields if isinstance(result, Tuple) else (result,)


def _targets(function: Function, wrt: Sequence[str] | None, name: str) -> list[Var]:
    params = {param.name: param for param in function.params}
    if wrt is None:
        chosen = [param for param in function.params if has_gradient(param.type)]
        if not chosen:
            raise UserError(f"`{name}` has no parameter of floats to differentiate by")
        return chosen
    for item in wrt:
        if item not in params:
            known = ", ".join(f"`{key}`" for key in params) or "none"
            raise UserError(f"`{name}` has no parameter `{item}`; it has {known}")
        if not isinstance(params[item].type, TensorType) or not has_gradient(params[item].type):
            raise UserError(
                f"parameter `{item}` of `{name}` is {show_type(params[item].type)}: only tensors "
                "of floats have gradients"
            )
    return [params[item] for item in wrt]


def _output(function: Function, of: int | str | None, name: str, *, scalar: bool) -> GraphExpr:
    """The result to differentiate."""
    results = results_of(function)
    if of is None and len(results) == 1:
        of = 0
    found = _chosen(results, of)
    if found is None:
        shown = ", ".join(f"{at} (`{getattr(r, 'name', '')}`)" for at, r in enumerate(results))
        what = "several results: say `of` which" if of is None else f"no result {of!r}"
        raise UserError(f"`{name}` has {what}; they are {shown}")
    type_ = found.type
    if not isinstance(type_, TensorType) or not type_.dtype.is_float:
        raise UserError(
            f"the result of `{name}` is {show_type(type_)}, expected a tensor of floats"
        )
    if scalar and type_.ndim != 0:
        raise UserError(
            f"the result of `{name}` is {show_type(type_)}: the gradient of a scalar is asked for, "
            "so reduce it (op.sum, op.mean), or use heddle.vjp"
        )
    return found


def _chosen(results: Sequence[GraphExpr], of: int | str | None) -> GraphExpr | None:
    if isinstance(of, int):
        return results[of] if -len(results) <= of < len(results) else None
    return next((r for r in results if of and isinstance(r, Var) and r.name == of), None)


def _seed(builder: GraphBuilder, output: GraphExpr, cotangent: str | None) -> GraphExpr:
    """The gradient of the output itself."""
    type_ = output.type
    assert isinstance(type_, TensorType)
    if cotangent is not None:
        return builder.param(cotangent, type_)
    return Constant(np.ones((), type_.dtype.numpy))


class Reverse:
    """One walk over bindings, backwards: from `outputs` to `targets`."""

    def __init__(
        self,
        scope: Scope,
        bindings: Sequence[Binding],
        outputs: Sequence[GraphExpr],
        targets: Sequence[Var],
    ) -> None:
        self.scope, self.bindings, self.outputs, self.targets = scope, bindings, outputs, targets
        self.rules = scope.rules
        self.emitted: dict[GraphExpr, GraphExpr] = {}
        self.span: Span | None = None
        self.active = self._depending()
        self.needed = self._leading()
        # Contributions to the gradient of a variable; for a tuple, of each field.
        self.parts: dict[tuple[Var, int], list[GraphExpr]] = {}

    # -- which bindings matter ---------------------------------------------------------------

    def _depending(self) -> set[Var]:
        """The variables through which the targets act."""
        active = set(self.targets)
        for binding in self.bindings:
            value = binding.value
            if isinstance(value, Call) and isinstance(value.callee, Op):
                if value.callee.no_gradient:
                    continue
            if has_gradient(binding.var.type) and not active.isdisjoint(_variables(value)):
                active.add(binding.var)
        return active

    def _leading(self) -> list[Binding]:
        """The bindings on the way from the targets to the output, last one first."""
        wanted = {var for output in self.outputs for var in _variables(output)}
        found = []
        for binding in reversed(self.bindings):
            if binding.var in wanted and binding.var in self.active:
                found.append(binding)
                wanted.update(_variables(binding.value))
        return found

    # -- the walk ----------------------------------------------------------------------------

    def run(self, seeds: Sequence[Any]) -> list[GraphExpr]:
        """Emit the gradients of the targets, for tuples those of their fields of floats; `seeds`
        are those of the outputs: None for zero, a tuple for a tuple."""
        for output, seed in zip(self.outputs, seeds, strict=True):
            for index, part in enumerate(seed) if isinstance(seed, tuple) else ((-1, seed),):
                if part is not None:
                    self._add(output, part, index)
        for binding in self.needed:
            self.span = binding.span or binding.value.span
            self._bind(binding)
        self.span = None
        return [self._gradient(key) for target in self.targets for key in gradient_keys(target)]

    def within(
        self,
        bindings: Sequence[Binding],
        outputs: Sequence[GraphExpr],
        targets: Sequence[Var],
    ) -> Reverse:
        """The walk over bindings of a branch or a body, whose loops save what they carry."""
        inner = Reverse(self.scope, bindings, outputs, targets)
        loops = inner.loops()
        if not loops:
            return inner
        part = Function((), tuple(bindings), Tuple(tuple(outputs)), {})
        saved = saving_states(part, loops, self.scope)
        return Reverse(self.scope, saved.bindings, results_of(saved), targets)

    def loops(self) -> set[Var]:
        """The loops on the way."""
        return {binding.var for binding in self.needed if isinstance(binding.value, Loop)}

    def _bind(self, binding: Binding) -> None:
        value = binding.value
        if isinstance(value, TupleGetItem):
            dout = self._field(binding.var, -1)
            if isinstance(value.value, Var) and dout is not None:
                self._add(value.value, dout, value.index)
            return
        if not isinstance(value, (Call, CallDPS, If, Loop)):
            return
        if isinstance(value, (If, Loop)):
            self._bind_control(value, binding.var)
            return
        dout = self._dout(binding.var)
        if dout is None:
            return
        for arg, part in zip(value.args, self._rule(value, dout, binding.var), strict=True):
            if part is not None and isinstance(arg, Var) and arg in self.active:
                self._add(arg, part)

    def _bind_control(self, value: If | Loop, var: Var) -> None:
        douts = [self._field(*key) for key in gradient_keys(var)]
        if all(item is None for item in douts):
            return
        known = dict(zip(gradient_keys(var), douts, strict=True))
        fields = len(var.type.fields) if isinstance(var.type, TupleType) else 0
        every = [known.get((var, at)) for at in range(fields)] or douts
        found = (
            if_gradient(self, value, var, every)
            if isinstance(value, If)
            else loop_gradient(self, value, var, every)
        )
        for to, index, part in found:
            self._add(to, part, index)

    def _rule(self, value: Call | CallDPS, dout: Any, var: Var) -> Sequence[GraphExpr | None]:
        out: Any = var
        if isinstance(var.type, TupleType):
            out = tuple(TupleGetItem(var, index) for index in range(len(var.type.fields)))
        if isinstance(value, Call) and isinstance(value.callee, Op):
            return value.callee.gradients(value.args, value.attrs, dout=dout, out=out)
        name = value.callee.name
        given = self.rules[name](*value.args, dout=dout, out=out, **value.attrs)
        return checked_gradients(f"`{name}`", value.args, given)

    # -- gradients of variables --------------------------------------------------------------

    def _add(self, to: GraphExpr, part: GraphExpr, index: int = -1) -> None:
        if isinstance(to, Var) and to in self.active:
            emitted = self._emit(part, name=_gradient_name(to, index))
            self.parts.setdefault((to, index), []).append(emitted)

    def _field(self, var: Var, index: int) -> GraphExpr | None:
        """The gradient of a variable (of a field of it), None when it is zero."""
        parts = self.parts.pop((var, index), None)
        if parts is None:
            return None
        total = parts[0]
        for part in parts[1:]:
            total = ops.add(total, part)
        found = self._emit(total, name=_gradient_name(var, index))
        self.parts[var, index] = [found]
        return found

    def _dout(self, var: Var) -> Any:
        """The gradient of a variable as rules take it, None when it is zero."""
        if not isinstance(var.type, TupleType):
            return self._field(var, -1)
        found = [self._field(var, index) for index in range(len(var.type.fields))]
        if all(item is None for item in found):
            return None
        return tuple(
            item if item is not None or not has_gradient(type_) else zeros(type_)
            for item, type_ in zip(found, var.type.fields, strict=True)
        )

    def _gradient(self, key: tuple[Var, int]) -> GraphExpr:
        target, index = key
        found = self._field(target, index)
        if found is None:
            type_ = target.type.fields[index] if isinstance(target.type, TupleType) else target.type
            found = self._emit(zeros(type_), name=_gradient_name(target, index))
        return found

    def _emit(self, value: GraphExpr, *, name: str | None = None) -> GraphExpr:
        """`value` bound to a variable; the same expression is bound once."""
        if is_atom(value):
            return value
        found = self.emitted.get(value)
        if found is None:
            flat = value.map(lambda item: self._emit(item) if isinstance(item, GraphExpr) else item)
            if flat.span is None and self.span is not None:
                flat = flat.replace(span=self.span)
            found = self.emitted[value] = self.scope.builder.emit(flat, name=name)
        return found

    # -- what has no gradient ----------------------------------------------------------------

    def missing(self) -> dict[str, list[Binding]]:
        """What on the way has no gradient, and where it is used, in order."""
        found: dict[str, list[Binding]] = {}
        for binding in reversed(self.needed):
            what = self._missing(binding.value)
            if what:
                found.setdefault(what, []).append(binding)
            for inner in parts_of(self, binding.value):
                for what, places in inner.missing().items():
                    found.setdefault(what, []).extend(places)
        return found

    def refuse_missing(self) -> None:
        """`UserError` naming everything on the way that has no gradient."""
        missing = self.missing()
        if not missing:
            return
        lines = [f"{what}: {_places(found)}" for what, found in sorted(missing.items())]
        spans = [b.span or b.value.span for found in missing.values() for b in found]
        first = next((span for span in spans if span is not None), None)
        how = "an operator gets a gradient by its rule `grad`, a loop function by `rules`"
        text = "\n  ".join(["no gradient for", *lines])
        raise UserError(f"{text}\n({how}; see docs/tutorials/new-operator.md)", span=first)

    def _missing(self, value: GraphExpr) -> str:
        if isinstance(value, (Tuple, TupleGetItem)):
            return ""
        if isinstance(value, Call) and isinstance(value.callee, Op):
            return "" if value.callee.has_rule("grad") else f"operator `{value.callee.name}`"
        if isinstance(value, (Call, CallDPS)):
            name = value.callee.name
            kind = "function" if isinstance(value, Call) else "loop function"
            return "" if name in self.rules else f"{kind} `{name}`"
        return missing_in(value)


def _gradient_name(var: Var, index: int) -> str:
    return f"d_{var.name}" if index < 0 else f"d_{var.name}_{index}"


def zeros(type_: Type) -> GraphExpr:
    """A tensor of zeros."""
    assert isinstance(type_, TensorType)
    return ops.full(shape=dims_attribute(type_.shape), value=0.0, dtype=type_.dtype)


def _variables(value: GraphExpr) -> list[Var]:
    return [atom for atom in atoms_of(value) if isinstance(atom, Var)]


def _places(bindings: Sequence[Binding]) -> str:
    shown = []
    for binding in bindings[:_SHOWN]:
        span = binding.span or binding.value.span
        shown.append(f"`{binding.var.name}`" + (f" ({span!r})" if span is not None else ""))
    more = len(bindings) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
