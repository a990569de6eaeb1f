# SPDX-License-Identifier: Apache-2.0
"""Loop functions as C11 that people can read."""

from heddle.codegen.c.source import CSource, c_source

__all__ = ["CSource", "c_source"]
