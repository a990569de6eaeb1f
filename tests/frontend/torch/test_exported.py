# SPDX-License-Identifier: Apache-2.0
"""`from_exported_program` and `heddle.compile` of modules: names, symbols, memory, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import heddle
from heddle.driver.api import import_model
from heddle.driver.report import CompileReport
from heddle.frontend.torch import ImportFailure, from_exported_program, supported_operators
from heddle.graph import Constant, Function
from heddle.graph.verify import verify_module
from heddle.ir import pre_order, structural_equal
from heddle.op.interp import interpret
from heddle.script import parse, to_text
from heddle.support import UserError


class Block(nn.Module):
    """Two layers with names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Sequential(nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) * scale


def export(model: nn.Module, *args: Any, **options: Any) -> torch.export.ExportedProgram:
    """The exported program of a module in evaluation mode."""
    with torch.no_grad():
        return torch.export.export(model.eval(), args, **options)


def main(module: Any) -> Function:
    found = module["main"]
    assert isinstance(found, Function)
    return found


def test_names_are_those_of_arguments_and_layers() -> None:
    program = export(Block(), torch.randn(3, 8), torch.randn(4))
    function = main(from_exported_program(program, name="block"))
    assert [param.name for param in function.params] == ["x", "scale"]
    names = [binding.var.name for binding in function.bindings]
    assert any(name.startswith("first.linear") for name in names)
    assert any(name.startswith("second.1.linear") for name in names)
    spans = [str(binding.span.text) for binding in function.bindings if binding.span]
    assert any("second.0.relu" in text and "aten.relu" in text for text in spans)


def test_prints_parses_and_verifies() -> None:
    module = from_exported_program(export(Block(), torch.randn(3, 8), torch.randn(4)))
    verify_module(module)
    constants: dict[str, Any] = {}
    text = to_text(module, constants=constants)
    assert structural_equal(parse(text, constants=constants), module)


def test_parameters_share_memory() -> None:
    model = Block()
    program = export(model, torch.randn(3, 8), torch.randn(4))
    function = main(from_exported_program(program))
    constants = [
        item.data
        for binding in function.bindings
        for item in pre_order(binding.value)
        if isinstance(item, Constant)
    ]
    weight = program.state_dict["first.weight"].detach().numpy()
    assert any(np.shares_memory(weight, data) for data in constants)


def test_bfloat16_parameters_share_memory() -> None:
    model = nn.Linear(4, 4, bias=False).bfloat16()
    program = export(model, torch.randn(2, 4).bfloat16())
    function = main(from_exported_program(program))
    data = next(
        item.data
        for binding in function.bindings
        for item in pre_order(binding.value)
        if isinstance(item, Constant)
    )
    raw = program.state_dict["weight"].detach().view(torch.int16).numpy()
    assert np.shares_memory(raw, data)


def test_dynamic_dimensions_keep_names_and_ranges() -> None:
    batch, length = Dim("batch", min=2, max=64), Dim("length", min=3, max=100)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x.reshape(x.shape[0], -1).sum(1) / x.shape[1], x[:, 1:].flip(1), x.shape[0] * 3

    example = torch.randn(4, 7, 3)
    exe = heddle.compile(
        Model(), example_inputs=(example,), dynamic_shapes=({0: batch, 1: length},), cache=False
    )
    assert exe.inputs[0].shape == ("batch", "length", 3)
    assert exe.info.symbols["batch"] == (2, 64)
    for sizes in ((2, 5), (9, 3), (64, 100)):
        x = torch.randn(*sizes, 3)
        total, flipped, size = exe(x)
        np.testing.assert_allclose(total.numpy(), Model()(x)[0].numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(flipped.numpy(), x[:, 1:].flip(1).numpy())
        assert size.item() == 3 * sizes[0]
    with pytest.raises(UserError, match="dimension 0 is 65, expected `batch` from 2 to 64"):
        exe(torch.randn(65, 5, 3))


def test_derived_dimensions() -> None:
    half = Dim("half", min=2, max=20)

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(-1, 2, 3).sum(1)

    program = export(Model(), torch.randn(8, 3), dynamic_shapes=({0: 2 * half},))
    module = from_exported_program(program)
    for count in (4, 10):
        x = torch.randn(count, 3)
        np.testing.assert_allclose(
            interpret(module, [x.numpy()]), Model()(x).numpy(), rtol=1e-5, atol=1e-6
        )


def test_sizes_as_data_and_causal_masks() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = x.shape[1]
            mask = torch.ones(n, n, dtype=torch.bool).tril()
            scores = (x @ x.transpose(1, 2)).masked_fill(~mask, float("-inf"))
            positions = torch.arange(n)
            return scores.softmax(-1) @ x + positions[:, None] + n

    program = export(Model(), torch.randn(2, 5, 4), dynamic_shapes=({1: Dim("n", min=2, max=99)},))
    module = from_exported_program(program)
    for n in (2, 7):
        x = torch.randn(2, n, 4)
        np.testing.assert_allclose(
            interpret(module, [x.numpy()]), Model()(x).numpy(), rtol=1e-4, atol=1e-5
        )


def test_nested_inputs_and_outputs() -> None:
    class Model(nn.Module):
        def forward(self, pair: dict[str, torch.Tensor], flag: bool) -> dict[str, torch.Tensor]:
            total = pair["a"] + pair["b"]
            return {"total": total if flag else -total, "a": pair["a"]}

    exe = heddle.compile(
        Model(),
        example_inputs={"pair": {"a": torch.ones(3), "b": torch.ones(3)}, "flag": True},
        cache=False,
    )
    total, same = exe(torch.arange(3.0), torch.ones(3))
    np.testing.assert_array_equal(total.numpy(), [1, 2, 3])
    np.testing.assert_array_equal(same.numpy(), [0, 1, 2])


def test_all_missing_operators_are_named_with_their_layers() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i0(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = Odd()
            self.head = Odd()

        def forward(self, x: torch.Tensor) -> Any:
            return self.stem(x), self.head(x), torch.special.i1(x)

    with pytest.raises(ImportFailure) as caught:
        from_exported_program(export(Model(), torch.randn(3)))
    text = str(caught.value)
    assert "3 nodes cannot be imported" in text
    assert "aten.i0.default at `stem.i0`, `head.i0_1`" in text
    assert "aten.special_i1.default at `special_i1`" in text


def test_sizes_that_depend_on_data() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, source: torch.Tensor) -> Any:
            rows = x[x[:, 0] > 0]
            return (
                x[x > 0] * 2,
                rows.sum(0) + rows.shape[0],
                x[:, x[0] > 0].sum(0),
                x.nonzero(),
                torch.masked_select(x, x[0] > 1),
                x.masked_scatter(x > 0, source),
            )

    inputs = torch.randn(4, 5), torch.randn(20)
    exe = heddle.compile(Model(), example_inputs=inputs, cache=False)
    for scale in (1.0, 3.0, -1.0, 0.0):
        x = torch.randn(4, 5) * scale
        for found, expected in zip(exe(x, inputs[1]), Model()(x, inputs[1]), strict=True):
            assert found.shape == tuple(expected.shape)
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_conditions() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            def then(x: torch.Tensor, y: torch.Tensor) -> Any:
                return self.first(x).relu(), y + x.shape[0]

            def otherwise(x: torch.Tensor, y: torch.Tensor) -> Any:
                return self.second(x), y.clone()

            a, b = torch.cond(x.sum() > 0, then, otherwise, (x, y))
            return a + 1, b * x.shape[0]

    model, inputs = Model(), (torch.ones(4, 3), torch.randn(4))
    batch = Dim("batch", min=2, max=9)
    exe = heddle.compile(
        model,
        example_inputs=inputs,
        dynamic_shapes=({0: batch}, {0: batch}),
        cache=False,
    )
    for count, sign in ((4, 1), (4, -1), (7, -1), (2, 1)):
        x, y = torch.rand(count, 3) * sign, torch.randn(count)
        for found, expected in zip(exe(x, y), model(x, y), strict=True):
            np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)


def test_masks_beside_other_indices_are_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return x[rows, x[0] > 0]

    program = export(Model(), torch.ones(3, 1), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ImportFailure, match="a mask together with other indices"):
        from_exported_program(program)


def test_updated_buffers_are_refused_or_returned() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * self.calls

    program = export(Counter(), torch.ones(2))
    with pytest.raises(UserError, match="updates its buffers `calls`"):
        from_exported_program(program)
    module = from_exported_program(program, mutated_buffers=True)
    assert main(module).attrs["output_names"][1] == "calls"
    y, calls = interpret(module, [np.ones(2, np.float32)])
    assert calls == 1
    np.testing.assert_array_equal(y, [1, 1])


def test_changed_inputs_are_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(1)

    with pytest.raises(UserError, match="changes its input `x` in place"):
        from_exported_program(export(Model(), torch.ones(2)))


def test_messages_of_compile() -> None:
    with pytest.raises(UserError, match="pass example_inputs"):
        heddle.compile(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"dynamic_shapes are for a torch.nn.Module, got str"):
        heddle.compile("model.onnx", example_inputs=(torch.ones(1),))
    with pytest.raises(UserError, match=r"torch\.export failed"):
        heddle.compile(nn.Linear(2, 2), example_inputs=(torch.ones(1, 3),))
    with pytest.raises(UserError, match="expected an ExportedProgram, got int"):
        from_exported_program(3)  # type: ignore[arg-type]


def test_dropout_in_training_mode_is_refused() -> None:
    with torch.no_grad():
        program = torch.export.export(nn.Dropout(0.5).train(), (torch.ones(3),))
    with pytest.raises(ImportFailure, match="draws from the generator of PyTorch"):
        from_exported_program(program)


def test_modules_are_cached_by_what_they_compute() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3).eval()
    report = CompileReport()
    heddle.compile(model, example_inputs=torch.ones(2, 3))
    heddle.compile(model, example_inputs=torch.ones(2, 3), report=report)
    assert report.from_cache
    with torch.no_grad():
        model.weight.mul_(2)
    changed = heddle.compile(model, example_inputs=torch.ones(2, 3))
    np.testing.assert_allclose(
        changed(torch.ones(2, 3)).numpy(), model(torch.ones(2, 3)).detach().numpy(), rtol=1e-5
    )


def test_exported_programs_are_models() -> None:
    program = export(nn.Softmax(-1), torch.randn(2, 3))
    assert "main" in import_model(program)


def test_core_operators_have_rules() -> None:
    names = supported_operators()
    assert len(names) > 250
    assert "aten.convolution.default" in names


def test_dimensions_that_follow_from_others_are_checked() -> None:
    past, now = Dim("past", min=2, max=50), Dim("now", min=2, max=9)

    class Decoder(nn.Module):
        def forward(self, cache: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return torch.cat([cache, x], 0) * mask[:, None]

    inputs = torch.randn(7, 3), torch.randn(4, 3), torch.randn(11)
    exe = heddle.compile(
        Decoder(),
        example_inputs=inputs,
        dynamic_shapes=({0: past}, {0: now}, {0: Dim.AUTO}),
        cache=False,
    )
    for a, b in ((7, 4), (20, 2)):
        inputs = torch.randn(a, 3), torch.randn(b, 3), torch.randn(a + b)
        np.testing.assert_array_equal(exe(*inputs).numpy(), Decoder()(*inputs).numpy())
    with pytest.raises(UserError, match="input `mask`: a dimension is 12, which does not fit"):
        exe(torch.randn(7, 3), torch.randn(4, 3), torch.randn(12))


def test_half_of_an_odd_dimension_is_refused() -> None:
    exe = heddle.compile(
        nn.Unflatten(0, (-1, 2)),
        example_inputs=torch.randn(8, 3),
        dynamic_shapes=({0: 2 * Dim("half", min=2, max=20)},),
        cache=False,
    )
    assert exe(torch.randn(10, 3)).shape == (5, 2, 3)
    with pytest.raises(UserError, match="a dimension is 11, which does not fit"):
        exe(torch.randn(11, 3))


class Chosen(nn.Module):
    """Sizes and numbers that are elements of tensors."""

    def forward(self, x: torch.Tensor, count: torch.Tensor, factor: torch.Tensor) -> Any:
        size = count.item()
        torch._check(size >= 0)
        torch._check(size <= x.shape[0])
        return x[:size] * factor.item(), x * size


def test_elements_as_sizes_and_numbers() -> None:
    inputs = torch.randn(7, 3), torch.tensor(4), torch.tensor(2.5)
    exe = heddle.compile(Chosen(), example_inputs=inputs)
    for size in (4, 0, 7):
        given = (inputs[0], torch.tensor(size), inputs[2])
        for found, wanted in zip(exe(*given), Chosen()(*given), strict=True):
            np.testing.assert_allclose(found.numpy(), wanted.numpy())
    for size in (8, -1):
        with pytest.raises(UserError):
            exe(inputs[0], torch.tensor(size), inputs[2])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_unique(dtype: torch.dtype) -> None:
    class Unique(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            runs = torch.unique_consecutive(x.flatten(), return_counts=True)
            return (*torch.unique(x, return_inverse=True, return_counts=True), *runs)

    model = Unique()
    x = torch.randint(0, 4, (3, 5)).to(dtype)
    executable = heddle.compile(model, example_inputs=(x,), cache=False)
    for given in (x, torch.ones_like(x), torch.arange(15).reshape(3, 5).to(dtype)):
        found = [torch.from_dlpack(item) for item in executable(given)]
        for a, b in zip(found, model(given), strict=True):
            torch.testing.assert_close(a, b)


def test_changed_parameters_are_returned() -> None:
    class Shrinking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.div_(2.0)
            return x * self.weight

    program = torch.export.export(Shrinking(), (torch.ones(3),))
    with pytest.raises(UserError, match="`weight`"):
        from_exported_program(program)
    module = from_exported_program(program, mutated_buffers=True)
    result, weight = heddle.compile(module, cache=False)(torch.full((3,), 4.0))
    assert result.numpy().tolist() == [2.0] * 3
    assert weight.numpy().tolist() == [0.5] * 3


def test_what_has_effects_and_no_rule() -> None:
    class Factor(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.cholesky(x)

    with pytest.raises(UserError, match="linalg_cholesky_ex"):
        heddle.compile(Factor(), example_inputs=(torch.eye(3),), cache=False)
