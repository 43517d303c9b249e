"""Answers many frames at once with an `async def` handler (contract.md section 9.7)."""

import asyncio
import traceback
from typing import Any

from flambeau.handlers.ts.protocol.otf_message_handler import PREDICT_MSG, retrieve_msg
from flambeau.handlers.ts.service import Service

__all__ = ["AsyncService"]


class AsyncService:
    """Reads frames from a service's socket and answers each as soon as its handler has.

    For tests of handlers; Flambeau's own workers run `async def` handlers without it.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    async def call_predict(self, batch: Any) -> None:
        """Answer one batch."""
        frame = await self.service.predict_async(batch)
        if frame is not None:
            await asyncio.to_thread(self.service.cl_socket.sendall, frame)

    def run(self) -> str | None:
        """Serve until the socket closes; returns a traceback if something else ends it."""
        try:
            asyncio.run(self._serve())
        except ConnectionError:
            return None
        except Exception:  # noqa: BLE001 - told to the caller
            return traceback.format_exc()
        return None

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    command, batch = await asyncio.to_thread(retrieve_msg, self.service.cl_socket)
                except ConnectionError:
                    return
                if command == PREDICT_MSG:
                    group.create_task(self.call_predict(batch))
