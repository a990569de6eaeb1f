# SPDX-License-Identifier: Apache-2.0
"""`heddle.grad`, `heddle.value_and_grad`, `heddle.vjp`: modules that compute gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heddle.driver.api import import_model
from heddle.graph.nodes import Function, Tuple
from heddle.ir.module import IRModule
from heddle.passes.graph.gradient import GradientRule, gradient


def grad(
    model: Any,
    wrt: str | Sequence[str] | None = None,
    *,
    of: int | str | None = None,
    function: str = "main",
    rules: Mapping[str, GradientRule] | None = None,
    max_trip_count: int | None = None,
) -> IRModule:
    """The module that computes the gradient of a scalar result of a model.

    model: an `IRModule` (or what `heddle.compile` takes) whose graph function `function` returns
        the scalar, a float tensor of shape (), or several results.
    wrt: names of parameters to differentiate by; None: all that are tensors of floats.
    of: which result, by position or name, where there are several.
    rules: gradients of loop functions that the graph calls, by name: `rule(*args, dout, out)`
        returns one graph expression, or None for zero, for each argument.
    max_trip_count: the most iterations of a loop that has no limit and no bound of its own: there
        is memory for what so many of them carry. Running more often is an error at run time.

    `function` of the result takes the same parameters and returns one gradient for each name in
    `wrt`, in this order, of the parameter's shape and dtype: bare when `wrt` is one string, else a
    tuple. It is a module like any other: print it, compile it, differentiate it again.

    Raises `UserError` when a name is unknown, the result is no scalar, or something on the way has
    no gradient: the message names all operators without one, and where they are called.

    >>> exe = heddle.compile(heddle.grad(module, ["w", "b"]))          # doctest: +SKIP
    >>> d_w, d_b = exe(x, w, b)                                        # doctest: +SKIP
    """
    return _transform(model, wrt, function, of=of, rules=rules, max_trip_count=max_trip_count)


def value_and_grad(
    model: Any,
    wrt: str | Sequence[str] | None = None,
    *,
    of: int | str | None = None,
    function: str = "main",
    rules: Mapping[str, GradientRule] | None = None,
    max_trip_count: int | None = None,
) -> IRModule:
    """As `grad`, but `function` returns all its own results, then the gradients, as one tuple.

    >>> exe = heddle.compile(heddle.value_and_grad(module, ["w", "b"]))    # doctest: +SKIP
    >>> loss, d_w, d_b = exe(x, w, b)                                      # doctest: +SKIP
    """
    options = {"of": of, "values": True, "rules": rules, "max_trip_count": max_trip_count}
    return _transform(model, wrt, function, **options)


def vjp(
    model: Any,
    wrt: str | Sequence[str] | None = None,
    *,
    of: int | str | None = None,
    function: str = "main",
    cotangent: str = "dout",
    rules: Mapping[str, GradientRule] | None = None,
    max_trip_count: int | None = None,
) -> IRModule:
    """As `grad`, for a result of any shape: the product of a vector and the Jacobian.

    The vector is a further parameter, named `cotangent`, of the type of the result; the gradients
    are those of the sum of its products with the result.

    >>> exe = heddle.compile(heddle.vjp(module, "x"))                  # doctest: +SKIP
    >>> d_x = exe(x, w, dout)                                          # doctest: +SKIP
    """
    options = {"of": of, "cotangent": cotangent, "rules": rules, "max_trip_count": max_trip_count}
    return _transform(model, wrt, function, **options)


def _transform(
    model: Any, wrt: str | Sequence[str] | None, function: str, **options: Any
) -> IRModule:
    names = [wrt] if isinstance(wrt, str) else wrt
    module = gradient(import_model(model), names, function=function, **options)
    if not isinstance(wrt, str) or options.get("values"):
        return module
    found = module[function]
    assert isinstance(found, Function)
    assert isinstance(found.result, Tuple)
    return module.with_functions({function: found.replace(result=found.result.fields[0])})


__all__ = ["grad", "value_and_grad", "vjp"]
