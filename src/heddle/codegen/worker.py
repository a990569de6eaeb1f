# SPDX-License-Identifier: Apache-2.0
"""A process that turns LLVM IR into object code: `python -m heddle.codegen.worker`.

Errors of LLVM's back end end the process that runs it, and LLVM's Python binding holds one lock, so
code is generated in workers: a crash becomes an error message, and two cores compile two kernels.

Messages on stdin and stdout are an eight-byte length and a pickle; see `Request` and `Reply`.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from typing import IO, Any, NamedTuple

from heddle.codegen.llvm.optimize import Machine, compile_ir


class Request(NamedTuple):
    """One module to compile."""

    text: str
    machine: Machine
    vectorize: bool
    assembly: bool


Reply = tuple[tuple[bytes, str, float] | None, str]
"""What became of it: the fields of `Compiled`, or None and an error. Plain tuples, because this
module has another name in the worker."""


def write_message(stream: IO[bytes], message: object) -> None:
    """Send one framed message."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def read_message(stream: IO[bytes]) -> Any:
    """The next framed message, or None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    data = stream.read(size)
    return None if len(data) < size else pickle.loads(data)


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    while (request := read_message(source)) is not None:
        reply: Reply
        try:
            made = compile_ir(
                request.text,
                request.machine,
                vectorize=request.vectorize,
                assembly=request.assembly,
            )
            reply = (tuple(made), "")
        except RuntimeError as error:
            reply = (None, str(error) or type(error).__name__)
        write_message(sink, reply)


def main() -> None:
    """Serve on the process's own stdin and stdout; whatever else prints goes to stderr."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
