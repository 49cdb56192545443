"""Executors over the threads of this sandbox."""

import collections
import concurrent.futures
import concurrent.futures.thread
import itertools
import os
import threading

import threads

_pools = itertools.count()


class ThreadPoolExecutor(concurrent.futures.Executor):
    """Its workers begin one call at a time, so that whoever waits for results gets each as it comes."""

    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=(), **_):
        if max_workers is None:
            max_workers = min(32, (os.cpu_count() or 1) + 4)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(_pools)}"
        self._initialize = lambda: initializer and initializer(*initargs)
        self._calls = collections.deque()
        self._workers = []
        self._idle = []
        self._shut = False

    def submit(self, function, /, *args, **kwargs):
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = concurrent.futures.Future()
        self._calls.append((future, function, args, kwargs))
        if self._idle:
            threads.enqueue(self._idle.pop(), function)
        elif len(self._workers) < self._max_workers:
            worker = _Worker(self, f"{self._prefix}_{len(self._workers)}")
            self._workers.append(worker)
            worker.start()
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._shut = True
        if cancel_futures:
            for future, *_ in self._calls:
                future.cancel()
        if wait:
            threads.wait_until(lambda: len(self._idle) == len(self._workers))


class _Worker(threading.Thread):
    def __init__(self, pool, name):
        super().__init__(name=name, daemon=False)
        self._os_thread_handle = _Rest(pool)
        self._pool = pool
        self._is_new = True

    def run(self):
        if self._is_new:
            self._is_new = False
            self._pool._initialize()
        if not self._pool._calls:
            return
        future, function, args, kwargs = self._pool._calls.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function(*args, **kwargs)
        except threads.Deadlock:
            raise
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


class _Rest(threads.Handle):
    """A worker that has come to an end begins anew while there are calls."""

    def __init__(self, pool):
        super().__init__()
        self._pool = pool

    def end(self, thread):
        if self._pool._calls:
            threads.enqueue(thread, self._pool._calls[0][1])
        else:
            self._pool._idle.append(thread)
            if self._pool._shut:
                super().end(thread)


def install():
    """Puts the executors in place. Processes there are none: what is given to them runs in this one."""
    concurrent.futures.thread.ThreadPoolExecutor = concurrent.futures.ThreadPoolExecutor = ThreadPoolExecutor
    concurrent.futures.ProcessPoolExecutor = ThreadPoolExecutor
