# SPDX-License-Identifier: Apache-2.0
"""`torch.compile(model, backend="heddle")`: from the graphs of TorchDynamo to compiled code."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from functorch.compile import make_boxed_func
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.registry import list_backends, register_backend
from torch.nn.attention import SDPBackend, sdpa_kernel

from heddle.driver.dynamo.freeze import Frozen
from heddle.driver.dynamo.partition import compile_graph
from heddle.driver.pipeline import graph_pipeline
from heddle.frontend.torch.decompose import dynamo_decompositions
from heddle.support import UserError
from heddle.target import parse

NAME: Final = "heddle"


@dataclass(frozen=True, slots=True)
class Options:
    """What `torch.compile(..., options={...})` may say.

    strict: an operator that Heddle has no rule for is an error, not a part that runs in PyTorch.
    freeze: without gradients, parameters are constants of the code, which is compiled anew when
        they change. Changes through `.data` go unnoticed.
    target, num_threads, precision, winograd_error: as in `heddle.compile`.
    """

    strict: bool = False
    freeze: bool = False
    target: str = "native"
    num_threads: int | None = None
    precision: str = "float32"
    winograd_error: float | None = None

    @staticmethod
    def of(given: Mapping[str, Any] | None) -> Options:
        """The options of a dictionary; `UserError` for one that there is not."""
        known = [field.name for field in dataclasses.fields(Options)]
        for name in given or {}:
            if name not in known:
                raise UserError(
                    f"torch.compile: backend `heddle` has no option `{name}`; it has "
                    + ", ".join(f"`{item}`" for item in known)
                )
        options = Options(**(given or {}))
        options.check()
        return options

    def check(self) -> None:
        """`UserError` for a value that no compilation takes: told before any graph is."""
        graph_pipeline(parse(self.target), precision=self.precision)
        if self.num_threads is not None and self.num_threads < 1:
            raise UserError(f"num_threads must be at least 1, got {self.num_threads}")

    def for_compile(self) -> dict[str, Any]:
        """The keywords of `heddle.compile`."""
        found: dict[str, Any] = {
            "target": self.target,
            "num_threads": self.num_threads,
            "precision": self.precision,
        }
        if self.winograd_error is not None:
            found["winograd_error"] = self.winograd_error
        return found


def backend(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The callable for one graph of TorchDynamo.

    AOTAutograd makes it functional and splits it into forward and backward where gradients are
    needed; each becomes one executable, or several with what Heddle has no rule for in between
    (with a `FallbackWarning`). Tensors are used where they are, without a copy; where no gradients
    are needed, inputs and buffers are written in place.
    """
    if mode not in (None, "default"):
        raise UserError(f"torch.compile: backend `heddle` has no mode {mode!r}; use options")
    compiler = functools.partial(_compile, options=Options.of(options))
    make = aot_autograd(
        fw_compiler=functools.partial(compiler, role="forward"),
        bw_compiler=functools.partial(compiler, role="backward"),
        inference_compiler=functools.partial(compiler, role="inference"),
        decompositions=dynamo_decompositions(),
        keep_inference_input_mutations=True,
    )
    if not torch.is_grad_enabled():
        return make(graph, example_inputs)
    # Attention whose gradient is spelled out: the fused kernels have one of their own.
    with sdpa_kernel(SDPBackend.MATH):
        return make(graph, example_inputs)


def _compile(
    graph: fx.GraphModule, _inputs: Sequence[Any], *, options: Options, role: str
) -> Callable[..., Any]:
    compile_one = functools.partial(
        compile_graph, role=role, strict=options.strict, options=options.for_compile()
    )
    frozen = options.freeze and role == "inference"
    return make_boxed_func(Frozen(graph, compile_one) if frozen else compile_one(graph))  # type: ignore[no-any-return]


def register() -> None:
    """Make the backend known under its name; doing it twice is the same as once."""
    if NAME not in list_backends(exclude_tags=None):
        register_backend(compiler_fn=backend, name=NAME)


register()
