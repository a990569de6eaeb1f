# SPDX-License-Identifier: Apache-2.0
"""What is handed to `heddle.compile` and to the compiled model: each mistake has its message."""

from __future__ import annotations

import re

import numpy as np
import pytest

import heddle
from heddle.support import UserError

pytest.importorskip("onnx", reason="the models are ONNX models")
from onnx import helper

from .models import WEIGHT, dense, model, unary


@pytest.fixture(scope="module")
def executable() -> heddle.Executable:
    return heddle.compile(dense(), name="dense")


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


class OnAnotherDevice:
    """A tensor in the memory of a GPU, as far as one can tell from outside."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: object) -> object:
        raise AssertionError("must not be asked for")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((draw(4, 16).astype("f8"),), "input `x`: dtype is float64, expected float32"),
        ((draw(4, 16).astype("i4"),), "input `x`: dtype is int32, expected float32"),
        ((draw(64),), "input `x`: has 1 dimensions, expected 2"),
        ((draw(4, 4, 4),), "input `x`: has 3 dimensions, expected 2"),
        ((draw(4, 17),), "input `x`: dimension 1 is 17, expected 16"),
        ((draw(0, 16),), "input `x`: dimension 0 is 0, expected 4"),
        ((draw(16, 4).T,), "input `x`: is not contiguous"),
        ((draw(4, 32)[:, ::2],), "input `x`: is not contiguous"),
        ((OnAnotherDevice(),), "input `x`: is on DLPack device type 2, expected CPU"),
        ((draw(4, 16).tolist(),), "input `x`: got list, expected float32 as a numpy array"),
        ((None,), "input `x`: got NoneType"),
        ((), "missing input `x`, expected `x: float32[4, 16]`"),
        ((draw(4, 16), draw(4, 16)), "got 2 inputs, expected 1"),
    ],
)
def test_a_bad_argument(executable: heddle.Executable, args: tuple, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        executable(*args)
    x = draw(4, 16)  # nothing is left behind
    np.testing.assert_allclose(executable(x).numpy(), np.tanh(x @ WEIGHT), rtol=1e-5, atol=1e-6)


def test_torch_tensors(executable: heddle.Executable) -> None:
    torch = pytest.importorskip("torch", reason="passes torch tensors")
    x = draw(4, 16)
    result = torch.from_dlpack(executable(torch.from_numpy(x)))
    np.testing.assert_allclose(result.numpy(), np.tanh(x @ WEIGHT), rtol=1e-5, atol=1e-6)
    for bad, message in (
        (torch.from_numpy(x).double(), "dtype is float64"),
        (torch.from_numpy(x).T.contiguous().T, "is not contiguous"),
        (torch.empty((4, 16), device="meta"), "input `x`: "),
    ):
        with pytest.raises(UserError, match=message):
            executable(bad)


@pytest.mark.parametrize("target", ["z80", "llvm -mcpu=z80", "cuda", "", "-O3", 7, None])
def test_unknown_target(target: object) -> None:
    with pytest.raises(UserError, match="target"):
        heddle.compile(dense(), target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.onnx", "nowhere.onnx: there is no such file"),
        (3, "got int"),
        (None, "got NoneType"),
        (heddle.IRModule({}), "no graph function `main`"),
    ],
)
def test_no_model(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        heddle.compile(given)


def test_bad_options() -> None:
    with pytest.raises(UserError, match="num_threads must be at least 1, got 0"):
        heddle.compile(dense(), num_threads=0)
    with pytest.raises(UserError, match="z"):
        heddle.compile(dense(), shapes={"z": (1, 2)})


ODD = np.array([[1.5, np.nan, np.inf, -np.inf, -2.0, 0.0, -0.0, 1e-42, 3e38, -3e38]], np.float32)
REFERENCES = {
    "Relu": lambda x: np.where(np.isnan(x), x, np.maximum(x, 0)),
    "Abs": np.abs,
    "Neg": np.negative,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x.astype(np.float64))),
    "Floor": np.floor,
    "Reciprocal": lambda x: 1 / x,
}


@pytest.mark.parametrize("operator", REFERENCES)
def test_nan_and_infinity_pass_through(operator: str) -> None:
    with np.errstate(all="ignore"):
        expected = REFERENCES[operator](ODD).astype(np.float32)
    # subnormal results and operands may be flushed, hence the absolute tolerance
    result = heddle.compile(unary(operator, ODD.shape))(ODD).numpy()
    keep = np.ones(ODD.shape, bool)
    if operator in ("Reciprocal", "Log", "Sqrt"):
        keep[0, 7] = False  # of a subnormal operand they make an ordinary number
    np.testing.assert_allclose(result[keep], expected[keep], rtol=2e-6, atol=1e-37)


def test_nan_reaches_its_row_and_no_other(executable: heddle.Executable) -> None:
    x = draw(4, 16)
    x[2, 5] = np.nan
    result = executable(x).numpy()
    assert np.isnan(result[2]).all()
    np.testing.assert_allclose(
        result[[0, 1, 3]], np.tanh(x[[0, 1, 3]] @ WEIGHT), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_softmax_of_large_values(operator: str) -> None:
    """Values whose exponential is infinite, and masks of minus infinity."""
    x = np.array([[1e4, 1e4 - 1, -1e4], [0.5, -np.inf, 0.25]], np.float32)
    shifted = x.astype(np.float64) - x.max(axis=1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = expected if operator == "LogSoftmax" else np.exp(expected)
    result = heddle.compile(unary(operator, x.shape, axis=1))(x).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [10, -11, 1 << 40, -(1 << 62)])
def test_an_index_outside_stays_inside(bad: int) -> None:
    """ONNX leaves such an index undefined; here it reads an element at the edge, never beyond."""
    node = helper.make_node("Gather", ["table", "at"], ["y"], axis=0)
    inputs = {"table": ("float32", (10, 4)), "at": ("int64", (3,))}
    executable = heddle.compile(model([node], inputs, {"y": ("float32", (3, 4))}))
    table = draw(10, 4)
    result = executable(table, np.array([4, bad, -1])).numpy()
    np.testing.assert_array_equal(result[[0, 2]], table[[4, 9]])
    assert (table == result[1]).all(axis=1).any()


def test_empty_tensors() -> None:
    executable = heddle.compile(unary("Exp", ("rows", 3)))
    assert executable(np.empty((0, 3), np.float32)).shape == (0, 3)
    x = draw(5, 3)
    np.testing.assert_allclose(executable(x).numpy(), np.exp(x), rtol=1e-6)
