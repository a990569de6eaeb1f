# SPDX-License-Identifier: Apache-2.0
"""The `heddle` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from heddle.support.version import VERSION


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the user's mistake, 2 wrong usage, 3 a bug of
    Heddle, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):  # answered without importing anything
        print(f"heddle {VERSION}")
        sys.exit(0)
    from heddle.cli.app import app  # typer and what it needs: 0.2 s

    app(args=given, prog_name="heddle")


__all__ = ["main"]
