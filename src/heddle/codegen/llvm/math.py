# SPDX-License-Identifier: Apache-2.0
from heddle.codegen.llvm.builder import ModuleBuilder
def elementary(module: ModuleBuilder, name: str, element: str, lanes: int) -> str:
    raise NotImplementedError
