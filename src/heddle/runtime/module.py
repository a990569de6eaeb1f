# SPDX-License-Identifier: Apache-2.0
"""Executable: a compiled model that can be called, measured and written to a file."""

from __future__ import annotations

import _ctypes
import ctypes
import math
import os
import shutil
import time
import weakref
from collections.abc import Sequence
from ctypes import POINTER, c_int64
from pathlib import Path
from typing import Any

import numpy as np

from heddle.runtime import dlpack
from heddle.runtime.arguments import ArgumentFrame, address, arrange
from heddle.runtime.data import Parameters, Results, Value
from heddle.runtime.fastcall import make_caller
from heddle.runtime.header import c_header
from heddle.runtime.info import ModelInfo, TensorInfo, read_model
from heddle.runtime.library import open_library
from heddle.runtime.memory import POOLED_FROM, ResultPool, aligned_bytes
from heddle.runtime.profile import Profile, summarize
from heddle.runtime.tensor import Tensor
from heddle.runtime.toolchain import link_shared, writing_beside
from heddle.support.errors import UserError


class _Frame:
    """The C structures of one call in flight."""

    __slots__ = ("dims", "input_address", "inputs", "output_address", "outputs")

    def __init__(self, model: ModelInfo) -> None:
        self.inputs = ArgumentFrame(model, "input")
        self.outputs = ArgumentFrame(model, "output")
        self.input_address = address(self.inputs.pointers)
        self.output_address = address(self.outputs.pointers)
        self.dims = (c_int64 * max(1, sum(len(info.shape) for info in model.outputs)))()


class Executable:
    """A compiled model.

    Call it with its inputs, by position or by name, as numpy arrays, torch tensors or anything else
    with `__dlpack__`; they are used where they are, without a copy. The result is a `Tensor`, or a
    tuple of them when the model has several outputs. Safe to call from several threads at once.

    Inputs that the model was compiled to take over (`heddle.compile(..., donate=[...])`) are
    written to: afterwards they hold nothing of use, or a result, which is a `Tensor` over them.

    >>> exe = heddle.load("resnet50.so")            # doctest: +SKIP
    >>> probabilities = exe(image).numpy()          # doctest: +SKIP
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        path: Path,
        *,
        constants: np.ndarray | None = None,
        objects: Sequence[Path] = (),
        keep: Any = None,
    ) -> None:
        """Use `load` or `Executable.from_library`."""
        self._library = library
        self._path = path
        self._objects = tuple(objects)
        self._keep = keep
        self._constants = constants
        self.info: ModelInfo = read_model(library.heddle_get_model().contents)
        self._frames: list[_Frame] = []  # append and pop are atomic
        self._results = ResultPool()
        self._num_inputs, self._num_outputs = len(self.info.inputs), len(self.info.outputs)
        self._num_dims = sum(len(info.shape) for info in self.info.outputs)
        self._static = self._static_outputs()
        described = self.info.metadata.get("data")
        self._data = None if described is None else Parameters(described)
        given = self.info.metadata.get("results")
        self._collected = None if given is None else Results(given)
        self._fast = make_caller(library, self.info, self._results.empty, POOLED_FROM)
        homes = [info.lies_in for info in self.info.outputs]
        self._homes = None if homes.count(None) == len(homes) else homes
        closer = weakref.finalize(self, _ctypes.dlclose, library._handle)
        closer.atexit = False

    def _static_outputs(self) -> list[tuple[tuple[int, ...], np.dtype, int]] | None:
        """Shape, dtype and bytes of each output, when no dimension depends on the inputs."""
        if not all(info.is_static for info in self.info.outputs):
            return None
        plans = []
        for info in self.info.outputs:
            shape = tuple(int(dim) for dim in info.shape)
            plans.append((shape, np.dtype(info.dtype), _size(shape, np.dtype(info.dtype))))
        return plans

    @staticmethod
    def from_library(
        path: str | os.PathLike[str],
        *,
        constants: np.ndarray | None = None,
        objects: Sequence[str | os.PathLike[str]] = (),
        keep: Any = None,
    ) -> Executable:
        """Opens a library whose constants are not embedded but given here, as uint8.

        `objects` are the generated object files, for `export_library`; `keep` is anything that must
        live as long as the executable, such as the temporary directory of the files.
        """
        library = open_library(path)
        if constants is not None:
            constants = _aligned(constants)
            if library.heddle_set_constants(constants.ctypes.data, constants.nbytes) != 0:
                raise _library_error(library)
        paths = [Path(item) for item in objects]
        return Executable(library, Path(path), constants=constants, objects=paths, keep=keep)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.info.name

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Name, dtype and shape of each input."""
        return self.info.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Name, dtype and shape of each output."""
        return self.info.outputs

    @property
    def metadata(self) -> dict[str, Any]:
        """What the compiler recorded: target, versions, kernels."""
        return self.info.metadata

    def __repr__(self) -> str:
        takes = ", ".join(map(str, self.inputs))
        gives = ", ".join(map(str, self.outputs))
        return f"Executable({self.name}: ({takes}) -> ({gives}))"

    # ---- calls -----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Runs the model: a `Tensor`, or a tuple of them where there are several results; a result
        of a data type is a `Value`, as inputs are. Raises `UserError` when an input is not what the
        model declares."""
        values = self._values(args, named)
        if self._collected is None:
            return self._call(values)
        found = self._call(values)
        return self._collected.collect(found if isinstance(found, tuple) else (found,))

    def _call(self, values: Sequence[Any]) -> Tensor | tuple[Tensor, ...]:
        if self._fast is not None:
            found = self._fast(values)
            if found is not NotImplemented:
                return found  # type: ignore[no-any-return]
        frame = self._take_frame()
        try:
            frame.inputs.fill(values)
            results = self._allocate(frame, values)
            frame.outputs.fill(results)
            self._run(frame)
            if self.info.late_symbols:
                results = list(map(_written, results, frame.outputs.take_shapes()))
        finally:
            frame.inputs.clear()
            frame.outputs.clear()
            self._frames.append(frame)
        tensors = tuple(map(Tensor, results))
        return tensors[0] if len(tensors) == 1 else tensors

    def call_into(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Runs the model and writes the results into memory of the caller.

        Outputs are of exactly the dtype and shape that `infer_shapes` tells, contiguous, and share
        memory with nothing else in the call, but for one that lies in a donated input
        (`outputs[k].lies_in`): that is the input itself. Where a dimension is known at run time
        only, that is the largest shape, and the call writes as many elements as there are, from the
        start on.
        Raises `UserError`.
        """
        values = self._values(tuple(inputs), {})
        if len(outputs) != len(self.outputs):
            raise UserError(
                f"{self.name}: got {len(outputs)} outputs, expected {len(self.outputs)}"
            )
        frame = self._take_frame()
        try:
            frame.inputs.fill(values)
            frame.outputs.fill(outputs)
            self._run(frame)
        finally:
            frame.inputs.clear()
            frame.outputs.clear()
            self._frames.append(frame)

    def infer_shapes(self, *args: Any, **named: Any) -> tuple[tuple[int, ...], ...]:
        """The shapes of the outputs for these inputs. Raises `UserError` as a call does."""
        frame = _Frame(self.info)
        frame.inputs.fill(self._values(args, named))
        return self._infer(frame)

    def _take_frame(self) -> _Frame:
        try:
            return self._frames.pop()
        except IndexError:  # asking first would race with other threads
            return _Frame(self.info)

    def _values(self, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        if self._data is not None:
            if any(isinstance(value, Value) for value in (*args, *named.values())):
                args, named = self._data.expand(args, named)
        if not named and len(args) == self._num_inputs:
            return args
        return arrange(self.info, args, named)

    def _infer(self, frame: _Frame) -> tuple[tuple[int, ...], ...]:
        count = len(self.info.inputs)
        if self._library.heddle_infer_shapes(
            frame.input_address, count, frame.dims, self._num_dims
        ):
            raise _library_error(self._library)
        shapes, start = [], 0
        for info in self.info.outputs:
            shapes.append(tuple(frame.dims[start : start + len(info.shape)]))
            start += len(info.shape)
        return tuple(shapes)

    def _allocate(self, frame: _Frame, values: Sequence[Any]) -> list[np.ndarray]:
        """Memory for the results: that of a donated input where one lies in it, else new."""
        empty = self._results.empty
        plans = self._static
        if plans is None:
            plans = []
            for shape, info in zip(self._infer(frame), self.info.outputs, strict=True):
                dtype = np.dtype(info.dtype)
                plans.append((shape, dtype, _size(shape, dtype)))
        try:
            if self._homes is None:
                return [empty(*plan) for plan in plans]
            return [
                empty(*plan) if home is None else _array_of(values[home])
                for plan, home in zip(plans, self._homes, strict=True)
            ]
        except MemoryError as error:
            raise UserError(f"{self.name}: out of memory for the outputs: {error}") from error

    def _run(self, frame: _Frame) -> None:
        if self._library.heddle_run(
            frame.input_address, self._num_inputs, frame.output_address, self._num_outputs
        ):
            raise _library_error(self._library)

    # ---- measuring -------------------------------------------------------------------------------

    def profile(self, *args: Any, rounds: int = 20, warmup: int = 3, **named: Any) -> Profile:
        """Runs the model `rounds` times and tells the time of each kernel.

        Raises `UserError` as a call does, and when rounds is less than 1.
        """
        if rounds < 1:
            raise UserError(f"{self.name}: profile: rounds must be at least 1, got {rounds}")
        frame = _Frame(self.info)
        values = self._values(args, named)
        frame.inputs.fill(values)
        results = self._allocate(frame, values)
        frame.outputs.fill(results)
        kernels = self.info.kernels
        times = np.zeros((rounds, len(kernels)), np.int64)
        counts = np.zeros_like(times)
        totals = np.zeros(rounds, np.int64)
        for index in range(-warmup, rounds):
            if index < 0:
                self._run(frame)
                continue
            start = time.perf_counter_ns()
            if self._library.heddle_run_profiled(
                frame.input_address,
                len(self.info.inputs),
                frame.output_address,
                len(self.info.outputs),
                times[index].ctypes.data_as(POINTER(c_int64)),
                counts[index].ctypes.data_as(POINTER(c_int64)),
            ):
                raise _library_error(self._library)
            totals[index] = time.perf_counter_ns() - start
        return summarize(self.info.metadata, kernels, times, counts, totals)

    def set_num_threads(self, count: int) -> None:
        """Threads that kernels may use from now on, in the whole process. Raises `UserError`."""
        if self._library.heddle_set_num_threads(count) != 0:
            raise _library_error(self._library)

    @property
    def num_threads(self) -> int:
        """Threads that kernels may use, the calling one included."""
        return int(self._library.heddle_get_num_threads())

    # ---- files -----------------------------------------------------------------------------------

    def export_library(self, path: str | os.PathLike[str]) -> Path:
        """Writes one self-contained shared library: code, constants and metadata.

        The file appears complete or not at all. Raises `UserError` when it cannot be written.
        """
        path = Path(path)
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a directory")
        if self._objects:
            if not all(item.is_file() for item in self._objects):
                where = self._objects[0].parent
                raise UserError(f"cannot write {path}: {where} is gone; compile the model again")
            return link_shared(self._objects, path, constants=self._constants, name=self.info.name)
        with writing_beside(path) as temporary:
            shutil.copyfile(self._path, temporary)
            os.chmod(temporary, 0o755)
        return path

    def write_header(self, path: str | os.PathLike[str]) -> Path:
        """Writes the C header of the model. Raises `UserError` when it cannot be written."""
        path = Path(path)
        with writing_beside(path) as temporary:
            temporary.write_text(c_header(self.info))
        return path


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    count = dtype.itemsize
    for dim in shape:
        count *= dim
    return count


def _array_of(value: Any) -> np.ndarray:
    """A donated input as an array over the same memory."""
    if isinstance(value, Tensor):
        return value._array
    return value if isinstance(value, np.ndarray) else dlpack.to_numpy(value)


def _written(result: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The part of an output that the model has written, dense from its start on."""
    if shape == result.shape:
        return result
    return result.reshape(-1)[: math.prod(shape)].reshape(shape)


def _aligned(constants: np.ndarray) -> np.ndarray:
    """The constants as contiguous uint8 that start at a multiple of 64 bytes."""
    flat = np.ascontiguousarray(constants).reshape(-1).view(np.uint8)
    if flat.ctypes.data % 64 == 0:
        return flat
    moved = aligned_bytes(flat.nbytes)
    moved[:] = flat
    return moved


def _library_error(library: ctypes.CDLL) -> UserError:
    return UserError(library.heddle_last_error().decode("utf-8", "replace"))


def load(path: str | os.PathLike[str]) -> Executable:
    """Opens a library that `export_library` wrote.

    Raises `UserError` for a file that is missing, damaged, for another machine or of another
    version. A library is code: load only files that you trust.

    >>> exe = load("resnet50.so")  # doctest: +SKIP
    """
    path = Path(path)
    library = open_library(path)
    return Executable(library, path)
