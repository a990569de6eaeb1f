# SPDX-License-Identifier: Apache-2.0
"""Named processors: what a vector unit they have, and the LLVM features that code may use.

The table says what schedules need to know (register width and count). LLVM itself derives the full
feature set of a processor from its name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from heddle.target.target import Cache


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor that a target may name: its family and the features that matter to schedules."""

    arch: str
    features: frozenset[str]
    caches: tuple[Cache, ...]


_SSE2: Final = frozenset({"sse", "sse2"})
_SSE4: Final = _SSE2 | {"sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"}
_AVX: Final = _SSE4 | {"avx"}
_AVX2: Final = _AVX | {"avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe"}
_AVX512: Final = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_VNNI: Final = _AVX512 | {"avx512vnni"}
_BF16: Final = _VNNI | {"avx512bf16"}
_NEON: Final = frozenset({"neon", "fp-armv8"})
_NEON82: Final = _NEON | {"fullfp16", "dotprod", "lse"}

_DESKTOP: Final = (Cache(32 << 10), Cache(256 << 10), Cache(8 << 20, shared_by=4))
_SERVER: Final = (Cache(48 << 10), Cache(1 << 20), Cache(32 << 20, shared_by=8))
_ARM_SMALL: Final = (Cache(32 << 10), Cache(512 << 10, shared_by=4))
_ARM_SERVER: Final = (Cache(64 << 10), Cache(1 << 20), Cache(32 << 20, shared_by=32))


def _x86(features: frozenset[str], caches: tuple[Cache, ...]) -> Processor:
    return Processor("x86_64", features, caches)


def _arm(features: frozenset[str], caches: tuple[Cache, ...]) -> Processor:
    return Processor("aarch64", features, caches)


PROCESSORS: Final[dict[str, Processor]] = {
    "x86-64": _x86(_SSE2, _DESKTOP),
    "x86-64-v2": _x86(_SSE4, _DESKTOP),
    "x86-64-v3": _x86(_AVX2, _DESKTOP),
    "x86-64-v4": _x86(_AVX512, _SERVER),
    "nehalem": _x86(_SSE4, _DESKTOP),
    "sandybridge": _x86(_AVX, _DESKTOP),
    "ivybridge": _x86(_AVX | {"f16c"}, _DESKTOP),
    "haswell": _x86(_AVX2, _DESKTOP),
    "broadwell": _x86(_AVX2, _DESKTOP),
    "skylake": _x86(_AVX2, _DESKTOP),
    "alderlake": _x86(_AVX2, _SERVER),
    "skylake-avx512": _x86(_AVX512, _SERVER),
    "cascadelake": _x86(_VNNI, _SERVER),
    "icelake-server": _x86(_VNNI, _SERVER),
    "sapphirerapids": _x86(_BF16, _SERVER),
    "graniterapids": _x86(_BF16, _SERVER),
    "znver1": _x86(_AVX2, _DESKTOP),
    "znver2": _x86(_AVX2, _DESKTOP),
    "znver3": _x86(_AVX2, _DESKTOP),
    "znver4": _x86(_BF16, _SERVER),
    "znver5": _x86(_BF16, _SERVER),
    "cortex-a53": _arm(_NEON, _ARM_SMALL),
    "cortex-a72": _arm(_NEON, _ARM_SMALL),
    "cortex-a76": _arm(_NEON82, _ARM_SMALL),
    "cortex-a78": _arm(_NEON82, _ARM_SMALL),
    "apple-m1": _arm(_NEON82, (Cache(128 << 10), Cache(12 << 20, shared_by=4))),
    "neoverse-n1": _arm(_NEON82, _ARM_SERVER),
    "neoverse-v1": _arm(_NEON82, _ARM_SERVER),
    "neoverse-n2": _arm(_NEON82, _ARM_SERVER),
}


def processor_names() -> tuple[str, ...]:
    """Every processor that `-mcpu=` may name, besides the machine's own."""
    return tuple(PROCESSORS)


def vector_unit(arch: str, features: frozenset[str]) -> tuple[int, int]:
    """Width in bits and number of the vector registers that the features give."""
    if arch == "aarch64":
        return 128, 32
    if arch != "x86_64":
        return 64, 32
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= features:
        return 512, 32
    return (256 if "avx2" in features else 128), 16


def with_features(processor: Processor, changes: list[str]) -> frozenset[str]:
    """The features of a processor after `+name` and `-name` changes."""
    features = set(processor.features)
    for change in changes:
        if change.startswith("-"):
            features.discard(change[1:])
        else:
            features.add(change.removeprefix("+"))
    return frozenset(features)


def generic(arch: str) -> Processor:
    """What every processor of an architecture has."""
    base = {"x86_64": PROCESSORS["x86-64"], "aarch64": PROCESSORS["cortex-a53"]}.get(arch)
    if base is not None:
        return base
    return dataclasses.replace(PROCESSORS["cortex-a53"], arch=arch, features=frozenset())
