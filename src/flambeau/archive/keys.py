"""Keys that sign models, and keys and certificates that are trusted to (ECDSA: P-256, P-384, P-521).

A signature by a certificate counts if a chain leads to a trusted authority, the certificate may sign,
and it names a trusted identity where any are listed. The chain is judged as of the certificate's
beginning, as `model_signing` does: a signature does not tell when it was made, and a model must not
stop loading on the day on which a certificate ends. Take the authority away to end trust in it.
"""

import hashlib
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flambeau.archive.signatures import Bundle, SignatureError, signed_bytes
from flambeau.errors import ConfigError

_HASHES: dict[int, hashes.HashAlgorithm] = {
    256: hashes.SHA256(),
    384: hashes.SHA384(),
    521: hashes.SHA512(),
}
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BEGIN_KEY, _BEGIN_CERTIFICATE = b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN CERTIFICATE-----"
_PRIVATE = b"PRIVATE KEY-----"
_MAX_BYTES = 1024 * 1024


class TrustedKey(msgspec.Struct, frozen=True):
    """A public key, the file it came from, and what a bundle calls it."""

    name: str
    key: ec.EllipticCurvePublicKey
    hint: str


class Trusted(msgspec.Struct, frozen=True):
    """Whose signatures count. `identities`: names of certificates; empty: any of the authorities'."""

    keys: tuple[TrustedKey, ...] = ()
    authorities: tuple[x509.Certificate, ...] = ()
    identities: tuple[str, ...] = ()

    def signer(self, bundle: Bundle) -> str:
        """Verify a bundle's signature; returns who made it. Raises `SignatureError`."""
        if bundle.certificates:
            return self._by_certificate(bundle)
        if not self.keys:
            raise SignatureError("it is made with a bare key, and trusted_keys has none")
        for known in self.keys:
            if bundle.hint in ("", known.hint) and _verifies(known.key, bundle):
                return f"key {known.name} (sha256 {known.hint[:16]})"
        if any(known.hint == bundle.hint for known in self.keys):
            raise SignatureError("the signature is forged: it is not of its own statement")
        raise SignatureError(f"its key (sha256 {bundle.hint[:16]}) is not in trusted_keys")

    def _by_certificate(self, bundle: Bundle) -> str:
        try:
            leaf, *others = [x509.load_der_x509_certificate(der) for der in bundle.certificates]
            key = leaf.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SignatureError(f"its certificate cannot be read: {error}") from error
        if not self.authorities:
            raise SignatureError("it is made with a certificate, and trusted_keys has no authority")
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise SignatureError("its certificate has no key on P-256, P-384 or P-521")
        self._check_chain(leaf, others)
        if not _may_sign(leaf):
            raise SignatureError("its certificate is not for signing")
        names = _names(leaf)
        if self.identities and not names & set(self.identities):
            told = ", ".join(sorted(names)) or "nobody"
            raise SignatureError(f"its certificate names {told}, who is not in trusted_identities")
        if not _verifies(key, bundle):
            raise SignatureError("the signature is forged: it is not of its own statement")
        return ", ".join(sorted(names)) or f"certificate {leaf.serial_number:x}"

    def _check_chain(self, leaf: x509.Certificate, others: list[x509.Certificate]) -> None:
        verifier = (
            verification.PolicyBuilder()
            .store(verification.Store(list(self.authorities)))
            .time(leaf.not_valid_before_utc.replace(tzinfo=None))
            .extension_policies(
                ca_policy=verification.ExtensionPolicy.permit_all().require_present(
                    x509.BasicConstraints, verification.Criticality.AGNOSTIC, _is_authority
                ),
                ee_policy=verification.ExtensionPolicy.permit_all(),
            )
            .build_client_verifier()
        )
        try:
            verifier.verify(leaf, others)
        except (verification.VerificationError, ValueError) as error:
            raise SignatureError(
                f"no trusted authority vouches for its certificate: {error}"
            ) from (error)


class SigningKey(msgspec.Struct, frozen=True):
    """A private key, and the chain of its certificate (the signer's first, DER) if it has one."""

    key: ec.EllipticCurvePrivateKey
    certificates: tuple[bytes, ...] = ()

    def sign(self, payload: bytes) -> Bundle:
        """Sign a statement."""
        signature = self.key.sign(signed_bytes(payload), ec.ECDSA(_HASHES[self.key.key_size]))
        hint = "" if self.certificates else _hint(self.key.public_key())
        return Bundle(payload, signature, self.certificates, hint)


def read_signing_key(
    file: Path, chain: tuple[Path, ...] = (), password: bytes | None = None
) -> SigningKey:
    """Read a private key, and the certificates of `chain`, the key's own first. Raises `ConfigError`."""
    try:
        key = load_pem_private_key(_read(file), password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is no private key that can be read (PEM): {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise ConfigError(f"{file} is no elliptic-curve key on P-256, P-384 or P-521")
    certificates = [each for path in chain for each in _certificates(path)]
    if certificates and certificates[0].public_key() != key.public_key():
        raise ConfigError(f"{chain[0]} is not the certificate of the key {file}")
    return SigningKey(key, tuple(each.public_bytes(Encoding.DER) for each in certificates))


def read_trusted(path: Path, identities: tuple[str, ...] = ()) -> Trusted:
    """Read public keys and authorities' certificates: of one PEM file, or all of a folder.

    Raises `ConfigError` for a file that holds neither: a key that silently does not count would be
    found when a model fails to load.
    """
    keys: list[TrustedKey] = []
    authorities: list[x509.Certificate] = []
    for file in _files(path):
        data = _read(file)
        if _PRIVATE in data:
            raise ConfigError(f"{file} is a private key: trusted_keys wants public ones only")
        if _BEGIN_CERTIFICATE in data:
            authorities += _certificates(file)
        elif _BEGIN_KEY in data:
            keys.append(_public_key(file, data))
        else:
            raise ConfigError(f"{file} holds neither a public key nor a certificate (PEM)")
    if not keys and not authorities:
        raise ConfigError(f"trusted_keys={path} has no file in it")
    return Trusted(tuple(keys), tuple(authorities), identities)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        raise ConfigError(f"trusted_keys={path} cannot be read: {error.strerror}") from error
    return [file for file in inside if file.is_file() and not file.name.startswith(".")]


def _public_key(file: Path, data: bytes) -> TrustedKey:
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is no public key that can be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ConfigError(f"{file} is no elliptic-curve key on P-256, P-384 or P-521")
    return TrustedKey(file.name, key, _hint(key))


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except ValueError as error:
        raise ConfigError(f"{file} holds no certificate that can be read: {error}") from error


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{file} is larger than {_MAX_BYTES} bytes: it is no key")
    return data


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _verifies(key: ec.EllipticCurvePublicKey, bundle: Bundle) -> bool:
    try:
        key.verify(bundle.signature, signed_bytes(bundle.payload), ec.ECDSA(_HASHES[key.key_size]))
    except InvalidSignature:
        return False
    return True


def _is_authority(
    _policy: verification.Policy, _certificate: x509.Certificate, limits: x509.BasicConstraints
) -> None:
    if not limits.ca:
        raise ValueError("a certificate of the chain is no authority's")


def _may_sign(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        if usage.digital_signature:
            return True
    except (x509.ExtensionNotFound, ValueError):
        pass
    try:
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return ExtendedKeyUsageOID.CODE_SIGNING in extended


def _names(leaf: x509.Certificate) -> set[str]:
    """Who a certificate is for: common names, mail addresses, addresses, DNS names."""
    found = {str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    try:
        others = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return found
    for kind in (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName):
        found |= set(others.get_values_for_type(kind))
    return found
