# SPDX-License-Identifier: Apache-2.0
"""Algebraic data types of the graph level from their declarations, and back."""

from __future__ import annotations

from heddle.ir import Constructor, DataType, SelfType, TensorType
from heddle.runtime.data import Adt, Field, Self, SelfField
from heddle.support import UserError


def data_type(adt: Adt) -> DataType:
    """The type of the values of a declaration."""
    return DataType(
        adt.name,
        tuple(
            Constructor(
                name,
                tuple(
                    SelfType() if isinstance(f, SelfField) else TensorType.of(*f) for f in fields
                ),
            )
            for name, fields in adt.constructors.items()
        ),
    )


def declaration(type_: DataType) -> Adt:
    """The declaration of a type, for values in Python. Raises `UserError` where a field is neither
    a tensor of static shape nor the type itself."""
    constructors: dict[str, tuple[Field, ...]] = {}
    for constructor in type_.constructors:
        fields: list[Field] = []
        for field in constructor.fields:
            shape = field.static_shape if isinstance(field, TensorType) else None
            if isinstance(field, SelfType):
                fields.append(Self)
            elif isinstance(field, TensorType) and shape is not None:
                fields.append((shape, str(field.dtype)))
            else:
                raise UserError(
                    f"{type_.name}.{constructor.name}: a field must be a tensor of static shape or "
                    f"{type_.name} itself"
                )
        constructors[constructor.name] = tuple(fields)
    return Adt(type_.name, constructors)
