# SPDX-License-Identifier: Apache-2.0
"""The graph inputs of a model as parameters: dtypes, dimensions, what the user fixes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx

from heddle.frontend.onnx.narrow import kind_of, storage
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.tensors import dtype_of
from heddle.ir import TensorType
from heddle.ir.expr import Expr, Var, as_expr, as_int, const
from heddle.support import UserError

ShapeLike = Sequence[Any] | None
"""Dimensions, each an integer, a name, an expression or None; for a sequence a list of shapes; for
an optional that holds nothing None."""
_FROM_USER: Final = object()


class Inputs:
    """Types of graph inputs; dimensions of one name are one variable.

    shapes: what the user says of the shape of an input: an integer fixes a dimension, a string
    names it, None leaves it as the model has it.
    """

    def __init__(
        self,
        shapes: Mapping[str, ShapeLike],
        values: Mapping[str, np.ndarray],
        declared: Sequence[onnx.ValueInfoProto],
        model: str,
    ) -> None:
        self._shapes = shapes
        self._values = values
        self._symbols: dict[str, Expr] = {}
        self._model = model
        names = [value.name for value in declared]
        for kind, given in (("shapes", shapes), ("values", values)):
            for name in given:
                if name not in names:
                    raise UserError(
                        f"{kind}: model `{model}` has no input `{name}`; it has "
                        + (", ".join(f"`{n}`" for n in names) or "none")
                    )
        for value in declared:
            self._bind_names(value)

    def _bind_names(self, value: onnx.ValueInfoProto) -> None:
        """Let what is fixed for one input hold wherever the dimension's name occurs."""
        if value.type.WhichOneof("value") != "tensor_type":
            return
        given = self._given(value.name)
        dims = value.type.tensor_type.shape.dim
        if given is None or len(given) != len(dims):
            return
        for dim, wish in zip(dims, given, strict=True):
            if dim.dim_param and isinstance(wish, (int, Expr)):
                fixed = as_expr(wish)
                before = self._symbols.setdefault(dim.dim_param, fixed)
                if before is not fixed and as_int(before) != as_int(fixed):
                    raise UserError(
                        f"shapes: dimension `{dim.dim_param}` is {before} for one input and "
                        f"{wish} for `{value.name}`"
                    )

    def _given(self, name: str) -> ShapeLike | None:
        if name in self._values:
            return self._values[name].shape
        given = self._shapes.get(name)
        if given is not None and (isinstance(given, str) or not isinstance(given, Sequence)):
            raise UserError(f"shapes: `{name}` is {given!r}, expected a tuple of dimensions")
        return given

    def parts_of(self, value: onnx.ValueInfoProto) -> Any:
        """What the user says of the shapes of an input that is a sequence or an optional.
        `Unsupported` when that is nothing: how many tensors it holds has to be known."""
        if value.name not in self._shapes:
            kind = str(value.type.WhichOneof("value")).removesuffix("_type")
            raise Unsupported(
                f"input `{value.name}` is a {kind}; pass the shapes of its tensors in `shapes`"
            )
        return self._shapes[value.name]

    def type_of(self, value: onnx.ValueInfoProto, given: Any = _FROM_USER) -> TensorType:
        """The type of one input, of the shape `given` (default: what the user says of it).
        `Unsupported` when Heddle has no such type."""
        kind = value.type.WhichOneof("value")
        if kind is None:
            raise UserError(f"model `{self._model}`: input `{value.name}` has no type")
        if kind != "tensor_type":
            raise Unsupported(f"input `{value.name}` is a {kind.removesuffix('_type')}")
        tensor = value.type.tensor_type
        narrow = kind_of(tensor.elem_type)
        dtype = storage(narrow) if narrow else dtype_of(tensor.elem_type, f"input `{value.name}`")
        if given is _FROM_USER:
            given = self._given(value.name)
        if not tensor.HasField("shape"):
            if given is None:
                raise Unsupported(f"input `{value.name}` has no rank; pass its shape in `shapes`")
            dims: list[Any] = [None] * len(given)
        else:
            dims = list(tensor.shape.dim)
        if given is not None and len(given) != len(dims):
            raise UserError(
                f"shapes: `{value.name}` has {len(given)} dimensions, the model says {len(dims)}"
            )
        wishes = [None] * len(dims) if given is None else given
        shape = [
            self._dim(value.name, axis, dim, wish)
            for axis, (dim, wish) in enumerate(zip(dims, wishes, strict=True))
        ]
        return TensorType(tuple(shape), dtype)

    def _dim(self, name: str, axis: int, dim: Any, wish: Any) -> Expr:
        fixed = None
        if dim is not None and dim.HasField("dim_value"):
            fixed = dim.dim_value
            if fixed < 0:
                raise UserError(
                    f"model `{self._model}`: dimension {axis} of input `{name}` is {fixed}"
                )
        if wish is not None and not isinstance(wish, str):
            number = as_int(wish) if isinstance(wish, Expr) else int(wish)
            if number is not None and number < 0:
                raise UserError(f"shapes: dimension {axis} of `{name}` is {number}")
            if fixed is not None and number is not None and number != fixed:
                raise UserError(
                    f"shapes: dimension {axis} of `{name}` is {number}, the model says {fixed}"
                )
            return as_expr(wish) if fixed is None else const(fixed)
        if fixed is not None:
            return const(fixed)
        symbol = wish or (dim.dim_param if dim is not None else "") or f"{name}_{axis}"
        return self.symbol(symbol)

    def symbol(self, name: str) -> Expr:
        """The dimension of this name."""
        if name not in self._symbols:
            self._symbols[name] = Var(re.sub(r"\W+", "_", name) or "dim")
        return self._symbols[name]
