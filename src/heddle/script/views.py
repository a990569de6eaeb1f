# SPDX-License-Identifier: Apache-2.0
"""Views: other names for boxes of buffers.

`S = T.match_buffer(A[i:i + 4, 0:n], (4, n), "float32")` makes S a name for a box of A. Like a
macro it exists in the text only: `S[j, k]` is read as `A[i + j, k]`, and no pass has to know views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heddle.ir import expr as E
from heddle.tir.nodes import BufferRegion, Range


@dataclass(frozen=True)
class View:
    """A name for a box of a buffer; `axes` are the dimensions of the box that it has."""

    name: str
    region: BufferRegion
    axes: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.axes)

    def place(self, indices: Sequence[E.Expr]) -> tuple[E.Expr, ...]:
        """The indices into the buffer of an element of the view."""
        places = [item.min for item in self.region.ranges]
        for axis, index in zip(self.axes, indices, strict=True):
            places[axis] = _shifted(places[axis], index)
        return tuple(places)

    def box(self, ranges: Sequence[Range]) -> tuple[Range, ...]:
        """The ranges of the buffer that ranges of the view are."""
        boxes = list(self.region.ranges)
        for axis, item in zip(self.axes, ranges, strict=True):
            boxes[axis] = Range(_shifted(boxes[axis].min, item.min), item.extent)
        return tuple(boxes)


def _shifted(start: E.Expr, index: E.Expr) -> E.Expr:
    if isinstance(index, E.Ramp):
        return E.Ramp(E.add(start, index.base), index.stride, index.lanes)
    if index.dtype.lanes > 1:
        return E.Add(E.Broadcast(start, index.dtype.lanes), index)
    return E.add(start, index)
