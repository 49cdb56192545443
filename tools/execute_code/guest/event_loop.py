"""asyncio's loop without sockets: it waits by sleeping."""

import asyncio
import asyncio.base_events
import time

import pools
import threads


class _Sleeper:
    """The loop's selector: no socket can become ready, so to select is to let threads run until the next timer."""

    def __init__(self, loop):
        self._loop = loop

    def select(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            threads.wait_until(self._has_work, deadline)
        except threads.Deadlock:
            if self._has_work() or threads.others():
                raise
            raise threads.Deadlock(
                "deadlock: every task waits for another one, and no timer is left that could end it"
            ) from None
        return []

    def _has_work(self):
        return bool(self._loop._ready)

    def close(self):
        pass


class EventLoop(asyncio.base_events.BaseEventLoop):
    """The only kind of loop there is."""

    def __init__(self):
        super().__init__()
        self._selector = _Sleeper(self)

    def _process_events(self, event_list):
        pass

    def _write_to_self(self):
        pass

    def run_in_executor(self, executor, function, *args):
        return asyncio.wrap_future((executor or pools.ThreadPoolExecutor()).submit(function, *args), loop=self)

    async def shutdown_default_executor(self, timeout=None):
        pass


def install():
    """Puts the loop in place."""
    asyncio.new_event_loop = asyncio.events.new_event_loop = EventLoop
