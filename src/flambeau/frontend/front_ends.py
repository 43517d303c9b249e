"""Front-end processes as the core sees them (`http_workers`): one a socket of the inference port.

The core keeps the sockets open: connections that come while a process is being replaced wait for the
new one. What a process had submitted is cancelled when it dies.
"""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from flambeau.config import ServerConfig
from flambeau.errors import ErrorKind, FlambeauError, PredictionError
from flambeau.frontend.responses import LocalResponses, access_log
from flambeau.ipc.channel import AsyncChannel
from flambeau.ipc.frontend_messages import (
    Ask,
    Certificates,
    Drain,
    FromFrontEnd,
    Keys,
    KeysTaken,
    Leave,
    LogRecord,
    NewCertificates,
    NewKeys,
    Part,
    Refused,
    Responses,
    Serving,
    Setup,
    Submit,
    Told,
    Withdraw,
)
from flambeau.scheduling.queue import Entry
from flambeau.serving.inference import Inference
from flambeau.serving.tokens import Keyring

logger = logging.getLogger(__name__)

_RESTART_SECONDS = (0, 0, 0, 0, 1, 2, 5, 10, 30)
"""Waits before a new process, by how many in a row have died young: a few kills are made good at once."""
_YOUNG_SECONDS = 30.0
_START_SECONDS = 30.0
_KEYS_SECONDS = 15.0
"""How long a renewal waits for a process that does not take the new keys; then it is ended."""
_LAST_WORDS_SECONDS = 5.0
"""Beyond the grace of a stop: how long a process may take to end."""


_SETTINGS = (
    "cors_allowed_headers",
    "cors_allowed_methods",
    "cors_allowed_origin",
    "max_connections",
    "max_connections_per_address",
    "max_pending_bytes",
    "max_request_size",
    "token_failures_per_minute",
    "torchserve_statuses",
    "ts_open_inference_protocol",
)


def setup_of(
    config: ServerConfig,
    metrics_url: str,
    certificates: Certificates | None,
    tokens: Keyring | None,
    grace: float,
) -> Setup:
    """What a front-end process has to know; without `certificates` it is plain HTTP."""
    return Setup(
        {key: getattr(config, key) for key in _SETTINGS},
        metrics_url,
        certificates,
        tokens.share() if tokens is not None else None,
        grace,
        logging.getLogger("flambeau").getEffectiveLevel(),
        access_log.isEnabledFor(logging.INFO),
    )


class FrontEnds:
    """Keeps one process alive for each socket; runs and stops as an `HttpServer` does."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        setup: Callable[[], Setup],
        inference: Inference,
        responses: LocalResponses,
    ) -> None:
        self._sockets = sockets
        self._setup = setup
        self._inference = inference
        self._responses = responses
        self._running: set[FrontEndProcess] = set()
        self._serving = [asyncio.Event() for _ in sockets]
        self._stopping = asyncio.Event()
        self._leaving = False

    async def run_until_told(self) -> None:
        """Serve until `stop` was called and open requests are answered."""
        async with asyncio.TaskGroup() as group:
            for number, sock in enumerate(self._sockets):
                group.create_task(self._keep(number, sock))

    async def wait_serving(self) -> None:
        """Return when every process accepts connections, or has had time enough for that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                for serving in self._serving:
                    await serving.wait()

    def leave(self) -> None:
        """Tell clients to go elsewhere: each connection ends with its next answer."""
        self._leaving = True
        for process in self._running:
            process.leave()

    def stop(self) -> None:
        """Close the port; requests in flight are finished."""
        self._stopping.set()
        for sock in self._sockets:
            sock.close()  # the processes have it too, until they drain
        for process in self._running:
            process.drain()

    def kill(self) -> None:
        """Wait for nothing any more."""
        for process in self._running:
            process.kill()

    async def use_keys(self, keys: Keys) -> None:
        """Return when no process lets older keys pass any more."""
        async with asyncio.TaskGroup() as group:
            for process in self._running:
                group.create_task(process.use_keys(keys))

    def use_certificates(self, certificates: Certificates) -> None:
        """Let every process show these to new connections."""
        for process in self._running:
            process.use_certificates(certificates)

    async def _keep(self, number: int, sock: socket.socket) -> None:
        young = 0
        while not self._stopping.is_set():
            process = FrontEndProcess(self._setup, self._inference, self._responses)
            process.on_serving = self._serving[number].set
            self._running.add(process)
            if self._leaving:
                process.leave()
            started = time.monotonic()
            try:
                told = await process.run(sock)
            except OSError as error:
                told = f"it could not be started: {error}"
            finally:
                self._running.discard(process)
            if self._stopping.is_set():
                return
            young = young + 1 if time.monotonic() - started < _YOUNG_SECONDS else 0
            logger.error("Front-end process %d ended (%s); a new one takes its place", number, told)
            delay = _RESTART_SECONDS[min(young, len(_RESTART_SECONDS)) - 1] if young else 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)


class FrontEndProcess:
    """One process from its start to its end, and the requests that it has submitted."""

    def __init__(
        self, setup: Callable[[], Setup], inference: Inference, responses: LocalResponses
    ) -> None:
        self._setup = setup
        self._inference = inference
        self._responses = responses
        self._channel: AsyncChannel[FromFrontEnd] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._entries: dict[int, Entry] = {}
        self._asked: set[asyncio.Future[None]] = set()
        self._keys_taken = asyncio.Event()
        self.on_serving: Callable[[], object] = lambda: None
        self._leaving = self._draining = False

    async def run(self, sock: socket.socket) -> str:
        """Serve on a socket until the process has ended; returns how. Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = await AsyncChannel.connect(
            ours,
            FromFrontEnd,  # type: ignore[arg-type]  # a union is no `type`
            self._on_message,
            self._on_closed,
        )
        try:
            status = await self._live(self._channel, theirs, sock)
        finally:
            self.kill()
            self._channel.close()
        return f"signal {-status}" if status < 0 else f"exit code {status}"

    async def _live(
        self, channel: AsyncChannel[FromFrontEnd], theirs: socket.socket, sock: socket.socket
    ) -> int:
        with theirs:  # open here, its end would not be noticed
            channel.send(self._setup())  # with the keys as they are now
            if self._leaving:
                channel.send(Leave())
            if self._draining:
                return 0  # the socket is closed already
            descriptors = (theirs.fileno(), sock.fileno())
            # -P: a torch.py in the working directory must not be taken for the library
            command = [sys.executable, "-P", "-m", "flambeau.frontend.process"]
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *map(str, descriptors),
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return await self._process.wait()

    def leave(self) -> None:
        """Let each connection end with its next answer."""
        self._leaving = True
        if self._channel is not None:
            self._channel.send(Leave())

    def drain(self) -> None:
        """Ask the process to answer what it has accepted, and to end; it has some time for that."""
        self._draining = True
        if self._channel is not None:
            self._channel.send(Drain())
        loop = asyncio.get_running_loop()
        loop.call_later(self._setup().grace + _LAST_WORDS_SECONDS, self.kill)

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def use_keys(self, keys: Keys) -> None:
        """Return when the process lets only these keys pass, or is about to end."""
        self._keys_taken.clear()
        if self._channel is None:
            return
        self._channel.send(NewKeys(keys))
        try:
            await asyncio.wait_for(self._keys_taken.wait(), _KEYS_SECONDS)
        except TimeoutError:
            logger.error("A front-end process does not take new keys: it is ended")  # noqa: TRY400
            self.kill()

    def use_certificates(self, certificates: Certificates) -> None:
        """Let the process show these to new connections."""
        if self._channel is not None:
            self._channel.send(NewCertificates(certificates))

    def _on_message(self, message: FromFrontEnd) -> None:
        match message:
            case Serving():
                self.on_serving()
            case Submit():
                self._submit(message)
            case Withdraw():
                if (entry := self._entries.pop(message.number, None)) is not None:
                    entry.cancel()
            case Ask():
                asked = asyncio.ensure_future(self._answer(message))
                self._asked.add(asked)
                asked.add_done_callback(self._asked.discard)
            case Responses():
                self._responses.take(message)
            case KeysTaken():
                self._keys_taken.set()
            case LogRecord():
                logging.getLogger(message.logger).log(message.level, "%s", message.message)

    def _on_closed(self) -> None:
        self._keys_taken.set()  # nobody lets any key pass any more
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            entry.cancel()
        if not self._draining:
            self.kill()

    def _submit(self, message: Submit) -> None:
        try:
            entry = self._inference.accept(message.name, message.version, message.request)
        except FlambeauError as error:
            self._refuse(message.number, error)
        except Exception:
            logger.exception("Request %s failed unexpectedly", message.request.id)
            text = f"Internal error. The log has the details under {message.request.id}."
            self._refuse(message.number, FlambeauError(ErrorKind.INTERNAL, text))
        else:
            self._entries[message.number] = entry
            entry.on_news = partial(self._forward, message.number, entry)
            self._forward(message.number, entry)

    def _forward(self, number: int, entry: Entry) -> None:
        """Pass on what there is of an answer."""
        if self._entries.get(number) is not entry or self._channel is None:
            entry.on_news = None  # withdrawn, or nobody is there
            return
        try:
            while (chunk := entry.take()) is not None:
                self._channel.send(Part(number, chunk))
                if chunk.last:
                    self._forget(number, entry)
                    return
        except FlambeauError as error:
            self._forget(number, entry)
            self._refuse(number, error)

    def _forget(self, number: int, entry: Entry) -> None:
        del self._entries[number]
        entry.on_news = None  # no cycle: bodies are freed at once

    async def _answer(self, question: Ask) -> None:
        yes, names = True, list[str]()
        try:
            match question.what:
                case "model":
                    await self._inference.check_model(question.name, question.version)
                case "startup_names":
                    names = await self._inference.startup_names()
                case "ready":
                    yes = await self._inference.ready()
                case "healthy":
                    yes = await self._inference.healthy()
                case "livez" | "startupz" | "readyz":
                    names = await self._inference.lacks(question.what)
        except FlambeauError as error:
            self._refuse(question.number, error)
        else:
            if self._channel is not None:
                self._channel.send(Told(question.number, yes, names))

    def _refuse(self, number: int, error: FlambeauError) -> None:
        if self._channel is not None:
            status = error.status if isinstance(error, PredictionError) else None
            refused = Refused(number, error.kind, error.message, status, error.retry_after)
            self._channel.send(refused)
