# SPDX-License-Identifier: Apache-2.0
"""Networks with seeded random weights, exported to ONNX once and kept in a cache folder.

    from benchmarks import zoo
    path = zoo.onnx_path("resnet50")            # built when it is not there (needs torch)
    values = zoo.inputs("resnet50", seed=0)     # {"image": float32 (1, 3, 224, 224)}

`small=True` gives the same architecture with few channels and layers on a small input, for tests.
The folder is `$HEDDLE_ZOO`, or `~/.cache/heddle-zoo`. A file's name carries a digest of what it is
built from, so a changed definition is built anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from benchmarks.zoo.registry import MODELS, Input, Model, Variant

__all__ = ["cache_dir", "info", "inputs", "models", "onnx_path", "outputs", "tokens"]


def models() -> tuple[str, ...]:
    """The names of all networks."""
    return tuple(MODELS)


def cache_dir() -> Path:
    """Where the ONNX files lie."""
    return Path(os.environ.get("HEDDLE_ZOO") or Path.home() / ".cache" / "heddle-zoo")


def _model(name: str) -> Model:
    if name not in MODELS:
        raise KeyError(f"no network `{name}` in the zoo; there are: {', '.join(MODELS)}")
    return MODELS[name]


def _variant(name: str, small: bool) -> Variant:
    return _model(name).small if small else _model(name).full


def _target(name: str, small: bool) -> Path:
    model = _model(name)
    folder = Path(__file__).parent
    digest = hashlib.sha256(repr((model.exporter, _variant(name, small))).encode())
    for source in (model.module, "weights", "export"):
        digest.update((folder / f"{source}.py").read_bytes())
    suffix = "-small" if small else ""
    return cache_dir() / f"{name}{suffix}-{digest.hexdigest()[:10]}.onnx"


def onnx_path(name: str, *, small: bool = False) -> Path:
    """The ONNX file of network `name`, built first when it is missing."""
    path = _target(name, small)
    if not path.exists() or not path.with_suffix(".json").exists():
        from benchmarks.zoo.export import export  # torch: 1-5 s and an optional extra

        about = export(_model(name), path, small=small)
        part = path.with_suffix(f".json.{os.getpid()}.part")
        part.write_text(json.dumps(about))
        part.replace(path.with_suffix(".json"))
    return path


def info(name: str, *, small: bool = False) -> dict[str, object]:
    """`flops` of one call (products and convolutions) and `operators` (type to count)."""
    return json.loads(onnx_path(name, small=small).with_suffix(".json").read_text())


def inputs(name: str, seed: int = 0, *, small: bool = False) -> dict[str, np.ndarray]:
    """Random values for every input of network `name`, drawn from `seed`."""
    rng = np.random.default_rng(seed)
    values: tuple[Input, ...] = _variant(name, small).inputs
    return {value.name: value.sample(rng) for value in values}


def outputs(name: str, *, small: bool = False) -> tuple[str, ...]:
    """The names of the outputs of network `name`."""
    return _variant(name, small).outputs


def tokens(name: str) -> int:
    """How many tokens a call of network `name` generates: 0 when it is no decoder."""
    return _model(name).tokens
