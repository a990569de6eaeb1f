# SPDX-License-Identifier: Apache-2.0
"""A `Target` in LLVM's words."""

from __future__ import annotations

from heddle.codegen.llvm.optimize import Machine
from heddle.target import Target
from heddle.target.registry import PROCESSORS


def machine_of(target: Target) -> Machine:
    """Triple, processor and feature string of a target.

    Features that the processor's name implies and the target lacks are turned off.
    """
    named = PROCESSORS.get(target.cpu)
    missing = (named.features if named is not None else frozenset()) - target.features
    features = [f"+{name}" for name in sorted(target.features)]
    features += [f"-{name}" for name in sorted(missing)]
    return Machine(target.triple, target.cpu, ",".join(features))
