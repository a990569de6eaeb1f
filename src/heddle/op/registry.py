# SPDX-License-Identifier: Apache-2.0
"""One operator, one block: `@operator` declares it, rules hang on it.

    @operator("relu", kind="elementwise", dtypes="number")
    def relu(x: TensorType) -> TensorType:
        \"\"\"Rectified linear unit: max(x, 0).\"\"\"
        return x

    @relu.rule("compute")
    def _(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: maximum(x[i], const(0, x.dtype)), name="relu")

    @relu.rule("numpy")
    def _(x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

The decorated function infers the result's type. Its positional parameters are tensors (`*xs` takes
any number; a default of None makes one optional), its keyword-only parameters are attributes,
whose annotations say what they may be. `relu(x)` on graph expressions builds a typed `graph.Call`.

Rules: "normalise" (types, attributes -> the attributes in canonical form: axes not negative,
defaults spelled out; it runs before everything else), "compute" (tensor expressions in, tensor
expressions out), "numpy" (the reference: arrays in, arrays out; half precision arrives as float32),
"grad" (graph expressions in, graph expressions out):

    @relu.rule("grad")
    def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr) -> GraphExpr:
        return ops.where(ops.greater(x, 0.0), dout, 0.0)

It gets the tensors (None where an optional one is absent), the attributes in canonical form, the
result `out` and `dout`, the gradient of the function's output with respect to it (for several
results: tuples of both, with None for a result that has no gradient). It returns one gradient per
tensor, of the tensor's own type, as a tuple (bare when there is one tensor); None stands for zero
and for tensors of integers. What it returns are calls of operators, so gradients have gradients.
An operator that changes a part of its first tensor may have the rule "update" as well: like
"compute", but what it returns writes that part only, into memory that holds the tensor already. The
memory planner takes that form where nobody needs the tensor afterwards.

An operator whose result does not depend smoothly on anything (a comparison, a position, a shape)
says so instead: `argmax.not_differentiable("the result is a position")`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from heddle.graph.dims import same_type, show_type
from heddle.graph.nodes import Call, Constant, GraphExpr
from heddle.graph.registry import set_op_resolver
from heddle.ir import DType, TensorType, TupleType, Type
from heddle.op.attribute import Attribute
from heddle.op.sample import Sample
from heddle.support import InternalError, Span, UserError

if TYPE_CHECKING:
    from heddle.te import Tensor

KINDS: Final = ("elementwise", "broadcast", "injective", "reduction", "contraction", "opaque")
_FLOATS: Final = ("float64", "float32", "float16", "bfloat16")
_INTS: Final = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
DTYPE_CLASSES: Final[Mapping[str, frozenset[str]]] = {
    "any": frozenset((*_FLOATS, *_INTS, "bool")),
    "number": frozenset((*_FLOATS, *_INTS)),
    "float": frozenset(_FLOATS),
    "int": frozenset(_INTS),
    "index": frozenset(("int32", "int64")),
    "bool": frozenset(("bool",)),
    "int or bool": frozenset((*_INTS, "bool")),
}
_REGISTRY: Final[dict[str, Op]] = {}

Inferred: TypeAlias = TensorType | tuple[TensorType, ...]
Rule = Callable[..., Any]


class Op:
    """A declared operator. Interned: `op.get(name)` is the only instance of its name.

    name: as scripts spell it. kind: how fusion may treat it, one of `KINDS`: "elementwise" (output
    and inputs have one shape), "broadcast" (elementwise after broadcasting), "injective" (each
    output element reads one place of each input), "reduction", "contraction", "opaque".
    tensors: names of the tensor parameters; variadic: whether the last one takes any number.
    attributes: by name. no_gradient: why the result has no gradient, where it has none by nature.
    """

    __slots__ = (
        "_infer",
        "_rules",
        "attributes",
        "doc",
        "dtypes",
        "kind",
        "name",
        "no_gradient",
        "optional",
        "sample_cases",
        "tensors",
        "variadic",
    )

    def __init__(
        self, name: str, kind: str, dtypes: str | Mapping[str, str], infer: Callable[..., Inferred]
    ) -> None:
        if kind not in KINDS:
            raise InternalError(f"operator {name}: unknown kind {kind}")
        self.name = name
        self.kind = kind
        self.doc = inspect.getdoc(infer) or ""
        self._infer = infer
        self._rules: dict[str, Rule] = {}
        self.no_gradient = ""
        self.sample_cases: list[Sample] = []
        self.variadic = False
        self.attributes: dict[str, Attribute] = {}
        tensors: list[str] = []
        optional: set[str] = set()
        for parameter in inspect.signature(infer).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                declared = Attribute(name, parameter.name, parameter.annotation, parameter.default)
                self.attributes[parameter.name] = declared
                continue
            tensors.append(parameter.name)
            self.variadic = parameter.kind is parameter.VAR_POSITIONAL
            if parameter.default is None:
                optional.add(parameter.name)
        self.tensors = tuple(tensors)
        self.optional = frozenset(optional)
        classes = dict.fromkeys(tensors, dtypes) if isinstance(dtypes, str) else dtypes
        self.dtypes = {t: DTYPE_CLASSES[classes.get(t, "any")] for t in tensors}

    def __repr__(self) -> str:
        return f"op.{self.name}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return get, (self.name,)

    # -- declaring ---------------------------------------------------------------------------

    def rule(self, name: str) -> Callable[[Rule], Rule]:
        """Decorator that hangs a rule on the operator."""

        def attach(function: Rule) -> Rule:
            if name in self._rules:
                raise InternalError(f"{self!r} has two rules `{name}`")
            self._rules[name] = function
            return function

        return attach

    def not_differentiable(self, why: str) -> None:
        """Declare that no gradient flows through the operator, by its nature."""
        self.no_gradient = why

    def samples(self, *cases: Sample) -> None:
        """Add small calls that the tests check the rules with."""
        self.sample_cases.extend(cases)

    def has_rule(self, name: str) -> bool:
        """Whether the operator has a rule of this name."""
        return name in self._rules

    def get_rule(self, name: str) -> Rule:
        """The rule of this name; `InternalError` when there is none."""
        found = self._rules.get(name)
        if found is None:
            raise InternalError(f"{self!r} has no rule `{name}`; it has {', '.join(self._rules)}")
        return found

    # -- calling -----------------------------------------------------------------------------

    def __call__(
        self,
        *args: Any,
        absent: Sequence[str] = (),
        span: Span | None = None,
        **attrs: Any,
    ) -> Call:
        """The call of this operator on graph expressions.

        Arguments are graph expressions, numpy arrays or numbers (which take the dtype of the first
        tensor of their kind). An optional tensor that is missing is given as None or left out; it
        is not among `Call.args`. When one is missing before one that is present,
        `attrs["absent"]` of the call names it (and the keyword `absent` does the same here).
        """
        tensors = self._as_tensors(self.spread(args, absent))
        types = [None if item is None else _tensor_type(self, item) for item in tensors]
        canonical = self.canonical_attrs(types, attrs)
        result = self._infer_types(types, canonical)
        present = [item for item in tensors if item is not None]
        gaps = self._gaps(tensors)
        if gaps:
            canonical["absent"] = gaps
        return Call(self, tuple(present), canonical, result, span=span)  # type: ignore[call-arg]

    def _gaps(self, tensors: Sequence[object]) -> tuple[str, ...]:
        last = max((i for i, item in enumerate(tensors) if item is not None), default=-1)
        return tuple(self.tensors[i] for i in range(last) if tensors[i] is None)

    def spread(self, args: Sequence[Any], absent: Sequence[str] = ()) -> list[Any]:
        """One entry per tensor parameter, None where an optional one is missing."""
        if self.variadic:
            if not args:
                raise UserError(f"{self!r}: expected at least one tensor, got none")
            return list(args)
        rest = list(args)
        spread: list[Any] = []
        for name in self.tensors:
            if name in absent:
                if name not in self.optional:
                    raise UserError(f"{self!r}: tensor `{name}` is required, so not absent")
                spread.append(None)
            else:
                spread.append(rest.pop(0) if rest else None)
            if spread[-1] is None and name not in self.optional:
                raise UserError(
                    f"{self!r}: tensor `{name}` is missing; got {len(args)} of {self._expected()}"
                )
        if rest:
            raise UserError(f"{self!r}: got {len(args)} tensors, expected {self._expected()}")
        return spread

    def _expected(self) -> str:
        names = [f"{t} (optional)" if t in self.optional else t for t in self.tensors]
        return f"({', '.join(names)})"

    def _as_tensors(self, args: Sequence[Any]) -> list[GraphExpr | None]:
        result: list[GraphExpr | None] = []
        for position, item in enumerate(args):
            if item is None or isinstance(item, GraphExpr):
                result.append(item)
            elif isinstance(item, (bool, int, float)):
                result.append(Constant(np.asarray(item, dtype=self._number_dtype(args, position))))
            elif isinstance(item, (np.ndarray, np.generic)):
                result.append(Constant(np.asarray(item)))
            else:
                raise UserError(
                    f"{self!r}: argument {position} is {type(item).__name__} `{item!r}`; "
                    "expected a graph expression, a numpy array or a number"
                )
        return result

    def _number_dtype(self, args: Sequence[Any], position: int) -> np.dtype | None:
        """The dtype of a number among `args`: that of the first tensor, where possible of those
        that may have the same dtypes (not that of the condition of `where`)."""

        def allowed(at: int) -> frozenset[str]:
            return self.dtypes[self.tensors[min(at, len(self.tensors) - 1)]]

        tensors = [
            (allowed(at) != allowed(position), item.type.dtype.numpy)
            for at, item in enumerate(args)
            if isinstance(item, GraphExpr) and isinstance(item.type, TensorType)
        ]
        return min(tensors, key=lambda pair: pair[0])[1] if tensors else None

    def canonical_attrs(
        self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """All attributes by name, checked and in canonical form."""
        for name in attrs:
            if name not in self.attributes:
                known = ", ".join(f"`{key}`" for key in self.attributes) or "none"
                raise UserError(f"{self!r} has no attribute `{name}`; it has {known}")
        filled = {name: a.convert(attrs) for name, a in self.attributes.items()}
        normalise = self._rules.get("normalise")
        if normalise is not None:
            filled.update(self._explain(normalise, types, filled))
        return filled

    def infer(self, types: Sequence[TensorType], attrs: Mapping[str, Any]) -> Type:
        """The result's type for argument types as in `Call.args` and attributes as in
        `Call.attrs`. `UserError` says what does not fit."""
        attrs = dict(attrs)
        spread = self.spread(types, attrs.pop("absent", ()))
        return self._infer_types(spread, self.canonical_attrs(spread, attrs))

    def _infer_types(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> Type:
        for position, item in enumerate(types):
            name = self.tensors[min(position, len(self.tensors) - 1)]
            allowed = self.dtypes[name]
            if item is not None and item.dtype.name not in allowed:
                raise UserError(
                    f"{self!r}: argument `{name}` has dtype {item.dtype}, expected one of "
                    f"{', '.join(sorted(allowed))}"
                )
        result = self._explain(self._infer, types, attrs)
        return TupleType(result) if isinstance(result, tuple) else result

    def _explain(self, rule: Rule, types: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        try:
            return rule(*types, **attrs)
        except UserError as error:
            raise UserError(f"{self!r}: {error.message}", span=error.span) from None

    # -- rules -------------------------------------------------------------------------------

    def compute(
        self, tensors: Sequence[Tensor], attrs: Mapping[str, Any], *, rule: str = "compute"
    ) -> tuple[Tensor, ...]:
        """The outputs as tensor expressions; arguments as in `Call.args` and `Call.attrs`. rule:
        "compute", or "update" where the operator has that."""
        attrs = dict(attrs)
        spread = self.spread(tensors, attrs.pop("absent", ()))
        result = self.get_rule(rule)(*spread, **attrs)
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)

    def gradients(
        self, args: Sequence[GraphExpr], attrs: Mapping[str, Any], *, dout: Any, out: Any
    ) -> tuple[GraphExpr | None, ...]:
        """The gradient for each of `args`, by the rule "grad"; None is zero. Arguments as in
        `Call.args` and `Call.attrs`. `UserError` when the rule does not keep its word."""
        attrs = dict(attrs)
        spread = self.spread(args, attrs.pop("absent", ()))
        given = self.get_rule("grad")(*spread, dout=dout, out=out, **attrs)
        found = checked_gradients(repr(self), spread, given)
        pairs = zip(spread, found, strict=True)
        return tuple(gradient for arg, gradient in pairs if arg is not None)

    def evaluate(
        self, arrays: Sequence[np.ndarray], attrs: Mapping[str, Any]
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """The outputs on numpy arrays, by the "numpy" rule.

        float16 and bfloat16 are computed in float32. The result is checked against the inferred
        type: `InternalError` when a rule does not keep its word.
        """
        attrs = dict(attrs)
        spread = self.spread(arrays, attrs.pop("absent", ()))
        types = [None if a is None else _array_type(a) for a in spread]
        canonical = self.canonical_attrs(types, attrs)
        expected = self._infer_types(types, canonical)
        widened = [None if a is None else _widen(a) for a in spread]
        with np.errstate(all="ignore"):
            result = self.get_rule("numpy")(*widened, **canonical)
        if isinstance(expected, TupleType):
            pairs = zip(result, expected.fields, strict=True)
            return tuple(self._conform(value, type_) for value, type_ in pairs)
        return self._conform(result, expected)

    def _conform(self, value: Any, expected: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.shape != expected.static_shape:
            raise InternalError(
                f"{self!r}: the numpy rule gave shape {array.shape}, inferred "
                f"{expected.static_shape}"
            )
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(array, dtype=expected.dtype.numpy).reshape(array.shape)


def checked_gradients(
    owner: str, args: Sequence[GraphExpr | None], given: Any
) -> tuple[GraphExpr | None, ...]:
    """What a rule "grad" of `owner` returned, one for each of `args`. `UserError` when there are
    not as many, or one has not the type of its tensor."""
    found = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if len(found) != len(args):
        raise UserError(
            f"{owner}: the rule `grad` gave {len(found)} gradients, expected {len(args)}, one for "
            "each tensor"
        )
    for position, (arg, gradient) in enumerate(zip(args, found, strict=True)):
        if gradient is None or arg is None:
            continue
        if not isinstance(gradient, GraphExpr):
            raise UserError(
                f"{owner}: the rule `grad` gave {type(gradient).__name__} for argument {position}, "
                "expected a graph expression or None"
            )
        if not same_type(gradient.type, arg.type):
            raise UserError(
                f"{owner}: the rule `grad` gave {show_type(gradient.type)} for argument "
                f"{position}, expected {show_type(arg.type)}"
            )
    return found


def _tensor_type(op: Op, value: GraphExpr) -> TensorType:
    if not isinstance(value.type, TensorType):
        name = getattr(value, "name", "")
        raise UserError(
            f"{op!r}: argument `{name}` is a {type(value.type).__name__}, expected a tensor",
            span=value.span,
        )
    return value.type


def _array_type(array: np.ndarray) -> TensorType:
    return TensorType.of(array.shape, DType.of(array.dtype))


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array


def operator(
    name: str, *, kind: str, dtypes: str | Mapping[str, str] = "any"
) -> Callable[[Callable[..., Inferred]], Op]:
    """Declare the operator `name`. `dtypes` is the class of dtypes (`DTYPE_CLASSES`) that its
    tensors may have, for all of them or by parameter name."""

    def declare(infer: Callable[..., Inferred]) -> Op:
        if name in _REGISTRY:
            raise InternalError(f"operator {name} declared twice")
        _REGISTRY[name] = Op(name, kind, dtypes, infer)
        return _REGISTRY[name]

    return declare


def get(name: str) -> Op:
    """The operator of this name; `UserError` with near names when there is none.

    >>> get("relu")
    op.relu
    """
    found = _REGISTRY.get(name)
    if found is None:
        import difflib  # only on the way to an error

        near = difflib.get_close_matches(name, _REGISTRY, n=3)
        hint = f"; did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else ""
        raise UserError(f"there is no operator `{name}`{hint}")
    return found


class _Operators:
    """The operators as attributes, looked up when they are used: a rule may call an operator that
    is declared after it."""

    def __getattr__(self, name: str) -> Op:
        return get(name)


ops: Final = _Operators()


def all_ops() -> Mapping[str, Op]:
    """All operators by name."""
    return dict(_REGISTRY)


set_op_resolver(get)
