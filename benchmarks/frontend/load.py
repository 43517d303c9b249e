"""A small closed-loop load generator, run as a process of its own: `python -m benchmarks.frontend.load`.

Each connection sends the next request as soon as it has the whole answer to the last one. Prints
one line of JSON: requests that were answered, seconds, and latencies in milliseconds.
"""

import argparse
import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import uvloop

LENGTH = b"content-length: "


class Connection(asyncio.Protocol):
    """One keep-alive connection; notes how long each answer took."""

    def __init__(self, request: bytes, until: float) -> None:
        self.seconds: list[float] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Note a whole answer and go on."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < self._body_size(head):
            return
        now = time.monotonic()
        self.seconds.append(now - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self._end(head.decode("latin-1"))
        elif now >= self._until:
            self._end("")
        else:
            self._received = b""
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed it: the run is worth nothing."""
        self._end(f"connection lost: {exc}")

    @staticmethod
    def _body_size(head: bytes) -> int:
        at = head.index(LENGTH) + len(LENGTH)
        return int(head[at : at + 12].split(b"\r")[0])

    def _send(self) -> None:
        self._sent = time.monotonic()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def _end(self, error: str) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
            self._transport.close()


async def load(url: str, connections: int, seconds: float, body: bytes) -> dict[str, float]:
    """Load `url` for so long. Raises `RuntimeError` for any answer but 200."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: text/plain\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    made = [
        await loop.create_connection(
            lambda: Connection(request, started + seconds), parts.hostname, parts.port
        )
        for _ in range(connections)
    ]
    errors = [error for _, each in made if (error := await each.ended)]
    if errors:
        raise RuntimeError(errors[0])
    elapsed = time.monotonic() - started
    latencies = sorted(one for _, each in made for one in each.seconds)
    return {
        "requests": len(latencies),
        "seconds": elapsed,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--body", default="Flambeau carries the torch on.")
    arguments = parser.parse_args()
    running = load(arguments.url, arguments.connections, arguments.seconds, arguments.body.encode())
    json.dump(uvloop.run(running), sys.stdout)


if __name__ == "__main__":
    main()
