# SPDX-License-Identifier: Apache-2.0
"""The order in which the nodes of a graph can be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx

from heddle.support import UserError


def describe(node: onnx.NodeProto, index: int) -> str:
    """How errors call a node: its name, or its operator and position."""
    return node.name or f"{node.op_type}#{index}"


def sort_nodes(
    nodes: Sequence[onnx.NodeProto], known: Iterable[str], outer: Callable[[str], bool], where: str
) -> list[int]:
    """Indices of `nodes` such that each comes after what it reads.

    known: names that the graph defines otherwise. outer: whether an enclosing graph has a name.
    `UserError` for a name defined twice, a name that nothing defines, and a cycle.
    """
    producer: dict[str, int] = {}
    defined = set(known)
    for index, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in defined:
                raise UserError(
                    f"{where}: `{name}` is defined twice, the second time by node "
                    f"`{describe(node, index)}`"
                )
            defined.add(name)
            producer[name] = index
    reads = []
    for index, node in enumerate(nodes):
        wanted = [name for name in node.input if name]
        for name in wanted:
            if name not in defined and not outer(name):
                raise UserError(
                    f"{where}: node `{describe(node, index)}` reads `{name}`, which nothing defines"
                )
        wanted += captured(node)
        reads.append(sorted({producer[name] for name in wanted if name in producer}))
    return _topological(nodes, reads, where)


def _topological(nodes: Sequence[onnx.NodeProto], reads: list[list[int]], where: str) -> list[int]:
    order: list[int] = []
    state = [0] * len(nodes)  # 1: on the path, 2: done
    for root in range(len(nodes)):
        stack = [(root, 0)]
        while stack:
            index, position = stack.pop()
            if state[index] == 2:
                continue
            state[index] = 1
            if position == len(reads[index]):
                state[index] = 2
                order.append(index)
                continue
            stack.append((index, position + 1))
            needed = reads[index][position]
            if state[needed] == 1:
                path = [describe(nodes[at], at) for at, _ in stack]
                loop = path[path.index(describe(nodes[needed], needed)) :]
                raise UserError(f"{where}: the nodes {' <- '.join(loop)} form a cycle")
            if state[needed] == 0:
                stack.append((needed, 0))
    return order


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that the subgraphs of a node read from outside."""
    names: list[str] = []
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            names += _free_names(graph)
    return names


def _free_names(graph: onnx.GraphProto) -> list[str]:
    inside = {value.name for value in graph.input}
    inside |= {tensor.name for tensor in graph.initializer}
    inside |= {name for node in graph.node for name in node.output}
    free = [name for node in graph.node for name in node.input if name and name not in inside]
    free += [value.name for value in graph.output if value.name not in inside]
    for node in graph.node:
        free += [name for name in captured(node) if name not in inside]
    return free
