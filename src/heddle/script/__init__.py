# SPDX-License-Identifier: Apache-2.0
"""IR of both levels as Python text: `to_text` prints it, `parse` reads it back."""

from heddle.script.printer import show, to_text

__all__ = ["show", "to_text"]
