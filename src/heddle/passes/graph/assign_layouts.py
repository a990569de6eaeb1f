# SPDX-License-Identifier: Apache-2.0
"""Give convolutions blocked layouts and matrix products packed weights.

    y = conv(x, w, b)                  t = layout_transform(x, NCHW -> NCHW16c)
    z = relu(y)                ->      u = conv2d_nchwc(t, <w packed>, <b packed>)
    f = reshape(z)                     v = relu(u)
                                       z = layout_transform(v, NCHW16c -> NCHW)
                                       f = reshape(z)

The block is as many channels as a vector register holds floats. What follows a convolution stays
blocked as long as it can: elementwise work, pooling, means over space, concatenation of full
blocks. A value is converted where something else needs it, at most once in each direction.

A line [N, C, W], what a one-dimensional convolution works on, is an image of height 1.

When the channels do not fill the last block, it is padded with zeros. Padded lanes then hold
whatever the operators make of zeros; that must stay finite (a later convolution multiplies them by
zero weights), so only operators of `FINITE_OPS` keep a padded layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from heddle import op
from heddle.graph.dims import same_dim, same_shape
from heddle.graph.nodes import Binding, Call, Constant, Function, GraphExpr, Var
from heddle.ir.expr import Expr, as_int, const
from heddle.ir.module import IRModule
from heddle.ir.types import TensorType
from heddle.op.dot import DOT_DEPTH
from heddle.passes.graph import packing
from heddle.passes.graph.anf import (
    Rewriter,
    atoms_of,
    dims_attribute,
    map_functions,
    op_name,
    shape_of,
    tensor_type,
    value_name,
)
from heddle.target import Target

PanelWidth: TypeAlias = Callable[[int | None, int, int], int]


@dataclass(frozen=True, slots=True)
class DotLayouts:
    """How a target wants operands of low precision.

    panel: columns in a panel of a packed matrix, by the dtypes of the operands, and the rows,
    columns and depth of the product; None when the target has no instruction for them. block: how
    many of so many channels make a block, by the dtypes.
    """

    panel: Callable[[str, str, int | None, int | None, int], int | None]
    block: Callable[[str, str, int], int]


NO_DOTS: Final = DotLayouts(lambda *_: None, lambda *_: 1)


FINITE_OPS: Final = frozenset(
    {
        *("relu", "clip", "sigmoid", "silu", "hard_swish", "hard_sigmoid", "leaky_relu", "tanh"),
        *("gelu", "identity", "add", "sub", "mul", "minimum", "maximum", "abs", "negative", "erf"),
        *("quantize", "dequantize", "requantize"),
    }
)
"""Elementwise operators that give finite values for finite arguments (short of overflow)."""

_IMAGES: Final = frozenset({"float32", "bfloat16", "int8", "uint8", "int32"})
_POOLS: Final = {"max_pool": "max_pool2d_nchwc", "avg_pool": "avg_pool2d_nchwc"}
_SPATIAL: Final = (2, 3)


@dataclass(frozen=True, slots=True)
class AssignLayouts:
    """The pass.

    block: channels in a block. panel_width: columns in a panel of a packed matrix, by the rows
    (None when unknown), columns and depth of the product. dots: the same for low precision.
    """

    block: int
    panel_width: PanelWidth
    dots: DotLayouts = NO_DOTS

    @staticmethod
    def of(
        target: Target,
        *,
        panel_width: PanelWidth | None = None,
        dots: DotLayouts = NO_DOTS,
    ) -> AssignLayouts:
        """The pass for a target: blocks of one float32 vector, panels of four by default, and no
        instructions for low precision."""
        lanes = target.vector_lanes(32)

        def four_vectors(rows: int | None, columns: int, depth: int) -> int:
            return 4 * lanes

        return AssignLayouts(lanes, panel_width or four_vectors, dots)

    def __call__(self, module: IRModule) -> IRModule:
        """Give convolutions blocked layouts and matrix products packed weights."""
        return map_functions(module, self._rewrite)

    def _rewrite(self, function: Function) -> Function:
        return _Assignment(function, self).run()


@dataclass(frozen=True, slots=True)
class _Blocked:
    """A value of the old function in blocked form: `channels` real ones in blocks of `block`."""

    value: GraphExpr
    channels: int
    block: int

    @property
    def padded(self) -> bool:
        return self.channels % self.block != 0


class _Assignment(Rewriter):
    """`plain[var]` and `blocked[var]` are the forms in which a value of the old function exists."""

    def __init__(self, function: Function, options: AssignLayouts) -> None:
        super().__init__(function)
        self.options = options
        self.blocked: dict[Var, _Blocked] = {}
        self.plain: set[Var] = set(function.params)
        self.native: set[Var] = set()  # computed in blocked form
        self.other_blocks: dict[tuple[Var, int], _Blocked] = {}

    def run(self) -> Function:
        """Rewrite every binding."""
        for binding in self.function.bindings:
            handler = _HANDLERS.get(op_name(binding.value))
            done = handler is not None and handler(self, binding, binding.value)
            if not done:
                self._keep_plain(binding)
        for item in _variables(self.function.result):
            self.to_plain(item)
        return self.finish()

    # -- forms -------------------------------------------------------------------------------

    def _keep_plain(self, binding: Binding) -> None:
        for item in _variables(binding.value):
            self.to_plain(item)
        self.copy_binding(binding)
        self.plain.add(binding.var)

    def to_plain(self, item: GraphExpr) -> GraphExpr:
        """The value in the layout that the model has it in."""
        if not isinstance(item, Var) or item in self.plain or item not in self.blocked:
            return self.resolve(item)  # type: ignore[no-any-return]
        blocked = self.blocked[item]
        dims = shape_of(item)
        image = _image(dims)
        if not blocked.padded and _is_pixel(image):
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

    def to_blocked(self, item: GraphExpr, block: int) -> _Blocked:
        """The value in blocks of `block` channels."""
        found = self.blocked.get(item) if isinstance(item, Var) else None
        if found is not None and found.block == block:
            return found
        channels = as_int(shape_of(item)[1])
        assert channels is not None
        if isinstance(item, Var) and found is not None and not found.padded:
            return self._reblocked(item, found, block)
        value = self.to_plain(item)
        dims = _image(shape_of(item))
        if isinstance(value, Constant):
            image = value.data.reshape(_image(value.data.shape))
            return _Blocked(Constant(packing.block_channels(image, block)), channels, block)
        if len(dims) > len(shape_of(item)) and not (channels % block == 0 and _is_pixel(dims)):
            image = op.reshape(value, shape=dims_attribute(dims))
            value = self.emit(image, name=value_name(item))
        if channels % block == 0 and _is_pixel(dims):
            shape = (*dims_attribute(dims[:1]), channels // block, 1, 1, block)
            moved = op.reshape(value, shape=shape)
        else:
            moved = op.layout_transform(value, source="NCHW", target=f"NCHW{block}c")
        name = f"{item.name}_blocked" if isinstance(item, Var) else "blocked"
        made = _Blocked(self.emit(moved, name=name), channels, block)
        if isinstance(item, Var):
            self.blocked.setdefault(item, made)
        return made

    def _reblocked(self, item: Var, found: _Blocked, block: int) -> _Blocked:
        """A value in blocks of another size."""
        known = self.other_blocks.get((item, block))
        if known is None:
            source, target = f"NCHW{found.block}c", f"NCHW{block}c"
            moved = op.layout_transform(found.value, source=source, target=target)
            value = self.emit(moved, name=f"{item.name}_blocked")
            known = self.other_blocks[item, block] = _Blocked(value, found.channels, block)
        return known

    def bind_blocked(self, binding: Binding, value: GraphExpr, channels: int, block: int) -> bool:
        """Let the blocked `value` stand for what `binding` computes."""
        span = binding.value.span
        emitted = self.emit(value.replace(span=span), name=binding.var.name)
        self.blocked[binding.var] = _Blocked(emitted, channels, block)
        self.native.add(binding.var)
        return True

    def is_blocked(self, item: GraphExpr) -> bool:
        """Whether a value is computed in blocked form."""
        return isinstance(item, Var) and item in self.native


def _variables(value: GraphExpr) -> list[Var]:
    return [item for item in atoms_of(value) if isinstance(item, Var)]


def _image(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape [N, C, H, W] of an image or of a line."""
    if len(dims) == 4:
        return dims
    one = const(1) if isinstance(dims[2], Expr) else 1
    return (*dims[:2], one, dims[2])


def _image_window(attrs: dict[str, Any], rank: int) -> dict[str, Any]:
    """The attributes of a window over a value of `rank` axes as those of one over an image."""
    if rank == 4:
        return attrs
    wide = {name: (1, *attrs[name]) for name in ("kernel", "strides", "dilations") if name in attrs}
    before, after = attrs["pads"]
    return {**attrs, **wide, "pads": (0, before, 0, after)}


def _is_pixel(dims: tuple[Expr, ...]) -> bool:
    return len(dims) == 4 and as_int(dims[2]) == 1 and as_int(dims[3]) == 1


def _image_channels(value: GraphExpr) -> int | None:
    """The number of channels of a [N, C, H, W] or [N, C, W] value in a dtype that has kernels, or
    None."""
    kind = tensor_type(value)
    if kind is None or kind.ndim not in (3, 4) or kind.dtype.name not in _IMAGES:
        return None
    return as_int(kind.shape[1])


def _plain_attrs(call: Call, *drop: str) -> dict[str, Any]:
    return {name: value for name, value in call.attrs.items() if name not in ("absent", *drop)}


# -- convolutions ---------------------------------------------------------------------------------


def _convolution(work: _Assignment, binding: Binding, call: Call) -> bool:
    x, weight, bias = call.args[0], call.args[1], call.args[2] if len(call.args) > 2 else None
    inputs, outputs = _image_channels(x), _image_channels(call)
    if inputs is None or outputs is None or tensor_type(x).dtype.name == "int32":  # type: ignore[union-attr]
        return False
    if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
        return False
    if "absent" in call.attrs:
        return False
    block, groups = work.options.block, call.attrs["groups"]
    assert isinstance(groups, int)
    attrs = _image_window(_plain_attrs(call), len(shape_of(x)))
    kernel = weight.data.reshape(_image(weight.data.shape))
    if bias is None and groups != inputs and _dot_convolution(work, binding, call, kernel):
        return True
    if groups == 1:
        # A few input channels (an image) make a block of their own: no work on padding.
        inner = inputs if inputs * 2 <= block and not work.is_blocked(x) else block
        packed = packing.pack_convolution(kernel, inner, block)
    elif groups == inputs == outputs:
        inner = block
        packed = packing.pack_depthwise(kernel, block)
        attrs["groups"] = packed.shape[0] * block
    else:
        return _grouped_convolution(work, binding, call, kernel, attrs)
    data = work.to_blocked(x, inner)
    args: list[GraphExpr] = [data.value, Constant(packed)]
    if bias is not None:
        args.append(Constant(packing.pack_bias(bias.data, block)))
    return work.bind_blocked(binding, op.conv2d_nchwc(*args, **attrs), outputs, block)


def _dot_convolution(work: _Assignment, binding: Binding, call: Call, kernel: np.ndarray) -> bool:
    """A convolution of low precision, where the target has an instruction for it."""
    x, kind = call.args[0], tensor_type(call.args[0])
    inputs, outputs = _image_channels(x), _image_channels(call)
    assert kind is not None
    assert inputs is not None
    assert outputs is not None
    dtypes = (kind.dtype.name, str(kernel.dtype))
    dots, groups, depth = work.options.dots, call.attrs["groups"], DOT_DEPTH.get(dtypes[0])
    assert isinstance(groups, int)
    if depth is None or dots.panel(*dtypes, None, outputs, inputs) is None:
        return False
    inner, block = (dots.block(*dtypes, size // groups) for size in (inputs, outputs))
    if not work.is_blocked(x) and groups == 1 and inputs * 2 <= inner:
        inner = -(-inputs // depth) * depth
    if groups > 1 and ((inputs // groups) % inner or (outputs // groups) % block):
        return False
    packed = packing.pack_dot_convolution(kernel, inner, block, depth)
    data = work.to_blocked(x, inner)
    attrs = _image_window(_plain_attrs(call, "out_dtype"), len(shape_of(x)))
    value = op.conv2d_dot(data.value, Constant(packed), **attrs)
    return work.bind_blocked(binding, value, outputs, block)


def _grouped_convolution(
    work: _Assignment, binding: Binding, call: Call, kernel: np.ndarray, attrs: dict[str, Any]
) -> bool:
    """Neighbouring groups together fill the lanes of a block. Their input channels are a block of
    their own; output channels that fill no whole block are padded, and cut out afterwards."""
    block, groups = work.options.block, attrs["groups"]
    inputs, outputs = kernel.shape[1], kernel.shape[0] // groups
    merged = _groups_in_a_block(inputs, outputs, groups, block)
    taken, made = merged * inputs, merged * outputs
    dims = dims_attribute(_image(shape_of(call)))
    padded = made % block != 0
    if padded and not isinstance(dims[0], int):
        return False
    attrs["groups"] = count = groups // merged
    full = packing.merge_groups(kernel, groups, merged)
    full = packing.pad_each(full, count, block)
    inner = block if taken % block == 0 else taken
    data = work.to_blocked(call.args[0], inner)
    args: list[GraphExpr] = [data.value, Constant(packing.pack_convolution(full, inner, block))]
    if len(call.args) > 2:
        bias = call.args[2]
        assert isinstance(bias, Constant)
        args.append(Constant(packing.pack_bias(packing.pad_each(bias.data, count, block), block)))
    value = op.conv2d_nchwc(*args, **attrs)
    if not padded:
        return work.bind_blocked(binding, value, count * made, block)
    result = work.emit(value.replace(span=call.span), name=f"{binding.var.name}_groups")
    batch, _, *image = dims
    split = op.reshape(result, shape=(batch * count, -(-made // block), *image, block))
    plain = op.layout_transform(
        work.emit(split, name="split"),
        source=f"NCHW{block}c",
        target="NCHW",
        shape=(batch * count, made, *image),
    )
    joined = op.reshape(work.emit(plain, name="plain"), shape=dims_attribute(shape_of(call)))
    work.alias_new(binding.var, work.emit(joined, like=binding.var))
    work.plain.add(binding.var)
    return True


def _groups_in_a_block(inputs: int, outputs: int, groups: int, block: int) -> int:
    """How many neighbouring groups of `inputs` to `outputs` channels are best taken as one.

    Taken as one group they multiply zeros. That is no more work as long as their output channels
    fit in the lanes of one block, which are idle otherwise. Whole blocks on both sides, which need
    no padding, win where they are as good.
    """
    sizes = [size for size in range(1, min(groups, block) + 1) if groups % size == 0]
    work = {size: -(-size * outputs // block) for size in sizes}

    def rank(size: int) -> tuple[int, bool, bool, int]:
        whole_in, whole_out = (size * count % block == 0 for count in (inputs, outputs))
        return work[size], not whole_out, not whole_in, -size

    return min(sizes, key=rank)


def _transposed_convolution(work: _Assignment, binding: Binding, call: Call) -> bool:
    """Kernel and stride of equal size: every input pixel makes a tile of the output by itself,
    so this is a convolution with a 1x1 kernel to (tile * channels), and a rearrangement."""
    x, weight, bias = call.args[0], call.args[1], call.args[2] if len(call.args) > 2 else None
    inputs, outputs = _image_channels(x), _image_channels(call)
    block = work.options.block
    if inputs is None or outputs is None or outputs % block or inputs % block:
        return False
    if len(shape_of(x)) != 4:
        return False
    if not isinstance(weight, Constant) or not (bias is None or isinstance(bias, Constant)):
        return False
    strides = call.attrs["strides"]
    plain = (
        call.attrs["groups"] == 1
        and tuple(weight.data.shape[2:]) == strides
        and not any(call.attrs["pads"])  # type: ignore[arg-type]
        and not any(call.attrs["output_padding"])  # type: ignore[arg-type]
        and call.attrs["dilations"] == (1, 1)
    )
    if not plain or "absent" in call.attrs:
        return False
    assert isinstance(strides, tuple)
    rows, columns = strides
    spread = packing.spread_transposed(weight.data)
    data = work.to_blocked(x, block)
    args: list[GraphExpr] = [
        data.value,
        Constant(packing.pack_convolution(spread, block, block)),
    ]
    if bias is not None:
        args.append(Constant(packing.pack_bias(packing.repeat(bias.data, rows * columns), block)))
    tiles = work.emit(op.conv2d_nchwc(*args), name=f"{binding.var.name}_tiles")
    batch, _, height, width = dims_attribute(shape_of(x))
    blocks = outputs // block
    split = op.reshape(tiles, shape=(batch, rows, columns, blocks, height, width, block))
    turned = op.transpose(work.emit(split, name="tiles"), permutation=(0, 3, 4, 1, 5, 2, 6))
    whole = (batch, blocks, height * rows, width * columns, block)
    joined = op.reshape(work.emit(turned, name=f"{binding.var.name}_turned"), shape=whole)
    return work.bind_blocked(binding, joined, outputs, block)


# -- what may stay blocked ------------------------------------------------------------------------


def _pool(work: _Assignment, binding: Binding, call: Call) -> bool:
    if not work.is_blocked(call.args[0]):
        return False
    data = work.blocked[call.args[0]]  # type: ignore[index]
    attrs = _image_window(_plain_attrs(call), len(shape_of(call)))
    pooled = op.get(_POOLS[op_name(call)])(data.value, **attrs)
    return work.bind_blocked(binding, pooled, data.channels, data.block)


def _spatial_reduction(work: _Assignment, binding: Binding, call: Call) -> bool:
    if not work.is_blocked(call.args[0]) or not call.attrs.get("keepdims"):
        return False
    axes, line = call.attrs.get("axes"), len(shape_of(call)) == 3
    if not isinstance(axes, tuple) or not set(axes) <= set(_SPATIAL[: 1 if line else 2]):
        return False
    data = work.blocked[call.args[0]]  # type: ignore[index]
    attrs = {**_plain_attrs(call), "axes": _SPATIAL[1:] if line else axes}
    reduced = call.callee(data.value, **attrs)
    return work.bind_blocked(binding, reduced, data.channels, data.block)


def _concat(work: _Assignment, binding: Binding, call: Call) -> bool:
    block = work.options.block
    parts = [_image_channels(item) for item in call.args]
    if call.attrs["axis"] != 1 or any(part is None or part % block for part in parts):
        return False
    blocked = sum(work.is_blocked(item) for item in call.args)
    if 2 * blocked < len(call.args):
        return False
    values = [work.to_blocked(item, block).value for item in call.args]
    total = sum(part for part in parts if part is not None)
    return work.bind_blocked(binding, op.concat(*values, axis=1), total, block)


def _elementwise(work: _Assignment, binding: Binding, call: Call) -> bool:
    """Elementwise work on one or more blocked values; the others must be scalars, constants per
    channel or images that can be blocked."""
    channels = _image_channels(call)
    leaders = [item for item in call.args if work.is_blocked(item)]
    if channels is None or not leaders:
        return False
    block = work.blocked[leaders[0]].block  # type: ignore[index]
    kind = tensor_type(call.args[0])
    finite = op_name(call) in (*FINITE_OPS, "cast") or (kind is not None and kind.dtype.is_int)
    if channels % block and not finite:
        return False
    if any(work.blocked[item].channels != channels for item in leaders):  # type: ignore[index]
        return False
    if any(len(shape_of(item)) != len(shape_of(call)) for item in leaders):
        return False
    if not any(same_dim(a, b) for item in leaders for a, b in _dims_of(item, call)):
        return False
    args = []
    for item in call.args:
        form = _operand(work, item, len(shape_of(call)), channels, block)
        if form is None:
            return False
        args.append(form)
    values = [form() for form in args]
    return work.bind_blocked(binding, call.callee(*values, **_plain_attrs(call)), channels, block)


def _dims_of(item: GraphExpr, call: Call) -> list[tuple[Expr, Expr]]:
    return list(zip(shape_of(item), shape_of(call), strict=True))


def _operand(
    work: _Assignment, item: GraphExpr, rank: int, channels: int, block: int
) -> Callable[[], GraphExpr] | None:
    """How to get one operand of blocked elementwise work that gives a value of `rank` axes, or
    None when it cannot be had."""
    if isinstance(item, Constant):
        if item.data.size == 1:
            return lambda: Constant(item.data.reshape(()))
        if item.data.ndim > rank:
            return None
        full = item.data.reshape((1,) * (rank - item.data.ndim) + item.data.shape)
        data = full.reshape(_image(full.shape))
        if data.shape[1] != channels:
            return None
        return lambda: Constant(packing.block_channels(data, block))
    kind = item.type
    if not isinstance(kind, TensorType) or kind.ndim != rank or as_int(kind.shape[1]) != channels:
        return None
    return lambda: work.to_blocked(item, block).value


# -- matrix products ------------------------------------------------------------------------------


_FEW_ROWS = 4
"""Rows of a product for which packing the right operand costs more than it saves."""


def _matrix_product(work: _Assignment, binding: Binding, call: Call) -> bool:
    x, weight = call.args
    kind = tensor_type(x)
    if call.attrs.get("out_dtype") is not None:
        return _dot_product(work, binding, call)
    right = tensor_type(weight)
    if kind is None or kind.ndim < 2 or right is None or right.static_shape is None:
        return False
    if call.attrs.get("transpose_a") or right.ndim != 2 or right.dtype.kind != "float":
        return False
    transposed = bool(call.attrs.get("transpose_b"))
    # What is known at run time only is packed then where it lies across: the rows of the product
    # would be gathered for each of them otherwise.
    if not isinstance(weight, Constant) and not transposed:
        return False
    columns, depth = right.static_shape if transposed else right.static_shape[::-1]
    rows: int | None = 1
    for dim in kind.shape[:-1]:
        size = as_int(dim)
        rows = None if rows is None or size is None else rows * size
    if not isinstance(weight, Constant) and rows is not None and rows <= _FEW_ROWS:
        return False
    width = work.options.panel_width(rows, columns, depth)
    packed: GraphExpr
    if isinstance(weight, Constant):
        matrix = weight.data.T if transposed else weight.data
        packed = Constant(packing.pack_panels(matrix, width))
    else:
        panels = op.pack_panels(work.to_plain(weight), width=width, transposed=True)
        packed = work.emit(panels, name="packed")
    data = work.to_plain(x)
    value = op.packed_matmul(data, packed, n=columns).replace(span=call.span)
    work.alias_new(binding.var, work.emit(value, like=binding.var))
    work.plain.add(binding.var)
    return True


def _dot_product(work: _Assignment, binding: Binding, call: Call) -> bool:
    """A matrix product of low precision, where the target has an instruction for it: the right
    operand is packed, now if it is constant, else at run time."""
    x, right = call.args
    left, kind = tensor_type(x), tensor_type(right)
    if left is None or kind is None or left.ndim < 2 or call.attrs.get("transpose_a"):
        return False
    if kind.ndim != 2 and not same_shape(left.shape[:-2], kind.shape[:-2]):
        return False
    transposed = bool(call.attrs.get("transpose_b"))
    columns, depth = (as_int(dim) for dim in kind.shape[-2:][:: 1 if transposed else -1])
    each = DOT_DEPTH.get(left.dtype.name)
    if each is None or columns is None or depth is None:
        return False
    rows: int | None = 1
    for dim in left.shape[:-1] if kind.ndim == 2 else left.shape[-2:-1]:
        size = as_int(dim)
        rows = None if rows is None or size is None else rows * size
    width = work.options.dots.panel(left.dtype.name, kind.dtype.name, rows, columns, depth)
    if width is None:
        return False
    options: dict[str, Any] = {"width": width, "depth": each, "transposed": transposed}
    data = work.to_plain(x)
    if depth % each:
        after = tuple(-depth % each if at == left.ndim - 1 else 0 for at in range(left.ndim))
        data = work.emit(op.pad(data, pads=(*(0,) * left.ndim, *after)), name="padded")
    packed = op.pack_dot(work.to_plain(right), **options)
    if isinstance(right, Constant):
        value: GraphExpr = Constant(np.asarray(packed.callee.evaluate([right.data], packed.attrs)))
    else:
        value = work.emit(packed, name="packed")
    product = op.matmul_dot(data, value, n=columns).replace(span=call.span)
    work.alias_new(binding.var, work.emit(product, like=binding.var))
    work.plain.add(binding.var)
    return True


def _conversion(work: _Assignment, binding: Binding, call: Call) -> bool:
    """Numbers are converted as they lie: integers are finite in every dtype, and so are floats,
    short of overflow, in another dtype of floats."""
    before, after = tensor_type(call.args[0]), tensor_type(call)
    if before is None or after is None or before.dtype.is_bool or after.dtype.is_bool:
        return False
    return (before.dtype.is_int or after.dtype.is_float) and _elementwise(work, binding, call)


_OF_THEIR_OWN: Final = frozenset({"cast", "batch_norm", "broadcast_to"})
"""Elementwise by kind, but not to be called on blocks as they are: one has a handler, one knows
channels by their axis, one has a shape for attribute."""

_HANDLERS: Final[dict[str, Callable[[_Assignment, Binding, Any], bool]]] = {
    "conv": _convolution,
    "conv_transpose": _transposed_convolution,
    "max_pool": _pool,
    "avg_pool": _pool,
    "concat": _concat,
    "matmul": _matrix_product,
    "cast": _conversion,
    **dict.fromkeys(("mean", "sum", "max", "min"), _spatial_reduction),
    **{
        name: _elementwise
        for name, declared in op.all_ops().items()
        if declared.kind in ("elementwise", "broadcast") and name not in _OF_THEIR_OWN
    },
}
