"""Blocking calls beside the event loop, in threads that nobody waits for at exit.

A driver may block a write for as long as it likes, beyond cancellation and beyond SIGKILL. A pool would
run out of workers, and the interpreter joins a pool's threads when it ends; so each call has a daemon
thread of its own, which costs a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[], T], *, name: str) -> T:
    """Run ``function`` in a thread and return what it returns.

    Cancelling the wait leaves the thread running; whatever it does later is nobody's result.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # set together with error=None alone

    def run() -> None:
        try:
            result, error = function(), None
        except BaseException as caught:  # noqa: BLE001  # handed to whoever waits
            result, error = None, caught
        # If the loop ended first, the process is leaving.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
