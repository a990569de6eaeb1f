# SPDX-License-Identifier: Apache-2.0
"""How far the layers of a model are from those of another implementation, or of another precision.

    rows = layer_accuracy("model-int8.onnx", {"image": image})      # beside float32
    worst = min(rows, key=lambda row: row.sqnr_db)
    rows = layer_differences("model.onnx", {"image": image})        # beside ONNX Runtime
    first = next((row for row in rows if row.max_error > 1e-4), None)

Models are compiled with every layer's result as one more output, and run on the same inputs.
The float32 form of a quantised model is that model without its rounding: between `quantize` and
`dequantize` only the saturation is left (which often is the only trace of a ReLU); weights are what
the model file has, so what their rounding cost shows against the model that was quantised only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from heddle import op
from heddle.driver.api import Model, compile, import_model
from heddle.graph.nodes import Call, Constant, Function, GraphExpr, Tuple, Var
from heddle.ir.module import IRModule
from heddle.ir.types import TensorType
from heddle.op.interp import interpret
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


def layer_differences(
    model: Model,
    inputs: Mapping[str, np.ndarray],
    *,
    against: Literal["onnxruntime", "interpreter", "torch"] = "onnxruntime",
    target: str = "native",
    precision: str = "float32",
    shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> list[LayerAccuracy]:
    """Compare every value that `model` computes with that of another implementation.

    against: "onnxruntime", for ONNX files (its own optimisations off); "torch", for exported
    programs: PyTorch in eager mode, operator by operator; or "interpreter": the operators'
    definitions in numpy. In the order of computation; values that one of the two does not have are
    left out. Raises `UserError` when none is left.
    """
    if against == "torch":
        main, wanted = _torch(model, inputs)
    else:
        main, wanted = _main(import_model(model, shapes=shapes)), {}
    computed = [b.var.name for b in main.bindings if isinstance(b.var.type, TensorType)]
    if against == "onnxruntime":
        wanted = _onnxruntime(model, computed, inputs)
    elif against == "interpreter":
        wanted = dict(zip(computed, _interpreter(main, computed, inputs), strict=True))
    names = [name for name in computed if name in wanted]
    if not names:
        raise UserError(f"no value of the model has a name in {against}")
    found = _values(main, names, inputs, target, precision)
    operators = {b.var.name: op_name(b.value) for b in main.bindings}
    return [_compare(name, operators[name] or "", found[name], wanted[name]) for name in names]


def _onnxruntime(
    model: Model, names: Sequence[str], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The values of those `names` that an ONNX file has, by ONNX Runtime without optimisations."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "comparing with ONNX Runtime needs the packages onnx and onnxruntime; "
            "pip install onnx onnxruntime, or compare with the interpreter"
        ) from error
    if isinstance(model, IRModule):
        raise UserError("an IRModule is no ONNX model; compare it with the interpreter")
    proto = onnx.ModelProto()
    proto.CopyFrom(model if isinstance(model, onnx.ModelProto) else onnx.load(model))
    made = {name for node in proto.graph.node for name in node.output if name}
    kept = [name for name in names if name in made]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in kept)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = session.run(kept, dict(inputs))
    return {k: v for k, v in zip(kept, values, strict=True) if isinstance(v, np.ndarray)}


def _torch(
    model: Model, inputs: Mapping[str, np.ndarray]
) -> tuple[Function, dict[str, np.ndarray]]:
    """The function of an exported program, and PyTorch's values of its variables."""
    if not is_exported(model):
        raise UserError("comparing with PyTorch needs an exported program (torch.export.export)")
    from heddle.frontend.torch.values import import_with_values  # needs the extra `torch`

    module, values = import_with_values(model, inputs)
    return _main(module), values


def is_exported(model: Any) -> bool:
    """Whether a model is a program of `torch.export`, which is not imported to find out."""
    return type(model).__name__ == "ExportedProgram"


def _interpreter(
    main: Function, names: Sequence[str], inputs: Mapping[str, np.ndarray]
) -> Sequence[np.ndarray]:
    found = interpret(IRModule({"main": _showing(main, names)}), inputs)
    return found if isinstance(found, tuple) else (found,)


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
    module = IRModule({"main": _showing(function, names)})
    executable = compile(module, target, precision=precision, cache=False)
    results = executable(**inputs)
    values = results if isinstance(results, tuple) else (results,)
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}


def _showing(function: Function, names: Sequence[str]) -> Function:
    """The function with the values of these names as its results."""
    variables = {binding.var.name: binding.var for binding in function.bindings}
    attrs = {**function.attrs, "output_names": tuple(names)}
    shown: Function = function.replace(
        result=Tuple(tuple(variables[name] for name in names)), attrs=attrs
    )
    return shown


def _compare(name: str, operator: str, found: np.ndarray, wanted: np.ndarray) -> LayerAccuracy:
    if found.shape != wanted.shape:
        raise UserError(f"layer `{name}` has shape {found.shape}, the other {wanted.shape}")
    low, high = found.astype(np.float64), wanted.astype(np.float64)
    same = (low == high) | (np.isnan(low) & np.isnan(high))  # infinities, say
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(low - high), nan=np.inf, posinf=np.inf)
    error = np.where(same, 0.0, apart)
    finite = np.where(np.isfinite(high), high, 0.0)
    largest, total = np.abs(finite).max(initial=0.0) or 1.0, np.abs(finite).sum() or high.size or 1
    noise, power = float((error**2).sum()), float((finite**2).sum())
    ratio = 10 * np.log10(max(power / noise, 1e-99)) if noise else float("inf")
    return LayerAccuracy(
        name,
        operator,
        found.shape,
        float(error.max(initial=0.0) / largest),
        float(error.sum() / total),
        float(ratio),
    )
