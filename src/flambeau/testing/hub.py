"""A Hugging Face hub of one's own, for tests without a network.

`HubServer` serves folders over HTTP as the hub serves model repositories: what `huggingface_hub`
and `from_pretrained` ask while they load a model by its id. Point `HF_ENDPOINT` to `endpoint` before
the library is imported, since it reads its environment then:

    with HubServer({"org/tiny-bert": folder}) as hub:
        subprocess.run([...], env=os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": fresh})
"""

import hashlib
import json
import threading
from collections.abc import Collection, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from typing_extensions import override

DEFAULT_REVISION = "main"


class HubFile(msgspec.Struct, frozen=True):
    """A file of a repository; `blob_id` is its git object id, which is also its ETag."""

    path: Path
    size: int
    blob_id: str


class Repository(msgspec.Struct, frozen=True):
    """A folder as one commit: `main` and the commit's hash are its revisions."""

    name: str
    commit: str
    files: dict[str, HubFile]
    gated: bool = False


class HubServer:
    """Serves model folders on a free port of the loopback interface, as a context manager.

    `models` maps ids to folders, read once. `gated` ids need `token` as bearer. `aliases` maps old
    ids to the ids that the server redirects to, as the hub does for `bert-base-uncased`. With
    `elsewhere`, the address of another such server, files are redirected there, as to the hub's CDN.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        *,
        gated: Collection[str] = (),
        token: str | None = None,
        aliases: Mapping[str, str] | None = None,
        elsewhere: str = "",
    ) -> None:
        self.repositories = {
            name: _read_repository(name, folder, gated=name in gated)
            for name, folder in models.items()
        }
        self.aliases = dict(aliases or {})
        self.token = token
        self.elsewhere = elsewhere
        self.tokens: list[str] = []
        """The `Authorization` headers that came along, in order."""
        self.requests: list[str] = []
        """What was asked, in order, such as `GET /api/models/org/tiny-bert`; without the query."""
        self._server = _Listener(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        """The address for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def commit(self, name: str) -> str:
        """The hash of the one commit of a model."""
        return self.repositories[name].commit

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], hub: HubServer) -> None:
        super().__init__(address, _Handler)
        self.hub = hub


class _RequestError(Exception):
    """An answer other than success. `code` is the hub's, in its header `X-Error-Code`."""

    def __init__(self, status: HTTPStatus, code: str = "", headers: dict[str, str] | None = None):
        super().__init__(code)
        self.status = status
        self.headers = (headers or {}) | ({"X-Error-Code": code} if code else {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        assert isinstance(self.server, _Listener)
        return self.server.hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `HubServer.requests` keeps what was asked."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {url.path}")
        self.hub.tokens += self.headers.get_all("Authorization", [])
        try:
            self._route([unquote(part) for part in url.path.split("/")[1:]], parse_qs(url.query))
        except _RequestError as error:
            self._send(error.status, b"", error.headers)

    def _route(self, parts: list[str], query: dict[str, list[str]]) -> None:
        if parts[:2] == ["api", "models"]:
            repository, rest = self._find(parts[2:])
            match rest:
                case [] | ["revision", _]:
                    self._check_revision(repository, rest[1] if rest else DEFAULT_REVISION)
                    self._send_json(_describe(repository, sizes="blobs" in query))
                    return
                case ["tree", revision, *folder]:
                    self._check_revision(repository, revision)
                    self._send_json(_list_tree(repository, "/".join(folder), query))
                    return
                case _:
                    raise _RequestError(HTTPStatus.NOT_FOUND)
        repository, rest = self._find(parts)
        match rest:
            case ["resolve", revision, *path] if path:
                self._check_revision(repository, revision)
                self._send_file(repository, "/".join(path))
            case _:
                raise _RequestError(HTTPStatus.NOT_FOUND)

    def _find(self, parts: list[str]) -> tuple[Repository, list[str]]:
        """The repository that a path begins with, and the rest of the path."""
        hub = self.hub
        for length in (2, 1):
            name = "/".join(parts[:length])
            if name in hub.aliases:
                path = self.path.replace(name, hub.aliases[name], 1)
                raise _RequestError(HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": path})
            repository = hub.repositories.get(name)
            if repository is not None:
                self._check_access(repository)
                return repository, parts[length:]
        # To who shows no token, the hub does not tell an unknown repository from a private one.
        known = "Authorization" in self.headers
        status = HTTPStatus.NOT_FOUND if known else HTTPStatus.UNAUTHORIZED
        raise _RequestError(status, "RepoNotFound")

    def _check_access(self, repository: Repository) -> None:
        if not repository.gated:
            return
        given = self.headers.get("Authorization")
        if given is None:
            raise _RequestError(HTTPStatus.UNAUTHORIZED, "GatedRepo")
        if given != f"Bearer {self.hub.token}":
            raise _RequestError(HTTPStatus.FORBIDDEN, "GatedRepo")

    def _check_revision(self, repository: Repository, revision: str) -> None:
        if revision not in (DEFAULT_REVISION, repository.commit):
            raise _RequestError(HTTPStatus.NOT_FOUND, "RevisionNotFound")

    def _send_file(self, repository: Repository, path: str) -> None:
        commit = {"X-Repo-Commit": repository.commit}
        file = repository.files.get(path)
        if file is None:
            raise _RequestError(HTTPStatus.NOT_FOUND, "EntryNotFound", commit)
        headers = commit | {
            "ETag": f'"{file.blob_id}"',
            "X-Linked-ETag": f'"{file.blob_id}"',
            "X-Linked-Size": str(file.size),
            "Accept-Ranges": "bytes",
        }
        if self.hub.elsewhere:
            there = {"Location": self.hub.elsewhere + self.path}
            self._send(HTTPStatus.FOUND, b"", headers | there)
            return
        start = self._range_start()
        status = HTTPStatus.OK
        if start:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        body = b"" if self.command == "HEAD" else file.path.read_bytes()[start:]
        self._send(status, body, headers, file.size - start)

    def _range_start(self) -> int:
        """Where a download that was broken off goes on: the header `Range: bytes=START-`."""
        start = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        return int(start) if start.isdigit() else 0

    def _send_json(self, value: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        headers: Mapping[str, str],
        length: int | None = None,
    ) -> None:
        """Answer; `length` is the body's where it differs from what a HEAD request is sent."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _read_repository(name: str, folder: Path, *, gated: bool) -> Repository:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            relative = path.relative_to(folder).as_posix()
            files[relative] = HubFile(path, len(content), blob.hexdigest())
    listing = json.dumps({path: file.blob_id for path, file in files.items()})
    commit = hashlib.sha1(f"{name}\n{listing}".encode(), usedforsecurity=False).hexdigest()
    return Repository(name, commit, files, gated)


def _describe(repository: Repository, *, sizes: bool) -> dict[str, object]:
    siblings: list[dict[str, object]] = []
    for path, file in repository.files.items():
        blob = {"size": file.size, "blobId": file.blob_id} if sizes else {}
        siblings.append({"rfilename": path, **blob})
    return {
        "id": repository.name,
        "modelId": repository.name,
        "sha": repository.commit,
        "private": False,
        "gated": "auto" if repository.gated else False,
        "tags": [],
        "siblings": siblings,
    }


def _list_tree(
    repository: Repository, folder: str, query: Mapping[str, list[str]]
) -> list[dict[str, object]]:
    """The files below `folder`, those of its sub-folders too where the query says `recursive`."""
    prefix = f"{folder}/" if folder else ""
    recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
    inside = {
        path: file
        for path, file in repository.files.items()
        if path.startswith(prefix) and (recursive or "/" not in path.removeprefix(prefix))
    }
    if folder and not inside:
        raise _RequestError(
            HTTPStatus.NOT_FOUND, "EntryNotFound", {"X-Repo-Commit": repository.commit}
        )
    return [
        {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
        for path, file in inside.items()
    ]
