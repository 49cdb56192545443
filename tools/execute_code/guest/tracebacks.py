"""What a program's author gets to read when it fails: the traceback of their own lines, and a hint where one helps."""

import os
import traceback

import hints
import memory_stdlib

# Frames of the standard library and of this guest: their lines cannot be shown, and the fault is seldom there.
_HIDDEN = (memory_stdlib.ROOT, "<frozen ", os.path.dirname(__file__) + "/")


class _Stack(traceback.StackSummary):
    """Formats equal frames once: a recursion has a thousand of them, at 0.5 ms each (measured)."""

    def format_frame_summary(self, frame, **options):
        known = self.__dict__.setdefault("known", {})
        key = frame.filename, frame.lineno, frame.name, frame.colno, frame.end_colno
        if key not in known:
            known[key] = super().format_frame_summary(frame, **options)
        return known[key]


def text_of(error):
    """The traceback as text. Never raises."""
    try:
        report = traceback.TracebackException.from_exception(error, lookup_lines=False, compact=True)
        _keep_own_frames(report)
        text = "".join(report.format())
        hint = hints.hint_for(error)
        return f"{text}{hint}\n" if hint else text
    except BaseException as second:
        # An exception's own __str__ may fail, or there is no memory left to format it with.
        return f"(its traceback could not be made: {type(second).__name__})\n{_last_line(error)}\n"


def _last_line(error):
    try:
        return traceback.format_exception_only(error)[-1].rstrip("\n")
    except BaseException:
        return type(error).__name__


def _keep_own_frames(report):
    # Not by recursion: a chain may have more exceptions than the stack has room for.
    waiting, seen = [report], set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        own = [frame for frame in part.stack or () if not frame.filename.startswith(_HIDDEN)]
        # No stack at all leaves out the line "Traceback (most recent call last)" too: so syntax errors look.
        part.stack = _Stack(own) if own else None
        waiting += [part.__cause__, part.__context__, *(part.exceptions or ())]
