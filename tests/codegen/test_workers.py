# SPDX-License-Identifier: Apache-2.0
"""Worker processes: parallel compilation, one object per structure, crashes, other targets."""

from __future__ import annotations

import pytest

from heddle.codegen import compile_kernels
from heddle.codegen.kernels import compile_text
from heddle.codegen.machine import machine_of
from heddle.codegen.pool import WorkerPool
from heddle.codegen.worker import Request
from heddle.support import InternalError
from heddle.target import native, parse
from heddle.tir import intrin
from tests.codegen.kernels import elementwise_function

ELF_MACHINE = {"aarch64": 183, "x86_64": 62}


def test_equal_kernels_share_an_object() -> None:
    twice = elementwise_function(lambda x: x * 2.0, ["float32"], "float32", 40)
    again = elementwise_function(lambda x: x * 2.0, ["float32"], "float32", 40)
    other = elementwise_function(lambda x: x * 3.0, ["float32"], "float32", 40)
    funcs = [
        func.replace(attrs={"name": name})
        for func, name in ((twice, "twice"), (again, "again"), (other, "other"))
    ]
    made = compile_kernels(funcs, native(), use_cache=False)
    assert list(made) == ["twice", "again", "other"]
    assert made["twice"].symbol == made["again"].symbol != made["other"].symbol
    assert made["twice"].object_code is made["again"].object_code
    assert made["other"].symbol.encode() in made["other"].object_code


@pytest.mark.parametrize("text", ["-mtriple=aarch64-linux-gnu", "-mcpu=neoverse-n1", "haswell"])
def test_objects_for_other_machines(text: str) -> None:
    func = elementwise_function(intrin.exp, ["float16"], "float16", 100)
    target = parse(text)
    code = compile_kernels([func], target, use_cache=False)["kernel"].object_code
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == ELF_MACHINE[target.triple.split("-")[0]]


def test_a_crash_of_llvm_is_an_error_and_the_pool_goes_on() -> None:
    # an instruction that this machine does not have: the assembler ends the process
    crash = (
        'define void @f() {\n  call void asm sideeffect "no_such_instruction", ""()\n  ret void\n}'
    )
    good = "define i32 @g() {\n  ret i32 7\n}"
    pool = WorkerPool(1)
    try:
        with pytest.raises(InternalError, match="kernel `bad`: LLVM"):
            pool.submit("bad", Request(crash, machine_of(native()), False, False)).result(60)
        with pytest.raises(InternalError, match="kernel `ugly`: LLVM refused it"):
            pool.submit("ugly", Request("nonsense", machine_of(native()), False, False)).result(60)
        made = pool.submit("good", Request(good, machine_of(native()), False, True)).result(60)
    finally:
        pool.close()
    assert "movl\t$7, %eax" in made.assembly


def test_compile_text_gives_assembly() -> None:
    text = "define i32 @g() {\n  ret i32 7\n}"
    assert "g:" in compile_text("g", text, parse("-mcpu=cortex-a72"), assembly=True).assembly


def test_the_second_time_comes_from_the_cache() -> None:
    func = elementwise_function(lambda x: x * 5.0, ["float32"], "float32", 41)
    first = compile_kernels([func], native())["kernel"]
    second = compile_kernels([func], native())["kernel"]
    assert (first.cached, second.cached) == (False, True)
    assert first.object_code == second.object_code
    assert not compile_kernels([func], parse("haswell"))["kernel"].cached
