# SPDX-License-Identifier: Apache-2.0
"""The loop-level lowering, as a list of named steps in the order they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from heddle.ir.walk import pre_order
from heddle.passes.tir.align_storage import align_storage
from heddle.passes.tir.fill_lanes import fill_lanes
from heddle.passes.tir.flatten import flatten, verify_flat
from heddle.passes.tir.lower_blocks import lower_blocks, verify_no_blocks
from heddle.passes.tir.partition_loops import partition_loops
from heddle.passes.tir.prefetch import insert_prefetches
from heddle.passes.tir.remove_no_op import remove_no_op
from heddle.passes.tir.simplify_indices import simplify_indices
from heddle.passes.tir.storage import place_storage
from heddle.passes.tir.tensor_intrinsics import place_tensor_intrinsics
from heddle.passes.tir.tile_registers import assign_tile_registers
from heddle.passes.tir.transpose_tiles import transpose_tiles
from heddle.passes.tir.unroll import unroll
from heddle.passes.tir.vectorize import vectorize, verify_vectorized
from heddle.passes.tir.write_in_place import write_in_place
from heddle.schedule.compact import compact_buffers
from heddle.schedule.pipeline import inject_software_pipeline
from heddle.support import UserError
from heddle.target import Target
from heddle.tir.nodes import For, PrimFunc

Step = Callable[[PrimFunc, Target], PrimFunc]
Verifier = Callable[[PrimFunc], None]


def _any_target(step: Callable[[PrimFunc], PrimFunc]) -> Step:
    return lambda func, _target: step(func)


def _nothing_to_check(_func: PrimFunc) -> None:
    """The step changes no property that a verifier could look at."""


def reject_threads(func: PrimFunc, target: Target) -> PrimFunc:
    """Raise `UserError` when a loop is bound to device threads, which no CPU has."""
    for found in pre_order(func.body):
        if type(found) is For and "thread" in found.annotations:
            raise UserError(
                f"loop `{found.var.name}` of `{func.attrs.get('name', 'main')}` is bound to "
                f"{found.annotations['thread']}, and target `{target}` has no such threads; use "
                "parallel instead of bind",
                span=found.span,
            )
    return func


LOWERING: Final[tuple[tuple[str, Step, Verifier], ...]] = (
    ("reject_threads", reject_threads, _nothing_to_check),
    ("drop_unit_loops", _any_target(remove_no_op), _nothing_to_check),
    ("compact_buffers", _any_target(compact_buffers), _nothing_to_check),
    ("align_storage", _any_target(align_storage), _nothing_to_check),
    ("lower_blocks", _any_target(lower_blocks), verify_no_blocks),
    ("software_pipeline", _any_target(inject_software_pipeline), _nothing_to_check),
    ("fill_lanes", _any_target(fill_lanes), _nothing_to_check),
    ("flatten", _any_target(flatten), verify_flat),
    ("simplify_indices", _any_target(simplify_indices), _nothing_to_check),
    ("write_in_place", _any_target(write_in_place), _nothing_to_check),
    ("tensor_intrinsics", place_tensor_intrinsics, _nothing_to_check),
    ("remove_no_op", _any_target(remove_no_op), _nothing_to_check),
    ("insert_prefetches", _any_target(insert_prefetches), _nothing_to_check),
    ("partition_loops", _any_target(partition_loops), _nothing_to_check),
    ("tile_registers", _any_target(assign_tile_registers), _nothing_to_check),
    ("transpose_tiles", transpose_tiles, _nothing_to_check),
    ("vectorize", vectorize, verify_vectorized),
    ("unroll", unroll, _nothing_to_check),
    ("place_storage", _any_target(place_storage), _nothing_to_check),
)


def lower(func: PrimFunc, target: Target) -> PrimFunc:
    """`func` as the code generators take it: no blocks, flat buffers, explicit vectors.

    Its parameters are the buffers, then the scalars, then the symbolic dimensions of `func`.
    """
    for _name, step, verify in LOWERING:
        func = step(func, target)
        verify(func)
    return func
