# SPDX-License-Identifier: Apache-2.0
"""Reading model files that nobody vouches for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from heddle.support import UserError

_LIMIT = 2**31 - 1  # protobuf's own


def read_model(
    model: str | os.PathLike[str] | onnx.ModelProto,
) -> tuple[onnx.ModelProto, Path | None]:
    """The parsed model, and the file it came from (None when it was handed over parsed).

    External data is not touched. `UserError` when this is no ONNX model.
    """
    if isinstance(model, onnx.ModelProto):
        check_model(model, "<model>")
        return model, None
    if not isinstance(model, (str, os.PathLike)):
        raise UserError(
            f"from_onnx: expected a path or an onnx.ModelProto, got {type(model).__name__}"
        )
    path = Path(model)
    if not path.exists():
        raise UserError(f"model file `{path}` does not exist")
    if not path.is_file():
        raise UserError(f"model file `{path}` is not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"model file `{path}` is empty")
    if size > _LIMIT:
        raise UserError(
            f"model file `{path}` has {size} bytes, expected at most {_LIMIT}; "
            "store the weights as external data"
        )
    parsed = onnx.ModelProto()
    try:
        parsed.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UserError(f"model file `{path}` is not an ONNX model, or is damaged") from None
    except OSError as error:
        raise UserError(f"model file `{path}` cannot be read: {error.strerror}") from None
    check_model(parsed, str(path))
    return parsed, path


def check_model(model: onnx.ModelProto, where: str) -> None:
    """`UserError` unless the parts without which nothing makes sense are there."""
    if not model.HasField("graph"):
        raise UserError(f"model `{where}` is not an ONNX model: it has no graph")
    if not model.opset_import:
        raise UserError(f"model `{where}` does not say which operator set it uses (opset_import)")
    if not model.graph.output:
        raise UserError(f"model `{where}`: the graph has no outputs")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise UserError(f"model `{where}` has a name that is not UTF-8")


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name in the model. Protobuf hands those that are no UTF-8 over as bytes."""
    for entry in model.opset_import:
        yield entry.domain
    yield from _graph_texts(model.graph)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from function.attribute
        yield from (entry.domain for entry in function.opset_import)
        for attribute in function.attribute_proto:
            yield from _attribute_texts(attribute)
        for node in function.node:
            yield from _node_texts(node)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    yield graph.name
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield from _tensor_texts(tensor)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        yield from _node_texts(node)


def _node_texts(node: onnx.NodeProto) -> Iterator[object]:
    yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for attribute in node.attribute:
        yield from _attribute_texts(attribute)


def _attribute_texts(attribute: onnx.AttributeProto) -> Iterator[object]:
    yield from (attribute.name, attribute.ref_attr_name)
    if attribute.HasField("t"):
        yield from _tensor_texts(attribute.t)
    if attribute.HasField("g"):
        yield from _graph_texts(attribute.g)


def _tensor_texts(tensor: onnx.TensorProto) -> Iterator[object]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


def opset_versions(model: onnx.ModelProto, where: str) -> dict[str, int]:
    """Domain to version, "ai.onnx" written as ""."""
    versions: dict[str, int] = {}
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if entry.version < 1:
            raise UserError(f"model `{where}`: opset version {entry.version} of `{domain}`")
        if domain == "" and entry.version > newest:
            raise UserError(
                f"model `{where}` uses opset {entry.version}; the newest that the installed "
                f"package onnx {onnx.__version__} knows is {newest}"
            )
        versions[domain] = entry.version
    return versions
