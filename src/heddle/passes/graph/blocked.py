# SPDX-License-Identifier: Apache-2.0
"""The forms in which the values of a function exist while its images get blocked layouts: as the
model has them, and with their channels in blocks. A value is converted where something else needs
it, at most once in each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from heddle import op
from heddle.graph.nodes import Binding, Call, Constant, Function, GraphExpr, Var
from heddle.ir.expr import Expr, as_int, const
from heddle.passes.graph import packing
from heddle.passes.graph.anf import (
    Rewriter,
    atoms_of,
    dims_attribute,
    op_name,
    shape_of,
    tensor_type,
    value_name,
)
from heddle.schedule.rules.pixel_model import PixelShape

PanelWidth: TypeAlias = Callable[[int | None, int, int], int]


@dataclass(frozen=True, slots=True)
class DotLayouts:
    """How a target wants operands of low precision.

    panel: columns in a panel of a packed matrix, by the dtypes of the operands, and the rows,
    columns and depth of the product; None when the target has no instruction for them. block: how
    many of so many channels make a block, by the dtypes. row: how many channels fill a row of a
    tile, by the dtypes; None when the target has no tiles for them.
    """

    panel: Callable[[str, str, int | None, int | None, int], int | None]
    block: Callable[[str, str, int], int]
    row: Callable[[str, str], int | None]


NO_DOTS: Final = DotLayouts(lambda *_: None, lambda *_: 1, lambda *_: None)


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """block: channels in a block. panel_width: columns in a panel of a packed matrix, by the rows
    (None when unknown), columns and depth of the product. dots: the same for low precision.
    takes_across: whether a product of so many rows and such a depth takes a matrix of so many bits
    that lies across as it lies, rather than packed by a kernel of its own. pixels: whether a
    convolution is best done on an image as it lies.
    """

    block: int
    panel_width: PanelWidth
    dots: DotLayouts = NO_DOTS
    takes_across: Callable[[int, int, int], bool] = lambda rows, depth, bits: rows <= 4
    pixels: Callable[[PixelShape], bool] = lambda shape: False


_IMAGES: Final = frozenset({"float32", "bfloat16", "int8", "uint8", "int32"})


@dataclass(frozen=True, slots=True)
class Blocked:
    """A value of the old function in blocked form: `channels` real ones in blocks of `block`."""

    value: GraphExpr
    channels: int
    block: int

    @property
    def padded(self) -> bool:
        return self.channels % self.block != 0


class Assignment(Rewriter):
    """`plain[var]` and `blocked[var]` are the forms in which a value of the old function exists."""

    def __init__(self, function: Function, options: LayoutOptions) -> None:
        super().__init__(function)
        self.options = options
        self.handlers: Mapping[str, Handler] = {}
        self.blocked: dict[Var, Blocked] = {}
        self.plain: set[Var] = set(function.params)
        self.native: set[Var] = set()  # computed in blocked form
        self.other_blocks: dict[tuple[Var, int], Blocked] = {}
        self.users: dict[Var, list[Binding]] = {}
        for binding in function.bindings:
            for item in variables(binding.value):
                self.users.setdefault(item, []).append(binding)

    def run(self, handlers: Mapping[str, Handler]) -> Function:
        """Rewrite every binding: by the handler of its operator, if it has one that can."""
        self.handlers = handlers
        for binding in self.function.bindings:
            handler = handlers.get(op_name(binding.value))
            done = handler is not None and handler(self, binding, binding.value)
            if not done:
                self.keep_plain(binding)
        for item in variables(self.function.result):
            self.to_plain(item)
        return self.finish()

    # -- forms -------------------------------------------------------------------------------

    def keep_plain(self, binding: Binding) -> None:
        for item in variables(binding.value):
            self.to_plain(item)
        self.copy_binding(binding)
        self.plain.add(binding.var)

    def to_plain(self, item: GraphExpr) -> GraphExpr:
        """The value in the layout that the model has it in."""
        if not isinstance(item, Var) or item in self.plain or item not in self.blocked:
            return self.resolve(item)  # type: ignore[no-any-return]
        blocked = self.blocked[item]
        dims = shape_of(item)
        image = image_shape(dims)
        if not blocked.padded and is_pixel(image):
            value = op.reshape(blocked.value, shape=dims_attribute(dims))
        else:
            value = op.layout_transform(
                blocked.value,
                source=f"NCHW{blocked.block}c",
                target="NCHW",
                shape=dims_attribute(image),
            )
            if len(dims) < len(image):
                value = op.reshape(self.emit(value, like=item), shape=dims_attribute(dims))
        new = self.emit(value.replace(span=item.span), like=item)
        self.alias_new(item, new)
        self.plain.add(item)
        return new

    def to_blocked(self, item: GraphExpr, block: int) -> Blocked:
        """The value in blocks of `block` channels."""
        found = self.blocked.get(item) if isinstance(item, Var) else None
        if found is not None and found.block == block:
            return found
        channels = as_int(shape_of(item)[1])
        assert channels is not None
        if block == 1:
            return self._as_blocks_of_one(item, channels)
        if isinstance(item, Var) and found is not None and not found.padded:
            return self._reblocked(item, found, block)
        value = self.to_plain(item)
        dims = image_shape(shape_of(item))
        if isinstance(value, Constant):
            image = value.data.reshape(image_shape(value.data.shape))
            return Blocked(Constant(packing.block_channels(image, block)), channels, block)
        if len(dims) > len(shape_of(item)) and not (channels % block == 0 and is_pixel(dims)):
            image = op.reshape(value, shape=dims_attribute(dims))
            value = self.emit(image, name=value_name(item))
        if channels % block == 0 and is_pixel(dims):
            shape = (*dims_attribute(dims[:1]), channels // block, 1, 1, block)
            moved = op.reshape(value, shape=shape)
        else:
            moved = op.layout_transform(value, source="NCHW", target=f"NCHW{block}c")
        name = f"{item.name}_blocked" if isinstance(item, Var) else "blocked"
        made = Blocked(self.emit(moved, name=name), channels, block)
        if isinstance(item, Var):
            self.blocked.setdefault(item, made)
        return made

    def _as_blocks_of_one(self, item: GraphExpr, channels: int) -> Blocked:
        """The value as it lies."""
        shape = (*dims_attribute(image_shape(shape_of(item))), 1)
        value = op.reshape(self.to_plain(item), shape=shape)
        return Blocked(self.emit(value, name=f"{value_name(item)}_image"), channels, 1)

    def _reblocked(self, item: Var, found: Blocked, block: int) -> Blocked:
        """A value in blocks of another size."""
        known = self.other_blocks.get((item, block))
        if known is None:
            source, target = f"NCHW{found.block}c", f"NCHW{block}c"
            moved = op.layout_transform(found.value, source=source, target=target)
            value = self.emit(moved, name=f"{item.name}_blocked")
            known = self.other_blocks[item, block] = Blocked(value, found.channels, block)
        return known

    def bind_blocked(self, binding: Binding, value: GraphExpr, channels: int, block: int) -> bool:
        """Let the blocked `value` stand for what `binding` computes."""
        span = binding.value.span
        emitted = self.emit(value.replace(span=span), name=binding.var.name)
        self.blocked[binding.var] = Blocked(emitted, channels, block)
        self.native.add(binding.var)
        return True

    def is_followed_by(self, item: Var, operators: Collection[str]) -> bool:
        """Whether one of `operators` uses a value, or what others that can work on blocks make of
        it."""
        seen, waiting = {item}, [item]
        while waiting:
            for binding in self.users.get(waiting.pop(), ()):
                name = op_name(binding.value)
                if name in operators:
                    return True
                if name in self.handlers and binding.var not in seen:
                    seen.add(binding.var)
                    waiting.append(binding.var)
        return False

    def is_blocked(self, item: GraphExpr) -> bool:
        """Whether a value is computed in blocked form."""
        return isinstance(item, Var) and item in self.native

    def has_blocks(self, item: GraphExpr) -> bool:
        """Whether a value exists in blocked form, computed so or moved there."""
        return isinstance(item, Var) and item in self.blocked


def variables(value: GraphExpr) -> list[Var]:
    return [item for item in atoms_of(value) if isinstance(item, Var)]


def image_shape(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape [N, C, H, W] of an image or of a line."""
    if len(dims) == 4:
        return dims
    one = const(1) if isinstance(dims[2], Expr) else 1
    return (*dims[:2], one, dims[2])


def image_window(attrs: dict[str, Any], rank: int) -> dict[str, Any]:
    """The attributes of a window over a value of `rank` axes as those of one over an image."""
    if rank == 4:
        return attrs
    wide = {name: (1, *attrs[name]) for name in ("kernel", "strides", "dilations") if name in attrs}
    before, after = attrs["pads"]
    return {**attrs, **wide, "pads": (0, before, 0, after)}


def is_pixel(dims: tuple[Expr, ...]) -> bool:
    return len(dims) == 4 and as_int(dims[2]) == 1 and as_int(dims[3]) == 1


def image_channels(value: GraphExpr) -> int | None:
    """The number of channels of a [N, C, H, W] or [N, C, W] value in a dtype that has kernels, or
    None."""
    kind = tensor_type(value)
    if kind is None or kind.ndim not in (3, 4) or kind.dtype.name not in _IMAGES:
        return None
    return as_int(kind.shape[1])


def plain_attrs(call: Call, *drop: str) -> dict[str, Any]:
    return {name: value for name, value in call.attrs.items() if name not in ("absent", *drop)}


Handler: TypeAlias = Callable[[Assignment, Binding, Any], bool]
"""Binds what an operator computes in blocked form; False when it cannot."""
