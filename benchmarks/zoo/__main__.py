# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.zoo [names] [--small] [--ops]`: build networks and list them."""

from __future__ import annotations

import argparse
import time

from benchmarks import zoo


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="default: every network")
    parser.add_argument("--small", action="store_true", help="the small variants")
    parser.add_argument("--ops", action="store_true", help="list operator types and counts")
    options = parser.parse_args()
    unknown = set(options.names) - set(zoo.models())
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(zoo.models())}")
    total: dict[str, int] = {}
    for name in options.names or zoo.models():
        begin = time.perf_counter()
        path = zoo.onnx_path(name, small=options.small)
        about = zoo.info(name, small=options.small)
        took = time.perf_counter() - begin
        size = path.stat().st_size / 1e6
        print(
            f"{name:16s} {size:8.2f} MB {about['flops'] / 1e9:8.3f} GFLOP {took:6.1f} s  {path}",
            flush=True,
        )
        for kind, count in about["operators"].items():
            total[kind] = total.get(kind, 0) + count
        if options.ops:
            print("   " + ", ".join(f"{k} {n}" for k, n in about["operators"].items()))
    if options.ops:
        print("all: " + ", ".join(f"{k} {n}" for k, n in sorted(total.items())))


if __name__ == "__main__":
    main()
