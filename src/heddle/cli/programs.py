# SPDX-License-Identifier: Apache-2.0
"""Models of PyTorch on the command line: `model.pt2`, or `package.module:factory`.

The factory takes no arguments and gives an exported program, or a module with its example inputs:

    def factory():
        return MyModel().eval(), (torch.randn(1, 3, 224, 224),)
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from heddle.support import UserError

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_program(path: Path) -> bool:
    """Whether an argument names a model of PyTorch."""
    factory = _FACTORY.fullmatch(str(path)) is not None and not path.exists()
    return path.suffix == ".pt2" or factory


def open_program(path: Path) -> Any:
    """The `ExportedProgram` that an argument names. Raises `UserError` when there is none."""
    try:
        import torch  # optional
    except ImportError as error:
        raise UserError("PyTorch is not installed: pip install 'heddle[torch]'") from error
    if path.suffix != ".pt2":
        return _made(str(path))
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        return torch.export.load(path)
    except Exception as error:  # a zip that is none, a version that is too new, ...
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: torch.export cannot load it: {text}") from error


def _made(text: str) -> Any:
    module_name, _, function_name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{text}: cannot import `{module_name}`: {error}") from error
    finally:
        sys.path.pop(0)
    factory = getattr(module, function_name, None)
    if not callable(factory):
        raise UserError(f"{text}: `{module_name}` has no function `{function_name}`")
    made = factory()
    if type(made).__name__ == "ExportedProgram":
        return made
    if not (isinstance(made, tuple) and len(made) == 2):
        kind = type(made).__name__
        raise UserError(
            f"{text}: expected an exported program, or (module, example inputs), got {kind}"
        )
    from heddle.frontend.torch.modules import export_module

    return export_module(*made)
