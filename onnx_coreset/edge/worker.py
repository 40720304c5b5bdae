"""A process that works for another one: calls come in on its standard input, results go out on its standard output.

A message is its length, eight bytes, and a pickle. The process ends when its input does. Whatever libraries print goes
nowhere.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from typing import IO, Any

__all__ = ["ENTRY", "main", "receive", "send"]

ENTRY = "import sys; sys.path[:] = sys.argv[1:]; from onnx_coreset.edge.worker import main; main()"
"""What Python is told to run; its arguments are the places where modules are found."""

_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message.

    Raises:
        OSError: Nobody reads.
        Exception: Whatever pickle says of a message that it cannot take; then nothing was written.
    """
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: The other side ended.
    """
    head = stream.read(_LENGTH.size)
    data = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    if not data:
        raise EOFError
    return pickle.loads(data)


def main() -> None:
    """Answer calls until there are no more."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    while True:
        try:
            function, arguments = receive(source)
        except EOFError:
            return
        except Exception as error:  # what came cannot be read here: a module is missing, say
            answer: tuple[bool, Any] = False, RuntimeError(f"{type(error).__name__}: {error}")
        else:
            try:
                answer = True, function(*arguments)
            except BaseException as error:
                answer = False, error
        try:
            send(target, answer)
        except OSError:
            return
        except Exception as error:
            send(target, (False, RuntimeError(f"{type(error).__name__}: {error}")))
