# SPDX-License-Identifier: Apache-2.0
"""The page of ONNX operators: `python -m heddle.frontend.onnx.page > docs/onnx-operators.md`."""

from __future__ import annotations

import textwrap
from typing import Final

import onnx
from onnx import defs

from heddle.frontend.onnx.importer import from_onnx  # declares the converters
from heddle.frontend.onnx.registry import supported_operators

_ = from_onnx
_DOMAINS: Final = {
    "": "The default domain",
    "ai.onnx.ml": "Classical machine learning",
    "ai.onnx.preview": "Preview",
    "ai.onnx.preview.training": "Training",
}
# Why what is missing is missing.
REASONS: Final[dict[str, str]] = {
    "ImageDecoder": "decoding of compressed images is no tensor computation",
    "CastMap": "Heddle has no maps",
    "DictVectorizer": "Heddle has no maps",
    "Gradient": "gradients are made by heddle.grad, not inside of a model",
}
# They have a converter that tells why they are not there.
_REFUSED: Final = frozenset(("Gradient",))
# What operators that have a converter do not do.
LIMITS: Final[dict[str, str]] = {
    "LinearClassifier": "no post_transform PROBIT",
    "Cast": "to strings: of what is known when compiling",
    "ConcatFromSequence": "sequences of known length",
    "Det": "matrices up to 4 x 4",
    "DFT": "known lengths with prime factors up to 4096; symbolic ones in n^2 steps",
    "If": "decided at run time: branches of one element type and number of dimensions",
    "Loop": "at run time: what grows with the iterations has to be bounded",
    "MaxPool": "positions for static shapes",
    "RoiAlign": "with a sampling ratio that is not 0",
    "Scan": "of operator set 8: without lengths, of batches of up to 16",
    "STFT": "known frames with prime factors up to 4096; symbolic ones in n^2 steps",
    "SVMClassifier": "no post_transform PROBIT",
    "StringNormalizer": "with stop words: of what is known when compiling",
    "StringSplit": "of what is known when compiling",
    "ZipMap": "gives a tensor: a row for each map, a column for each key",
}
_INTRODUCTION: Final = """\
# ONNX operators

<!-- Written by `python -m heddle.frontend.onnx.page > docs/onnx-operators.md`. -->

What the importer does with each operator of onnx {version} (operator set {opset}): "supported" by
a converter, or "decomposed" into other operators by the definition that the standard gives.
`heddle coverage model.onnx` tells the same of the nodes of one model; [Import an ONNX
model](tutorials/import-onnx.md) shows how to add an operator of one's own.

Shapes may be symbolic. What decides the shape of a result in another way (the shape of `Reshape`)
may be known when compiling, be computed from shapes, or be known at run time only; then there has
to be a largest size, which is found or given: see [Control flow](tutorials/control-flow.md).

Element types: float64, float32, float16, bfloat16, integers of 8 to 64 bits, bool. float8, float6,
float4 and integers of 4 and 2 bits are held one to a byte, as codes in uint8 (floats), int8 or
uint8 (integers): parameters and results of the imported function have these dtypes. Conversions,
quantisation and operators that only move elements take them. Complex numbers are not there.

A tensor of strings is held as int64 positions in a table of the strings that there can be, which
is known when compiling. So a result may be a string that is chosen at run time (the name of a
class): `main` gives positions, its attribute "output_strings" has the tables, and the Backend API
gives strings. An input that is a tensor of strings has to be known when compiling (`values`).

Random operators (`RandomUniform`, `RandomNormal`, `Bernoulli`, `Multinomial`, `Dropout` in
training mode) draw from Philox-4x32-10 with a key that comes from the attribute `seed`, or else
from the node's name: every run of a model gives the same numbers, and so do all targets. They are
not those of other runtimes.
"""


def page() -> str:
    """The page as text."""
    have = set(supported_operators())
    live = _live_operators()
    parts = [_INTRODUCTION.format(version=onnx.__version__, opset=defs.onnx_opset_version())]
    for domain, title in _DOMAINS.items():
        rows = ["| operator | state | |", "|---|---|---|"]
        for name, schema in sorted(live.items()):
            if name[0] == domain:
                rows.append(_row(name[1], domain, schema, have))
        heading = f"{title} (`{domain}`)" if domain else title
        parts.append(f"## {heading}\n\n" + "\n".join(rows) + "\n")
    own = sorted(n.removeprefix("com.microsoft::") for n in have if n.startswith("com.microsoft::"))
    names = textwrap.fill(", ".join(f"`{name}`" for name in own), 100, break_long_words=False)
    parts.append(
        "## ONNX Runtime's own (`com.microsoft`)\n\n"
        f"Those that its optimiser and its quantiser write:\n\n{names}\n"
    )
    return "\n".join(parts)


def _live_operators() -> dict[tuple[str, str], defs.OpSchema]:
    """The newest schema of each operator that is not deprecated."""
    found: dict[tuple[str, str], defs.OpSchema] = {}
    for schema in defs.get_all_schemas_with_history():
        key = (schema.domain, schema.name)
        if key not in found or found[key].since_version < schema.since_version:
            found[key] = schema
    return {key: schema for key, schema in found.items() if not schema.deprecated}


def _row(name: str, domain: str, schema: defs.OpSchema, have: set[str]) -> str:
    if (f"{domain}::{name}" if domain else name) in have and name not in _REFUSED:
        state, note = "supported", LIMITS.get(name, "")
    elif schema.has_function or schema.has_context_dependent_function:
        state, note = "decomposed", LIMITS.get(name, "")
    else:
        state, note = "-", REASONS.get(name, "not done yet")
    return f"| {name} | {state} | {note} |"


if __name__ == "__main__":
    print(page(), end="")
