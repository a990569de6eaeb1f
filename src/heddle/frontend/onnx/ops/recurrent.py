# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers: unrolled over a sequence of known length, else a loop.

The products with the inputs are one product for the whole sequence; only those with the state are
made step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, shape
from heddle.frontend.onnx.ops.control import LoopBody, backwards, length_as_limit
from heddle.frontend.onnx.ops.qlinear import by_own_range
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import Constant, GraphExpr, Var
from heddle.ir.expr import as_expr
from heddle.support import UserError

_STEP_LIMIT: Final = 4096
_GATES: Final = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS: Final = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}
_FUNCTIONS: Final = {
    "sigmoid": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "relu": ("relu", ()),
    "softsign": ("softsign", ()),
    "softplus": ("softplus", ()),
    "leakyrelu": ("leaky_relu", (("alpha", 0.01),)),
    "elu": ("elu", (("alpha", 1.0),)),
    "hardsigmoid": ("hard_sigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "thresholdedrelu": ("thresholded_relu", (("alpha", 1.0),)),
}
Activation = Callable[[GraphExpr], GraphExpr]


@dataclass(frozen=True, slots=True)
class Layer:
    """One direction of a recurrent layer. Weights are transposed: [inputs, gates * hidden]."""

    hidden: int
    recurrent: GraphExpr
    recurrent_bias: GraphExpr | None
    peephole: GraphExpr | None
    activations: Sequence[Activation]
    quantised: bool = False
    """Whether states are rounded to 256 values before they are multiplied by weights."""


@converts("DynamicQuantizeLSTM", domain="com.microsoft")
def _dynamic_lstm(node: Node) -> Any:
    """LSTM with weights [directions, inputs, gates] of 8 bits; what they are multiplied by is
    rounded to 256 values as well. Inputs 8 to 11: scales and zero points of the two."""
    node.op_type = "LSTM"
    for position, first in ((1, 8), (2, 10)):
        codes = node.tensor(position)
        ways = shape(codes)[0]
        zero = node.cast(node.tensor(first + 1), "int32")
        wide = node.op.sub(node.cast(codes, "int32"), node.reshape(zero, (ways, 1, -1)))
        scale = node.reshape(node.tensor(first), (ways, 1, -1))
        weights = node.op.mul(node.cast(wide, "float32"), scale)
        node.inputs[position] = node.op.transpose(weights, permutation=(0, 2, 1))
    return _recurrent(node, quantised=True)


@converts("RNN", "GRU", "LSTM")
def _plain(node: Node) -> Any:
    return _recurrent(node)


def _recurrent(node: Node, *, quantised: bool = False) -> Any:
    x = by_own_range(node, node.tensor(0)) if quantised else node.tensor(0)
    batch_first = node.attr.flag("layout")
    if batch_first:
        x = node.op.transpose(x, permutation=(1, 0, 2))
    steps = shape(x)[0]
    if steps == 0:
        raise Unsupported("a sequence of no steps")
    direction = node.attr.string("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise UserError(f"attribute `direction` is `{direction}`")
    ways = ("forward", "reverse") if direction == "bidirectional" else (direction,)
    runs = [
        _run(node, x, steps, at, way == "reverse", batch_first, quantised)
        for at, way in enumerate(ways)
    ]
    # Y[steps, directions, batch, hidden], then the last states [directions, batch, hidden].
    outputs = [_join(node, [run[0] for run in runs], 1)]
    for state in range(1, len(runs[0])):
        outputs.append(_join(node, [run[state] for run in runs], 0))
    if batch_first:
        outputs[0] = node.op.transpose(outputs[0], permutation=(2, 0, 1, 3))
        outputs[1:] = [node.op.transpose(y, permutation=(1, 0, 2)) for y in outputs[1:]]
    return tuple(outputs[: len(node.outputs)])


def _join(node: Node, parts: list[GraphExpr], axis: int) -> Any:
    wide = [node.op.unsqueeze(part, axes=(axis,)) for part in parts]
    return wide[0] if len(wide) == 1 else node.op.concat(*wide, axis=axis)


def _row(node: Node, x: GraphExpr, at: int, *, axis: int = 0) -> GraphExpr:
    """x[at] along an axis, which goes."""
    cut = node.op.slice(x, starts=(at,), ends=(at + 1,), axes=(axis,))
    return node.op.squeeze(cut, axes=(axis,))  # type: ignore[no-any-return]


def _run(
    node: Node,
    x: GraphExpr,
    steps: Any,
    at: int,
    reverse: bool,
    batch_first: bool,
    quantised: bool,
) -> list[GraphExpr]:
    """One direction: all outputs [steps, batch, hidden], then the last states."""
    gates = _GATES[node.op_type]
    weights, recurrent = _row(node, node.tensor(1), at), _row(node, node.tensor(2), at)
    hidden = node.attr.int("hidden_size", node.static_dim(recurrent, 1, "R"))
    bias = _row(node, node.tensor(3), at) if node.has(3) else None
    inputs = node.op.matmul(x, weights, transpose_b=True)
    recurrent_bias = None
    if bias is not None:
        inputs = node.op.add(inputs, _part(node, bias, 0, gates * hidden))
        recurrent_bias = _part(node, bias, gates * hidden, 2 * gates * hidden)
    layer = Layer(
        hidden,
        recurrent,
        recurrent_bias,
        _row(node, node.tensor(7), at) if node.op_type == "LSTM" and node.has(7) else None,
        _activations(node, at),
        quantised,
    )
    batch = shape(x)[1]
    count = 2 if node.op_type == "LSTM" else 1
    state = [_initial(node, 5 + i, at, (batch, hidden), x, batch_first) for i in range(count)]
    lengths = _lengths(node, steps)
    if isinstance(steps, int) and steps <= _STEP_LIMIT:
        return _unrolled(node, layer, inputs, state, lengths, reverse=reverse)
    return _looped(node, layer, inputs, state, lengths, reverse=reverse)


def _step(
    node: Node,
    layer: Layer,
    x: GraphExpr,
    state: list[GraphExpr],
    lengths: GraphExpr | None,
    position: GraphExpr,
) -> tuple[GraphExpr, list[GraphExpr]]:
    """What a step gives, and the states behind it; where a sequence is over, 0 and the states
    before."""
    step = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}[node.op_type]
    new = step(node, layer, x, state)
    if lengths is None:
        return new[0], new
    alive = node.op.greater(lengths, node.cast(position, dtype(lengths)))
    output = node.op.where(alive, new[0], node.scalar(0, new[0]))
    return output, [node.op.where(alive, n, o) for n, o in zip(new, state, strict=True)]


def _unrolled(
    node: Node,
    layer: Layer,
    inputs: GraphExpr,
    state: list[GraphExpr],
    lengths: GraphExpr | None,
    *,
    reverse: bool,
) -> list[GraphExpr]:
    outputs: list[GraphExpr] = []
    order = range(shape(inputs)[0])
    for position in reversed(order) if reverse else order:
        here = Constant(np.asarray(position))
        row = _row(node, inputs, position)
        output, state = _step(node, layer, row, state, lengths, here)
        outputs.append(output)
    if reverse:
        outputs.reverse()
    return [_join(node, outputs, 0), *state]


def _looped(
    node: Node,
    layer: Layer,
    inputs: GraphExpr,
    state: list[GraphExpr],
    lengths: GraphExpr | None,
    *,
    reverse: bool,
) -> list[GraphExpr]:
    """The steps as a loop of the compiled model."""
    length = as_expr(shape(inputs)[0])
    limit = length_as_limit(node, length)
    names = ("recurrent", "recurrent_bias", "peephole")
    given = [getattr(layer, name) for name in names]
    outer = [item for item in (inputs, lengths, *given) if item is not None]
    bound = dict(zip(outer, node.flush(outer), strict=True))  # the body may use what is bound
    layer = replace(
        layer, **{n: bound[x] for n, x in zip(names, given, strict=True) if x is not None}
    )
    ends = None if lengths is None else bound[lengths]

    def body(iteration: Var, own: list[Var]) -> list[Any]:
        position: GraphExpr = iteration
        if reverse:
            last = node.op.sub(limit, Constant(np.asarray(1)))
            position = node.op.sub(last, iteration)
        row = node.op.gather(bound[inputs], position, axis=0)
        output, new = _step(node, layer, row, list(own), ends, position)
        return [Constant(np.asarray(True)), *new, output]

    made = LoopBody(node, state, body)
    _, finals, (rows,) = made.loop(limit, None, length)
    return [backwards(node, rows, length) if reverse else rows, *finals]


def _part(node: Node, x: GraphExpr, start: int, end: int) -> GraphExpr:
    axis = len(x.type.shape) - 1  # type: ignore[attr-defined]
    return node.op.slice(x, starts=(start,), ends=(end,), axes=(axis,))  # type: ignore[no-any-return]


def _initial(
    node: Node, position: int, at: int, sizes: tuple[Any, int], x: GraphExpr, batch_first: bool
) -> GraphExpr:
    if not node.has(position):
        return node.op.broadcast_to(node.scalar(0, x), shape=sizes)  # type: ignore[no-any-return]
    return _row(node, node.tensor(position), at, axis=1 if batch_first else 0)


def _lengths(node: Node, steps: Any) -> GraphExpr | None:
    """sequence_lens[batch, 1], None when all sequences are full."""
    if not node.has(4):
        return None
    value = node.value(4)
    if isinstance(value, Constant) and isinstance(steps, int) and (value.data == steps).all():
        return None
    return node.op.unsqueeze(node.tensor(4), axes=(1,))  # type: ignore[no-any-return]


def _activations(node: Node, at: int) -> list[Activation]:
    defaults = _DEFAULTS[node.op_type]
    names = node.attr.strings("activations", None) or defaults * 2
    alphas = list(node.attr.floats("activation_alpha", ()))
    betas = list(node.attr.floats("activation_beta", ()))
    found: list[Activation] = []
    for name in names:
        entry = _FUNCTIONS.get(str(name).lower())
        if entry is None:
            raise Unsupported(f"activation {name}")
        attrs = dict(entry[1])
        for key, given in (("alpha", alphas), ("beta", betas)):
            if key in attrs and given:
                attrs[key] = given.pop(0)
        # `clip` bounds what goes into the gates, not the cell on its way out (as ONNX Runtime).
        limited = not (node.op_type == "LSTM" and len(found) % 3 == 2)
        found.append(_activation(node, entry[0], attrs, limited=limited))
    chosen = found[at * len(defaults) : (at + 1) * len(defaults)]
    if len(chosen) != len(defaults):
        raise UserError(f"attribute `activations` has {len(names)} entries")
    return chosen


def _activation(node: Node, name: str, attrs: dict[str, float], *, limited: bool) -> Activation:
    clip = node.attr.float("clip", None) if limited else None

    def apply(x: GraphExpr) -> GraphExpr:
        bounded = x if clip is None else node.op.clip(x, min=-clip, max=clip)
        return node.call(name, bounded, **attrs)  # type: ignore[no-any-return]

    return apply


def _state_product(node: Node, layer: Layer, h: GraphExpr) -> GraphExpr:
    if layer.quantised:
        h = by_own_range(node, h)
    product = node.op.matmul(h, layer.recurrent, transpose_b=True)
    if layer.recurrent_bias is not None:
        product = node.op.add(product, layer.recurrent_bias)
    return product  # type: ignore[no-any-return]


def _rnn_step(node: Node, layer: Layer, x: GraphExpr, state: list[GraphExpr]) -> list[GraphExpr]:
    total = node.op.add(x, _state_product(node, layer, state[0]))
    return [layer.activations[0](total)]


def _gru_step(node: Node, layer: Layer, x: GraphExpr, state: list[GraphExpr]) -> list[GraphExpr]:
    """Gates in the order update, reset, hidden."""
    (h,), size = state, layer.hidden
    gate, squash = layer.activations
    if node.attr.flag("linear_before_reset"):
        product = _state_product(node, layer, h)
    else:
        front = node.op.slice(layer.recurrent, starts=(0,), ends=(2 * size,), axes=(0,))
        product = node.op.matmul(h, front, transpose_b=True)
        if layer.recurrent_bias is not None:
            product = node.op.add(product, _part(node, layer.recurrent_bias, 0, 2 * size))
    sums = node.op.add(_part(node, x, 0, 2 * size), _part(node, product, 0, 2 * size))
    gates = gate(sums)
    update, reset = _part(node, gates, 0, size), _part(node, gates, size, 2 * size)
    if node.attr.flag("linear_before_reset"):
        inner = node.op.mul(reset, _part(node, product, 2 * size, 3 * size))
    else:
        back = node.op.slice(layer.recurrent, starts=(2 * size,), ends=(3 * size,), axes=(0,))
        inner = node.op.matmul(node.op.mul(reset, h), back, transpose_b=True)
        if layer.recurrent_bias is not None:
            inner = node.op.add(inner, _part(node, layer.recurrent_bias, 2 * size, 3 * size))
    candidate = squash(node.op.add(_part(node, x, 2 * size, 3 * size), inner))
    return [node.op.add(candidate, node.op.mul(update, node.op.sub(h, candidate)))]


def _lstm_step(node: Node, layer: Layer, x: GraphExpr, state: list[GraphExpr]) -> list[GraphExpr]:
    """Gates in the order input, output, forget, cell; peepholes input, output, forget."""
    (h, c), size = state, layer.hidden
    gate, squash, finish = layer.activations
    sums = node.op.add(x, _state_product(node, layer, h))

    def peep(value: GraphExpr, cell: GraphExpr, at: int) -> GraphExpr:
        if layer.peephole is None:
            return value
        weight = _part(node, layer.peephole, at * size, (at + 1) * size)
        return node.op.add(value, node.op.mul(weight, cell))  # type: ignore[no-any-return]

    into = gate(peep(_part(node, sums, 0, size), c, 0))
    forget = gate(peep(_part(node, sums, 2 * size, 3 * size), c, 2))
    if node.attr.flag("input_forget"):
        forget = node.op.sub(node.scalar(1, into), into)
    candidate = squash(_part(node, sums, 3 * size, 4 * size))
    cell = node.op.add(node.op.mul(forget, c), node.op.mul(into, candidate))
    out = gate(peep(_part(node, sums, size, 2 * size), cell, 1))
    return [node.op.mul(out, finish(cell)), cell]
