# SPDX-License-Identifier: Apache-2.0
"""Libraries as files: linking, exporting, other languages, several in one process, fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from heddle.runtime import Executable, load, toolchain
from heddle.runtime.toolchain import crt_objects, find_toolchain, link_shared
from heddle.support.errors import UserError

from .conftest import CONSTANTS, HERE, check, compile_model, random_inputs

X, Y = random_inputs(100)


def run_python(code: str, **environment: str) -> str:
    """Runs a program in a fresh interpreter; its output."""
    path = os.pathsep.join(filter(None, ["src", os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=HERE.parents[1],
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_export_and_load(exe: Executable, tmp_path: Path) -> None:
    exported = exe.export_library(tmp_path / "model.so")
    loaded = load(exported)
    check(loaded(X, Y, 3), X, Y, 3)
    again = load(loaded.export_library(tmp_path / "again.so"))
    check(again(X, Y, 3), X, Y, 3)
    assert loaded.metadata["kernels"][0]["name"] == "multiply_add"
    assert sorted(os.listdir(tmp_path)) == ["again.so", "fake.so", "model.so"]


def test_a_replaced_file_is_loaded_anew(model_object: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    for factor in (1, 2, 3):
        link_shared([model_object], path, constants=CONSTANTS * factor)
        z, _ = load(path)(X, Y, 1)
        np.testing.assert_allclose(z.numpy(), X + Y * CONSTANTS * factor, rtol=1e-6, atol=1e-6)


def test_any_path_is_linked_into(model_object: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a, \"b\" 'c' \\ $d"
    folder.mkdir()
    z, _ = load(link_shared([model_object], folder / "m,n.so", constants=CONSTANTS))(X, Y, 1)
    np.testing.assert_allclose(z.numpy(), X + Y * CONSTANTS, rtol=1e-6, atol=1e-6)


def test_files_that_cannot_be_written(exe: Executable, exported: Path, tmp_path: Path) -> None:
    for executable in (exe, load(exported)):
        with pytest.raises(UserError, match=r"cannot write .*missing"):
            executable.export_library(tmp_path / "missing" / "model.so")
        with pytest.raises(UserError, match="is a directory"):
            executable.export_library(tmp_path)
        with pytest.raises(UserError, match="cannot write"):
            executable.write_header("/proc/model.h")


def test_a_full_disk_leaves_the_old_file(exported: Path, tmp_path: Path) -> None:
    old = tmp_path / "model.so"
    old.write_bytes(b"old")
    message = run_python(
        f"""
import resource, signal
from heddle.runtime import load
from heddle.runtime.toolchain import link_shared
from heddle.support.errors import UserError
exe = load({str(exported)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
objects = [{str(exported.with_suffix(".o"))!r}]
for write in (exe.export_library, lambda out: link_shared(objects, out, constants=bytes(10000)),
              lambda out: link_shared(objects, out, constants=bytes(1000))):
    try:
        write({str(old)!r})
    except UserError as error:
        print(type(error).__name__)
"""
    )
    assert message.split() == ["UserError"] * 3
    assert old.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.so"]


def test_c_program_without_python(exported: Path, tmp_path: Path) -> None:
    load(exported).write_header(tmp_path / "fake.h")
    program = tmp_path / "program"
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    compiler = find_toolchain().command
    subprocess.run(
        [*compiler, *strict, HERE / "use_model.c", f"-I{tmp_path}", exported, "-o", program],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    expected = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]) + np.array([[1], [2]]) * CONSTANTS
    assert done.stdout.splitlines() == [
        f"2x4 {expected[0, 0]:g} {expected[1, 3]:g} {expected.sum() * 10:g}",
        "fake: input `x`: dtype is float64, expected float32",
    ]


def test_python_with_tvm_ffi_only(exported: Path) -> None:
    pytest.importorskip("tvm_ffi")
    output = run_python(
        f"""
import sys, numpy as np, tvm_ffi
module = tvm_ffi.load_module({str(exported)!r})
x = np.arange(8, dtype=np.float32).reshape(2, 4)
z, total = np.empty_like(x), np.empty((), np.float32)
wrap = tvm_ffi.from_dlpack
for scale in (np.array(3), 3):
    z[:] = 0
    module["main"](x, x, scale, z, total)
    print(z[1].tolist(), float(total))
print("multiply_add" in module["metadata"]())
for bad in (
    (x, x),
    (x, x, 3, z, z),
    (x, x[:1], 3, z, total),
    (x, x, 1.5, z, total),
    (x, None, 3, z, total),
):
    try:
        module["main"](*bad)
    except Exception as error:
        print(type(error).__name__, error)
print(any(name.startswith("heddle") for name in sys.modules))
"""
    )
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    z = x + x * CONSTANTS
    lines = output.splitlines()
    assert lines[:2] == [f"{z[1].tolist()} {float(z.sum() * 3)}"] * 2
    assert lines[2] == "True"
    assert lines[-1] == "False"
    assert lines[3].startswith("TypeError fake: got 2 arguments, expected 3 inputs followed by 2")
    assert lines[4].startswith("ValueError fake: output `total`: has 2 dimensions, expected 0")
    assert lines[5].startswith("ValueError fake: input `y`: dimension 0 is 1, expected 2")
    assert lines[6].startswith("TypeError fake: input `scale`: got a float, expected a tensor")
    assert lines[7].startswith("TypeError fake: input `y`: expected a tensor, got None")


def test_two_libraries_share_one_pool(exported: Path, tmp_path: Path) -> None:
    other = compile_model(tmp_path / "other.o", '-DMODEL_NAME="other"')
    link_shared([other], tmp_path / "other.so", constants=CONSTANTS)
    output = run_python(
        f"""
import gc, os
import numpy as np
from heddle.runtime import load
x = np.ones((50000, 4), np.float32)
first = load({str(tmp_path / "other.so")!r})
first.set_num_threads(4)
before = first(x, x, 1)[1].item()
threads = len(os.listdir("/proc/self/task"))
second = load({str(exported)!r})
print(second.num_threads, second(x, x, 1)[1].item() == before)
print(len(os.listdir("/proc/self/task")) == threads)
del first                     # the workers run its code: it must stay
gc.collect()
for _ in range(100):
    second(x, x, 1)
print(second.name, second(x, x, 1)[1].item() == before)
""",
        OPENBLAS_NUM_THREADS="1",
    )
    assert output.splitlines() == ["4 True", "True", "fake True"]


def test_every_library_that_started_workers_stays(exported: Path, tmp_path: Path) -> None:
    """Of two, the second one makes the pool larger and goes: its worker still runs its code."""
    other = compile_model(tmp_path / "other.o", '-DMODEL_NAME="other"')
    link_shared([other], tmp_path / "other.so", constants=CONSTANTS)
    output = run_python(
        f"""
import gc, time
import numpy as np
from heddle.runtime import load
x = np.ones((50000, 4), np.float32)
first = load({str(exported)!r})
first.set_num_threads(2)
before = first(x, x, 1)[1].item()
second = load({str(tmp_path / "other.so")!r})
second.set_num_threads(3)
second(x, x, 1)
del second
gc.collect()
time.sleep(0.05)              # its worker has parked, or is about to
print(all(first(x, x, 1)[1].item() == before for _ in range(100)))
"""
    )
    assert output == "True"


def test_two_models_in_the_global_scope(exported: Path, tmp_path: Path) -> None:
    other = compile_model(tmp_path / "other.o", '-DMODEL_NAME="other"')
    link_shared([other], tmp_path / "other.so", constants=CONSTANTS * 2)
    output = run_python(
        f"""
import ctypes
import numpy as np
for path in ({str(exported)!r}, {str(tmp_path / "other.so")!r}):
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
from heddle.runtime import load
for path in ({str(exported)!r}, {str(tmp_path / "other.so")!r}):
    exe = load(path)
    x = np.ones((2, 4), np.float32)
    print(exe.name, exe(x, x, 1)[0].numpy()[0].tolist())
"""
    )
    assert output.splitlines() == [
        f"fake {(1 + CONSTANTS).tolist()}",
        f"other {(1 + CONSTANTS * 2).tolist()}",
    ]


def test_fork(exported: Path) -> None:
    output = run_python(
        f"""
import os
import numpy as np
from heddle.runtime import load
exe = load({str(exported)!r})
exe.set_num_threads(3)
x = np.ones((50000, 4), np.float32)
expected = exe(x, x, 1)[1].item()
child = os.fork()
right = all(exe(x, x, 1)[1].item() == expected for _ in range(20))
if child == 0:
    threads = len(os.listdir("/proc/self/task"))
    os._exit(0 if right and threads >= 3 else 1)
print(right, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert output == "True 0"


def test_number_of_threads_comes_from_the_environment(exported: Path) -> None:
    code = f"from heddle.runtime import load; print(load({str(exported)!r}).num_threads)"
    available = str(len(os.sched_getaffinity(0)))
    assert run_python(code, HEDDLE_NUM_THREADS="5") == "5"
    for text in ("", "zero", "0", "-3"):
        assert run_python(code, HEDDLE_NUM_THREADS=text) == available


def test_crt_is_compiled_once_and_by_several_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDDLE_CACHE_DIR", str(tmp_path))
    code = "from heddle.runtime.toolchain import crt_objects; print(*crt_objects())"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": "src"}
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1], env=environment
        )
        for _ in range(3)
    ]
    outputs = {process.communicate()[0] for process in running}
    assert len(outputs) == 1
    assert all(process.returncode == 0 for process in running)
    objects = crt_objects()
    assert [str(path) for path in objects] == outputs.pop().split()
    assert len(os.listdir(tmp_path)) == 1
    stamps = [path.stat().st_mtime_ns for path in objects]
    assert [path.stat().st_mtime_ns for path in crt_objects()] == stamps


def test_unusable_cache_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_object: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEDDLE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    toolchain._fallback_directory.cache_clear()
    with pytest.warns(UserWarning, match="cannot write the cache"):
        first = crt_objects()
    second = crt_objects()  # pytest makes a second warning an error
    exe = load(link_shared([model_object], tmp_path / "m.so", constants=CONSTANTS))
    assert first == second
    check(exe(X, Y, 1), X, Y, 1)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEDDLE_CC", "no-such-compiler")
    with pytest.raises(UserError, match="HEDDLE_CC=no-such-compiler: not a C compiler"):
        find_toolchain()
    monkeypatch.delenv("HEDDLE_CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no C compiler found.*apt install gcc"):
        find_toolchain()


@pytest.mark.parametrize("flags", [(), ("-fsanitize=undefined", "-fno-sanitize-recover")])
def test_pool_alone(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = tmp_path / "pool_bench"
    sources = [toolchain.CRT / f"{name}.c" for name in ("threadpool", "error", "profile")]
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [*find_toolchain().command, "-std=c11", "-O2", "-D_GNU_SOURCE", *warnings, *flags]
    subprocess.run(
        [*command, HERE / "pool_bench.c", *sources, "-lpthread", "-o", program], check=True
    )
    for threads in ("1", "2", "5"):
        done = subprocess.run([program, threads, "0.1"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "stress passed" in done.stdout
