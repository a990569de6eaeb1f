# SPDX-License-Identifier: Apache-2.0
"""A reference interpreter of loop-level functions on numpy arrays: slow, exact, bounds-checked.

It is what tests compare schedules, lowering passes and generated code with. Every loop kind runs
in order; blocks run their predicate and `init`; vector expressions are numpy vectors. Every access
is checked against the shape of its buffer, and intermediate buffers start as NaN (integers: the
largest value), so that a read of what nobody wrote shows.

    >>> run(func, a, b, out)                                # doctest: +SKIP
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from heddle.ir import expr as ir
from heddle.ir.dtype import INT64, DType
from heddle.ir.expr import Expr, Var
from heddle.support import InternalError, UserError
from heddle.tir.externs import Externs, call_c
from heddle.tir.intrin import LLVM_REFERENCES
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    For,
    IfThenElse,
    IterKind,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)
from heddle.tir.predicate import guards

Value = Any
Env = dict[Any, Any]
"""Variables to their values and buffers to their arrays."""
Evaluator = Callable[[Env], Value]


def run(
    func: PrimFunc, *arguments: np.ndarray | int | float, externs: Externs | None = None
) -> None:
    """Run `func` on `arguments` (arrays for buffers, numbers for scalars, in parameter order).

    Outputs are written in place. Symbolic dimensions take their values from the arrays' shapes.
    externs: the C functions that it calls, see `heddle.tir.externs`.
    Raises `UserError` for wrong arguments, accesses out of bounds and failed assertions.
    """
    if len(arguments) != len(func.params):
        raise UserError(f"interp: {len(func.params)} parameters, got {len(arguments)} arguments")
    env: Env = {_EXTERNS: externs}
    for param, argument in zip(func.params, arguments, strict=True):
        if isinstance(param, Buffer):
            _bind_array(env, param, argument)
        else:
            env[param] = _scalar(param.dtype, argument)  # type: ignore[attr-defined]
    for param in func.params:
        if isinstance(param, Buffer):
            _check_shape(env, param)
    with np.errstate(all="ignore"):
        execute(func.body)(env)


def _bind_array(env: Env, buffer: Buffer, array: Any) -> None:
    if not isinstance(array, np.ndarray) or array.ndim != buffer.ndim:
        raise UserError(f"interp: `{buffer.name}` needs an array of {buffer.ndim} dimensions")
    if array.dtype != buffer.dtype.numpy:
        raise UserError(f"interp: `{buffer.name}` is {buffer.dtype}, got {array.dtype}")
    env[buffer] = array
    for dim, size in zip(buffer.shape, array.shape, strict=True):
        if isinstance(dim, Var):
            env.setdefault(dim, size)
    for dim, step in zip(buffer.strides or (), array.strides, strict=False):
        if isinstance(dim, Var):
            env.setdefault(dim, step // array.itemsize)
    if isinstance(buffer.elem_offset, Var):
        env.setdefault(buffer.elem_offset, 0)


def _check_shape(env: Env, buffer: Buffer) -> None:
    expected = _shape(env, buffer)
    if env[buffer].shape != expected:
        raise UserError(
            f"interp: `{buffer.name}` must have shape {expected}, got {env[buffer].shape}"
        )


def _shape(env: Env, buffer: Buffer) -> tuple[int, ...]:
    return tuple(int(evaluate(dim)(env)) for dim in buffer.shape)


def _scalar(dtype: DType, value: Any) -> Value:
    """A constant of `dtype`; int64 is a Python integer, so that indices are quick."""
    if dtype is INT64:
        return int(value)
    return bool(value) if dtype.is_bool else dtype.numpy.type(value)


_EXTERNS: Final = "externs"
"""The key of an environment under which the C functions are kept."""

_MASK: Final = "mask"
"""The key of an environment under which the lanes that are on are kept."""


def with_mask(env: Env, lanes: np.ndarray, action: Evaluator) -> Value:
    """`action` with only those of `lanes` on that are on already."""
    outer = env.get(_MASK)
    env[_MASK] = lanes if outer is None else lanes & outer
    try:
        return action(env)
    finally:
        env[_MASK] = outer


# -- statements --------------------------------------------------------------------------------


def execute(stmt: Stmt) -> Callable[[Env], None]:
    """A function that runs `stmt` in an environment."""
    found = _STATEMENTS.get(type(stmt))
    if found is None:
        raise InternalError(f"interp: statement {type(stmt).__name__} is not supported")
    return found(stmt)


def _store(stmt: BufferStore) -> Callable[[Env], None]:
    value, where = evaluate(stmt.value), _address(stmt.buffer, stmt.indices, "store to")

    def run_store(env: Env) -> None:
        place, stored, mask = where(env), value(env), env.get(_MASK)
        if mask is not None and np.ndim(place[-1]):
            stored = np.broadcast_to(stored, mask.shape)[mask]
            place = (*place[:-1], place[-1][mask])
        env[stmt.buffer][place] = stored

    return run_store


def _address(buffer: Buffer, indices: Sequence[Expr], what: str) -> Evaluator:
    parts = [evaluate(index) for index in indices]

    def address(env: Env) -> Value:
        if buffer not in env:
            raise UserError(f"interp: {what} `{buffer.name}`, which is not allocated here")
        place = tuple(part(env) for part in parts)
        shape, mask = env[buffer].shape, env.get(_MASK)
        for index, size in zip(place, shape, strict=True):
            inside = (index >= 0) & (index < size)
            if mask is not None and np.ndim(index):
                inside = inside | ~mask
            if not (inside if isinstance(inside, bool) else np.all(inside)):
                shown = ", ".join(str(part) for part in place)
                raise UserError(
                    f"interp: {what} `{buffer.name}`[{shown}] is out of bounds of the shape {shape}"
                )
        return place

    return address


def _seq(stmt: Seq) -> Callable[[Env], None]:
    parts = [execute(child) for child in stmt.stmts]

    def run_seq(env: Env) -> None:
        for part in parts:
            part(env)

    return run_seq


def _for(stmt: For) -> Callable[[Env], None]:
    low, extent, body = evaluate(stmt.min), evaluate(stmt.extent), execute(stmt.body)

    def run_for(env: Env) -> None:
        start = int(low(env))
        for value in range(start, start + int(extent(env))):
            env[stmt.var] = value
            body(env)

    return run_for


def _block(stmt: Block) -> Callable[[Env], None]:
    predicate, body = [evaluate(part) for part in guards(stmt.predicate)], execute(stmt.body)
    init = None if stmt.init is None else execute(stmt.init)
    iters = [(b, evaluate(b.binding), evaluate(b.extent)) for b in stmt.iters]

    def run_block(env: Env) -> None:
        if not all(holds(env) for holds in predicate):
            return
        first = True
        values = [binding(env) for _, binding, _ in iters]
        for (bound, _, extent), value in zip(iters, values, strict=True):
            if not 0 <= value < extent(env):
                raise UserError(
                    f"interp: block `{stmt.name}`: `{bound.var.name}` is {value}, "
                    f"outside [0, {extent(env)})"
                )
            env[bound.var] = value
            first = first and (bound.kind is not IterKind.REDUCTION or value == 0)
        for buffer in stmt.alloc_buffers:
            env[buffer] = _fresh(env, buffer)
        if init is not None and first:
            init(env)
        body(env)

    return run_block


def _fresh(env: Env, buffer: Buffer) -> np.ndarray:
    dtype = buffer.dtype
    fill = math.nan if dtype.is_float else dtype.max_value
    return np.full(_shape(env, buffer), fill, dtype=dtype.numpy)


def _allocate(stmt: Allocate) -> Callable[[Env], None]:
    body = execute(stmt.body)

    def run_allocate(env: Env) -> None:
        env[stmt.buffer] = _fresh(env, stmt.buffer)
        body(env)
        del env[stmt.buffer]

    return run_allocate


def _if(stmt: IfThenElse) -> Callable[[Env], None]:
    condition, then = evaluate(stmt.condition), execute(stmt.then)
    otherwise = execute(stmt.otherwise) if stmt.otherwise is not None else (lambda env: None)

    def run_if(env: Env) -> None:
        chosen = condition(env)
        if np.ndim(chosen):
            with_mask(env, chosen, then)
            with_mask(env, ~chosen, otherwise)
        else:
            (then if chosen else otherwise)(env)

    return run_if


def _while(stmt: While) -> Callable[[Env], None]:
    condition, body = evaluate(stmt.condition), execute(stmt.body)

    def run_while(env: Env) -> None:
        while condition(env):
            body(env)

    return run_while


def _let_stmt(stmt: LetStmt) -> Callable[[Env], None]:
    value, body = evaluate(stmt.value), execute(stmt.body)

    def run_let(env: Env) -> None:
        env[stmt.var] = value(env)
        body(env)

    return run_let


def _assert(stmt: Assert) -> Callable[[Env], None]:
    condition = evaluate(stmt.condition)

    def run_assert(env: Env) -> None:
        if not condition(env):
            raise UserError(f"interp: assertion failed: {stmt.message}")

    return run_assert


def _evaluate(stmt: Evaluate) -> Callable[[Env], None]:
    value = evaluate(stmt.value)

    def run_evaluate(env: Env) -> None:
        value(env)

    return run_evaluate


_STATEMENTS: Final[dict[type, Callable[[Any], Callable[[Env], None]]]] = {
    BufferStore: _store,
    Seq: _seq,
    For: _for,
    Block: _block,
    Allocate: _allocate,
    IfThenElse: _if,
    While: _while,
    LetStmt: _let_stmt,
    Assert: _assert,
    Evaluate: _evaluate,
}

# -- expressions -------------------------------------------------------------------------------


def evaluate(value: Expr) -> Evaluator:
    """A function that gives the value of an expression in an environment."""
    found = _EXPRESSIONS.get(type(value))
    if found is None:
        raise InternalError(f"interp: expression {type(value).__name__} is not supported")
    return found(value)


def _constant(value: Any) -> Evaluator:
    made = _scalar(value.dtype, value.value)
    return lambda env: made


def _variable(var: Var) -> Evaluator:
    return operator.itemgetter(var)


def _binary(function: Callable[[Any, Any], Any], value: Any) -> Evaluator:
    a, b = evaluate(value.a), evaluate(value.b)
    return lambda env: function(a(env), b(env))


def _floordiv(a: Any, b: Any) -> Any:
    if np.any(np.equal(b, 0)):
        raise UserError("interp: division by zero")
    return a // b


def _floormod(a: Any, b: Any) -> Any:
    if np.any(np.equal(b, 0)):
        raise UserError("interp: remainder of a division by zero")
    return a % b


def _truncdiv(a: Any, b: Any) -> Any:
    quotient = _floordiv(abs(a), abs(b))
    return np.where((a < 0) == (b < 0), quotient, -quotient).astype(np.asarray(a).dtype)[()]


def _minimum(a: Any, b: Any) -> Any:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else np.minimum(a, b)


def _maximum(a: Any, b: Any) -> Any:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


_BINARY: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ir.Add: operator.add,
    ir.Sub: operator.sub,
    ir.Mul: operator.mul,
    ir.Div: lambda a, b: np.divide(a, b),
    ir.FloorDiv: _floordiv,
    ir.FloorMod: _floormod,
    ir.TruncDiv: _truncdiv,
    ir.TruncMod: lambda a, b: a - _truncdiv(a, b) * b,
    ir.Min: _minimum,
    ir.Max: _maximum,
    ir.EQ: operator.eq,
    ir.NE: operator.ne,
    ir.LT: operator.lt,
    ir.LE: operator.le,
    ir.GT: operator.gt,
    ir.GE: operator.ge,
    ir.And: np.logical_and,
    ir.Or: np.logical_or,
}


def _not(value: ir.Not) -> Evaluator:
    a = evaluate(value.a)
    return lambda env: np.logical_not(a(env))


def _select(value: ir.Select) -> Evaluator:
    condition, a, b = evaluate(value.condition), evaluate(value.a), evaluate(value.b)
    if value.dtype.lanes == 1:
        return lambda env: a(env) if condition(env) else b(env)
    return lambda env: np.where(condition(env), a(env), b(env))


def _cast(value: ir.Cast) -> Evaluator:
    source, dtype = evaluate(value.value), value.dtype.element
    return lambda env: convert(source(env), dtype)


def convert(value: Any, dtype: DType) -> Any:
    """`value` (a number or a vector) as `dtype`: floats to integers saturate, NaN becomes 0."""
    array = np.asarray(value)
    if dtype.is_bool:
        return (array != 0)[()]
    if dtype.is_int and array.dtype.kind not in "iub":
        wide = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        low, high = dtype.min_value, dtype.max_value
        inside = np.clip(np.trunc(wide), float(low), float(high))
        # The largest 64-bit integers are no float64: those lanes are set, not converted.
        safe = np.where(inside >= float(high), 0.0, inside).astype(dtype.numpy)
        return np.where(inside >= float(high), np.array(high, dtype.numpy), safe)[()]
    made = array.astype(dtype.numpy)[()]
    return int(made) if dtype is INT64 and array.ndim == 0 else made


def _load(value: BufferLoad) -> Evaluator:
    where = _address(value.buffer, value.indices, "load of")
    buffer = value.buffer

    def run_load(env: Env) -> Value:
        place = where(env)
        if env.get(_MASK) is not None and np.ndim(place[-1]):
            # Lanes that are off load nothing; any element will do for them.
            place = (*place[:-1], np.where(env[_MASK], place[-1], 0))
        return env[buffer][place]

    return run_load


def _let(value: ir.Let) -> Evaluator:
    bound, body = evaluate(value.value), evaluate(value.body)

    def run_let(env: Env) -> Value:
        env[value.var] = bound(env)
        return body(env)

    return run_let


def _ramp(value: ir.Ramp) -> Evaluator:
    base, stride = evaluate(value.base), evaluate(value.stride)
    return lambda env: base(env) + stride(env) * np.arange(value.lanes)


def _broadcast(value: ir.Broadcast) -> Evaluator:
    source, lanes = evaluate(value.value), value.lanes
    return lambda env: np.full(lanes, source(env))


def _float_wise(function: Callable[[float], float]) -> Callable[[Any], Any]:
    vector = np.vectorize(function, otypes=[np.float64])
    return lambda x: vector(np.asarray(x, np.float64))


def _exp_normal(x: Any) -> Any:
    value = np.exp(x)
    return np.where(value < np.finfo(value.dtype).tiny, value.dtype.type(0), value)


def _popcount(x: Any) -> Any:
    bits = np.asarray(x).dtype.itemsize * 8
    return np.vectorize(lambda item: (int(item) & ((1 << bits) - 1)).bit_count())(x)


_INTRINSICS: Final[dict[str, Callable[..., Any]]] = {
    **{
        name: getattr(np, name)
        for name in (
            "exp exp2 log log2 log1p expm1 sqrt sin cos tan sinh cosh tanh fabs floor ceil "
            "trunc isnan isinf fmod bitwise_and bitwise_or bitwise_xor"
        ).split()
    },
    **{f"a{name}": getattr(np, f"arc{name}") for name in "sin cos tan sinh cosh tanh".split()},
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp_normal": _exp_normal,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "erf": _float_wise(math.erf),
    "round": np.rint,
    "popcount": _popcount,
    "bitwise_not": np.invert,
    "pow": np.power,
    "atan2": np.arctan2,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
    "fma": lambda a, b, c: np.asarray(a, np.float64) * b + c,
    "vector_reduce_sum": np.sum,
    "vector_reduce_prod": np.prod,
    "vector_reduce_max": np.max,
    "vector_reduce_min": np.min,
}


def _lane_choice(condition: Evaluator, a: Evaluator, b: Evaluator, env: Env) -> Value:
    lanes = condition(env)
    return np.where(lanes, with_mask(env, lanes, a), with_mask(env, ~lanes, b))


def _call(value: ir.Call) -> Evaluator:
    if value.name == "prefetch":  # a hint; its place may lie outside the buffer
        return lambda env: 0
    if value.name == "address_of":
        return _address_of(value)
    parts = [evaluate(argument) for argument in value.args]
    if value.name == "if_then_else":
        condition, a, b = parts
        if value.args[0].dtype.lanes > 1:
            return functools.partial(_lane_choice, condition, a, b)
        return lambda env: a(env) if condition(env) else b(env)
    dtype = value.dtype.element
    if value.name == "call_extern":
        return _extern_call(value, parts[1:])
    if value.name == "reinterpret":
        return _reinterpret(parts[0], value.args[0].dtype, value.dtype)
    if value.name == "call_llvm_intrin":
        return _llvm_call(value, parts[1:])
    function = _INTRINSICS.get(value.name)
    if function is None:
        raise InternalError(f"interp: intrinsic `{value.name}` is not supported")
    return lambda env: convert(function(*(part(env) for part in parts)), dtype)


def _reinterpret(part: Evaluator, source: DType, dtype: DType) -> Evaluator:
    def run_reinterpret(env: Env) -> Value:
        bits = np.atleast_1d(np.asarray(part(env), source.element.numpy)).view(dtype.element.numpy)
        return bits if dtype.lanes > 1 else bits[0]

    return run_reinterpret


def _extern_call(value: ir.Call, parts: Sequence[Evaluator]) -> Evaluator:
    symbol, dtype = value.args[0].value, value.dtype  # type: ignore[attr-defined]

    def run_call(env: Env) -> Value:
        result = call_c(env.get(_EXTERNS), symbol, [part(env) for part in parts], dtype)
        return 0 if result is None else convert(result, dtype)

    return run_call


def _address_of(value: ir.Call) -> Evaluator:
    """The elements from one on, in the order in which they lie in memory."""
    element = value.args[0]
    assert isinstance(element, BufferLoad)
    where, buffer = _address(element.buffer, element.indices, "address in"), element.buffer

    def run_address(env: Env) -> Value:
        array, place = env[buffer], where(env)
        first = array[tuple(slice(index, index + 1) for index in place)]
        ahead = zip(array.shape, place, array.strides, strict=True)
        count = sum((size - 1 - index) * step for size, index, step in ahead) // array.itemsize + 1
        return np.lib.stride_tricks.as_strided(first, (count,), (array.itemsize,))

    return run_address


def _llvm_call(value: ir.Call, parts: Sequence[Evaluator]) -> Evaluator:
    name = value.args[0].value  # type: ignore[attr-defined]
    function = LLVM_REFERENCES.get(name)
    if function is None:
        raise UserError(
            f"interp: nothing says what `{name}` computes; see heddle.tir.intrin.llvm_reference"
        )
    kinds = [argument.dtype.element.numpy for argument in value.args[1:]]

    def run_call(env: Env) -> Value:
        given = (np.asarray(part(env), kind) for part, kind in zip(parts, kinds, strict=True))
        return np.asarray(function(*given), value.dtype.element.numpy)[()]

    return run_call


_EXPRESSIONS: Final[dict[type, Callable[[Any], Evaluator]]] = {
    Var: _variable,
    ir.IntImm: _constant,
    ir.FloatImm: _constant,
    ir.StringImm: lambda value: lambda env: value.value,
    **{kind: functools.partial(_binary, function) for kind, function in _BINARY.items()},
    ir.Not: _not,
    ir.Select: _select,
    ir.Cast: _cast,
    ir.Call: _call,
    ir.Let: _let,
    ir.Ramp: _ramp,
    ir.Broadcast: _broadcast,
    BufferLoad: _load,
}
