# SPDX-License-Identifier: Apache-2.0
"""IR of both levels as Python text: `to_text` prints it, `parse` reads it back.

`T`, `G` and `I` are the namespaces in which scripts are written in Python files; docs/ir.md is
the reference of the language.
"""

from heddle.script.dialect import G, I, T
from heddle.script.parser import parse
from heddle.script.printer import show, to_text

__all__ = ["G", "I", "T", "parse", "show", "to_text"]
