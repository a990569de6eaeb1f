# SPDX-License-Identifier: Apache-2.0
"""Compute convolutions by Winograd tiles where that is predicted to be faster.

    y = conv2d_nchwc(x, w, b, pads=(1, 1, 1, 1))
->
    y = winograd_conv2d_nchwc(x, <w transformed>, b, tile=4, pads=(1, 1, 1, 1))

Only convolutions of stride one, without dilation or groups, with constant square filters and an
image of known size come into question. Larger tiles need fewer multiplications and round more:
`error` bounds what is allowed (see `heddle.op.toom_cook.ERRORS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from heddle import op
from heddle.graph.nodes import Call, Constant, Function, GraphExpr
from heddle.ir.expr import as_int
from heddle.ir.module import IRModule
from heddle.op.toom_cook import ERRORS
from heddle.op.winograd import transform_weights
from heddle.passes.graph.anf import Rewriter, map_functions, op_name, tensor_type
from heddle.schedule.rules.winograd_model import ConvShape, winograd_tile
from heddle.support import UserError
from heddle.target import Target

DEFAULT_ERROR = 1e-5
"""Largest error, relative to the largest output of a layer, that is allowed when nobody says."""


@dataclass(frozen=True, slots=True)
class Winograd:
    """The pass. choose: the size of the output tiles of a convolution, 0 for a direct one."""

    choose: Callable[[ConvShape], int]

    @staticmethod
    def of(target: Target, *, error: float = DEFAULT_ERROR) -> Winograd:
        """The pass for a target, with tiles that round by at most `error`.

        Raises `UserError` when that is no number of at least 0.
        """
        if not 0 <= error < math.inf:
            raise UserError(f"winograd_error must be a number of at least 0, got {error}")
        tiles = [tile for tile, bound in ERRORS.items() if bound <= error]
        return Winograd(lambda conv: winograd_tile(conv, target, tiles=tiles))

    def __call__(self, module: IRModule) -> IRModule:
        """Replace convolutions that are faster by tiles."""
        return map_functions(module, self._rewrite)

    def _rewrite(self, function: Function) -> Function:
        work = Rewriter(function)
        for binding in function.bindings:
            value = binding.value
            made = self._by_tiles(work, value) if op_name(value) == "conv2d_nchwc" else None
            if made is None:
                work.copy_binding(binding)
            else:
                work.alias_new(binding.var, work.emit(made, like=binding.var))
        return work.finish()

    def _by_tiles(self, work: Rewriter, call: GraphExpr) -> GraphExpr | None:
        assert isinstance(call, Call)
        conv = _shape_of(call)
        tile = 0 if conv is None else self.choose(conv)
        if tile == 0:
            return None
        x, weight, *bias = (work.resolve(item) for item in call.args)
        assert isinstance(weight, Constant)
        filters = Constant(transform_weights(weight.data, tile))
        made = op.get("winograd_conv2d_nchwc")(
            x, filters, *bias, tile=tile, pads=call.attrs["pads"]
        )
        return made.replace(span=call.span)  # type: ignore[no-any-return]


def _shape_of(call: Call) -> ConvShape | None:
    """The sizes of a convolution that tiles can compute, None for any other."""
    weight, result = call.args[1], tensor_type(call)
    attrs = call.attrs
    if attrs["strides"] != (1, 1) or attrs["dilations"] != (1, 1) or attrs["groups"] != 1:
        return None
    if not isinstance(weight, Constant) or weight.data.dtype != np.float32 or result is None:
        return None
    if min(attrs["pads"]) < 0:  # type: ignore[type-var,arg-type]
        return None
    out_blocks, in_blocks, taps, other, in_lanes, out_lanes = weight.data.shape
    batch, _, rows, columns, _ = (as_int(dim) for dim in result.shape)
    if taps != other or taps == 1 or rows is None or columns is None or not rows * columns:
        return None
    return ConvShape(taps, in_blocks, in_lanes, out_blocks, out_lanes, rows, columns, batch)
