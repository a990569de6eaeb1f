# SPDX-License-Identifier: Apache-2.0
"""Some of the architectures of `python -m benchmarks.architectures`, which tries all of them."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from benchmarks.architectures import ARCHITECTURES, run

# Found, not imported: `run` sees to what has to be done before.
if importlib.util.find_spec("transformers") is None:
    pytest.skip("the models are those of transformers", allow_module_level=True)

BY_NAME = {item.name: item for item in ARCHITECTURES}


@pytest.mark.filterwarnings("default")  # what transformers and torch warn about is theirs
@pytest.mark.parametrize(
    "name, way",
    [
        ("bert", "export"),
        ("llama", "export"),
        ("t5", "export"),
        ("mixtral", "export"),
        ("swin", "export"),
        ("resnet", "export"),
        ("bert", "compile"),
        ("fnet", "export"),
        ("fnet", "compile"),
    ],
)
def test_architecture(name: str, way: str) -> None:
    outcome: Any = run(BY_NAME[name], way)
    assert outcome.passed, outcome.line()
    assert not outcome.note  # nothing runs in PyTorch
