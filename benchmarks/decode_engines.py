# SPDX-License-Identifier: Apache-2.0
"""The engines of `benchmarks.decode`, each with its own way to keep the cache.

heddle        one call a token from Python; the caches are donated and written in place
heddle-loop   one call for many tokens: the loop is in the compiled function
inductor      torch.compile with a static cache that is written in place, weights frozen
ort           ONNX Runtime with past and present of the exact length, bound without a copy
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim

import heddle
from benchmarks.decode_models import (
    SIZES,
    GrowingStep,
    MaskedStep,
    Size,
    StaticStep,
    build,
    cache_names,
)
from heddle.frontend.torch import from_exported_program
from heddle.graph import BindDim, Call, Constant, GraphBuilder, Tuple, TupleGetItem
from heddle.ir import GlobalVar, IRModule, TensorType
from heddle.ir.expr import Var, const
from heddle.op import get
from heddle.passes.graph.inline import inline

Decode = Callable[[int, int, int], list[int]]
"""From a token, its position and a count: that many tokens that follow it. Rows before the position
are those of the calls before."""

CHUNK = 32
"""Tokens of one call of the loop."""


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _step_module(size: Size, capacity: int) -> IRModule:
    """`StaticStep` as a module; the number of rows is a symbol, of 2 to capacity - 1."""
    caches = [torch.zeros(size.cache_shape(capacity)) for _ in cache_names(size)]
    example = (torch.tensor([1]), torch.tensor([7]), torch.zeros(1, 1, 1, 8), *caches)
    rows = Dim("rows", min=2, max=capacity - 1)
    shapes = (None, None, {3: rows}, tuple(None for _ in caches))
    with torch.no_grad():
        step = StaticStep(build(size, capacity))
        return from_exported_program(torch.export.export(step, example, dynamic_shapes=shapes))


def _empty(size: Size, capacity: int) -> list[Any]:
    """Caches whose pages there are already: numpy's zeros get theirs when rows are written, which
    would look like memory that grows with the tokens."""
    return [np.full(size.cache_shape(capacity), 0, np.float32) for _ in cache_names(size)]


def load_heddle(size: Size, capacity: int, threads: int) -> Decode:
    """A step called from Python."""
    module = _step_module(size, capacity)
    caches = [param.name for param in module["main"].params[3:]]  # type: ignore[attr-defined]
    run = heddle.compile(module, donate=caches, num_threads=threads)
    state = _empty(size, capacity)
    mask = np.zeros((1, 1, 1, capacity), np.float32)

    def decode(token: int, position: int, count: int) -> list[int]:
        found, given = [], np.asarray([token])
        for at in range(position, position + count):
            given, *state[:] = run(given, np.asarray([at]), mask[..., : at + 1], *state)
            found.append(int(given.numpy()[0]))
        return found

    return decode


def loop_module(step: IRModule, size: Size, capacity: int) -> IRModule:
    """(token [1], position [1], caches) -> the `CHUNK` tokens that follow, caches."""
    single = TensorType.of((1,), "int64")
    kinds = [TensorType.of(size.cache_shape(capacity), "float32") for _ in cache_names(size)]
    body = GraphBuilder("body")
    body.param("iteration", TensorType.of((), "int64"))
    token, position = body.param("token", single), body.param("position", single)
    caches = [body.param(name, kind) for name, kind in zip(cache_names(size), kinds, strict=True)]
    after = body.emit(get("add")(position, Constant(np.asarray([1]))))
    rows = Var("rows")
    body.emit(BindDim(body.emit(get("reshape")(after, shape=())), const(capacity), rows))
    mask = body.emit(get("full")(shape=(1, 1, 1, rows), value=0.0, dtype="float32"))
    result = step["main"].result.type  # type: ignore[attr-defined]
    made = body.emit(Call(GlobalVar("step"), (token, position, mask, *caches), {}, result))
    following, *written = (body.emit(TupleGetItem(made, at)) for at in range(1 + len(caches)))
    going = Constant(np.asarray(True))
    function = body.finish(Tuple((going, following, after, *written, following)))
    function = inline(IRModule({"body": function, "step": step["main"]}), "body")
    main = GraphBuilder("main")
    start = [main.param("token", single), main.param("position", single)]
    start += [main.param(name, kind) for name, kind in zip(cache_names(size), kinds, strict=True)]
    _, carried, (tokens,) = main.emit_loop("body", function, carried=start, limit=CHUNK)
    tokens = main.emit(get("reshape")(tokens, shape=(CHUNK,)))
    return IRModule({"main": main.finish(Tuple((tokens, *carried[2:]))), "body": function})


def load_heddle_loop(size: Size, capacity: int, threads: int) -> Decode:
    """The loop inside the compiled function."""
    module = loop_module(_step_module(size, capacity), size, capacity)
    run = heddle.compile(module, donate=cache_names(size), num_threads=threads)
    state = _empty(size, capacity)

    def decode(token: int, position: int, count: int) -> list[int]:
        found: list[int] = []
        for at in range(position, position + count, CHUNK):
            tokens, *state[:] = run(np.asarray([token]), np.asarray([at]), *state)
            found += tokens.numpy().tolist()
            token = found[-1]
        return found

    return decode


def load_inductor(size: Size, capacity: int, threads: int) -> Decode:
    """torch.compile."""
    import torch._inductor.config as inductor

    torch.set_num_threads(threads)
    inductor.freezing = True
    step = torch.compile(MaskedStep(build(size, capacity)))
    caches = [torch.from_numpy(cache) for cache in _empty(size, capacity)]

    def decode(token: int, position: int, count: int) -> list[int]:
        found, given = [], torch.tensor([token])
        with torch.inference_mode():
            for at in range(position, position + count):
                given = step(given, torch.tensor([at]), *caches)
                found.append(int(given))
        return found

    return decode


def load_onnxruntime(size: Size, capacity: int, threads: int) -> Decode:
    """ONNX Runtime."""
    import onnxruntime

    names = cache_names(size)
    past, present = [f"past.{name}" for name in names], [f"present.{name}" for name in names]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        example = (torch.tensor([1]), *[torch.zeros(size.cache_shape(5)) for _ in names])
        length = Dim("length", min=1, max=capacity)
        torch.onnx.export(
            GrowingStep(build(size, capacity)),
            example,
            path,
            dynamo=True,
            input_names=["token", *past],
            output_names=["next", *present],
            dynamic_shapes=(None, tuple({2: length} for _ in names)),
            optimize=True,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    zeros = np.zeros(size.cache_shape(1), np.float32)
    state: list[Any] = []

    def decode(token: int, position: int, count: int) -> list[int]:
        found = []
        if position == 1:  # a new sequence: row 0 alone
            state[:] = [onnxruntime.OrtValue.ortvalue_from_numpy(zeros) for _ in names]
        for _ in range(count):
            binding = session.io_binding()
            binding.bind_cpu_input("token", np.asarray([token]))
            for name, value in zip(past, state, strict=True):
                binding.bind_ortvalue_input(name, value)
            for name in ("next", *present):
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            first, *state[:] = binding.get_outputs()
            token = int(first.numpy()[0])
            found.append(token)
        return found

    return decode


ENGINES: dict[str, Callable[[Size, int, int], Decode]] = {
    "heddle": load_heddle,
    "heddle-loop": load_heddle_loop,
    "inductor": load_inductor,
    "ort": load_onnxruntime,
}


def load(engine: str, model: str, capacity: int, threads: int) -> Decode:
    """One engine with one model, without what exporters print."""
    import contextlib

    _quiet()
    with contextlib.redirect_stdout(io.StringIO()):
        return ENGINES[engine](SIZES[model], capacity, threads)
