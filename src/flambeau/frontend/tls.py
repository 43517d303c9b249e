"""The TLS side of `https://` addresses: a key and its certificates, from files or made at start.

Where they come from is TorchServe's rule (contract.md section 3.2): `keystore`, else
`private_key_file` with `certificate_file`, else a self-signed certificate. TLS 1.2 and 1.3, and of
1.2 only suites with forward secrecy and authenticated encryption. Certificates can be exchanged while
connections are open: new ones get the new ones.
"""

import datetime
import ipaddress
import logging
import shlex
import socket
import ssl
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    PrivateKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from flambeau.config import ServerConfig
from flambeau.errors import ConfigError, first_line
from flambeau.ipc.frontend_messages import Certificates

logger = logging.getLogger(__name__)

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)
_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20"
_WEAK_KEYS = ":@SECLEVEL=1"
_SELF_SIGNED_DAYS = 397
_JAVA_STORES = (b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce")
"""How a JKS and a JCEKS file begin."""


class Identity(NamedTuple):
    """A private key, and its certificate with the chain above it."""

    key: PrivateKey
    chain: Sequence[x509.Certificate]
    source: str


def server_identity(config: ServerConfig) -> Identity:
    """The key and certificates of every TLS listener. Raises `ConfigError` naming key and file."""
    identity = _identity(config)
    end = identity.chain[0].not_valid_after_utc
    if end < datetime.datetime.now(datetime.UTC):
        logger.warning("The certificate of %s expired on %s.", identity.source, end.date())
    return identity


def server_certificates(config: ServerConfig) -> Certificates:
    """What every TLS listener shows, tried out. Raises `ConfigError` naming the key and the file."""
    identity = server_identity(config)
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = key + b"".join(each.public_bytes(Encoding.PEM) for each in identity.chain)
    client_ca = None
    if config.client_ca_file is not None:
        client_ca = _read("client_ca_file", config.client_ca_file).decode("latin-1")
    certificates = Certificates(pem, identity.source, client_ca)
    make_context(certificates)
    return certificates


def certificate_files(config: ServerConfig) -> list[Path]:
    """The files that the certificates are read from."""
    pair = (
        [config.keystore] if config.keystore else [config.private_key_file, config.certificate_file]
    )
    return [file for file in (*pair, config.client_ca_file) if file is not None]


class Tls:
    """The TLS side of a process's listeners; `context` is the one that they are started with."""

    def __init__(self, certificates: Certificates) -> None:
        self.context = self._current = make_context(certificates)
        self.context.sni_callback = self._choose

    def use(self, certificates: Certificates) -> None:
        """Handshakes from now on get these; open connections go on. Raises `ConfigError`."""
        self._current = make_context(certificates)

    def _choose(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """Called in each handshake, whether or not the client names a server."""
        if self._current is not self.context:
            connection.context = self._current


def make_context(certificates: Certificates) -> ssl.SSLContext:
    """The context of a TLS listener. Raises `ConfigError` naming where the certificates are from."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.set_alpn_protocols(["http/1.1"])
    source = certificates.source
    try:
        _load(context, certificates.identity)
    except ssl.SSLError as error:
        if "TOO_SMALL" not in str(error.reason) and "TOO_WEAK" not in str(error.reason):
            raise ConfigError(f"{source} cannot be used for TLS: {error}") from error
        logger.warning(
            "The key of %s is too short for today's security; use at least RSA 2048.",
            source,
        )
        context.set_ciphers(_SUITES + _WEAK_KEYS)
        _load(context, certificates.identity)
    if certificates.client_ca is not None:
        _ask_for_certificates(context, certificates.client_ca)
    return context


def _ask_for_certificates(context: ssl.SSLContext, authorities: str) -> None:
    """Let nobody in without a certificate that one of these has signed."""
    try:
        context.load_verify_locations(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"client_ca_file holds no certificate in PEM: {first_line(error)}"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET  # a resumed session would not be checked again
    context.num_tickets = 0


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Hand the identity to OpenSSL, which reads files only: in a folder that nobody else can read."""
    try:
        with tempfile.TemporaryDirectory(prefix="flambeau-") as folder:
            file = Path(folder, "identity.pem")
            file.write_bytes(pem)
            context.load_cert_chain(file)
    except ssl.SSLError:  # an OSError, too, but of what the file says
        raise
    except OSError as error:
        raise ConfigError(
            f"The key for TLS cannot be handed over in the folder of temporary files (TMPDIR):"
            f" {error.strerror or error}"
        ) from error


def _identity(config: ServerConfig) -> Identity:
    if config.keystore is not None:
        return _from_keystore(config.keystore, config.keystore_pass, config.keystore_type)
    files = {
        "private_key_file": config.private_key_file,
        "certificate_file": config.certificate_file,
    }
    missing = [key for key, file in files.items() if file is None]
    if len(missing) == 1:
        raise ConfigError(
            f"Invalid configuration: {missing[0]} is missing: private_key_file and"
            " certificate_file belong together; set both, or neither for a self-signed certificate"
        )
    if config.private_key_file is not None and config.certificate_file is not None:
        return _from_files(config.private_key_file, config.certificate_file)
    addresses = (config.inference_address, config.management_address, config.metrics_address)
    return _self_signed({address.host for address in addresses if address.tls})


def _from_files(key_file: Path, certificate_file: Path) -> Identity:
    try:
        key = load_pem_private_key(_read("private_key_file", key_file), password=None)
    except TypeError:
        raise ConfigError(
            f"private_key_file={key_file} is encrypted, and nobody is there to type its password."
            f" Write a plain copy: openssl pkey -in {shlex.quote(str(key_file))} -out plain.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"private_key_file={key_file} holds no private key in PEM (PKCS#8 or PKCS#1):"
            f" {first_line(error)}"
        ) from error
    try:
        chain = x509.load_pem_x509_certificates(_read("certificate_file", certificate_file))
        certified = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"certificate_file={certificate_file} holds no certificate in PEM that can be used:"
            f" {first_line(error)}"
        ) from error
    if key.public_key() != certified:
        raise ConfigError(
            f"private_key_file={key_file} is not the key of the first certificate in"
            f" certificate_file={certificate_file}. The server's own certificate comes first, the"
            " chain after it."
        )
    return Identity(_signing(key, f"private_key_file={key_file}"), chain, str(certificate_file))


def _from_keystore(file: Path, password: str, kind: str) -> Identity:
    data = _read("keystore", file)
    if kind.upper() != "PKCS12" or data.startswith(_JAVA_STORES):
        quoted = shlex.quote(str(file))
        raise ConfigError(
            f"keystore={file} is a Java keystore ({kind}), which only Java reads. Convert it:"
            f" keytool -importkeystore -srckeystore {quoted} -destkeystore server.p12"
            " -deststoretype PKCS12; then set keystore=server.p12 and keystore_type=PKCS12"
        )
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(data, password.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"keystore={file} is no PKCS12 file, or keystore_pass is not its password:"
            f" {first_line(error)}"
        ) from error
    if key is None or certificate is None:
        raise ConfigError(f"No key entry found in keystore={file}.")
    return Identity(_signing(key, f"keystore={file}"), [certificate, *others], str(file))


def _signing(key: PrivateKeyTypes, where: str) -> PrivateKey:
    if not isinstance(key, PrivateKey):
        raise ConfigError(f"{where}: a key of this kind cannot be used for TLS; use RSA or EC.")
    return key


def _self_signed(hosts: Iterable[str]) -> Identity:
    """A certificate for these hosts, and for this machine's names where one is a wildcard."""
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts} - {"0.0.0.0", "::"}  # noqa: S104
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flambeau, self-signed")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in sorted(names)]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    logger.warning(
        "TLS with a self-signed certificate, made for this run: clients cannot know it. Set"
        " private_key_file and certificate_file. SHA-256 fingerprint: %s",
        certificate.fingerprint(hashes.SHA256()).hex(":"),
    )
    return Identity(key, [certificate], "the self-signed certificate")


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read(key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}={file} cannot be read: {error.strerror or error}") from error
