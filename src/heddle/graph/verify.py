# SPDX-License-Identifier: Apache-2.0
"""The verifier of the graph level: A-normal form, definitions before uses, types that hold.

verify(func, module)     one function, with the module its calls refer to
verify_module(module)    every graph function of a module
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from heddle.graph.builder import is_atom
from heddle.graph.dims import (
    match_symbols,
    same_type,
    shape_fits,
    show_dim,
    show_shape,
    show_type,
    simplify_dim,
)
from heddle.graph.dps import arguments_of, dense_layout, output_types, scalar_of
from heddle.graph.nodes import (
    Arm,
    BindDim,
    Binding,
    Branch,
    Call,
    CallDPS,
    Closure,
    Constant,
    Construct,
    Function,
    GraphExpr,
    If,
    Loop,
    Match,
    Scalar,
    Tuple,
    TupleGetItem,
    Var,
)
from heddle.ir import (
    BOOL,
    INT64,
    DataType,
    DType,
    ExternFunc,
    FunctionType,
    GlobalVar,
    IRModule,
    Node,
    TensorType,
    TupleType,
    Type,
    free_vars,
    substitute,
)
from heddle.ir.expr import Expr
from heddle.support import UserError
from heddle.tir.build import buffer_params
from heddle.tir.nodes import Buffer, PrimFunc


def verify_module(module: IRModule) -> None:
    """Verify every graph function of a module. See `verify`."""
    for name, func in module.functions.items():
        if isinstance(func, Function):
            verify(func, module, name=name)


def verify(func: Function, module: IRModule | None = None, *, name: str | None = None) -> None:
    """Raise `UserError` where `func` is ill-formed; the message names the function and the value.

    Checked: parameters and variables are bound once and before they are used; arguments are
    variables or constants; the type of every value is what its operator or callee gives; a
    destination-passing call fits its loop function; symbols in types come from the parameters.
    `module` resolves calls of other functions; without it these are not looked into.
    """
    _Verifier(module, name or str(func.attrs.get("name", "main"))).function(func)


class _Verifier:
    def __init__(self, module: IRModule | None, name: str) -> None:
        self.module = module
        self.name = name
        self.defined: set[Var] = set()
        self.scope: set[Var] = set()
        self.symbols: set[Any] = set()
        self.at = "parameters"

    def fail(self, message: str, where: Node) -> NoReturn:
        raise UserError(f"graph function `{self.name}`, {self.at}: {message}", span=where.span)

    def function(self, func: Function) -> None:
        for param in func.params:
            self.define(param)
            for dim in _dims(param.type):
                self.symbols.update(free_vars(dim))
        handed: Any = func.attrs.get("symbols", ())
        self.symbols.update(handed)
        for binding in func.bindings:
            self.binding(binding)
        self.at = "result"
        self.result(func.result)

    def define(self, var: Var) -> None:
        if var in self.defined:
            self.fail(f"variable `{var.name}` is bound twice", var)
        self.defined.add(var)
        self.scope.add(var)

    def binding(self, binding: Binding) -> None:
        self.at = f"value `{binding.var.name}`"
        self.value(binding.value)
        self.at = f"value `{binding.var.name}`"
        if not same_type(binding.var.type, binding.value.type):
            self.fail(
                f"the variable has type {show_type(binding.var.type)}, what it is bound to "
                f"{show_type(binding.value.type)}",
                binding,
            )
        for dim in _dims(binding.var.type):
            self.known_symbols(dim, binding)
        self.define(binding.var)

    def value(self, value: GraphExpr) -> None:
        check = _CHECKS.get(type(value))
        if check is None:
            self.fail(f"a {type(value).__name__} is no value of a binding", value)
        check(self, value)

    def atom(self, value: GraphExpr) -> None:
        if not is_atom(value):
            self.fail(
                f"argument {type(value).__name__} must be a variable or a constant: bind it first",
                value,
            )
        if isinstance(value, Var) and value not in self.scope:
            known = "out of scope" if value in self.defined else "not bound yet"
            self.fail(f"variable `{value.name}` is {known} here", value)

    def result(self, value: GraphExpr) -> None:
        if isinstance(value, Tuple):
            self.atoms(value)
        else:
            self.atom(value)

    def atoms(self, value: Any) -> None:
        for item in value.children():
            self.atom(item)

    # -- one check per kind of value ---------------------------------------------------------

    def expect(self, value: GraphExpr, expected: Type, source: str) -> None:
        if not same_type(value.type, expected):
            self.fail(
                f"the type is {show_type(value.type)}, but {source} gives {show_type(expected)}",
                value,
            )

    def call(self, value: Call) -> None:
        self.atoms_of(value.args)
        if isinstance(value.callee, Var):
            self.call_closure(value, value.callee)
            return
        if isinstance(value.callee, GlobalVar):
            self.call_function(value)
            return
        types = [arg.type for arg in value.args]
        for position, type_ in enumerate(types):
            if not isinstance(type_, TensorType):
                self.fail(f"argument {position} is {show_type(type_)}, not a tensor", value)
        self.expect(value, value.callee.infer(types, value.attrs), repr(value.callee))

    def atoms_of(self, args: Sequence[GraphExpr]) -> None:
        for arg in args:
            self.atom(arg)

    def callee(self, value: Call | CallDPS | Loop | Closure) -> Any:
        if self.module is None:
            return None
        if isinstance(value, Closure):
            name = value.function.name
        else:
            name = value.body.name if isinstance(value, Loop) else value.callee.name
        if name not in self.module:
            self.fail(f"the module has no function `{name}`", value)
        return self.module[name]

    def call_function(self, value: Call) -> None:
        func = self.callee(value)
        if func is None:
            return
        if not isinstance(func, Function):
            self.fail(f"`{value.callee.name}` is no graph function: use call_dps", value)
        given = [arg.type for arg in value.args]
        result = self.result_of(value, func, value.callee.name, given)
        self.expect(value, result, f"`{value.callee.name}`")

    def call_closure(self, value: Call, callee: Var) -> None:
        self.atom(callee)
        type_ = callee.type
        if not isinstance(type_, FunctionType):
            self.fail(f"`{callee.name}` is {show_type(type_)}, not a function", value)
        given = [arg.type for arg in value.args]
        if len(given) != len(type_.params) or not all(map(same_type, given, type_.params)):
            shown = ", ".join(map(show_type, given))
            self.fail(f"`{callee.name}` is {show_type(type_)}, the arguments ({shown})", value)
        self.expect(value, type_.result, f"`{callee.name}`")

    def closure(self, value: Closure) -> None:
        self.atoms_of(value.captured)
        type_ = value.type
        if not isinstance(type_, FunctionType):
            self.fail(f"a closure has the type of a function, not {show_type(type_)}", value)
        func = self.callee(value)
        if func is None:
            return
        if not isinstance(func, Function):
            self.fail(f"`{value.function.name}` is no graph function", value)
        given = [*type_.params, *(item.type for item in value.captured)]
        result = self.result_of(value, func, value.function.name, given)
        self.expect(value, FunctionType(type_.params, result), f"`{value.function.name}`")

    def match(self, value: Match) -> None:
        """The arms cover the constructors, each once, and give one type."""
        self.atom(value.value)
        type_ = value.value.type
        if not isinstance(type_, DataType):
            self.fail(f"`match` takes a data type apart, got {show_type(type_)}", value)
        missing = [item.name for item in type_.constructors]
        for place, arm in enumerate(value.arms):
            if arm.constructor == "_":
                if place != len(value.arms) - 1 or not missing or arm.fields:
                    self.fail("`case _` is for what is left, and comes last", arm)
                missing = []
                continue
            constructor = type_.constructor(arm.constructor)
            if constructor is None:
                known = ", ".join(item.name for item in type_.constructors)
                self.fail(f"{type_.name} has no {arm.constructor}; it has {known}", arm)
            if arm.constructor not in missing:
                self.fail(f"{arm.constructor} has two arms", arm)
            missing.remove(arm.constructor)
            self.arm(value, arm, type_.field_types(constructor))
        if missing:
            self.fail(f"`match` on {type_.name} has no arm for {', '.join(missing)}", value)
        for arm in value.arms[-1:]:
            if arm.constructor == "_":
                self.branch(arm.body)
                self.expect(value, arm.body.result.type, "an arm")

    def construct(self, value: Construct) -> None:
        """The fields are those of the constructor."""
        self.atoms_of(value.fields)
        type_ = value.type
        if not isinstance(type_, DataType):
            self.fail(f"a constructor makes a data type, not {show_type(type_)}", value)
        constructor = type_.constructor(value.constructor)
        if constructor is None:
            known = ", ".join(item.name for item in type_.constructors)
            self.fail(f"{type_.name} has no {value.constructor}; it has {known}", value)
        types = type_.field_types(constructor)
        name = f"{type_.name}.{value.constructor}"
        if len(types) != len(value.fields):
            self.fail(f"{name} has {len(types)} fields, got {len(value.fields)}", value)
        for place, (given, wanted) in enumerate(zip(value.fields, types, strict=True)):
            if not same_type(given.type, wanted):
                self.fail(
                    f"field {place} of {name} is {show_type(wanted)}, got {show_type(given.type)}",
                    value,
                )

    def arm(self, value: Match, arm: Arm, types: Sequence[Type]) -> None:
        if len(arm.fields) != len(types):
            self.fail(f"{arm.constructor} has {len(types)} fields, got {len(arm.fields)}", arm)
        for var, type_ in zip(arm.fields, types, strict=True):
            if not same_type(var.type, type_):
                self.fail(
                    f"field `{var.name}` is {show_type(type_)}, not {show_type(var.type)}", arm
                )
        outer = set(self.scope)
        for var in arm.fields:
            self.define(var)
        self.branch(arm.body)
        self.scope = outer
        self.expect(value, arm.body.result.type, "an arm")

    def result_of(self, at: Node, func: Function, name: str, given: Sequence[Type]) -> Type:
        """The type of the result of `func` for arguments of these types, which must fit."""
        if len(func.params) != len(given):
            self.fail(f"`{name}` takes {len(func.params)} arguments, got {len(given)}", at)
        symbols = match_symbols([_shape(p.type) for p in func.params], [_shape(t) for t in given])
        for param, type_ in zip(func.params, given, strict=True):
            if isinstance(param.type, TensorType) and isinstance(type_, TensorType):
                fits = param.type.dtype is type_.dtype
                fits = fits and shape_fits(param.type.shape, type_.shape, symbols)
            else:
                fits = same_type(param.type, type_)
            if not fits:
                self.fail(
                    f"parameter `{param.name}` of `{name}` is {show_type(param.type)}, the "
                    f"argument {show_type(type_)}",
                    at,
                )
        return _with_symbols(func.result.type, symbols)

    def call_dps(self, value: CallDPS) -> None:
        self.atoms_of(value.args)
        func = self.callee(value)
        if func is None or isinstance(func, ExternFunc):
            return
        if not isinstance(func, PrimFunc):
            self.fail(f"`{value.callee.name}` is no loop function", value)
        pairs = arguments_of(value, func)
        if pairs is None:
            self.fail(
                f"`{value.callee.name}` has {len(func.params)} parameters, got "
                f"{len(value.args)} arguments and {len(output_types(value))} outputs",
                value,
            )
        symbols = self.scalars(value, func, pairs)
        buffers = [
            (param, given if isinstance(given, Type) else given.type)
            for param, given in pairs
            if isinstance(param, Buffer)
        ]
        for buffer, type_ in buffers:
            if isinstance(type_, TensorType):
                found = match_symbols([buffer.layout], [dense_layout(buffer, type_)])
                symbols = {**found, **symbols}
        for buffer, type_ in buffers:
            fits = (
                isinstance(type_, TensorType)
                and buffer.dtype is type_.dtype
                and shape_fits(buffer.layout, dense_layout(buffer, type_), symbols)
            )
            if not fits:
                self.fail(
                    f"buffer `{buffer.name}` of `{value.callee.name}` is {buffer.dtype} "
                    f"{show_shape(buffer.shape)}{_gaps(buffer)}, got {show_type(type_)}",
                    value,
                )

    def scalars(
        self, value: CallDPS, func: PrimFunc, pairs: Sequence[tuple[Any, Any]]
    ) -> dict[Any, Expr]:
        """Check what is given for parameters that are numbers; the values of those that shapes
        depend on."""
        known: dict[Any, Expr] = {}
        layouts = [dim for buffer in buffer_params(func) for dim in buffer.layout]
        sizes = {var for dim in layouts for var in free_vars(dim)}
        for param, given in pairs:
            if isinstance(param, Buffer):
                if isinstance(given, Scalar):
                    self.fail(f"`{param.name}` of `{value.callee.name}` is no number", given)
                continue
            type_ = given.type
            if not isinstance(type_, TensorType) or type_.shape or type_.dtype is not param.dtype:
                self.fail(
                    f"`{param.name}` of `{value.callee.name}` is a number of {param.dtype}, got "
                    f"{show_type(type_)}",
                    value,
                )
            number = scalar_of(given)
            if number is not None:
                known[param] = number
                self.known_symbols(number, value)
            elif param in sizes:
                self.fail(
                    f"`{param.name}` of `{value.callee.name}` is in the shape of a buffer: it must "
                    "be a number or an expression of dimensions",
                    value,
                )
        return known

    def known_symbols(self, dim: Expr, at: Node) -> None:
        for var in free_vars(dim):
            if var not in self.symbols:
                self.fail(
                    f"symbol `{var.name}` is in no shape of a parameter, and nothing binds it", at
                )

    def tuple_item(self, value: TupleGetItem) -> None:
        self.atom(value.value)
        type_ = value.value.type
        if not isinstance(type_, TupleType) or not 0 <= value.index < len(type_.fields):
            self.fail(f"{show_type(type_)} has no field {value.index}", value)

    def conditional(self, value: If) -> None:
        self.atom(value.condition)
        type_ = value.condition.type
        if not (isinstance(type_, TensorType) and type_.ndim == 0 and type_.dtype.is_bool):
            self.fail(f"the condition is {show_type(type_)}, expected a scalar bool", value)
        for branch in (value.then, value.otherwise):
            self.branch(branch)
            self.expect(value, branch.result.type, "a branch")

    def loop(self, value: Loop) -> None:
        for item, dtype in ((value.limit, "int64"), (value.condition, "bool")):
            if item is not None:
                self.atom(item)
                self.scalar_of(item, dtype)
        self.atoms_of((*value.carried, *value.captured))
        self.known_symbols(value.bound, value)
        func = self.callee(value)
        if func is None:
            return
        if not isinstance(func, Function):
            self.fail(f"`{value.body.name}` is no graph function", value)
        count = TensorType((), INT64)
        carried = [item.type for item in value.carried]
        captured = [item.type for item in value.captured]
        name = value.body.name
        given = [count, *carried, *captured]
        if value.history and isinstance(value.type, TupleType):
            given += value.type.fields[1 + len(carried) :]
        result = self.result_of(value, func, name, given)
        fields = result.fields if isinstance(result, TupleType) else ()
        kept = [TensorType((), BOOL), *carried]
        if len(fields) < len(kept) or not all(map(same_type, fields, kept)):
            self.fail(
                f"`{name}` gives {show_type(result)}, expected a tuple that begins with "
                f"{', '.join(map(show_type, kept))}",
                value,
            )
        rows = [
            TensorType((value.bound, *item.shape), item.dtype)
            for item in fields[len(kept) :]
            if isinstance(item, TensorType)
        ]
        self.expect(value, TupleType((count, *carried, *rows)), f"`{name}`")

    def bind_dim(self, value: BindDim) -> None:
        self.atom(value.value)
        self.scalar_of(value.value, "int64")
        self.known_symbols(value.bound, value)
        if value.symbol in self.symbols:
            self.fail(f"dimension `{value.symbol}` is bound twice", value)
        self.symbols.add(value.symbol)

    def scalar_of(self, value: GraphExpr, dtype: str) -> None:
        if not same_type(value.type, TensorType((), DType.of(dtype))):
            self.fail(f"got {show_type(value.type)}, expected a scalar of {dtype}", value)

    def branch(self, branch: Branch) -> None:
        outer, at = set(self.scope), self.at
        for binding in branch.bindings:
            self.binding(binding)
        self.at = at
        self.result(branch.result)
        self.scope = outer


_CHECKS: Mapping[type[Node], Callable[[_Verifier, Any], None]] = {
    Call: _Verifier.call,
    CallDPS: _Verifier.call_dps,
    Tuple: _Verifier.atoms,
    TupleGetItem: _Verifier.tuple_item,
    If: _Verifier.conditional,
    Match: _Verifier.match,
    Closure: _Verifier.closure,
    Construct: _Verifier.construct,
    Loop: _Verifier.loop,
    BindDim: _Verifier.bind_dim,
    Var: _Verifier.atom,
    Constant: lambda _verifier, _value: None,
}


def _gaps(buffer: Buffer) -> str:
    """What of a buffer's layout no value of the graph has."""
    strides = "" if buffer.strides is None else f", strides {show_shape(buffer.strides)}"
    offset = buffer.elem_offset
    return strides if offset is None else f"{strides}, elem_offset {show_dim(offset)}"


def _shape(type_: Type) -> Sequence[Expr]:
    return type_.shape if isinstance(type_, TensorType) else ()


def _dims(type_: Type) -> list[Expr]:
    if isinstance(type_, TupleType):
        return [dim for field in type_.fields for dim in _dims(field)]
    return list(_shape(type_))


def _with_symbols(type_: Type, symbols: dict[Any, Expr]) -> Type:
    if isinstance(type_, TupleType):
        return TupleType(tuple(_with_symbols(field, symbols) for field in type_.fields))
    if isinstance(type_, TensorType):
        dims = tuple(simplify_dim(substitute(dim, symbols)) for dim in type_.shape)
        return TensorType(dims, type_.dtype)
    return type_
