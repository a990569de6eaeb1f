# SPDX-License-Identifier: Apache-2.0
"""Writing LLVM IR as text: modules, functions, blocks, and folding of what is constant.

An operand is a string: a name (`%12`) or a literal (`42`, `splat (float 0x...)`). Pure
instructions are numbered by their text within the blocks that dominate them, so writing the same
instruction twice gives the same name; that keeps unrolled code small before LLVM sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from heddle.codegen.llvm.types import vector

Interval = tuple[int, int | None]


class ModuleBuilder:
    """One LLVM module: its declarations, helper functions, functions and loop metadata."""

    def __init__(self, triple: str, features: frozenset[str], vector_bits: int) -> None:
        self.triple = triple
        self.features = features
        self.vector_bits = vector_bits
        self.declarations: dict[str, None] = {}
        self.helpers: dict[str, str] = {}
        self.functions: list[str] = []
        self.globals: list[str] = []
        self.metadata: list[str] = []
        self.explicit_vectors = False
        self.strings: dict[bytes, str] = {}

    def declare(self, declaration: str) -> None:
        """Add `declare <declaration>` once."""
        self.declarations[declaration] = None

    def helper(self, name: str, make: Callable[[], str]) -> str:
        """The name of an internal function whose text `make` gives when it is first needed."""
        if name not in self.helpers:
            self.helpers[name] = ""  # a helper may use others; it must not find itself
            text = make()
            del self.helpers[name]
            self.helpers[name] = text
        return name

    def string(self, text: str) -> str:
        """A pointer to a constant NUL-terminated string."""
        data = text.encode() + b"\0"
        name = self.strings.get(data)
        if name is None:
            name = self.strings[data] = f"@.str.{len(self.strings)}"
            escaped = "".join(
                chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:02X}"
                for byte in data
            )
            self.globals.append(
                f'{name} = private unnamed_addr constant [{len(data)} x i8] c"{escaped}"'
            )
        return name

    def metadata_node(self, text: str) -> str:
        """A new numbered metadata node."""
        number = f"!{len(self.metadata)}"
        self.metadata.append(f"{number} = {text}")
        return number

    def loop_metadata(self, *properties: str) -> str:
        """The `!llvm.loop` attachment of one loop."""
        nodes = [self.metadata_node(f"!{{{text}}}") for text in properties]
        number = f"!{len(self.metadata)}"
        self.metadata.append(f"{number} = distinct !{{{', '.join([number, *nodes])}}}")
        return f", !llvm.loop {number}"

    def text(self) -> str:
        """The whole module."""
        parts = [f'target triple = "{self.triple}"', *self.globals]
        parts += [f"declare {declaration}" for declaration in self.declarations]
        parts += [*self.helpers.values(), *self.functions, *self.metadata, ""]
        return "\n".join(parts)


class FunctionBuilder:
    """The body of one function, written block by block."""

    def __init__(self, module: ModuleBuilder) -> None:
        self.module = module
        self.entry: list[str] = []  # allocas, and what must come before everything
        self.lines: list[str] = []
        self.count = 0
        self.block = "entry"
        self.known: dict[str, str] = {}
        self.scopes: list[list[str]] = [[]]
        self.ranges: dict[str, Interval] = {}

    # -- instructions and blocks -----------------------------------------------------------------

    def fresh(self, stem: str = "v") -> str:
        """A new local name."""
        self.count += 1
        return f"%{stem}{self.count}"

    def op(self, text: str) -> str:
        """A pure instruction: its name, which an earlier equal instruction may have made."""
        name = self.known.get(text)
        if name is None:
            name = self.instr(text)
            self.known[text] = name
            self.scopes[-1].append(text)
        return name

    def instr(self, text: str) -> str:
        """An instruction with a result."""
        name = self.fresh()
        self.lines.append(f"  {name} = {text}")
        return name

    def void(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}")

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Code that does not dominate what comes after it."""
        self.scopes.append([])
        try:
            yield
        finally:
            for text in self.scopes.pop():
                del self.known[text]

    def label(self, stem: str) -> str:
        """A new block name, without `%`."""
        self.count += 1
        return f"{stem}{self.count}"

    def start(self, label: str) -> None:
        """Begin the block `label`."""
        self.lines.append(f"{label}:")
        self.block = label

    def branch(self, label: str) -> None:
        self.void(f"br label %{label}")

    def branch_if(self, condition: str, then: str, otherwise: str) -> None:
        self.void(f"br i1 {condition}, label %{then}, label %{otherwise}")

    def alloca(self, text: str, stem: str = "local") -> str:
        """Stack memory, allocated once on entry of the function."""
        name = self.fresh(stem)
        self.entry.append(f"  {name} = alloca {text}")
        return name

    def body(self) -> str:
        """The text between the braces."""
        return "\n".join(["entry:", *self.entry, *self.lines])

    # -- vectors ---------------------------------------------------------------------------------

    def splat(self, scalar_type: str, value: str, lanes: int) -> str:
        """`value` in every lane."""
        if lanes == 1:
            return value
        if is_literal(value):
            return f"splat ({scalar_type} {value})"
        wide = vector(scalar_type, lanes)
        first = self.op(f"insertelement {wide} poison, {scalar_type} {value}, i64 0")
        return self.op(
            f"shufflevector {wide} {first}, {wide} poison, <{lanes} x i32> zeroinitializer"
        )

    # -- scalar int64 arithmetic, folded, with intervals -----------------------------------------

    def interval(self, value: str) -> Interval | None:
        """What is known about an int64 value: (lowest, highest or None)."""
        number = literal_int(value)
        return self.ranges.get(value) if number is None else (number, number)

    def add(self, a: str, b: str, *, flags: str = "nsw ") -> str:
        x, y = literal_int(a), literal_int(b)
        if x is not None and y is not None:
            return str(x + y)
        if x == 0:
            return b
        if y == 0:
            return a
        result = self.op(f"add {flags}i64 {a}, {b}")
        self._note(result, a, b, lambda p, q: p + q)
        return result

    def sub(self, a: str, b: str, *, flags: str = "nsw ") -> str:
        x, y = literal_int(a), literal_int(b)
        if x is not None and y is not None:
            return str(x - y)
        return a if y == 0 else self.op(f"sub {flags}i64 {a}, {b}")

    def mul(self, a: str, b: str, *, flags: str = "nsw ") -> str:
        x, y = literal_int(a), literal_int(b)
        if x is not None and y is not None:
            return str(x * y)
        if x == 0 or y == 0:
            return "0"
        if x == 1:
            return b
        if y == 1:
            return a
        result = self.op(f"mul {flags}i64 {a}, {b}")
        self._note(result, a, b, lambda p, q: p * q)
        return result

    def _note(self, result: str, a: str, b: str, apply: Callable[[int, int], int]) -> None:
        """The interval of a sum or product of values that are not negative."""
        left, right = self.interval(a), self.interval(b)
        if left is not None and right is not None and left[0] >= 0 and right[0] >= 0:
            bounded = left[1] is not None and right[1] is not None
            high = apply(left[1], right[1]) if bounded else None  # type: ignore[arg-type]
            self.ranges[result] = (apply(left[0], right[0]), high)

    def compare_lt(self, a: str, b: str) -> str:
        """`a < b` as an i1 operand."""
        left, right = self.interval(a), self.interval(b)
        if left is not None and right is not None:
            if left[1] is not None and left[1] < right[0]:
                return "true"
            if right[1] is not None and left[0] >= right[1]:
                return "false"
        return self.op(f"icmp slt i64 {a}, {b}")


def is_literal(operand: str) -> bool:
    """Whether an operand is a constant rather than a name."""
    return operand[0] not in "%@"


def literal_int(operand: str) -> int | None:
    """The value of an integer literal, or None."""
    first = operand[0]
    if first in "%@<sptfzun" or operand.startswith("0x"):
        return None
    return int(operand)
