"""Signatures of models (promises.md G32): made, verified, and the same format as model_signing's.

`data/model_signing` was made by model_signing 1.1.1; where its command is at hand (named by
FLAMBEAU_MODEL_SIGNING), it is asked to verify ours.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from flambeau.archive.admission import Policy
from flambeau.archive.keys import read_signing_key, read_trusted
from flambeau.archive.signatures import SignatureError, ignored_paths, read_bundle
from flambeau.archive.signing import sign, signature_file, verify
from flambeau.errors import ArchiveError, ConfigError
from flambeau.testing.signing import KeyFiles, make_certificate, make_key, on_a_strange_curve

PEER = os.environ.get("FLAMBEAU_MODEL_SIGNING", "")
THEIRS = Path(__file__).parent / "data" / "model_signing"


@pytest.fixture
def key(tmp_path: Path) -> KeyFiles:
    return make_key(tmp_path / "keys", "release")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "m.mar"
    path.write_bytes(b"an archive's bytes")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with files below each other, and git's own."""
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    for name in ("config.json", "sub/weights.bin", "sub-2", ".gitignore"):
        (path / name).write_text(name)
    return path


def trusting(*files: Path, identities: tuple[str, ...] = (), mode: Any = "warn") -> Policy:
    """A policy that trusts what is in one file, or in the folder of several."""
    return Policy(mode, files[0] if len(files) == 1 else files[0].parent, identities)


@pytest.mark.parametrize("name", ["archive.mar", "folder"])
def test_what_model_signing_signed_with_a_key_is_verified(name: str) -> None:
    """Bundles of the reference implementation, of a file and of a folder."""
    signature = verify(THEIRS / name, trusting(THEIRS / "public.pem"))
    assert (signature.status, signature.signer[:14]) == ("verified", "key public.pem")


def test_what_model_signing_signed_with_a_certificate_is_verified() -> None:
    """Through an intermediate authority; the signer is who the certificate names."""
    trusted = trusting(THEIRS / "authority.pem", identities=("robot@example.org",))
    assert verify(THEIRS / "certified.mar", trusted).signer == "Release Robot, robot@example.org"
    other = trusting(THEIRS / "authority.pem", identities=("other@example.org",))
    signature = verify(THEIRS / "certified.mar", other)
    assert signature.status == "untrusted"
    assert "who is not in trusted_identities" in signature.reason


@pytest.mark.parametrize("name", ["archive.mar", "folder"])
def test_the_bundle_is_the_one_that_model_signing_writes(
    tmp_path: Path, name: str, key: KeyFiles
) -> None:
    """But for the key, the signature and the order of what was left out, each field is equal."""
    copy = tmp_path / name
    (shutil.copytree if (THEIRS / name).is_dir() else shutil.copy)(THEIRS / name, copy)
    theirs = _documents(signature_file(THEIRS / name))
    ours = _documents(sign(copy, read_signing_key(key.private)))
    assert ours == theirs


@pytest.mark.peer
@pytest.mark.skipif(not PEER, reason="FLAMBEAU_MODEL_SIGNING names no model_signing command")
def test_model_signing_verifies_ours(tmp_path: Path, key: KeyFiles, folder: Path) -> None:
    """With a key and with a certificate."""
    root = make_key(tmp_path, "root")
    authority = make_certificate(tmp_path / "ca.pem", "Root", root, ("Root", root), authority=True)
    leaf = make_certificate(tmp_path / "leaf.pem", "Robot", key, ("Root", root))
    for chain, method, flag, value in (
        ((), "key", "--public_key", key.public),
        ((leaf,), "certificate", "--certificate_chain", authority),
    ):
        signature = sign(folder, read_signing_key(key.private, chain))
        command = [PEER, "verify", method, folder, flag, value, "--signature", signature]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_archive_is_verified(
    tmp_path: Path, archive: Path, curve: ec.EllipticCurve
) -> None:
    """With each curve that the format knows; the signature lies beside."""
    key = make_key(tmp_path / "keys", "release", curve)
    assert sign(archive, read_signing_key(key.private)) == archive.with_name("m.mar.sig")
    assert verify(archive, trusting(key.public)).status == "verified"


def test_an_altered_archive_is_found(archive: Path, key: KeyFiles) -> None:
    """One bit is enough."""
    sign(archive, read_signing_key(key.private))
    archive.write_bytes(b"an archive's bytez")
    signature = verify(archive, trusting(key.public))
    assert (signature.status, signature.signer[:3]) == ("altered", "key")


def _alter(folder: Path) -> None:
    (folder / "sub" / "weights.bin").write_text("sub/weights.bim")


def _add(folder: Path) -> None:
    (folder / "json.py").write_text("evil")


def _remove(folder: Path) -> None:
    (folder / "sub-2").unlink()


def _link(folder: Path) -> None:
    (folder / "more").symlink_to(folder / "sub")


def _fifo(folder: Path) -> None:
    (folder / "sub-2").unlink()
    os.mkfifo(folder / "sub-2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_alter, "'sub/weights.bin' was altered"),
        (_add, "'json.py' is not signed"),
        (_remove, "'sub-2' is missing"),
        (_link, "'more' is a link to a folder"),
        (_fifo, "'sub-2' was altered"),
    ],
)
def test_an_altered_folder_is_found(
    folder: Path, key: KeyFiles, change: Callable[[Path], None], reason: str
) -> None:
    """A file that was changed, added, removed, or turned into something else."""
    sign(folder, read_signing_key(key.private))
    assert verify(folder, trusting(key.public)).status == "verified"
    change(folder)
    signature = verify(folder, trusting(key.public))
    assert (signature.status, signature.reason) == ("altered", reason)


def test_what_git_keeps_is_not_signed(folder: Path, key: KeyFiles) -> None:
    """As model_signing does; a server that wants signatures does not copy it."""
    sign(folder, read_signing_key(key.private))
    (folder / ".gitignore").write_text("changed")
    assert verify(folder, trusting(key.public)).status == "verified"


def test_links_in_a_folder_are_signed_when_told(folder: Path, key: KeyFiles) -> None:
    """A link could lead elsewhere tomorrow."""
    (folder / "link").symlink_to(folder / "config.json")
    with pytest.raises(ArchiveError, match="is a symbolic link"):
        sign(folder, read_signing_key(key.private))
    sign(folder, read_signing_key(key.private), links=True)
    assert verify(folder, trusting(key.public)).status == "verified"


def test_an_unsigned_model_and_an_unknown_signer(
    tmp_path: Path, archive: Path, key: KeyFiles
) -> None:
    """Each with its own reason."""
    stranger = make_key(tmp_path / "others", "stranger")
    signature = verify(archive, trusting(key.public))
    assert (signature.status, signature.reason) == ("unsigned", "there is no m.mar.sig beside it")
    sign(archive, read_signing_key(stranger.private))
    signature = verify(archive, trusting(key.public))
    assert signature.status == "untrusted"
    assert "is not in trusted_keys" in signature.reason


def test_a_statement_with_another_s_signature_is_forged(archive: Path, key: KeyFiles) -> None:
    """Whoever writes a new digest into the statement cannot sign it."""
    file = sign(archive, read_signing_key(key.private))
    bundle = json.loads(file.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload + b" ").decode()
    file.write_text(json.dumps(bundle))
    signature = verify(archive, trusting(key.public))
    assert (signature.status, "forged" in signature.reason) == ("untrusted", True)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[" * 100_000, b'{"mediaType": "x"}', b"\xff", b'{"mediaType":1}'],
)
def test_a_bundle_that_is_none_is_refused(data: bytes) -> None:
    """Without anything else than the one error."""
    with pytest.raises(SignatureError):
        read_bundle(data)


def test_an_authority_vouches_only_for_signers(tmp_path: Path, archive: Path) -> None:
    """No chain from another authority, through one that is none, or of a certificate that may not sign."""
    root, other, middle, leaf = (make_key(tmp_path / "k", name) for name in "abcd")
    authority = make_certificate(tmp_path / "ca.pem", "R", root, ("R", root), authority=True)
    stranger = make_certificate(tmp_path / "o.pem", "O", other, ("O", other), authority=True)
    none = make_certificate(tmp_path / "m.pem", "M", middle, ("R", root))
    cases = {
        "verified": [make_certificate(tmp_path / "1.pem", "L", leaf, ("R", root))],
        "no trusted authority": [
            make_certificate(tmp_path / "2.pem", "L", leaf, ("O", other)),
            stranger,
        ],
        "vouches": [make_certificate(tmp_path / "3.pem", "L", leaf, ("M", middle)), none],
        "not for signing": [
            make_certificate(tmp_path / "4.pem", "L", leaf, ("R", root), signs=False)
        ],
    }
    for told, chain in cases.items():
        sign(archive, read_signing_key(leaf.private, tuple(chain)))
        signature = verify(archive, trusting(authority))
        assert told in (signature.status if told == "verified" else signature.reason)


def test_a_certificate_on_a_strange_curve_is_untrusted(tmp_path: Path, archive: Path) -> None:
    """The signer's own or one above it: no other error, and `warn` serves the model."""
    root, middle, leaf = (make_key(tmp_path / "k", name) for name in "abc")
    authority = make_certificate(tmp_path / "ca.pem", "R", root, ("R", root), authority=True)
    chain = (
        make_certificate(tmp_path / "leaf.pem", "L", leaf, ("M", middle)),
        make_certificate(tmp_path / "middle.pem", "M", middle, ("R", root), authority=True),
    )
    file = sign(archive, read_signing_key(leaf.private, chain))
    good = file.read_text()
    assert verify(archive, trusting(authority)).status == "verified"
    for each in chain:
        strange = on_a_strange_curve(each.read_bytes())
        old, new = (
            b"".join(pem.split(b"\n")[1:-2]).decode() for pem in (each.read_bytes(), strange)
        )
        assert old in good
        file.write_text(good.replace(old, new))
        policy = trusting(authority)
        assert verify(archive, policy).status == "untrusted"
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert policy.judge_archive(archive, archive.name, digest).status == "untrusted"


def test_keys_that_cannot_be_used_are_refused_by_name(tmp_path: Path, key: KeyFiles) -> None:
    """A key that silently does not count would be found when a model fails to load."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pem").write_text("hello")
    strange = make_key(tmp_path, "strange")
    for file in (strange.private, strange.public):
        file.write_bytes(on_a_strange_curve(file.read_bytes()))
    for path, reason in (
        (key.private, "is a private key"),
        (tmp_path / "text.pem", "neither a public key nor a certificate"),
        (tmp_path / "empty", "has no file in it"),
        (tmp_path / "absent", "cannot be read"),
        (strange.public, "is no public key that can be read: Curve"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read_trusted(path)
    for file in (key.public, strange.private):
        with pytest.raises(ConfigError, match="is no private key"):
            read_signing_key(file)
    with pytest.raises(ConfigError, match="without trusted_keys"):
        Policy("require").check()


def _documents(signature: Path) -> tuple[object, object]:
    """A bundle and its statement, without what differs from signature to signature."""
    bundle = json.loads(signature.read_text())
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope.pop("payload")))
    envelope["signatures"][0].pop("sig")
    bundle["verificationMaterial"]["publicKey"].pop("hint")
    ignored = statement["predicate"]["serialization"]["ignore_paths"]
    statement["predicate"]["serialization"]["ignore_paths"] = sorted({*ignored, *ignored_paths()})
    return bundle, statement
