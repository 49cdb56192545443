"""stdout and stderr that go to the host line by line, and a stdin that has nobody at its other end."""

import builtins
import io
import sys

import refusals
import wit_world
from wit_world import Channel

# Bytes of one message to the host. Chosen: large enough that the call costs nothing beside the copy.
CHUNK_BYTES_MAX = 64 * 1024


class _Raw(io.RawIOBase):
    def __init__(self, channel):
        self._channel = channel

    def writable(self):
        return True

    def write(self, data):
        # A raw stream may take less than it is given: the buffer above comes again with the rest.
        chunk = bytes(memoryview(data).cast("B")[:CHUNK_BYTES_MAX])
        wit_world.emit(self._channel, chunk)
        return len(chunk)


def _text_stream(channel):
    # Lines, not blocks: what a program has printed must be with the host when the program is stopped.
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(channel)), encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True
    )


_stdout = _text_stream(Channel.STDOUT)
_stderr = _text_stream(Channel.STDERR)


class _Nobody(io.StringIO):
    """Standard input at its end, which knows whether it was read."""

    asked = False

    def read(self, size=-1, /):
        self.asked = True
        return ""

    def readline(self, size=-1, /):
        self.asked = True
        return ""

    def __next__(self):
        self.asked = True
        raise StopIteration


def _input(prompt="", /):
    print(prompt, end="", flush=True)
    raise EOFError(f"input() {refusals.NOBODY}")


def attach():
    """Gives the program its streams, whatever an earlier one has put in their place."""
    sys.stdout = sys.__stdout__ = _stdout
    sys.stderr = sys.__stderr__ = _stderr
    sys.stdin = sys.__stdin__ = _Nobody()
    builtins.input = _input


def was_asked():
    """Whether the program has read its standard input."""
    return getattr(sys.__stdin__, "asked", False)


def flush():
    """Sends what is still unsent."""
    for stream in (sys.stdout, _stdout, sys.stderr, _stderr):
        try:
            stream.flush()
        except Exception:  # A program may have closed them or put anything in their place.
            pass


def send(channel, text):
    """Sends a whole text."""
    data = text.encode("utf-8", "backslashreplace")
    for start in range(0, len(data), CHUNK_BYTES_MAX):
        wit_world.emit(channel, data[start : start + CHUNK_BYTES_MAX])
