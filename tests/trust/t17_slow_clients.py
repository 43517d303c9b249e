"""T17: hundreds of clients that stall in every way are closed in time, and good ones do not notice."""

import contextlib
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from flambeau.protocols import limits
from tests.trust.servers import TrustServer, trust_server
from tests.trust.suite import Figures, Limit, Run, Suite
from tests.trust.wire import connect

_EACH = 160
"""Sockets of each of three kinds; of those that do not read, which cost 6 MB each, a quarter."""
_ANSWER_BYTES = 6_000_000
_WARM = 20
_PER_BLOCK = 40
_CLOSED_SECONDS = 45.0
"""Until the last is closed: half a minute without reading, and what lies between two looks."""

_GOOD = """
import http.client, json, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
times, every = [], 0.05
for number in range(int(sys.argv[2])):
    started = time.monotonic()
    connection.request("POST", "/predictions/stub", b"good")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    times.append(time.monotonic() - started)
    time.sleep(max(every - times[-1], 0))
print(json.dumps(times))
"""
"""20 requests a second from a process of its own; prints their times in seconds."""


def run(run: Run) -> Figures:
    """Compare good clients' times without stalled ones, beside them, and without them again."""
    each = run.amount(_EACH, 4 * _EACH, 20)
    amount = run.amount(200, 1000, 60)
    with trust_server(run, {"stub": 1, "big": 1}, properties={"job_queue_size": 2000}) as server:
        _good(server, _WARM)
        alone = _good(server, amount)
        stalled = _Stalled(server, each)
        with contextlib.closing(stalled):
            beside = _good(server, amount)
            closed_in = stalled.wait(_CLOSED_SECONDS if run.control is None else 20)
            left = stalled.left
        alone += _good(server, amount)
        dead = not server.alive()
    return {
        "stalled": stalled.count, "closed_all": int(not left), "closed_in": closed_in,
        "good_p99_ratio": _p99(beside) / _p99(alone), "good_p99_ms": _p99(beside) * 1000,
        "dead": int(dead),
    }  # fmt: skip


def _good(server: TrustServer, amount: int) -> list[float]:
    address = server.inference.removeprefix("http://")
    done = subprocess.run(
        [sys.executable, "-c", _GOOD, address, str(amount)], capture_output=True, check=True
    )
    return msgspec.json.decode(done.stdout, type=list[float])


def _p99(times: list[float]) -> float:
    """The median over blocks of each block's near-worst: one hiccup of the machine is one block's."""
    blocks = [times[at : at + _PER_BLOCK] for at in range(0, len(times), _PER_BLOCK)]
    return statistics.median(sorted(block)[-2] for block in blocks if len(block) > 1)


class _Stalled:
    """Sockets that stall: without a byte, in a head, in a body, and before their answer."""

    def __init__(self, server: TrustServer, each: int) -> None:
        post = b"POST /predictions/stub HTTP/1.1\r\nhost: localhost\r\n"
        asked = post.replace(b"stub", b"big") + b"x-do: bytes\r\nx-size: %d\r\n\r\n" % _ANSWER_BYTES
        kinds = (b"", post + b"x-a: ", post + b"content-length: 100000\r\n\r\n1", asked)
        self.count = 0
        self._trickling: list[socket.socket] = []
        self._open: list[socket.socket] = []
        self._unread: list[socket.socket] = []
        for data in [kinds[3]] * (each // 4) + list(kinds[:3]) * each:
            sock = connect(server.inference)
            if data is asked:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                self._unread.append(sock)
            else:
                self._open.append(sock)
            sock.sendall(data)
            self.count += 1
            if data and data is not asked:
                self._trickling.append(sock)
        self._started = time.monotonic()
        time.sleep(2)  # the large answers are made

    @property
    def left(self) -> int:
        """How many the server has not closed."""
        return len(self._open) + len(self._unread)

    def wait(self, seconds: float) -> float:
        """Send a byte a second where something is owed; returns when the last one was closed."""
        while self.left and time.monotonic() < self._started + seconds:
            for sock in self._trickling:
                with contextlib.suppress(OSError):
                    sock.send(b"x")
            self._look(self._open, _has_ended)
            self._look(self._unread, _is_reset)
            time.sleep(0.5)
        return time.monotonic() - self._started

    def _look(self, sockets: list[socket.socket], ended: Callable[[socket.socket], bool]) -> None:
        for sock in [each for each in sockets if ended(each)]:
            sockets.remove(sock)
            sock.close()

    def close(self) -> None:
        """Let go of those that are left."""
        for sock in (*self._open, *self._unread):
            sock.close()


def _has_ended(sock: socket.socket) -> bool:
    """Whether the end came; answers such as 408 are read on the way."""
    try:
        while select.select([sock], [], [], 0)[0]:
            if not sock.recv(1 << 16):
                return True
    except OSError:
        return True
    return False


def _is_reset(sock: socket.socket) -> bool:
    """Nothing is read: only a reset shows."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def _endless_patience() -> None:
    """Wait for clients as long as they like."""
    limits.HEAD_SECONDS = limits.BODY_SECONDS = limits.WRITE_SECONDS = 1e6


SUITE = Suite(
    name="t17",
    title="slow_clients",
    promises=("G18",),
    limits=(
        Limit("closed_all", exactly=1),
        Limit("closed_in", high=45),
        Limit("good_p99_ratio", high=1.2),
        Limit("dead", exactly=0),
    ),
    controls={"endless-patience": _endless_patience},
    run=run,
    alone=True,
)
