# SPDX-License-Identifier: Apache-2.0
"""`python -m heddle.cli`."""

from heddle.cli import main

main()
