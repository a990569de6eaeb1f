# SPDX-License-Identifier: Apache-2.0
"""Turn primitive graph functions into loop functions.

    main:  z = conv_relu(x, w)                      main:  z = call_dps(conv_relu, (x, w))
    conv_relu(x, w):  y = conv(x, w)         ->     conv_relu: PrimFunc(x, w, z) with blocks
                      return relu(y)                           "conv" and "relu"

Each operator's "compute" rule gives the tensor expressions; scalar constants become immediates.
Loop functions of equal structure become one. Afterwards the bindings of `main` are calls in
destination-passing style, views and tuples, and every result is a value of its own: a result that
is an input, a constant or a second use of another result is copied by a kernel.

An operator that changes a part of a tensor has a second kernel, which writes that part only: the
attribute "update" of the first names it, and which parameter it takes over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heddle import te
from heddle.graph.dims import match_symbols
from heddle.graph.dps import arguments_of, dense_layout
from heddle.graph.nodes import (
    BindDim,
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
from heddle.ir.dtype import DType
from heddle.ir.expr import Add, Div, Expr, Max, Min, Mul, Sub, as_int, const
from heddle.ir.expr import Call as CallIntrinsic
from heddle.ir.expr import Var as Symbol
from heddle.ir.module import BaseFunc, GlobalVar, IRModule
from heddle.ir.node import Node
from heddle.ir.structural import structural_hash
from heddle.ir.types import TensorType, TupleType, Type
from heddle.ir.walk import post_order, rewrite
from heddle.passes.graph.anf import is_function_call, is_primitive, op_name
from heddle.passes.graph.fuse import is_view
from heddle.passes.graph.inplace import inplace_pairs
from heddle.support import InternalError, UserError
from heddle.te.tensor import Reduce, TensorElement
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import Buffer, PrimFunc


@dataclass(frozen=True, slots=True)
class Lower:
    """The pass. in_place: let elementwise kernels write over an input (they then lose the promise
    that their parameters do not overlap, attribute "noalias")."""

    in_place: bool = False

    def __call__(self, module: IRModule) -> IRModule:
        """Turn primitive graph functions into loop functions, equal ones into one."""
        _check_kernels_exist(module)
        lowering = _Lowering(module, self.in_place)
        for name, function in module.functions.items():
            if isinstance(function, Function) and not is_primitive(function):
                lowering.functions[name] = lowering.rewrite(function)
        removed: dict[str, BaseFunc | None] = {
            name: None for name, function in module.functions.items() if is_primitive(function)
        }
        return module.with_functions({**removed, **lowering.functions})


lower: Final = Lower()


def _check_kernels_exist(module: IRModule) -> None:
    """`UserError` that lists all operators of all kernels that cannot be computed."""
    missing: dict[str, list[str]] = {}
    for function in module.functions.values():
        if not isinstance(function, Function) or not is_primitive(function):
            continue
        for binding in function.bindings:
            name = op_name(binding.value)
            if name and not binding.value.callee.has_rule("compute"):  # type: ignore[attr-defined]
                missing.setdefault(name, []).append(binding.var.name)
    if missing:
        lines = [f"op.{name} (for `{'`, `'.join(uses[:3])}`)" for name, uses in missing.items()]
        raise UserError(f"operators that have no kernel yet: {'; '.join(lines)}")


class _Lowering:
    def __init__(self, module: IRModule, in_place: bool) -> None:
        self.module = module
        self.in_place = in_place
        self.functions: dict[str, BaseFunc] = {}
        self.taken = {name for name in module if not is_primitive(module[name])}
        self.by_structure: dict[str, GlobalVar] = {}
        self.by_primitive: dict[str, tuple[GlobalVar, tuple[Expr, ...]]] = {}

    # -- main --------------------------------------------------------------------------------

    def rewrite(self, function: Function) -> Function:
        """`function` with calls of loop functions, and results that are values of their own."""
        bindings = [self._binding(binding) for binding in function.bindings]
        fields, wrap = _result_fields(function.result)
        owners = {
            binding.var: binding.value for binding in bindings if not _is_kernel(binding.value)
        }
        used: set[GraphExpr] = set()
        results = []
        for item in fields:
            root = _root(item, owners)
            if root in used or root in function.params or isinstance(root, Constant):
                copied = self._copy(item)
                bindings.append(copied)
                item = root = copied.var
            used.add(root)
            results.append(item)
        result = Tuple(tuple(results)) if wrap else results[0]
        unchanged = all(new is old for new, old in zip(results, fields, strict=True))
        lowered: Function = function.replace(
            bindings=tuple(bindings), result=function.result if unchanged else result
        )
        return lowered

    def _binding(self, binding: Binding) -> Binding:
        value = binding.value
        if isinstance(value, Call) and isinstance(value.callee, GlobalVar):
            callee = self.module.functions.get(value.callee.name)
            if not isinstance(callee, Function):
                raise UserError(
                    f"`{value.callee.name}` is called, but is no graph function", span=value.span
                )
            if not is_primitive(callee):
                return binding
            kernel, symbols = self._kernel(value.callee.name, callee)
            attrs = {**value.attrs, "symbols": symbols}
            lowered = CallDPS(kernel, value.args, value.type, attrs, span=value.span)  # type: ignore[call-arg]
            return Binding(lowered, binding.var, span=binding.span)  # type: ignore[call-arg]
        if isinstance(value, CallDPS):
            return binding.replace(value=self._with_symbols(value))  # type: ignore[no-any-return]
        if op_name(value) and not is_view(value):
            raise InternalError(f"op.{op_name(value)} in `main` outside of a kernel")
        return binding

    def _with_symbols(self, call: CallDPS) -> CallDPS:
        """A call of a loop function, with the values of the callee's symbolic dimensions."""
        callee = self.module.functions.get(call.callee.name)
        if not isinstance(callee, PrimFunc) or "symbols" in call.attrs:
            return call
        known: dict[Symbol, Expr] = {}
        for param, given in arguments_of(call, callee) or ():
            type_ = given if isinstance(given, Type) else given.type
            if isinstance(param, Buffer) and isinstance(type_, TensorType):
                found = match_symbols([param.layout], [dense_layout(param, type_)])
                known = {**found, **known}
        symbols = shape_symbols(callee)
        for symbol in symbols:
            if symbol not in known:
                raise UserError(
                    f"nothing tells the value of `{symbol.name}` of `{call.callee.name}`",
                    span=call.span,
                )
        values = tuple(known[symbol] for symbol in symbols)
        made: CallDPS = call.replace(attrs={**call.attrs, "symbols": values})
        return made

    def _kernel(self, name: str, function: Function) -> tuple[GlobalVar, tuple[Expr, ...]]:
        found = self.by_primitive.get(name)
        if found is None:
            func = lower_primitive(function)
            source = updated_parameter(function) if self.in_place else None
            if source is not None:
                part, _ = self._register(f"{name}_in_place", lower_primitive(function, "update"))
                func = func.replace(attrs={**func.attrs, "update": (source, part.name)})
            found = self.by_primitive[name] = self._register(name, func)
        return found

    def _register(self, name: str, func: PrimFunc) -> tuple[GlobalVar, tuple[Expr, ...]]:
        """The kernel equal to `func` (added under `name` if new) and `func`'s own symbols."""
        symbols: tuple[Expr, ...] = tuple(shape_symbols(func))
        if self.in_place and func.attrs.get("inplace"):
            func = func.replace(attrs={**func.attrs, "noalias": False})
        key = structural_hash(func)
        if key not in self.by_structure:
            unique, count = name, 0
            while unique in self.taken:
                count += 1
                unique = f"{name}_{count}"
            self.taken.add(unique)
            self.functions[unique] = func.replace(attrs={**func.attrs, "name": unique})
            self.by_structure[key] = GlobalVar(unique)
        return self.by_structure[key], symbols

    def _copy(self, value: GraphExpr) -> Binding:
        assert isinstance(value.type, TensorType)
        source = te.placeholder(value.type.shape, value.type.dtype, name="x")
        func = te.create_prim_func([source, _copy_of(source)], name="kernel")
        func = func.replace(attrs={**func.attrs, "copy": True, "inplace": ((0, 1),)})
        kernel, symbols = self._register("copy", func)
        stem = value.name if isinstance(value, Var) else "result"
        var = Var(f"{stem}_copy", value.type, span=value.span)  # type: ignore[call-arg]
        attrs = {"label": var.name, "symbols": symbols}
        return Binding(CallDPS(kernel, (value,), value.type, attrs), var)


def _result_fields(result: GraphExpr) -> tuple[tuple[GraphExpr, ...], bool]:
    return (result.fields, True) if isinstance(result, Tuple) else ((result,), False)


def _is_kernel(value: GraphExpr) -> bool:
    """Whether the results are memory of their own."""
    return isinstance(value, (CallDPS, If, Loop)) or is_function_call(value)


def _root(value: GraphExpr, owners: Mapping[Var, GraphExpr]) -> GraphExpr:
    """The variable or constant whose memory `value` is: views, tuples and aliases looked through.
    Fields of a kernel's tuple are memory of their own."""
    while isinstance(value, Var) and value in owners:
        definition = owners[value]
        if is_view(definition):
            assert isinstance(definition, Call)
            value = definition.args[0]
        elif isinstance(definition, TupleGetItem):
            source = definition.value
            inner = owners.get(source) if isinstance(source, Var) else source
            if not isinstance(inner, Tuple):
                return value
            value = inner.fields[definition.index]
        elif isinstance(definition, BindDim):
            value = definition.value
        else:
            value = definition
    return value


# -- one kernel -----------------------------------------------------------------------------------


def updated_parameter(function: Function) -> int | None:
    """The parameter of a kernel that its result is, but for a part that is written: it is one
    operator with a rule "update"; else None."""
    if len(function.bindings) != 1:
        return None
    (binding,) = function.bindings
    value = binding.value
    if not op_name(value) or not value.callee.has_rule("update"):  # type: ignore[attr-defined]
        return None
    source, *others = value.args  # type: ignore[attr-defined]
    if any(item is source for item in others):
        return None  # what is written would be read again
    return function.params.index(source) if source in function.params else None


def lower_primitive(function: Function, rule: str = "compute") -> PrimFunc:
    """The loop function of one kernel: parameters are those of `function`, then its results. rule:
    "update" for the form of `updated_parameter` that writes a part only.

    Attributes: "flops" (arithmetic on floats), "bytes" (sizes of all parameters), both integers or
    expressions of the symbols; "inplace": pairs (input, output) of parameter positions which may
    be the same memory.
    """
    tensors: dict[GraphExpr, tuple[te.Tensor, ...]] = {}
    params = []
    for position, param in enumerate(function.params):
        if not isinstance(param.type, TensorType):
            raise UserError(f"kernel parameter `{param.name}` is a tuple", span=param.span)
        tensor = te.placeholder(param.type.shape, param.type.dtype, name=f"p{position}")
        params.append(tensor)
        tensors[param] = (tensor,)
    immediates: dict[te.Tensor, Expr] = {}
    for binding in function.bindings:
        tensors[binding.var] = _lower_value(binding.value, tensors, immediates, rule)
    outputs = [t for item in _result_fields(function.result)[0] for t in tensors[item]]
    outputs = _inline_immediates(outputs, immediates)
    outputs = [
        _copy_of(tensor) if tensor.is_placeholder or tensor in outputs[:at] else tensor
        for at, tensor in enumerate(outputs)
    ]
    _check_types(function, outputs)
    func = te.create_prim_func([*params, *outputs], name="kernel")
    attrs: dict[str, object] = {"flops": _flops(outputs), "bytes": _bytes([*params, *outputs])}
    pairs = inplace_pairs(func, len(params))
    if pairs:
        attrs["inplace"] = pairs
    result: PrimFunc = func.replace(attrs={**func.attrs, **attrs})
    return result


def _lower_value(
    value: GraphExpr,
    tensors: Mapping[GraphExpr, tuple[te.Tensor, ...]],
    immediates: dict[te.Tensor, Expr],
    rule: str,
) -> tuple[te.Tensor, ...]:
    if isinstance(value, TupleGetItem):
        return (tensors[value.value][value.index],)
    if not op_name(value):
        raise InternalError(f"a kernel holds a {type(value).__name__}")
    assert isinstance(value, Call)
    args = []
    for item in value.args:
        if isinstance(item, Constant):
            args.append(_scalar(item, immediates, read_in_place=value.callee.kind == "opaque"))
        else:
            args.extend(tensors[item])
    result: tuple[te.Tensor, ...] = value.callee.compute(args, value.attrs, rule=rule)
    return result


def _scalar(
    constant: Constant, immediates: dict[te.Tensor, Expr], *, read_in_place: bool
) -> te.Tensor:
    """A placeholder that stands for a constant of one element until it becomes an immediate; a
    tensor that is computed for operators whose statements read their arguments from memory."""
    if constant.data.size != 1:
        raise InternalError(f"a kernel holds a constant of shape {constant.data.shape}")
    shape, dtype = constant.data.shape, DType.of(constant.data.dtype)
    number = constant.data.reshape(-1)[0]
    value = const(float(number) if dtype.is_float else int(number), dtype)
    if read_in_place:
        return te.compute(shape, lambda *i: value, name="constant")
    tensor = te.placeholder(shape, dtype, name="constant")
    immediates[tensor] = value
    return tensor


def _copy_of(source: te.Tensor) -> te.Tensor:
    return te.compute(source.shape, lambda *i: source[i], name="copy")


def _inline_immediates(
    outputs: Sequence[te.Tensor], immediates: Mapping[te.Tensor, Expr]
) -> list[te.Tensor]:
    """The tensors with every element of the placeholders in `immediates` replaced by its value."""
    made: dict[te.Tensor, te.Tensor] = {}

    def to_value(element: TensorElement) -> Expr:
        found = immediates.get(element.tensor)
        if found is not None:
            return found
        new = made[element.tensor]
        return element if new is element.tensor else TensorElement(new, element.indices)

    for tensor in _reachable(outputs):
        if tensor in immediates:
            value = immediates[tensor]
            made[tensor] = te.compute(tensor.shape, lambda *i, value=value: value, name="constant")
        elif tensor.body is None:
            made[tensor] = tensor
        else:
            body = rewrite(tensor.body, {TensorElement: to_value})
            same = body is tensor.body
            made[tensor] = (
                tensor
                if same
                else te.Tensor(tensor.shape, tensor.dtype, tensor.name, tensor.axis, body)
            )
    return [made[tensor] for tensor in outputs]


def _reachable(outputs: Sequence[te.Tensor]) -> list[te.Tensor]:
    """All tensors that `outputs` are computed from, sources first."""
    order: dict[te.Tensor, None] = {}
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, expanded = stack.pop()
        if tensor in order:
            continue
        if expanded or tensor.body is None:
            order[tensor] = None
            continue
        stack.append((tensor, True))
        found = [e.tensor for e in post_order(tensor.body) if isinstance(e, TensorElement)]
        stack.extend((source, False) for source in reversed(found))
    return list(order)


def _check_types(function: Function, outputs: Sequence[te.Tensor]) -> None:
    result = function.result.type
    types = result.fields if isinstance(result, TupleType) else (result,)
    for expected, tensor in zip(types, outputs, strict=True):
        assert isinstance(expected, TensorType)
        shape = tuple(as_int(dim) for dim in tensor.shape)
        wanted = tuple(as_int(dim) for dim in expected.shape)
        if (
            tensor.dtype is not expected.dtype
            or len(shape) != len(wanted)
            or any(
                a is not None and b is not None and a != b
                for a, b in zip(shape, wanted, strict=True)
            )
        ):
            ops = ", ".join(op_name(binding.value) for binding in function.bindings)
            raise InternalError(
                f"kernel of {ops}: the computation gives {tensor.dtype} {shape}, "
                f"the inferred type is {expected.dtype} {wanted}"
            )


def _product(dims: Sequence[Expr]) -> Expr:
    total: Expr = const(1)
    for dim in dims:
        total = total * dim
    return total


def _attribute(value: Expr) -> object:
    """An integer where the value is known, so that attributes stay plain."""
    number = as_int(value)
    return value if number is None else number


def _bytes(tensors: Sequence[te.Tensor]) -> object:
    total: Expr = const(0)
    for tensor in tensors:
        total = total + _product(tensor.shape) * tensor.dtype.nbytes
    return _attribute(total)


def _flops(outputs: Sequence[te.Tensor]) -> object:
    total: Expr = const(0)
    for tensor in _reachable(outputs):
        if tensor.body is None or not tensor.dtype.is_float:
            continue
        body = tensor.body
        source = body.source if isinstance(body, Reduce) else body
        count = _operations(source)
        domain = _product(tensor.shape)
        if isinstance(body, Reduce):
            domain = domain * _product([axis.extent for axis in body.axes])
            count += 1
        total = total + domain * count
    return _attribute(total)


def _operations(root: Expr) -> int:
    """Arithmetic on floats in an expression; of a conditional one, in its longer side."""
    total = 0
    seen: set[Node] = set()
    stack: list[Expr] = [root]
    while stack:
        item = stack.pop()
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, CallIntrinsic) and item.name == "if_then_else":
            total += max(map(_operations, item.args[1:]))
            continue
        total += isinstance(item, _ARITHMETIC) and item.dtype.is_float
        stack.extend(child for child in item.children() if isinstance(child, Expr))
    return total


_ARITHMETIC: Final = (Add, Sub, Mul, Div, Min, Max, CallIntrinsic)
