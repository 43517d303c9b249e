"""The file format of a model's signature: the OpenSSF's `model_signing` 1.x.

A Sigstore bundle (JSON) holds a DSSE envelope, whose payload is an in-toto statement with the SHA-256
of every file of the model. Of an archive, which is one file, that is one digest under the name `.`.
Pure: bytes to records and back, without keys. Keyless bundles (Fulcio, Rekor) and signatures over
shards of files are not read: both need services or memory that a server should do without.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from flambeau.archive.names import entry_parts, shown
from flambeau.errors import ArchiveError

SIGNATURE_SUFFIX = ".sig"
"""A signature lies beside its archive: `model.mar.sig`."""
FOLDER_SIGNATURE = "model.sig"
"""A folder's own signature; it may lie beside the folder, too, as an archive's does."""
MAX_BYTES = 16 * 1024 * 1024
WHOLE = "."
"""The name of the only file of a model that is one file."""

_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")


class SignatureError(Exception):
    """Why a signature does not count; the message is a phrase such as `it is no JSON`."""


class Bundle(msgspec.Struct, frozen=True):
    """A bundle's parts. `certificates` are DER, the signer's first; `hint` tells a bare key.

    Nothing of it is to be believed before the signature over `payload` has been verified.
    """

    payload: bytes
    signature: bytes
    certificates: tuple[bytes, ...] = ()
    hint: str = ""


class SignedFiles(msgspec.Struct, frozen=True):
    """What was signed: digests (SHA-256, hexadecimal) by path below the model's folder.

    `ignored` are paths that were left out, with all below them. `links` says whether the signer
    followed symbolic links.
    """

    digests: dict[str, str]
    ignored: tuple[str, ...] = ()
    links: bool = False

    def ignores(self, name: str) -> bool:
        """Whether a path was left out."""
        return any(name == each or name.startswith(f"{each}/") for each in self.ignored)

    def key(self) -> str:
        """A SHA-256 over names and digests. (The format's own does not cover the names.)"""
        lines = (f"{name}\0{digest}\n" for name, digest in sorted(self.digests.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class _Serialization(msgspec.Struct):
    method: str
    hash_type: str
    allow_symlinks: bool = False
    ignore_paths: list[str] = []


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    subject: list[_Subject]
    predicate_type: str
    predicate: _Predicate


class _Signature(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: list[_Signature]


class _Certificate(msgspec.Struct, rename="camel"):
    raw_bytes: bytes


class _Chain(msgspec.Struct):
    certificates: list[_Certificate]


class _PublicKey(msgspec.Struct):
    hint: str | None = None


class _Material(msgspec.Struct):
    key: _PublicKey | None = msgspec.field(default=None, name="publicKey")
    chain: _Chain | None = msgspec.field(default=None, name="x509CertificateChain")


class _BundleFile(msgspec.Struct):
    media_type: str = msgspec.field(name="mediaType")
    material: _Material = msgspec.field(name="verificationMaterial")
    envelope: _Envelope = msgspec.field(name="dsseEnvelope")


def read_bundle(data: bytes) -> Bundle:
    """Take a bundle apart. Raises `SignatureError` for what is none, or of another kind."""
    file = _decoded(data, _BundleFile, "it is no Sigstore bundle")
    if file.media_type != _MEDIA_TYPE:
        raise SignatureError(f"it is a bundle of the type {shown(file.media_type)}")
    if file.envelope.payload_type != _PAYLOAD_TYPE:
        raise SignatureError(f"it signs {shown(file.envelope.payload_type)}")
    if len(file.envelope.signatures) != 1:
        raise SignatureError(f"it has {len(file.envelope.signatures)} signatures")
    if file.material.key is None and file.material.chain is None:
        raise SignatureError("it is a keyless signature; keys and certificates are verified only")
    certificates = file.material.chain.certificates if file.material.chain else []
    return Bundle(
        file.envelope.payload,
        file.envelope.signatures[0].sig,
        tuple(each.raw_bytes for each in certificates),
        (file.material.key.hint or "") if file.material.key else "",
    )


def write_bundle(bundle: Bundle) -> bytes:
    """The bundle as `model_signing` writes it."""
    material: dict[str, object] = {"publicKey": {"hint": bundle.hint}}
    if bundle.certificates:
        chain = [{"rawBytes": _base64(each)} for each in bundle.certificates]
        material = {"x509CertificateChain": {"certificates": chain}}
    document = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _base64(bundle.payload),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": _base64(bundle.signature), "keyid": ""}],
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def signed_bytes(payload: bytes) -> bytes:
    """What is signed of a payload: DSSE's pre-authentication encoding."""
    kind = _PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def read_statement(payload: bytes) -> SignedFiles:
    """What a statement says, whose signature was verified. Raises `SignatureError`."""
    statement = _decoded(payload, _Statement, "its statement makes no sense")
    if (statement.type, statement.predicate_type) != (_STATEMENT, _PREDICATE):
        raise SignatureError(f"it states {shown(statement.predicate_type)}")
    how = statement.predicate.serialization
    if how.method != "files" or how.hash_type != "sha256":
        raise SignatureError(
            f"it was made over {shown(how.method)} with {shown(how.hash_type)};"
            " sign whole files with sha256"
        )
    digests: dict[str, str] = {}
    root = hashlib.sha256()
    for file in statement.predicate.resources:
        if file.algorithm != "sha256" or file.name in digests:
            raise SignatureError(f"its entry {shown(file.name)} makes no sense")
        digests[file.name] = _checked(file)
        root.update(bytes.fromhex(file.digest))
    wanted = statement.subject[0].digest.get("sha256") if len(statement.subject) == 1 else None
    if wanted != root.hexdigest():
        raise SignatureError("its statement contradicts itself")
    return SignedFiles(digests, tuple(how.ignore_paths), how.allow_symlinks)


def write_statement(name: str, files: SignedFiles) -> bytes:
    """The statement that a model called `name` has these files."""
    names = sorted(files.digests, key=lambda each: each.split("/"))
    root = hashlib.sha256(b"".join(bytes.fromhex(files.digests[each]) for each in names))
    resources = [
        {"name": each, "algorithm": "sha256", "digest": files.digests[each]} for each in names
    ]
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": files.links,
        "ignore_paths": list(files.ignored),
    }
    document = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": _PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }
    return json.dumps(document, indent=2).encode()


def ignored_paths(more: Iterable[str] = ()) -> tuple[str, ...]:
    """What is left out of a folder's signature: the signature itself, and git's own files."""
    return (*_IGNORED, FOLDER_SIGNATURE, *more)


def _checked(file: _Resource) -> str:
    """A file's digest, if its name may stand for a file below a folder."""
    try:
        if file.name != WHOLE and "/".join(entry_parts(file.name)) != file.name:
            raise SignatureError(f"its entry {shown(file.name)} makes no sense")
        if len(bytes.fromhex(file.digest)) != hashlib.sha256().digest_size:
            raise SignatureError(f"its entry {shown(file.name)} has no SHA-256")
    except (ArchiveError, ValueError) as error:
        raise SignatureError(f"its entry {shown(file.name)} makes no sense: {error}") from error
    return file.digest.lower()


def _decoded(data: bytes, kind: Any, complaint: str) -> Any:  # msgspec's own types
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureError(f"{complaint}: {error}") from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
