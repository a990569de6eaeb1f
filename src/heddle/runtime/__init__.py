# SPDX-License-Identifier: Apache-2.0
"""The Python face of the runtime: load a compiled model and call it. Ships without the compiler."""

from heddle.runtime.device import Device
from heddle.runtime.info import ModelInfo, TensorInfo
from heddle.runtime.module import Executable, load
from heddle.runtime.profile import KernelTime, Profile
from heddle.runtime.tensor import Tensor, from_dlpack

__all__ = [
    "Device",
    "Executable",
    "KernelTime",
    "ModelInfo",
    "Profile",
    "Tensor",
    "TensorInfo",
    "from_dlpack",
    "load",
]
