"""The connections of one listener: how many, and what becomes of those whose clients do not read.

A client that stops reading leaves its answer in the server's memory, and closing politely would wait
for it for ever. One timer looks at all connections now and then, so that no request pays for it.
"""

import asyncio
import socket
import struct
from collections import Counter
from typing import Protocol

from flambeau.frontend.clients import client_address
from flambeau.protocols import limits

_LOOKS = 6
"""Looks at the connections within `WRITE_SECONDS`."""

_AT_ONCE = struct.pack("ii", 1, 0)


class Held(Protocol):
    """What is asked of a connection."""

    transport: asyncio.Transport
    """None until a TLS handshake is done, whatever its type says."""
    idle_from: float | None
    """Since when it has had no request; None while it has one."""
    stalled_from: float | None
    """Since when its client has taken nothing; set here, and reset where something was taken."""


class Connections:
    """Counts connections, all of them and those of one address; 0 stands for no limit.

    The limit on one address is not for loopback and Unix sockets: a proxy's clients all come from
    there.
    """

    def __init__(self, most: int = 0, per_address: int = 0) -> None:
        self._most = most
        self._per_address = per_address
        self._hosts: dict[Held, str] = {}
        self._left: dict[Held, int] = {}  # bytes not taken at the last look
        self._count: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, connection: Held, client: tuple[str, int | None] | None) -> str:
        """Count a new connection; returns why there may be no more, "" otherwise, and for one that
        has its place already: over TLS since before its handshake.

        Where there are too many, the one that has been idle longest makes room.
        """
        if connection in self._hosts:
            return ""
        address = client_address(client[0]) if client is not None else None
        host = client[0] if client is not None and not (address and address.is_loopback) else ""
        self._hosts[connection] = host
        self._count[host] += 1
        if self._timer is None:
            self._look_later()
        if host and 0 < self._per_address < self._count[host] and not self._make_room(host):
            return _too_many("from one address", "max_connections_per_address", self._per_address)
        if 0 < self._most < len(self._hosts) and not self._make_room():
            return _too_many("open", "max_connections", self._most)
        return ""

    def forget(self, connection: Held) -> None:
        """A connection has ended."""
        host = self._hosts.pop(connection, None)
        self._left.pop(connection, None)
        if host is None:
            return
        self._count[host] -= 1
        if not self._count[host]:
            del self._count[host]
        if not self._hosts and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self, host: str | None = None) -> bool:
        idle = [
            (since, each.transport)
            for each, its_host in self._hosts.items()
            if (since := each.idle_from) is not None
            and not each.transport.is_closing()
            and host in (None, its_host)
        ]
        if idle:
            min(idle, key=lambda pair: pair[0])[1].close()
        return bool(idle)

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(limits.WRITE_SECONDS / _LOOKS, self._look)

    def _look(self) -> None:
        """Cut clients off that have taken nothing for too long."""
        now = asyncio.get_running_loop().time()
        for connection in list(self._hosts):
            transport: asyncio.Transport | None = connection.transport
            size = transport.get_write_buffer_size() if transport is not None else 0
            before = self._left.pop(connection, 0)
            if not size:
                connection.stalled_from = None
                continue
            self._left[connection] = size
            if not before or size < before or connection.stalled_from is None:
                connection.stalled_from = now
            elif now - connection.stalled_from >= limits.WRITE_SECONDS:
                _reset(connection.transport)
        self._look_later()


def _reset(transport: asyncio.Transport) -> None:
    """End a connection, and have the system forget what it has not sent."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


def _too_many(which: str, key: str, limit: int) -> str:
    return f"Too many connections are {which}: the limit is {key}={limit} in config.properties."
