"""Fetches archives by address into the model store (contract.md section 6.5, promises.md R4).

A download goes into a hidden file of the store, is read as an archive there, and only then gets its
name: nobody ever sees half of one, or something else than an archive. A name that is taken is never
overwritten, unless the archive came from the same address and no model uses it.
"""

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import secrets
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, unquote

import httpx
import msgspec

from flambeau.archive.addresses import file_name, may_reach, parse_url, spells_out
from flambeau.archive.entries import CHUNK_BYTES
from flambeau.archive.signatures import MAX_BYTES, SIGNATURE_SUFFIX
from flambeau.errors import STORAGE_ERRNOS, ArchiveError, ErrorKind, StorageError

logger = logging.getLogger(__name__)

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, secrets included

_SUFFIX = ".download"
_MAX_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0


class FetchRules(msgspec.Struct, frozen=True):
    """From where archives may be fetched (regular expressions), and how large and slow they may be.

    With `signatures`, each archive's is fetched, too, if there is one: the address with `.sig`.
    """

    allowed: tuple[str, ...] = ()
    max_bytes: int = 32 * 1024**3
    seconds: float = 1800
    signatures: bool = False


class Origin(msgspec.Struct, frozen=True):
    """Where a file of the store came from: an address without its query, and the file's identity."""

    url: str
    size: int
    modified_ns: int


class _FetchError(Exception):
    """Why a download failed. For the log: a client could map the network with it."""


async def fetch(
    url: str,
    store: Path,
    rules: FetchRules,
    check: Callable[[Path, str], None],
    in_use: Callable[[Path], bool] | None,
) -> Path:
    """Fetch an archive into `store` and return its path.

    `check` gets the file under a hidden name, and its name; it runs in a thread and raises
    `ArchiveError` for what is no archive. `in_use` says whether a model is served from a file; None:
    what came from this address before will do. Raises `ArchiveError` of the kinds MODEL_NOT_FOUND (may not be fetched), CONFLICT (the name is
    taken), DOWNLOAD_FAILED and INVALID_ARCHIVE, and `StorageError`.
    """
    parts = parse_url(url, rules.allowed)
    target = store / file_name(url)
    replace = target.exists()
    if replace and not await asyncio.to_thread(_came_from, target, url):
        raise _taken(target)
    if replace and in_use is None:
        logger.info("%s is in %s already", _shown(parts), store)
        return target
    if replace and in_use is not None and in_use(target):
        raise _taken(target)
    logger.info("Fetching %s into %s", _shown(parts), store)
    try:
        with _quarantine(target) as (stage, file):
            async with asyncio.timeout(rules.seconds):
                await _copy(parts, file, rules)
                if rules.signatures:
                    await _fetch_signature(parts, stage, rules)
            await asyncio.to_thread(_flush, file)
            await asyncio.to_thread(check, stage, target.name)
            await asyncio.to_thread(_admit, stage, target, url, replace=replace)
    except TimeoutError:
        failure = f"it took longer than {rules.seconds:g} s (download_timeout)"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, _FetchError) as error:
        if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
            raise StorageError(f"{target.name} cannot be kept in the model store", error) from error
        failure = str(error) or type(error).__name__
    else:
        return target
    logger.warning("Failed to download archive from: %s: %s", _shown(parts), failure)
    raise ArchiveError(f"Failed to download archive from: {url}", ErrorKind.DOWNLOAD_FAILED)


async def _fetch_signature(parts: SplitResult, stage: Path, rules: FetchRules) -> None:
    """Fetch the signature of an archive beside it; without one, the archive is an unsigned one."""
    beside = parts._replace(path=parts.path + SIGNATURE_SUFFIX, query="", fragment="")
    file = _signature_of(stage)
    try:
        allowed = parse_url(beside.geturl(), rules.allowed)
        with file.open("xb") as output:
            await _copy(allowed, output, msgspec.structs.replace(rules, max_bytes=MAX_BYTES))
    except (ArchiveError, httpx.HTTPError, OSError, _FetchError) as error:
        logger.info("%s has no signature: %s", _shown(parts), str(error) or type(error).__name__)
        file.unlink(missing_ok=True)


def _signature_of(archive: Path) -> Path:
    return archive.with_name(archive.name + SIGNATURE_SUFFIX)


def _came_from(target: Path, url: str) -> bool:
    """Whether a file of the store was fetched from that address, and is as it was then."""
    try:
        origin = msgspec.json.decode(_origin_file(target).read_bytes(), type=Origin)
        return origin == _origin(target, url)
    except (OSError, msgspec.DecodeError):
        return False


def _origin(target: Path, url: str) -> Origin:
    status = target.stat()
    return Origin(url.partition("?")[0], status.st_size, status.st_mtime_ns)


def _origin_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.origin")


def _taken(target: Path) -> ArchiveError:
    return ArchiveError(f"Model file already exists {target.name}", ErrorKind.CONFLICT)


def _shown(parts: SplitResult) -> str:
    """An address for the log: a presigned query is a secret, and a fragment may hold anything."""
    query, fragment = ("…" if part else "" for part in (parts.query, parts.fragment))
    return parts._replace(query=query, fragment=fragment).geturl()


@contextmanager
def _quarantine(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a hidden file beside `target` that is gone afterwards; others' left ones go, too."""
    for leftover in target.parent.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its owner is dead
            _signature_of(leftover).unlink(missing_ok=True)
            leftover.unlink(missing_ok=True)
    stage = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_SUFFIX}")
    with stage.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield stage, file
        finally:
            _signature_of(stage).unlink(missing_ok=True)
            stage.unlink(missing_ok=True)


def _admit(stage: Path, target: Path, url: str, *, replace: bool) -> None:
    """Give the file its name, and note where it came from."""
    if replace:
        stage.replace(target)
    else:
        try:
            target.hardlink_to(stage)  # unlike a rename, it never overwrites
        except FileExistsError:
            raise _taken(target) from None
        except OSError:  # a file system without links
            if target.exists():
                raise _taken(target) from None
            stage.rename(target)
    if _signature_of(stage).exists():
        _signature_of(stage).replace(_signature_of(target))
    _origin_file(target).write_bytes(msgspec.json.encode(_origin(target, url)))


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


async def _copy(parts: SplitResult, file: BinaryIO, rules: FetchRules) -> None:
    chunks = _file_chunks(parts) if parts.scheme == "file" else _http_chunks(parts, rules)
    size = 0
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            size += len(chunk)
            if size > rules.max_bytes:
                raise _FetchError(f"it has more than {rules.max_bytes} bytes (download_max_bytes)")
            await asyncio.to_thread(file.write, chunk)


def _open_file(path: Path) -> BinaryIO:
    if not path.is_file():  # before open(), which would wait for a FIFO's other end
        raise _FetchError("there is no such file")
    return path.open("rb")


async def _file_chunks(parts: SplitResult) -> AsyncGenerator[bytes]:
    with await asyncio.to_thread(_open_file, Path(unquote(parts.path))) as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


async def _http_chunks(parts: SplitResult, rules: FetchRules) -> AsyncGenerator[bytes]:
    """The body behind an address. Every redirect is held to the same rules as the first address."""
    timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
    trust = await asyncio.to_thread(_trust)
    url = httpx.URL(parts.geturl())
    # trust_env off: like Java, no proxy from the environment, which would undo the pinned address.
    async with httpx.AsyncClient(verify=trust, timeout=timeout, trust_env=False) as client:
        for _ in range(_MAX_REDIRECTS + 1):
            response = await _send(client, url, rules.allowed)
            async with contextlib.aclosing(response):
                if not response.has_redirect_location:
                    if response.status_code != httpx.codes.OK:
                        raise _FetchError(f"the answer's status is {response.status_code}")
                    async for chunk in response.aiter_raw(CHUNK_BYTES):
                        yield chunk
                    return
                url = url.join(response.headers["location"])
            try:
                next_hop = parse_url(str(url), rules.allowed)
            except ArchiveError:
                next_hop = None
            if next_hop is None or next_hop.scheme == "file":
                raise _FetchError(f"it redirects to {url.host}, which allowed_urls does not match")
    raise _FetchError(f"it redirects more than {_MAX_REDIRECTS} times")


async def _send(
    client: httpx.AsyncClient, url: httpx.URL, allowed: Sequence[str]
) -> httpx.Response:
    """Ask one of the host's addresses, which were resolved once and checked."""
    failure: httpx.TransportError | None = None
    for address in await _resolve(url, allowed):
        request = client.build_request(
            "GET",
            url.copy_with(host=address),
            headers={"host": url.netloc.decode("ascii"), "accept-encoding": "identity"},
            extensions={"sni_hostname": url.host},
        )
        try:
            return await client.send(request, stream=True)
        except httpx.ConnectError as error:
            failure = error
    raise failure or _FetchError("the host has no address")


async def _resolve(url: httpx.URL, allowed: Sequence[str]) -> list[str]:
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    named = spells_out(allowed, url.host)
    usable = [each for each in addresses if may_reach(each, url.host, named=named)]
    if addresses and not usable:
        raise _FetchError(
            f"{url.host} is in a private network; to allow it, spell it out in allowed_urls,"
            f" for example {url.scheme}://{url.netloc.decode('ascii')}/.*"
            " (this machine and link-local addresses: by number)"
        )
    return usable


@functools.cache  # 0.1 s of work
def _trust() -> ssl.SSLContext:
    """The certificates that come with httpx, and the system's (`SSL_CERT_FILE` counts)."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
