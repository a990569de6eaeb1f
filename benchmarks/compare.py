# SPDX-License-Identifier: Apache-2.0
"""How far two arrays are apart."""

from __future__ import annotations

import numpy as np


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """max|got - want| / max|want|; infinite when a shape differs or a value is not finite.

    Computed in float64. Where `want` is all zeros the absolute error is returned.
    """
    if got.shape != want.shape:
        return float("inf")
    if want.size == 0:
        return 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    scale = np.abs(b).max()
    return float(np.abs(a - b).max() / (scale if scale > 0 else 1.0))
