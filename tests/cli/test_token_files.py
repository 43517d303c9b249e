"""`torchserve` with tokens as it comes: the key file's life, and what is told at the start."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flambeau.testing.waiting import wait_until
from tests.cli.test_torchserve_cli import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder whose configuration says nothing of tokens."""
    made = Place(tmp_path / "place")
    text = made.config.read_text().replace("disable_token_authorization=true\n", "")
    made.config.write_text(text)
    yield made
    made.run("--stop", "--foreground")


def test_tokens_are_on_by_default_and_their_file_goes_with_the_server(place: Place) -> None:
    """In the folder of the start; `--stop` takes it away, wherever it is typed (section 11.1)."""
    assert place.start()[0] == 0
    file = place.root / "key_file.json"
    assert oct(file.stat().st_mode)[-3:] == "600"
    keys = {scope: entry["key"] for scope, entry in json.loads(file.read_text()).items()}
    url = f"http://127.0.0.1:{place.ports[1]}/models"
    assert httpx.get(url).status_code == 401
    headers = {"authorization": f"Bearer {keys['management']}"}
    assert httpx.get(url, headers=headers).status_code == 200
    place.answers()
    wait_until(lambda: '"POST /predictions/echo HTTP/1.1" 401 ' in place.log("access_log.log"))
    assert place.logs(str(file))
    logs = "".join(each.read_text() for each in (place.root / "logs").glob("*.log"))
    assert not [key for key in keys.values() if key in logs]
    place.root = place.root / "store"  # another working directory
    assert place.run("--stop")[0] == 0
    assert not file.exists()


@pytest.mark.parametrize("flag", ["--disable-token-auth", "--dt"])
def test_tokens_can_be_turned_off(place: Place, flag: str) -> None:
    """By TorchServe's flag: no file is written, and everybody may."""
    assert place.start(flag)[0] == 0
    assert not (place.root / "key_file.json").exists()
    assert httpx.get(f"http://127.0.0.1:{place.ports[1]}/models").status_code == 200
    assert "TOKEN AUTHORIZATION IS OFF" not in place.log("ts_log.log")


def test_an_address_for_everybody_without_tokens_is_told_loudly(place: Place) -> None:
    """As TorchServe's own image is set up; it starts, with a warning (promises.md R2)."""
    text = place.config.read_text()
    inference = f"inference_address=http://127.0.0.1:{place.ports[0]}"
    assert inference in text
    place.config.write_text(text.replace(inference, inference.replace("127.0.0.1", "0.0.0.0")))
    assert place.start("--dt")[0] == 0
    assert place.logs("AUTHORIZATION IS OFF")
    line = next(
        line for line in place.log("ts_log.log").splitlines() if "AUTHORIZATION IS OFF" in line
    )
    assert f"http://0.0.0.0:{place.ports[0]}" in line
    assert "WARN" in line


def test_strangers_that_could_run_code_end_the_start(place: Place) -> None:
    """No tokens, the model API, and a management address for everybody, as in images that turn all on:
    one line that says the ways out, of which one is to say that it is meant (promises.md R2)."""
    text = place.config.read_text().replace(
        f"management_address=http://127.0.0.1:{place.ports[1]}",
        f"management_address=http://0.0.0.0:{place.ports[1]}",
    )
    place.config.write_text(text)
    code, printed = place.start("--dt", "--enable-model-api")
    assert code == 1
    for words in ("could run code", "--disable-token-auth", "enable_model_api=false",
                  f"http://127.0.0.1:{place.ports[1]}", "insecure_addresses=true"):  # fmt: skip
        assert words in printed
    assert not place.pid_file.exists()
    place.config.write_text(f"{text}insecure_addresses=true\n")
    assert place.start("--dt", "--enable-model-api")[0] == 0
    assert place.logs("AUTHORIZATION IS OFF")


@pytest.mark.parametrize("foreground", [False, True])
def test_a_key_file_that_cannot_be_written_ends_the_start(place: Place, foreground: bool) -> None:
    """One line with the file, the reason and the way out; a server without its keys is of no use."""
    with place.config.open("a") as config:
        config.write("key_file=missing/key_file.json\n")
    code, printed = place.start(*["--foreground"] * foreground)
    assert code == 1
    told = [line for line in printed.splitlines() if "[WARN ]" not in line]
    assert len(told) == 1
    assert f"{place.root}/missing/key_file.json cannot be written: No such file" in told[0]
    assert "--disable-token-auth" in told[0]
    assert not place.pid_file.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable(place: Place) -> None:
    """The folder of the start, as TorchServe has it."""
    place.root.chmod(0o500)
    try:
        code, printed = place.start()
        assert code == 1
        assert "cannot be written: Permission denied" in printed
    finally:
        place.root.chmod(0o700)


def test_a_second_server_that_cannot_bind_leaves_the_first_one_s_keys(place: Place) -> None:
    """The addresses are taken before the keys are written."""
    assert place.start()[0] == 0
    before = (place.root / "key_file.json").read_text()
    other = place.environment | {"TMPDIR": str(place.root / "store")}
    place.environment, own = other, place.environment
    code, _ = place.start()
    place.environment = own
    assert code == 1
    assert (place.root / "key_file.json").read_text() == before
