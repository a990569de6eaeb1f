# SPDX-License-Identifier: Apache-2.0
"""What of a model Heddle imports, node by node, before anything is compiled."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from heddle.frontend.onnx.importer import Importer
from heddle.frontend.onnx.inputs import ShapeLike
from heddle.frontend.onnx.model_file import read_model
from heddle.frontend.onnx.report import ImportFailure, NodeCoverage, State


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of a model Heddle imports; it prints as a table.

    needs: inputs whose values would have to be known when compiling (`values` of `from_onnx`).
    problems: what is unsupported besides nodes: inputs, outputs, initializers.
    """

    model: str
    nodes: tuple[NodeCoverage, ...]
    needs: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()

    def of_state(self, state: State) -> tuple[NodeCoverage, ...]:
        """The nodes in this state."""
        return tuple(node for node in self.nodes if node.state == state)

    @property
    def complete(self) -> bool:
        """Whether the model can be imported as it is."""
        return not self.of_state("unsupported") and not self.problems

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "model": self.model,
            "complete": self.complete,
            "needs": sorted(self.needs),
            "problems": list(self.problems),
            "nodes": [
                {
                    "name": node.name,
                    "operator": node.operator,
                    "opset": node.opset,
                    "state": node.state,
                    "reason": node.reason,
                }
                for node in self.nodes
            ],
        }

    def __str__(self) -> str:
        counts = {s: len(self.of_state(s)) for s in ("supported", "decomposed", "unsupported")}  # type: ignore[arg-type]
        lines = [
            f"{self.model}: {len(self.nodes)} nodes, "
            + ", ".join(f"{count} {state}" for state, count in counts.items())
        ]
        groups: collections.Counter[tuple[str, str]] = collections.Counter(
            (node.operator, node.state) for node in self.nodes
        )
        width = max((len(operator) for operator, _ in groups), default=0)
        for (operator, state), count in sorted(groups.items()):
            lines.append(f"  {operator:{width}}  {count:5}  {state}")
        for node in self.of_state("unsupported"):
            lines.append(f"  node `{node.name}` ({node.operator}): {node.reason}")
        lines += [f"  {problem}" for problem in self.problems]
        if self.needs:
            names = ", ".join(f"`{name}`" for name in sorted(self.needs))
            lines.append(f"  it would help to fix the values of {names} (`values`)")
        return "\n".join(lines)


def coverage(
    model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    shapes: Mapping[str, ShapeLike] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Coverage:
    """What of `model` can be imported, with arguments as of `from_onnx`. Nothing is compiled.

    `UserError` for a damaged file, as there.

    >>> print(coverage("bert.onnx"))              # doctest: +SKIP
    """
    proto, path = read_model(model)
    importer = Importer(proto, path, shapes or {}, values or {}, None)
    needs: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    try:
        importer.run()
    except ImportFailure as failure:
        needs = failure.needs
        problems = importer.report.lines_of("input", "output", "initializer")
    return Coverage(importer.file, tuple(importer.covered), needs, problems)
