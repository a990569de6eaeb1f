# SPDX-License-Identifier: Apache-2.0
"""Philox-4x32-10 against the published vectors, and what its numbers look like."""

from __future__ import annotations

import numpy as np
import pytest

import heddle
from heddle import op
from heddle.graph import GraphBuilder
from heddle.ir import IRModule, TensorType
from heddle.support import UserError

# `kat_vectors` of Random123 (D. E. Shaw Research), philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(*items: int) -> np.ndarray:
    return np.asarray(items, np.uint32)


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    attrs = op.random_bits(words(*key), words(*counter), shape=(4,)).attrs
    found = op.random_bits.evaluate([words(*key), words(*counter)], attrs)
    assert tuple(found) == expected


def compiled(
    name: str, target: str = "native", threads: int | None = None, **attrs: object
) -> heddle.Executable:
    """A model with the key as its input."""
    builder = GraphBuilder("main")
    key = builder.param("key", TensorType.of((2,), "uint32"))
    value = builder.emit(op.get(name)(key, **attrs), name="value")
    module = IRModule({"main": builder.finish(value)})
    return heddle.compile(module, target, num_threads=threads)


def test_compiled_known_answers() -> None:
    counter, key, expected = KNOWN[0]
    run = compiled("random_bits", shape=(4,))
    assert tuple(run(words(*key)).numpy()) == expected
    assert not any(counter)


@pytest.mark.parametrize("target, threads", [("llvm -mcpu=x86-64", 2), ("llvm -mcpu=haswell", 1)])
def test_targets_and_threads_agree(target: str, threads: int) -> None:
    key = words(3, 4)
    attrs = {"shape": (50, 33), "dtype": "float32"}
    for name, more in (("random_uniform", {}), ("random_integers", {"high": 9, "dtype": "int32"})):
        call = op.get(name)(key, **{**attrs, **more})
        found = compiled(name, target, threads, **{**attrs, **more})(key).numpy()
        np.testing.assert_array_equal(found, op.get(name).evaluate([key], call.attrs))


def test_an_element_depends_on_its_position_only() -> None:
    key = words(1, 2)
    long = compiled("random_uniform", shape=(40, 25), dtype="float32")(key).numpy().ravel()
    short = compiled("random_uniform", shape=(300,), dtype="float32")(key).numpy()
    np.testing.assert_array_equal(long[:300], short)


def test_moments() -> None:
    """Of 20000 numbers the mean lies within 5 standard errors of what it should be."""
    key, count = words(7, 0), 20000
    for name, attrs, mean, deviation in (
        ("random_uniform", {"low": -1.0, "high": 3.0, "dtype": "float32"}, 1.0, 4 / 12**0.5),
        ("random_normal", {"mean": 2.0, "scale": 3.0, "dtype": "float32"}, 2.0, 3.0),
        ("random_integers", {"low": 0, "high": 11, "dtype": "int32"}, 5.0, 10**0.5),
    ):
        call = op.get(name)(key, shape=(count,), **attrs)
        found = op.get(name).evaluate([key], call.attrs).astype(np.float64)
        assert abs(found.mean() - mean) < 5 * deviation / count**0.5, name
        assert abs(found.std() / deviation - 1) < 0.03, name
        assert len(np.unique(found)) > (10 if name == "random_integers" else 19000)


def test_messages() -> None:
    with pytest.raises(UserError, match=r"argument `key` has shape \(3,\), expected \(2,\)"):
        op.random_bits(words(1, 2, 3), shape=(4,))
    with pytest.raises(UserError, match="has dtype int64, expected uint32"):
        op.random_bits(np.zeros(2, np.int64), shape=(4,))
    with pytest.raises(UserError, match="do not fit in uint8"):
        op.random_integers(words(1, 2), shape=(4,), high=300, dtype="uint8")
