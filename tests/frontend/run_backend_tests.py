# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of `onnx.backend.test` and says how many pass, by operator.

    python tests/frontend/run_backend_tests.py [--engine reference|compiled] [--filter TEXT]
                                               [--kind node|real|simple|...] [--list failed]

Cases run in worker processes, so that a crash is seen as one. A case is "unsupported" when the
error says so (`ImportFailure`), "failed" when values differ or anything else is raised.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Cases that do not pass, by a pattern of their names, and why.
EXCEPTIONS = {
    r"image_decoder": "decoding of compressed images is no tensor computation",
    r"gradient_of": "gradients are made by heddle.grad, not by an operator inside of a model",
    r"sequence_model8": "the parts that a symbolic dimension is split into",
    r"attention_.*(bf16|fp16)": (
        "expected with each step rounded to 16 bits; Heddle keeps float32 until the end"
    ),
    r"dft_inverse": "expected with rounding errors of 2e-7 where the exact value is 0",
    r"resize_downsample_scales_(linear|cubic)_align_corners": (
        "expected with the product of size and scale as it is; Heddle and ONNX Runtime round it"
    ),
}
# Outputs are random: what is compared is dtype, shape, and what else must hold.
RANDOM = ("bernoulli", "training_dropout")
KINDS = ("node", "real", "simple", "pytorch-converted", "pytorch-operator", "light")


def load_cases(kinds: list[str]) -> list[Any]:
    """The cases of these kinds, `real` being the networks with generated weights."""
    warnings.simplefilter("ignore")
    from onnx.backend.test.loader import load_model_tests

    cases = []
    for kind in kinds:
        cases += list(load_model_tests(kind="real" if kind == "light" else kind))
    return cases


def operator_of(case: Any) -> str:
    """The operator that a case is about."""
    if case.model is None or len(case.model.graph.node) != 1:
        name = str(case.name).removeprefix("test_")
        return name.split("_")[0] + ("_expanded" if "expanded" in name else "")
    return str(case.model.graph.node[0].op_type)


def run_case(case: Any, engine: str) -> tuple[str, str]:
    """Outcome and detail of one case."""
    from heddle.frontend.onnx import ImportFailure
    from heddle.frontend.onnx.backend import prepare

    try:
        if case.model is None:
            return run_folder(case, engine)
        rep = prepare(case.model, engine=engine)
        for inputs, expected in case.data_sets:
            outputs = rep.run(inputs)
            if any(part in case.name for part in RANDOM) and "zero_ratio" not in case.name:
                check_random(case, inputs, expected, outputs)
            else:
                check(expected, outputs, case.rtol, case.atol)
    except ImportFailure as failure:
        return "unsupported", str(failure).splitlines()[1].strip()
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"[:400]
    return "passed", ""


def run_folder(case: Any, engine: str) -> tuple[str, str]:
    """A case whose model and data lie in a folder."""
    import numpy as np
    import onnx

    from heddle.frontend.onnx.backend import prepare

    if case.model_dir is None:  # a network with generated weights
        path = Path(onnx.__file__).parents[1] / case.url
        model = onnx.load(path)
        known = {tensor.name for tensor in model.graph.initializer}
        inputs = []
        for value in model.graph.input:
            if value.name not in known:
                shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
                count = int(np.prod(shape))
                inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
        expected = [read_tensor(path.with_name(f"{path.stem}_output_0.pb"))]
        check(expected, prepare(model, engine=engine).run(inputs), case.rtol, case.atol)
        return "passed", ""
    folder = Path(case.model_dir)
    rep = prepare(onnx.load(folder / "model.onnx"), engine=engine)
    for data in sorted(folder.glob("test_data_set_*")):
        sides = []
        for side in ("input", "output"):
            count = len(list(data.glob(f"{side}_*.pb")))
            sides.append([read_tensor(data / f"{side}_{index}.pb") for index in range(count)])
        check(sides[1], rep.run(sides[0]), case.rtol, case.atol)
    return "passed", ""


def read_tensor(path: Path) -> Any:
    """The array in a file."""
    import onnx
    from onnx import numpy_helper

    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def check(expected: Any, outputs: Any, rtol: float, atol: float) -> None:
    """As the runner of onnx compares: equal dtypes and shapes, close values, equal strings."""
    import numpy as np
    from onnx import numpy_helper

    if len(expected) != len(outputs):
        raise AssertionError(f"{len(outputs)} outputs, expected {len(expected)}")
    for want, got in zip(expected, outputs, strict=True):
        if isinstance(want, list):
            check(want, got, rtol, atol)
            continue
        want = numpy_helper.to_array(want) if hasattr(want, "raw_data") else np.asarray(want)
        if want.dtype.kind in "OSU" and got.dtype == object:
            np.testing.assert_array_equal(got, want.astype(object), strict=True)
            continue
        if want.dtype != got.dtype:
            raise AssertionError(f"dtype {got.dtype}, expected {want.dtype}")
        if want.dtype.name == "bfloat16":
            want, got = want.astype(np.float32), got.astype(np.float32)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def check_random(case: Any, inputs: Any, expected: Any, outputs: Any) -> None:
    """dtype and shape as expected; draws are 0 or 1, dropout scales what it keeps by one factor."""
    import numpy as np

    for want, got in zip(expected, outputs, strict=True):
        if want.dtype != got.dtype or want.shape != got.shape:
            raise AssertionError(f"{got.dtype} {got.shape}, expected {want.dtype} {want.shape}")
    if "bernoulli" in case.name:
        if not set(np.unique(outputs[0]).tolist()) <= {0, 1}:
            raise AssertionError("a draw is neither 0 nor 1")
        return
    ratio = inputs[1] if len(inputs) > 1 else 0.5
    kept = outputs[1] if len(outputs) > 1 else outputs[0] != 0
    want = np.where(kept, inputs[0] / (1 - ratio), 0)
    np.testing.assert_allclose(outputs[0], want, rtol=1e-6)


def exception_for(name: str) -> str | None:
    """Why a case is known not to pass, None when it has to."""
    return next((why for part, why in EXCEPTIONS.items() if re.search(part, name)), None)


def work(connection: Any, kinds: list[str], engine: str) -> None:
    """A worker: takes indices of cases, gives outcomes."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    warnings.simplefilter("ignore")
    cases = load_cases(kinds)
    while True:
        index = connection.recv()
        if index is None:
            return
        connection.send(run_case(cases[index], engine))


class Worker:
    """A process that runs cases; it is started anew after a crash or when a case takes too long."""

    def __init__(self, kinds: list[str], engine: str, limit: float) -> None:
        self._arguments = (kinds, engine)
        self._limit = limit
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, index: int) -> tuple[str, str]:
        """Outcome and detail of case `index`."""
        try:
            self._connection.send(index)
            if self._connection.poll(self._limit):
                return self._connection.recv()  # type: ignore[no-any-return]
            outcome = ("failed", f"took more than {self._limit} s")
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(5)
            outcome = ("crashed", f"exit code {self._process.exitcode}")
        self._process.kill()
        self._start()
        return outcome

    def stop(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join(5)


def main() -> int:
    """Run, print, and return 1 when a case crashed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("compiled", "reference"), default="compiled")
    parser.add_argument("--filter", default="", help="only cases whose name contains this")
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: node and real")
    parser.add_argument("--list", action="append", default=[], help="print cases of this outcome")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one case")
    options = parser.parse_args()
    kinds = options.kind or ["node", "real"]
    cases = load_cases(kinds)
    chosen = [i for i, case in enumerate(cases) if options.filter in case.name]
    worker = Worker(kinds, options.engine, options.limit)
    totals: collections.Counter[str] = collections.Counter()
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    begin = time.monotonic()
    for index in chosen:
        outcome, detail = worker.run(index)
        totals[outcome] += 1
        table[operator_of(cases[index])][outcome] += 1
        if outcome == "crashed" or outcome in options.list:
            print(f"{outcome:12} {cases[index].name}: {detail}", flush=True)
    worker.stop()
    for operator, counts in sorted(table.items()):
        if set(counts) != {"passed"}:
            print(f"{operator:32} {dict(counts)}")
    print(f"{dict(totals)} of {len(chosen)} in {time.monotonic() - begin:.0f} s")
    return int(totals["crashed"] > 0)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    sys.exit(main())
