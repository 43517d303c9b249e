"""One connection of the load against servers that answer in every way HTTP allows, and in others."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httptools
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from flambeau.bench.connection import Connection, Target, describe, target_of
from flambeau.errors import ConfigError

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def _server(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
    """A server that does what `talk` says with each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        port = server.sockets[0].getsockname()[1]
        scheme = "https" if tls else "http"
        yield target_of(f"{scheme}://127.0.0.1:{port}/predictions/m?x=1", {"x-one": "1"})
    finally:
        server.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(size)


def _answers(*answers: bytes) -> Talk:
    """These answers, one a request, on one connection, which is closed then."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await _request(reader)
            writer.write(answer)
            await writer.drain()

    return talk


async def test_a_request_is_what_was_asked_for() -> None:
    """Path and query, the given headers, the exact length and bytes."""
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await _request(reader))
        writer.write(_OK)

    async with _server(talk) as target:
        connection = Connection()
        answer = await connection.exchange(target, target.request(b"\x00body"), 10)
        connection.close()
    assert answer == (200, 2, b"")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predictions/m?x=1 HTTP/1.1\r\n")
    assert b"\r\nx-one: 1\r\n" in head
    assert body == b"\x00body"


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (_OK, 200, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + _OK, 200, b"ok"),
        (b"HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 503, b"abcde"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
    ],
    ids=["length", "continue", "chunked", "no-content", "until-closed"],
)  # fmt: skip
async def test_every_form_of_an_answer(raw: bytes, status: int, body: bytes) -> None:
    """A length, chunks, none at all, or until the server hangs up."""
    async with _server(_answers(raw)) as target:
        connection = Connection()
        answer = await connection.exchange(target, target.request(b""), 10, keep_body=True)
        connection.close()
    assert answer == (status, len(body), body)


async def test_a_connection_is_used_again_and_replaced_when_it_was_closed() -> None:
    """A server may close a connection that lies idle: that is no failed request."""
    async with _server(_answers(_OK, _OK)) as target:
        connection = Connection()
        for _ in range(5):
            assert (await connection.exchange(target, target.request(b"x"), 10)).status == 200
        connection.close()


async def test_connection_close_is_heard() -> None:
    """The next request opens a new one."""
    async with _server(
        _answers(_OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    ) as target:
        connection = Connection()
        for _ in range(3):
            assert (await connection.exchange(target, target.request(b"x"), 10)).status == 200
            assert not connection.open


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "connection closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "connection closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
    ],
    ids=["nothing", "half", "ssh"],
)
async def test_no_answer_is_told_by_its_kind(raw: bytes, kind: str) -> None:
    """And the connection is given up."""
    async with _server(_answers(raw)) as target:
        connection = Connection()
        with pytest.raises((OSError, httptools.HttpParserError)) as caught:
            await connection.exchange(target, target.request(b"x"), 10)
        assert describe(caught.value) == kind
        assert not connection.open


async def test_a_time_out_gives_the_connection_up() -> None:
    """Its late answer must not be taken for the next request's."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)  # until the client hangs up

    async with _server(talk) as target:
        connection = Connection()
        with pytest.raises(TimeoutError) as caught:
            await connection.exchange(target, target.request(b"x"), 0.05)
        assert describe(caught.value) == "time-out"
        assert not connection.open


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://h/", "http://", "http://h:x/", "http://h/é中"]
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ConfigError):
        target_of(url, {})


def _certificate(file: Path) -> ssl.SSLContext:
    """Writes one that signed itself, for 127.0.0.1; returns the server's side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_https_trusts_whom_the_system_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that signed itself is told; SSL_CERT_FILE makes it known."""
    tls = _certificate(tmp_path / "pair.pem")
    for known in (False, True):
        if known:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pair.pem"))
        async with _server(_answers(_OK), tls) as target:
            connection = Connection()
            if known:
                assert (await connection.exchange(target, target.request(b"x"), 10)).status == 200
            else:
                with pytest.raises(OSError) as caught:  # noqa: PT011 - told by its kind
                    await connection.exchange(target, target.request(b"x"), 10)
                assert describe(caught.value) == "TLS failed"
            connection.close()
