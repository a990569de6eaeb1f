# SPDX-License-Identifier: Apache-2.0
"""Small C functions that generated code uses: each appears in a source only when it is called.

The name of a helper says which: "floordiv_int64", "max_float", "int8_of_float", "half_to_float".
"""

from __future__ import annotations

from heddle.ir.dtype import DType
from heddle.support import InternalError

_HALF_TO_FLOAT = """\
static inline float half_to_float(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu, mantissa = half & 0x3ffu;
  uint32_t bits = sign | ((exponent + 112u) << 23) | (mantissa << 13);
  float value;
  if (exponent == 0u) {
    value = (float)mantissa * 0x1p-24f;
    return sign != 0u ? -value : value;
  }
  if (exponent == 31u) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  }
  memcpy(&value, &bits, sizeof value);
  return value;
}
"""
_FLOAT_TO_HALF = """\
static inline uint16_t float_to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) { /* not a number */
    return (uint16_t)(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));
  }
  if (bits >= 0x477ff000u) { /* rounds to infinity */
    return (uint16_t)(sign | 0x7c00u);
  }
  if (bits < 0x38800000u) { /* subnormal */
    return (uint16_t)(sign | (uint32_t)rintf(fabsf(value) * 0x1p24f));
  }
  bits += 0xfffu + ((bits >> 13) & 1u);
  return (uint16_t)(sign | ((bits - 0x38000000u) >> 13));
}
"""
_BFLOAT16_TO_FLOAT = """\
static inline float bfloat16_to_float(uint16_t upper) {
  const uint32_t bits = (uint32_t)upper << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
"""
_FLOAT_TO_BFLOAT16 = """\
static inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (value != value) { /* not a number */
    return (uint16_t)((bits | 0x400000u) >> 16);
  }
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return (uint16_t)(bits >> 16);
}
"""
_POPCOUNT = """\
static inline int popcount_uint64(uint64_t bits) {
  int count = 0;
  for (; bits != 0; bits &= bits - 1) {
    ++count;
  }
  return count;
}
"""
_FIXED = {
    "half_to_float": _HALF_TO_FLOAT,
    "float_to_half": _FLOAT_TO_HALF,
    "bfloat16_to_float": _BFLOAT16_TO_FLOAT,
    "float_to_bfloat16": _FLOAT_TO_BFLOAT16,
    "popcount_uint64": _POPCOUNT,
}
_FLOATS = {"float": ("float", "f"), "double": ("double", "")}


def helper_text(name: str) -> str:
    """The definition of a helper."""
    if name in _FIXED:
        return _FIXED[name]
    what, _, rest = name.partition("_")
    if what in ("floordiv", "floormod", "truncdiv", "truncmod"):
        return _division(name, what, rest)
    if what in ("min", "max"):
        return _extremum(name, what, rest)
    if name.startswith("exp_normal_"):
        return _exp_normal(name, rest.removeprefix("normal_"))
    if what in ("sigmoid", "rsqrt"):
        return _unary(name, what, rest)
    if what == "bits":
        return _reinterpret(name, *rest.split("_as_"))
    if rest.startswith("of_"):
        return _saturating(name, DType.of(what), rest.removeprefix("of_"))
    raise InternalError(f"no helper `{name}`")


def _division(name: str, what: str, dtype: str) -> str:
    kind, unsigned = f"{dtype}_t", f"u{dtype}_t"
    negated = f"({kind})(0u - ({unsigned})a)"  # the lowest integer wraps
    bodies = {
        "truncdiv": f"  return b == -1 ? {negated} : ({kind})(a / b);\n",
        "truncmod": f"  return b == -1 ? 0 : ({kind})(a % b);\n",
        "floordiv": (
            f"  if (b == -1) {{\n    return {negated};\n  }}\n"
            f"  return ({kind})(a / b - (a % b != 0 && (a < 0) != (b < 0)));\n"
        ),
        "floormod": (
            "  if (b == -1) {\n    return 0;\n  }\n"
            f"  const {kind} rest = ({kind})(a % b);\n"
            f"  return rest != 0 && (rest < 0) != (b < 0) ? ({kind})(rest + b) : rest;\n"
        ),
    }
    return f"static inline {kind} {name}({kind} a, {kind} b) {{\n{bodies[what]}}}\n"


def _extremum(name: str, what: str, word: str) -> str:
    kind = _FLOATS[word][0] if word in _FLOATS else f"{word}_t"
    sign = "<" if what == "min" else ">"
    nan = " || a != a" if word in _FLOATS else ""  # not a number if either is
    chosen = f"a {sign} b{nan} ? a : b"
    return f"static inline {kind} {name}({kind} a, {kind} b) {{\n  return {chosen};\n}}\n"


def _unary(name: str, what: str, word: str) -> str:
    kind, end = _FLOATS[word]
    one = f"1.0{end}"
    value = f"{one} / ({one} + exp{end}(-x))" if what == "sigmoid" else f"{one} / sqrt{end}(x)"
    return f"static inline {kind} {name}({kind} x) {{\n  return {value};\n}}\n"


def _exp_normal(name: str, word: str) -> str:
    kind, end = _FLOATS[word]
    tiny = "0x1p-126f" if end else "0x1p-1022"
    body = f"  {kind} value = exp{end}(x);\n  return value < {tiny} ? 0 : value;\n"
    return f"static inline {kind} {name}({kind} x) {{\n{body}}}\n"


def _reinterpret(name: str, source: str, wanted: str) -> str:
    return (
        f"static inline {wanted} {name}({source} from) {{\n  {wanted} to;\n"
        "  memcpy(&to, &from, sizeof to);\n  return to;\n}\n"
    )


def _saturating(name: str, dtype: DType, word: str) -> str:
    kind, (source, end) = f"{dtype.name}_t", _FLOATS[word]
    upper = dtype.name.upper()
    low = f"{upper}_MIN" if dtype.kind == "int" else "0"
    smallest = f"{float(dtype.min_value)!r}{end}"
    beyond = f"{float(dtype.max_value + 1)!r}{end}"
    return (
        f"static inline {kind} {name}({source} x) {{\n"
        f"  if (x != x) {{\n    return 0;\n  }}\n"
        f"  if (x <= {smallest}) {{\n    return {low};\n  }}\n"
        f"  return x >= {beyond} ? {upper}_MAX : ({kind})x;\n}}\n"
    )
