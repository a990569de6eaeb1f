# SPDX-License-Identifier: Apache-2.0
"""Parsing of buffers: parameters, `T.match_buffer`, regions, elements.

A parameter is declared by its annotation or, for `a: T.handle`, by a `T.match_buffer` in the body.
"""

from __future__ import annotations

import ast

from heddle.arith import Analyzer
from heddle.ir import DType, Node, free_vars, structural_equal
from heddle.ir import expr as E
from heddle.script.parse_base import Context
from heddle.script.parse_expr import ExprParser
from heddle.script.views import View
from heddle.tir.build import row_major_strides
from heddle.tir.nodes import Buffer, BufferRegion, Range


class BufferParser(ExprParser):
    """Buffers of loop functions."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.matched: set[ast.stmt] = set()
        """Statements that belong to the parameters: T.match_buffer of a handle, its symbols."""

    # -- parameters --------------------------------------------------------------------------

    def parameters(self, node: ast.FunctionDef) -> list[Node]:
        arguments = node.args
        extra = (*arguments.posonlyargs, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        for item in extra:
            if item is not None:
                self.fail(item, "a loop-level function takes plain parameters only")
        matches = self.handle_matches(node)
        scalars: dict[str, E.Var] = {}
        for arg in arguments.args:
            if arg.arg in matches:
                continue
            dtype = None if arg.annotation is None else self.namespaced(arg.annotation, "T")
            if dtype is not None:
                with self.located(arg.annotation or arg):
                    made = E.Var(arg.arg, DType.of(dtype), span=self.span(arg))
                scalars[arg.arg] = self.bind(arg, arg.arg, lambda made=made: made)
        params: list[Node] = []
        for arg in arguments.args:
            if arg.arg in matches:
                params.append(self.match_parameter(matches[arg.arg]))
            else:
                params.append(scalars[arg.arg] if arg.arg in scalars else self.buffer_param(arg))
        return params

    def handle_matches(self, node: ast.FunctionDef) -> dict[str, ast.Assign]:
        """`A = T.match_buffer(a, (n, 4), "float32")` for parameters `a: T.handle`, by parameter."""
        handles = {
            arg.arg
            for arg in node.args.args
            if arg.annotation is not None and self.namespaced(arg.annotation, "T") == "handle"
        }
        found: dict[str, ast.Assign] = {}
        for item in node.body:
            call = item.value if isinstance(item, ast.Assign) else None
            if not isinstance(item, ast.Assign) or not isinstance(call, ast.Call):
                continue
            first = call.args[0] if call.args else None
            if self.called(call) == "match_buffer" and isinstance(first, ast.Name):
                if first.id in found:
                    self.fail(item, f"parameter `{first.id}` is matched twice")
                if first.id in handles:
                    found[first.id] = item
        self.declare_symbols(node, list(found.values()))
        return found

    def declare_symbols(self, node: ast.FunctionDef, matches: list[ast.Assign]) -> None:
        """`n = T.int64()` and `n = T.var("int64")` of the shapes that `matches` name."""
        used = {
            item.id
            for match in matches
            for item in ast.walk(match.value)
            if isinstance(item, ast.Name)
        }
        for item in node.body:
            call = item.value if isinstance(item, ast.Assign) else None
            name = self.called(call) if isinstance(call, ast.Call) else None
            if not isinstance(item, ast.Assign) or not isinstance(call, ast.Call) or not name:
                continue
            target = item.targets[0]
            if not isinstance(target, ast.Name) or target.id not in used:
                continue
            if name == "var" or (not call.args and not call.keywords):
                with self.located(call):
                    dtype = self.dtype(call.args[0]) if name == "var" else DType.of(name)
                self.bind(item, target.id, lambda t=target, d=dtype: E.Var(t.id, d))
                self.matched.add(item)

    def match_parameter(self, node: ast.Assign) -> Buffer:
        """The parameter that `A = T.match_buffer(a, shape, dtype)` describes."""
        call, target = node.value, node.targets[0]
        if not isinstance(call, ast.Call) or not isinstance(target, ast.Name):
            self.fail(target, "expected one name to assign to")
        rest = ast.copy_location(ast.Call(call.func, call.args[1:], call.keywords), call)
        self.implicit_symbols = True
        made = self.make_buffer(rest, target.id)
        self.implicit_symbols = False
        self.matched.add(node)
        buffer: Buffer = self.bind(node, target.id, lambda: made)
        return buffer

    def buffer_param(self, arg: ast.arg) -> Buffer:
        annotation = arg.annotation
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = self.quoted(annotation)
        if not isinstance(annotation, ast.Call) or self.called(annotation) != "Buffer":
            self.fail(
                arg,
                f'parameter `{arg.arg}` needs a type: T.Buffer((n, 128), "float32") '
                "or a scalar such as T.int64",
            )
        self.implicit_symbols = True
        made = self.make_buffer(annotation, arg.arg)
        self.implicit_symbols = False
        buffer: Buffer = self.bind(arg, arg.arg, lambda: made)
        return buffer

    def make_buffer(self, node: ast.Call, name: str) -> Buffer:
        """The buffer that `T.Buffer(...)` and its like describe."""
        optional = ("strides", "scope", "alignment", "name", "elem_offset")
        given = self.arguments(node, ("shape", "dtype"), optional)
        shape, dtype = self.shape(given["shape"]), self.dtype(given["dtype"])
        strides, scope, alignment = None, "global", 64
        if "strides" in given:
            strides = self.shape(given["strides"])
            if len(strides) != len(shape):
                self.fail(
                    given["strides"],
                    f"buffer `{name}`: {len(shape)} dimensions but {len(strides)} strides",
                )
        if "scope" in given:
            scope = self.string(given["scope"], "a scope")
        if "alignment" in given:
            alignment = self.integer(given["alignment"], "an alignment")
        if "name" in given:
            name = self.string(given["name"], "a name")
        offset = self.dimension(given["elem_offset"]) if "elem_offset" in given else None
        return Buffer(name, shape, dtype, strides, scope, alignment, offset, span=self.span(node))

    # -- views -------------------------------------------------------------------------------

    def match_region(self, node: ast.stmt, call: ast.Call, name: str) -> None:
        """Bind `name` to a box of a buffer, `T.match_buffer(A[0:4, j], (4,), "float32")`. New names
        in the shape, the strides and the offset stand for what they are in the box."""
        optional = ("dtype", "strides", "elem_offset")
        given = self.arguments(call, ("source", "shape"), optional)
        region = self.whole_or_region(given["source"])
        buffer = region.buffer
        if "dtype" in given and self.dtype(given["dtype"]) is not buffer.dtype:
            self.fail(given["dtype"], f"`{buffer.name}` holds {buffer.dtype}")
        dims = _elements(given["shape"])
        axes = self.kept_axes(given["shape"], region, len(dims))
        steps = buffer.strides or row_major_strides(buffer.shape)
        for item, axis in zip(dims, axes, strict=True):
            self.match(item, region.ranges[axis].extent, "the dimension")
        if "strides" in given:
            strides = _elements(given["strides"])
            if len(strides) != len(dims):
                self.fail(given["strides"], f"{len(dims)} dimensions but {len(strides)} strides")
            for item, axis in zip(strides, axes, strict=True):
                self.match(item, steps[axis], "the stride")
        if "elem_offset" in given:
            start = E.const(0) if buffer.elem_offset is None else buffer.elem_offset
            for place, step in zip(region.ranges, steps, strict=True):
                start = E.add(start, E.mul(place.min, step))
            self.match(given["elem_offset"], start, "the offset")
        self.bind(node, name, lambda: View(name, region, axes))

    def kept_axes(self, node: ast.expr, region: BufferRegion, count: int) -> tuple[int, ...]:
        """The `count` dimensions of a region that a view has; the first of extent 1 are dropped."""
        axes = list(range(len(region.ranges)))
        for axis, item in enumerate(region.ranges):
            if len(axes) > count and E.as_int(item.extent) == 1:
                axes.remove(axis)
        if len(axes) != count:
            self.fail(
                node,
                f"the region has {len(region.ranges)} dimensions, the shape {count}; only "
                "dimensions of extent 1 may be left out",
            )
        return tuple(axes)

    def whole_or_region(self, node: ast.expr) -> BufferRegion:
        """`A[0:4, j]`, or all of `A`."""
        if isinstance(node, ast.Subscript):
            return self.region(node)
        found = self.value(node)
        if isinstance(found, View):
            return found.region
        if not isinstance(found, Buffer):
            self.fail(node, f"`{ast.unparse(node)}` is not a buffer or a region of one")
        ranges = tuple(Range(E.const(0), dim) for dim in found.shape)
        return BufferRegion(found, ranges, span=self.span(node))

    def match(self, node: ast.expr, actual: E.Expr, what: str) -> None:
        """A new name becomes `actual`; anything else must be equal to it."""
        if isinstance(node, ast.Name) and self.lookup(node.id) is None:
            if self.outer_value(node.id) is None:
                self.bind(node, node.id, lambda: actual)
                return
        wanted = self.scalar(node)
        analyzer = Analyzer()
        for var in {v for e in (wanted, actual) for v in free_vars(e)}:
            analyzer.bind(var, 0)
        if not analyzer.can_prove_equal(wanted, actual):
            self.fail(node, f"{what} is {actual} in the buffer, which is not known to be {wanted}")

    # -- regions -----------------------------------------------------------------------------

    def region(self, node: ast.expr) -> BufferRegion:
        """`A[i, 0:n]`"""
        if not isinstance(node, ast.Subscript):
            self.fail(node, "expected a region of a buffer such as A[i, 0:128]")
        buffer = self.value(node.value)
        if not isinstance(buffer, (Buffer, View)):
            self.fail(node.value, f"`{ast.unparse(node.value)}` is not a buffer")
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if len(items) != buffer.ndim:
            self.fail(
                node,
                f"buffer `{buffer.name}` has {buffer.ndim} dimensions, the region {len(items)}",
            )
        ranges = tuple(self.range(item) for item in items)
        if isinstance(buffer, View):
            inner = buffer.region.buffer
            return BufferRegion(inner, buffer.box(ranges), span=self.span(node))
        return BufferRegion(buffer, ranges, span=self.span(node))

    def range(self, node: ast.expr) -> Range:
        if not isinstance(node, ast.Slice):
            return Range(self.scalar(node), E.const(1))
        if node.lower is None or node.upper is None or node.step is not None:
            self.fail(node, "a range of a region is written low:high")
        low, high = self.value(node.lower), self.value(node.upper)
        start = self.to_expr(node.lower, low)
        if isinstance(low, int) and isinstance(high, int):
            return Range(start, E.const(high - low))
        if isinstance(low, int) and low == 0:
            return Range(start, self.to_expr(node.upper, high))
        if isinstance(high, E.Add) and structural_equal(high.a, start):
            return Range(start, high.b)
        with self.located(node):
            return Range(start, E.sub(high, start))


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, (ast.Tuple, ast.List)) else [node]
