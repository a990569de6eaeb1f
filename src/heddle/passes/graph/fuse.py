# SPDX-License-Identifier: Apache-2.0
"""Group operators into kernels.

    y = conv2d_nchwc(x, w)                      conv2d_nchwc_add_relu(x, w, b, r):   (primitive)
    s = add(y, b)                                   y = conv2d_nchwc(x, w)
    t = add(s, r)                       ->          s = add(y, b) ...
    z = relu(t)                                     return z
    v = reshape(z, ...)                         main: z = conv2d_nchwc_add_relu(x, w, b, r)
                                                      v = reshape(z, ...)

A group has one result; every use of its inner values is inside it (found with post-dominators), so
nothing is computed twice. Three kinds of group are made:

* a contraction or reduction, and the elementwise work on its result as long as the shape stays;
* elementwise work of full size, and the reduction that reads it;
* elementwise work and data movement (transpose, slice, concat, ...) among themselves.

Pure views (reshape and such) are no kernels: they stay in `main` and memory planning makes them
cost nothing. Only between two data movements is a reshape part of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from heddle.graph.dims import same_shape
from heddle.graph.nodes import Binding, Call, Constant, Function, GraphExpr, Var
from heddle.ir.module import BaseFunc, GlobalVar, IRModule
from heddle.ir.structural import structural_hash
from heddle.ir.types import TensorType
from heddle.passes.graph.anf import (
    atoms_of,
    free_symbols,
    is_primitive,
    nominal_size,
    op_name,
    tensor_type,
)

VIEW_OPS: Final = frozenset({"reshape", "flatten", "squeeze", "unsqueeze", "identity"})
"""Operators that give the same bytes another shape."""

WINDOWED_OPS: Final = frozenset(
    {"max_pool", "avg_pool", "lp_pool", "lrn", "max_pool2d_nchwc", "avg_pool2d_nchwc"}
)
"""Reductions that read an element several times: work on their input is done once, before."""

REPEATING_OPS: Final = frozenset(
    {"gather", "gather_elements", "gather_nd", "tile", "resize", "broadcast_to", "row_taps"}
)
"""Data movement that may read an element several times."""

CONVERSIONS: Final = frozenset({"dequantize", "cast"})
"""Elementwise operators whose argument may well be narrower than their result."""

_RANK: Final = {
    "elementwise": 0,
    "broadcast": 0,
    "injective": 1,
    "reduction": 2,
    "contraction": 3,
    "opaque": 4,
}
_ELEMENTWISE, _INJECTIVE, _REDUCTION, _CONTRACTION, _OPAQUE = range(5)


def is_view(value: object) -> bool:
    """Whether an expression gives the bytes of its first argument another shape."""
    return op_name(value) in VIEW_OPS


@dataclass(frozen=True, slots=True)
class Fuse:
    """The pass. max_ops and max_inputs bound the size of one kernel."""

    max_ops: int = 40
    max_inputs: int = 16

    def __call__(self, module: IRModule) -> IRModule:
        """Group operators into kernels."""
        maker = _KernelMaker(module)
        main_functions = {
            name: function
            for name, function in module.functions.items()
            if isinstance(function, Function) and not is_primitive(function)
        }
        for name, function in main_functions.items():
            groups = _Grouping(function, self).run()
            maker.rewrite(name, function, groups)
        return module.with_functions(maker.functions)


fuse: Final = Fuse()


class _Grouping:
    """Assigns every operator call of a function to a group."""

    def __init__(self, function: Function, limits: Fuse) -> None:
        self.bindings = function.bindings
        self.limits = limits
        self.count = len(self.bindings)
        self.producer = {binding.var: i for i, binding in enumerate(self.bindings)}
        self.rank = [self._rank(binding.value) for binding in self.bindings]
        self.view = [is_view(binding.value) for binding in self.bindings]
        self.consumers: list[list[int]] = [[] for _ in self.bindings]
        for i, binding in enumerate(self.bindings):
            self._use(binding.value, i)
        self._use(function.result, self.count)
        self.post_dominator = self._post_dominators()
        self.group = list(range(self.count))  # union-find
        self.members: dict[int, list[int]] = {i: [i] for i in range(self.count)}

    def _rank(self, value: GraphExpr) -> int:
        if not isinstance(value, Call) or isinstance(value.callee, GlobalVar):
            return _OPAQUE
        return _OPAQUE if tensor_type(value) is None else _RANK[value.callee.kind]

    def _use(self, value: GraphExpr, user: int) -> None:
        for atom in atoms_of(value):
            at = self.producer.get(atom) if isinstance(atom, Var) else None
            if at is not None and (not self.consumers[at] or self.consumers[at][-1] != user):
                self.consumers[at].append(user)

    def _post_dominators(self) -> list[int]:
        """For each binding the nearest later one through which every use of it passes; `count`
        stands for the end of the function."""
        end = self.count
        parent, depth = [end] * end, [0] * (end + 1)
        for i in reversed(range(end)):
            users = self.consumers[i] or [end]
            common = users[0]
            for user in users[1:]:
                other = user
                while common != other:
                    if depth[common] >= depth[other]:
                        common = parent[common]
                    else:
                        other = parent[other]
            parent[i], depth[i] = common, depth[common] + 1
        return parent

    # -- groups ------------------------------------------------------------------------------

    def find(self, i: int) -> int:
        while self.group[i] != i:
            self.group[i] = self.group[self.group[i]]
            i = self.group[i]
        return i

    def _group_rank(self, i: int) -> int:
        return max(self.rank[member] for member in self.members[self.find(i)])

    def _merge(self, nodes: list[int]) -> bool:
        """Make one group of all groups that `nodes` are in, unless it would grow too large or have
        sizes inside that nothing outside tells."""
        roots = {self.find(node) for node in nodes}
        members = sorted(member for root in roots for member in self.members[root])
        if len(members) > self.limits.max_ops:
            return False
        if len(self._inputs(members)) > self.limits.max_inputs:
            return False
        if not self._tells_its_symbols(members):
            return False
        target = min(roots)
        for root in roots:
            self.group[root] = target
            self.members.pop(root)
        self.members[target] = members
        return True

    def _tells_its_symbols(self, members: list[int]) -> bool:
        """Whether each symbolic dimension inside of a group is one of its inputs or its result:
        kernels take the values of those only."""
        inside = free_symbols(self._types(self.bindings[member].var for member in members))
        if not inside:
            return True
        ends = [*self._inputs(members), self.bindings[members[-1]].var]
        return set(inside) <= set(free_symbols(self._types(ends)))

    def _types(self, atoms: Iterable[object]) -> list[TensorType]:
        found = (tensor_type(atom) for atom in atoms if isinstance(atom, GraphExpr))
        return [item for item in found if item is not None]

    def _inputs(self, members: list[int]) -> set[object]:
        inside = {self.bindings[member].var for member in members}
        return {
            atom
            for member in members
            for atom in atoms_of(self.bindings[member].value)
            if atom not in inside and not (isinstance(atom, Constant) and atom.data.size == 1)
        }

    def _between(self, start: int, end: int) -> list[int]:
        """All bindings on paths from `start` to its post-dominator `end`, `end` included."""
        found: dict[int, None] = {}
        stack = list(self.consumers[start])
        while stack:
            node = stack.pop()
            if node not in found:
                found[node] = None
                if node != end:
                    stack.extend(self.consumers[node])
        return list(found)

    def _shape(self, i: int) -> TensorType:
        found = tensor_type(self.bindings[i].var)
        assert found is not None
        return found

    # -- phases ------------------------------------------------------------------------------

    def run(self) -> dict[int, list[int]]:
        """Members of each group by its last member, which gives the group's result."""
        for i in reversed(range(self.count)):
            if self.rank[i] in (_REDUCTION, _CONTRACTION):
                self._take_epilogue(i)
        for i in range(self.count):
            if self.rank[i] <= _INJECTIVE:
                self._join_consumer(i)
        groups: dict[int, list[int]] = {}
        for members in self.members.values():
            for part in self._strip_views(members):
                groups[part[-1]] = part
        return groups

    def _take_epilogue(self, anchor: int) -> None:
        """Absorb elementwise work on the result of a contraction or reduction."""
        last = anchor
        while True:
            end = self.post_dominator[last]
            if end == self.count:
                return
            path = self._between(last, end)
            if not self._may_follow(anchor, path):
                return
            if self._widens(end) and not self._goes_on(anchor, end):
                return  # what reads the result had better read the narrow form
            if not self._merge([anchor, *path]):
                return
            last = end

    def _may_follow(self, anchor: int, path: list[int]) -> bool:
        """Whether the steps are elementwise work of the anchor's shape that is in no kernel yet."""
        shape = self._shape(anchor).shape
        return all(
            self.rank[node] == _ELEMENTWISE
            and self._group_rank(node) < _REDUCTION
            and same_shape(self._shape(node).shape, shape)
            for node in path
        )

    def _goes_on(self, anchor: int, node: int) -> bool:
        end = self.post_dominator[node]
        return end != self.count and self._may_follow(anchor, self._between(node, end))

    def _widens(self, node: int) -> bool:
        """Whether a binding converts to a dtype of more bits."""
        value = self.bindings[node].value
        if op_name(value) not in CONVERSIONS:
            return False
        assert isinstance(value, Call)
        before, after = tensor_type(value.args[0]), tensor_type(value)
        return before is not None and after is not None and before.dtype.bits < after.dtype.bits

    def _join_consumer(self, node: int) -> None:
        """Join elementwise work or data movement to what consumes it."""
        end = self.post_dominator[node]
        if end == self.count or self.find(node) == self.find(end):
            return
        if self._group_rank(node) >= _REDUCTION:
            return
        path = self._between(node, end)
        if self._is_operand_of_epilogue(node, path):
            legal = True
        elif self.rank[end] == _REDUCTION:
            legal = self._may_feed_reduction(node, path, end)
        else:
            legal = all(
                self.rank[step] <= _INJECTIVE and self._group_rank(step) <= _INJECTIVE
                for step in path
            ) and self._keeps_size(node, path)
        if legal and self._views_allowed(node, path):
            self._merge([node, *path])

    def _is_operand_of_epilogue(self, node: int, path: list[int]) -> bool:
        """Whether a conversion is read by elementwise work of its shape only, which follows a
        contraction: the kernel then reads what is converted."""
        if op_name(self.bindings[node].value) not in CONVERSIONS:
            return False
        shape = self._shape(node).shape
        return all(
            self.rank[step] == _ELEMENTWISE and same_shape(self._shape(step).shape, shape)
            for step in path
        )

    def _may_feed_reduction(self, node: int, path: list[int], end: int) -> bool:
        source = self.bindings[end].value
        assert isinstance(source, Call)
        if self._group_rank(end) > _REDUCTION or op_name(source) in WINDOWED_OPS:
            return False
        data = tensor_type(source.args[0])
        if data is None:
            return False
        return all(
            self._group_rank(step) == _ELEMENTWISE
            and same_shape(self._shape(step).shape, data.shape)
            for step in (node, *path)
            if step != end
        )

    def _keeps_size(self, node: int, path: list[int]) -> bool:
        """Whether nothing would be computed more than once. Data movement may be repeated."""
        inside = {node, *path}
        for step in path:
            repeats = op_name(self.bindings[step].value) in REPEATING_OPS
            if self.rank[step] != _ELEMENTWISE and not repeats:
                continue
            size = nominal_size(self._shape(step).shape)
            for atom in atoms_of(self.bindings[step].value):
                source = self.producer.get(atom) if isinstance(atom, Var) else None
                if source not in inside or source is None or self._only_moves(source):
                    continue
                if repeats or nominal_size(self._shape(source).shape) < size:
                    return False
        return True

    def _only_moves(self, node: int) -> bool:
        return all(self.rank[member] == _INJECTIVE for member in self.members[self.find(node)])

    def _views_allowed(self, node: int, path: list[int]) -> bool:
        """Whether each view involved has data movement on its other side."""
        nodes = [node, *path]
        if not any(self.view[step] for step in nodes):
            return True
        return all(self.rank[step] == _INJECTIVE for step in nodes)

    def _strip_views(self, members: list[int]) -> list[list[int]]:
        """The group without the views at its start and end, which become groups of their own."""
        members = sorted(members)
        stripped: list[list[int]] = []
        inside = {self.bindings[member].var for member in members}
        for member in list(members):
            value = self.bindings[member].value
            if self.view[member] and next(iter(atoms_of(value)), None) not in inside:
                members.remove(member)
                inside.discard(self.bindings[member].var)
                stripped.append([member])
        while members and self.view[members[-1]]:
            stripped.append([members.pop()])
        return [members, *stripped] if members else stripped


class _KernelMaker:
    """Writes groups as primitive functions and calls of them."""

    def __init__(self, module: IRModule) -> None:
        self.functions: dict[str, BaseFunc] = {}
        self.taken = set(module.functions)
        self.counters: dict[str, int] = {}
        self.known: dict[object, GlobalVar] = {}

    def rewrite(self, name: str, function: Function, groups: dict[int, list[int]]) -> None:
        """Replace `function` by one that calls kernels."""
        bindings: list[Binding] = []
        for at, binding in enumerate(function.bindings):
            members = groups.get(at)
            if members is None:
                continue  # inside a group that ends later
            value = binding.value
            if op_name(value) and not is_view(value):
                chosen = [function.bindings[member] for member in members]
                bindings.append(self._call(chosen))
            else:
                bindings.append(binding)
        self.functions[name] = function.replace(bindings=tuple(bindings))

    def _call(self, members: list[Binding]) -> Binding:
        last = members[-1]
        inside = {binding.var for binding in members}
        args: dict[GraphExpr, Var] = {}
        for binding in members:
            for atom in atoms_of(binding.value):
                inline = isinstance(atom, Constant) and atom.data.size == 1
                if atom not in inside and atom not in args and not inline:
                    stem = atom.name if isinstance(atom, Var) else "c"
                    args[atom] = Var(stem, atom.type, span=atom.span)  # type: ignore[call-arg]
        callee = self._kernel(members, args)
        call = Call(callee, tuple(args), {"label": _label(members)}, last.var.type, span=last.span)  # type: ignore[call-arg]
        return Binding(call, last.var, span=last.span)  # type: ignore[call-arg]

    def _kernel(self, members: list[Binding], args: dict[GraphExpr, Var]) -> GlobalVar:
        params = tuple(args.values())
        bindings = tuple(
            binding.replace(value=binding.value.map(lambda item: args.get(item, item)))
            for binding in members
        )
        kernel = Function(params, bindings, members[-1].var, {"primitive": True})
        types = [param.type for param in params if isinstance(param.type, TensorType)]
        types += [b.var.type for b in members if isinstance(b.var.type, TensorType)]
        # Kernels that differ in their symbolic dimensions would not fit each other's callers.
        key = (structural_hash(kernel), tuple(free_symbols(types)))
        if key not in self.known:
            name = self._fresh(kernel_name([op_name(binding.value) for binding in members]))
            self.functions[name] = kernel
            self.known[key] = GlobalVar(name)
        return self.known[key]

    def _fresh(self, stem: str) -> str:
        name = stem
        while name in self.taken:
            self.counters[stem] = self.counters.get(stem, 0) + 1
            name = f"{stem}_{self.counters[stem]}"
        self.taken.add(name)
        return name


def kernel_name(ops: list[str]) -> str:
    """A name that tells what a kernel does: its operators, the middle left out when many.

    >>> kernel_name(["conv2d_nchwc", "add", "relu"])
    'conv2d_nchwc_add_relu'
    """
    if len(ops) > 6:
        ops = [*ops[:4], f"{len(ops) - 5}more", ops[-1]]
    return "_".join(ops)


def _label(members: list[Binding]) -> str:
    """The layers that a kernel computes: its heaviest operator, and what its result is called."""

    def weight(binding: Binding) -> int:
        value = binding.value
        return _RANK[value.callee.kind] if isinstance(value, Call) else 0

    heaviest = max(members, key=weight).var.name
    last = members[-1].var.name
    return heaviest if heaviest == last else f"{heaviest} .. {last}"
