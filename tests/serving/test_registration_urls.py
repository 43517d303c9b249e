"""Registering by address: a real server fetches from a real server (contract.md sections 6.5, 11.3)."""

import io
import json
import logging
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from flambeau.testing.echo import describe, predict, write_model
from flambeau.testing.server import RunningServer, running_server

HANDLER = "def handle(data, context):\n    return ['hello' for _ in data or []]\n"
LARGEST = 100_000


def mar(name: str, version: str = "1.0", filling: int = 0) -> bytes:
    """An archive, with so many bytes that do not compress."""
    manifest = {"model": {"modelName": name, "modelVersion": version, "handler": "h.py:handle"}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("h.py", HANDLER)
        file.writestr("w.bin", os.urandom(filling))
    return buffer.getvalue()


def tar_gz(name: str) -> bytes:
    """A tar.gz as SageMaker's users make it: everything below one folder."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(mar(name))) as source,
        tarfile.open(fileobj=buffer, mode="w:gz") as target,
    ):
        for entry in source.namelist():
            member = tarfile.TarInfo(f"nested/{entry}")
            member.size = source.getinfo(entry).file_size
            target.addfile(member, source.open(entry))
    return buffer.getvalue()


class Origin:
    """An HTTP server of archives, some of which it gives away in bad ways."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.end = threading.Event()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server's name
                path = self.path.partition("?")[0]
                origin.asked.append(path)
                head, _, rest = path[1:].partition("/")
                match head:
                    case "to":
                        self.send_response(302)
                        self.send_header("Location", origin.redirects[rest])
                        self.end_headers()
                    case "hang":
                        self.give(b"PK", 1000)
                        origin.end.wait(30)
                    case "short":
                        self.give(b"PK", 1000)
                    case _ if path in origin.files:
                        self.give(origin.files[path], len(origin.files[path]))
                    case _:
                        self.send_error(404)

            def give(self, body: bytes, length: int) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()

            @override
            def log_message(self, format: str, *arguments: object) -> None:  # its name there
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.redirects = {
            "good.mar": f"{self.url}/good.mar",
            "out.mar": f"http://localhost:{self.port}/good.mar",
            "file.mar": "file:///etc/passwd",
            "loop.mar": "loop.mar",
        }


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    made = Origin()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.end.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `file://` addresses may name."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, origin: Origin, files: Path
) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    allowed = (rf"http://127\.0\.0\.1:{origin.port}/.*", f"file://{files}/.*", "http://0[.]0.*")
    with running_server(
        store, tmp_path_factory.mktemp("cache"),
        allowed_urls=allowed, download_max_bytes=LARGEST, download_timeout=20.0,
    ) as running:  # fmt: skip
        yield running


def register(server: RunningServer, url: str, **query: str) -> httpx.Response:
    parameters = {"url": url, "initial_workers": "1"} | query
    return httpx.post(f"{server.management}/models", params=parameters, timeout=60)


def failure(answer: httpx.Response) -> tuple[int, str, str]:
    document = answer.json()
    return answer.status_code, document["type"], document["message"]


def stored(server: RunningServer) -> set[str]:
    """Every name in the store, hidden ones too."""
    store = server.server.config.model_store
    assert store is not None
    return {path.name for path in store.iterdir()}


def test_http(server: RunningServer, origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    """The archive lands in the store under the path's last part; the query is not part of it."""
    origin.files["/a/fetched.mar"] = mar("fetched")
    url = f"{origin.url}/a/fetched.mar?X-Amz-Signature=secret"
    with caplog.at_level(logging.INFO, "flambeau"):
        answer = register(server, url)
    assert "Fetching" in caplog.text
    assert "secret" not in "".join(
        record.getMessage() for record in caplog.records if record.name != "ACCESS_LOG"
    )
    assert answer.json() == {
        "status": 'Model "fetched" Version: 1.0 registered with 1 initial workers'
    }
    assert predict(server, "fetched").text == "hello"
    assert describe(server, "fetched")["modelUrl"] == f"{origin.url}/a/fetched.mar?***"
    store = server.server.config.model_store
    assert store is not None
    assert (store / "fetched.mar").read_bytes() == origin.files["/a/fetched.mar"]
    assert not any("secret" in path.read_text("latin-1") for path in store.iterdir())


def test_a_tar_gz(server: RunningServer, origin: Origin) -> None:
    """SageMaker's layout: one nested folder."""
    origin.files["/nested.tar.gz"] = tar_gz("nested")
    assert register(server, f"{origin.url}/nested.tar.gz").status_code == 200
    assert predict(server, "nested").text == "hello"


def test_a_file(server: RunningServer, files: Path) -> None:
    """`file://` copies into the store; names are percent-decoded for reading."""
    (files / "my dir").mkdir()
    (files / "my dir" / "copied.mar").write_bytes(mar("copied"))
    assert register(server, f"file://{files}/my%20dir/copied.mar").status_code == 200
    assert predict(server, "copied").text == "hello"
    assert "copied.mar" in stored(server)
    missing = f"file://{files}/missing.mar"
    text = f"Failed to download archive from: {missing}"
    assert failure(register(server, missing)) == (400, "DownloadArchiveException", text)


def test_a_name_that_is_taken(server: RunningServer, origin: Origin) -> None:
    """409 in TorchServe's words (there: 500); the file of the store stays as it is."""
    store = server.server.config.model_store
    assert store is not None
    (store / "taken.mar").write_bytes(mar("taken"))
    before = (store / "taken.mar").read_bytes()
    origin.files["/taken.mar"] = mar("other")
    text = "Model file already exists taken.mar"
    assert failure(register(server, f"{origin.url}/taken.mar")) == (
        409, "ConflictStatusException", text,
    )  # fmt: skip
    assert (store / "taken.mar").read_bytes() == before
    assert "/taken.mar" not in origin.asked


def test_unregistering_leaves_the_archive_and_the_address_can_be_used_again(
    server: RunningServer, origin: Origin
) -> None:
    """TorchServe deleted it, so that the second registration worked; here it fetches anew."""
    url = f"{origin.url}/again.mar"
    origin.files["/again.mar"] = mar("again")
    assert register(server, url).status_code == 200
    assert failure(register(server, url))[0] == 409  # while a model uses it
    assert httpx.delete(f"{server.management}/models/again").status_code == 200
    assert "again.mar" in stored(server)
    origin.files["/again.mar"] = mar("again", version="2.0")
    assert register(server, url).status_code == 200
    assert describe(server, "again")["modelVersion"] == "2.0"


def test_two_at_once(server: RunningServer, origin: Origin) -> None:
    """Of two registrations of one new address, one gets the name and the other a 409."""
    origin.files["/race.mar"] = mar("race", filling=50_000)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: register(server, f"{origin.url}/race.mar"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert predict(server, "race").text == "hello"


def test_redirects_within_the_rules_are_followed(server: RunningServer, origin: Origin) -> None:
    """The name is the first address's."""
    origin.files["/good.mar"] = mar("good")
    assert register(server, f"{origin.url}/to/good.mar").status_code == 200
    assert predict(server, "good").text == "hello"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing.mar", "status is 404"),
        ("/to/out.mar", "redirects to localhost, which allowed_urls does not match"),
        ("/to/file.mar", "allowed_urls does not match"),
        ("/to/loop.mar", "redirects more than 5 times"),
        ("/short/x.mar", "peer closed connection"),
        ("/large.mar", "more than 100000 bytes"),
    ],
)
def test_downloads_that_fail(
    server: RunningServer, origin: Origin, path: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """400 in TorchServe's words, the reason in the log, and nothing is left in the store."""
    origin.files["/large.mar"] = mar("large", filling=LARGEST)
    origin.files["/good.mar"] = mar("good")
    before = stored(server)
    with caplog.at_level(logging.WARNING):
        answer = register(server, origin.url + path)
    text = f"Failed to download archive from: {origin.url}{path}"
    assert failure(answer) == (400, "DownloadArchiveException", text)
    assert reason in caplog.text
    assert stored(server) == before


def test_what_is_no_archive_never_gets_a_name(server: RunningServer, origin: Origin) -> None:
    """400 with the reason; a retry after the mend works."""
    origin.files["/junk.mar"] = b"PK\x03\x04 but no more"
    before = stored(server)
    status, kind, message = failure(register(server, f"{origin.url}/junk.mar"))
    assert (status, kind) == (400, "InvalidModelException")
    assert message.startswith("junk.mar: ")
    assert stored(server) == before
    origin.files["/junk.mar"] = mar("junk")
    assert register(server, f"{origin.url}/junk.mar").status_code == 200


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("http://other.example/x.mar", 404, "Given URL http://other.example/x.mar does not match"),
        ("file:///etc/hostname", 404, "Given URL file:///etc/hostname does not match"),
        ("ftp://h/p/good.mar", 404, "ftp:// is not supported"),
        ("s3://bucket/good.mar", 404, "s3:// is not supported"),
        ("http://0.0.0.0:1/x.mar", 400, "Failed to download archive from"),
    ],
)
def test_addresses_that_may_not_be_fetched(
    server: RunningServer, url: str, status: int, message: str
) -> None:
    """Refused, and never answered by a file of the store that happens to have the name."""
    answer = failure(register(server, url))
    assert answer[0] == status
    assert message in answer[2]


def test_a_private_network_is_closed_to_a_broad_pattern(
    tmp_path: Path, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe's own default, given explicitly, opens the internet and not 127.0.0.1."""
    origin.files["/good.mar"] = mar("good")
    (tmp_path / "store").mkdir()
    with (
        running_server(
            tmp_path / "store", tmp_path / "cache", allowed_urls=("file://.*|http(s)?://.*",)
        ) as server,
        caplog.at_level(logging.WARNING),
    ):
        assert register(server, f"{origin.url}/good.mar").status_code == 400
    assert "127.0.0.1 is in a private network; to allow it, spell it out" in caplog.text


def test_a_slow_download_ends_in_time_and_holds_nobody_up(tmp_path: Path, origin: Origin) -> None:
    """`download_timeout`; other models are registered and served meanwhile."""
    write_model(tmp_path / "store", "local")
    with (
        running_server(
            tmp_path / "store", tmp_path / "cache", allowed_urls=(f"{origin.url}/.*",),
            download_timeout=0.7,
        ) as server,
        ThreadPoolExecutor(1) as pool,
    ):  # fmt: skip
        slow = pool.submit(register, server, f"{origin.url}/hang/x.mar")
        assert register(server, "local").status_code == 200
        assert predict(server, "local").status_code == 200
        assert failure(slow.result())[1] == "DownloadArchiveException"
        assert stored(server) == {"local"}


def test_s3_sse_kms(server: RunningServer, origin: Origin) -> None:
    """Not supported, and told before anything is fetched."""
    answer = failure(register(server, f"{origin.url}/kms.mar", s3_sse_kms="true"))
    assert answer[:2] == (400, "BadRequestException")
    assert "presigned https address" in answer[2]
    assert "/kms.mar" not in origin.asked


def test_start_up_models(tmp_path: Path, origin: Origin) -> None:
    """`--models name=https://…`; the next start takes the copy that the store has."""
    origin.files["/start.mar"] = mar("start")
    (tmp_path / "store").mkdir()
    items = (f"{origin.url}/start.mar?sig=a=b", f"named={origin.url}/start.mar")
    for _ in range(2):
        with running_server(
            tmp_path / "store", tmp_path / "cache", allowed_urls=(f"{origin.url}/.*",),
            load_models=items,
        ) as server:  # fmt: skip
            assert describe(server, "start")["loadedAtStartup"] is True
            assert describe(server, "named")["loadedAtStartup"] is True
    assert origin.asked.count("/start.mar") == 1


def test_leftovers_of_a_killed_server(server: RunningServer, origin: Origin) -> None:
    """A download whose server died is removed by the next one."""
    store = server.server.config.model_store
    assert store is not None
    (store / ".x.mar.00ff.download").write_bytes(b"half")
    origin.files["/next.mar"] = mar("next")
    assert register(server, f"{origin.url}/next.mar").status_code == 200
    assert ".x.mar.00ff.download" not in stored(server)
