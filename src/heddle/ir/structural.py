# SPDX-License-Identifier: Apache-2.0
"""Structural equality and hashing, up to the names of what is bound.

Two nodes are equal when their classes and fields are, where variables and buffers that a
`binder` field defines correspond one to one. Spans and `ignored` fields do not count. Both
functions walk with an explicit stack and look at each shared object once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from heddle.ir.module import BaseFunc
from heddle.ir.node import Node, init_fields

Path = tuple[Any, str] | None
_LEAVE: Final = object()


class Mismatch(NamedTuple):
    """Where two structures first differ: the path from the root, and both sides there."""

    path: str
    left: object
    right: object

    def __str__(self) -> str:
        return f"at {self.path or '<root>'}: {_brief(self.left)} is not {_brief(self.right)}"


def _brief(value: object) -> str:
    if isinstance(value, Node):
        name = getattr(value, "name", getattr(value, "value", ""))
        return f"{type(value).__name__}({name})" if name != "" else type(value).__name__
    return repr(value)


def structural_equal(left: object, right: object, *, map_free_vars: bool = False) -> bool:
    """Whether two nodes have the same structure. See `first_mismatch`."""
    return first_mismatch(left, right, map_free_vars=map_free_vars) is None


def first_mismatch(left: object, right: object, *, map_free_vars: bool = False) -> Mismatch | None:
    """The first place, in field order, where two structures differ; None when they are equal.

    Free variables must be the same objects, unless `map_free_vars` lets them correspond too.
    """
    return _Comparison(map_free_vars).run(left, right)


class _Comparison:
    def __init__(self, map_free_vars: bool) -> None:
        self.bind_all = map_free_vars
        self.forward: dict[Node, Node] = {}
        self.backward: dict[Node, Node] = {}
        self.equal_pairs: set[tuple[int, int]] = set()
        self.stack: list[tuple[Any, Any, Path, bool]] = []

    def run(self, left: object, right: object) -> Mismatch | None:
        self.stack.append((left, right, None, self.bind_all))
        while self.stack:
            a, b, path, binding = self.stack.pop()
            if a is _LEAVE:
                self.forward, self.backward, self.equal_pairs = b
                continue
            if not self.step(a, b, path, binding):
                return Mismatch(_render(path), a, b)
        return None

    def step(self, a: Any, b: Any, path: Path, binding: bool) -> bool:
        if isinstance(a, Node):
            return isinstance(b, Node) and self.nodes(a, b, path, binding)
        if isinstance(a, Mapping):
            if not isinstance(b, Mapping) or a.keys() != b.keys():
                return False
            self.push((a[k], b[k], (path, f"[{k!r}]"), binding) for k in a)
            return True
        if isinstance(a, (tuple, list)):
            if not isinstance(b, (tuple, list)) or len(a) != len(b):
                return False
            self.push((x, b[i], (path, f"[{i}]"), binding) for i, x in enumerate(a))
            return True
        if isinstance(a, np.ndarray):
            same = isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape
            return same and (a is b or a.tobytes() == b.tobytes())
        if isinstance(a, float) and isinstance(b, float):
            return float.hex(a) == float.hex(b)  # 0.0 is not -0.0, NaN is NaN
        return type(a) is type(b) and a == b

    def push(self, items: Any) -> None:
        self.stack.extend(reversed(list(items)))

    def nodes(self, a: Node, b: Node, path: Path, binding: bool) -> bool:
        if type(a) is not type(b):
            return False
        if a.IDENTITY:
            if a in self.forward or b in self.backward:
                return self.forward.get(a) is b
            if not binding:
                return a is b
            self.forward[a] = b
            self.backward[b] = a
        elif (id(a), id(b)) in self.equal_pairs:
            return True
        else:
            self.equal_pairs.add((id(a), id(b)))
            if isinstance(a, BaseFunc) and path is not None:
                # A function of a module is closed: what it binds means nothing to the others.
                self.stack.append(
                    (_LEAVE, (self.forward, self.backward, self.equal_pairs), None, False)
                )
                self.forward, self.backward, self.equal_pairs = {}, {}, set()
        self.push(
            (
                getattr(a, spec.name),
                getattr(b, spec.name),
                (path, f".{spec.name}"),
                binding or spec.role == "binder",
            )
            for spec in init_fields(type(a))
            if spec.role != "ignored" and not (a.IDENTITY and spec.name == "name")
        )
        return True


def _render(path: Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, step = path
        parts.append(step)
    return "".join(reversed(parts))


def structural_hash(root: object) -> str:
    """A hex digest that equal structures share, in every process and on every machine.

    Variables and buffers count by order of first occurrence, so names do not matter. The digest
    keys the disk cache.
    """
    digests: dict[int, bytes] = {}
    numbers: dict[Node, int] = {}
    keep_alive: list[object] = []
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        value, expanded = stack.pop()
        if id(value) in digests:
            continue
        if isinstance(value, BaseFunc) and value is not root:
            keep_alive.append(value)
            digests[id(value)] = bytes.fromhex(structural_hash(value))
            continue
        parts = _parts(value)
        if not expanded and parts:
            if isinstance(value, Node) and value.IDENTITY:
                numbers.setdefault(value, len(numbers))
            keep_alive.extend(parts)
            stack.append((value, True))
            stack.extend((part, False) for part in reversed(parts))
            continue
        hasher = hashlib.blake2b(_label(value, numbers).encode(), digest_size=16)
        for part in parts:
            hasher.update(digests[id(part)])
        keep_alive.append(value)
        digests[id(value)] = hasher.digest()
    return digests[id(root)].hex()


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Node):
        return [
            getattr(value, spec.name)
            for spec in init_fields(type(value))
            if spec.role != "ignored" and not (value.IDENTITY and spec.name == "name")
        ]
    if isinstance(value, Mapping):
        return [item for key in sorted(value, key=str) for item in (key, value[key])]
    return value if isinstance(value, (tuple, list)) else ()


def _label(value: Any, numbers: dict[Node, int]) -> str:
    if isinstance(value, Node):
        number = f"#{numbers[value]}" if value.IDENTITY else ""
        return f"{type(value).__module__}.{type(value).__name__}{number}"
    if isinstance(value, (tuple, list)):
        return f"({len(value)}"
    if isinstance(value, Mapping):
        return f"{{{len(value)}"
    if isinstance(value, np.ndarray):
        content = hashlib.blake2b(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.dtype} {value.shape} {content}"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} {sorted(map(repr, value))}"
    return f"{type(value).__name__} {value!r}"
