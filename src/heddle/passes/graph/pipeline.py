# SPDX-License-Identifier: Apache-2.0
"""The graph passes in the order in which the compiler runs them."""

from __future__ import annotations

from heddle.ir.passes import Pass, Pipeline
from heddle.passes.graph.assign_layouts import AssignLayouts, PanelWidth
from heddle.passes.graph.canonicalise import canonicalise
from heddle.passes.graph.eliminate import eliminate_common_subexpressions, eliminate_dead_code
from heddle.passes.graph.fold_constants import fold_constants
from heddle.passes.graph.fuse import fuse
from heddle.passes.graph.lower import lower
from heddle.passes.graph.normalise import normalise
from heddle.target import Target


def graph_pipeline(target: Target, *, panel_width: PanelWidth | None = None) -> Pipeline:
    """From an imported module to calls of loop functions, for `target`.

    Patterns are found by the identity of values, so equal ones are merged before.
    """
    layouts = AssignLayouts.of(target, panel_width=panel_width)
    return Pipeline(
        [
            Pass("normalise", normalise),
            Pass("fold_constants", fold_constants, "Evaluate calls whose arguments are constants."),
            Pass("merge_equal", eliminate_common_subexpressions),
            Pass("canonicalise", canonicalise),
            Pass("eliminate_common_subexpressions", eliminate_common_subexpressions),
            Pass("eliminate_dead_code", eliminate_dead_code),
            Pass("assign_layouts", layouts, "Blocked convolutions, packed matrices."),
            Pass("fuse", fuse, "Group operators into kernels."),
            Pass("lower", lower),
        ]
    )
