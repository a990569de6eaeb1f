# SPDX-License-Identifier: Apache-2.0
"""Tensor intrinsics: instructions that do a small loop nest at once, and how nests match them.

A `TensorIntrin` says twice what an instruction does: its `description` is the loop nest that it
stands for (what schedules match), its `implementation` what is compiled instead. Both are functions
of the same buffers:

    register("my.dot4", description, implementation, features={"avx512vnni"})

A nest is loops around one store. It matches when its loops have the same extents (in any order),
it computes the same expression (products and sums commute), and every buffer is accessed with the
description's element strides; where an access starts is free. A stride of the description that is
a variable takes the value that the nest has.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from heddle.arith import Analyzer, linear_form
from heddle.ir.expr import Add, Expr, Mul, Var, as_int, const
from heddle.ir.node import Node, init_fields
from heddle.ir.structural import structural_equal, structural_hash
from heddle.ir.walk import substitute, uses_var
from heddle.support import UserError
from heddle.tir.build import (
    buffer_params,
    decl_buffer,
    for_nest,
    load,
    row_major_strides,
    shape_symbols,
    store,
)
from heddle.tir.nodes import Block, Buffer, BufferLoad, BufferStore, For, PrimFunc, Stmt

NAME: Final = "tensor_intrin"
"""The annotation of a loop nest that an intrinsic takes the place of when it is compiled."""
DIGEST: Final = "tensor_intrin_digest"
"""With it, what that intrinsic was, so that kernels compiled with another one are not reused."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorIntrin:
    """An instruction: see the module's documentation. `features` are those of `Target.features`
    that a target must have."""

    name: str
    description: PrimFunc
    implementation: PrimFunc
    features: frozenset[str]
    nest: Nest
    digest: str


_REGISTRY: dict[str, TensorIntrin] = {}


def register(
    name: str, description: PrimFunc, implementation: PrimFunc, *, features: Iterable[str] = ()
) -> TensorIntrin:
    """Make an intrinsic known under `name`; it takes the place of an older one of that name.

    Raises `UserError` when the description is no loop nest around one store, or the parameters of
    the two functions differ.
    """
    where = f"tensor intrinsic `{name}`"
    nest = nest_of(description.body)
    if nest is None:
        raise UserError(
            f"{where}: the description must be loops from 0 with constant extents around one store"
        )
    ours, theirs = buffer_params(description), buffer_params(implementation)
    if len(ours) != len(theirs):
        raise UserError(
            f"{where}: the description has {len(ours)} buffers, the implementation {len(theirs)}"
        )
    for mine, other in zip(ours, theirs, strict=True):
        if mine.dtype is not other.dtype:
            raise UserError(
                f"{where}: `{mine.name}` is {mine.dtype} in the description and {other.dtype} in "
                "the implementation"
            )
    text = structural_hash(description) + structural_hash(implementation)
    made = TensorIntrin(name, description, implementation, frozenset(features), nest, text[:32])
    _REGISTRY[name] = made
    return made


def get(name: str) -> TensorIntrin:
    """The intrinsic called `name`. Raises `UserError` when there is none."""
    found = _REGISTRY.get(name)
    if found is None:
        _shipped()
        found = _REGISTRY.get(name)
    if found is None:
        known = ", ".join(f"`{key}`" for key in sorted(_REGISTRY))
        raise UserError(f"there is no tensor intrinsic `{name}`; there are {known}")
    return found


def names() -> tuple[str, ...]:
    """The names of all intrinsics."""
    _shipped()
    return tuple(_REGISTRY)


def _shipped() -> None:
    """Register the intrinsics that come with Heddle, unless the user has others of their names.

    They are built when first asked for: most programs ask for none.
    """
    mine = dict(_REGISTRY)
    importlib.import_module("heddle.tir.intrinsics_x86")
    importlib.import_module("heddle.tir.intrinsics_amx")
    importlib.import_module("heddle.tir.intrinsics_arm")
    _REGISTRY.update(mine)


# -- nests ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nest:
    """Loops over [0, extent) around `store`, the outermost first."""

    axes: tuple[tuple[Var, int], ...]
    store: BufferStore

    @property
    def variables(self) -> tuple[Var, ...]:
        """The loop variables."""
        return tuple(var for var, _ in self.axes)


def nest_of(stmt: Stmt) -> Nest | None:
    """`stmt` as a nest: blocks on the way are entered, their bindings put in; an `init` is left
    out. None when there is more than one store, or a loop's extent is no constant."""
    axes: list[tuple[Var, int]] = []
    while not isinstance(stmt, BufferStore):
        if isinstance(stmt, Block):
            if as_int(stmt.predicate) != 1 or stmt.alloc_buffers:
                return None
            stmt = substitute(stmt.body, {axis.var: axis.binding for axis in stmt.iters})
        elif isinstance(stmt, For):
            extent = as_int(stmt.extent)
            if extent is None or as_int(stmt.min) != 0:
                return None
            axes.append((stmt.var, extent))
            stmt = stmt.body
        else:
            return None
    return Nest(tuple(axes), stmt)


# -- matching ------------------------------------------------------------------------------------


class Difference(Exception):
    """Where a nest and a description differ: the path in the description, and both sides."""


@dataclass(slots=True)
class Match:
    """For each buffer of a description, the nest's buffer and the element offset at which the
    access starts; and the values of the description's stride variables."""

    buffers: dict[Buffer, tuple[Buffer, Expr]] = field(default_factory=dict)
    strides: dict[Var, Expr] = field(default_factory=dict)


def match(intrin: TensorIntrin, nest: Nest, ranges: Mapping[Var, tuple[Expr, Expr]]) -> Match:
    """How `nest` is what `intrin` describes. `ranges` are loops around the nest: their variables
    with minimum and extent. Raises `Difference` for the loops in the order they are."""
    wanted = [extent for _, extent in intrin.nest.axes]
    first: Difference | None = None
    for axes in itertools.permutations(nest.axes):
        if [extent for _, extent in axes] != wanted:
            continue
        try:
            return _Matcher(intrin, Nest(axes, nest.store), ranges).run()
        except Difference as difference:
            first = first or difference
    if first is not None:
        raise first
    given = [extent for _, extent in nest.axes]
    raise Difference(f"the loops have the extents {given}, the intrinsic's {wanted}")


class _Matcher:
    def __init__(
        self, intrin: TensorIntrin, nest: Nest, ranges: Mapping[Var, tuple[Expr, Expr]]
    ) -> None:
        self.ours = intrin.nest
        self.nest = nest
        self.free = set(shape_symbols(intrin.description))
        self.analyzer = Analyzer()
        for var, (low, extent) in ranges.items():
            self.analyzer.bind(var, low, extent)
        for axis, size in (*nest.axes, *intrin.nest.axes):
            self.analyzer.bind(axis, 0, size)
        self.result = Match()

    def run(self) -> Match:
        ours, theirs = self.ours.store, self.nest.store
        self.access(ours.buffer, ours.indices, theirs.buffer, theirs.indices, "store")
        self.value(ours.value, theirs.value, "value")
        return self.result

    def value(self, ours: Any, theirs: Any, path: str) -> None:
        """Compare expressions; `Add` and `Mul` may have their operands in either order."""
        if type(ours) is not type(theirs):
            raise Difference(f"at {path}: {_brief(theirs)} is not {_brief(ours)}")
        if isinstance(ours, BufferLoad):
            self.access(ours.buffer, ours.indices, theirs.buffer, theirs.indices, path)
            return
        if isinstance(ours, (Add, Mul)):
            before = Match(dict(self.result.buffers), dict(self.result.strides))
            try:
                self.value(ours.a, theirs.a, f"{path}.a")
                self.value(ours.b, theirs.b, f"{path}.b")
                return
            except Difference as difference:
                self.result = before
                try:
                    self.value(ours.a, theirs.b, f"{path}.b")
                    self.value(ours.b, theirs.a, f"{path}.a")
                    return
                except Difference:
                    raise difference from None
        for spec in init_fields(type(ours)):
            mine, other = getattr(ours, spec.name), getattr(theirs, spec.name)
            self.field(mine, other, f"{path}.{spec.name}")

    def field(self, ours: Any, theirs: Any, path: str) -> None:
        if isinstance(ours, Var) and ours in self.ours.variables:
            if theirs is not self.nest.variables[self.ours.variables.index(ours)]:
                raise Difference(f"at {path}: {_brief(theirs)} is not the loop `{ours.name}`")
        elif isinstance(ours, Expr) and isinstance(theirs, Node):
            self.value(ours, theirs, path)
        elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
            for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
                self.field(mine, other, f"{path}[{place}]")
        elif not structural_equal(ours, theirs):
            raise Difference(f"at {path}: {_brief(theirs)} is not {_brief(ours)}")

    def access(
        self,
        ours: Buffer,
        our_indices: Sequence[Expr],
        theirs: Buffer,
        indices: Sequence[Expr],
        path: str,
    ) -> None:
        """One access: the dtypes and the element strides along every loop must agree."""
        what = f"at {path}: `{theirs.name}`"
        if ours.dtype is not theirs.dtype:
            raise Difference(f"{what} is {theirs.dtype}, `{ours.name}` is {ours.dtype}")
        base, steps = self.steps(theirs, indices, self.nest.variables, what)
        our_base, wanted = self.steps(ours, our_indices, self.ours.variables, what)
        if as_int(our_base) != 0:
            base = base - our_base
        for (var, _), step, want in zip(self.nest.axes, steps, wanted, strict=True):
            if isinstance(want, Var) and want in self.free:
                want = self.result.strides.setdefault(want, step)
            if not self.analyzer.can_prove_equal(step, want):
                raise Difference(
                    f"{what} has stride {_brief(step)} along loop `{var.name}`, the intrinsic's "
                    f"`{ours.name}` has {_brief(want)}; copy it to a packed layout first "
                    "(cache_read and transform_layout, or auto_tensorize)"
                )
        known = self.result.buffers.setdefault(ours, (theirs, base))
        if known[0] is not theirs or not self.analyzer.can_prove_equal(known[1], base):
            raise Difference(
                f"{what} is accessed at another place or instead of `{known[0].name}`, and both "
                f"stand for `{ours.name}`"
            )

    def steps(
        self, buffer: Buffer, indices: Sequence[Expr], variables: Sequence[Var], what: str
    ) -> tuple[Expr, list[Expr]]:
        """The flat offset of an access where all loops are at 0, and its step along each."""
        strides = row_major_strides(buffer.shape) if buffer.strides is None else buffer.strides
        base: Expr = const(0)
        steps: list[Expr] = [const(0)] * len(variables)
        for index, stride in zip(indices, strides, strict=True):
            form = linear_form(index, variables, analyzer=self.analyzer)
            if form is None:
                raise Difference(f"{what} has an index that is not linear in the loops: {index}")
            base = base + form.base * stride
            for place, var in enumerate(variables):
                steps[place] = steps[place] + stride * form.coefficients[var]
        if len(buffer.shape) == 1 and any(uses_var(step, v) for step in steps for v in variables):
            raise Difference(f"{what} has an index that is not linear in the loops")
        return self.analyzer.simplify(base), [self.analyzer.simplify(step) for step in steps]


def _brief(value: object) -> str:
    if isinstance(value, BufferLoad):
        return f"a load of `{value.buffer.name}` ({value.dtype})"
    if isinstance(value, Node):
        text = str(value)
        return f"`{text}`" if len(text) < 80 else type(value).__name__
    return f"`{value}`"


def dot_description(
    lanes: int, depth: int, a: str, b: str, c: str, *, name: str = "description"
) -> PrimFunc:
    """The description that most dot instructions share:

    for i, k in grid(lanes, depth): C[i] = C[i] + c(A[k]) * c(B[i * depth + k])
    """
    left = decl_buffer((depth,), a, "A")
    right = decl_buffer((lanes * depth,), b, "B")
    out = decl_buffer((lanes,), c, "C")
    i, k = Var("i"), Var("k")
    product = load(left, k).astype(c) * load(right, i * depth + k).astype(c)
    body = store(out, load(out, i) + product, i)
    return PrimFunc((left, right, out), for_nest([(i, lanes), (k, depth)], body), {"name": name})
