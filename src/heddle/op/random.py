# SPDX-License-Identifier: Apache-2.0
"""Random numbers as a function of a key and a counter: Philox-4x32-10.

J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
Block n of a stream is a bijection, chosen by the key, of the four words of the counter plus n; so
an element depends on the key, the counter and its own position only: results are the same on every
target, for any number of threads and any schedule (normal numbers but for the rounding of the
elementary functions in them).

The words of block n are those at positions 4 n to 4 n + 3 of the flattened result. `key` holds the
two words of the key, `counter` the four of the first block (default: zeros), the lowest first; n is
added to the lower two, which wrap. Streams that shall not overlap differ in the key or in the upper
two words. Numbers of 64 bits take two neighbouring words, the first as the lower half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from heddle import te
from heddle.ir import DType, TensorType
from heddle.ir.expr import EQ, Expr, Let, Var, cast, compare, const, select
from heddle.op.attribute import Dims, Ints
from heddle.op.common import as_dims, require_shape
from heddle.op.registry import operator
from heddle.op.sample import case, values
from heddle.support import UserError
from heddle.tir import intrin

# The multipliers and the Weyl sequence that the key follows, from the paper.
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
UINT32: Final = DType.of("uint32")
UINT64: Final = DType.of("uint64")
# How many bits of a number uniform in [0, 1) a dtype holds exactly.
_DIGITS: Final = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
Words = tuple[Expr, Expr, Expr, Expr]


# -- the generator ---------------------------------------------------------------------------


class _Lets:
    """Names for subexpressions that are used more than once."""

    def __init__(self) -> None:
        self._bound: list[tuple[Var, Expr]] = []

    def name(self, value: Expr, hint: str) -> Expr:
        """A variable that stands for `value`."""
        var = Var(f"{hint}{len(self._bound)}", value.dtype)
        self._bound.append((var, value))
        return var

    def around(self, body: Expr) -> Expr:
        """`body` with the variables bound."""
        for var, value in reversed(self._bound):
            body = Let(value, var, body)
        return body


def _philox(counter: Words, key: tuple[Expr, Expr], lets: _Lets) -> Words:
    """The four words of a block."""
    c0, c1, c2, c3 = counter
    for turn in range(_ROUNDS):
        k0, k1 = (
            word + const(weyl * turn % 2**32, UINT32) for word, weyl in zip(key, _WEYL, strict=True)
        )
        first = lets.name(cast(c0, UINT64) * const(_MULTIPLIERS[0], UINT64), "p")
        second = lets.name(cast(c2, UINT64) * const(_MULTIPLIERS[1], UINT64), "p")
        c0 = intrin.bitwise_xor(intrin.bitwise_xor(_upper(second), c1), k0)
        c2 = intrin.bitwise_xor(intrin.bitwise_xor(_upper(first), c3), k1)
        c1, c3 = cast(second, UINT32), cast(first, UINT32)
    return c0, c1, c2, c3


def _upper(product: Expr) -> Expr:
    return cast(intrin.shift_right(product, const(32, UINT64)), UINT32)


def _block(key: te.Tensor, counter: te.Tensor | None, number: Expr, lets: _Lets) -> Words:
    """The words of block `number` (uint64) of the stream."""
    zero = const(0, UINT32)
    base = [zero] * 4 if counter is None else [counter[const(at)] for at in range(4)]
    low = intrin.shift_left(cast(base[1], UINT64), const(32, UINT64)) + cast(base[0], UINT64)
    place = lets.name(low + number, "n")
    words = (cast(place, UINT32), _upper(place), base[2], base[3])
    return _philox(words, (key[const(0)], key[const(1)]), lets)


def _pick(words: Sequence[Expr], lane: Expr) -> Expr:
    picked = words[-1]
    for at in reversed(range(len(words) - 1)):
        picked = select(compare(EQ, lane, const(at, lane.dtype)), words[at], picked)
    return picked


def _elements(
    name: str, shape: Dims, per_block: int, body: Callable[[Expr, Expr, _Lets], Expr]
) -> te.Tensor:
    """A tensor whose element at flat position p is `body(p // per_block, p % per_block)`."""
    dims = as_dims(shape)

    def element(*index: Expr) -> Expr:
        flat: Expr = const(0)
        for at, dim in zip(index, dims, strict=True):
            flat = flat * dim + at
        lets = _Lets()
        position = lets.name(cast(flat, UINT64), "i")
        shift = const(per_block.bit_length() - 1, UINT64)
        lane = intrin.bitwise_and(position, const(per_block - 1, UINT64))
        return lets.around(body(intrin.shift_right(position, shift), lane, lets))

    return te.compute(dims, element, name=name)


def _reference(key: np.ndarray, counter: np.ndarray | None, blocks: int) -> np.ndarray:
    """The words of the first blocks, [blocks, 4]: the algorithm on numpy vectors."""
    base = np.zeros(4, np.uint64) if counter is None else counter.astype(np.uint64)
    with np.errstate(over="ignore"):
        place = (base[1] << np.uint64(32)) + base[0] + np.arange(blocks, dtype=np.uint64)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [place & low, place >> half, np.full(blocks, base[2]), np.full(blocks, base[3])]
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(_ROUNDS):
        first, second = c[0] * np.uint64(_MULTIPLIERS[0]), c[2] * np.uint64(_MULTIPLIERS[1])
        c = [
            (second >> half) ^ c[1] ^ np.uint64(k0),
            second & low,
            (first >> half) ^ c[3] ^ np.uint64(k1),
            first & low,
        ]
        k0, k1 = (k0 + _WEYL[0]) % 2**32, (k1 + _WEYL[1]) % 2**32
    return np.stack(c, axis=-1).astype(np.uint32)


def _words(key: np.ndarray, counter: np.ndarray | None, count: int) -> np.ndarray:
    return _reference(key, counter, -(-count // 4)).ravel()[:count]


def _wide_words(key: np.ndarray, counter: np.ndarray | None, count: int) -> np.ndarray:
    pairs = _words(key, counter, 2 * count).astype(np.uint64).reshape(-1, 2)
    return pairs[:, 0] | pairs[:, 1] << np.uint64(32)


def _check(key: TensorType, counter: TensorType | None) -> None:
    for type_, name, count in ((key, "key", 2), (counter, "counter", 4)):
        if type_ is None:
            continue
        require_shape(type_, name, (count,))
        if type_.dtype is not UINT32:
            raise UserError(f"argument `{name}` has dtype {type_.dtype}, expected uint32")


def _check_float(dtype: DType) -> None:
    if not dtype.is_float:
        raise UserError(f"attribute `dtype` is {dtype}, expected a float dtype")


_RANDOM: Final = "random numbers do not depend smoothly on their key"

# -- operators -------------------------------------------------------------------------------


@operator("random_bits", kind="injective", dtypes="int")
def random_bits(key: TensorType, counter: TensorType | None = None, *, shape: Dims) -> TensorType:
    """Random words, uint32, by Philox-4x32-10 (Salmon et al., SC 2011): see `heddle.op.random`
    for what key[2] and counter[4], both uint32, mean."""
    _check(key, counter)
    return TensorType(as_dims(shape), UINT32)


@random_bits.rule("compute")
def _(key: te.Tensor, counter: te.Tensor | None, *, shape: Dims) -> te.Tensor:
    def body(block: Expr, lane: Expr, lets: _Lets) -> Expr:
        return _pick(_block(key, counter, block, lets), lane)

    return _elements("random_bits", shape, 4, body)


@random_bits.rule("numpy")
def _(key: np.ndarray, counter: np.ndarray | None, *, shape: Ints) -> np.ndarray:
    return _words(key, counter, math.prod(shape)).reshape(shape)


@operator("random_uniform", kind="injective", dtypes="int")
def random_uniform(
    key: TensorType,
    counter: TensorType | None = None,
    *,
    shape: Dims,
    low: float = 0.0,
    high: float = 1.0,
    dtype: DType,
) -> TensorType:
    """Random numbers low + (high - low) * u, u uniform among the multiples of 2^-p in [0, 1): the
    upper p bits of the words of `random_bits`, p the digits of `dtype` (24 for float32; float64
    takes two words for its 53).

    The same bits on every target: products are exact, in float64, so that it does not matter where
    a target fuses a product with a sum. Rounding of the sum can give `high` itself."""
    _check(key, counter)
    _check_float(dtype)
    limit = 2.0**1023 if dtype.bits == 64 else float(np.finfo(np.float32).max)
    for name, value in (("low", low), ("high", high), ("high - low", high - low)):
        if not abs(value) <= limit:
            raise UserError(f"`{name}` is {value}, expected a number of at most {limit:.4g}")
    return TensorType(as_dims(shape), dtype)


def _unit(words: Words, lane: Expr, dtype: DType) -> Expr:
    """The number in [0, 1) of an element, float64 or float32."""
    digits = _DIGITS[dtype.name]
    if dtype.bits == 64:
        return cast(_top(words, lane), dtype) * const(2.0**-digits, dtype)
    top = intrin.shift_right(_pick(words, lane), const(32 - digits, UINT32))
    return cast(cast(top, "int32"), "float32") * const(2.0**-digits, "float32")


def _top(words: Words, lane: Expr) -> Expr:
    """The upper 53 bits of the number of 64 that an element takes, int64."""
    low, high = _pick(words[::2], lane), _pick(words[1::2], lane)
    wide = intrin.shift_left(cast(high, UINT64), const(32, UINT64)) + cast(low, UINT64)
    return cast(intrin.shift_right(wide, const(11, UINT64)), "int64")


def _scaled(parts: Sequence[Any], low: float, high: float, digits: int) -> Any:
    """low + (high - low) * top / 2^digits in float64, of expressions or arrays.

    parts: `top`, of at most 24 bits; or, of 53, its upper 26 and its lower 27. Products are exact,
    so that one and a sum give the same fused or not (where high - low is above 1e-270): a width of
    24 bits at once, else in two halves (T. J. Dekker, "A floating-point technique for extending
    the available precision", 1971).
    """
    step = 2.0**-digits
    if len(parts) == 1:
        return parts[0] * (float(np.float32(high - low)) * step) + float(np.float32(low))
    width = high - low
    exponent = math.frexp(width)[1] - 26
    upper = math.ldexp(round(math.ldexp(width, -exponent)), exponent)
    lower = width - upper
    first, second = parts[0] * (2.0**27 * step), parts[1] * step
    return first * upper + (first * lower + (second * upper + second * lower)) + low


@random_uniform.rule("compute")
def _(
    key: te.Tensor,
    counter: te.Tensor | None,
    *,
    shape: Dims,
    low: float,
    high: float,
    dtype: DType,
) -> te.Tensor:
    digits = _DIGITS[dtype.name]

    def body(block: Expr, lane: Expr, lets: _Lets) -> Expr:
        words = _block(key, counter, block, lets)
        if (low, high) == (0.0, 1.0):
            return cast(_unit(words, lane, dtype), dtype)
        if dtype.bits == 64:
            top = lets.name(_top(words, lane), "t")
            first = intrin.shift_right(top, const(27, "int64"))
            second = intrin.bitwise_and(top, const(2**27 - 1, "int64"))
            return _scaled([cast(x, dtype) for x in (first, second)], low, high, digits)  # type: ignore[no-any-return]
        top = intrin.shift_right(_pick(words, lane), const(32 - digits, UINT32))
        wide = _scaled([cast(cast(top, "int32"), "float64")], low, high, digits)
        return cast(cast(wide, "float32"), dtype)

    return _elements("random_uniform", shape, 2 if dtype.bits == 64 else 4, body)


@random_uniform.rule("numpy")
def _(
    key: np.ndarray,
    counter: np.ndarray | None,
    *,
    shape: Ints,
    low: float,
    high: float,
    dtype: DType,
) -> np.ndarray:
    count, digits = math.prod(shape), _DIGITS[dtype.name]
    if dtype.bits == 64:
        top = _wide_words(key, counter, count) >> np.uint64(11)
        parts = [top >> np.uint64(27), top & np.uint64(2**27 - 1)]
    else:
        top = _words(key, counter, count) >> np.uint32(32 - digits)
        parts = [top]
    if (low, high) == (0.0, 1.0):
        found = top.astype(np.float64) * 2.0**-digits
    else:
        found = _scaled([part.astype(np.float64) for part in parts], low, high, digits)
    return found.astype(np.float64 if dtype.bits == 64 else np.float32).reshape(shape)


@operator("random_normal", kind="injective", dtypes="int")
def random_normal(
    key: TensorType,
    counter: TensorType | None = None,
    *,
    shape: Dims,
    mean: float = 0.0,
    scale: float = 1.0,
    dtype: DType,
) -> TensorType:
    """Random numbers of the normal distribution with this mean and standard deviation, by the
    method of Box and Muller (1958): of two words, u in (0, 1] and v in [0, 1), come
    sqrt(-2 ln u) cos(2 pi v) and, for the next element, the same with the sine. Computed in float32
    (float64 for float64) and rounded once."""
    _check(key, counter)
    _check_float(dtype)
    return TensorType(as_dims(shape), dtype)


@random_normal.rule("compute")
def _(
    key: te.Tensor,
    counter: te.Tensor | None,
    *,
    shape: Dims,
    mean: float,
    scale: float,
    dtype: DType,
) -> te.Tensor:
    wide = DType.of("float64" if dtype.bits == 64 else "float32")
    digits = _DIGITS[wide.name]

    def body(block: Expr, lane: Expr, lets: _Lets) -> Expr:
        words = _block(key, counter, block, lets)
        pair = intrin.shift_right(lane, const(1, UINT64))
        step = const(2.0**-digits, wide)
        if wide.bits == 64:
            zero = const(0, UINT64)
            first, second = (_unit(words, zero + const(at, UINT64), wide) for at in (0, 1))
        else:
            first, second = (
                cast(
                    cast(intrin.shift_right(_pick(words[at::2], pair), const(8, UINT32)), "int32"),
                    wide,
                )
                * step
                for at in (0, 1)
            )
        radius = intrin.sqrt(intrin.log(first + step) * const(-2.0, wide))
        angle = lets.name(second * const(2 * math.pi, wide), "a")
        even = compare(EQ, intrin.bitwise_and(lane, const(1, UINT64)), const(0, UINT64))
        wave = select(even, intrin.cos(angle), intrin.sin(angle))
        return cast(radius * wave * const(scale, wide) + const(mean, wide), dtype)

    return _elements("random_normal", shape, 2 if wide.bits == 64 else 4, body)


@random_normal.rule("numpy")
def _(
    key: np.ndarray,
    counter: np.ndarray | None,
    *,
    shape: Ints,
    mean: float,
    scale: float,
    dtype: DType,
) -> np.ndarray:
    count = math.prod(shape) + math.prod(shape) % 2
    if dtype.bits == 64:
        unit = (_wide_words(key, counter, count) >> np.uint64(11)) * 2.0**-53
        step = 2.0**-53
    else:
        unit = (_words(key, counter, count) >> np.uint32(8)) * 2.0**-24
        step = 2.0**-24
    radius = np.sqrt(-2 * np.log(unit[::2] + step))
    angle = 2 * np.pi * unit[1::2]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).ravel()
    return (mean + scale * both[: math.prod(shape)]).reshape(shape)


@operator("random_integers", kind="injective", dtypes="int")
def random_integers(
    key: TensorType,
    counter: TensorType | None = None,
    *,
    shape: Dims,
    low: int = 0,
    high: int,
    dtype: DType,
) -> TensorType:
    """Random integers in [low, high): low + floor(word * (high - low) / 2^32). Of at most 2^32
    numbers each is as probable as the others within (high - low) / 2^32."""
    _check(key, counter)
    if not dtype.is_int:
        raise UserError(f"attribute `dtype` is {dtype}, expected an integer dtype")
    if not 0 < high - low <= 2**32:
        raise UserError(f"`low` {low} and `high` {high}, expected a range of 1 to 2^32 numbers")
    if low < dtype.min_value or high - 1 > dtype.max_value:
        raise UserError(f"numbers from {low} to {high - 1} do not fit in {dtype}")
    return TensorType(as_dims(shape), dtype)


@random_integers.rule("compute")
def _(
    key: te.Tensor,
    counter: te.Tensor | None,
    *,
    shape: Dims,
    low: int,
    high: int,
    dtype: DType,
) -> te.Tensor:
    def body(block: Expr, lane: Expr, lets: _Lets) -> Expr:
        word = cast(_pick(_block(key, counter, block, lets), lane), UINT64)
        part = intrin.shift_right(word * const(high - low, UINT64), const(32, UINT64))
        return cast(part, dtype) + const(low, dtype)

    return _elements("random_integers", shape, 4, body)


@random_integers.rule("numpy")
def _(
    key: np.ndarray,
    counter: np.ndarray | None,
    *,
    shape: Ints,
    low: int,
    high: int,
    dtype: DType,
) -> np.ndarray:
    word = _words(key, counter, math.prod(shape)).astype(np.uint64)
    part = (word * np.uint64(high - low)) >> np.uint64(32)
    return (part.astype(dtype.numpy) + np.asarray(low, dtype.numpy)).reshape(shape)  # type: ignore[no-any-return]


_KEY: Final[Any] = values([0x243F6A88, 0x85A308D3], "uint32")
_COUNTER: Final[Any] = values([0xFFFFFFFE, 0xFFFFFFFF, 3, 4], "uint32")
for _op in (random_bits, random_uniform, random_normal, random_integers):
    _op.not_differentiable(_RANDOM)
random_bits.samples(case(_KEY, shape=(3, 5)), case(_KEY, _COUNTER, shape=(17,)))
random_uniform.samples(
    case(_KEY, shape=(3, 5), dtype="float32"),
    case(_KEY, _COUNTER, shape=(7,), low=-2.0, high=3.0, dtype="float64"),
    case(_KEY, shape=(9,), dtype="float16"),
    case(_KEY, shape=(9,), dtype="bfloat16"),
)
random_normal.samples(
    case(_KEY, shape=(3, 5), dtype="float32"),
    case(_KEY, _COUNTER, shape=(7,), mean=1.0, scale=0.5, dtype="float64"),
    case(_KEY, shape=(9,), dtype="float16"),
)
random_integers.samples(
    case(_KEY, shape=(3, 5), high=7, dtype="int64"),
    case(_KEY, _COUNTER, shape=(9,), low=-(2**31), high=2**31, dtype="int32"),
    case(_KEY, shape=(9,), low=5, high=250, dtype="uint8"),
)
