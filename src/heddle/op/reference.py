# SPDX-License-Identifier: Apache-2.0
"""The reference page of all operators, written from their declarations.

python -m heddle.op.reference > docs/operators.md
"""

from __future__ import annotations

import sys
from typing import Final

from heddle import op
from heddle.op.registry import KINDS, Op

_INTRODUCTION: Final = """\
# Operators

<!-- Written by `python -m heddle.op.reference > docs/operators.md`: edit the declarations. -->

Graph-level calls of operators: `op.relu(x)` on graph expressions gives a typed `graph.Call`.
Tensors are positional, `x?` may be left out (or None), `*xs` takes any number; attributes are
keywords, and a call holds all of them in canonical form. Shapes broadcast as in numpy. float16
and bfloat16 are computed in float32 and rounded once. A mistake raises `UserError` that names
operator, argument, what was given and what is expected.

## Declaring one

One block per operator, in `src/heddle/op/`: the decorated function infers the type, rules hang
on it.

```python
@operator("clamp_low", kind="elementwise", dtypes="number")
def clamp_low(x: TensorType, *, low: float = 0.0) -> TensorType:
    \"\"\"max(x, low).\"\"\"
    return x

@clamp_low.rule("compute")          # what its kernel computes
def _(x: te.Tensor, *, low: float) -> te.Tensor:
    return te.compute(x.shape, lambda *i: maximum(x[i], const(low, x.dtype)), name="clamp_low")

@clamp_low.rule("numpy")            # the reference, written independently
def _(x: np.ndarray, *, low: float) -> np.ndarray:
    return np.maximum(x, low)

@clamp_low.rule("grad")             # the gradient, in calls of operators
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, low: float) -> GraphExpr:
    return ops.where(ops.greater(x, low), dout, 0.0)

clamp_low.samples(case(floats(3, 4), low=0.5))
```

The rule "normalise" (types and attributes to attributes) brings attributes into canonical form
before everything else. The tests walk the registry: inferred type, reference, interpreted
kernel and compiled kernel must agree on all samples, and gradients with differences of values.
The module must not be named like an operator.

`kind` tells fusion what it may do: "elementwise" and "broadcast" read one element of each input
at the same place, "injective" one element at another place; "reduction" and "contraction" read
many; "opaque" is never fused.

## Gradients

`heddle.grad` and its sisters ask the rule "grad" of every operator on the way from the parameters
to the result ([Training](tutorials/training.md)). It gets the tensors, the result `out` (of several
results a tuple), the gradient `dout` with respect to it, and the attributes; it returns one
gradient of the tensor's own type for each tensor, None for zero. Gradients are calls of operators,
so they have gradients themselves.

Where a function has a kink, these hold: `relu`, `abs`, `l1_norm` and `l2_norm` have gradient 0 at
0; `clip` passes the gradient at its limits; `minimum` and `maximum` give half to each of equals;
`max`, `min`, `max_pool` and scatters of extremes share it equally among all that tie; `floor`,
`ceil`, `round`, `trunc` and `sign` have gradient 0 everywhere. Operators without a gradient say so
below: nothing flows through those that are not differentiable, and asking for a gradient that is
missing is an error which names the operators and where they are called.
"""


def signature(found: Op) -> str:
    """`conv(x, w, bias?, *, strides=None, ...)`"""
    tensors = [f"{t}?" if t in found.optional else t for t in found.tensors]
    if found.variadic:
        tensors[-1] = f"*{tensors[-1]}"
    attributes = [
        name if attribute.required else f"{name}={attribute.default!r}"
        for name, attribute in found.attributes.items()
    ]
    star = ["*"] if attributes and not found.variadic else []
    return f"{found.name}({', '.join([*tensors, *star, *attributes])})"


def _gradient(found: Op) -> str:
    """What there is to say of an operator's gradient: nothing when it has one."""
    if found.no_gradient:
        return f" Not differentiable: {found.no_gradient}."
    return "" if found.has_rule("grad") else " It has no gradient."


def reference_page() -> str:
    """The whole page as Markdown."""
    lines = [_INTRODUCTION]
    for kind in KINDS:
        lines.append(f"## {kind}\n")
        for _, found in sorted(op.all_ops().items()):
            if found.kind == kind:
                lines.append(f"**`{signature(found)}`**\n\n{found.doc}{_gradient(found)}\n")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference_page())
