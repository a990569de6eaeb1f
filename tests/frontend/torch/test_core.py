# SPDX-License-Identifier: Apache-2.0
"""Every operator of core ATen is imported, taken apart by PyTorch, or refused for a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import heddle.torch  # declares the converters
from heddle.frontend.torch.decompose import dynamo_decompositions, export_decompositions
from heddle.frontend.torch.registry import find_complex_converter, find_converter

# These never reach a converter: the results are symbolic integers, which the importer reads.
SIZES = ("aten.sym_numel", "aten.sym_size", "aten.sym_storage_offset", "aten.sym_stride")


def core_operators() -> list[Any]:
    """All overloads with the tag "core"."""
    found = []
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads() if hasattr(packet, "overloads") else ():
            operator = getattr(packet, overload)
            if torch.Tag.core in operator.tags:
                found.append(operator)
    return found


def is_covered(operator: Any, table: dict[Any, Any]) -> bool:
    name = str(operator)
    if find_converter(name) is not None or find_complex_converter(name) is not None:
        return True
    if operator in table:
        return True
    if operator._schema.is_mutable:  # AOTAutograd and export make it functional
        return True
    return name.startswith(SIZES)


@pytest.mark.parametrize("table", [dynamo_decompositions, dict])
def test_core_aten_is_covered(table: Any) -> None:
    """Under torch.compile, and by export (whose table is asked for an operator at a time)."""
    known = table() or {item for item, _ in export_decompositions().items()}
    operators = core_operators()
    assert len(operators) > 150
    assert [str(item) for item in operators if not is_covered(item, known)] == []


def test_refusals_tell_why() -> None:
    class Noise(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(8)

    program = torch.export.export(Noise(), (torch.randn(8),))
    with pytest.raises(heddle.torch.ImportFailure, match="it draws from the generator of PyTorch"):
        heddle.torch.from_exported_program(program)


def test_a_function_without_a_rule_for_complex_numbers_says_so() -> None:
    class Curve(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x).tanh().abs()

    program = torch.export.export(Curve(), (torch.randn(8),))
    with pytest.raises(heddle.torch.ImportFailure, match="no rule for this operator on complex"):
        heddle.torch.from_exported_program(program)
