"""Threads without threads: WASI has none, so they run one after another on the one stack that there is.

A started thread begins when another one waits (for a lock, a result, the end of a sleep or of the program), on top of
it. So a wait goes on only when all threads that began since then have ended. Most programs are right under this rule:
workers, pools, producers and consumers in any order. Two threads that take turns are not. A thread that waits on top of
one that could go on is stopped, and that is told; when none could go on, that is a deadlock and told instead of waited
for.
"""

import _thread
import asyncio
import atexit
import collections
import math
import queue
import sys
import threading
import time
import weakref

import _threading_local
import memory_stdlib
import tracebacks

# How deep threads may lie on top of each other for the sake of a sleep or of a wait with a time limit. Each takes five to
# seven of the 1000 frames that Python allows. Chosen.
DEPTH_MAX = 50

# How long a thread may go on sleeping while one beneath it could go on: longer than this, and it is likely to be the
# one beneath that it waits for. Chosen. Daemon threads need not be waited for.
OVERDUE_SECONDS_MAX = 3

# Methods that wait for another thread. Whoever uses one had better not begin on top of one that only sleeps. A word that
# means something else here (`dict.get`) costs no more than that: any order of threads is a right one.
_WAITING = {"acquire", "get", "join", "wait", "wait_for"}

_WHY = (
    "deadlock: threads run one after another in this sandbox: one begins when another waits, and that wait goes on only "
    "when the threads that began since then have ended, so nothing can end this one. Let threads end by themselves (a "
    "fixed number of rounds, a None in the queue), or use asyncio, whose tasks take turns"
)

_sleep_alone = time.sleep
_main_ident = _thread.get_ident()


class Deadlock(RuntimeError):
    """A wait that cannot end. Shown as the RuntimeError that it is."""


Deadlock.__name__ = Deadlock.__qualname__ = "RuntimeError"
Deadlock.__module__ = "builtins"


class _Stopped(BaseException):
    """Unwinds a thread, so that the one beneath it can go on: as if it never got another turn."""


# === waiting ===


class _Wait:
    """What a thread waits for while those above it run."""

    __slots__ = ("_deadline", "_is_over", "_over_since")

    def __init__(self, is_over, deadline):
        self._is_over = is_over
        self._deadline = math.inf if deadline is None else deadline
        self._over_since = None

    def due(self):
        """When it is, was or will be over, as far as that is known."""
        if self._over_since is None and self._is_over():
            self._over_since = time.monotonic()
        return self._deadline if self._over_since is None else min(self._over_since, self._deadline)


# Started, and not begun.
_pending = collections.deque()
# Of the threads that have begun and not ended: the outermost first, the running one not among them.
_waits = []
_running = threading.main_thread()
_newest_ident = _main_ident
# Those of which nobody has heard. Of a daemon thread it is told when the program waits again: without that, it is a thread
# that was still running when the program ended.
_stopped = []


def wait_until(is_over, deadline=None):
    """Lets other threads run until this is true or the time has come. Returns whether it is true."""
    if not is_over():
        _tell_stopped()
    while not is_over():
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            return False
        thread = _take_pending(deadline)
        if thread is not None:
            _begin(thread, _Wait(is_over, deadline))
            continue
        due = min((wait.due() for wait in _waits), default=math.inf)
        if due == math.inf and deadline is None:
            raise Deadlock(_WHY)
        grace = 0 if deadline is None or _running.daemon else OVERDUE_SECONDS_MAX
        if due + grace <= now:
            raise _Stopped
        _sleep_alone(min(due + grace, math.inf if deadline is None else deadline) - now)
    return True


def _take_pending(deadline):
    if deadline is not None and len(_waits) >= DEPTH_MAX:
        return None
    for thread in _pending:
        if not thread._waits:
            _pending.remove(thread)
            return thread
    return _pending.popleft() if _pending and deadline is None else None


def _uses_waits(function):
    code = getattr(function, "__code__", None)
    return code is not None and not code.co_filename.startswith(memory_stdlib.ROOT) and _WAITING & {*code.co_names}


def others():
    """Whether there are threads beside this one."""
    return bool(_pending or _waits)


def enqueue(thread, function):
    """Lets a thread begin when another one waits. It will call this function."""
    thread._waits = _uses_waits(function)
    _pending.append(thread)


def _begin(thread, wait):
    global _running
    outer, _running = _running, thread
    loop = asyncio._get_running_loop()
    task = loop and asyncio.tasks._swap_current_task(loop, None)
    asyncio._set_running_loop(None)
    _waits.append(wait)
    try:
        thread._context.run(thread.run)
    except Deadlock:
        raise
    except _Stopped:
        thread._os_thread_handle.stopped = True
        threading._active.pop(thread.ident, None)
        _stopped.append(thread)
        if not thread.daemon:
            _tell_stopped()
        return
    except SystemExit:
        pass
    except BaseException:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), thread)))
    finally:
        _waits.pop()
        _running = outer
        asyncio._set_running_loop(loop)
        if task:
            asyncio.tasks._swap_current_task(loop, task)
    thread._os_thread_handle.end(thread)


def _tell_stopped():
    for thread in _stopped:
        print(
            f"note: {thread.name} was stopped where it waited, and its remaining lines will not run: threads take no turns "
            "in this sandbox, and the one that it had interrupted had to go on. asyncio's tasks take turns",
            file=sys.stderr,
        )
    _stopped.clear()


def _sleep(seconds, /):
    # Who sleeps with a lock in hand lets nobody begin: that one might want the lock, and lie on top.
    if (_pending or _waits or _stopped) and _running._held <= 0:
        # Looks at the argument as well.
        _sleep_alone(0 * seconds)
        if seconds > 0:
            wait_until(lambda: False, time.monotonic() + seconds)
            return
    _sleep_alone(seconds)


# === what threading is made of ===


class _Signal:
    """What `threading.Condition` waits with: a lock that one thread takes and another one gives back."""

    __slots__ = ("__weakref__", "_held")

    def __init__(self):
        self._held = False

    def acquire(self, blocking=True, timeout=-1):
        if self._held:
            if not blocking:
                return False
            if not wait_until(self._is_free, None if timeout < 0 else time.monotonic() + timeout):
                return False
        self._held = True
        return True

    def release(self):
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False

    def locked(self):
        return self._held

    def _is_free(self):
        return not self._held

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


class _Lock(_Signal):
    """Known to be in its thread's hand."""

    __slots__ = ("_holder",)

    def acquire(self, blocking=True, timeout=-1):
        if self._held and not _Signal.acquire(self, blocking, timeout):
            return False
        self._held = True
        self._holder = _running
        _running._held += 1
        return True

    def release(self):
        _Signal.release(self)
        self._holder._held -= 1


class _ReentrantLock(threading._RLock):
    def __init__(self):
        super().__init__()
        self._block = _Lock()


def _counted(semaphore):
    """A semaphore is in the hand of who took it, too."""
    acquire, release = semaphore.acquire, semaphore.release

    def count_acquired(self, blocking=True, timeout=None):
        acquired = acquire(self, blocking, timeout)
        _running._held += acquired
        return acquired

    def count_released(self, n=1):
        release(self, n)
        _running._held -= n

    semaphore.acquire = semaphore.__enter__ = count_acquired
    semaphore.release = count_released


class Handle:
    """A thread as `threading.Thread` sees it."""

    def __init__(self):
        self.thread = None
        self.done = self.stopped = False

    def is_done(self):
        return self.done

    def end(self, thread):
        self.done = True
        threading._active.pop(thread.ident, None)

    def join(self, timeout=None):
        if self.stopped:
            _tell_stopped()
            self.done = True
        elif self.thread in _pending:
            _pending.remove(self.thread)
            _pending.appendleft(self.thread)
            self.thread._waits = False
        wait_until(self.is_done, None if timeout is None else time.monotonic() + timeout)


def _start(bootstrap, *, handle, daemon):
    global _newest_ident
    thread = bootstrap.__self__
    _newest_ident += 1
    thread._ident = _newest_ident
    thread._started.set()
    threading._active[thread._ident] = threading._limbo.pop(thread)
    handle.thread = thread
    enqueue(thread, thread._target if type(thread).run is threading.Thread.run else type(thread).run)


def _start_new_thread(function, args, kwargs=None):
    thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=False)
    thread.start()
    return thread.ident


def _get_ident():
    return _running.ident


def _excepthook(args):
    print(f"Exception in thread {args.thread.name}:\n{tracebacks.text_of(args.exc_value)}", end="", file=sys.stderr)


_put_waiting = queue.Queue.put


def _put(self, item, block=True, timeout=None):
    """A full queue takes more: its consumers run when somebody waits for them, and cannot take turns with producers."""
    if not block or timeout is not None or not (_pending or _waits):
        return _put_waiting(self, item, block, timeout)
    maxsize, self.maxsize = self.maxsize, 0
    try:
        return _put_waiting(self, item)
    finally:
        self.maxsize = maxsize


# === the end of a program ===

_at_exit = []


def _register(function, /, *args, **kwargs):
    _at_exit.append((function, args, kwargs))
    return function


def _unregister(function):
    _at_exit[:] = [call for call in _at_exit if call[0] != function]


class Program:
    """The time of one program: at its end those threads run that nobody has waited for."""

    def __enter__(self):
        pass

    def __exit__(self, kind, *_):
        try:
            if kind is None or issubclass(kind, SystemExit):
                wait_until(lambda: all(thread.daemon for thread in _pending))
        finally:
            for thread in _pending:
                Handle.end(thread._os_thread_handle, thread)
            _pending.clear()
            _stopped.clear()
            threading.main_thread()._held = 0
            while _at_exit:
                function, args, kwargs = _at_exit.pop()
                function(*args, **kwargs)


def install():
    """Puts the stand-ins in place."""
    threading.Lock = _thread.allocate_lock = _Lock
    threading._allocate_lock = _Signal
    threading.Thread._held = 0
    _counted(threading.BoundedSemaphore)
    _counted(threading.Semaphore)
    threading.get_ident = _get_ident
    # The versions in C tell threads apart by the stack they run on, or wait where no stand-in can see it.
    threading._CRLock, threading._PyRLock = None, _ReentrantLock
    threading.local = _threading_local.local
    queue.SimpleQueue = queue._PySimpleQueue
    queue.Queue.put = _put
    threading._ThreadHandle = Handle
    threading._start_joinable_thread = _start
    threading.excepthook = _excepthook
    _thread.start_new_thread = _start_new_thread
    time.sleep = _sleep
    # The library's own calls at exit are for the end of the interpreter: this one registers itself when first used.
    weakref.finalize(Program, int)
    atexit.register, atexit.unregister = _register, _unregister
