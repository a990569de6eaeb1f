# SPDX-License-Identifier: Apache-2.0
"""`heddle compare`: the values of a compiled model beside those of another implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer

from heddle.cli.console import USER_ERROR, Console, table
from heddle.cli.divergence_plot import divergence_svg
from heddle.cli.models import Shapes, compile_model, gather_inputs, is_library
from heddle.cli.programs import is_program, open_program
from heddle.cli.values import read_inputs
from heddle.graph.nodes import Function, Tuple, Var
from heddle.runtime import Executable
from heddle.support import UserError

Reference = Literal["onnxruntime", "interpreter", "torch"]
Arrays = Mapping[str, np.ndarray]


def run_compare(
    model: Path,
    console: Console,
    *,
    against: Reference,
    tolerance: float,
    inputs: Sequence[str],
    seed: int,
    sizes: Mapping[str, int],
    target: str,
    precision: str,
    shapes: Shapes,
) -> None:
    """Print how far each output is from the reference; exit with 1 beyond the tolerance."""
    source = _source(model, against, shapes)
    how: dict[str, Any] = {"target": target, "precision": precision, "shapes": shapes}
    executable, _ = compile_model(source, console, **how)
    values = _inputs(source, executable, inputs, seed, sizes)
    found = executable(**values)
    tensors = found if isinstance(found, tuple) else (found,)
    console.note(f"running {against} ...")
    if against == "onnxruntime":
        expected = _onnxruntime(model, values)
    elif against == "torch":
        expected = _torch(source, values)
    else:
        expected = _interpreter(source, shapes, values)
    rows = [
        _difference(info.name, tensor.numpy(), reference)
        for info, tensor, reference in zip(executable.outputs, tensors, expected, strict=True)
    ]
    worst = max((row["relative_error"] for row in rows), default=0.0)
    data = {"against": against, "tolerance": tolerance, "ok": worst <= tolerance, "outputs": rows}
    console.result(_text(data), data)
    if worst > tolerance:
        raise typer.Exit(USER_ERROR)


def run_compare_layers(
    model: Path,
    console: Console,
    *,
    against: Reference | Literal["float32"],
    reference: Path | None,
    plot: Path | None,
    tolerance: float,
    inputs: Sequence[str],
    seed: int,
    sizes: Mapping[str, int],
    target: str,
    precision: str,
    shapes: Shapes,
) -> None:
    """Print how far each layer is from the reference's, the first beyond the tolerance and the
    worst, and draw it into `plot`; exit with 1 when an output is beyond the tolerance."""
    from heddle.driver.accuracy import layer_accuracy, layer_differences

    source = _source(model, against, shapes)
    how: dict[str, Any] = {"target": target, "precision": precision, "shapes": shapes}
    executable, _ = compile_model(source, console, **how)
    values = _inputs(source, executable, inputs, seed, sizes)
    console.note(f"running every layer, and {against} ...")
    if against == "float32":
        rows = layer_accuracy(source, values, reference=reference, **how)
    else:
        rows = layer_differences(source, values, against=against, **how)
    outputs = {info.name for info in executable.outputs}
    beyond = [row for row in rows if row.max_error > tolerance]
    worst = min(rows, key=lambda row: row.sqnr_db)
    data = {
        "against": against,
        "tolerance": tolerance,
        "ok": not any(row.name in outputs for row in beyond),
        "first": beyond[0].name if beyond else None,
        "worst": worst.name,
        "layers": [row.as_dict() for row in rows],
    }
    console.result(_layers_text(data), data)
    if plot is not None:
        title = f"{model.name}: largest error of each layer beside {against}"
        _draw(plot, data, title)
    if not data["ok"]:
        raise typer.Exit(USER_ERROR)


def _source(model: Path, against: str, shapes: Shapes) -> Any:
    """The file, or the program of PyTorch that it holds or that the factory makes."""
    if is_program(model):
        if against == "onnxruntime":
            raise UserError(f"{model}: is a model of PyTorch; compare it with --against torch")
        if shapes:
            raise UserError("--shape is for ONNX models; a program of PyTorch has its shapes")
        return open_program(model)
    if is_library(model):
        raise UserError(f"{model}: is a compiled library; compare takes the model it was made from")
    if against == "torch":
        raise UserError(
            f"{model}: --against torch takes an exported program (.pt2) or package.module:factory"
        )
    return model


def _inputs(
    source: Any, executable: Executable, files: Sequence[str], seed: int, sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """From files, else the example inputs of a program, else at random."""
    if isinstance(source, Path) or sizes:
        return gather_inputs(executable, files, seed, sizes)
    from heddle.frontend.torch.values import example_inputs

    known = gather_inputs(executable, files, seed, sizes)
    named = {name: x for name, x in example_inputs(source).items() if name in known}
    return known | named | read_inputs(executable, files)


def _torch(program: Any, values: Arrays) -> list[np.ndarray]:
    from heddle.frontend.torch.values import import_with_values

    module, known = import_with_values(program, values)
    main = module["main"]
    assert isinstance(main, Function)
    results = main.result.fields if isinstance(main.result, Tuple) else (main.result,)
    return [known[result.name] for result in results if isinstance(result, Var)]


def _draw(plot: Path, data: Mapping[str, Any], title: str) -> None:
    picture = divergence_svg(
        data["layers"], tolerance=data["tolerance"], title=title, first=data["first"]
    )
    try:
        plot.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {plot}: {error.strerror or error}") from error


def _layers_text(data: Mapping[str, Any]) -> str:
    rows = [["layer", "operator", "shape", "largest", "mean", "SQNR"]]
    for row in data["layers"]:
        shape = "x".join(map(str, row["shape"])) or "scalar"
        errors = [f"{row[key]:.1e}" for key in ("max_error", "mean_error")]
        ratio = "equal" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
        rows.append([row["name"], row["operator"], shape, *errors, ratio])
    limit = f"{data['tolerance']:.0e}"
    first = f"first beyond {limit}: {data['first']}" if data["first"] else f"none beyond {limit}"
    return f"{table(rows, right=(3, 4, 5))}\n{first}; worst: {data['worst']}"


def _onnxruntime(model: Path, values: Arrays) -> list[np.ndarray]:
    try:
        import onnxruntime  # optional
    except ImportError as error:
        raise UserError(
            "ONNX Runtime is not installed: pip install onnxruntime, or compare with "
            "--against interpreter"
        ) from error
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, dict(values))
    return found


def _interpreter(model: Path, shapes: Shapes, values: Arrays) -> list[np.ndarray]:
    from heddle.driver.api import import_model
    from heddle.op.interp import interpret

    found: Any = interpret(import_model(model, shapes=shapes or None), values)
    return list(found) if isinstance(found, tuple) else [found]


def _difference(name: str, found: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """The largest difference, absolute and relative to the largest expected value; in float64."""
    if found.shape != expected.shape:
        raise UserError(
            f"output `{name}` has shape {found.shape}, the reference gives {expected.shape}"
        )
    a, b = found.astype(np.float64), expected.astype(np.float64)
    same_odd = np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(
        a[np.isinf(a)], b[np.isinf(b)]
    )
    finite = np.isfinite(a) & np.isfinite(b)
    apart = float(np.abs(a - b)[finite].max(initial=0.0)) if same_odd else float("inf")
    scale = float(np.abs(b)[finite].max(initial=0.0))
    return {
        "name": name,
        "shape": list(found.shape),
        "absolute_error": apart,
        "relative_error": apart / (scale or 1.0),
    }


def _text(data: Mapping[str, Any]) -> str:
    rows = [["output", "shape", "absolute", "relative"]]
    for row in data["outputs"]:
        shape = "x".join(map(str, row["shape"])) or "scalar"
        errors = [f"{row[key]:.1e}" for key in ("absolute_error", "relative_error")]
        rows.append([row["name"], shape, *errors])
    verdict = "agrees with" if data["ok"] else "DIFFERS from"
    last = f"{verdict} {data['against']} (tolerance {data['tolerance']:.0e} of the largest value)"
    return f"{table(rows, right=(2, 3))}\n{last}"
