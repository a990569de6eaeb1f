# SPDX-License-Identifier: Apache-2.0
"""The ONNX Backend API: `prepare`, `run_model`, `run_node`, `supports_device`.

    from heddle.frontend.onnx import backend
    outputs = backend.prepare(model).run([x])

Models whose shapes depend on the values of inputs (a `Reshape` to a shape that is an input) are
compiled when they run, for the values they are given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from heddle.frontend.onnx.importer import from_onnx
from heddle.frontend.onnx.narrow import from_bytes, kind_of_dtype, output_kinds, to_bytes
from heddle.frontend.onnx.report import ImportFailure
from heddle.frontend.onnx.tensors import to_value
from heddle.frontend.onnx.text import decoded, is_text
from heddle.frontend.onnx.values import Narrow, Text
from heddle.graph import Constant, Function
from heddle.ir import IRModule, TensorType
from heddle.op.interp import interpret
from heddle.support import UserError

Engine = Callable[[IRModule], Callable[[list[np.ndarray]], list[np.ndarray]]]


def _reference(module: IRModule) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        result = interpret(module, inputs)
        return list(result) if isinstance(result, tuple) else [result]

    return run


def _compiled(module: IRModule) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    # The driver stands above the importers; it is reached by the package's public entry point.
    executable = sys.modules["heddle"].compile(module)

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        result = executable(*inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        return [np.array(output.numpy()) for output in outputs]

    return run


ENGINES: Mapping[str, Engine] = {"compiled": _compiled, "reference": _reference}


class HeddleRep(BackendRep):
    """A model made ready to run."""

    def __init__(self, model: onnx.ModelProto, engine: Engine, **options: Any) -> None:
        self._model = model
        self._engine = engine
        self._options = options
        known = {tensor.name for tensor in model.graph.initializer}
        self.input_names = [v.name for v in model.graph.input if v.name not in known]
        self.output_names = [v.name for v in model.graph.output]
        self._kinds = output_kinds(model)
        self._strings = [is_text(v.type.tensor_type.elem_type) for v in model.graph.output]
        self._held = [
            value.name
            for value in model.graph.input
            if value.type.WhichOneof("value") in ("sequence_type", "optional_type")
        ]
        self._ready: tuple[IRModule, Any] | None = None
        self._needs: frozenset[str] = frozenset()
        self._prepare({})

    def _prepare(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Import and compile, fixing the values that turn out to be needed when they are there."""
        if self._held and not inputs:
            return  # how many tensors they hold is seen when the model runs
        while True:
            values = {name: inputs[name] for name in self._needs if name in inputs}
            shapes = dict(self._options.get("shapes") or {})
            if self._held:  # dimensions of one name are to agree with what is held
                shapes.update((name, _shapes_in(value)) for name, value in inputs.items())
            try:
                module = from_onnx(self._model, shapes=shapes, values=values)
            except ImportFailure as failure:
                missing = failure.needs - self._needs
                if not missing:
                    raise
                self._needs |= missing
                if not inputs:
                    return
                continue
            self._ready = module, self._engine(module)
            return

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """The outputs, in order, for inputs in order (or by name)."""
        named = self._named(inputs)
        if self._needs or self._held:
            self._prepare(named)
        if self._ready is None:
            raise UserError("the model is not ready to run")
        module, call = self._ready
        function = module["main"]
        assert isinstance(function, Function)
        flat: dict[str, np.ndarray] = {}
        for name, value in named.items():
            flat.update(_flattened(name, value))
        arrays = [_checked(flat[param.name], param) for param in function.params]
        results = _grouped(call(arrays), function.attrs.get("output_counts"))
        tables = function.attrs.get("output_strings") or ((),) * len(results)
        outputs = [
            decoded(array, table) if text else array if kind is None else from_bytes(array, kind)
            for array, kind, text, table in zip(
                results, self._kinds, self._strings, tables, strict=True
            )
        ]
        return namedtupledict("Outputs", self.output_names)(*outputs)

    def _named(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        else:
            listed = list(inputs) if isinstance(inputs, Sequence) else [inputs]
            if len(listed) != len(self.input_names):
                raise UserError(
                    f"expected {len(self.input_names)} inputs "
                    f"({', '.join(self.input_names)}), got {len(listed)}"
                )
            given = dict(zip(self.input_names, listed, strict=True))
        for name in self.input_names:
            if name not in given:
                raise UserError(f"input `{name}` is missing")
        return {name: _array(given[name]) for name in self.input_names}


def _shapes_in(value: Any) -> Any:
    """Of what a sequence or an optional holds, the shapes, as `from_onnx` takes them."""
    if value is None:
        return None
    return [_shapes_in(item) for item in value] if isinstance(value, list) else value.shape


def _flattened(name: str, value: Any) -> dict[str, np.ndarray]:
    """The parameters that an input stands for."""
    if value is None:
        return {}
    if not isinstance(value, list):
        return {name: value}
    parts = [_flattened(f"{name}.{at}", item) for at, item in enumerate(value)]
    return {key: array for part in parts for key, array in part.items()}


def _grouped(results: list[np.ndarray], counts: Any) -> list[Any]:
    """Results as outputs: those of a sequence as a list."""
    if counts is None:
        return list(results)
    rest = iter(results)
    return [next(rest) if n < 0 else [next(rest) for _ in range(n)] for n in counts]


def _array(value: Any) -> Any:
    """An input as Heddle takes it; arrays of the narrow types of `ml_dtypes` as bytes."""
    if value is None:
        return None
    if isinstance(value, list):
        return [_array(item) for item in value]
    if isinstance(value, onnx.TensorProto):
        held = to_value(value, None, "input")
        if isinstance(held, Text) and isinstance(held.codes, Constant):
            return decoded(held.codes.data, held.table)
        constant = held.bytes if isinstance(held, Narrow) else held
        assert isinstance(constant, Constant)
        return constant.data
    array = np.asarray(value)
    kind = kind_of_dtype(array.dtype)
    return array if kind is None else to_bytes(array, kind)


def _checked(array: np.ndarray, param: Any) -> np.ndarray:
    if isinstance(param.type, TensorType) and array.dtype != param.type.dtype.numpy:
        raise UserError(
            f"input `{param.name}` has dtype {array.dtype}, expected {param.type.dtype}"
        )
    return np.ascontiguousarray(array).reshape(array.shape)


class HeddleBackend(Backend):
    """The Backend API, as class methods."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be imported (values of inputs may still be needed)."""
        if not cls.supports_device(device):
            return False
        try:
            from_onnx(model)
        except ImportFailure as failure:
            return bool(failure.needs)
        except UserError:
            return False
        return True

    @classmethod
    def prepare(
        cls,
        model: onnx.ModelProto,
        device: str = "CPU",
        *,
        engine: str = "compiled",
        **kwargs: Any,
    ) -> HeddleRep:
        """The model compiled for `device`; engine "reference" interprets it with numpy instead."""
        if not cls.supports_device(device):
            raise UserError(f"device `{device}` is not supported; there is CPU")
        if engine not in ENGINES:
            raise UserError(f"engine `{engine}`, expected one of {', '.join(ENGINES)}")
        return HeddleRep(model, ENGINES[engine], **kwargs)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> Any:
        """`prepare(model).run(inputs)`"""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The outputs of one node."""
        arrays = [np.asarray(value) for value in inputs]
        names = [name for name in node.input if name]
        declared = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in zip(names, arrays, strict=True)
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "node", declared, outputs)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        imports = [helper.make_opsetid(node.domain, version)]
        engine = {k: v for k, v in kwargs.items() if k in ("engine", "shapes")}
        model = helper.make_model(graph, opset_imports=imports)
        return cls.run_model(model, arrays, device, **engine)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on `device` ("CPU" or "CPU:0")."""
        return device.partition(":")[0] == "CPU"


prepare = HeddleBackend.prepare
run_model = HeddleBackend.run_model
run_node = HeddleBackend.run_node
supports_device = HeddleBackend.supports_device
is_compatible = HeddleBackend.is_compatible
