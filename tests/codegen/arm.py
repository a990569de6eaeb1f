# SPDX-License-Identifier: Apache-2.0
"""Code for ARM: compiled here, linked by a cross compiler, run under an emulator."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from heddle.codegen.build import llvm_ir
from heddle.codegen.kernels import compile_text
from heddle.target import Target
from heddle.tir.nodes import PrimFunc

_MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int32_t kernel(PARAMETERS);
void *hd_alloc(int64_t size, int64_t align) { return aligned_alloc(align, (size + 63) / 64 * 64); }
void hd_free(void *p) { free(p); }
void hd_set_error(const char *f, ...) { (void)f; }
int32_t hd_parallel_for(int32_t (*f)(int64_t, int64_t, void *), void *env, int64_t n) {
  return f(0, n, env);
}
int main(void) {
  static const size_t sizes[] = {SIZES};
  const int count = sizeof sizes / sizeof *sizes;
  void *p[sizeof sizes / sizeof *sizes];
  for (int i = 0; i < count; ++i) p[i] = hd_alloc(sizes[i], 64);
  for (int i = 0; i + 1 < count; ++i) if (fread(p[i], 1, sizes[i], stdin) != sizes[i]) return 2;
  if (kernel(ARGUMENTS) != 0) return 3;
  return fwrite(p[count - 1], 1, sizes[count - 1], stdout) == sizes[count - 1] ? 0 : 4;
}
"""


def run_on_arm(
    func: PrimFunc, inputs: Sequence[np.ndarray], out: np.ndarray, target: Target, folder: Path
) -> tuple[np.ndarray, str]:
    """What `func`, called "kernel", writes to its last parameter (like `out`), and its assembly.
    Skips the test where the cross compiler or the emulator is missing."""
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    made = compile_text("kernel", llvm_ir(func, target), target, assembly=True)
    (folder / "kernel.o").write_bytes(made.object_code)
    arrays = [*inputs, out]
    parts = {
        "PARAMETERS": ", ".join(["void *"] * len(arrays)),
        "SIZES": ", ".join(str(array.nbytes) for array in arrays),
        "ARGUMENTS": ", ".join(f"p[{position}]" for position in range(len(arrays))),
    }
    source = _MAIN
    for name, text in parts.items():
        source = source.replace(name, text)
    (folder / "main.c").write_text(source)
    command = ["aarch64-linux-gnu-gcc", "-static", "main.c", "kernel.o", "-o", "run"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", "max", "./run"],
        cwd=folder,
        input=b"".join(array.tobytes() for array in inputs),
        stdout=subprocess.PIPE,
        check=True,
    )
    return np.frombuffer(done.stdout, out.dtype).reshape(out.shape), made.assembly
