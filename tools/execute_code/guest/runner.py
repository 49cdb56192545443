"""Runs programs as Python's prompt does: the value of a trailing expression is the result, and names stay.

Everything at module level happens when the component is made, and `wake` when the host makes its image of it. A new
interpreter starts from that image; what must differ from one to the next is made by its first run.
"""

import ast
import asyncio
import builtins
import collections
import gc
import inspect
import json
import linecache
import os
import random
import sys
import types

import event_loop
import key_derivation
import memory_stdlib
import pools
import refusals
import streams
import threads
import tracebacks
import wit_world
from wit_world import Channel, Ending

# Holds the value of the trailing expression while the program ends.
_VALUE = "__value of the last expression__"

# A program's own modules may have these names.
OWN_MODULES = (
    "event_loop", "hints", "key_derivation", "memory_stdlib", "package_data", "pools", "refusals", "runner", "streams",
    "threads", "tracebacks",
)  # fmt: skip


def _new_main():
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    return main


_main = _new_main()
_runs = 0
_texts = collections.deque()
# The recursion limit for which all is prepared that programs can change; None when one may have changed it.
_prepared_for = None
_set_recursion_limit = sys.setrecursionlimit
_builtins = vars(builtins)
_BUILTINS = dict(_builtins)
# Of the default policy. With another limit, a run takes 20 µs longer (measured).
_USUAL_RECURSION = 10_000
# Programs whose text is kept for tracebacks. Each one that stays pins memory that a session would have to park. Chosen.
_TEXTS_MAX = 32
# `random` takes 2.5 KB of the host's random numbers where these bits do.
_SEED_BYTES = 32


class WitWorld(wit_world.WitWorld):
    def wake(self):
        global _runs
        # Left over from the making of the image.
        os.environ.clear()
        sys.argv = ["main.py"]
        # As at the prompt: modules are also looked for in the current directory.
        sys.path[:] = [""]
        os.chdir("/workspace")
        for name in OWN_MODULES:
            del sys.modules[name]
        # What a first run of anything leaves behind is then part of the image. The host is not listening yet.
        self.run("print(0)\n0", "{}", 1000)
        self.run("0 / 0", "{}", 1000)
        linecache.cache.clear()
        _texts.clear()
        _runs = 0
        _prepare(_USUAL_RECURSION)
        gc.collect()
        gc.freeze()

    def run(self, source, arguments, recursion):
        global _runs, _prepared_for
        if _runs == 0:
            # All interpreters begin with the same memory.
            random.seed(int.from_bytes(os.urandom(_SEED_BYTES)))
        _runs += 1
        if recursion != _prepared_for:
            _prepare(recursion)
        _prepared_for = None
        if arguments is None:
            main = _main
        else:
            main = _new_main()
            main.__dict__["arguments"] = json.loads(arguments)
        sys.modules["__main__"] = main
        try:
            value = _run(source, f"<call {_runs}>", main.__dict__)
            if value is not None:
                streams.send(Channel.VALUE, repr(value))
            return Ending.COMPLETED
        except SystemExit as end:
            return _exited(end.code)
        except BaseException as error:
            streams.send(Channel.ERROR, tracebacks.text_of(error))
            return Ending.RAISED
        finally:
            streams.flush()
            sys.modules["__main__"] = _main


def _prepare(recursion):
    """Gives a program what an earlier one may have put away."""
    global _prepared_for
    _bound_recursion(recursion)
    streams.attach()
    _prepared_for = recursion


def _bound_recursion(most):
    set_limit = _set_recursion_limit

    def setrecursionlimit(limit, /):
        """Sets the maximum depth of the Python interpreter stack, as far as the sandbox's policy allows."""
        set_limit(min(limit, most))

    set_limit(min(sys.getrecursionlimit(), most))
    sys.setrecursionlimit = setrecursionlimit


def _run(source, name, scope):
    # Tracebacks and `inspect.getsource` find the text here, for functions of some earlier calls as well.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    _texts.append(name)
    if len(_texts) > _TEXTS_MAX:
        linecache.cache.pop(_texts.popleft(), None)
    code = _expression(source, name) or _statements(source, name)
    with threads.Program():
        try:
            result = eval(code, scope)
            if code.co_flags & inspect.CO_COROUTINE:
                result = asyncio.run(result)
        finally:
            _bring_back_builtins()
    # Of statements, the result is None.
    return scope.pop(_VALUE, result)


def _expression(source, name):
    """A program that is one expression. Not by its syntax tree: to make one takes 100 µs longer (measured)."""
    if "\n" in source.rstrip("\n") or ";" in source or source[:1].isspace():
        return None
    try:
        return compile(source, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError:
        return None


def _statements(source, name):
    """Any program. Its last expression's value is put under a name."""
    tree = compile(source, name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body[-1]
        target = ast.copy_location(ast.Name(_VALUE, ast.Store()), last)
        tree.body[-1] = ast.copy_location(ast.Assign([target], last.value), last)
    return compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def _bring_back_builtins():
    # Without those that a program has removed nothing of what follows would work. No line here needs one.
    if _BUILTINS.keys() <= _builtins.keys():
        return
    for name in _BUILTINS:
        if name not in _builtins:
            _builtins[name] = _BUILTINS[name]


def _exited(code):
    if code is None or code == 0:
        return Ending.COMPLETED
    streams.send(Channel.ERROR, f"SystemExit: {code}\n")
    return Ending.RAISED


memory_stdlib.take()
threads.install()
pools.install()
event_loop.install()
refusals.install()
key_derivation.install()
# Normally made by `site`, which an embedded interpreter does not import.
builtins.exit = builtins.quit = sys.exit
# The limit guards servers against slow conversions; here the clock does.
sys.set_int_max_str_digits(0)
# One run of everything, so that its caches are warm in the image. It prints nothing: there is no host yet.
_run("def f(x):\n    return [x]\nawait asyncio.sleep(0)\nf(1)", "<warm>", {"asyncio": asyncio})
try:
    _run("0 / 0", "<warm>", {})
except ZeroDivisionError as error:
    tracebacks.text_of(error)
linecache.cache.clear()
_texts.clear()
gc.collect()
gc.freeze()
