"""Requests byte by byte, many at once on a connection: what a client library would not send."""

import socket
from collections.abc import Sequence
from typing import NamedTuple

import httpx

_AT_ONCE = 64


class Raw(NamedTuple):
    """One request as it is sent: target and headers may be anything but line ends."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()

    def encoded(self, host: str) -> bytes:
        """The request's bytes; `host` where no header names one."""
        named = any(name.lower() == "host" for name, _ in self.headers)
        headers = self.headers if named else (("host", host), *self.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"{self.method} {self.target} HTTP/1.1\r\n{lines}content-length: 0\r\n\r\n"
        return head.encode("latin-1")


class Answer(NamedTuple):
    """Status, 0 where no answer came; head and body."""

    status: int
    head: bytes = b""
    body: bytes = b""


def ask_all(base: str, requests: Sequence[Raw]) -> list[Answer]:
    """Send requests over connections with some dozens each, and read the answers in order."""
    answers: list[Answer] = []
    for first in range(0, len(requests), _AT_ONCE):
        answers += _ask(base, requests[first : first + _AT_ONCE])
    return answers


def _ask(base: str, requests: Sequence[Raw]) -> list[Answer]:
    url = httpx.URL(base)
    host = f"{url.host}:{url.port}"
    methods = [each.method for each in requests]
    answers: list[Answer] = []
    received = bytearray()
    with socket.create_connection((url.host, url.port or 80), timeout=20) as sock:
        sock.sendall(b"".join(each.encoded(host) for each in requests))
        try:
            while len(answers) < len(requests) and (part := sock.recv(1 << 18)):
                received += part
                if received.count(b"HTTP/1.1 ") >= len(requests):
                    answers = _answers(bytes(received), methods)
        except OSError:
            pass  # what was sent until then counts
    answers = _answers(bytes(received), methods)
    if len(answers) == len(requests):
        return answers
    if not answers:
        answers = [Answer(0)]
    return answers + ask_all(base, requests[len(answers) :])  # the server ended the connection


def _answers(received: bytes, methods: Sequence[str]) -> list[Answer]:
    """The answers that are complete; none of them is chunked."""
    found: list[Answer] = []
    at = 0
    for method in methods:
        end = received.find(b"\r\n\r\n", at) + 4
        if end < 4:
            break
        head = received[at:end]
        _, _, rest = head.lower().partition(b"\r\ncontent-length:")
        length = int(rest.partition(b"\r\n")[0] or 0) if method != "HEAD" else 0
        at = end + length
        if at > len(received):
            break
        found.append(Answer(int(head[9:12]), head, received[end:at]))
    return found
