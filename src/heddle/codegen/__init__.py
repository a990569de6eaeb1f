# SPDX-License-Identifier: Apache-2.0
"""Code generators: loop functions to native code."""
