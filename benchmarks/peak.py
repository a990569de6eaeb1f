# SPDX-License-Identifier: Apache-2.0
"""What the machine can do at most: multiply-adds in registers, and bytes from memory.

python -m benchmarks.peak
"""

from __future__ import annotations

import os
import sys

from heddle.runtime.peak import measure_bandwidth, measure_peak
from heddle.support import UserError
from heddle.target import native

__all__ = ["PeakError", "main", "measure_bandwidth", "measure_peak"]

PeakError = UserError


def main() -> int:
    """Print a table."""
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, min(2, cores), cores})
    buffers = (("32 KiB", 1 / 32), ("512 KiB", 0.5), ("8 MiB", 8.0), ("256 MiB", 256.0))
    print(f"{'cores':28s}" + "".join(f"{count:>9d}" for count in counts))
    try:
        peaks = [measure_peak(count) for count in counts]
        print(f"{'float32 FMA, GFLOP/s':28s}" + "".join(f"{value:9.0f}" for value in peaks))
        for bits in (256, 128):
            if bits < native().vector_bits:
                peaks = [measure_peak(count, vector_bits=bits) for count in counts]
                label = f"  with {bits}-bit vectors"
                print(f"{label:28s}" + "".join(f"{value:9.0f}" for value in peaks))
        for label, size in buffers:
            rates = [measure_bandwidth(count, mebibytes=size) for count in counts]
            print(f"{'read ' + label + ', GB/s':28s}" + "".join(f"{v:9.0f}" for v in rates))
        rates = [measure_bandwidth(count, copy=True) for count in counts]
        print(f"{'copy 256 MiB, GB/s':28s}" + "".join(f"{value:9.0f}" for value in rates))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
