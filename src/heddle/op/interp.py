# SPDX-License-Identifier: Apache-2.0
"""The reference interpreter of the graph level: every operator by its numpy rule.

    out = interpret(module, {"x": x})                     # or a list, in order of the parameters
    interpret(func, [x], on_value=lambda name, value: ...)   # layer by layer

Loop functions run in `heddle.tir.interp`, so a module can be interpreted at every stage of the
compiler. Slow and simple: it is what compiled code is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from heddle.graph.data import declaration
from heddle.graph.dims import show_shape
from heddle.graph.dps import arguments_of, output_types
from heddle.graph.nodes import (
    BindDim,
    Binding,
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
    INT32,
    DataType,
    DType,
    ExternFunc,
    GlobalVar,
    IRModule,
    Node,
    TensorType,
    TupleType,
    Type,
    free_vars,
)
from heddle.ir.expr import Expr
from heddle.ir.expr import Var as Symbol
from heddle.runtime.data import Value as DataValue
from heddle.support import InternalError, UserError
from heddle.tir import interp as tir_interp
from heddle.tir.externs import Externs, call_c
from heddle.tir.nodes import PrimFunc

Value: TypeAlias = "np.ndarray | DataValue | tuple[Value, ...]"
Watcher = Callable[[str, Value], None]


def interpret(
    program: IRModule | Function,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    function: str = "main",
    on_value: Watcher | None = None,
    externs: Externs | None = None,
) -> Value:
    """The result of a graph function: an array, or a tuple of results.

    inputs: arrays in order of the parameters, or by name. on_value: called with the name and the
    value of each binding of `function` as it is computed. externs: the C functions that are called,
    a table of Python functions by symbol or a loaded library (see `heddle.tir.externs`).

    Raises `UserError` when inputs are missing, unknown or of the wrong dtype or shape.
    """
    module = program if isinstance(program, IRModule) else IRModule({function: program})
    func = module[function]
    if not isinstance(func, Function):
        raise UserError(f"`{function}` is no graph function")
    return _Interpreter(module, on_value, externs).call(func, _in_order(func, inputs))


def _in_order(func: Function, inputs: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    names = [param.name for param in func.params]
    if isinstance(inputs, Mapping):
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name not in names]
        if missing or unknown:
            raise UserError(f"inputs are {names}; missing {missing}, unknown {unknown}")
        return [inputs[name] for name in names]
    if len(inputs) != len(names):
        raise UserError(f"expected {len(names)} inputs {names}, got {len(inputs)}")
    return list(inputs)


class _Interpreter:
    def __init__(self, module: IRModule, on_value: Watcher | None, externs: Externs | None) -> None:
        self.module = module
        self.on_value = on_value
        self.externs = externs

    def call(
        self, func: Function, inputs: Sequence[Value], symbols: Mapping[Any, Any] | None = None
    ) -> Value:
        frame = _Frame(self)
        handed: Any = func.attrs.get("symbols", ())
        frame.symbols.update((name, (symbols or {})[name]) for name in handed)
        for param, value in zip(func.params, inputs, strict=True):
            frame.bind_param(param, value)
        frame.check_params(func)
        frame.run(func.bindings)
        return frame.value(func.result)

    def nested(self) -> _Interpreter:
        """An interpreter that does not report values: those of called functions are inner."""
        return _Interpreter(self.module, None, self.externs)


class _Frame:
    """The variables of one call of a graph function."""

    def __init__(self, interpreter: _Interpreter) -> None:
        self.interpreter = interpreter
        self.values: dict[Var, Value] = {}
        self.symbols: dict[Any, Any] = {}

    def bind_param(self, param: Var, value: Any) -> None:
        if isinstance(param.type, TensorType):
            array = np.asarray(value)
            if DType.of(array.dtype) is not param.type.dtype or array.ndim != param.type.ndim:
                raise UserError(
                    f"input `{param.name}` is {array.dtype} of shape {array.shape}, expected "
                    f"{param.type.dtype} of shape {show_shape(param.type.shape)}"
                )
            for dim, size in zip(param.type.shape, array.shape, strict=True):
                if isinstance(dim, Symbol):
                    self.symbols.setdefault(dim, size)
            value = array
        elif isinstance(param.type, DataType):
            expected = declaration(param.type)
            if not isinstance(value, DataValue) or value.adt != expected:
                kind = value.adt if isinstance(value, DataValue) else type(value).__name__
                raise UserError(f"input `{param.name}` is {kind}, expected {expected}")
        self.values[param] = value

    def check_params(self, func: Function) -> None:
        for param in func.params:
            value = self.values[param]
            if not isinstance(param.type, TensorType) or not isinstance(value, np.ndarray):
                continue
            for axis, dim in enumerate(param.type.shape):
                bound = all(var in self.symbols for var in free_vars(dim))
                if bound and self.dim(dim) != value.shape[axis]:
                    raise UserError(
                        f"input `{param.name}`: dimension {axis} is {value.shape[axis]}, expected "
                        f"{self.dim(dim)}"
                    )

    def dim(self, dim: Expr) -> int:
        return int(tir_interp.evaluate(dim)(self.symbols))

    def run(self, bindings: Sequence[Binding]) -> None:
        for binding in bindings:
            value = self.value(binding.value)
            self.values[binding.var] = value
            if self.interpreter.on_value is not None:
                self.interpreter.on_value(binding.var.name, value)

    def value(self, node: GraphExpr) -> Value:
        found = _EVALUATE.get(type(node))
        if found is None:
            raise InternalError(f"the interpreter knows no {type(node).__name__}")
        return found(self, node)

    # -- one method per kind of value --------------------------------------------------------

    def variable(self, node: Var) -> Value:
        if node not in self.values:
            raise InternalError(f"variable `{node.name}` is used before it is bound")
        return self.values[node]

    def call(self, node: Call) -> Value:
        args = [self.value(arg) for arg in node.args]
        if isinstance(node.callee, GlobalVar):
            func = self.interpreter.module[node.callee.name]
            if not isinstance(func, Function):
                raise InternalError(f"`{node.callee.name}` is no graph function")
            return self.interpreter.nested().call(func, args, self.symbols)
        if isinstance(node.callee, Var):
            held: Any = self.value(node.callee)
            return self.interpreter.nested().call(held[0], [*args, *held[1]], self.symbols)
        attrs = {name: self.attribute(value) for name, value in node.attrs.items()}
        result: Value = node.callee.evaluate(args, attrs)
        return result

    def attribute(self, value: Any) -> Any:
        """An attribute with its symbols replaced by their values."""
        if isinstance(value, tuple):
            return tuple(self.attribute(item) for item in value)
        return self.dim(value) if isinstance(value, Expr) else value

    def call_dps(self, node: CallDPS) -> Value:
        name = node.callee.name
        func = self.interpreter.module[name]
        outputs = [self.empty(field) for field in output_types(node)]
        if isinstance(func, ExternFunc):
            self.call_extern(func, node, outputs)
        elif isinstance(func, PrimFunc):
            pairs = arguments_of(node, func)
            if pairs is None:
                raise UserError(
                    f"`{name}` has {len(func.params)} parameters, the call is for others"
                )
            made = iter(outputs)
            given: list[Any] = [
                self.value(item) if isinstance(item, GraphExpr) else next(made) for _, item in pairs
            ]
            tir_interp.run(func, *given, externs=self.interpreter.externs)
        else:
            raise UserError(f"the interpreter cannot call `{name}`: no loop function")
        return tuple(outputs) if isinstance(node.type, TupleType) else outputs[0]

    def call_extern(self, func: ExternFunc, node: CallDPS, outputs: list[np.ndarray]) -> None:
        """A C function: the tensors, the outputs, then the numbers."""
        numbers = [self.value(arg) for arg in node.args if isinstance(arg, Scalar)]
        tensors = [self.value(arg) for arg in node.args if not isinstance(arg, Scalar)]
        arguments = [*map(np.ascontiguousarray, tensors), *outputs, *numbers]
        status = call_c(self.interpreter.externs, func.symbol, arguments, INT32)
        if status not in (None, 0):
            raise UserError(f"interp: the C function `{func.symbol}` failed: it returned {status}")

    def scalar(self, node: Scalar) -> Value:
        """A number, as the dtype that it has."""
        value: Value = tir_interp.evaluate(node.value)(self.symbols)
        return value

    def empty(self, type_: Type) -> np.ndarray:
        if not isinstance(type_, TensorType):
            raise InternalError(f"an output of a loop function is a {type(type_).__name__}")
        return np.empty([self.dim(dim) for dim in type_.shape], type_.dtype.numpy)

    def tuple(self, node: Tuple) -> Value:
        return tuple(self.value(item) for item in node.fields)

    def tuple_item(self, node: TupleGetItem) -> Value:
        whole: Any = self.value(node.value)
        return whole[node.index]  # type: ignore[no-any-return]

    def conditional(self, node: If) -> Value:
        branch = node.then if bool(self.value(node.condition)) else node.otherwise
        self.run(branch.bindings)
        return self.value(branch.result)

    def match(self, node: Match) -> Value:
        found: Any = self.value(node.value)
        for arm in node.arms:
            if arm.constructor in (found.constructor, "_"):
                if arm.fields:
                    self.values.update(zip(arm.fields, found.fields, strict=True))
                self.run(arm.body.bindings)
                return self.value(arm.body.result)
        raise UserError(f"`match` has no arm for {found.constructor}", span=node.span)

    def construct(self, node: Construct) -> Value:
        if not isinstance(node.type, DataType):
            raise InternalError(f"{node.constructor} makes no value of a data type")
        fields = [self.value(item) for item in node.fields]
        return DataValue(declaration(node.type), node.constructor, fields)

    def closure(self, node: Closure) -> Value:
        """The function, and what it captures."""
        func: Any = self.interpreter.module[node.function.name]
        return func, tuple(self.value(item) for item in node.captured)

    def loop(self, node: Loop) -> Value:
        body = self.interpreter.module[node.body.name]
        if not isinstance(body, Function):
            raise InternalError(f"`{node.body.name}` is no graph function")
        limit = None if node.limit is None else self.integer(node.limit)
        going = node.condition is None or bool(self.value(node.condition))
        state = [self.value(item) for item in node.carried]
        captured = [self.value(item) for item in node.captured]
        bound, count = self.dim(node.bound), 0
        fields = node.type.fields if isinstance(node.type, TupleType) else ()
        stacked = [self.empty(field) for field in fields[1 + len(state) :]]
        while going and (limit is None or count < limit):
            if stacked and count == bound:
                raise UserError(f"the loop over `{node.body.name}` ran more than {bound} times")
            arguments = [np.asarray(count, np.int64), *state, *captured]
            if node.history:
                arguments += stacked
            results: Any = self.interpreter.nested().call(body, arguments, self.symbols)
            going = node.condition is None or bool(results[0])
            state = list(results[1 : 1 + len(state)])
            for rows, row in zip(stacked, results[1 + len(state) :], strict=True):
                rows[count] = row
            count += 1
        return (np.asarray(count, np.int64), *state, *stacked)

    def integer(self, node: GraphExpr) -> int:
        value = self.value(node)
        assert isinstance(value, np.ndarray)
        return int(value)

    def bind_dim(self, node: BindDim) -> Value:
        value = self.value(node.value)
        size, bound = self.integer(node.value), self.dim(node.bound)
        if not 0 <= size <= bound:
            name = node.symbol.name  # type: ignore[attr-defined]
            raise UserError(f"dimension `{name}` is {size}, expected 0 to {bound}")
        self.symbols[node.symbol] = size
        return value


_EVALUATE: Mapping[type[Node], Callable[[_Frame, Any], Value]] = {
    Var: _Frame.variable,
    Constant: lambda _frame, node: node.data,
    Scalar: _Frame.scalar,
    Call: _Frame.call,
    CallDPS: _Frame.call_dps,
    Tuple: _Frame.tuple,
    TupleGetItem: _Frame.tuple_item,
    If: _Frame.conditional,
    Match: _Frame.match,
    Closure: _Frame.closure,
    Construct: _Frame.construct,
    Loop: _Frame.loop,
    BindDim: _Frame.bind_dim,
}
