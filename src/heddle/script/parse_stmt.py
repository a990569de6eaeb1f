# SPDX-License-Identifier: Apache-2.0
"""Parsing of loop-level functions."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heddle.ir import BOOL, INT64, DType
from heddle.ir import expr as E
from heddle.script.numbers import number
from heddle.script.parse_base import Context, Declared, Macro, suggestion
from heddle.script.parse_buffer import BufferParser
from heddle.support import UserError
from heddle.support.names import fresh_name
from heddle.tir.access import detect_access_regions
from heddle.tir.build import store
from heddle.tir.nodes import (
    Allocate,
    Assert,
    Block,
    Buffer,
    BufferRegion,
    BufferStore,
    Evaluate,
    For,
    ForKind,
    IfThenElse,
    IterKind,
    IterVar,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    While,
)

_AXES: Final = {
    "spatial": IterKind.SPATIAL,
    "reduce": IterKind.REDUCTION,
    "reduction": IterKind.REDUCTION,
    "ordered": IterKind.ORDERED,
}
_REMAP: Final = {"S": IterKind.SPATIAL, "R": IterKind.REDUCTION, "O": IterKind.ORDERED}
_LOOPS: Final = {kind.value: kind for kind in ForKind}


@dataclass
class BlockParts:
    """What a block says about itself before its body."""

    name: str
    iters: list[IterVar] = field(default_factory=list)
    predicate: E.Expr | None = None
    buffers: list[Buffer] = field(default_factory=list)
    reads: tuple[BufferRegion, ...] | None = None
    writes: tuple[BufferRegion, ...] | None = None
    init: Stmt | None = None
    annotations: Mapping[str, object] = field(default_factory=dict)

    def build(self, body: Stmt, span: Any) -> Block:
        """The block; regions that are not written down are found in the body."""
        true = E.const(True, BOOL)
        block = Block(
            self.name,
            tuple(self.iters),
            true if self.predicate is None else self.predicate,
            tuple(self.buffers),
            self.reads or (),
            self.writes or (),
            self.init,
            body,
            self.annotations,
            span=span,
        )
        if self.reads is not None and self.writes is not None:
            return block
        reads, writes = detect_access_regions(block)
        changed: Block = block.replace(
            reads=reads if self.reads is None else self.reads,
            writes=writes if self.writes is None else self.writes,
        )
        return changed


class StmtParser(BufferParser):
    """Statements; `function` parses a whole `PrimFunc`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.extents: dict[E.Var, E.Expr] = {}
        self.attrs: dict[str, Any] = {}
        self.saw_block = False
        self.labels: set[str] = set()
        """The names of the blocks so far."""
        self.in_function_body = False

    # -- functions ---------------------------------------------------------------------------

    def function(self, node: ast.FunctionDef, *, name: str, root: bool = True) -> PrimFunc:
        """The loop-level function that a `def` describes."""
        with self.scope():
            params = self.parameters(node)
            parts = BlockParts("root", reads=(), writes=())
            body = self.fold(self.elements(node.body, parts, in_function=True))
            explicit = isinstance(body, Block) and body.name == "root" and not body.iters
            explicit = explicit and not parts.buffers
            if parts.buffers or (self.saw_block and root and not explicit):
                body = parts.build(body, self.span(node))
        attrs = {"name": name, **self.attrs}
        if attrs["name"] is None:
            del attrs["name"]
        return PrimFunc(tuple(params), body, attrs, span=self.span(node))

    # -- suites ------------------------------------------------------------------------------

    def suite(self, body: Sequence[ast.stmt], parts: BlockParts | None = None) -> Stmt:
        """The statements of one indented suite, in a scope of their own."""
        with self.scope():
            return self.fold(self.elements(body, parts))

    def fold(self, stmts: list[Stmt]) -> Stmt:
        return stmts[0] if len(stmts) == 1 else Seq(tuple(stmts))

    def elements(
        self, body: Sequence[ast.stmt], parts: BlockParts | None, *, in_function: bool = False
    ) -> list[Stmt]:
        """Statements in order. A name bound by an assignment lives to the end of the suite, so
        what follows it becomes its body. `parts` collects what a block says about itself."""
        levels: list[tuple[list[Stmt], Callable[[Stmt], Stmt] | None]] = [([], None)]
        for node in body:
            if self.is_header(node, parts, in_function):
                continue
            macro = self.macro(node.value) if isinstance(node, ast.Expr) else None
            if macro is not None and isinstance(node, ast.Expr):
                levels[-1][0].extend(self.expand_statements(node.value, macro, parts))
                continue
            wrapper = self.binding(node)
            if wrapper is not None:
                levels.append(([], wrapper))
            else:
                levels[-1][0].append(self.statement(node))
        while len(levels) > 1:
            stmts, wrapper = levels.pop()
            if wrapper is not None:
                levels[-1][0].append(wrapper(self.fold(stmts)))
        return levels[0][0]

    def expand_statements(
        self, node: ast.expr, macro: Macro, parts: BlockParts | None
    ) -> list[Stmt]:
        """The statements of a macro, with its parameters bound to the arguments of the call."""
        if not isinstance(node, ast.Call):
            self.fail(node, "expected the call of a macro")
        values = self.macro_arguments(node, macro)
        with self.inside(macro, values, node):
            return self.elements(macro.body(), parts)

    # -- what a block or a function says about itself -----------------------------------------

    def is_header(self, node: ast.stmt, parts: BlockParts | None, in_function: bool) -> bool:
        """Whether `node` declares something instead of doing it; if so it is dealt with here."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                return True  # documentation
        if isinstance(node, ast.With) and self.called(node.items[0].context_expr) == "init":
            block = self.block_parts(node, "T.init", parts, in_function)
            block.init = self.suite(node.body)
            return True
        value = getattr(node, "value", None)
        name = self.called(value) if isinstance(value, ast.Call) else None
        if name is None or not isinstance(value, ast.Call):
            return False
        if isinstance(node, ast.Assign):
            matched = node in self.matched
            return matched or self.is_definition(node, value, name, parts, in_function)
        if isinstance(node, ast.Expr) and name in ("where", "reads", "writes", "block_attr"):
            block = self.block_parts(node, f"T.{name}", parts, in_function)
            self.block_property(value, name, block)
            return True
        if isinstance(node, ast.Expr) and name == "func_attr":
            if not in_function:
                self.fail(node, "T.func_attr stands directly in a function")
            given = self.arguments(value, ("attrs",))["attrs"]
            self.attrs.update(self.attribute_dict(given))
            return True
        return False

    def attribute_dict(self, node: ast.expr) -> dict[str, Any]:
        """A dictionary of attributes."""
        attrs = self.attribute_value(node)
        if not isinstance(attrs, dict):
            self.fail(node, "attributes are a dictionary")
        return attrs

    def block_parts(
        self, node: ast.AST, what: str, parts: BlockParts | None, in_function: bool
    ) -> BlockParts:
        if parts is None or in_function:
            self.fail(node, f"{what} stands directly in a block: with T.block(...)")
        return parts

    def is_definition(
        self,
        node: ast.Assign,
        value: ast.Call,
        name: str,
        parts: BlockParts | None,
        in_function: bool,
    ) -> bool:
        if name == "alias":
            target = self.target(node)
            made = self.value(self.arguments(value, ("value",))["value"])
            self.bind(node, target, lambda: made)
            return True
        if name == "var":
            target = self.target(node)
            dtype = self.dtype(self.arguments(value, ("dtype",))["dtype"])
            self.bind(node, target, lambda: Declared(E.Var(target, dtype)))
            return True
        if name == "match_buffer":
            self.match_region(node, value, self.target(node))
            return True
        if name == "alloc_buffer":
            if parts is None:
                self.fail(node, "T.alloc_buffer stands directly in a function or a block")
            target = self.target(node)
            buffer = self.make_buffer(value, target)
            parts.buffers.append(self.bind(node, target, lambda: buffer))
            return True
        if name.startswith("axis."):
            self.axis(node, value, name, self.block_parts(node, f"T.{name}", parts, in_function))
            return True
        return False

    def target(self, node: ast.Assign) -> str:
        """The one name that an assignment defines."""
        first = node.targets[0]
        if len(node.targets) != 1 or not isinstance(first, ast.Name):
            self.fail(first, "expected one name to assign to")
        return first.id

    def axis(self, node: ast.Assign, value: ast.Call, name: str, parts: BlockParts) -> None:
        kind = name.removeprefix("axis.")
        if kind == "remap":
            self.remap(node, value, parts)
            return
        if kind not in _AXES:
            self.fail(value.func, f"there is no `T.{name}`{suggestion(kind, [*_AXES, 'remap'])}")
        given = self.arguments(value, ("extent", "binding"), ("dtype",))
        extent, binding = self.scalar(given["extent"]), self.scalar(given["binding"])
        dtype = self.dtype(given["dtype"]) if "dtype" in given else INT64
        target = self.target(node)
        var = self.bind(node, target, lambda: E.Var(target, dtype, span=self.span(node)))
        parts.iters.append(IterVar(extent, _AXES[kind], binding, var, span=self.span(node)))

    def remap(self, node: ast.Assign, value: ast.Call, parts: BlockParts) -> None:
        """`vi, vk = T.axis.remap("SR", [i, k])`: axes that are loops, extents included."""
        given = self.arguments(value, ("kinds", "loops"))
        kinds = self.string(given["kinds"], "the kinds of T.axis.remap")
        loops = getattr(given["loops"], "elts", [given["loops"]])
        first = node.targets[0]
        targets = first.elts if isinstance(first, ast.Tuple) else [first]
        if not len(kinds) == len(loops) == len(targets):
            self.fail(
                value,
                f"T.axis.remap: {len(targets)} names, {len(kinds)} kinds and {len(loops)} loops",
            )
        for item, letter, loop in zip(targets, kinds, loops, strict=True):
            if letter not in _REMAP or not isinstance(item, ast.Name):
                self.fail(value, 'T.axis.remap: each kind is "S", "R" or "O", each target a name')
            binding = self.scalar(loop)
            extent = self.extents.get(binding) if isinstance(binding, E.Var) else None
            if extent is None:
                self.fail(loop, f"`{ast.unparse(loop)}` is not a loop around this block")
            stem = item.id
            var = self.bind(item, stem, lambda stem=stem: E.Var(stem))
            parts.iters.append(IterVar(extent, _REMAP[letter], binding, var, span=self.span(node)))

    def block_property(self, node: ast.Call, name: str, parts: BlockParts) -> None:
        if name == "where":
            parts.predicate = self.condition(self.arguments(node, ("predicate",))["predicate"])
        elif name == "block_attr":
            parts.annotations = self.attribute_dict(self.arguments(node, ("attrs",))["attrs"])
        elif name == "reads":
            parts.reads = tuple(self.region(item) for item in node.args)
        else:
            parts.writes = tuple(self.region(item) for item in node.args)

    # -- statements --------------------------------------------------------------------------

    def binding(self, node: ast.stmt) -> Callable[[Stmt], Stmt] | None:
        """For an assignment to a name: what wraps the rest of the suite."""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            target, value = node.target.id, self.scalar(node.value, self.dtype(node.annotation))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = self.target(node)
            if self.called(node.value) == "allocate" and isinstance(node.value, ast.Call):
                buffer = self.make_buffer(node.value, target)
                self.bind(node, target, lambda: buffer)
                return lambda body: Allocate(buffer, body, span=self.span(node))
            value = self.scalar(node.value)
        else:
            return None
        var = self.bind(node, target, lambda: E.Var(target, value.dtype, span=self.span(node)))
        return lambda body: LetStmt(value, var, body, span=self.span(node))

    def statement(self, node: ast.stmt) -> Stmt:
        """One statement."""
        handler = _STATEMENTS.get(type(node))
        if handler is None:
            self.fail(node, f"a `{type(node).__name__}` statement is not part of a loop function")
        made: Stmt = handler(self, node)
        if made.span is None:
            made.span = self.span(node)
        return made

    def nothing(self, node: ast.Pass) -> Stmt:
        return Seq(())

    def store(self, node: ast.Assign) -> Stmt:
        target = node.targets[0]
        if len(node.targets) != 1 or not isinstance(target, ast.Subscript):
            self.fail(target, "expected an element of a buffer or a name on the left of `=`")
        return self.store_to(node, target, self.value(node.value))

    def store_to(self, node: ast.stmt, target: ast.Subscript, value: Any) -> BufferStore:
        buffer, indices = self.element(target)
        lanes = indices[-1].dtype.lanes if indices else 1
        source = getattr(node, "value", node)
        stored = self.to_expr(source, value, buffer.dtype.with_lanes(lanes))
        try:
            return store(buffer, stored, indices)
        except UserError as error:
            self.fail(source, error.message)

    def update(self, node: ast.AugAssign) -> Stmt:
        """`A[i] += x`"""
        if not isinstance(node.target, ast.Subscript):
            self.fail(node.target, "only an element of a buffer can be updated in place")
        load = ast.Subscript(node.target.value, node.target.slice, ast.Load())
        ast.copy_location(load, node.target)
        combined = ast.copy_location(ast.BinOp(load, node.op, node.value), node)
        return self.store_to(node, node.target, self.value(combined))

    def expression(self, node: ast.Expr) -> Stmt:
        call = node.value
        if not isinstance(call, ast.Call):
            self.fail(node, "this expression does nothing; write T.evaluate(...) to keep it")
        if self.called(call) == "evaluate":
            return Evaluate(self.scalar(self.arguments(call, ("value",))["value"]))
        return Evaluate(self.scalar(call))

    def check(self, node: ast.Assert) -> Stmt:
        message = "" if node.msg is None else self.string(node.msg, "the message of an assertion")
        return Assert(self.condition(node.test), message)

    def branch(self, node: ast.If) -> Stmt:
        condition = self.condition(node.test)
        then = self.suite(node.body)
        return IfThenElse(condition, then, self.suite(node.orelse) if node.orelse else None)

    def repeat(self, node: ast.While) -> Stmt:
        if node.orelse:
            self.fail(node, "a loop has no `else`")
        return While(self.condition(node.test), self.suite(node.body))

    def loop(self, node: ast.For) -> Stmt:
        if node.orelse:
            self.fail(node, "a loop has no `else`")
        call = node.iter
        name = self.called(call)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            name = "serial" if call.func.id == "range" else None
        if not isinstance(call, ast.Call) or name not in (*_LOOPS, "grid"):
            self.fail(
                node.iter,
                "a loop runs over T.serial, T.parallel, T.vectorized, T.unrolled, T.grid or range",
            )
        if name == "grid":
            return self.grid(node, call)
        if not isinstance(node.target, ast.Name):
            self.fail(node.target, "expected one loop variable")
        if isinstance(call.func, ast.Name):
            return self.one_loop(node, (node.target, *self.python_range(call), INT64), {})
        given = self.arguments(call, ("extent",), ("start", "dtype", "annotations"))
        dtype = self.dtype(given["dtype"]) if "dtype" in given else INT64
        extent = self.scalar(given["extent"], dtype)
        first = self.scalar(given["start"], dtype) if "start" in given else number(0, dtype)
        annotations = {}
        if "annotations" in given:
            annotations = self.attribute_dict(given["annotations"])
        header = (node.target, first, extent, dtype)
        return self.one_loop(node, header, annotations, _LOOPS[name])

    def python_range(self, call: ast.Call) -> tuple[E.Expr, E.Expr]:
        """Start and extent of `range(stop)` or `range(start, stop)`."""
        if len(call.args) not in (1, 2) or call.keywords:
            self.fail(call, "a loop over range takes (stop) or (start, stop)")
        bounds = [self.scalar(arg) for arg in call.args]
        if len(bounds) == 1:
            return E.const(0), bounds[0]
        return bounds[0], E.sub(bounds[1], bounds[0])

    def one_loop(
        self,
        node: ast.For,
        header: tuple[ast.Name, E.Expr, E.Expr, DType],
        annotations: Mapping[str, object],
        kind: ForKind = ForKind.SERIAL,
    ) -> Stmt:
        target, first, extent, dtype = header
        with self.scope():
            var = self.loop_var(target, extent, dtype)
            return For(first, extent, kind, var, self.suite(node.body), annotations)

    def loop_var(self, target: ast.Name, extent: E.Expr, dtype: DType) -> E.Var:
        if not extent.dtype.is_int:
            self.fail(target, f"the extent of loop `{target.id}` must be an integer")
        name = target.id
        var: E.Var = self.bind(target, name, lambda: E.Var(name, dtype, span=self.span(target)))
        self.extents[var] = extent
        return var

    def grid(self, node: ast.For, call: ast.Call) -> Stmt:
        target = node.target
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        if len(names) != len(call.args):
            self.fail(node.target, f"T.grid of {len(call.args)} loops, but {len(names)} variables")
        extents = [self.scalar(arg) for arg in call.args]
        with self.scope():
            variables = []
            for name, extent in zip(names, extents, strict=True):
                if not isinstance(name, ast.Name):
                    self.fail(name, "expected a loop variable")
                variables.append(self.loop_var(name, extent, INT64))
            body = self.suite(node.body)
        for var, extent in zip(reversed(variables), reversed(extents), strict=True):
            body = For(E.const(0), extent, ForKind.SERIAL, var, body, span=self.span(node))
        return body

    def scoped(self, node: ast.With) -> Stmt:
        """`with T.block(...)`, `T.seq()`, `T.let(...) as x`, `T.allocate(...) as b`."""
        item = node.items[0]
        call = item.context_expr
        name = self.called(call)
        if len(node.items) != 1 or not isinstance(call, ast.Call) or name is None:
            self.fail(node, "expected with T.block(...), T.init(), T.seq(), T.let or T.allocate")
        if name == "block":
            self.saw_block = True
            label = self.string(self.arguments(call, ("name",))["name"], "a block's name")
            if self.macro_depth:  # what a macro names must not meet what others name
                label = fresh_name(label, self.labels)
            self.labels.add(label)
            parts = BlockParts(label)
            return parts.build(self.suite(node.body, parts), self.span(node))
        if name == "seq":
            with self.scope():
                return Seq(tuple(self.elements(node.body, None)))
        if name not in ("let", "allocate") or not isinstance(item.optional_vars, ast.Name):
            self.fail(node, f"`with T.{name}` has no meaning here")
        target = item.optional_vars.id
        if name == "let":
            value = self.scalar(self.arguments(call, ("value",))["value"])
            with self.scope():
                var = self.bind(node, target, lambda: E.Var(target, value.dtype))
                return LetStmt(value, var, self.suite(node.body))
        buffer = self.make_buffer(call, target)
        with self.scope():
            self.bind(node, target, lambda: buffer)
            return Allocate(buffer, self.suite(node.body))


_STATEMENTS: Final[Mapping[type, Callable[..., Stmt]]] = {
    ast.Pass: StmtParser.nothing,
    ast.Assign: StmtParser.store,
    ast.AugAssign: StmtParser.update,
    ast.Expr: StmtParser.expression,
    ast.Assert: StmtParser.check,
    ast.If: StmtParser.branch,
    ast.While: StmtParser.repeat,
    ast.For: StmtParser.loop,
    ast.With: StmtParser.scoped,
}
