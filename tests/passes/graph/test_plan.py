# SPDX-License-Identifier: Apache-2.0
"""Lowering and memory planning: a plan is executed on real bytes, where any overlap would show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from heddle import op
from heddle.graph import CallDPS, GraphBuilder, GraphExpr, Tuple, TupleGetItem
from heddle.ir import IRModule, TensorType
from heddle.ir.expr import Expr, IntImm, Var, as_int
from heddle.op.interp import interpret
from heddle.passes.graph.anf import evaluate_dim
from heddle.passes.graph.fuse import fuse
from heddle.passes.graph.host_plan import HostPlan, Storage
from heddle.passes.graph.lower import Lower, lower
from heddle.passes.graph.plan import plan_memory
from heddle.support import UserError
from heddle.tir import interp as tir_interp
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import Buffer, PrimFunc
from tests.passes.graph.support import as_tuple, build, draw, main_of, ops_of, weights

F = np.float32
POISON = 0xAB


def execute(module: IRModule, plan: HostPlan, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Run a plan in an arena that starts as garbage, kernel by kernel."""
    symbols: dict[Any, int] = {}
    for tensor, array in zip(plan.inputs, inputs, strict=True):
        for dim, size in zip(tensor.type.shape, array.shape, strict=True):
            if isinstance(dim, Var):
                symbols[dim] = size

    def number(value: Expr) -> int:
        return evaluate_dim(value, symbols)

    arena = np.full(number(plan.arena_size), POISON, np.uint8)
    constants = plan.constant_bytes()
    outputs = [
        np.zeros([number(d) for d in item.type.shape], item.type.dtype.numpy)
        for item in plan.outputs
    ]
    memory = {"arena": [arena], "constant": [constants], "input": inputs, "output": outputs}

    for call in plan.calls:
        func = module[call.kernel]
        assert isinstance(func, PrimFunc)
        own = dict(zip(shape_symbols(func), [number(s) for s in call.scalars], strict=True))
        arrays = []
        for param, place in zip(func.params, call.args, strict=True):
            assert isinstance(param, Buffer)
            raw = memory[place.kind][place.index].reshape(-1).view(np.uint8)
            shape = [evaluate_dim(dim, own) for dim in param.shape]
            begin = number(place.offset)
            size = int(np.prod(shape)) * param.dtype.nbytes
            assert begin + size <= raw.size, f"{call.kernel} reads past the end of {place.kind}"
            arrays.append(raw[begin : begin + size].view(param.dtype.numpy).reshape(shape))
        tir_interp.run(func, *arrays)
    return outputs


def check_plan(
    before: IRModule, *, in_place: bool = False, **symbols: int
) -> tuple[IRModule, HostPlan]:
    """Fuse, lower and plan; the executed plan gives what the model computes."""
    lowered = Lower(in_place=in_place)(fuse(before))
    plan = plan_memory(lowered)
    inputs = draw(before, **symbols)
    wanted = as_tuple(interpret(before, inputs))
    for result, expected in zip(execute(lowered, plan, inputs), wanted, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    return lowered, plan


def chain(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    for seed in range(6):
        x = builder.emit(op.relu(op.matmul(x, weights(8, 8, seed=seed))))
    return x


def skips(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    kept = [x]
    for seed in range(5):
        x = builder.emit(op.tanh(op.matmul(x, weights(8, 8 + seed, seed=seed))))
        kept.append(x)
        x = builder.emit(op.matmul(x, weights(8 + seed, 8, seed=seed + 10)))
    return op.concat(*kept, x, axis=1)


def views(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    y = builder.emit(op.reshape(builder.emit(op.matmul(x, weights(8, 8))), shape=(2, 16)))
    z = builder.emit(op.matmul(y, weights(16, 3)))
    w = builder.emit(op.matmul(op.reshape(z, shape=(3, 2)), weights(2, 2)))
    return op.add(op.mean(y), w)


def tuples(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    parts = builder.emit(op.split(x, sizes=(3, 5), axis=1))
    left = builder.emit(op.matmul(TupleGetItem(parts, 0), weights(3, 2)))
    return Tuple((left, builder.emit(TupleGetItem(parts, 1))))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("body", [chain, skips, views, tuples])
def test_values(body: Callable[..., GraphExpr], in_place: bool) -> None:
    check_plan(build(body, (4, 8)), in_place=in_place)


def test_a_chain_needs_two_buffers() -> None:
    _, plan = check_plan(build(chain, (4, 8)))
    size = 4 * 8 * 4
    assert as_int(plan.arena_size) == 2 * size
    assert plan.report.live_peak == plan.report.arena == 2 * size
    assert plan.report.unshared == 5 * size
    assert len(plan.kernels) == 1
    assert len(plan.calls) == 6


def test_offsets_are_aligned_and_live_values_apart() -> None:
    _, plan = check_plan(build(skips, (3, 8)))
    offsets = [place.offset for call in plan.calls for place in call.args if place.kind == "arena"]
    assert offsets
    assert all(as_int(offset) % 64 == 0 for offset in offsets)  # type: ignore[operator]
    assert plan.report.arena < plan.report.unshared
    assert plan.report.arena <= 1.25 * plan.report.live_peak


def elementwise_chain(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
    y = builder.emit(op.matmul(x, weights(8, 8)))
    z = builder.emit(op.cumsum(y, axis=0))
    t = builder.emit(op.tanh(z))
    return op.cumsum(t, axis=1)


def test_in_place_reuse() -> None:
    module = build(elementwise_chain, (4, 8))
    lowered, plan = check_plan(module, in_place=True)
    assert [call.kernel for call in plan.calls] == ["matmul", "cumsum", "tanh", "cumsum_1"]
    source, target = plan.calls[2].args
    assert source == target
    func = lowered["tanh"]
    assert isinstance(func, PrimFunc)
    assert func.attrs["inplace"] == ((0, 1),)
    assert "inplace" not in lowered["cumsum"].attrs  # type: ignore[attr-defined]
    _, apart = check_plan(module)
    assert apart.calls[2].args[0] != apart.calls[2].args[1]


def test_in_place_only_where_each_element_is_read_once() -> None:
    def attr(body: Callable[..., GraphExpr], *shapes: tuple[int, ...]) -> object:
        lowered = lower(fuse(build(body, *shapes)))
        (name,) = kernels_of_lowered(lowered)
        return lowered[name].attrs.get("inplace", ())  # type: ignore[attr-defined]

    assert attr(lambda x: op.exp(op.mul(x, F(2))), (3, 4)) == ((0, 1),)
    assert attr(lambda x, y: op.add(x, y), (3, 4), (3, 4)) == ((0, 2), (1, 2))
    assert attr(lambda x, y: op.add(x, y), (3, 4), (4,)) == ((0, 2),)
    assert attr(lambda x: op.add(x, op.transpose(x)), (4, 4)) == ()
    assert attr(lambda x: op.exp(op.transpose(op.exp(x))), (4, 4)) == ()
    assert attr(lambda x: op.softmax(x), (4, 4)) == ()


def kernels_of_lowered(module: IRModule) -> list[str]:
    return [name for name, func in module.functions.items() if isinstance(func, PrimFunc)]


def test_results_that_are_inputs_constants_or_twice_are_copied() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        y = builder.emit(op.exp(x))
        z = builder.emit(op.reshape(y, shape=(-1,)))
        view = builder.emit(op.reshape(x, shape=(8, 4)))
        return Tuple((x, y, y, z, view, builder.atom(op.tanh(y))))

    _, plan = check_plan(build(body, (4, 8)))
    copies = [call for call in plan.calls if call.kernel.startswith("copy")]
    assert len(copies) == 4
    assert len({call.kernel for call in copies}) == 3, "one kernel per shape"
    written = [call.args[-1] for call in plan.calls]
    assert sorted(place.index for place in written if place.kind == "output") == list(range(6))


def test_constants_are_stored_once() -> None:
    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        y = builder.emit(op.matmul(x, weights(8, 8)))
        return op.matmul(op.matmul(y, weights(8, 8)), weights(8, 8, seed=2))

    _, plan = check_plan(build(body, (4, 8)))
    assert len(plan.constants) == 2
    assert plan.constants_size == 2 * 256
    assert plan.constant_bytes().ctypes.data % 64 == 0


def test_symbolic_sizes() -> None:
    n = Var("n")

    def body(builder: GraphBuilder, x: GraphExpr) -> GraphExpr:
        for seed in range(4):
            x = builder.emit(op.relu(op.matmul(x, weights(8, 8, seed=seed))))
            x = builder.emit(op.matmul(x, weights(8, 24, seed=seed)))
            x = builder.emit(op.matmul(x, weights(24, 8, seed=seed)))
        fixed = builder.emit(op.matmul(weights(5, 5), weights(5, 5)))
        return op.add(x, op.mean(fixed))

    before = build(body, (n, 8))
    for size in (1, 3, 17):
        _, plan = check_plan(before, n=size)
    assert plan.symbols == (n,)
    assert plan.symbol_ranges == ((0, 2**31 - 1),)
    assert as_int(plan.arena_size) is None
    at_17 = evaluate_dim(plan.arena_size, {n: 17})
    assert at_17 <= 128 + 2 * (17 * 24 * 4 + 64) + 17 * 8 * 4 + 64
    assert plan.outputs[0].type.shape[0] is n
    assert all(as_int(call.scalars[0]) is None for call in plan.calls if call.scalars)


def test_symbols_of_a_shared_kernel_are_those_of_the_call() -> None:
    n, m = Var("n"), Var("m")
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((n, 4), "float32"))
    y = builder.param("y", TensorType.of((m, 4), "float32"))
    results = Tuple((builder.emit(op.exp(x)), builder.emit(op.exp(y))))
    before = IRModule({"main": builder.finish(results)})
    _, plan = check_plan(before, n=2, m=5)
    assert len(plan.kernels) == 1
    assert [call.scalars for call in plan.calls] == [(n,), (m,)]


def test_a_symbol_must_be_a_dimension_of_its_own() -> None:
    n = Var("n")
    module = lower(fuse(build(lambda x: op.exp(x), (n * 2, 4))))
    with pytest.raises(UserError, match="`n` occurs only inside expressions"):
        plan_memory(module)


def test_equal_loop_functions_are_one() -> None:
    before = build(
        lambda x: op.relu(op.matmul(op.relu(op.matmul(x, weights(8, 8))), weights(8, 8))), (4, 8)
    )
    lowered = lower(fuse(before))
    assert kernels_of_lowered(lowered) == ["matmul_relu"]
    func = lowered["matmul_relu"]
    assert isinstance(func, PrimFunc)
    assert func.attrs["name"] == "matmul_relu"
    assert func.attrs["flops"] == 4 * 8 * (8 * 2 + 1)
    assert func.attrs["bytes"] == 4 * (32 + 64 + 32)
    assert ops_of(lowered) == ["matmul_relu"] * 2
    assert all(isinstance(b.value, CallDPS) for b in main_of(lowered).bindings)


def test_output_names_and_symbol_ranges() -> None:
    n = Var("n")
    before = build(lambda x: op.exp(x), (n, 4))
    main = main_of(before)
    attrs = {**main.attrs, "output_names": ("probabilities",), "symbol_ranges": {"n": (1, 64)}}
    before = before.with_functions({"main": main.replace(attrs=attrs)})
    _, plan = check_plan(before, n=2)
    assert plan.outputs[0].name == "probabilities"
    assert plan.symbol_ranges == ((1, 64),)


def test_alignment_is_known_for_arena_and_constants_only() -> None:
    assert Storage("arena", 0, IntImm(128)).aligned
    assert not Storage("arena", 0, IntImm(4)).aligned
    assert not Storage.input(0).aligned
    assert not Storage.output(1).aligned


def test_planning_wants_a_lowered_graph_function() -> None:
    with pytest.raises(UserError, match="`exp` is not a graph function"):
        plan_memory(lower(fuse(build(lambda x: op.exp(x), (2,)))), name="exp")


def test_operators_without_a_kernel_are_listed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {name: op.get(name)._rules for name in ("exp", "softmax")}
    module = fuse(build(lambda x: op.relu(op.softmax(op.transpose(op.exp(x)))), (3, 4)))
    for found in rules.values():
        monkeypatch.delitem(found, "compute")
    with pytest.raises(
        UserError, match=r"no kernel yet: op.exp \(for `exp`\); op.softmax \(for `s"
    ):
        lower(module)
