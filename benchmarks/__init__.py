# SPDX-License-Identifier: Apache-2.0
"""What Heddle is measured with and against."""
