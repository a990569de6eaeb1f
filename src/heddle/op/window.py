# SPDX-License-Identifier: Apache-2.0
"""Sliding windows, as convolutions and poolings share them: sizes, padding, index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from heddle import te
from heddle.ir.expr import Expr, all_of, as_int, const, if_then_else, minimum
from heddle.op.attribute import Ints
from heddle.op.common import show_shape, simplify_dim
from heddle.support import UserError


@dataclass(frozen=True, slots=True)
class Window:
    """Sizes per spatial axis; `pads` are (before, after)."""

    kernel: tuple[Expr, ...]
    strides: Ints
    pads: tuple[tuple[int, int], ...]
    dilations: Ints
    ceil_mode: bool = False

    @staticmethod
    def of(
        kernel: Sequence[Expr],
        strides: Ints,
        pads: Ints,
        dilations: Ints,
        *,
        ceil_mode: bool = False,
    ) -> Window:
        """From attributes in canonical form (pads: all begins, then all ends)."""
        rank = len(kernel)
        pairs = tuple((pads[axis], pads[axis + rank]) for axis in range(rank))
        return Window(tuple(kernel), strides, pairs, dilations, ceil_mode)

    @property
    def padded(self) -> bool:
        return any(before or after for before, after in self.pads)

    def output(self, size: Sequence[Expr]) -> tuple[Expr, ...]:
        """The number of window positions along each axis of an input of `size`."""
        return tuple(self._positions(axis, dim) for axis, dim in enumerate(size))

    def _positions(self, axis: int, size: Expr) -> Expr:
        before, after = self.pads[axis]
        stride = self.strides[axis]
        span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        room = size + (before + after) - span
        known = as_int(room)
        if known is not None and known < 0:
            raise UserError(
                f"the window spans {show_shape((span,))} at spatial axis {axis}, more than the "
                f"padded input {show_shape((size + (before + after),))}"
            )
        if not self.ceil_mode:
            return simplify_dim(room // stride + 1)
        # A window must start inside the input or the padding before it.
        rounded = (room + (stride - 1)) // stride + 1
        return simplify_dim(minimum(rounded, (size + (before - 1)) // stride + 1))

    def overhang(self, size: Sequence[Expr]) -> tuple[tuple[int, int], ...]:
        """The pads, with as much more after the end as rounding up lets windows reach."""
        if not self.ceil_mode:
            return self.pads
        extended = []
        for axis, dim in enumerate(size):
            before, after = self.pads[axis]
            span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
            positions = self._positions(axis, dim)
            reach = as_int((positions - 1) * self.strides[axis] + span - dim - before)
            # With a symbolic size, rounding up reaches less than one stride further.
            more = after + self.strides[axis] - 1 if reach is None else max(after, reach)
            extended.append((before, more))
        return tuple(extended)

    def at(self, axis: int, position: Expr, tap: Any) -> Expr:
        """The padded input's index of tap `tap` of the window at `position`."""
        start = position * self.strides[axis]
        step = self.dilations[axis]
        index: Expr = start + (tap.var if step == 1 else tap * step)
        return index


def canonical_window(
    rank: int, strides: Ints | None, pads: Ints | None, dilations: Ints | None
) -> dict[str, Ints]:
    """The attributes of a window with defaults spelled out, checked."""
    filled = {
        "strides": (1,) * rank if strides is None else strides,
        "pads": (0,) * (2 * rank) if pads is None else pads,
        "dilations": (1,) * rank if dilations is None else dilations,
    }
    for name, least in (("strides", 1), ("pads", 0), ("dilations", 1)):
        wanted = 2 * rank if name == "pads" else rank
        given = filled[name]
        if len(given) == 1 and wanted > 1 and name != "pads":
            given = filled[name] = given * rank
        if len(given) != wanted:
            raise UserError(f"attribute `{name}` is {given}, expected {wanted} integers")
        if any(value < least for value in given):
            raise UserError(f"attribute `{name}` is {given}, expected integers of at least {least}")
    return filled


def pad_tensor(
    x: te.Tensor, pads: Sequence[tuple[int, int]], fill: Expr, *, first: int, name: str = "pad"
) -> te.Tensor:
    """`x` with `fill` around the axes from `first` on; `x` itself when there is nothing to add."""
    if not any(before or after for before, after in pads):
        return x
    amounts = {first + axis: pair for axis, pair in enumerate(pads)}
    shape = [
        dim + sum(amounts[axis]) if axis in amounts else dim for axis, dim in enumerate(x.shape)
    ]

    def body(*i: Expr) -> Expr:
        index = list(i)
        inside: list[Expr] = []
        for axis, (before, after) in amounts.items():
            index[axis] = i[axis] - before
            if before:
                inside.append(i[axis] >= before)
            if after:
                inside.append(i[axis] < x.shape[axis] + before)
        return if_then_else(all_of(*inside), x[tuple(index)], fill)

    return te.compute(shape, body, name=name)


# -- reference -------------------------------------------------------------------------------


def windows(
    x: np.ndarray,
    kernel: Ints,
    strides: Ints,
    pads: Sequence[tuple[int, int]],
    dilations: Ints,
    positions: Ints,
    fill: float,
) -> np.ndarray:
    """All windows of x[N, C, *spatial]: [N, C, *positions, *kernel]."""
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=x.dtype.type(fill))
    for axis in range(rank):
        taps = np.arange(kernel[axis]) * dilations[axis]
        index = np.arange(positions[axis])[:, None] * strides[axis] + taps
        reach = int(index.max(initial=-1)) + 1
        missing = max(0, reach - padded.shape[2 + axis])
        grow = [(0, missing if at == 2 + axis else 0) for at in range(padded.ndim)]
        padded = np.pad(padded, grow, constant_values=x.dtype.type(fill))
        padded = np.take(padded, index.ravel(), axis=2 + axis)
    split: list[int] = [*x.shape[:2]]
    for axis in range(rank):
        split += [positions[axis], kernel[axis]]
    grid = padded.reshape(split)
    order = [0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    return grid.transpose(order)


def window_shape(x_shape: Sequence[int], window: Window) -> Ints:
    """The positions of a window over a concrete input [N, C, *spatial]."""
    sizes = window.output([const(dim) for dim in x_shape[2:]])
    return tuple(int(as_int(size) or 0) for size in sizes)
