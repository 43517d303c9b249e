"""Named tokens in their file: what is written, and which files are refused."""

import datetime
import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flambeau.errors import FlambeauError
from flambeau.serving.token_file import (
    MAX_TOKENS,
    create_token,
    read_tokens,
    revoke_token,
)
from flambeau.serving.tokens import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_file_has_a_digest_and_no_key(tmp_path: Path) -> None:
    """256 random bits; the file is its owner's only, from the first byte."""
    file = tmp_path / "tokens.json"
    key = create_token(file, "ci", "inference", model="m", lifetime=datetime.timedelta(days=1))
    assert len(key) == 43
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    [token] = read_tokens(file)
    assert token.grant().digest == digest_of(key)
    assert (token.scope, token.model) == ("inference", "m")
    assert token.expires == token.created + datetime.timedelta(days=1)
    revoke_token(file, "ci")
    assert read_tokens(file) == []
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.json"]


def test_no_file_is_no_tokens(tmp_path: Path) -> None:
    """The default name need not be there."""
    assert read_tokens(tmp_path / "none") == []


def test_mistakes_are_told(tmp_path: Path) -> None:
    """The file, the reason, the way out."""
    file = tmp_path / "tokens.json"
    create_token(file, "a", "management")
    mistakes: list[tuple[Callable[[], object], str]] = [
        (lambda: create_token(file, "a", "management"), "named 'a'"),
        (lambda: create_token(file, "b", "metrics", model="m"), "for no single model"),
        (lambda: create_token(file, "b", "inference", model="../m"), "is not allowed"),
        (lambda: revoke_token(file, "b"), "no token named 'b'"),
        (lambda: create_token(tmp_path / "x" / "y", "b", "inference"), "No such file"),
    ]
    for call, words in mistakes:
        with pytest.raises(FlambeauError, match=words):
            call()
    assert len(read_tokens(file)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "all"},
        {"sha256": "00"},
        {"sha256": "x" * 64},
        {"expires": "2030-01-01T00:00:00"},
        {"name": 1},
        {"modle": "m"},
        {"scope": "metrics", "model": "m"},
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """As a whole: half of it would be a surprise."""
    file = tmp_path / "tokens.json"
    create_token(file, "a", "inference")
    document = json.loads(file.read_text())
    document["tokens"].append(document["tokens"][0] | {"name": "b"} | change)
    file.write_text(json.dumps(document))
    with pytest.raises(FlambeauError, match="is not what flambeau token create writes"):
        read_tokens(file)


def test_a_key_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    """Whatever the case of its digits: which entry counts would be a matter of luck."""
    file = tmp_path / "tokens.json"
    create_token(file, "a", "inference", model="m")
    [token] = json.loads(file.read_text())["tokens"]
    again = {"name": "b", "scope": "inference", "sha256": token["sha256"].upper()}
    file.write_text(json.dumps({"tokens": [token, again | {"created": token["created"]}]}))
    with pytest.raises(FlambeauError, match="'a' and 'b' have the same sha256"):
        read_tokens(file)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """They could let themselves in."""
    file = tmp_path / "tokens.json"
    create_token(file, "a", "inference")
    file.chmod(0o620)
    with pytest.raises(FlambeauError, match="chmod 600"):
        read_tokens(file)


def test_the_number_of_tokens_is_bounded(tmp_path: Path) -> None:
    """Each request's key is compared with all of them."""
    file = tmp_path / "tokens.json"
    create_token(file, "a", "inference")
    [token] = json.loads(file.read_text())["tokens"]
    tokens = [token | {"name": str(n), "sha256": f"{n:064x}"} for n in range(MAX_TOKENS)]
    file.write_text(json.dumps({"tokens": tokens}))
    with pytest.raises(FlambeauError, match="the most"):
        create_token(file, "b", "inference")
