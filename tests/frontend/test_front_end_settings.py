"""What several front-end processes share: keys, certificates, ports; and what they cannot share."""

import json
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from flambeau.config import Address, ServerConfig
from flambeau.errors import ConfigError
from flambeau.frontend.listeners import bind_shared
from flambeau.testing.echo import alive, describe, free_ports, register, write_model
from flambeau.testing.server import running_server
from flambeau.testing.waiting import wait_until
from tests.frontend.front_ends import TWO, front_ends


def test_keys_are_asked_for_and_renewed(tmp_path: Path) -> None:
    """From the answer to a renewal on, every front end takes the new key and not the old one."""
    others = front_ends()
    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store",
        tmp_path / "cache",
        http_workers=TWO,
        disable_token_authorization=False,
        key_file=tmp_path / "keys.json",
    ) as server:

        def key(scope: str) -> dict[str, str]:
            document = json.loads((tmp_path / "keys.json").read_text())
            return {"authorization": f"Bearer {document[scope]['key']}"}

        def statuses(headers: dict[str, str]) -> set[int]:
            url = f"{server.inference}/predictions/echo"
            return {httpx.post(url, headers=headers, timeout=60).status_code for _ in range(12)}

        query = {"url": "echo", "initial_workers": "1", "synchronous": "true"}
        management = key("management")
        answer = httpx.post(f"{server.management}/models", params=query, headers=management)
        assert answer.status_code == 200
        assert statuses({}) == {401}
        assert statuses(management) == {403}
        old = {}
        for _ in range(3):
            old = key("inference")
            assert statuses(old) == {200}
            renewal = f"{server.management}/token?type=inference"
            assert httpx.get(renewal, headers=key("API")).status_code == 200
            assert statuses(old) == {401}
        assert statuses(key("inference")) == {200}
        victim, _ = front_ends(but=others)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not alive(victim) and len(front_ends(but=others)) == TWO)
        assert statuses(old) == {401}
        assert statuses(key("inference")) == {200}
        assert httpx.get(f"{server.inference}/ping").status_code == 200


@pytest.mark.parametrize("shared", ["management_address", "unix"])
def test_what_cannot_be_shared_is_served_by_the_server_process(
    tmp_path: Path, shared: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says so, and everything works."""
    write_model(tmp_path / "store", "echo")
    others = front_ends()
    address = Address(port=free_ports(1)[0])
    if shared == "unix":
        address = Address(path=str(tmp_path / "socket"))
    settings = {"inference_address": address}
    if shared != "unix":
        settings[shared] = address
    store, cache = tmp_path / "store", tmp_path / "cache"
    with running_server(store, cache, http_workers=TWO, **settings) as server:
        assert not front_ends(but=others)
        register(server, "echo")
        assert describe(server, "echo")["modelName"] == "echo"
    warnings = [r.getMessage() for r in caplog.records if "http_workers=2" in r.getMessage()]
    assert len(warnings) == 1


def test_tls_is_the_same_in_every_process(tmp_path: Path) -> None:
    """A self-signed certificate, too: it is made once."""
    import ssl

    write_model(tmp_path / "store", "echo")
    with running_server(
        tmp_path / "store",
        tmp_path / "cache",
        http_workers=TWO,
        inference_address=Address(port=0, tls=True),
    ) as server:
        url = urlsplit(server.inference)
        assert url.hostname is not None
        assert url.port is not None
        found = {ssl.get_server_certificate((url.hostname, url.port)) for _ in range(12)}
        assert len(found) == 1


def test_a_port_in_use_is_an_error_however_it_is_used() -> None:
    """Also where its owner would share it."""
    owner = bind_shared("inference_address", Address(port=0), 2)
    try:
        address = Address(port=owner[0].getsockname()[1])
        with pytest.raises(ConfigError, match="inference_address"):
            bind_shared("inference_address", address, 2)
    finally:
        for sock in owner:
            sock.close()


def test_one_front_end_is_the_server_process() -> None:
    """The default."""
    assert ServerConfig().http_workers == 1
