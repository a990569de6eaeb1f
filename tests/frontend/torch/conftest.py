# SPDX-License-Identifier: Apache-2.0
"""Nothing here is collected where PyTorch is not installed."""

import importlib.util

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
