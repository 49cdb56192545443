"""Stand-ins for what WASI lacks: threads run one after another, and asyncio waits by sleeping.

A thread runs to its end inside `start()`. Most programs that use threads to speed up independent work are right under
this rule. A thread that waits for a later step of another one can never go on, and is told so instead of hanging.
"""

import _thread
import asyncio
import asyncio.base_events
import builtins
import concurrent.futures
import concurrent.futures.thread
import queue
import sys
import threading
import time

import tracebacks

_WHY = (
    "deadlock: threads run one after another in this sandbox, each to its end inside start(), so nothing can end this "
    "wait. Start the threads in an order in which none waits for a later one, or use asyncio"
)


class Deadlock(RuntimeError):
    """A wait that cannot end. Shown as the RuntimeError that it is."""


Deadlock.__name__ = Deadlock.__qualname__ = "RuntimeError"
Deadlock.__module__ = "builtins"


# === locks ===


class _Lock:
    """`threading.Lock` for a program that has one thread: to wait for a held lock is to wait for ever."""

    __slots__ = ("__weakref__", "_held")

    def __init__(self):
        self._held = False

    def acquire(self, blocking=True, timeout=-1):
        if not self._held:
            self._held = True
            return True
        if not blocking:
            return False
        if timeout < 0:
            raise Deadlock(_WHY)
        time.sleep(timeout)
        return False

    def release(self):
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False

    def locked(self):
        return self._held

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


# === threads ===


def _start(self):
    if self._started.is_set():
        raise RuntimeError("threads can only be started once")
    self._started.set()
    me = threading.get_ident()
    outer = threading._active.get(me)
    threading._active[me] = self
    try:
        self.run()
    except Deadlock:
        raise
    except SystemExit:
        pass
    except BaseException:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
    finally:
        threading._active[me] = outer


def _join(self, timeout=None):
    if not self._started.is_set():
        raise RuntimeError("cannot join thread before it is started")
    if threading.current_thread() is self:
        raise RuntimeError("cannot join current thread")


def _is_alive(self):
    return threading.current_thread() is self


def _excepthook(args):
    print(f"Exception in thread {args.thread.name}:\n{tracebacks.text_of(args.exc_value)}", end="", file=sys.stderr)


def _start_new_thread(function, args, kwargs=None):
    threading.Thread(target=function, args=args, kwargs=kwargs).start()
    return threading.get_ident()


class _Executor(concurrent.futures.Executor):
    """`ThreadPoolExecutor` whose `submit()` runs the work at once."""

    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=(), **_):
        self._shut = False
        if initializer is not None:
            initializer(*initargs)

    def submit(self, function, /, *args, **kwargs):
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*args, **kwargs))
        except Deadlock:
            raise
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._shut = True


# === asyncio ===


class _Sleeper:
    """The event loop's selector: no socket can become ready, so to select is to sleep until the next timer."""

    def select(self, timeout=None):
        if timeout is None:
            raise Deadlock("deadlock: every task waits for another one, and no timer is left that could end it")
        if timeout > 0:
            time.sleep(timeout)
        return []

    def close(self):
        pass


class _EventLoop(asyncio.base_events.BaseEventLoop):
    def __init__(self):
        super().__init__()
        self._selector = _Sleeper()

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def run_in_executor(self, executor, function, *args):
        return asyncio.wrap_future((executor or _Executor()).submit(function, *args), loop=self)

    async def shutdown_default_executor(self, timeout=None):
        pass


def install():
    """Puts the stand-ins in place."""
    threading.Lock = threading._allocate_lock = _thread.allocate_lock = _Lock
    threading.Thread.start = _start
    threading.Thread.join = _join
    threading.Thread.is_alive = _is_alive
    _thread.start_new_thread = _start_new_thread
    threading.excepthook = _excepthook
    # The C version waits where no stand-in can see it.
    queue.SimpleQueue = queue._PySimpleQueue
    concurrent.futures.thread.ThreadPoolExecutor = concurrent.futures.ThreadPoolExecutor = _Executor
    concurrent.futures.ProcessPoolExecutor = _Executor
    asyncio.new_event_loop = asyncio.events.new_event_loop = _EventLoop
    # Normally made by `site`, which an embedded interpreter does not import.
    builtins.exit = builtins.quit = sys.exit
