"""A web that wants a server to ask its neighbours: names that lie, and an HTTP server of bad manners.

`HostileWeb` is an event loop whose resolver and whose connections are its own: names lead where the
table says, each connection is noted with the address that was asked, and all of them end at one
`HostileServer` on this machine, whatever they meant to reach.
"""

import asyncio
import contextlib
import gzip
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from typing_extensions import override

PUBLIC = "93.184.216.34"
INNER = "10.0.0.7"

NAMES: dict[str, list[list[str]]] = {
    "models.example": [[PUBLIC]],
    "rebind.example": [[PUBLIC], ["127.0.0.1"]],
    "rebind6.example": [[PUBLIC], ["::1"]],
    "inside.example": [["127.0.0.1"]],
    "metadata.example": [["169.254.169.254"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "both.example": [["93.184.216.35", "127.0.0.1"]],  # the first refuses connections
    "localhost": [["127.0.0.1"]],
    "minio": [[INNER]],
}
"""Where names lead: one list of addresses for each time that somebody asks; the last one stays."""

REFUSES = "93.184.216.35"


_OK = b"HTTP/1.1 200 OK\r\n"
_ENDLESS = {
    "drip": (_OK + b"content-length: 100000\r\n\r\n", b"P", 0.02),
    "endless": (_OK + b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n", 0),
    "lie": (_OK + b"content-length: 1000000000000\r\n\r\n", bytes(65536), 0),
    "headers": (_OK, b"x: " + b"y" * 1000 + b"\r\n", 0),
    "informed": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", 0.005),
    "silence": (b"", b"", 1),
}  # fmt: skip
"""Answers without an end: how they begin, what comes again and again, and the seconds between."""
_BOMB = gzip.compress(bytes(1 << 22))


class HostileServer:
    """The server at which all connections end, in a thread of its own."""

    def __init__(self, archive: bytes) -> None:
        half = archive[: len(archive) // 2]
        length = b"content-length: %d\r\n"
        self._plain = {
            "short": _OK + length % len(archive) + b"\r\n" + half,
            "open": _OK + b"\r\n" + half,  # neither a length nor an end
            "bomb": _OK + b"content-encoding: gzip\r\n" + length % len(_BOMB) + b"\r\n" + _BOMB,
            "garbage": b"\x16\x03\x01 no HTTP at all\r\n\r\n",
            "missing": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        }
        self._archive = _OK + length % len(archive) + b"\r\n" + archive
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = self._socket.getsockname()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and what it is saying."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._converse, sock=self._socket))
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for each in tasks:
            each.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path, _, query = head.split()[1].decode().partition("?")
            kind = path.rpartition("/")[2].partition("-")[0]
            if kind in _ENDLESS:
                begin, again, pause = _ENDLESS[kind]
                writer.write(begin)
                while True:
                    writer.write(again)
                    await writer.drain()
                    await asyncio.sleep(pause)
            if kind == "redirect":
                location = unquote(query).encode("utf-8", "surrogateescape")
                head = b"HTTP/1.1 302 Found\r\nlocation: %s\r\ncontent-length: 0\r\n\r\n"
                writer.write(head % location)
            else:
                writer.write(self._plain.get(kind, self._archive))
            await writer.drain()
        writer.close()


class HostileWeb(asyncio.SelectorEventLoop):
    """An event loop in that web. `asked` are the addresses that were connected to, by case."""

    def __init__(self, server: HostileServer, case: Callable[[], str]) -> None:
        super().__init__()
        self.asked: dict[str, list[str]] = {}
        self._server = server
        self._case = case
        self._answered: dict[tuple[str, str], int] = {}

    @override
    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:  # asyncio's own signature
        name = host.decode() if isinstance(host, bytes) else str(host)
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in self._addresses(name)
        ]  # fmt: skip

    @override
    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]  # asyncio's own  # fmt: skip
        address = self._addresses(str(host))[0]
        self.asked.setdefault(self._case(), []).append(address)
        if address == REFUSES:
            raise ConnectionRefusedError(address)
        return await super().create_connection(factory, *self._server.address)

    def _addresses(self, name: str) -> list[str]:
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(name.partition("%")[0]))]
        answers = NAMES.get(name.lower().rstrip("."))
        if answers is None:
            try:  # what libc takes for a number: 2130706433, 0x7f.1, 0177.0.0.1, 127.1
                return [socket.inet_ntoa(socket.inet_aton(name))]
            except OSError:
                raise socket.gaierror(socket.EAI_NONAME, f"no such name: {name}") from None
        count = self._answered.get((self._case(), name), 0)
        self._answered[self._case(), name] = count + 1
        return answers[min(count, len(answers) - 1)]
