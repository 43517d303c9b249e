"""Token authorization over real sockets: every route of every listener (contract.md section 11)."""

import contextlib
import datetime
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from flambeau.config import Address
from flambeau.serving.token_file import create_token
from flambeau.testing.echo import free_ports, write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
API_REFUSED = (
    "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
)
MODEL = "echo"
ROUTES = [
    ("inference", "POST", "/predictions/echo"),
    ("inference", "GET", "/predictions/echo/1.0/a/b"),
    ("inference", "OPTIONS", "/predictions/echo"),
    ("inference", "POST", "/explanations/echo"),
    ("inference", "GET", "/"),
    ("inference", "GET", "/nowhere"),
    ("inference", "GET", "/models"),
    ("management", "GET", "/models"),
    ("management", "GET", "/models/echo"),
    ("management", "PUT", "/models/echo?min_worker=1"),
    ("management", "POST", "/models?url=echo"),
    ("management", "DELETE", "/models/echo/9"),
    ("management", "DELETE", "/models"),
    ("management", "GET", "/nowhere"),
    ("management", "GET", "/token"),
    ("management", "POST", "/token?type=inference"),
    ("management", "GET", "/predictions/echo"),
]


class Guarded(msgspec.Struct, frozen=True):
    """A server that asks for tokens, and its key file."""

    server: RunningServer
    file: Path

    @property
    def keys(self) -> dict[str, str]:
        """The keys that work now."""
        return {scope: entry["key"] for scope, entry in self.document.items()}

    @property
    def document(self) -> dict[str, dict[str, str]]:
        parsed: dict[str, dict[str, str]] = json.loads(self.file.read_text())
        return parsed

    def ask(self, port: str, method: str, path: str, token: str = "") -> httpx.Response:
        """`token` is a scope, whose key is sent, or a whole header."""
        header = f"Bearer {self.keys[token]}" if token in self.keys else token
        headers = {"authorization": header} if header else {}
        base = getattr(self.server, port)
        return httpx.request(method, base + path, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with serve(tmp_path_factory.mktemp("guarded")) as each:
        yield each


@contextlib.contextmanager
def serve(root: Path, **config: Any) -> Iterator[Guarded]:
    """One worker of the model `echo` behind the gate."""
    write_model(root / "store", MODEL)
    settings: dict[str, Any] = {
        "disable_token_authorization": False,
        "key_file": root / "key_file.json",
        "load_models": (MODEL,),
        "default_workers_per_model": 1,
    }

    with running_server(root / "store", root / "cache", **(settings | config)) as server:
        each = Guarded(server, settings["key_file"])
        path = "/predictions/echo"
        wait_until(lambda: each.ask("inference", "GET", path, "inference").is_success)
        yield each


def test_the_key_file(guarded: Guarded) -> None:
    """TorchServe's shape; private; 256 bits a key, times in UTC."""
    assert list(guarded.document) == ["management", "inference", "API"]
    assert set(guarded.document["management"]) == {"key", "expiration time"}
    assert set(guarded.document["inference"]) == {"key", "expiration time"}
    assert set(guarded.document["API"]) == {"key"}
    assert guarded.document["inference"]["expiration time"].endswith("Z")
    assert stat.S_IMODE(guarded.file.stat().st_mode) == 0o600
    assert all(len(key) == 43 for key in guarded.keys.values())
    assert len(set(guarded.keys.values())) == 3
    assert [each.name for each in guarded.file.parent.glob("*key_file*")] == ["key_file.json"]


@pytest.mark.parametrize(("port", "method", "path"), ROUTES)
def test_without_a_key_every_route_is_closed(
    guarded: Guarded, port: str, method: str, path: str
) -> None:
    """Unknown paths and wrong methods too, as in TorchServe; the status is 401 (section 12.2)."""
    for header in ("", "Bearer wrong", f"bearer {guarded.keys[port]}", guarded.keys[port]):
        answer = guarded.ask(port, method, path, header)
        assert answer.status_code == 401, header
        assert answer.headers["www-authenticate"] == "Bearer"
        message = API_REFUSED if path.startswith("/token") else REFUSED
        if method != "HEAD":
            assert answer.json() == {
                "code": 401,
                "type": "InvalidKeyException",
                "message": message,
            }


@pytest.mark.parametrize(("port", "method", "path"), ROUTES)
def test_a_key_of_another_scope_is_refused_as_such(
    guarded: Guarded, port: str, method: str, path: str
) -> None:
    """403: the key is known, and opens something else."""
    own = "API" if path.startswith("/token") else port
    unknown = path == "/nowhere" or (port == "management" and path.startswith("/predictions"))
    for scope in guarded.keys:
        if scope == own or (unknown and port == "management" and scope == "API"):
            continue  # a route that does not exist takes any key of its address
        answer = guarded.ask(port, method, path, scope)
        assert answer.status_code == 403, scope
        assert answer.json()["type"] == "InvalidKeyException"


@pytest.mark.parametrize(
    ("port", "method", "path", "status"),
    [
        ("inference", "POST", "/predictions/echo", 200),
        ("inference", "GET", "/nowhere", 404),
        ("inference", "GET", "/", 405),
        ("management", "GET", "/models", 200),
        ("management", "GET", "/nowhere", 404),
        ("management", "DELETE", "/models", 405),
    ],
)
def test_the_right_key_opens(
    guarded: Guarded, port: str, method: str, path: str, status: int
) -> None:
    """With one blank or more before the key (section 11.1)."""
    assert guarded.ask(port, method, path, port).status_code == status
    assert guarded.ask(port, method, path, f"Bearer   {guarded.keys[port]}").status_code == status


def test_what_needs_no_key(guarded: Guarded) -> None:
    """Probes and scrapers have none; `/ping` does not need one here (section 12.3)."""
    assert guarded.ask("inference", "GET", "/ping").json() == {"status": "Healthy"}
    assert guarded.ask("metrics", "GET", "/metrics").status_code == 200
    assert guarded.ask("metrics", "GET", "/nowhere").status_code == 404


@pytest.mark.parametrize(
    "target",
    [
        "http://other/models",
        "//models",
        "/models/",
        "/%6dodels",
        "/models%2Fecho",
        "/ping/../models",
        "/models?x=/ping",
        "/models;/ping",
        "/models/ping",
        "/token%3ftype=inference",
    ],
)
def test_no_spelling_of_a_path_passes_the_gate(guarded: Guarded, target: str) -> None:
    """The gate decides on the path that was routed, whatever the `Host` says (promises.md R3)."""
    with httpx.Client() as client:
        for host in ("h", "127.0.0.1", "localhost:8080", "x/ping"):
            answer = client.get(
                guarded.server.management,
                headers={"host": host, "referer": "/token"},
                extensions={"target": target.encode()},
            )
            assert answer.status_code == 401, host


def test_two_authorization_headers_are_none(guarded: Guarded) -> None:
    """Whoever reads one of them may not read the other."""
    right = ("authorization", f"Bearer {guarded.keys['inference']}")
    url = f"{guarded.server.inference}/predictions/echo"
    for pair in ([right, ("authorization", "Bearer x")], [("authorization", "x"), right]):
        assert httpx.get(url, headers=pair).status_code == 401


def test_handlers_do_not_see_the_key(guarded: Guarded) -> None:
    """It is the server's; without tokens the header is the handler's, as in TorchServe."""
    url = f"{guarded.server.inference}/predictions/echo"
    headers = {"x-do": "see", "authorization": f"Bearer {guarded.keys['inference']}"}
    assert "authorization" not in httpx.get(url, headers=headers).json()["headers"]


def test_authorization_is_for_handlers_where_tokens_are_off(echo_server: RunningServer) -> None:
    """TorchServe hands all headers over."""
    url = f"{echo_server.inference}/predictions/echo"
    headers = {"x-do": "see", "authorization": "Basic eDp5"}
    assert httpx.get(url, headers=headers).json()["headers"]["authorization"] == "Basic eDp5"
    assert httpx.get(f"{echo_server.management}/token?type=inference").status_code == 404


@pytest.mark.parametrize("scope", ["inference", "management"])
def test_a_key_is_renewed(guarded: Guarded, scope: str) -> None:
    """An empty line is the answer; the file has the new key, and the old one is dead at once."""
    before = guarded.keys
    ends = guarded.document[scope]["expiration time"]
    answer = guarded.ask("management", "POST", f"/token?type={scope}", "API")
    assert (answer.status_code, answer.content) == (200, b"\n")
    assert answer.headers["content-type"] == "application/json"
    after = guarded.keys
    assert {name for name in after if after[name] != before[name]} == {scope}
    assert guarded.document[scope]["expiration time"] > ends
    assert stat.S_IMODE(guarded.file.stat().st_mode) == 0o600
    path = {"inference": "/predictions/echo", "management": "/models"}[scope]
    assert guarded.ask(scope, "GET", path, f"Bearer {before[scope]}").status_code == 401
    assert guarded.ask(scope, "GET", path, scope).status_code == 200


@pytest.mark.parametrize(
    "query", ["", "?type=", "?type=API", "?type=Inference", "?types=inference"]
)
def test_what_cannot_be_renewed(guarded: Guarded, query: str) -> None:
    """TorchServe's 400 and words; nothing changes (section 11.2)."""
    before = guarded.keys
    answer = guarded.ask("management", "GET", f"/token{query}", "API")
    assert answer.status_code == 400
    assert answer.json() == {"code": 400, "type": "InvalidKeyException", "message": API_REFUSED}
    assert guarded.keys == before


def test_one_address_for_everything(tmp_path: Path) -> None:
    """Each route takes its own scope's key; TorchServe leaves management unusable (section 11.1)."""
    address = Address(port=free_ports(1)[0])
    with serve(tmp_path, inference_address=address, management_address=address) as each:
        assert each.ask("inference", "GET", "/predictions/echo", "inference").status_code == 200
        assert each.ask("inference", "GET", "/predictions/echo", "management").status_code == 403
        assert each.ask("management", "GET", "/models", "management").status_code == 200
        assert each.ask("management", "GET", "/models", "inference").status_code == 403
        assert each.ask("management", "GET", "/metrics").status_code == 401
        assert each.ask("management", "GET", "/metrics", "management").status_code == 200
        assert each.ask("management", "GET", "/ping").status_code == 200
        assert each.ask("management", "GET", "/nowhere").status_code == 401
        assert each.ask("management", "GET", "/token?type=inference", "API").status_code == 200
        assert httpx.get(f"{each.server.metrics}/metrics").status_code == 200


def test_torchserve_s_status_can_be_had_back(tmp_path: Path) -> None:
    """`torchserve_statuses=true`: 400 for whatever is wrong with a key."""
    with serve(tmp_path, torchserve_statuses=True) as each:
        for token in ("", "Bearer wrong", "management"):
            answer = each.ask("inference", "GET", "/predictions/echo", token)
            assert answer.status_code == 400
            assert answer.json() == {"code": 400, "type": "InvalidKeyException", "message": REFUSED}


def test_keys_expire(tmp_path: Path) -> None:
    """`token_expiration_min` has decimals; the API key goes on, and makes new ones."""
    with running_server(
        tmp_path,
        tmp_path / "cache",
        disable_token_authorization=False,
        key_file=tmp_path / "keys",
        token_expiration_min=0.001,
    ) as server:
        each = Guarded(server, tmp_path / "keys")
        wait_until(
            lambda: each.ask("management", "GET", "/models", "management").status_code == 401
        )
        old = each.keys["management"]
        assert each.ask("management", "GET", "/token?type=management", "API").status_code == 200
        assert each.keys["management"] != old


def test_the_key_file_goes_with_the_server_that_wrote_it(tmp_path: Path) -> None:
    """But not where another server has written its own there since."""
    file = tmp_path / "key_file.json"
    config = {"disable_token_authorization": False, "key_file": file}
    with running_server(tmp_path, tmp_path / "cache", **config):
        assert file.exists()
        with running_server(tmp_path, tmp_path / "cache2", **config) as second:
            newer = Guarded(second, file)
            assert newer.ask("management", "GET", "/models", "management").status_code == 200
        assert not file.exists()
    with running_server(tmp_path, tmp_path / "cache", **config):
        other = json.dumps({"API": {"key": "of another server"}})
        file.write_text(other)
    assert file.read_text() == other


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://evil.example:{port}"])
def test_web_pages_cannot_manage_models(echo_server: RunningServer, origin: str) -> None:
    """Without tokens any page could, through its visitor's browser (promises.md R16)."""
    headers = {"origin": origin.format(port=httpx.URL(echo_server.management).port)}
    for method, path in (("POST", "/models?url=echo"), ("DELETE", "/models/echo")):
        answer = httpx.request(method, echo_server.management + path, headers=headers)
        assert answer.status_code == 403
        assert "cors_allowed_origin" in answer.json()["message"]
    url = f"{echo_server.management}/models"
    assert httpx.get(url, headers=headers).status_code == 200
    own = {"origin": echo_server.management}
    assert httpx.put(f"{url}/echo?min_worker=1", headers=own).is_success
    assert httpx.post(f"{echo_server.inference}/predictions/echo", headers=headers).is_success


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.nip.example",
             "x@127.0.0.1", "127.0.0.1/", "", "2130706433"],
)  # fmt: skip
def test_a_name_that_points_to_loopback_manages_no_models(
    echo_server: RunningServer, host: str
) -> None:
    """Such a page is of the server's own origin, to the browser (DNS rebinding, promises.md R16)."""
    headers = {"host": host.format(port=httpx.URL(echo_server.management).port)}
    for method, path in (("GET", "/models"), ("PUT", "/models/echo?min_worker=1"), ("GET", "/x")):
        answer = httpx.request(method, echo_server.management + path, headers=headers)
        assert answer.status_code == 403, host
        assert "allowed_hosts" in answer.json()["message"]
    assert httpx.get(f"{echo_server.inference}/ping", headers=headers).is_success


def test_hosts_that_may_be_called_by(tmp_path: Path) -> None:
    """Addresses, localhost, and what `allowed_hosts` names, at any port: a proxy's name, say."""
    with running_server(tmp_path, tmp_path / "c", allowed_hosts=("Models.example",)) as server:
        for host in ("127.0.0.1", "localhost:8081", "LOCALHOST", "[::1]:9", "models.example:80"):
            answer = httpx.get(f"{server.management}/models", headers={"host": host})
            assert answer.status_code == 200, host


def test_an_old_key_goes_on_for_the_overlap(tmp_path: Path) -> None:
    """`token_overlap`: a renewal breaks no client that reads the new key in time."""
    with running_server(
        tmp_path, tmp_path / "cache", disable_token_authorization=False,
        key_file=tmp_path / "keys", token_overlap=600,
    ) as server:  # fmt: skip
        each = Guarded(server, tmp_path / "keys")
        old = f"Bearer {each.keys['management']}"
        for _ in range(3):
            assert each.ask("management", "GET", "/token?type=management", "API").is_success
            assert each.ask("management", "GET", "/models", old).status_code == 200
            assert each.ask("management", "GET", "/models", "management").status_code == 200


def test_a_key_file_that_is_lost_is_made_again(tmp_path: Path) -> None:
    """By the next renewal: with new keys, since the server does not know the old, which still count."""
    with running_server(
        tmp_path, tmp_path / "cache", disable_token_authorization=False, key_file=tmp_path / "keys"
    ) as server:
        each = Guarded(server, tmp_path / "keys")
        old = each.keys
        each.file.write_text("{}")
        path = "/token?type=inference"
        assert each.ask("management", "GET", path, f"Bearer {old['API']}").is_success
        assert not set(old.values()) & set(each.keys.values())
        for header in (f"Bearer {old['management']}", "management"):
            assert each.ask("management", "GET", "/models", header).status_code == 200
        assert each.ask("inference", "GET", "/x", f"Bearer {old['inference']}").status_code == 401


def test_metrics_can_be_closed(tmp_path: Path) -> None:
    """`metrics_token`: a key of the scope metrics, or of management, is asked for."""
    file = tmp_path / "tokens.json"
    key = create_token(file, "prometheus", "metrics")
    with running_server(
        tmp_path, tmp_path / "cache", disable_token_authorization=False, metrics_token=True,
        key_file=tmp_path / "keys", tokens_file=file,
    ) as server:  # fmt: skip
        each = Guarded(server, tmp_path / "keys")
        assert each.ask("metrics", "GET", "/metrics").status_code == 401
        assert each.ask("metrics", "GET", "/metrics", "inference").status_code == 403
        assert each.ask("metrics", "GET", "/metrics", "management").status_code == 200
        assert each.ask("metrics", "GET", "/metrics", f"Bearer {key}").status_code == 200
        assert each.ask("management", "GET", "/models", f"Bearer {key}").status_code == 403


def test_named_tokens(tmp_path: Path) -> None:
    """Several of a scope, perhaps for one model, until they expire; a running server takes them over
    and forgets those that are revoked."""
    file = tmp_path / "tokens.json"
    with serve(tmp_path, tokens_file=file) as each:
        one = "Bearer " + create_token(file, "one", "inference")
        two = "Bearer " + create_token(file, "two", "inference", model=MODEL)
        other = "Bearer " + create_token(file, "other", "inference", model="other")
        late = create_token(file, "late", "inference", lifetime=datetime.timedelta(seconds=-1))
        path = f"/predictions/{MODEL}"
        wait_until(lambda: each.ask("inference", "GET", path, other).status_code == 403)
        assert each.ask("inference", "GET", path, one).status_code == 200
        assert each.ask("inference", "GET", path, two).status_code == 200
        assert each.ask("inference", "GET", f"/v1/models/{MODEL}:predict", two).status_code == 200
        assert each.ask("inference", "GET", path, f"Bearer {late}").status_code == 401
        for unnamed in ("/invocations", "/nowhere", "/predictions/missing", "/models"):
            assert each.ask("inference", "GET", unnamed, two).status_code == 403
        file.write_text("nonsense")
        wait_until(lambda: each.ask("inference", "GET", path, one).status_code == 200)
        file.write_text(json.dumps({"tokens": []}))
        wait_until(lambda: each.ask("inference", "GET", path, one).status_code == 401)
        assert each.ask("inference", "GET", path, "inference").status_code == 200


def test_a_wrong_file_of_named_tokens_changes_nothing_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no text end no server, and `chmod` alone lets a revoked token's end count."""
    monkeypatch.setattr(logging.getLogger("flambeau"), "propagate", True)
    file = tmp_path / "tokens.json"
    key = "Bearer " + create_token(file, "one", "inference")

    def status() -> int:
        return each.ask("inference", "GET", f"/predictions/{MODEL}", key).status_code

    with serve(tmp_path, tokens_file=file) as each:
        file.write_bytes(b'{"tokens":[{"name":"\xff"}]}')
        wait_until(lambda: "Named tokens stay as they were: " in caplog.text)
        assert status() == 200
        file.chmod(0o620)
        file.write_text(json.dumps({"tokens": []}))
        wait_until(lambda: "chmod 600 the file" in caplog.text)
        assert status() == 200
        file.chmod(0o600)
        wait_until(lambda: status() == 401)


def test_wrong_keys_are_counted_and_right_ones_pass(tmp_path: Path) -> None:
    """429 with `Retry-After` after `token_failures_per_minute`; nobody else is locked out."""
    with serve(tmp_path, token_failures_per_minute=5) as each:
        path = f"/predictions/{MODEL}"
        for _ in range(5):
            assert each.ask("inference", "GET", path, "Bearer wrong").status_code == 401
        answer = each.ask("inference", "GET", path, "Bearer wrong")
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert each.ask("inference", "GET", path).status_code == 401  # no attempt
        assert each.ask("inference", "GET", path, "inference").status_code == 200
