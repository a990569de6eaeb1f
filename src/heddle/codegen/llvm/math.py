# SPDX-License-Identifier: Apache-2.0
"""Elementary functions as LLVM IR for vectors of any length.

float32 (and the 16-bit floats, computed in float32); largest error against the correctly rounded
result, in units in the last place, over all inputs including subnormals:

    function  ulp   method
    exp       1     n = round(x / ln 2), r = x - n ln 2 in two parts, polynomial in r (Cephes)
    exp_normal 1    likewise; zero below the smallest normal number
    exp2      2     likewise with r = (x - n) ln 2
    expm1     2     2^n expm1(r) + (2^n - 1)
    log       1     s = f / (2 + f), even polynomial in s (FreeBSD msun)
    log2      2     likewise, times log2(e)
    log1p     2     log(u) + (x - (u - 1)) / u with u = 1 + x
    tanh      2     odd polynomial below 0.625 (Cephes), else 1 - 2 / (exp(2x) + 1)
    sigmoid   3     exp(-|x|) based, so that small results keep their precision
    erf       2     odd polynomial below 0.92, else 1 - exp(polynomial) (N. Juffa); with AVX-512
                    a polynomial for each quarter of |x| (`erf_table`)
    sin, cos  1     reduction and polynomial in float64; beyond 1e6 the C library
    pow       1     exp2(y log2(x)) in float64
    others          the C library, lane by lane

Without fused multiply-add (plain SSE) the errors may be one ulp larger. float64 goes to the C
library, lane by lane. `rsqrt` is `1 / sqrt(x)` with both steps correctly rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from heddle.codegen.llvm import erf_table
from heddle.codegen.llvm.builder import FunctionBuilder, ModuleBuilder
from heddle.codegen.llvm.types import mangle, vector
from heddle.codegen.llvm.vector_writer import VectorWriter

LOG2E: Final = 1.4426950408889634
LN2: Final = 0.6931471805599453
LN2_HIGH: Final = 0.693359375
LN2_LOW: Final = -2.12194440e-4
_EXP: Final = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_TANH: Final = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)


def elementary(module: ModuleBuilder, name: str, element: str, lanes: int) -> str:
    """The symbol of an internal function that computes `name` on vectors of `lanes` elements of
    the LLVM type `element` ("float" or "double"); it is written when it is first asked for."""
    kind = vector(element, lanes)
    symbol = f"@hd.{name}.{mangle(kind)}"
    own = _FLOAT.get(name) if element == "float" else _DOUBLE.get(name)
    arity = 2 if name in ("pow", "fmod", "atan2") else 1

    def make() -> str:
        w = VectorWriter(FunctionBuilder(module), element, lanes)
        params = [f"%x{place}" for place in range(arity)]
        result = own(w, *params) if own is not None else by_lane(w, name, params)
        w.b.void(f"ret {kind} {result}")
        given = ", ".join(f"{kind} {param}" for param in params)
        inline = "" if own is None or name in ("sin", "cos", "pow") else "alwaysinline "
        width = module.vector_bits
        attributes = f'{inline}nounwind "min-legal-vector-width"="{width}"'
        attributes += f' "prefer-vector-width"="{width}"'
        return f"define internal {kind} {symbol}({given}) {attributes} {{\n{w.b.body()}\n}}"

    return module.helper(symbol, make)


def by_lane(w: VectorWriter, name: str, params: Sequence[str]) -> str:
    """A function of the C library, called for every lane."""
    symbol = f"@{name}f" if w.element == "float" else f"@{name}"
    element = w.element
    w.b.module.declare(f"{element} {symbol}({', '.join([element] * len(params))})")
    result = "poison"
    for lane in range(w.lanes):
        ones = [w.lane(param, lane) for param in params]
        given = ", ".join(f"{element} {one}" for one in ones)
        value = w.b.op(f"call {element} {symbol}({given}) nounwind memory(none)")
        if w.lanes == 1:
            return value
        result = w.b.op(f"insertelement {w.kind} {result}, {element} {value}, i64 {lane}")
    return result


# -- exponentials --------------------------------------------------------------------------------


_EXP_LOWEST: Final = -103.9721
"""Below it exp(x) rounds to zero."""
_EXP_NORMAL: Final = {"float": -87.33654, "double": -708.3964185322641}
"""Below it exp(x) is subnormal: the logarithm of the smallest normal number."""


def _has_wide_instructions(w: VectorWriter) -> bool:
    """Whether one instruction multiplies by a power of two, and one looks up sixteen floats."""
    module = w.b.module
    return w.lanes == 16 and "avx512f" in module.features and module.vector_bits == 512


def _scale(
    w: VectorWriter, value: str, exponent: str, integer: str, keep: str | None = None
) -> str:
    """`value * 2**exponent`, correct for results that are subnormal or overflow. `exponent` is a
    whole number in [-151, 129]; `integer` is the same as an integer. Lanes without `keep` are zero
    and compute nothing: an underflow costs more than a hundred cycles on many cores."""
    if _has_wide_instructions(w):
        symbol = "@llvm.x86.avx512.mask.scalef.ps.512"
        w.b.module.declare(f"{w.kind} {symbol}({w.kind}, {w.kind}, {w.kind}, i16, i32)")
        mask = "-1" if keep is None else w.b.op(f"bitcast <16 x i1> {keep} to i16")
        other = value if keep is None else w.const(0.0)
        operands = f"{w.kind} {value}, {w.kind} {exponent}, {w.kind} {other}, i16 {mask}, i32 4"
        return w.b.op(f"call {w.kind} {symbol}({operands})")
    half = w.int_op("ashr", integer, 1)
    rest = w.b.op(f"sub {w.word} {integer}, {half}")
    scaled = w.mul(w.mul(value, w.power_of_two(half)), w.power_of_two(rest))
    return scaled if keep is None else w.select(keep, scaled, w.const(0.0))


def _exp_parts(w: VectorWriter, x: str) -> tuple[str, str, str]:
    """(n, n as an integer, r) with x = n ln 2 + r."""
    n, integer = w.nearest(w.mul(x, w.const(LOG2E)))
    r = w.fma(n, w.const(-LN2_HIGH), x)
    return n, integer, w.fma(n, w.const(-LN2_LOW), r)


def _exp_tail(w: VectorWriter, r: str) -> str:
    """exp(r) - 1 for |r| <= ln(2) / 2."""
    return w.fma(w.polynomial(r, _EXP), w.mul(r, r), r)


def _exp(w: VectorWriter, x: str, lowest: float = _EXP_LOWEST) -> str:
    keep = w.compare("uge", x, w.const(lowest))
    if not _has_wide_instructions(w):
        x = w.select(keep, x, w.const(0.0))
    x = w.at_most(x, 89.0)
    n, integer, r = _exp_parts(w, x)
    return _scale(w, w.add(_exp_tail(w, r), w.const(1.0)), n, integer, keep)


def _exp_normal(w: VectorWriter, x: str) -> str:
    return _exp(w, x, _EXP_NORMAL["float"])


def _exp_normal_double(w: VectorWriter, x: str) -> str:
    keep = w.compare("uge", x, w.const(_EXP_NORMAL["double"]))
    return w.select(keep, by_lane(w, "exp", [x]), w.const(0.0))


def _exp2(w: VectorWriter, x: str) -> str:
    x = w.clamp(x, -151.0, 129.0)
    n, integer = w.nearest(x)
    r = w.mul(w.sub(x, n), w.const(LN2))
    return _scale(w, w.add(_exp_tail(w, r), w.const(1.0)), n, integer)


def _expm1(w: VectorWriter, x: str) -> str:
    large = _exp(w, x)
    _, integer, r = _exp_parts(w, w.clamp(x, -17.5, 31.0))
    power = w.power_of_two(integer)
    small = w.fma(power, _exp_tail(w, r), w.sub(power, w.const(1.0)))
    small = w.select(w.compare("oeq", x, w.const(0.0)), x, small)
    return w.select(w.compare("ogt", x, w.const(30.0)), large, small)


def _sigmoid(w: VectorWriter, x: str) -> str:
    e = _exp(w, w.negate(w.abs(x)))
    top = w.select(w.compare("olt", x, w.const(0.0)), e, w.const(1.0))
    return w.div(top, w.add(e, w.const(1.0)))


def _sigmoid_double(w: VectorWriter, x: str) -> str:
    e = by_lane(w, "exp", [w.negate(w.abs(x))])
    top = w.select(w.compare("olt", x, w.const(0.0)), e, w.const(1.0))
    return w.div(top, w.add(e, w.const(1.0)))


def _tanh(w: VectorWriter, x: str) -> str:
    z = w.mul(x, x)
    small = w.fma(w.mul(w.polynomial(z, _TANH), z), x, x)
    size = w.abs(x)
    e = _exp(w, w.clamp(w.add(size, size), 0.0, 20.0))
    large = w.sub(w.const(1.0), w.div(w.const(2.0), w.add(e, w.const(1.0))))
    large = w.copysign(large, x)
    return w.select(w.compare("ogt", size, w.const(0.625)), large, small)


def _erf(w: VectorWriter, x: str) -> str:
    if _has_wide_instructions(w):
        return _erf_by_pieces(w, x)
    t, s = w.abs(x), w.mul(x, x)
    p = w.fma(w.const(-1.72853470e-5), t, w.const(3.83197126e-4))
    q = w.fma(w.const(-3.88396438e-3), t, w.const(2.42546219e-2))
    p = w.fma(p, s, q)
    for coefficient in (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1):
        p = w.fma(p, t, w.const(coefficient))
    p = w.fma(p, t, w.negate(t))
    # beyond 4 the result is 1, and the square of a huge argument must not become inf - inf
    p = w.select(w.compare("ogt", t, w.const(4.0)), w.const(-20.0), p)
    large = w.copysign(w.sub(w.const(1.0), _exp(w, p)), x)
    tail = (
        *(-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1),
        *(-3.76125336e-1, 1.28379166e-1),
    )
    small = w.fma(w.polynomial(s, tail), x, x)
    return w.select(w.compare("ogt", t, w.const(0.927734375)), large, small)


def _erf_by_pieces(w: VectorWriter, x: str) -> str:
    t = w.abs(x)
    quarters = w.mul(w.at_most(t, erf_table.LARGEST), w.const(4.0))
    piece, number = w.nearest(quarters)
    f = w.sub(quarters, piece)
    first, *middle, base = erf_table.COEFFICIENTS
    value = w.lookup(first, number)
    for coefficients in middle:
        value = w.fma(value, f, w.lookup(coefficients, number))
    near_zero = w.compare("oeq", piece, w.const(0.0))
    value = w.fma(value, f, w.select(near_zero, t, w.lookup(base, number)))
    large = w.compare("ogt", t, w.const(erf_table.LARGEST))
    return w.copysign(w.select(large, w.const(1.0), value), x)


# -- logarithms ----------------------------------------------------------------------------------


def _log_parts(w: VectorWriter, x: str) -> tuple[str, str, str, str, str]:
    """(k, f, s, hfsq, R) with x = 2^k (1 + f) and log(1 + f) = f - hfsq + s (hfsq + R)."""
    tiny = w.compare("olt", x, w.const(1.17549435e-38))
    x = w.select(tiny, w.mul(x, w.const(8388608.0)), x)
    bits = w.int_op("add", w.bits(x), 0x3F800000 - 0x3F3504F3)
    exponent = w.int_op("sub", w.int_op("ashr", bits, 23), 127)
    shift = w.select_int(tiny, w.int_const(-23), w.int_const(0))
    exponent = w.b.op(f"add {w.word} {exponent}, {shift}")
    k = w.b.op(f"sitofp {w.word} {exponent} to {w.kind}")
    mantissa = w.int_op("add", w.int_op("and", bits, 0x007FFFFF), 0x3F3504F3)
    f = w.sub(w.from_bits(mantissa), w.const(1.0))
    s = w.div(f, w.add(f, w.const(2.0)))
    z = w.mul(s, s)
    y = w.mul(z, z)
    odd = w.mul(z, w.fma(y, w.const(0.28498786688), w.const(0.66666662693)))
    even = w.mul(y, w.fma(y, w.const(0.24279078841), w.const(0.40000972152)))
    half = w.mul(w.mul(f, w.const(0.5)), f)
    return k, f, s, half, w.add(odd, even)


def _log_specials(w: VectorWriter, x: str, result: str) -> str:
    result = w.select(w.compare("oeq", x, w.const(0.0)), w.const(float("-inf")), result)
    infinite = w.compare("oeq", x, w.const(float("inf")))
    result = w.select(infinite, x, result)
    bad = w.compare("ult", x, w.const(0.0))  # negative or NaN
    return w.select(bad, w.const(float("nan")), result)


def _log(w: VectorWriter, x: str) -> str:
    k, f, s, half, rest = _log_parts(w, x)
    low = w.fma(s, w.add(half, rest), w.mul(k, w.const(9.0580006145e-06)))
    result = w.add(w.sub(low, half), f)
    result = w.fma(k, w.const(6.9313812256e-01), result)
    return _log_specials(w, x, result)


def _log2(w: VectorWriter, x: str) -> str:
    k, f, s, half, rest = _log_parts(w, x)
    natural = w.sub(f, w.sub(half, w.mul(s, w.add(half, rest))))
    return _log_specials(w, x, w.fma(natural, w.const(LOG2E), k))


def _log1p(w: VectorWriter, x: str) -> str:
    u = w.add(x, w.const(1.0))
    low = w.sub(x, w.sub(u, w.const(1.0)))
    high = w.sub(w.const(1.0), w.sub(u, x))
    lost = w.select(w.compare("oge", u, w.const(2.0)), high, low)
    lost = w.div(lost, u)
    usable = w.compare("ogt", u, w.const(0.0))
    finite = w.compare("olt", u, w.const(float("inf")))
    usable = w.b.op(f"and {w.truth} {usable}, {finite}")
    result = w.add(_log(w, u), w.select(usable, lost, w.const(0.0)))
    return w.select(w.compare("oeq", x, w.const(0.0)), x, result)


# -- in float64 ----------------------------------------------------------------------------------


def _sine(turn: int) -> Callable[[VectorWriter, str], str]:
    """sin(x + turn pi / 2)."""
    name = "cos" if turn else "sin"

    def write(w: VectorWriter, x: str) -> str:
        fast, slow, end = (w.b.label(stem) for stem in ("fast", "slow", "end"))
        huge = w.compare("uge", w.abs(x), w.const(1.0e6))
        w.b.branch_if(w.any(huge), slow, fast)
        w.b.start(slow)
        with w.b.scope():
            exact = by_lane(w, name, [x])
            from_slow = w.b.block
            w.b.branch(end)
        w.b.start(fast)
        with w.b.scope():
            near = _reduced_sine(w, x, turn)
            from_fast = w.b.block
            w.b.branch(end)
        w.b.start(end)
        return w.b.instr(f"phi {w.kind} [ {exact}, %{from_slow} ], [ {near}, %{from_fast} ]")

    return write


def _reduced_sine(w: VectorWriter, x: str, turn: int) -> str:
    d = VectorWriter(w.b, "double", w.lanes)
    wide = w.b.op(f"fpext {w.kind} {x} to {d.kind}")
    n, quadrant = d.nearest(d.mul(wide, d.const(0.6366197723675814)))
    r = d.fma(n, d.const(-1.57079632673412561417), wide)
    r = d.fma(n, d.const(-6.07710050650619224932e-11), r)
    quadrant = d.int_op("add", quadrant, turn)
    z = d.mul(r, r)
    z2 = d.mul(z, z)
    s = d.mul(z, r)
    tail = d.fma(z, d.const(2.7183114939898219064e-6), d.const(-1.98393348360966317347e-4))
    sine = d.fma(
        s, d.fma(z, d.const(8.3333293858894631756e-3), d.const(-0.166666666416265235595)), r
    )
    sine = d.fma(d.mul(s, z2), tail, sine)
    cosine = d.fma(z, d.const(-0.499999997251031003120), d.const(1.0))
    cosine = d.fma(z2, d.const(0.0416666233237390631894), cosine)
    tail = d.fma(z, d.const(2.43904487962774090654e-5), d.const(-1.38867637746099294692e-3))
    cosine = d.fma(d.mul(z2, z), tail, cosine)
    odd = d.int_compare("ne", d.int_op("and", quadrant, 1), 0)
    value = d.select(odd, cosine, sine)
    flip = d.int_compare("ne", d.int_op("and", quadrant, 2), 0)
    value = d.select(flip, d.negate(value), value)
    return w.b.op(f"fptrunc {d.kind} {value} to {w.kind}")


def _log2_double(d: VectorWriter, x: str) -> str:
    """log2 of a positive normal float64 to about 1e-13."""
    bits = d.int_op("add", d.bits(x), 0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
    k = d.int_op("sub", d.int_op("ashr", bits, 52), 1023)
    exponent = d.b.op(f"sitofp {d.word} {k} to {d.kind}")
    kept = d.int_op("and", bits, 0x000FFFFFFFFFFFFF)
    mantissa = d.from_bits(d.int_op("add", kept, 0x3FE6A09E667F3BCD))
    f = d.sub(mantissa, d.const(1.0))
    s = d.div(f, d.add(f, d.const(2.0)))
    z = d.mul(s, s)
    series = d.polynomial(z, [2.0 * LOG2E / odd for odd in (15, 13, 11, 9, 7, 5, 3, 1)])
    return d.fma(series, s, exponent)


def _exp2_double(d: VectorWriter, x: str) -> str:
    """2^x for |x| < 1000 to about 1e-12."""
    n, integer = d.nearest(x)
    r = d.mul(d.sub(x, n), d.const(LN2))
    factorial, series = 1.0, [1.0]
    for degree in range(1, 11):
        factorial *= degree
        series.insert(0, 1.0 / factorial)
    return d.mul(d.polynomial(r, series), d.power_of_two(integer))


def _pow(w: VectorWriter, x: str, y: str) -> str:
    d = VectorWriter(w.b, "double", w.lanes)
    size = w.abs(x)
    wide_x = w.b.op(f"fpext {w.kind} {size} to {d.kind}")
    wide_y = w.b.op(f"fpext {w.kind} {y} to {d.kind}")
    log = _log2_double(d, wide_x)
    zero, infinity = d.const(0.0), d.const(float("inf"))
    log = d.select(d.compare("oeq", wide_x, zero), d.const(float("-inf")), log)
    log = d.select(d.compare("oeq", wide_x, infinity), infinity, log)
    log = d.select(d.compare("uno", wide_x, wide_x), wide_x, log)
    product = d.mul(wide_y, log)
    one = w.const(1.0)
    is_one = w.compare("oeq", size, one)
    known = w.compare("ord", y, y)
    product = d.select(w.b.op(f"and {w.truth} {is_one}, {known}"), zero, product)
    product = d.clamp(product, -200.0, 200.0)
    result = w.b.op(f"fptrunc {d.kind} {_exp2_double(d, product)} to {w.kind}")
    # the sign and the domain for negative x
    negative = w.int_compare("slt", w.bits(x), 0)
    whole = w.compare("oeq", w.unary("floor", y), y)
    half = w.mul(y, w.const(0.5))
    even = w.compare("oeq", w.unary("floor", half), half)
    odd = w.b.op(f"and {w.truth} {whole}, {w.invert(even)}")
    flip = w.b.op(f"and {w.truth} {negative}, {odd}")
    result = w.select(flip, w.negate(result), result)
    below = w.compare("olt", x, w.const(0.0))
    finite = w.compare("olt", size, w.const(float("inf")))
    bad = w.b.op(f"and {w.truth} {below}, {finite}")
    bad = w.b.op(f"and {w.truth} {bad}, {w.invert(whole)}")
    infinite_y = w.compare("oeq", w.abs(y), w.const(float("inf")))
    bad = w.b.op(f"and {w.truth} {bad}, {w.invert(infinite_y)}")
    result = w.select(bad, w.const(float("nan")), result)
    always_one = w.b.op(
        f"or {w.truth} {w.compare('oeq', y, w.const(0.0))}, {w.compare('oeq', x, one)}"
    )
    return w.select(always_one, one, result)


_FLOAT: Final[dict[str, Callable[..., str]]] = {
    "exp": _exp,
    "exp_normal": _exp_normal,
    "exp2": _exp2,
    "expm1": _expm1,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "erf": _erf,
    "log": _log,
    "log2": _log2,
    "log1p": _log1p,
    "sin": _sine(0),
    "cos": _sine(1),
    "pow": _pow,
}
_DOUBLE: Final[dict[str, Callable[..., str]]] = {
    "exp_normal": _exp_normal_double,
    "sigmoid": _sigmoid_double,
}
