"""stdout and stderr that go to the host line by line, and a stdin that has nobody at its other end."""

import builtins
import io
import sys
from codecs import utf_8_decode

import refusals
import wit_world
from wit_world import Channel

# Bytes of one message to the host. Chosen: large enough that the call costs nothing beside the copy.
CHUNK_BYTES_MAX = 64 * 1024


class _Raw(io.RawIOBase):
    def __init__(self, channel):
        self._channel = channel
        # Bytes of a character that was begun and not ended.
        self._rest = b""

    def writable(self):
        return True

    def write(self, data):
        # A raw stream may take less than it is given: the buffer above comes again with the rest.
        chunk = bytes(memoryview(data).cast("B")[:CHUNK_BYTES_MAX])
        data = self._rest + chunk
        text, used = utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        wit_world.emit(self._channel, text)
        return len(chunk)

    def end(self):
        """Sends the character that was begun and not ended, if there is one."""
        if self._rest:
            wit_world.emit(self._channel, self._rest.decode(errors="replace"))
            self._rest = b""


def _text_stream(raw):
    # Lines, not blocks: what a program has printed must be with the host when the program is stopped.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True
    )


_raws = _Raw(Channel.STDOUT), _Raw(Channel.STDERR)
_stdout, _stderr = map(_text_stream, _raws)


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
    for raw in _raws:
        raw.end()


def send(channel, text):
    """Sends a whole text."""
    # A character has at most four bytes.
    size = CHUNK_BYTES_MAX // 4
    for start in range(0, len(text), size):
        wit_world.emit(channel, text[start : start + size].encode("utf-8", "backslashreplace").decode())
