# SPDX-License-Identifier: Apache-2.0
"""Calls of PyTorch that the importer has to mean the same by: one row each."""

from tests.frontend.torch import (
    cases_complex,
    cases_elementwise,
    cases_orders,
    cases_special,
    cases_tensors,
)

CASES = (
    *cases_elementwise.CASES,
    *cases_complex.CASES,
    *cases_orders.CASES,
    *cases_special.CASES,
    *cases_tensors.CASES,
)
