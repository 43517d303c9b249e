"""Keys and certificates for tests of signed models."""

import base64
import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

_P256, _PRIME192V3 = (bytes.fromhex(f"2a8648ce3d0301{last}") for last in ("07", "03"))
"""Object identifiers."""


class KeyFiles(msgspec.Struct, frozen=True):
    """A key pair as PEM files."""

    private: Path
    public: Path
    key: ec.EllipticCurvePrivateKey


def make_key(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> KeyFiles:
    """Write `<name>.key` and `<name>.pub` into a folder; the curve is P-256 unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return KeyFiles(private, public, key)


def make_certificate(
    file: Path,
    name: str,
    holder: KeyFiles,
    issuer: tuple[str, KeyFiles],
    *,
    authority: bool = False,
    signs: bool = True,
) -> Path:
    """Write a certificate for `holder`, issued by a name and its key. It has ended already."""
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    usage = {
        "digital_signature": signs and not authority,
        "content_commitment": False,
        "key_encipherment": not authority,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": authority,
        "crl_sign": authority,
        "encipher_only": False,
        "decipher_only": False,
    }
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer[0]))
        .public_key(holder.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(issuer[1].key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return file


def on_a_strange_curve(pem: bytes) -> bytes:
    """The key or certificate on P-256 as if on a curve that nobody implements (X9.62's prime192v3)."""
    begin, *body, end = pem.splitlines()
    der = base64.b64decode(b"".join(body))
    altered = der.replace(_P256, _PRIME192V3)
    assert altered != der
    return b"\n".join((begin, base64.b64encode(altered), end, b""))


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
