# SPDX-License-Identifier: Apache-2.0
"""Random ONNX graphs against ONNX Runtime.

    python -m benchmarks.fuzz_onnx --graphs 5000 --seed 0
    python -m benchmarks.fuzz_onnx --graphs 1 --seed 1234 --engine reference
    python -m benchmarks.fuzz_onnx --graphs 2000 --depth 2 --late

Graphs are made of the generators in `fuzz_operators.py`; seed s is the same graph everywhere. Where
ONNX Runtime has no kernel, the reference implementation of `onnx` says what is expected. Batches
run in child processes, so that a crash is seen. What differs is printed as the smallest model that
still differs: one node with its inputs, where one is to blame. A difference counts only when it is
larger than what small changes of the inputs make: beside a jump anything may come out. What differs
for another reason that is no mistake is listed in `fuzz_explained.py`. With `--late`, short vectors
of int64 that are constants (axes, steps, sizes, indices) are inputs instead, with their largest
element as the bound: what they decide is then known at run time only.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import fuzz_signal
from benchmarks.fuzz_explained import explanation
from benchmarks.fuzz_graphs import CONSTANT, OPSETS, Graph, Unfit, Value, model_of, to_model
from benchmarks.fuzz_operators import GENERATORS

_ = fuzz_signal  # declares generators
ROOT = Path(__file__).parents[1]
Arrays = Mapping[str, np.ndarray]
# What these make of NaN (and conversions of numbers that do not fit) is not defined.
NAN_UNSAID = frozenset(
    """ArgMax ArgMin Cast Clip DynamicQuantizeLinear Hardmax Max MaxPool Min QuantizeLinear
    ReduceMax ReduceMin Relu Sign TopK""".split()
)
# Relative to the largest element of a tensor: sums in another order, elementary functions.
TOLERANCE = {"float32": 2e-5, "float64": 1e-7}
_WAIT = 10


# -- models ----------------------------------------------------------------------------------


def random_model(seed: int, depth: int = 6) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of up to `depth` nodes and values for its inputs, the same for each seed."""
    rng = np.random.default_rng(seed)
    graph = Graph(rng, OPSETS[int(rng.integers(len(OPSETS)))])
    wanted = graph.number(1, depth)
    names = list(GENERATORS)
    while len(graph.nodes) < wanted:
        kind = graph.one(names)
        nodes, values = len(graph.nodes), len(graph.values)
        inputs, constants = dict(graph.inputs), dict(graph.constants)
        try:
            GENERATORS[kind](graph, kind)
        except (Unfit, onnx.defs.SchemaError):
            del graph.nodes[nodes:], graph.values[values:]
            graph.inputs, graph.constants = inputs, constants
    model = to_model(graph)
    read = {value.name for value in model.graph.input}
    return model, {name: data for name, data in graph.inputs.items() if name in read}


def with_late_numbers(
    model: onnx.ModelProto, inputs: Arrays
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with its short constant vectors of int64 as inputs."""
    late, changed = dict(inputs), onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in model.graph.initializer:
        data = onnx.numpy_helper.to_array(tensor)
        if data.dtype == np.int64 and data.ndim <= 1 and data.size <= 16:
            late[tensor.name] = data
            changed.graph.initializer.remove(tensor)
            changed.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, data.shape)
            )
    return changed, late


# -- what is expected ------------------------------------------------------------------------


class NoReference(Exception):
    """Neither ONNX Runtime nor `onnx` computes the model."""


def expected_outputs(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime computes, node by node where it has no kernel for one of them."""
    try:
        return _onnxruntime(model, inputs)
    except NotImplementedError:
        pass
    opset = model.opset_import[0].version
    known = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    known.update(inputs)
    for node in model.graph.node:
        own = {name: known[name] for name in node.input if name}
        single = _model([node], own, known, {}, opset, list(node.output), typed=False)
        try:
            made = _onnxruntime(single, own)
        except NotImplementedError:
            made = _reference(single, own)
        known.update(zip(node.output, made, strict=True))
    return [known[value.name] for value in model.graph.output]


def _onnxruntime(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """`NotImplementedError` when there is no kernel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return [np.asarray(item) for item in session.run(None, dict(inputs))]
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) or "NotImplemented" in type(error).__name__:
            raise NotImplementedError from None
        raise NoReference(str(error)) from None


def _reference(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """The reference implementation, its results in the dtypes that the standard says."""
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, dict(inputs))
        types = onnx.shape_inference.infer_shapes(model).graph.output
        return [
            np.asarray(item).astype(
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            )
            for item, value in zip(found, types, strict=True)
        ]
    except Exception as error:
        raise NoReference(str(error)) from None


def actual_outputs(model: onnx.ModelProto, inputs: Arrays, engine: str) -> list[np.ndarray]:
    """What Heddle computes."""
    from heddle.frontend.onnx import backend, from_onnx

    late = {name: data for name, data in inputs.items() if name.startswith(CONSTANT)}
    if late:
        bounds = {name: max(1, int(data.max(initial=1))) for name, data in late.items()}
        module = from_onnx(model, bounds=bounds)
        names = [param.name for param in module["main"].params]
        return backend.ENGINES[engine](module)([inputs[name] for name in names])
    outputs = backend.prepare(model, engine=engine).run(dict(inputs))
    return [np.asarray(output) for output in outputs]


# -- comparison ------------------------------------------------------------------------------


def differences(got: np.ndarray, want: np.ndarray, spread: np.ndarray | None) -> int:
    """How many elements differ by more than rounding, and than `spread` allows."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return max(1, want.size)
    if want.dtype.kind not in "f":
        wrong = got != want
        return int((wrong if spread is None else wrong & (spread == 0)).sum())
    with np.errstate(all="ignore"):
        finite = np.isfinite(want)
        size = np.abs(want[finite]).max(initial=0.0)
        allowed = TOLERANCE[want.dtype.name] * (np.abs(want) + size + 0.25)
        if spread is not None:
            allowed = allowed + 50 * spread
        same = (np.isnan(got) & np.isnan(want)) | (got == want)
        close = np.abs(got.astype(np.float64) - want) <= allowed
        unsure = np.zeros(want.shape, bool) if spread is None else ~np.isfinite(spread)
    return int((~(same | close | unsure)).sum())


def spreads(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray] | None:
    """How far each element of each output moves when numbers move a little."""
    base = expected_outputs(model, inputs)
    total = [np.zeros(item.shape) for item in base]
    rng = np.random.default_rng(0)
    for step in (1e-7, 1e-6, 1e-6, 1e-5):
        moved = onnx.ModelProto()
        moved.CopyFrom(model)
        for tensor in moved.graph.initializer:
            data = _moved(onnx.numpy_helper.to_array(tensor), step, rng)
            tensor.CopyFrom(onnx.numpy_helper.from_array(data, tensor.name))
        try:
            found = expected_outputs(
                moved, {name: _moved(data, step, rng) for name, data in inputs.items()}
            )
        except NoReference:
            return None
        for at, (one, other) in enumerate(zip(base, found, strict=True)):
            with np.errstate(all="ignore"):
                far = np.asarray(np.abs(one.astype(np.float64) - other.astype(np.float64)))
            far[np.isnan(one.astype(np.float64)) & np.isnan(other.astype(np.float64))] = 0
            total[at] = np.maximum(total[at], far * (1e-6 / step if one.dtype.kind == "f" else 1))
    return total


def _moved(data: np.ndarray, step: float, rng: np.random.Generator) -> np.ndarray:
    if data.dtype.kind != "f":
        return data
    return (data * (1 + step * rng.choice([-1.0, 1.0], data.shape))).astype(data.dtype)


def verdict(model: onnx.ModelProto, inputs: Arrays, engine: str) -> tuple[str, str]:
    """Outcome ("same", "differs", "error", "unsupported", "no reference") and detail."""
    from heddle.frontend.onnx import ImportFailure
    from heddle.support import UserError

    try:
        want = expected_outputs(model, inputs)
    except NoReference as problem:
        return "no reference", str(problem)[:200]
    try:
        got = actual_outputs(model, inputs, engine)
    except ImportFailure as failure:
        return "unsupported", str(failure).splitlines()[1].strip()
    except Exception as error:
        if isinstance(error, UserError) and any(name.startswith(CONSTANT) for name in inputs):
            return "unsupported", _kind_of(error)  # shapes that would have to agree, bounds
        return "error", f"{type(error).__name__}: {str(error)[:600]}"
    if not any(differences(a, b, None) for a, b in zip(got, want, strict=True)):
        return "same", ""
    spread = spreads(model, inputs)
    if spread is None:
        return "no reference", "changed inputs cannot be computed"
    lines = []
    for at, (a, b, far) in enumerate(zip(got, want, spread, strict=True)):
        wrong = differences(a, b, far)
        if wrong:
            name = model.graph.output[at].name
            lines.append(f"{name}: {wrong} of {b.size} {b.dtype} {b.shape}, got {a.dtype}")
            lines.append(f"  got {_few(a, b)[0]}  expected {_few(a, b)[1]}")
    return ("differs", "\n".join(lines)) if lines else ("same", "")


def _kind_of(error: Exception) -> str:
    """The message without names and numbers."""
    return re.sub(r"`[^`]*`|\([^)]*\)|-?\d+", "_", str(error).splitlines()[0])[:100]


def _few(got: np.ndarray, want: np.ndarray) -> tuple[list[Any], list[Any]]:
    if got.shape != want.shape:
        return list(got.shape), list(want.shape)
    with np.errstate(all="ignore"):
        where = np.flatnonzero(~((got == want) | ((got != got) & (want != want))))[:6]
    return got.ravel()[where].tolist(), want.ravel()[where].tolist()


# -- shrinking -------------------------------------------------------------------------------


def shrunk(
    model: onnx.ModelProto, inputs: Arrays, engine: str, outcome: str
) -> tuple[onnx.ModelProto, Arrays] | None:
    """The smallest model with the same outcome: one node, else what leads to one value. None when
    nothing is wrong: each node is right, and the model is what its nodes make one by one."""
    graph = model.graph
    opset = model.opset_import[0].version
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    known: dict[str, np.ndarray] = {**constants, **inputs}
    for at, node in enumerate(graph.node):
        try:
            made = _run(graph.node[: at + 1], known, constants, inputs, opset, node.output)
        except NoReference:
            return model, inputs
        known.update(zip(node.output, made, strict=True))
    for node in graph.node:
        own = {name: known[name] for name in node.input if name and name not in constants}
        if node.op_type in NAN_UNSAID and not all(np.isfinite(own[name]).all() for name in own):
            continue
        single = _model([node], own, known, constants, opset, list(node.output))
        if verdict(single, own, engine)[0] == outcome:
            return single, own
    if outcome == "differs" and _explained(model, inputs, engine):
        return None
    for at in range(len(graph.node)):
        for name in graph.node[at].output:
            cone = _cone(graph.node[: at + 1], name)
            read = {item for node in cone for item in node.input}
            own = {key: data for key, data in inputs.items() if key in read}
            part = _model(cone, own, known, constants, opset, [name])
            if verdict(part, own, engine)[0] == outcome:
                return part, own
    return model, inputs


def _explained(model: onnx.ModelProto, inputs: Arrays, engine: str) -> bool:
    """Whether Heddle's nodes one by one, each a model of its own, give what the model gives."""
    opset = model.opset_import[0].version
    known = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    constants = dict(known)
    known.update(inputs)
    for node in model.graph.node:
        own = {name: known[name] for name in node.input if name and name not in constants}
        single = _model([node], own, known, constants, opset, list(node.output), typed=False)
        single = onnx.shape_inference.infer_shapes(single)
        known.update(zip(node.output, actual_outputs(single, own, engine), strict=True))
    whole = actual_outputs(model, inputs, engine)
    names = [value.name for value in model.graph.output]
    return not any(differences(a, known[n], None) for a, n in zip(whole, names, strict=True))


def _run(
    nodes: Sequence[onnx.NodeProto],
    known: Arrays,
    constants: Arrays,
    inputs: Arrays,
    opset: int,
    wanted: Sequence[str],
) -> list[np.ndarray]:
    """The outputs of the last of these nodes."""
    node = nodes[-1]
    own = {name: known[name] for name in node.input if name and name not in constants}
    model = _model([node], own, known, constants, opset, list(wanted), typed=False)
    return expected_outputs(model, own)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    known: Arrays,
    constants: Arrays,
    opset: int,
    outputs: list[str],
    *,
    typed: bool = True,
) -> onnx.ModelProto:
    def value(name: str, data: np.ndarray) -> Value:
        return Value(name, str(data.dtype), data.shape)

    read = {name for node in nodes for name in node.input}
    ends = [value(name, known[name]) for name in outputs] if typed else []
    model = model_of(
        nodes,
        {name: value(name, data) for name, data in inputs.items()},
        ends,
        {name: data for name, data in constants.items() if name in read},
        opset,
    )
    if not typed:
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in outputs)
    return model


def _cone(nodes: Sequence[onnx.NodeProto], name: str) -> list[onnx.NodeProto]:
    needed, kept = {name}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def describe(model: onnx.ModelProto, inputs: Arrays) -> str:
    """A model and its inputs as text."""
    lines = [onnx.printer.to_text(model)]
    for name, data in inputs.items():
        lines.append(f"{name} = {np.array2string(data, threshold=40, precision=9)}")
    return "\n".join(lines)


# -- processes -------------------------------------------------------------------------------


def child(start: int, count: int, engine: str, depth: int, *, late: bool) -> None:
    """Run seeds one after the other; a line of JSON for each."""
    warnings.simplefilter("ignore")
    for seed in range(start, start + count):
        model, inputs = random_model(seed, depth)
        if late:
            model, inputs = with_late_numbers(model, inputs)
        outcome, detail = verdict(model, inputs, engine)
        if outcome in ("differs", "error"):
            small = shrunk(model, inputs, engine, outcome)
            reason = explanation(*small) if small and outcome == "differs" else None
            if small is None:
                outcome, detail = "same", ""
            elif reason is not None:
                outcome, detail = "explained", reason
            else:
                detail = f"{verdict(*small, engine)[1]}\n{describe(*small)}"
        kinds = [node.op_type for node in model.graph.node]
        line = {"seed": seed, "outcome": outcome, "detail": detail, "operators": kinds}
        print(json.dumps(line), flush=True)


def run_batch(
    start: int, count: int, engine: str, depth: int, limit: float, *, late: bool = False
) -> list[dict]:
    """The outcomes of a batch; after a crash it goes on behind the graph that crashed.

    limit: seconds of processor time for one graph; where other programs take the cores, or a
    process waits for ever, `_WAIT` times as many pass."""
    found: list[dict] = []
    while len(found) < count:
        first = start + len(found)
        options = ["--child", "--seed", str(first), "--graphs", str(count - len(found))]
        if late:
            options.append("--late")
        seconds = limit * (count - len(found))
        options += ["--engine", engine, "--depth", str(depth), "--limit", str(seconds)]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz_onnx", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        try:
            text, _ = process.communicate(timeout=_WAIT * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
        found += [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        if len(found) < count:
            why = f"exit code {process.returncode}"
            seed = start + len(found)
            found.append({"seed": seed, "outcome": "crashed", "detail": why, "operators": []})
    return found


def main() -> int:
    """Run batches, print what is wrong; 1 when anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=500, help="how many graphs")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first")
    parser.add_argument("--depth", type=int, default=6, help="the most nodes of a graph")
    parser.add_argument("--batch", type=int, default=50, help="graphs for one process")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of work for one graph")
    parser.add_argument("--engine", choices=("compiled", "reference"), default="compiled")
    parser.add_argument("--late", action="store_true", help="axes and sizes are inputs")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        allowed = math.ceil(options.limit)
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed))
        child(options.seed, options.graphs, options.engine, options.depth, late=options.late)
        return 0
    totals: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    seen: collections.Counter[str] = collections.Counter()
    begin = time.monotonic()
    for start in range(options.seed, options.seed + options.graphs, options.batch):
        count = min(options.batch, options.seed + options.graphs - start)
        settings = (options.engine, options.depth, options.limit)
        for line in run_batch(start, count, *settings, late=options.late):
            totals[line["outcome"]] += 1
            seen.update(line["operators"])
            if line["outcome"] in ("unsupported", "explained"):
                reasons[f"{line['outcome']}: {line['detail']}"] += 1
            if line["outcome"] in ("differs", "error", "crashed"):
                print(f"-- seed {line['seed']} {line['outcome']}: {line['detail']}\n", flush=True)
    for reason, count in reasons.most_common():
        print(f"{count:5} {reason}")
    seconds = time.monotonic() - begin
    print(f"{dict(totals)}; {len(seen)} operators, {sum(seen.values())} nodes in {seconds:.0f} s")
    return int(any(totals[kind] for kind in ("differs", "error", "crashed")))


if __name__ == "__main__":
    sys.exit(main())
