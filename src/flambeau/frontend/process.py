"""`python -m flambeau.frontend.process CHANNEL LISTENER`: a front-end process (`http_workers`).

It terminates HTTP on one of the inference port's sockets: parsing, TLS, limits, keys, headers, error
bodies. The models are the core's, at the other end of the channel. It stops when the core says so,
and at once where the core is gone; signals are the core's business, also those that a terminal or a
service manager sends to every process.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import msgspec
import uvloop

from flambeau.config import ServerConfig
from flambeau.frontend import tripwire
from flambeau.frontend.failures import Failures
from flambeau.frontend.gate import Gate
from flambeau.frontend.headers import CommonHeaders
from flambeau.frontend.http import Answering, Listener, Mount
from flambeau.frontend.inference_api import inference_protocols
from flambeau.frontend.listeners import HttpServer
from flambeau.frontend.remote import RemoteInference, RemoteLog
from flambeau.frontend.responses import RemoteResponses
from flambeau.ipc.channel import AsyncChannel
from flambeau.ipc.frontend_messages import (
    Certificates,
    Drain,
    KeysTaken,
    Leave,
    NewCertificates,
    NewKeys,
    Part,
    Refused,
    Serving,
    Setup,
    ToFrontEnd,
    Told,
)
from flambeau.protocols.description import Description
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.serving.tokens import Keyring, TokenScope

if TYPE_CHECKING:
    from flambeau.frontend.tls import Tls

logger = logging.getLogger("flambeau.frontend.process")  # it runs as __main__

_LOGGERS = ("flambeau", "uvicorn", "asyncio")


class FrontEnd:
    """One front-end process from its first message to its end."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._channel: AsyncChannel[ToFrontEnd] | None = None
        self._inference = RemoteInference(self._send)
        self._keys = Keyring()
        self._certificates: Certificates | None = None
        self._tls: Tls | None = None
        self._setup: asyncio.Future[Setup] = asyncio.get_running_loop().create_future()
        self._leaving = self._draining = self._finished = False
        self._server: HttpServer | None = None
        self._closed = asyncio.Event()

    async def run(self, core: socket.socket) -> None:
        """Serve until the core says `Drain` and everything is answered and told."""
        self._channel = await AsyncChannel.connect(
            core,
            ToFrontEnd,  # type: ignore[arg-type]  # a union is no `type`
            self._on_message,
            self._on_closed,
        )
        setup = await self._setup
        responses = RemoteResponses(self._send, wants_lines=setup.access_log)
        _log_to(RemoteLog(self._send), setup.log_level)
        self._server = self._make_server(setup, responses)
        self._server.on_serving = lambda: self._send(Serving())
        if self._leaving:
            self._server.leave()
        if self._draining:
            self._server.stop()
        await self._server.run_until_told()
        responses.flush()
        self._finished = True
        self._channel.finish()
        await self._closed.wait()

    def _make_server(self, setup: Setup, responses: RemoteResponses) -> HttpServer:
        config = ServerConfig(**setup.settings)  # type: ignore[arg-type]  # checked by the core
        answering = Answering(
            responses,
            Gate(
                self._keys if setup.keys is not None else None,
                config.cors_allowed_origin,
                failures=Failures(config.token_failures_per_minute),
            ),
            CommonHeaders(config),
            config.torchserve_statuses,
            config.max_connections,
            config.max_connections_per_address,
        )
        self._inference.pending = HeldBytes(config.max_pending_bytes, "max_pending_bytes")
        served = inference_protocols(self._inference, config)
        described = Description(served, lambda: setup.metrics_url)
        scopes = frozenset({TokenScope.INFERENCE})
        mounts = [Mount(each, scopes) for each in (described, *served)]
        context = None
        if self._certificates is not None:
            from flambeau.frontend.tls import Tls  # 50 ms that plain HTTP saves

            self._tls = Tls(self._certificates)
            context = self._tls.context
        return HttpServer(Listener(mounts, answering), self._listening, setup.grace, context)

    def _send(self, message: msgspec.Struct) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _on_message(self, message: ToFrontEnd) -> None:  # noqa: C901  # one case a message
        match message:
            case Part():
                self._inference.part(message)
            case Refused():
                self._inference.refused(message)
            case Told():
                self._inference.told(message)
            case Setup():
                if message.keys is not None:
                    self._keys.take(message.keys)
                self._certificates = message.certificates
                self._setup.set_result(message)
            case NewKeys() | NewCertificates():
                self._renew(message)
            case Leave():
                self._leaving = True
                if self._server is not None:
                    self._server.leave()
            case Drain():
                self._draining = True
                if self._server is not None:
                    self._server.stop()

    def _renew(self, message: NewKeys | NewCertificates) -> None:
        if isinstance(message, NewKeys):
            self._keys.take(message.keys)
            self._send(KeysTaken())
            return
        if self._certificates is None:
            return  # plain HTTP
        self._certificates = message.certificates  # for a server that is yet to be made
        if self._tls is not None:
            try:
                self._tls.use(message.certificates)
            except Exception:
                logger.exception("A front-end process keeps the old certificate")

    def _on_closed(self) -> None:
        if not self._finished:
            os._exit(1)  # the core is gone: nobody will answer
        self._closed.set()


def _log_to(handler: logging.Handler, level: int) -> None:
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level if name == "flambeau" else logging.WARNING)
        logger.propagate = False


async def _main(channel: int, listener: int) -> None:
    front_end = FrontEnd(socket.socket(fileno=listener))
    await front_end.run(socket.socket(fileno=channel))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tripwire.arm()
    uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2])))
