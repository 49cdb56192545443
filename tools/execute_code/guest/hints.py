"""One more line under a traceback, where it can say what to do instead."""

import os
import signal
import sys

import refusals
import streams

_NETWORK = f"({refusals.NETWORK})"
_PROCESSES = f"({refusals.PARALLEL})"
_NATIVE = "(this sandbox runs no native code: Python's own bytes, bytearray, array and struct can do)"
_MAPPING = "(this sandbox maps no files into memory: read them, whole or in pieces)"
_COMPRESSION = "(of Python's compressions the sandbox has zlib, gzip and zipfile's ZIP_DEFLATED)"
_SCREEN = "(the sandbox has no screen and no terminal: print text, or write SVG or HTML as text)"
_SYSTEM = "(the sandbox has no users, terminals or limits of an operating system; os and platform tell what there is)"
_INSTALLING = f"({refusals.INSTALLING})"
_LACKS = "(the sandbox lacks this module of the standard library)"
_NOTEBOOK = "(this is a program, not a notebook: no lines with ! or %; nothing can be installed, and there is no shell)"
_NO_INPUT = "(sys.stdin is empty: this program runs without a user, so write its inputs into it)"
_RUNNING_LOOP = "(the program awaits at top level, so its loop runs already: write `await f()` instead)"

# Missing modules by their first word, and what to do instead.
_INSTEAD = {
    "bz2 lzma zstandard zstd": _COMPRESSION,
    "cffi ctypes": _NATIVE,
    "mmap": _MAPPING,
    "aiohttp boto3 ftplib httpx psycopg2 pymongo redis requests selenium ssl urllib3": _NETWORK,
    "interpreters joblib multiprocessing posixshmem ray": _PROCESSES,
    "curses idlelib msvcrt pygame readline termios tkinter tty turtle": _SCREEN,
    "fcntl grp pwd resource syslog winreg": _SYSTEM,
    "conda ensurepip pip setuptools venv": _INSTALLING,
    "numpy scipy": "math, cmath, statistics, fractions, random, array and lists",
    "pandas polars": "csv, sqlite3, statistics and collections",
    "PIL cv2 matplotlib plotly seaborn": "text, or SVG or HTML written as text",
    "dateutil pytz": "datetime and zoneinfo",
    "bs4 lxml": "html.parser and xml.etree.ElementTree",
    "ruamel toml yaml": "json, tomllib and configparser",
    "sympy mpmath": "fractions, decimal and math",
    "pytest": "unittest",
}
_INSTEAD = {module: text for modules, text in _INSTEAD.items() for module in modules.split()}


def hint_for(error):
    """The line, or None."""
    if isinstance(error, ModuleNotFoundError):
        return _for_module(error.name or "")
    if isinstance(error, SyntaxError):
        return _NOTEBOOK if (error.text or "").lstrip().startswith(("!", "%")) else None
    if isinstance(error, AttributeError) and error.obj is os:
        return _for_os(error.name or "")
    if isinstance(error, AttributeError) and error.obj is signal:
        return "(no signal and no alarm reaches a program in this sandbox: check time.monotonic(), or use asyncio.timeout)"
    if type(error) is RuntimeError and str(error).endswith(("called from a running event loop", "loop is already running")):
        return _RUNNING_LOOP
    if isinstance(error, (ValueError, IndexError, EOFError)) and streams.was_asked():
        return _NO_INPUT
    return None


def _for_os(name):
    if name.startswith(("exec", "fork", "kill", "pipe", "posix_spawn", "spawn", "wait")):
        return f"({refusals.PROCESSES})"
    return _SYSTEM if name.startswith(("ch", "get", "mk", "sched", "set", "sysconf")) else None


def _for_module(name):
    top = name.partition(".")[0]
    instead = _INSTEAD.get(top.lstrip("_"))
    if top in sys.stdlib_module_names:
        return instead or _LACKS
    if instead is None:
        return "(the sandbox has Python's standard library only, and nothing can be installed)"
    if instead.startswith("("):
        return instead
    return f"(the sandbox has Python's standard library only, and nothing can be installed; here, {instead} can do)"
