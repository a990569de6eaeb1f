# SPDX-License-Identifier: Apache-2.0
"""Convolutions in their default schedule: how cores share an image, and what is fetched of it."""

from __future__ import annotations

from typing import Any

import pytest

from heddle import op
from heddle.driver.pipeline import graph_pipeline
from heddle.passes.tir.lower import lower
from heddle.schedule.sketch import sketch
from heddle.target import parse
from heddle.tir.build import collect, element_count
from heddle.tir.nodes import Allocate, PrimFunc
from tests.passes.graph.support import build, weights

WIDE = parse("llvm -mcpu=skylake-avx512 -cores=2")


def convolution(
    inputs: int, outputs: int, size: tuple[int, int], taps: int, **attrs: Any
) -> PrimFunc:
    """The scheduled kernel that convolves one image."""
    module = build(
        lambda x: op.conv(x, weights(outputs, inputs, taps, taps), **attrs), (1, inputs, *size)
    )
    functions = graph_pipeline(WIDE).run(module).functions
    (found,) = (f for name, f in functions.items() if name.startswith("conv"))
    assert isinstance(found, PrimFunc)
    return found


@pytest.mark.parametrize(
    ("outputs", "stride"),
    [(64, 2), (4, 1)],  # blocks of channels, pixels as lanes
)
def test_cores_pad_the_lines_that_they_read(outputs: int, stride: int) -> None:
    attrs = {"pads": (2,) * 4, "strides": (stride,) * 2}
    text = sketch(convolution(64, outputs, (20, 36), 5, **attrs))
    padding = text[: text.index("] = T.if_then_else(")]
    # lines of all channels before the next one: the fused loop begins with the axis of lines
    assert "for i2_" in padding
    assert "in parallel(" in padding


def test_the_next_plane_is_fetched() -> None:
    far = sketch(convolution(32, 8, (40, 40), 3, strides=(2, 2), pads=(1, 1, 1, 1)))
    assert "prefetch_ahead=['pad', 4]" in far  # 9 taps a plane
    near = sketch(convolution(32, 8, (9, 18), 3, strides=(2, 2), pads=(1, 1, 1, 1)))
    assert "prefetch_ahead=['pad'" not in near


def test_tiles_stay_in_registers_beside_margins_and_a_short_chunk() -> None:
    attrs = {"pads": (2,) * 4, "dilations": (2, 2), "strides": (3, 3)}
    func = convolution(200, 72, (22, 72), 3, **attrs)
    assert "if not (" in sketch(func)
    made = [n.buffer for n in collect(lower(func, WIDE).body, Allocate)]
    sizes = [element_count(buffer.shape) or 0 for buffer in made if buffer.scope == "local"]
    assert 0 < max(sizes) <= 32 * 16
