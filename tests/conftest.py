# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a cache folder of their own and seeded randomness."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor leave anything in the user's cache, unless one is named for them."""
    if "HEDDLE_CACHE_DIR" in os.environ:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEDDLE_CACHE_DIR", str(tmp_path_factory.mktemp("heddle-cache")))
        yield


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A random generator whose seed is the test's own name: the same in every run and order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def project_root() -> Path:
    """The folder that holds pyproject.toml."""
    return Path(__file__).parents[1]
