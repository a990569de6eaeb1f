# SPDX-License-Identifier: Apache-2.0
"""Writes the C header of a model: one file that a C or C++ program includes, and nothing else."""

from __future__ import annotations

import re

from heddle.runtime.info import ModelInfo, TensorInfo
from heddle.runtime.toolchain import CRT, c_identifier


def _described(role: str, tensors: tuple[TensorInfo, ...]) -> list[str]:
    lines = [f" * {role}:"]
    for index, tensor in enumerate(tensors):
        lines.append(f" *   {index}  {tensor}".replace("*/", "* /"))
    return lines if tensors else [f" * {role}: none"]


def _embedded(file_name: str) -> str:
    """A header of the runtime without its license line and its own includes of the runtime."""
    text = (CRT / file_name).read_text()
    text = re.sub(r"^/\* SPDX.*\n", "", text)
    return re.sub(r'^#include "heddle_dlpack.h"\n', "", text, flags=re.MULTILINE)


def c_header(model: ModelInfo) -> str:
    """The text of `<name>.h`: what the model takes and gives, and the functions to call.

    Self-contained C99 and C++; DLPack's structures are in it unless the program has dlpack.h.
    """
    name = c_identifier(model.name)
    guard = f"HEDDLE_MODEL_{name.upper()}_H_"
    ranges = [f" *   {symbol}  {low} to {high}" for symbol, (low, high) in model.symbols.items()]
    comment = [
        f"/* The model `{model.name}`, compiled by Heddle.".replace("*/", "* /"),
        " *",
        *_described("Inputs, in this order", model.inputs),
        *_described("Outputs, in this order", model.outputs),
        *([" * Symbolic dimensions:", *ranges] if ranges else []),
        " *",
        f" * {name}_run(inputs, {len(model.inputs)}, outputs, {len(model.outputs)}) returns 0,",
        f" * or nonzero after setting the message that {name}_last_error() gives.",
        " */",
    ]
    prototypes = f"""\
/* The functions above under the name of this model, for programs that link several models. */
#ifdef __cplusplus
extern "C" {{
#endif
int32_t {name}_run(const DLTensor *const *inputs, int32_t num_inputs, DLTensor *const *outputs,
                   int32_t num_outputs);
int32_t {name}_infer_shapes(const DLTensor *const *inputs, int32_t num_inputs, int64_t *dims,
                            int32_t capacity);
const char *{name}_last_error(void);

enum {{ {name}_NUM_INPUTS = {len(model.inputs)}, {name}_NUM_OUTPUTS = {len(model.outputs)} }};
#ifdef __cplusplus
}}
#endif
"""
    return "\n".join(
        [
            *comment,
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            _embedded("heddle_dlpack.h"),
            _embedded("heddle_rt.h"),
            prototypes,
            f"#endif /* {guard} */",
            "",
        ]
    )
