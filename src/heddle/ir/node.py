# SPDX-License-Identifier: Apache-2.0
"""`@node`: one declaration of annotated fields makes an immutable IR class.

    @node
    class Let(Expr):
        var: Var = binder()
        value: Expr
        body: Expr
        dtype: DType = derived()

generates `__slots__`, a constructor, `children`, `map`, `replace` and the field table that
structural equality, hashing, printing and pickling read. Fields whose type is a `Node`, an
optional `Node` or a tuple of `Node`s are children; all others are plain values compared with
`==`. Roles refine that:

`binder()`   defines the names (`Var`, `Buffer`) it holds, for the fields that follow it
`refers()`   names something defined elsewhere: `map` does not descend into it
`derived()`  computed by `_derive` from the other fields; no argument, not compared
`ignored()`  carried along but never compared

`==` and `hash` are identity. Nodes are immutable by rule: nothing assigns a field after
construction; `HEDDLE_FREEZE_NODES=1` makes Python enforce it.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, dataclass_transform

from heddle.support import InternalError, Span

_MISSING: Final = object()
_FREEZE: Final = os.environ.get("HEDDLE_FREEZE_NODES", "") not in ("", "0")


class FieldSpec:
    """One field of a node class: its name, its role and what it holds.

    `shape` is "one" (a node), "optional" (a node or None), "many" (a tuple of nodes) or "value".
    """

    __slots__ = ("default", "name", "role", "shape")

    def __init__(self, role: str = "field", default: object = _MISSING) -> None:
        self.role = role
        self.default = default
        self.name = ""
        self.shape = "value"


def field(*, default: Any) -> Any:
    """A field with a default value."""
    return FieldSpec("field", default)


def binder(*, default: Any = _MISSING) -> Any:
    """A field that defines the names it holds, for the fields after it."""
    return FieldSpec("binder", default)


def refers(*, default: Any = _MISSING) -> Any:
    """A field that names something defined elsewhere; `map` passes it by."""
    return FieldSpec("refers", default)


def derived(*, init: typing.Literal[False] = False) -> Any:
    """A field that `_derive` computes after construction. `init` is for type checkers, which
    then know that the constructor does not take it."""
    return FieldSpec("derived")


def ignored(*, default: Any = None) -> Any:
    """A field that is carried along but not compared."""
    return FieldSpec("ignored", default)


class Node:
    """Base of every IR class. Equality and hash are identity; see `structural_equal`."""

    __slots__ = ("__weakref__", "span")

    span: Span | None
    FIELDS: typing.ClassVar[tuple[FieldSpec, ...]] = ()
    IDENTITY: typing.ClassVar[bool] = False
    """Whether nodes of this class are names (variables, buffers): equal by correspondence only."""

    def children(self) -> tuple[Node, ...]:
        """The child nodes in field order (`refers` fields excluded)."""
        return ()

    def map(self, f: Callable[[Any], Any]) -> Any:
        """The same node with `f` applied to each child; `self` when no child changed."""
        return self

    def replace(self, **changes: Any) -> Any:
        """A copy with the named fields changed; the span is kept."""
        values = {spec.name: getattr(self, spec.name) for spec in init_fields(type(self))}
        for name in changes:
            if name not in values and name != "span":
                raise InternalError(f"{type(self).__name__} has no field `{name}`")
        return type(self)(**{**values, "span": self.span, **changes})

    def __str__(self) -> str:
        """The node as script text (see `heddle.script`)."""
        return _print(self)

    def __repr__(self) -> str:
        """One short line for debuggers and test reports; it never fails."""
        try:
            lines = [line for line in str(self).splitlines() if not line.startswith("@")]
        except Exception as error:
            lines = [f"not printable: {error!r}"]
        head = lines[0].strip() if lines else ""
        shown = head if len(lines) < 2 and len(head) <= 80 else f"{head[:80]} ..."
        return f"<{type(self).__name__} {shown}>"

    def show(self) -> None:
        """Print the node as script text, in colour on a terminal."""
        _show(self)

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        return _rebuild, (cls, tuple(getattr(self, s.name) for s in init_fields(cls)), self.span)


_PRINTER: Final = "heddle.script"


def _print_first(root: Node) -> str:
    # Text is an extra of this floor: the printer lies above, and is loaded by the first who asks.
    importlib.import_module(_PRINTER)
    return _print(root)


def _show_first(root: Node) -> None:
    importlib.import_module(_PRINTER)
    _show(root)


_print: Callable[[Node], str] = _print_first
_show: Callable[[Node], None] = _show_first


def set_printer(text: Callable[[Node], str], show: Callable[[Node], None]) -> None:
    """Let `str(node)` and `node.show()` use these; `heddle.script` calls it when imported."""
    global _print, _show
    _print, _show = text, show


def _rebuild(cls: type[Node], values: tuple[Any, ...], span: Span | None) -> Node:
    return cls(*values, span=span)  # type: ignore[call-arg]


def init_fields(cls: type[Node]) -> Iterator[FieldSpec]:
    """The fields that the constructor of `cls` takes, in order."""
    return (spec for spec in cls.FIELDS if spec.role != "derived")


NodeT = TypeVar("NodeT", bound=type)


@dataclass_transform(field_specifiers=(field, binder, refers, derived, ignored))
def node(cls: NodeT) -> NodeT:
    """Make an IR class of annotated fields. See the module's documentation."""
    inherited: tuple[FieldSpec, ...] = cls.__mro__[1].FIELDS  # type: ignore[attr-defined]
    specs = {spec.name: spec for spec in inherited}
    own: list[str] = []
    for name, annotation in inspect.get_annotations(cls).items():
        given = cls.__dict__.get(name, _MISSING)
        if given is _MISSING and str(annotation).startswith(("ClassVar", "typing.ClassVar")):
            continue
        spec = given if isinstance(given, FieldSpec) else FieldSpec("field", given)
        spec.name = name
        spec.shape = _shape_of(cls, annotation) if spec.role != "derived" else "value"
        if name not in specs:
            own.append(name)
        specs[name] = spec
    namespace = {key: value for key, value in cls.__dict__.items() if key not in specs}
    namespace.pop("__dict__", None)
    namespace.pop("__weakref__", None)
    namespace["__slots__"] = tuple(own)
    namespace["FIELDS"] = tuple(specs.values())
    made = type(cls)(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    _generate(made)
    return made


def _shape_of(cls: type, annotation: Any) -> str:
    scope = {**vars(sys.modules[cls.__module__]), cls.__name__: cls}
    hint = eval(annotation, scope) if isinstance(annotation, str) else annotation
    if _is_node(hint, cls):
        return "one"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        nodes = [_is_node(argument, cls) for argument in arguments if argument is not type(None)]
        if all(nodes):
            return "optional" if type(None) in arguments else "one"
    if origin is tuple and arguments and _shape_of(cls, arguments[0]) == "one":
        return "many"
    return "value"


def _is_node(hint: Any, cls: type) -> bool:
    return isinstance(hint, type) and (issubclass(hint, Node) or hint is cls)


def _map_many(f: Callable[[Any], Any], items: tuple[Any, ...]) -> tuple[Any, ...]:
    mapped = [f(item) for item in items]
    for new, old in zip(mapped, items, strict=True):
        if new is not old:
            return tuple(mapped)
    return items


def _generate(cls: Any) -> None:
    """Write `__init__`, `children` and `map` of `cls` as straight-line Python."""
    specs = list(init_fields(cls))
    names = [spec.name for spec in specs]
    scope: dict[str, Any] = {"cls": cls, "map_many": _map_many, "set_": object.__setattr__}
    parameters = []
    for spec in specs:
        if spec.default is _MISSING:
            parameters.append(spec.name)
        else:
            scope[f"default_{spec.name}"] = spec.default
            parameters.append(f"{spec.name}=default_{spec.name}")
    lines = [f"def __init__(self, {', '.join([*parameters, '*', 'span=None'])}):"]
    for name in [*names, "span"]:
        plain, frozen = f"self.{name} = {name}", f"set_(self, '{name}', {name})"
        lines.append(f"    {frozen if _FREEZE else plain}")
    if hasattr(cls, "_derive"):
        lines.append("    self._derive()")
    visited = [s for s in specs if s.shape != "value" and s.role not in ("refers", "ignored")]
    parts = []
    for spec in visited:
        one = f"(self.{spec.name},)"
        optional = f"(() if self.{spec.name} is None else {one})"
        many = f"self.{spec.name}"
        parts.append({"one": one, "optional": optional, "many": many}[spec.shape])
    lines += ["def children(self):", f"    return {' + '.join(parts) or '()'}"]
    lines += ["def map(self, f):"]
    for spec in visited:
        name = spec.name
        lines.append(
            {
                "one": f"    {name} = f(self.{name})",
                "optional": f"    {name} = None if self.{name} is None else f(self.{name})",
                "many": f"    {name} = map_many(f, self.{name})",
            }[spec.shape]
        )
    same = " and ".join(f"{s.name} is self.{s.name}" for s in visited) or "True"
    changed = {spec.name for spec in visited}
    values = [name if name in changed else f"self.{name}" for name in names]
    lines += [f"    if {same}:", "        return self"]
    lines += [f"    return cls({', '.join([*values, 'span=self.span'])})"]
    exec("\n".join(lines), scope)
    for method in ("__init__", "children", "map"):
        scope[method].__qualname__ = f"{cls.__qualname__}.{method}"
        setattr(cls, method, scope[method])
    if _FREEZE:
        cls.__setattr__ = _refuse_assignment


def _refuse_assignment(self: Node, name: str, value: object) -> None:
    slots = {spec.name for spec in type(self).FIELDS if spec.role != "derived"}
    if name in slots:
        raise InternalError(f"{type(self).__name__}.{name} assigned after construction")
    object.__setattr__(self, name, value)
