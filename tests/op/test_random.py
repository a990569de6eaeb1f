# SPDX-License-Identifier: Apache-2.0
"""Philox-4x32-10 against the published vectors, and what its numbers look like."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import heddle
from heddle import op, te
from heddle.codegen.c import c_source
from heddle.driver.function import BuiltFunction, c_signature
from heddle.graph import GraphBuilder
from heddle.ir import IRModule, TensorType
from heddle.runtime.toolchain import find_toolchain
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


def compiled(name: str, *, target: str = "native", **attrs: object) -> heddle.Executable:
    """A model with the key and the counter as its inputs."""
    builder = GraphBuilder("main")
    key = builder.param("key", TensorType.of((2,), "uint32"))
    counter = builder.param("counter", TensorType.of((4,), "uint32"))
    value = builder.emit(op.get(name)(key, counter, **attrs), name="value")
    module = IRModule({"main": builder.finish(value)})
    return heddle.compile(module, target=target)


def reference(name: str, *args: np.ndarray, **attrs: object) -> np.ndarray:
    """What the operator is in numpy."""
    call = op.get(name)(*args, **attrs)
    return op.get(name).evaluate(list(args), call.attrs)  # type: ignore[no-any-return]


def test_compiled_known_answers() -> None:
    run = compiled("random_bits", shape=(4,))
    for counter, key, expected in KNOWN:
        assert tuple(run(words(*key), words(*counter)).numpy()) == expected


def test_an_element_depends_on_its_position_only() -> None:
    key, zero = words(1, 2), words(0, 0, 0, 0)
    long = compiled("random_uniform", shape=(40, 25), dtype="float32")(key, zero).numpy().ravel()
    short = compiled("random_uniform", shape=(300,), dtype="float32")(key, zero).numpy()
    np.testing.assert_array_equal(long[:300], short)


KEY, COUNTER = words(0x9E3779B9, 77), words(0xFFFFFFF0, 0xFFFFFFFF, 5, 6)
EXACT = {
    "random_bits": [{}],
    "random_uniform": [
        {"dtype": "float32"},
        {"dtype": "float32", "low": -2.3, "high": 3.1},
        {"dtype": "float64", "low": -1 / 3, "high": 1e5 / 7},
        {"dtype": "float64", "low": 0.7, "high": -0.2},
        {"dtype": "float16", "low": -2.3, "high": 3.1},
        {"dtype": "bfloat16", "low": 0.1, "high": 5.3},
    ],
    "random_integers": [{"dtype": "int32", "low": -5, "high": 1000}],
}
CASES = [(name, attrs) for name, rows in EXACT.items() for attrs in rows]


@pytest.mark.parametrize("target", ["native", "x86-64"])  # the second has no fused multiply-add
@pytest.mark.parametrize("name, attrs", CASES)
def test_same_bits_compiled(name: str, attrs: dict, target: str) -> None:
    """Every bit of the reference, for any number of threads."""
    if target != "native" and platform.machine() != "x86_64":
        pytest.skip("this machine does not run x86-64")
    run = compiled(name, target=target, shape=(37, 1001), **attrs)
    expected = reference(name, KEY, COUNTER, shape=(37, 1001), **attrs)
    before = run.num_threads  # of the process
    try:
        for threads in (1, 3):
            run.set_num_threads(threads)
            assert run(KEY, COUNTER).numpy().tobytes() == expected.tobytes()
    finally:
        run.set_num_threads(before)


@pytest.mark.parametrize("flags", ["-ffp-contract=off", "-ffp-contract=fast -march=native"])
def test_same_bits_as_c_source(tmp_path: Path, flags: str) -> None:
    functions = {}
    for index, (name, attrs) in enumerate(CASES):
        call = op.get(name)(KEY, COUNTER, shape=(501,), **attrs)
        inputs = [te.placeholder(a.type.shape, "uint32", name="x") for a in call.args]
        outputs = op.get(name).compute(inputs, call.attrs)
        functions[f"f{index}"] = te.create_prim_func([*inputs, *outputs], name=f"f{index}")
    made = c_source(functions)
    (tmp_path / made.header_name).write_text(made.header)
    (tmp_path / "f.c").write_text(made.source)
    library = tmp_path / "f.so"
    find_toolchain().run(
        ["-std=c11", "-O2", *flags.split(), "-fPIC", "-shared", tmp_path / "f.c", "-o", library]
        + ["-lm"],
        doing="compiling generated C",
    )
    loaded = ctypes.CDLL(str(library))
    for symbol, (name, attrs) in zip(functions, CASES, strict=True):
        function = getattr(loaded, symbol)
        function.argtypes = c_signature(functions[symbol])
        expected = reference(name, KEY, COUNTER, shape=(501,), **attrs)
        found = np.empty_like(expected)
        run = BuiltFunction(functions[symbol], symbol, function, lambda: "")
        run(KEY, COUNTER, found)
        assert found.tobytes() == expected.tobytes(), (name, attrs)


# -- what the numbers look like: 100000 of them, with fixed keys ------------------------------

COUNT = 100_000
UNIFORM = {"low": -1.0, "high": 3.0}
NORMAL = {"mean": 2.0, "scale": 3.0}


def normal_share(x: np.ndarray) -> np.ndarray:
    """The distribution function of the normal distribution of `NORMAL`."""
    return np.asarray([0.5 + 0.5 * math.erf((v - 2.0) / (3.0 * 2**0.5)) for v in x])


@pytest.mark.parametrize("key", [(7, 0), (0, 7), (0xFFFFFFFF, 0xFFFFFFFF)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name, attrs, mean, deviation, kurtosis, share",
    [
        ("random_uniform", UNIFORM, 1.0, 4 / 12**0.5, 1.8, lambda x: (x + 1) / 4),
        ("random_normal", NORMAL, 2.0, 3.0, 3.0, normal_share),
    ],
)
def test_distribution(
    name: str,
    attrs: dict,
    mean: float,
    deviation: float,
    kurtosis: float,
    share: Callable[[np.ndarray], np.ndarray],
    dtype: str,
    key: tuple[int, int],
) -> None:
    """Mean and variance within 5 standard errors, no correlation of neighbours, and the test of
    Kolmogorov and Smirnov at the level of 1e-4 (2.23 / sqrt(n))."""
    found = reference(name, words(*key), shape=(COUNT,), dtype=dtype, **attrs).astype(np.float64)
    unit = (found - mean) / deviation
    assert abs(unit.mean()) < 5 / COUNT**0.5
    assert abs((unit**2).mean() - 1) < 5 * ((kurtosis - 1) / COUNT) ** 0.5
    for lag in (1, 2, 4):
        assert abs((unit[lag:] * unit[:-lag]).mean()) < 5 / COUNT**0.5
        assert abs((unit[lag:] ** 2 * unit[:-lag] ** 2).mean() - 1) < 5 * kurtosis / COUNT**0.5
    expected = share(np.sort(found))
    steps = np.arange(COUNT + 1) / COUNT
    distance = max((expected - steps[:-1]).max(), (steps[1:] - expected).max())
    assert distance < 2.23 / COUNT**0.5


def test_integers_are_equally_frequent() -> None:
    """Pearson's test of 11 classes: 10 degrees of freedom, at the level of 1e-4."""
    found = reference("random_integers", words(7, 0), shape=(COUNT,), high=11, dtype="uint8")
    counts = np.bincount(found, minlength=11)
    assert len(counts) == 11
    assert ((counts - COUNT / 11) ** 2 / (COUNT / 11)).sum() < 35.6


def test_streams_differ() -> None:
    """Neighbouring keys, and counters in the upper words, give numbers unlike each other."""
    first = reference("random_bits", words(1, 0), shape=(1000,))
    others = [
        reference("random_bits", words(2, 0), shape=(1000,)),
        reference("random_bits", words(1, 1), shape=(1000,)),
        reference("random_bits", words(1, 0), words(0, 0, 1, 0), shape=(1000,)),
        reference("random_bits", words(1, 0), words(0, 0, 0, 1), shape=(1000,)),
    ]
    for other in others:
        assert not np.intersect1d(first, other).size
        assert abs(np.unpackbits((first ^ other).view(np.uint8)).mean() - 0.5) < 2.5 / 32000**0.5


def test_messages() -> None:
    with pytest.raises(UserError, match=r"argument `key` has shape \(3,\), expected \(2,\)"):
        op.random_bits(words(1, 2, 3), shape=(4,))
    with pytest.raises(UserError, match="has dtype int64, expected uint32"):
        op.random_bits(np.zeros(2, np.int64), shape=(4,))
    with pytest.raises(UserError, match="do not fit in uint8"):
        op.random_integers(words(1, 2), shape=(4,), high=300, dtype="uint8")
    with pytest.raises(UserError, match="`high - low` is 6e\\+38, expected a number of at most"):
        op.random_uniform(words(1, 2), shape=(4,), low=-3e38, high=3e38, dtype="float32")
    with pytest.raises(UserError, match="`low` is nan, expected a number of at most"):
        op.random_uniform(words(1, 2), shape=(4,), low=float("nan"), dtype="float64")
