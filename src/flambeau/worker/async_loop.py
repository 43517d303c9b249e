"""The loop of a worker whose handler is asynchronous: many requests at once, in one event loop.

The main thread runs the event loop, as handlers expect it; one more thread hands over what comes
from the server (contract.md section 5.13).
"""

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from flambeau.handlers.runner import Runner
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.messages import Cancel, Ping, Pong, Run, Stop, ToWorker
from flambeau.worker.replies import Replies

if TYPE_CHECKING:
    import queue


async def serve_async(
    channel: BlockingChannel[ToWorker], runner: Runner, inbox: "queue.SimpleQueue[ToWorker]"
) -> None:
    """Answer requests, each in a task of its own, until told to stop; then finish what runs."""
    await _AsyncWorker(channel, runner).serve(inbox)


class _AsyncWorker:
    def __init__(self, channel: BlockingChannel[ToWorker], runner: Runner) -> None:
        self._channel = channel
        self._runner = runner
        self._ending = False
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._messages: asyncio.Queue[ToWorker] = asyncio.Queue()

    async def serve(self, inbox: "queue.SimpleQueue[ToWorker]") -> None:
        loop = asyncio.get_running_loop()

        def forward() -> None:
            while True:
                loop.call_soon_threadsafe(self._messages.put_nowait, inbox.get())

        threading.Thread(target=forward, name="inbox", daemon=True).start()
        async with asyncio.TaskGroup() as group:
            while not isinstance(message := await self._messages.get(), Stop):
                if isinstance(message, Run):
                    self._tasks[message.batch] = group.create_task(self._answer(message))
                elif isinstance(message, Cancel) and message.batch in self._tasks:
                    self._tasks[message.batch].cancel()
                elif isinstance(message, Ping):
                    self._channel.send(Pong())

    async def _answer(self, run: Run) -> None:
        started = time.monotonic()
        (item,) = run.items
        replies = Replies(self._channel, self._runner, run.batch)
        try:
            await self._runner.run_async(item, replies)
        finally:
            del self._tasks[run.batch]
            if self._ending:
                replies.flush()
            else:
                replies.finish(time.monotonic() - started)
            if self._runner.unusable and not self._ending:
                self._end()

    def _end(self) -> None:
        """The device is spoilt for all requests: what runs is tried on another worker."""
        self._ending = True
        self._messages.put_nowait(Stop())
        for task in self._tasks.values():
            task.cancel()
