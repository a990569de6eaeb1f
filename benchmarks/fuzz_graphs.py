# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs that grow node by node, from random tensors of random shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

OPSETS = (7, 9, 11, 12, 13, 17, 18, 21, 23)
SIZES = (1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 9, 16, 17, 33)
FLOATS = ("float32",) * 5 + ("float64",)
INTEGERS = ("int64", "int32", "int64", "int8", "uint8")
CONSTANT = "c"
"""How the names of constants begin."""
# No tensor of a graph has more elements.
LARGEST = 1 << 14


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; data: its value, when it is a constant."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray | None = None


class Unfit(Exception):
    """The generator found no valid node this time."""


@dataclass
class Graph:
    """A graph that grows node by node."""

    rng: np.random.Generator
    opset: int
    values: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    # -- choices -----------------------------------------------------------------------------

    def one(self, options: Sequence[Any]) -> Any:
        """One of these."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def number(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def shape(self, low: int = 0, high: int = 4, *, empty: bool = True) -> tuple[int, ...]:
        """A random shape of at most `LARGEST` elements."""
        while True:
            dims = tuple(self.one(SIZES) for _ in range(self.number(low, high)))
            if empty and dims and self.chance(0.02):
                dims = (*dims[:-1], 0)
            if np.prod(dims) <= LARGEST:
                return dims

    def array(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Random data: moderate numbers, now and then the extremes of the dtype."""
        return np.asarray(self._data(shape, dtype), dtype)

    def _data(self, shape: Sequence[int], dtype: str) -> Any:
        kind = np.dtype(dtype)
        if kind == np.bool_:
            return self.rng.random(shape) < 0.5
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            if self.chance(0.1):
                edges = [limits.min, limits.max, limits.max - 1, 0, 1]
                return self.rng.choice(np.asarray(edges, kind), size=shape)
            low = 0 if kind.kind == "u" else -9
            return self.rng.integers(low, 10, size=shape).astype(kind)
        data = self.rng.standard_normal(shape) * self.one([1.0, 1.0, 3.0, 0.1])
        if self.chance(0.1):
            data = np.where(self.rng.random(shape) < 0.2, 0.0, np.rint(data))
        return data.astype(kind)

    # -- tensors -----------------------------------------------------------------------------

    def fresh(self, shape: Sequence[int], dtype: str) -> Value:
        """A new input of the graph, or a constant."""
        if self.chance(0.3):
            return self.constant(self.array(shape, dtype))
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.array(shape, dtype)
        return self._add(name, dtype, tuple(shape))

    def constant(self, data: Any, dtype: str | None = None) -> Value:
        """A constant."""
        array = np.asarray(data, dtype)
        name = f"{CONSTANT}{len(self.constants)}"
        self.constants[name] = array
        return Value(name, str(array.dtype), array.shape, array)

    def _add(self, name: str, dtype: str, shape: tuple[int, ...]) -> Value:
        value = Value(name, dtype, shape)
        self.values.append(value)
        return value

    def tensor(
        self,
        dtypes: Sequence[str] = FLOATS,
        low: int = 0,
        high: int = 5,
        *,
        fits: Callable[[Value], bool] = lambda value: True,
        empty: bool = True,
    ) -> Value:
        """A tensor with one of these dtypes and a rank in [low, high], of the graph or new."""
        found = [
            v
            for v in self.values
            if v.dtype in dtypes and low <= len(v.shape) <= high and fits(v)
            if empty or 0 not in v.shape
        ]
        if found and self.chance(0.8):
            return self.one(found[-6:])
        for _ in range(20):
            shape = self.shape(low, min(high, 4), empty=empty)
            if fits(Value("", "", shape)):
                return self.fresh(shape, self.one(dtypes))
        raise Unfit

    def like(self, value: Value, shape: Sequence[int] | None = None) -> Value:
        """A tensor of the dtype of another and a shape (default: its own)."""
        wanted = value.shape if shape is None else tuple(shape)
        found = [v for v in self.values if v.dtype == value.dtype and v.shape == wanted]
        return self.one(found) if found and self.chance(0.5) else self.fresh(wanted, value.dtype)

    def broadcast(self, value: Value) -> Value:
        """A tensor that broadcasts with another."""
        dims = [1 if self.chance(0.25) else dim for dim in value.shape]
        return self.like(value, dims[self.number(0, len(dims)) if self.chance(0.3) else 0 :])

    # -- nodes -------------------------------------------------------------------------------

    def emit(self, kind: str, *inputs: Value | None, outputs: int = 1, **attrs: Any) -> list[Value]:
        """Add a node; `Unfit` when ONNX does not infer static shapes for it."""
        names = [f"t{len(self.nodes)}_{at}" for at in range(outputs)]
        given = [value.name if value is not None else "" for value in inputs]
        node = helper.make_node(kind, given, names, name=f"n{len(self.nodes)}", **attrs)
        present = [value for value in inputs if value is not None]
        types = {
            v.name: helper.make_tensor_type_proto(
                helper.np_dtype_to_tensor_dtype(np.dtype(v.dtype)), v.shape
            )
            for v in present
        }
        data = {v.name: numpy_helper.from_array(v.data) for v in present if v.data is not None}
        schema = onnx.defs.get_schema(kind, self.opset)
        try:
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=[helper.make_opsetid("", self.opset)]
            )
        except (RuntimeError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
            raise Unfit from None
        made = []
        for name in names:
            type_ = found[name].tensor_type if name in found else None
            if type_ is None or not type_.HasField("shape"):
                raise Unfit
            dims = type_.shape.dim
            if not all(dim.HasField("dim_value") for dim in dims):
                raise Unfit
            shape = tuple(dim.dim_value for dim in dims)
            if np.prod(shape) > 4 * LARGEST or min(shape, default=0) < 0:
                raise Unfit
            made.append((name, str(helper.tensor_dtype_to_np_dtype(type_.elem_type)), shape))
        self.nodes.append(node)
        return [self._add(*item) for item in made]


def to_model(graph: Graph) -> onnx.ModelProto:
    """The graph with everything that nothing reads as outputs."""
    read = {name for node in graph.nodes for name in node.input}
    made = {name for node in graph.nodes for name in node.output}
    known = {value.name: value for value in graph.values}
    ends = [known[name] for name in sorted(made - read)]
    return model_of(
        graph.nodes,
        {name: known[name] for name in graph.inputs if name in read},
        ends,
        {name: data for name, data in graph.constants.items() if name in read},
        graph.opset,
    )


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Value],
    outputs: Sequence[Value],
    constants: dict[str, np.ndarray],
    opset: int,
) -> onnx.ModelProto:
    """A model of these parts."""

    def info(value: Value) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        return helper.make_tensor_value_info(value.name, kind, value.shape)

    graph = helper.make_graph(
        list(nodes),
        "fuzz",
        [info(value) for value in inputs.values()],
        [info(value) for value in outputs],
        [numpy_helper.from_array(data, name) for name, data in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


NUMBER_OF = {
    name: helper.np_dtype_to_tensor_dtype(np.dtype(name))
    for name in ("float32", "float64", "int64", "int32", "int8", "uint8", "bool")
}
assert NUMBER_OF["float32"] == TensorProto.FLOAT
