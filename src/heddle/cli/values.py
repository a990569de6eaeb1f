# SPDX-License-Identifier: Apache-2.0
"""Inputs of a model from files or at random, and its outputs to files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401  (makes np.dtype("bfloat16") known)
import numpy as np

from heddle.runtime import Executable, TensorInfo
from heddle.runtime.toolchain import writing_beside
from heddle.support import UserError

Arrays = dict[str, np.ndarray]


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Shapes of inputs from texts such as "image=1,3,224,224" or "ids=batch,128".

    Raises `UserError` for anything else.
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, equals, dims = text.rpartition("=")
        if not equals or not name:
            raise UserError(f"--shape {text}: expected NAME=DIM,DIM,... as in image=1,3,224,224")
        if name in shapes:
            raise UserError(f"--shape {text}: the shape of `{name}` is given twice")
        parts = [part.strip() for part in dims.split(",")] if dims.strip() else []
        shapes[name] = tuple(_dimension(part, text) for part in parts)
    return shapes


def _dimension(part: str, text: str) -> int | str:
    if part.isascii() and part.isdigit():
        return int(part)
    if part.isidentifier():
        return part
    raise UserError(f"--shape {text}: `{part}` is no dimension; expected a number or a name")


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """Sizes of symbolic dimensions from texts such as "batch=4". Raises `UserError`."""
    sizes = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if not name or not (value.isascii() and value.isdigit()):
            raise UserError(f"--dim {text}: expected NAME=SIZE as in batch=4")
        sizes[name] = int(value)
    return sizes


def read_inputs(executable: Executable, files: Sequence[str]) -> Arrays:
    """The inputs of a model from `.npz` files and `[NAME=]FILE.npy`, contiguous.

    Raises `UserError` for files that cannot be read and names that the model does not have.
    """
    values: Arrays = {}
    for text in files:
        for name, value in _read(text, executable).items():
            if name in values:
                raise UserError(f"--inputs {text}: input `{name}` is given twice")
            values[name] = value
    infos = {info.name: info for info in executable.inputs}
    unknown = [name for name in values if name not in infos]
    if unknown:
        takes = ", ".join(f"`{info}`" for info in executable.inputs) or "none"
        raise UserError(f"--inputs: the model has no input `{unknown[0]}`; its inputs: {takes}")
    return {name: _as_declared(value, infos[name]) for name, value in values.items()}


def _read(text: str, executable: Executable) -> Arrays:
    if not Path(text).exists() and "=" in text:
        name, _, text = text.partition("=")
        return {name: _load_array(Path(text))}
    path = Path(text)
    if path.suffix == ".npz":
        return _load_archive(path)
    if len(executable.inputs) != 1:
        names = ", ".join(info.name for info in executable.inputs)
        raise UserError(f"--inputs {text}: say for which input, as in NAME={text}; NAME: {names}")
    return {executable.inputs[0].name: _load_array(path)}


def _load_array(path: Path) -> np.ndarray:
    found = _load(path)
    if isinstance(found, dict):
        raise UserError(f"{path}: expected one array in a .npy file, got an archive of several")
    return found


def _load_archive(path: Path) -> Arrays:
    found = _load(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an archive of arrays (.npz), got one array")
    return found


def _load(path: Path) -> np.ndarray | Arrays:
    """The array of a .npy file, or the arrays of an archive. Objects are refused: they are code."""
    try:
        with open(path, "rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            with found:
                return {name: found[name] for name in found.files}
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "not a readable .npy or .npz file"
        raise UserError(f"{path}: {reason}") from error


def _as_declared(value: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Contiguous; and bfloat16 again, which .npy files keep as plain bytes."""
    dtype = np.dtype(info.dtype)
    if value.dtype.kind == "V" and value.dtype.itemsize == dtype.itemsize:
        value = value.view(dtype)
    return np.require(value, requirements="C")


def random_inputs(
    executable: Executable,
    seed: int,
    *,
    sizes: Mapping[str, int] | None = None,
    without: Sequence[str] = (),
) -> Arrays:
    """Random values for the inputs of a model: standard normal, and 0 or 1 where the dtype is an
    integer or bool (fit as a token, a mask and an index alike).

    Symbolic dimensions are as `sizes` says, else the least size from 1 on that the model takes.
    """
    rng = np.random.default_rng(seed)
    known = dict(sizes or {})
    for name in known:
        if name not in executable.info.symbols:
            names = ", ".join(executable.info.symbols) or "none"
            raise UserError(f"--dim {name}: the model's symbolic dimensions are: {names}")
    for name, (low, _) in executable.info.symbols.items():
        known.setdefault(name, max(1, low))
    values = {}
    for info in executable.inputs:
        if info.name not in without:
            shape = tuple(known[dim] if isinstance(dim, str) else dim for dim in info.shape)
            values[info.name] = _draw(rng, info, shape)
    return values


def _draw(rng: np.random.Generator, info: TensorInfo, shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.dtype(info.dtype)
    if dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def write_outputs(path: Path, values: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an `.npz` file, complete or not at all; `numpy.load` gives them back.

    Raises `UserError` when the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a directory")
    with writing_beside(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, value in values.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
