# SPDX-License-Identifier: Apache-2.0
"""Random sequences of primitives: whatever is accepted keeps the values; traces replay.

`HEDDLE_TEST_SEQUENCES=n` tries n sequences on each workload instead of a few, and
`HEDDLE_TEST_FIRST_SEQUENCE=s` begins with seed s instead of 0.
"""

from __future__ import annotations

import os
import random
from itertools import pairwise

import pytest

from heddle.codegen import build_kernel
from heddle.ir import first_mismatch
from heddle.ir.expr import as_int
from heddle.ir.node import Node
from heddle.schedule import LoopRef, Schedule, ScheduleError, Trace, replay
from heddle.schedule.compact import compact_buffers
from heddle.schedule.state import walk
from heddle.tir.nodes import Block, For, Seq, Stmt
from heddle.tir.verify import verify
from tests.schedule.workloads import WORKLOADS, check_results, random_inputs, results

STEPS = 14
MOST_INSTANCES = 200_000
"""Steps that make blocks run more often than this, all taken together, are taken back: the
interpreter would need minutes."""


def _some_loop(rng: random.Random, sch: Schedule) -> LoopRef:
    loops = list(sch.state.loop_links)
    if not loops:
        raise ScheduleError("no loops")
    return LoopRef(rng.choice(loops))


def _some_block(rng: random.Random, sch: Schedule) -> str:
    return rng.choice(sch.get_blocks()).name


def _split(rng: random.Random, sch: Schedule) -> None:
    factors = [None, rng.choice([1, 2, 3, 4, 5])]
    if rng.random() < 0.3:
        factors.append(2)
    if rng.random() < 0.3:
        factors.reverse()
    sch.split(_some_loop(rng, sch), factors, tail=rng.choice(["predicate", "predicate", "peel"]))


def _fuse(rng: random.Random, sch: Schedule) -> None:
    loops = sch.get_loops(_some_block(rng, sch))
    start = rng.randrange(len(loops)) if loops else 0
    sch.fuse(*loops[start : start + 2])


def _reorder(rng: random.Random, sch: Schedule) -> None:
    loops = sch.get_loops(_some_block(rng, sch))
    chosen = rng.sample(loops, min(len(loops), rng.choice([2, 3])))
    sch.reorder(*chosen)


def _rfactor(rng: random.Random, sch: Schedule) -> None:
    block = _some_block(rng, sch)
    loops = sch.get_loops(block)
    if loops:
        sch.rfactor(block, rng.choice(loops), axis=rng.choice([0, 1, -1]))


def _partition(rng: random.Random, sch: Schedule) -> None:
    factors = rng.choice([[1, None], [None, 2], [2, None, 1]])
    sch.loop_partition(_some_loop(rng, sch), factors)


def _merge(rng: random.Random, sch: Schedule) -> None:
    rows = [n.stmts for n in walk(sch.func.body) if type(n) is Seq]
    pairs = [(a, b) for row in rows for a, b in pairwise(row) if type(a) is For is type(b)]
    if not pairs:
        raise ScheduleError("no neighbours")
    first, second = rng.choice(pairs)
    sch.merge(LoopRef(first.var), LoopRef(second.var))


def _reindex(rng: random.Random, sch: Schedule) -> None:
    block = _some_block(rng, sch)
    count = len(sch.block(block).iters)
    names = [f"v{n}" for n in range(count)]
    images = [f"{name} % 2, {name} // 2" if rng.random() < 0.3 else name for name in names]
    rng.shuffle(images)
    index_map = f"lambda {', '.join(names)}: ({', '.join(images)},)"
    action = rng.choice(["read", "write", "plain", "block"])
    if action == "read":
        sch.reindex_cache_read(block, rng.choice([0, 1]), "global", index_map)
    elif action == "write":
        sch.reindex_cache_write(block, 0, "local", index_map)
    elif action == "plain":
        sch.reindex(block, rng.choice(["read", "write"]), 0)
    else:
        sch.transform_block_layout(block, index_map)


def _pad(rng: random.Random, sch: Schedule) -> None:
    block = _some_block(rng, sch)
    padding = [rng.choice([1, 2, 4]) for _ in sch.block(block).iters]
    sch.pad_einsum(block, padding)


def _unpad(rng: random.Random, sch: Schedule) -> None:
    block = _some_block(rng, sch)
    loops = sch.get_loops(block)
    if loops:
        sch.decompose_padding(block, rng.choice(loops))


def _epilogue(rng: random.Random, sch: Schedule) -> None:
    blocks = [block.name for block in sch.get_blocks()]
    sch.fuse_reduction_epilogue(rng.choice(blocks), rng.choice(blocks))


def _sampled_split(rng: random.Random, sch: Schedule) -> None:
    loop = _some_loop(rng, sch)
    sch.split(loop, sch.sample_perfect_tile(loop, n=rng.choice([2, 3])))


def _sampled_move(rng: random.Random, sch: Schedule) -> None:
    block = _some_block(rng, sch)
    sch.compute_at(block, sch.sample_compute_location(block))


def _align(rng: random.Random, sch: Schedule) -> None:
    sch.storage_align(_some_block(rng, sch), 0, 0, rng.choice([4, 16]), rng.choice([0, 1]))


def _pipeline(rng: random.Random, sch: Schedule) -> None:
    loops = [n for n in sch.state.loop_links if type(sch.state.loop(n).body) is Seq]
    if not loops:
        raise ScheduleError("no sequence")
    count = len(sch.state.loop(var := rng.choice(loops)).body.stmts)
    sch.software_pipeline(LoopRef(var), sorted(rng.choice([0, 1, 2]) for _ in range(count)))


def _staged_at(rng: random.Random, sch: Schedule) -> None:
    move = rng.choice([sch.read_at, sch.write_at])
    move(_some_loop(rng, sch), _some_block(rng, sch), 0, "local")


def _index(rng: random.Random, sch: Schedule) -> None:
    sch.cache_index(_some_block(rng, sch), "local", repeats=rng.choice([1, 2]))


def _roll(rng: random.Random, sch: Schedule) -> None:
    block = _some_block(rng, sch)
    loops = sch.get_loops(block)
    if loops:
        sch.rolling_buffer(block, rng.choice(loops))


ACTIONS = {
    "split": (_split, 6),
    "fuse": (_fuse, 3),
    "reorder": (_reorder, 4),
    "parallel": (lambda rng, sch: sch.parallel(_some_loop(rng, sch)), 1),
    "vectorize": (lambda rng, sch: sch.vectorize(_some_loop(rng, sch)), 1),
    "unroll": (lambda rng, sch: sch.unroll(_some_loop(rng, sch)), 1),
    "unit": (lambda rng, sch: sch.add_unit_loop(_some_block(rng, sch)), 1),
    "compute_at": (
        lambda rng, sch: sch.compute_at(_some_block(rng, sch), _some_loop(rng, sch)),
        6,
    ),
    "reverse_compute_at": (
        lambda rng, sch: sch.reverse_compute_at(_some_block(rng, sch), _some_loop(rng, sch)),
        6,
    ),
    "compute_inline": (lambda rng, sch: sch.compute_inline(_some_block(rng, sch)), 1),
    "reverse_compute_inline": (
        lambda rng, sch: sch.reverse_compute_inline(_some_block(rng, sch)),
        1,
    ),
    "cache_read": (
        lambda rng, sch: sch.cache_read(_some_block(rng, sch), rng.choice([0, 1]), "local"),
        2,
    ),
    "cache_write": (lambda rng, sch: sch.cache_write(_some_block(rng, sch), 0, "local"), 2),
    "cache_inplace": (lambda rng, sch: sch.cache_inplace(_some_block(rng, sch), 0, "local"), 2),
    "reindex": (_reindex, 4),
    "software_pipeline": (_pipeline, 3),
    "staged_at": (_staged_at, 2),
    "fuse_reduction_epilogue": (_epilogue, 4),
    "sample_perfect_tile": (_sampled_split, 3),
    "sample_compute_location": (_sampled_move, 2),
    "storage_align": (_align, 1),
    "pad_einsum": (_pad, 2),
    "decompose_padding": (_unpad, 3),
    "rfactor": (_rfactor, 3),
    "loop_partition": (_partition, 2),
    "merge": (_merge, 2),
    "cache_index": (_index, 2),
    "rolling_buffer": (_roll, 4),
    "decompose_reduction": (
        lambda rng, sch: sch.decompose_reduction(_some_block(rng, sch), _some_loop(rng, sch)),
        3,
    ),
}


def _instances(node: Node) -> int:
    """How often the blocks of a statement run; a symbolic loop counts as eight iterations."""
    count = sum(_instances(child) for child in node.children() if isinstance(child, Stmt))
    if type(node) is For:
        return count * (8 if (extent := as_int(node.extent)) is None else extent)
    return max(count, 1) if type(node) is Block else count


def random_schedule(name: str, seed: int) -> Schedule:
    """A schedule of kernel `name` after some random primitives that were accepted."""
    rng = random.Random(f"{name} {seed}")
    sch = Schedule(WORKLOADS[name]())
    names = list(ACTIONS)
    weights = [ACTIONS[action][1] for action in names]
    done = 0
    for _ in range(8 * STEPS):
        action = rng.choices(names, weights)[0]
        before = sch.func
        try:
            ACTIONS[action][0](rng, sch)
        except ScheduleError:
            assert sch.func is before, f"{action} failed but changed the function"
            continue
        if _instances(sch.func.body) > MOST_INSTANCES:
            sch.trace.steps.pop()
            sch = replay(sch.trace, WORKLOADS[name]())
            continue
        done += 1
        if done == STEPS:
            break
    return sch


SEQUENCES = int(os.environ.get("HEDDLE_TEST_SEQUENCES", "3"))
FIRST = int(os.environ.get("HEDDLE_TEST_FIRST_SEQUENCE", "0"))

MENDED = [
    *(("conv2d", seed) for seed in (1013, 3005, 3066, 3088)),
    ("batched_product", 15072),
    ("depthwise", 2076),
    ("depthwise", 8040),
    ("layer_norm", 9039),
    ("matmul", 216),
    ("scan", 11000),
    ("softmax", 5126),
    ("stencil", 3120),
    ("symbolic_sum", 209),
    ("symbolic_sum", 5014),
    ("symbolic_sum", 9110),
    ("symbolic_sum", 10125),
    ("gather", 1123),
    ("gather", 6026),
    ("gather", 6111),
    ("gather", 12031),
    ("gather", 14058),
    ("max_pool", 122),
    ("max_pool", 1033),
    ("triangular_loops", 6092),
    ("triangular_loops", 7111),
    ("triangular_loops", 9036),
    ("triangular_product", 1065),
]
"""Sequences that once gave wrong values."""

CASES = [(name, seed) for name in WORKLOADS for seed in range(FIRST, FIRST + SEQUENCES)]


@pytest.mark.parametrize("name, seed", [*CASES, *MENDED])
def test_random_schedules_keep_values(name: str, seed: int) -> None:
    """Interpreted, with compacted buffers, and compiled: the lowering passes and the code
    generator understand whatever the primitives produce."""
    sch = random_schedule(name, seed)
    original = WORKLOADS[name]()
    inputs = random_inputs(original, seed)
    want = results(original, inputs)
    verify(sch.func)
    check_results(results(sch.func, inputs), want)
    compacted = compact_buffers(sch.func)
    verify(compacted)
    check_results(results(compacted, inputs), want)
    check_results(results(original, inputs, build_kernel(sch.func)), want)
    again = replay(Trace.from_json(sch.trace.to_json()), original)
    assert first_mismatch(again.func, sch.func, map_free_vars=True) is None
    assert str(again.trace) == str(sch.trace)
