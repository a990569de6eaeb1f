# SPDX-License-Identifier: Apache-2.0
"""Float arithmetic on vectors written as plain calls, for the formulas of `math.py`.

No fast-math flag is set here: error terms must not be simplified away.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from heddle.codegen.llvm.builder import FunctionBuilder
from heddle.codegen.llvm.types import mangle, vector


class VectorWriter:
    """Writes instructions on vectors of `lanes` elements of "float" or "double"."""

    def __init__(self, b: FunctionBuilder, element: str, lanes: int) -> None:
        self.b = b
        self.element = element
        self.lanes = lanes
        self.kind = vector(element, lanes)
        self.bits_wide = 32 if element == "float" else 64
        self.word = vector(f"i{self.bits_wide}", lanes)
        self.truth = vector("i1", lanes)

    # -- constants -------------------------------------------------------------------------------

    def const(self, value: float) -> str:
        """A constant in every lane."""
        return self.b.splat(self.element, self._literal(value), self.lanes)

    def _literal(self, value: float) -> str:
        if self.element == "float" and value - value == 0.0:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        return f"0x{bits:016X}"

    def lookup(self, table: Sequence[float], index: str) -> str:
        """The elements of a table of sixteen that the low four bits of `index` tell: one
        instruction of AVX-512, on sixteen floats."""
        values = ", ".join(f"{self.element} {self._literal(value)}" for value in table)
        symbol = "@llvm.x86.avx512.permvar.sf.512"
        self.b.module.declare(f"{self.kind} {symbol}({self.kind}, {self.word})")
        return self.b.op(f"call {self.kind} {symbol}({self.kind} <{values}>, {self.word} {index})")

    def int_const(self, value: int) -> str:
        return self.b.splat(f"i{self.bits_wide}", str(value), self.lanes)

    # -- floats ----------------------------------------------------------------------------------

    def _binary(self, word: str, x: str, y: str) -> str:
        return self.b.op(f"{word} {self.kind} {x}, {y}")

    def add(self, x: str, y: str) -> str:
        return self._binary("fadd", x, y)

    def sub(self, x: str, y: str) -> str:
        return self._binary("fsub", x, y)

    def mul(self, x: str, y: str) -> str:
        return self._binary("fmul", x, y)

    def div(self, x: str, y: str) -> str:
        return self._binary("fdiv", x, y)

    def negate(self, x: str) -> str:
        return self.b.op(f"fneg {self.kind} {x}")

    def fma(self, x: str, y: str, z: str) -> str:
        """`x * y + z`, fused where the processor can."""
        symbol = f"@llvm.fmuladd.{mangle(self.kind)}"
        self.b.module.declare(f"{self.kind} {symbol}({self.kind}, {self.kind}, {self.kind})")
        return self.b.op(
            f"call {self.kind} {symbol}({self.kind} {x}, {self.kind} {y}, {self.kind} {z})"
        )

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """Horner's rule, the highest power first."""
        result = self.const(coefficients[0])
        for coefficient in coefficients[1:]:
            result = self.fma(result, x, self.const(coefficient))
        return result

    def unary(self, name: str, x: str) -> str:
        """`llvm.<name>` of one operand."""
        symbol = f"@llvm.{name}.{mangle(self.kind)}"
        self.b.module.declare(f"{self.kind} {symbol}({self.kind})")
        return self.b.op(f"call {self.kind} {symbol}({self.kind} {x})")

    def abs(self, x: str) -> str:
        return self.unary("fabs", x)

    def copysign(self, size: str, sign: str) -> str:
        symbol = f"@llvm.copysign.{mangle(self.kind)}"
        self.b.module.declare(f"{self.kind} {symbol}({self.kind}, {self.kind})")
        return self.b.op(f"call {self.kind} {symbol}({self.kind} {size}, {self.kind} {sign})")

    def compare(self, how: str, x: str, y: str) -> str:
        return self.b.op(f"fcmp {how} {self.kind} {x}, {y}")

    def select(self, condition: str, x: str, y: str) -> str:
        return self.b.op(f"select {self.truth} {condition}, {self.kind} {x}, {self.kind} {y}")

    def clamp(self, x: str, low: float, high: float) -> str:
        """`x` within [low, high]; NaN stays NaN."""
        low_text = self.const(low)
        # `low > x ? low : x` is one maxps, whose second operand wins when one is NaN
        return self.at_most(self.select(self.compare("ogt", low_text, x), low_text, x), high)

    def at_most(self, x: str, high: float) -> str:
        """The smaller of `x` and `high`; NaN stays NaN."""
        high_text = self.const(high)
        return self.select(self.compare("olt", high_text, x), high_text, x)

    # -- integers of the same width --------------------------------------------------------------

    def int_op(self, word: str, x: str, value: int) -> str:
        return self.b.op(f"{word} {self.word} {x}, {self.int_const(value)}")

    def int_compare(self, how: str, x: str, value: int) -> str:
        return self.b.op(f"icmp {how} {self.word} {x}, {self.int_const(value)}")

    def select_int(self, condition: str, x: str, y: str) -> str:
        return self.b.op(f"select {self.truth} {condition}, {self.word} {x}, {self.word} {y}")

    def bits(self, x: str) -> str:
        return self.b.op(f"bitcast {self.kind} {x} to {self.word}")

    def from_bits(self, x: str) -> str:
        return self.b.op(f"bitcast {self.word} {x} to {self.kind}")

    def nearest(self, x: str) -> tuple[str, str]:
        """The nearest whole number, as a float and as an integer, for |x| < 2**22 (2**51).

        Adding 1.5 * 2**23 (2**52) rounds to a whole number and leaves it in the low bits; unlike
        a conversion it is defined for NaN and costs nothing extra.
        """
        single = self.element == "float"
        magic = 12582912.0 if single else 6755399441055744.0
        shifted = self.add(x, self.const(magic))
        base = 0x4B400000 if single else 0x4338000000000000
        return self.sub(shifted, self.const(magic)), self.int_op("sub", self.bits(shifted), base)

    def power_of_two(self, exponent: str) -> str:
        """2 to an integer that is in the range of exponents."""
        bias, width = (127, 23) if self.element == "float" else (1023, 52)
        return self.from_bits(self.int_op("shl", self.int_op("add", exponent, bias), width))

    # -- lanes and conditions --------------------------------------------------------------------

    def lane(self, x: str, lane: int) -> str:
        if self.lanes == 1:
            return x
        return self.b.op(f"extractelement {self.kind} {x}, i64 {lane}")

    def invert(self, condition: str) -> str:
        true = self.b.splat("i1", "true", self.lanes)
        return self.b.op(f"xor {self.truth} {condition}, {true}")

    def any(self, condition: str) -> str:
        """Whether some lane of the condition is true."""
        if self.lanes == 1:
            return condition
        symbol = f"@llvm.vector.reduce.or.v{self.lanes}i1"
        self.b.module.declare(f"i1 {symbol}({self.truth})")
        return self.b.op(f"call i1 {symbol}({self.truth} {condition})")
