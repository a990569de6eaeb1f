# SPDX-License-Identifier: Apache-2.0
"""Measuring what the machine can do."""

from __future__ import annotations

import pytest

from heddle.runtime.peak import measure_peak
from heddle.support import UserError
from heddle.target import native


@pytest.mark.skipif(native().vector_bits < 512, reason="compares 512-bit with 128-bit vectors")
def test_shorter_vectors_do_less() -> None:
    wide, narrow = (measure_peak(seconds=0.05, vector_bits=bits) for bits in (512, 128))
    assert 0 < narrow < wide  # a quarter, but for what else the machine does


def test_lengths_that_no_machine_has() -> None:
    with pytest.raises(UserError, match="vector_bits must be 128, 256 or 512, got 100"):
        measure_peak(vector_bits=100)
