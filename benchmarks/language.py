# SPDX-License-Identifier: Apache-2.0
"""How long the tensor language itself takes: script to callable, primitives, errors, round trips.

    python -m benchmarks.language [--rounds 15] [--trips 1000] [--models resnet18,bert_base]

One process, one core; every figure is a median. Nothing is cached between rounds: a kernel is
parsed, lowered, compiled and loaded anew, and primitives run on a schedule of their own. Returns 1
when a round trip differs.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import heddle
from benchmarks import zoo
from benchmarks.tutorial_matmul import product
from heddle.ir import IRModule, structural_equal
from heddle.passes.tir.lower import lower
from heddle.schedule import Schedule
from heddle.schedule.errors import ScheduleError
from heddle.schedule.examples import biased_product
from heddle.script import parse, to_text
from heddle.target import native
from heddle.tir.nodes import PrimFunc

KERNEL = """
@T.prim_func
def attention_row(
    Q: T.Buffer((n, 64), "float32"),
    K: T.Buffer((m, 64), "float32"),
    V: T.Buffer((m, 64), "float32"),
    O: T.Buffer((n, 64), "float32"),
    scale: T.float32,
):
    for i in T.parallel(n):
        with T.block("row"):
            vi = T.axis.spatial(n, i)
            score = T.alloc_buffer((m,), "float32")
            top = T.alloc_buffer((1,), "float32", scope="local")
            total = T.alloc_buffer((1,), "float32", scope="local")
            top[0] = T.float32("-inf")
            for j in T.serial(m):
                score[j] = 0.0
                for k in T.serial(64):
                    score[j] += Q[vi, k] * K[j, k]
                score[j] = score[j] * scale
                top[0] = T.max(top[0], score[j])
            total[0] = 0.0
            for k in T.vectorized(64):
                O[vi, k] = 0.0
            for j in T.serial(m):
                score[j] = T.exp(score[j] - top[0])
                total[0] += score[j]
                for k in T.vectorized(64):
                    O[vi, k] += score[j] * V[j, k]
            for k in T.vectorized(64):
                O[vi, k] = O[vi, k] / total[0]
"""


def milliseconds(action: Callable[[], object]) -> float:
    """The time of one call."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1e3


# -- from script to callable ---------------------------------------------------------------------


def check_kernel() -> None:
    """The kernel that is timed computes attention."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((size, 64)).astype(np.float32) for size in (5, 7, 7))
    out = np.empty_like(q)
    heddle.build(parse(KERNEL))(q, k, v, out, 0.125)
    weights = np.exp(q.astype(np.float64) @ k.T * 0.125)
    want = weights / weights.sum(1, keepdims=True) @ v
    assert np.allclose(out, want, rtol=1e-4, atol=1e-5)


def first_kernel(bytecode: str) -> float:
    """Script to callable in a new process: loading the compiler and LLVM counts, `import heddle`
    does not. bytecode: where Python keeps compiled modules, as an installed package has them."""
    program = (
        "import time, heddle; from heddle.script import parse; from benchmarks.language import "
        "KERNEL; t = time.perf_counter(); heddle.build(parse(KERNEL)); "
        "print((time.perf_counter() - t) * 1e3)"
    )
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = bytecode
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, check=True, capture_output=True, env=env).stdout)


def kernels(rounds: int) -> None:
    check_kernel()
    lines = len(KERNEL.strip().splitlines())
    times = [milliseconds(lambda: heddle.build(parse(KERNEL))) for _ in range(rounds)]
    parts = [milliseconds(lambda: parse(KERNEL)) for _ in range(rounds)]
    print(f"script to callable, {lines} lines")
    print(f"  median {statistics.median(times):8.1f} ms, of which parsing "
          f"{statistics.median(parts):.1f} ms")  # fmt: skip
    with tempfile.TemporaryDirectory() as bytecode:
        first_kernel(bytecode)
        first = statistics.median(first_kernel(bytecode) for _ in range(5))
    print(f"  first  {first:8.1f} ms, in a new process, which loads the compiler and LLVM")


# -- primitives ----------------------------------------------------------------------------------


def midway() -> Schedule:
    """The product of 1024 in the middle of step 8 of the tutorial: tiled, packed, not yet split
    into vectors."""
    sch = Schedule(product(1024))
    i, j, k = sch.get_loops("C")
    sch.cache_write("C", 0, "local")
    rows, row = sch.split(i, factors=[None, 6])
    tiles, vector, lane = sch.split(j, factors=[None, 4, 16])
    sch.reorder(tiles, rows, k, row, vector, lane)
    sch.cache_read("C", 1, "global")
    sch.compute_at("B_global", tiles)
    sch.reverse_compute_at("C_write", rows)
    return sch


def untiled() -> Schedule:
    """The same with the panel copied and the accumulators apart, all of it before tiling."""
    sch = Schedule(product(1024))
    sch.cache_write("C", 0, "local")
    sch.cache_read("C", 1, "global")
    return sch


def biased() -> Schedule:
    """A product that a bias is added to, in another block than the sums."""
    sch = Schedule(biased_product(1024, 1024, 1024))
    sch.cache_write("C", 0, "local")
    return sch


def noted() -> Schedule:
    """The midway product with an annotation."""
    sch = midway()
    sch.annotate("C", "note", 1)
    return sch


def plain() -> Schedule:
    """The product before the first step."""
    return Schedule(product(1024))


Case = tuple[Callable[[], Schedule], Callable[[Schedule], object]]


def _tiles(sch: Schedule) -> Sequence[Any]:
    """Loops j_0, i_0, k, i_1, j_1, j_2 of the midway product."""
    return sch.get_loops("C")


def _moved(sch: Schedule) -> None:
    sch.reverse_compute_at("C_write", sch.get_loops("C")[1])


CASES: dict[str, Case] = {
    "split": (midway, lambda sch: sch.split(_tiles(sch)[2], factors=[None, 4])),
    "fuse": (midway, lambda sch: sch.fuse(*_tiles(sch)[3:5])),
    "reorder": (midway, lambda sch: sch.reorder(*reversed(_tiles(sch)[2:5]))),
    "parallel": (midway, lambda sch: sch.parallel(_tiles(sch)[0])),
    "vectorize": (midway, lambda sch: sch.vectorize(_tiles(sch)[5])),
    "unroll": (midway, lambda sch: sch.unroll(_tiles(sch)[4])),
    "serial": (midway, lambda sch: sch.serial(_tiles(sch)[4])),
    "bind": (midway, lambda sch: sch.bind(_tiles(sch)[0], "blockIdx.x")),
    "annotate": (midway, lambda sch: sch.annotate("C", "note", 1)),
    "add_unit_loop": (midway, lambda sch: sch.add_unit_loop("C")),
    "cache_read": (midway, lambda sch: sch.cache_read("C", 0, "global")),
    "cache_write": (plain, lambda sch: sch.cache_write("C", 0, "local")),
    "reindex": (midway, lambda sch: sch.reindex("C", "read", 0)),
    "compute_at": (untiled, lambda sch: sch.compute_at("B_global", sch.get_loops("C")[0])),
    "reverse_compute_at": (
        untiled,
        lambda sch: sch.reverse_compute_at("C_write", sch.get_loops("C")[0]),
    ),
    "fuse_reduction_epilogue": (
        lambda: Schedule(biased_product(1024, 1024, 1024)),
        lambda sch: sch.fuse_reduction_epilogue("C", "D"),
    ),
    "compute_inline": (untiled, lambda sch: sch.compute_inline("B_global")),
    "reverse_compute_inline": (biased, lambda sch: sch.reverse_compute_inline("D")),
    "set_scope": (midway, lambda sch: sch.set_scope("B_global", 0, "local")),
    "storage_align": (midway, lambda sch: sch.storage_align("B_global", 0, 0, 32, 8)),
    "transform_layout": (
        midway,
        lambda sch: sch.transform_layout(
            "B_global", "write", 0, "lambda i, j: (j // 64, i, j % 64)"
        ),
    ),
    "transform_block_layout": (
        plain,
        lambda sch: sch.transform_block_layout("C", "lambda i, j, k: (i * 1024 + j, k)"),
    ),
    "reorder_block_iter_var": (midway, lambda sch: sch.reorder_block_iter_var("C", [1, 0, 2])),
    "decompose_reduction": (midway, lambda sch: sch.decompose_reduction("C", _tiles(sch)[2])),
    "rfactor": (plain, lambda sch: sch.rfactor("C", sch.get_loops("C")[2])),
    "blockize": (midway, lambda sch: sch.blockize(_tiles(sch)[4])),
    "loop_partition": (midway, lambda sch: sch.loop_partition(_tiles(sch)[1], [170, None])),
    "pad_einsum": (plain, lambda sch: sch.pad_einsum("C", [6, 64, 1])),
    "sample_perfect_tile": (plain, lambda sch: sch.sample_perfect_tile(_tiles(sch)[0], n=3)),
    "software_pipeline": (midway, lambda sch: sch.software_pipeline(_tiles(sch)[0], [0, 1])),
    "read_at": (plain, lambda sch: sch.read_at(_tiles(sch)[1], "C", 0, "global")),
    "write_at": (plain, lambda sch: sch.write_at(_tiles(sch)[1], "C", 0, "global")),
    "unannotate": (noted, lambda sch: sch.unannotate("C", "note")),
    "double_buffer": (midway, lambda sch: sch.double_buffer("B_global", _tiles(sch)[0])),
    "merge": (
        lambda: Schedule(biased_product(1024, 1024, 1024)),
        lambda sch: sch.merge(sch.get_loops("C")[0], sch.get_loops("D")[0]),
    ),
    "reindex_cache_read": (
        plain,
        lambda sch: sch.reindex_cache_read(
            "C", 1, "global", "lambda i, j, k: (j // 64, k, j % 64)"
        ),
    ),
    "reindex_cache_write": (
        plain,
        lambda sch: sch.reindex_cache_write("C", 0, "global", "lambda i, j, k: (j, i)"),
    ),
    "sample_categorical": (plain, lambda sch: sch.sample_categorical([1, 2], [0.5, 0.5])),
    "sample_compute_location": (untiled, lambda sch: sch.sample_compute_location("B_global")),
    "prefetch": (midway, lambda sch: sch.prefetch("C", 0, _tiles(sch)[2])),
}


def primitives(rounds: int) -> None:
    """The time of each primitive in a schedule that is under way."""
    print("schedule primitives on the product of docs/tutorials/matrix-product.md")
    found: dict[str, list[float]] = {}
    for name, (start, apply) in CASES.items():
        function = start().func
        for _ in range(rounds):
            sch = Schedule(function)
            found.setdefault(name, []).append(milliseconds(functools.partial(apply, sch)))
            if not sch.trace.steps or sch.trace.steps[-1].primitive != name:
                raise AssertionError(f"{name} did not run")
    for name, times in sorted(found.items(), key=lambda item: -statistics.median(item[1])):
        print(f"  {name:24s} median {statistics.median(times):7.3f} ms, "
              f"largest {max(times):.2f}")  # fmt: skip


def errors(rounds: int) -> None:
    """The time to refuse a primitive, with the message that underlines the loop."""
    sch = midway()
    loops = sch.get_loops("C")

    def refused() -> None:
        try:
            sch.reorder(loops[0], loops[0])
        except ScheduleError as error:
            str(error)
            return
        raise AssertionError("a loop given twice was accepted")

    times = [milliseconds(refused) for _ in range(rounds)]
    print(f"a ScheduleError, raised and printed: median {statistics.median(times):.2f} ms")


# -- round trips ---------------------------------------------------------------------------------


def stages(name: str) -> list[tuple[str, IRModule]]:
    """The module of a network's small variant: as imported, fused, scheduled, and with its kernels
    lowered to flat loops."""
    path = str(zoo.onnx_path(name, small=True))
    made = [(stop, heddle.optimize(path, stop_after=stop)) for stop in ("normalise", "fuse")]
    scheduled = heddle.optimize(path)
    made.append(("schedule", scheduled))
    flat = {
        key: lower(func, native())
        for key, func in scheduled.functions.items()
        if isinstance(func, PrimFunc)
    }
    made.append(("lowered", scheduled.with_functions(flat)))
    return made


def pieces(module: IRModule) -> list[Any]:
    """The module as a whole, then each of its functions."""
    return [module, *module.functions.values()]


def round_trip(root: Any) -> tuple[float, bool]:
    """Milliseconds of printing and parsing, and whether the result is equal."""
    constants: dict[str, np.ndarray] = {}
    begin = time.perf_counter()
    text = to_text(root, constants=constants)
    again = parse(text, constants=constants)
    took = (time.perf_counter() - begin) * 1e3
    return took, structural_equal(root, again)


def round_trips(names: Sequence[str], trips: int) -> bool:
    """Whether all of at least `trips` round trips gave an equal module or function."""
    found = [
        (name, stage, root)
        for name in names
        for stage, module in stages(name)
        for root in pieces(module)
    ]
    times: list[float] = []
    lines, differ = 0, list[str]()
    while len(times) < trips:
        for name, stage, root in found:
            took, equal = round_trip(root)
            times.append(took)
            lines += str(root).count("\n") + 1 if len(times) <= len(found) else 0
            if not equal:
                differ.append(f"{name} after {stage}: {root!r}")
    print(f"round trips: {len(times)} of {len(found)} modules and functions, {lines} lines, "
          f"of {len(names)} networks")  # fmt: skip
    print(f"  equal  {len(times) - len(differ)} of {len(times)}")
    print(f"  median {statistics.median(times):8.2f} ms a trip, mean {statistics.mean(times):.2f}, "
          f"{1e3 * sum(times[:len(found)]) / lines:.0f} us a line")  # fmt: skip
    for line in differ[:10]:
        print(f"  differs: {line}")
    return not differ


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a round trip differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--trips", type=int, default=1000)
    parser.add_argument("--models", default=",".join(zoo.models()))
    options = parser.parse_args(arguments)
    kernels(options.rounds)
    primitives(options.rounds)
    errors(options.rounds)
    return 0 if round_trips(options.models.split(","), options.trips) else 1


if __name__ == "__main__":
    sys.exit(main())
