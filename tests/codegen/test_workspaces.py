# SPDX-License-Identifier: Apache-2.0
"""The memory of buffers inside kernels is kept between calls, and never handed out twice."""

from __future__ import annotations

import ctypes
import itertools
import threading

from heddle.codegen.services import service_addresses

_ALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def alloc(size: int, alignment: int = 64) -> int:
    return _ALLOC(service_addresses()["hd_alloc"])(size, alignment)


def free(pointer: int | None) -> None:
    _FREE(service_addresses()["hd_free"])(pointer)


def test_what_was_freed_is_used_again() -> None:
    first = alloc(3 << 20)
    free(first)
    second = alloc(3 << 20)
    assert second == first
    assert second % 64 == 0
    free(second)


def test_blocks_in_use_are_apart_and_writable() -> None:
    sizes = [1, 100, 70_000, 2 << 20, 5 << 20]
    taken = [(alloc(size), size) for size in sizes]
    spans = sorted((start, start + size) for start, size in taken)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for start, size in taken:
        ctypes.memset(start, 7, size)
    for start, _ in taken:
        free(start)


def test_a_small_buffer_leaves_the_large_blocks_alone() -> None:
    small, large = alloc(1 << 16), alloc(8 << 20)
    free(small)
    free(large)
    taken = alloc(1 << 15)
    assert taken != large
    assert alloc(8 << 20) == large
    free(taken)
    free(large)


def test_threads_never_share_a_block() -> None:
    clashes: list[int] = []

    def work(mark: int) -> None:
        for _ in range(200):
            pointer = alloc(4096)
            ctypes.memset(pointer, mark, 4096)
            held = ctypes.string_at(pointer, 4096)
            if held != bytes([mark]) * 4096:
                clashes.append(mark)
            free(pointer)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes


def test_null_is_accepted() -> None:
    free(None)
