# SPDX-License-Identifier: Apache-2.0
"""The trace: its text, JSON round trip and replay."""

from __future__ import annotations

import pytest

from heddle.ir import first_mismatch
from heddle.schedule import Schedule, ScheduleError, Step, Trace, replay
from heddle.support import UserError
from tests.schedule.kernels import matmul


def scheduled() -> Schedule:
    sch = Schedule(matmul(6, 8, 5, epilogue=True))
    sch.compute_inline("D")
    i, j, k = sch.get_loops("C")
    i_0, i_1 = sch.split(i, factors=[None, 3])
    sch.reorder(i_0, j, k, i_1)
    sch.reverse_compute_at("E", j)
    sch.decompose_reduction("C", k)
    sch.parallel(sch.fuse(i_0, j))
    sch.annotate("E", "note", [1, {"deep": 2.5}])
    return sch


def test_text_is_the_program() -> None:
    assert str(scheduled().trace).splitlines() == [
        "sch.compute_inline('D')",
        "i, j, k = sch.get_loops('C')",
        "i_0, i_1 = sch.split(i, factors=[None, 3])",
        "sch.reorder(i_0, j, k, i_1)",
        "sch.reverse_compute_at('E', j)",
        "sch.decompose_reduction('C', k)",
        "i_0_j_fused = sch.fuse(i_0, j)",
        "sch.parallel(i_0_j_fused)",
        "sch.annotate('E', 'note', [1, {'deep': 2.5}])",
    ]


def test_the_text_runs() -> None:
    original = scheduled()
    sch = Schedule(matmul(6, 8, 5, epilogue=True))
    exec(str(original.trace), {"sch": sch})
    assert first_mismatch(original.func, sch.func, map_free_vars=True) is None


def test_json_round_trip_and_replay() -> None:
    original = scheduled()
    trace = Trace.from_json(original.trace.to_json())
    assert str(trace) == str(original.trace)
    again = replay(trace, matmul(6, 8, 5, epilogue=True))
    assert first_mismatch(original.func, again.func, map_free_vars=True) is None
    assert str(again.trace) == str(original.trace)


def test_replay_with_other_tile_sizes() -> None:
    trace = Trace.from_json(scheduled().trace.to_json())
    other = trace.changed("i_0", factors=[None, 2]).changed(-1, value="other")
    sch = replay(other, matmul(6, 8, 5, epilogue=True))
    assert str(sch.trace).splitlines()[2] == "i_0, i_1 = sch.split(i, factors=[None, 2])"
    assert sch.loop(sch.get_loops("C_init")[-1]).extent.value == 2  # type: ignore[attr-defined]
    assert sch.block("E").annotations == {"note": "other"}
    assert str(trace) == str(scheduled().trace)
    for step, arguments, message in (
        ("k_0", {"factors": [1]}, "no step of the trace made a loop `k_0`"),
        ("i_0", {"factor": [1]}, "is given no argument `factor`; it is given `loop`, `factors`"),
        (99, {}, "the trace has 9 steps, none is 99"),
    ):
        with pytest.raises(UserError, match=message):
            trace.changed(step, **arguments)


def test_equal_names_are_told_apart() -> None:
    sch = Schedule(matmul(6, 8, 5, epilogue=True))
    sch.parallel(sch.get_loops("D")[0])
    sch.parallel(sch.get_loops("E")[0])
    assert str(sch.trace).splitlines() == [
        "i, j = sch.get_loops('D')",
        "sch.parallel(i)",
        "i_1, j_1 = sch.get_loops('E')",
        "sch.parallel(i_1)",
    ]


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"primitive": "split"}]', "{}x"])
def test_bad_json(text: str) -> None:
    with pytest.raises(UserError, match="not a schedule trace"):
        Trace.from_json(text)


def test_bad_steps() -> None:
    func = matmul(2, 2, 2)
    with pytest.raises(UserError, match="there is no primitive `melt`"):
        replay(Trace([Step("melt", {})]), func)
    other = Trace.from_json(
        '[{"primitive": "parallel", "arguments": {"loop": {"loop": "z"}}, "results": []}]'
    )
    with pytest.raises(UserError, match="no earlier step names a loop `z`"):
        replay(other, func)


def test_a_refused_primitive_takes_no_names() -> None:
    """tensorize makes a block of the loop, and then finds that no intrinsic does it."""
    sch = Schedule(matmul(6, 8, 5, epilogue=True))
    with pytest.raises(ScheduleError, match="tensorize"):
        sch.tensorize(sch.get_loops("D")[1], "arm.fma")
    sch.parallel(sch.get_loops("E")[0])
    again = replay(Trace.from_json(sch.trace.to_json()), matmul(6, 8, 5, epilogue=True))
    assert str(again.trace) == str(sch.trace) == "i, j = sch.get_loops('E')\nsch.parallel(i)"
