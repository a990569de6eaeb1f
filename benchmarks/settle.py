# SPDX-License-Identifier: Apache-2.0
"""Between the turns of two engines: the threads of the last one must sleep before the next begins.

Idle threads look for work for a while before they sleep: OpenMP's for some 8 ms after a call, ONNX
Runtime's for 40, OpenBLAS's for 100. Until then they take a core away from whoever is measured.
"""

from __future__ import annotations

import time

_STEP = 0.005
_MOST = 2.0


def settle() -> None:
    """Waits until no thread of this process runs any more, for at most two seconds."""
    end = time.perf_counter() + _MOST
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(_STEP)
        if time.process_time() - before < 0.2 * _STEP:
            return
