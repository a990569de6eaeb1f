# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes of real networks prints and parses back: graph functions, scheduled
kernels and lowered ones. `python -m benchmarks.language` does this for all of them, 1,000 times.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.language import stages
from heddle.ir import first_mismatch
from heddle.script import parse, to_text

pytest.importorskip("torch", reason="the zoo is exported from torch")


@pytest.mark.parametrize("name", ["mobilenetv2", "gpt2", "unet"])
def test_every_stage_of_a_network(name: str) -> None:
    for stage, module in stages(name):
        constants: dict[str, np.ndarray] = {}
        text = to_text(module, constants=constants)
        mismatch = first_mismatch(module, parse(text, constants=constants))
        assert mismatch is None, f"after {stage}: {mismatch}"
