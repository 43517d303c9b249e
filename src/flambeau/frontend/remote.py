"""The core as a front-end process sees it: a data plane behind a socket, keys, and a log.

`RemoteInference` is the `DataPlane` of protocols there. A reply is an `Entry`, as in the core: it
bounds what a slow client leaves unread, and it is settled once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

import msgspec
from typing_extensions import override

from flambeau.errors import ErrorKind, FlambeauError, PredictionError
from flambeau.ipc.frontend_messages import (
    Ask,
    LogRecord,
    Part,
    Refused,
    Submit,
    Told,
    Withdraw,
)
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.scheduling.queue import Entry
from flambeau.serving.readiness import Probe
from flambeau.types import Field, InferenceRequest

_KNOWN_MODELS = 10_000


Send = Callable[[msgspec.Struct], None]


class RemoteInference:
    """Hands requests to the core, and its answers to whoever waits for them."""

    def __init__(self, send: Send) -> None:
        self.pending = HeldBytes(0, "max_pending_bytes")  # before the core's message: one at a time
        self._send = send
        self._number = 0
        self._replies: dict[int, Entry] = {}
        self._questions: dict[int, asyncio.Future[Told]] = {}
        self._known: set[tuple[str, str]] = set()

    def submit(
        self,
        name: str,
        version: str,
        headers: dict[str, str],
        fields: list[Field],
        request_id: str,
    ) -> Entry:
        """Send one request for a model; its errors come as the reply's."""
        number = self._next()
        request = InferenceRequest(request_id, headers, fields)
        reply = self._replies[number] = Entry(request, time.monotonic())
        reply.on_settled = lambda _, error: self._settled(number, error)
        self._send(Submit(number, name, version, request))
        return reply

    async def check_model(self, name: str, version: str) -> None:
        """Raise the error of a request for this model, if there is one.

        The core is asked once for each model: one that has gone since is refused when the request
        is there as a whole.
        """
        if (name, version) in self._known:
            return
        await self._ask("model", name, version)
        if len(self._known) >= _KNOWN_MODELS:
            self._known.clear()
        self._known.add((name, version))

    def check_room(self, name: str, version: str) -> None:
        """The core knows, and tells when the request is there."""

    async def startup_names(self) -> list[str]:
        """Names of the models that were loaded when the server started, sorted."""
        return (await self._ask("startup_names")).names

    async def ready(self) -> bool:
        """Whether each name's default version has all its workers."""
        return (await self._ask("ready")).yes

    async def healthy(self) -> bool:
        """Whether the server is healthy."""
        return (await self._ask("healthy")).yes

    async def lacks(self, probe: Probe) -> list[str]:
        """What the core still lacks for a probe's yes, for people; that it answers is a part of it."""
        return (await self._ask(probe)).names

    # what the core tells

    def part(self, message: Part) -> None:
        """A part of an answer."""
        reply = self._replies.get(message.number)
        if reply is not None:
            reply.push(message.chunk)

    def refused(self, message: Refused) -> None:
        """An error instead of an answer."""
        error = _error(message)
        if (reply := self._replies.get(message.number)) is not None:
            self._replies.pop(message.number)  # before it is settled: the core knows
            reply.fail(error)
            if message.kind in (ErrorKind.MODEL_NOT_FOUND, ErrorKind.VERSION_NOT_FOUND):
                self._known.clear()  # a model has gone
        question = self._questions.pop(message.number, None)
        if question is not None and not question.done():
            question.set_exception(error)

    def told(self, message: Told) -> None:
        """The answer to a question."""
        question = self._questions.pop(message.number, None)
        if question is not None and not question.done():
            question.set_result(message)

    def _settled(self, number: int, error: FlambeauError | None) -> None:
        known = self._replies.pop(number, None) is not None
        if error is not None and known:  # it ends here, not there
            self._send(Withdraw(number))

    async def _ask(
        self,
        what: Literal["model", "startup_names", "ready", "healthy"] | Probe,
        name: str = "",
        version: str = "",
    ) -> Told:
        number = self._next()
        question: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._questions[number] = question
        self._send(Ask(number, what, name, version))
        return await question

    def _next(self) -> int:
        self._number += 1
        return self._number


class RemoteLog(logging.Handler):
    """Sends log records to the core's log."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(LogRecord(record.levelno, record.name, self.format(record)))
        except Exception:  # noqa: BLE001  # a bad log call must not fail a request
            self.handleError(record)


def _error(message: Refused) -> FlambeauError:
    if message.status is not None:
        return PredictionError(message.message, message.kind, status=message.status)
    return FlambeauError(message.kind, message.message, retry_after=message.retry_after)
