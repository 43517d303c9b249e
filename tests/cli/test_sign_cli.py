"""`flambeau sign` and `flambeau verify`, and the flags of the servers (promises.md G32)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flambeau.archive.admission import Policy
from flambeau.archive.keys import read_signing_key
from flambeau.archive.signing import sign
from flambeau.cli.targets import Choices, resolve
from flambeau.cli.torchserve import parser
from flambeau.errors import ArchiveError
from flambeau.testing.signing import make_key


def flambeau(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flambeau.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_sign_and_verify(tmp_path: Path) -> None:
    """The signature lies beside the archive; `verify` ends with 1 where it does not hold."""
    key = make_key(tmp_path / "keys", "release")
    archive = tmp_path / "m.mar"
    archive.write_bytes(b"archive")
    signed = flambeau("sign", archive, "--key", key.private)
    assert (signed.returncode, signed.stdout.strip()) == (0, f"{archive}.sig")
    good = flambeau("verify", archive, "--trusted-keys", key.public)
    assert (good.returncode, "release.pub" in good.stdout) == (0, True)
    archive.write_bytes(b"archivE")
    bad = flambeau("verify", archive, "--trusted-keys", key.public)
    assert bad.returncode == 1
    assert bad.stderr.startswith(f"flambeau: {archive} is altered: its SHA-256 is ")


@pytest.mark.parametrize(
    ("command", "model", "key", "told"),
    [
        ("sign", "absent.mar", "release.key", "Model not found"),
        ("verify", "absent.mar", "release.pub", "does not exist"),
        ("sign", "release.pub", "absent.key", "cannot be read"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, command: str, model: str, key: str, told: str) -> None:
    """What is missing is named."""
    make_key(tmp_path, "release")
    done = flambeau(command, tmp_path / model, "--key", tmp_path / key)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert told in done.stderr


def test_torchserve_s_flags() -> None:
    """Both beat the file; without them the file decides."""
    given = parser().parse_args(["--require-signed", "require", "--trusted-keys", "keys"])
    assert (given.require_signed, given.trusted_keys) == ("require", "keys")
    assert parser().parse_args([]).require_signed is None


def test_a_model_folder_is_served_from_what_was_verified(tmp_path: Path) -> None:
    """`flambeau serve FOLDER` reads nothing of a folder before its signature, and serves the copy."""
    key = make_key(tmp_path / "keys", "release")
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    cache = tmp_path / "cache"
    policy = Policy("require", key.public, exempt=cache / "adopted")
    with pytest.raises(ArchiveError, match=r"there is no model\.sig beside it"):
        resolve(str(folder), None, Choices(), cache, policy)
    sign(folder, read_signing_key(key.private))
    target = resolve(str(folder), None, Choices(), cache, policy)
    (folder / "model.safetensors").write_bytes(b"others")
    assert target.name == "model"
    weights = target.model_dir / "model.safetensors"
    assert weights.read_bytes() == b"weights"
    assert weights.resolve().is_relative_to(cache / "archives")
