# SPDX-License-Identifier: Apache-2.0
"""How far the layers of a model in low precision are from the same model in float32.

    rows = layer_accuracy("model-int8.onnx", {"image": image})
    worst = min(rows, key=lambda row: row.sqnr_db)

Both models are compiled with every layer's result as one more output, and run on the same inputs.
The float32 form of a quantised model is that model without its rounding: between `quantize` and
`dequantize` only the saturation is left (which often is the only trace of a ReLU); weights are what
the model file has, so what their rounding cost shows against the model that was quantised only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from heddle import op
from heddle.driver.api import Model, compile, import_model
from heddle.graph.nodes import Call, Constant, Function, GraphExpr, Tuple, Var
from heddle.ir.module import IRModule
from heddle.passes.graph.anf import Rewriter, map_functions, op_name, tensor_type
from heddle.support import UserError

LAYERS: Final = frozenset({"conv", "conv_transpose", "matmul"})
"""Operators whose results are layers, besides the outputs of the model."""


@dataclass(frozen=True, slots=True)
class LayerAccuracy:
    """One layer: relative errors are of the largest and of the mean magnitude in float32; `sqnr_db`
    is the power of the float32 values over that of the error, in dB (infinite when equal)."""

    name: str
    operator: str
    shape: tuple[int, ...]
    max_error: float
    mean_error: float
    sqnr_db: float

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; an infinite ratio is None, as JSON has it."""
        fields = asdict(self)
        fields["shape"] = list(self.shape)
        if not np.isfinite(self.sqnr_db):
            fields["sqnr_db"] = None
        return fields


def layer_accuracy(
    model: Model,
    inputs: Mapping[str, np.ndarray],
    *,
    target: str = "native",
    precision: str = "float32",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    reference: Model | None = None,
) -> list[LayerAccuracy]:
    """Compare each layer of `model`, compiled with `precision`, with its float32 form.

    reference: a float32 model with the same names of values, to compare with instead (that which
    was quantised). Layers that it does not have are left out. Raises `UserError` when no layer is
    left, or `model` computes with integer operators and there is no `reference`.
    """
    low = _main(import_model(model, shapes=shapes))
    if reference is None:
        high = _main(without_rounding(import_model(model, shapes=shapes)))
    else:
        high = _main(import_model(reference, shapes=shapes))
    names = _layer_names(low, high)
    found = _values(low, names, inputs, target, precision)
    wanted = _values(high, names, inputs, target, "float32")
    operators = {b.var.name: op_name(b.value) for b in low.bindings}
    return [
        _compare(name, operators.get(name, "output"), found[name], wanted[name]) for name in names
    ]


def without_rounding(module: IRModule) -> IRModule:
    """The module with `dequantize(quantize(x))` replaced by `x`, cut to the range of the integers.

    Raises `UserError` for integers that nothing quantised: their float32 form is not known.
    """
    return map_functions(module, _without_rounding)


def _without_rounding(function: Function) -> Function:
    rewriter = Rewriter(function)
    for binding in function.bindings:
        value = rewriter.resolve(binding.value)
        if op_name(value) == "requantize":
            raise UserError(
                f"`{binding.var.name}` is made of integers by an integer operator (QLinear...), "
                "whose float32 form is not in the model; give the model that was quantised"
            )
        plain = _plain(rewriter, value) if op_name(value) == "dequantize" else None
        if plain is None:
            rewriter.copy_binding(binding)
        else:
            rewriter.alias_new(binding.var, rewriter.emit(plain, like=binding.var))
    return rewriter.finish()


def _plain(rewriter: Rewriter, call: Call) -> GraphExpr | None:
    made = rewriter.defining_call(call.args[0], "quantize", single_use=False)
    kind = tensor_type(call.args[0])
    if made is None or kind is None or not all(isinstance(a, Constant) for a in call.args[1:]):
        return None
    scale, *zero = (a.data for a in call.args[1:] if isinstance(a, Constant))
    point = zero[0].astype(np.float64) if zero else np.zeros(())
    low, high = ((edge - point) * scale for edge in (kind.dtype.min_value, kind.dtype.max_value))
    above = rewriter.emit(op.maximum(made.args[0], low.astype(np.float32)))
    return op.minimum(above, high.astype(np.float32))


def _main(module: IRModule) -> Function:
    function = module["main"]
    assert isinstance(function, Function)
    return function


def _layer_names(low: Function, high: Function) -> list[str]:
    """Names of the layers that both have, in the order in which they are computed."""
    theirs = {binding.var.name for binding in high.bindings}
    names = [
        binding.var.name
        for binding in low.bindings
        if op_name(binding.value) in LAYERS and _is_float(binding.var)
    ]
    names += [item.name for item in _results(low) if isinstance(item, Var) and _is_float(item)]
    kept = [name for name in dict.fromkeys(names) if name in theirs]
    if not kept:
        raise UserError("the two models have no layers of the same names to compare")
    return kept


def _is_float(value: GraphExpr) -> bool:
    kind = tensor_type(value)
    return kind is not None and kind.dtype.is_float


def _results(function: Function) -> Sequence[GraphExpr]:
    result = function.result
    return result.fields if isinstance(result, Tuple) else (result,)


def _values(
    function: Function,
    names: Sequence[str],
    inputs: Mapping[str, np.ndarray],
    target: str,
    precision: str,
) -> dict[str, np.ndarray]:
    variables = {binding.var.name: binding.var for binding in function.bindings}
    attrs = {**function.attrs, "output_names": tuple(names)}
    shown = function.replace(result=Tuple(tuple(variables[name] for name in names)), attrs=attrs)
    module = IRModule({"main": shown})
    executable = compile(module, target, precision=precision, cache=False)
    results = executable(**inputs)
    values = results if isinstance(results, tuple) else (results,)
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


def _compare(name: str, operator: str, found: np.ndarray, wanted: np.ndarray) -> LayerAccuracy:
    if found.shape != wanted.shape:
        raise UserError(f"layer `{name}` has shape {found.shape}, in float32 {wanted.shape}")
    low, high = found.astype(np.float64), wanted.astype(np.float64)
    error = np.abs(low - high)
    largest, mean = np.abs(high).max(initial=0.0) or 1.0, np.abs(high).mean() or 1.0
    noise = float((error**2).sum())
    power = float((high**2).sum())
    ratio = float("inf") if noise == 0 else 10 * np.log10(max(power, 1e-300) / noise)
    return LayerAccuracy(
        name,
        operator,
        found.shape,
        float(error.max(initial=0.0) / largest),
        float(error.mean() / mean),
        float(ratio),
    )
