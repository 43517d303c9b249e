"""`https://` addresses: real handshakes, keys and certificates of every kind that TorchServe takes."""

import datetime
import ipaddress
import logging
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from flambeau.config import Address, ServerConfig
from flambeau.errors import ConfigError
from flambeau.frontend.front_ends import setup_of
from flambeau.frontend.tls import make_context, server_certificates
from flambeau.ipc.channel import BlockingChannel
from flambeau.ipc.frontend_messages import FromFrontEnd, NewCertificates, Serving
from flambeau.protocols import limits
from flambeau.testing.echo import write_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.signing import on_a_strange_curve
from flambeau.testing.waiting import wait_until

SECURE = Address(port=0, tls=True)
ALL_SECURE = {
    "inference_address": SECURE, "management_address": SECURE, "metrics_address": SECURE,
}  # fmt: skip


class Pair(msgspec.Struct, frozen=True):
    """A key and a certificate that it signed itself, for 127.0.0.1."""

    key: CertificateIssuerPrivateKeyTypes
    certificate: x509.Certificate

    def pem(self, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> bytes:
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, form, encryption)

    def keystore(self, password: bytes) -> bytes:
        encryption = BestAvailableEncryption(password)
        key: Any = self.key
        return pkcs12.serialize_key_and_certificates(
            b"server", key, self.certificate, None, encryption
        )


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What the server logs, also after a test that set up log files."""
    monkeypatch.setattr(logging.getLogger("flambeau"), "propagate", True)
    return caplog


def make_pair(key: CertificateIssuerPrivateKeyTypes | None = None, *, days: int = 2) -> Pair:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days, hours=-1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(key, certificate)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(rsa.generate_private_key(public_exponent=65537, key_size=2048))


class Files:
    """The pair on the disk."""

    def __init__(self, folder: Path, pair: Pair, form: PrivateFormat = PrivateFormat.PKCS8) -> None:
        self.key = folder / "key.pem"
        self.certificate = folder / "certificate.pem"
        self.key.write_bytes(pair.pem(form))
        self.certificate.write_bytes(pair.certificate.public_bytes(Encoding.PEM))

    @property
    def config(self) -> dict[str, Any]:
        return {"private_key_file": self.key, "certificate_file": self.certificate}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Files:
    return Files(tmp_path_factory.mktemp("tls"), pair)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("secure")
    write_model(root / "store", "echo")
    config = files.config | ALL_SECURE | {"load_models": ("echo",)}
    with running_server(root / "store", root / "cache", **config) as server:
        yield server


def server_context(config: ServerConfig) -> ssl.SSLContext:
    return make_context(server_certificates(config))


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "20", *arguments], capture_output=True, text=True, check=False
    )


def test_all_three_apis_over_tls(secure: RunningServer, files: Files) -> None:
    """A client that trusts the certificate verifies it; one that does not is told."""
    for url in (
        f"{secure.inference}/ping", f"{secure.management}/models", f"{secure.metrics}/metrics"
    ):  # fmt: skip
        assert url.startswith("https://127.0.0.1:")
        assert curl("--fail", "--cacert", str(files.certificate), url).returncode == 0
        assert curl(url).returncode == 60


def test_predictions_over_tls(secure: RunningServer, files: Files) -> None:
    """Bodies of some megabytes both ways, on one connection."""
    context = ssl.create_default_context(cafile=files.certificate)
    with httpx.Client(verify=context, timeout=60) as client:
        query = {"min_worker": "1", "synchronous": "true"}
        client.put(f"{secure.management}/models/echo", params=query)
        for size in (1, 3_000_000):
            headers = {"x-do": "bytes", "x-size": str(size)}
            url = f"{secure.inference}/predictions/echo"
            answer = client.post(url, content=b"y" * size, headers=headers)
            assert (answer.status_code, len(answer.content)) == (200, size)


@pytest.mark.parametrize(
    ("version", "suite"),
    [
        (ssl.TLSVersion.TLSv1_3, "TLS_"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES256-GCM-SHA384"),
    ],
)
def test_tls_1_2_and_1_3(secure: RunningServer, version: ssl.TLSVersion, suite: str) -> None:
    """TorchServe has 1.2 only."""
    context = trusting_nobody()
    context.minimum_version = context.maximum_version = version
    with handshake(secure.inference, context) as sock:
        cipher = sock.cipher()
        assert cipher is not None
        assert cipher[0].startswith(suite)


def test_torchserve_s_stronger_suite_is_offered(secure: RunningServer) -> None:
    """A client that was pinned to it goes on working."""
    context = trusting_nobody()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    with handshake(secure.inference, context) as sock:
        assert sock.version() == "TLSv1.2"


@pytest.mark.parametrize("suite", ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA"])
def test_weak_suites_are_refused(secure: RunningServer, suite: str) -> None:
    """No forward secrecy, or CBC with SHA-1."""
    context = trusting_nobody()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suite}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError), handshake(secure.inference, context):
        pass


def test_plain_http_on_a_tls_port_is_closed(secure: RunningServer, files: Files) -> None:
    """And harms nobody (promises.md G26)."""
    url = httpx.URL(secure.inference)
    with socket.create_connection((url.host, url.port or 0), timeout=60) as sock:
        sock.sendall(b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n")
        received = b""
        try:
            while part := sock.recv(4096):
                received += part
        except ConnectionError:
            pass
        assert b"Healthy" not in received
    answer = curl("--cacert", str(files.certificate), f"{secure.inference}/ping")
    assert '"Healthy"' in answer.stdout


def test_a_stop_does_not_wait_for_idle_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS wants both sides to say goodbye; one that sleeps does not."""
    monkeypatch.setattr(limits, "GOODBYE_SECONDS", 0.1)
    with running_server(tmp_path, tmp_path / "cache", inference_address=SECURE) as server:
        idle = handshake(server.inference, trusting_nobody())
        idle.sendall(b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        start = time.monotonic()
    assert time.monotonic() - start < 25  # not half a minute
    idle.close()


def test_a_client_that_does_not_shake_hands_is_sent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold a connection open for ever."""
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.2)
    with running_server(tmp_path, tmp_path / "cache", inference_address=SECURE) as server:
        url = httpx.URL(server.inference)
        with socket.create_connection((url.host, url.port or 0), timeout=60) as silent:
            assert silent.recv(1) == b""


def test_a_self_signed_certificate_is_made(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """https without any file (section 3.2): for this host, with its fingerprint in the log."""
    with running_server(tmp_path, tmp_path / "cache", inference_address=SECURE) as server:
        assert server.management.startswith("http://")
        url = httpx.URL(server.inference)
        pem = ssl.get_server_certificate((url.host, url.port or 0))
        own = tmp_path / "own.pem"
        own.write_text(pem)
        assert curl("--fail", "--cacert", str(own), f"{server.inference}/ping").returncode == 0
    fingerprint = x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256())
    assert fingerprint.hex(":") in log.text
    assert not list(Path(tmp_path).glob("**/*.key"))


def test_a_pkcs1_key(tmp_path: Path, pair: Pair) -> None:
    """`BEGIN RSA PRIVATE KEY`, as old versions of openssl write it."""
    files = Files(tmp_path, pair, PrivateFormat.TraditionalOpenSSL)
    assert b"BEGIN RSA PRIVATE KEY" in files.key.read_bytes()
    check_identity(ServerConfig(**files.config), pair)


def test_a_chain(tmp_path: Path, pair: Pair) -> None:
    """The server's own certificate first; text between certificates does not matter."""
    files = Files(tmp_path, pair)
    other = make_pair().certificate.public_bytes(Encoding.PEM)
    files.certificate.write_bytes(b"leaf:\n" + files.certificate.read_bytes() + b"\nca:\n" + other)
    check_identity(ServerConfig(**files.config), pair)


@pytest.mark.parametrize("password", ["changeit", "other"])
def test_a_pkcs12_keystore(tmp_path: Path, pair: Pair, files: Files, password: str) -> None:
    """Goes before the PEM files; its password has TorchServe's default."""
    own = make_pair()
    store = tmp_path / "keystore.p12"
    store.write_bytes(own.keystore(password.encode()))
    given: dict[str, Any] = {} if password == "changeit" else {"keystore_pass": password}
    check_identity(ServerConfig(keystore=store, **given, **files.config), own)


def test_a_weak_key_works_with_a_warning(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """TorchServe's own examples have RSA keys of 1024 bits."""
    weak = make_pair(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    files = Files(tmp_path, weak)
    server_context(ServerConfig(**files.config))
    assert "too short" in log.text


def test_an_expired_certificate_is_told(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """Clients would refuse it; the server starts, as TorchServe does."""
    files = Files(tmp_path, make_pair(days=1))
    server_context(ServerConfig(**files.config))
    assert "expired on" in log.text


@pytest.mark.parametrize("http_workers", [1, 2])
def test_a_new_certificate_is_taken_over(
    tmp_path: Path, log: pytest.LogCaptureFixture, http_workers: int
) -> None:
    """Without a restart, by the server process and by front ends: new connections get it, open ones go
    on. A broken one leaves the old one in use, and a line in the log (promises.md G26)."""
    old, new = (
        make_pair(),
        make_pair(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    )
    files = Files(tmp_path, old)
    config = files.config | ALL_SECURE | {"http_workers": http_workers}
    with running_server(tmp_path / "store", tmp_path / "cache", **config) as server:
        addresses = [server.inference] * 4 + [server.management, server.metrics]
        with handshake(server.inference, trusting_nobody()) as kept:
            assert {shown_by(each) for each in addresses} == {der(old)}
            files.key.write_bytes(on_a_strange_curve(files.key.read_bytes()))
            wait_until(lambda: "The old certificate stays in use: " in log.text)
            assert {shown_by(each) for each in addresses} == {der(old)}
            Files(tmp_path, new)
            wait_until(lambda: {shown_by(each) for each in addresses} == {der(new)})
            kept.sendall(b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n")
            assert kept.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("tls", [True, False])
def test_a_front_end_that_starts_during_a_renewal_shows_the_new_certificate(
    tmp_path: Path, files: Files, *, tls: bool
) -> None:
    """It is told of it before it has a server; one of a plain address stays plain."""
    old = server_certificates(ServerConfig(**files.config))
    new = make_pair()
    renewed = server_certificates(ServerConfig(**Files(tmp_path, new).config))
    ours, theirs = socket.socketpair()
    listening = socket.create_server(("127.0.0.1", 0))
    with ours, theirs, listening:
        channel: BlockingChannel[FromFrontEnd] = BlockingChannel(ours, FromFrontEnd)  # type: ignore[arg-type]  # a union
        setup = setup_of(ServerConfig(), "", old if tls else None, None, 1.0)
        channel.send(setup, NewCertificates(renewed))
        descriptors = (theirs.fileno(), listening.fileno())
        command = [sys.executable, "-P", "-m", "flambeau.frontend.process", *map(str, descriptors)]
        with subprocess.Popen(command, pass_fds=descriptors) as process:
            theirs.close()
            assert Serving() in channel.receive()
            scheme = "https" if tls else "http"
            address = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
            if tls:
                assert shown_by(address) == der(new)
            else:
                assert httpx.get(f"{address}/nowhere", timeout=60).status_code == 404
            process.kill()


def test_a_full_disk_for_temporary_files_is_told(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL reads keys from files only; any error but `ConfigError` would end a server's reload."""
    config = ServerConfig(**files.config)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"\(TMPDIR\): No such file"):
        server_context(config)


def test_clients_can_be_asked_for_certificates(tmp_path: Path, pair: Pair) -> None:
    """`client_ca_file`: a handshake without one that it signed comes to nothing."""
    files, client = Files(tmp_path, pair), make_pair()
    (tmp_path / "client").mkdir()
    own = Files(tmp_path / "client", client)
    config = files.config | ALL_SECURE | {"client_ca_file": own.certificate}
    with running_server(tmp_path / "store", tmp_path / "cache", **config) as server:
        url = f"{server.management}/models"
        ask = ("--cacert", str(files.certificate), url)
        assert curl(*ask).returncode != 0
        ours = ("--key", str(own.key), "--cert", str(own.certificate))
        assert curl("--fail", *ours, *ask).returncode == 0
        wrong = ("--key", str(files.key), "--cert", str(files.certificate))
        assert curl(*wrong, *ask).returncode != 0


def test_mistakes_are_told_in_one_line(tmp_path: Path, pair: Pair) -> None:
    """The key in config.properties, the file, the reason, the way out."""
    good = Files(tmp_path, pair)
    other = tmp_path / "other.pem"
    other.write_bytes(make_pair().pem())
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(pair.pem(password=b"secret"))
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    store = tmp_path / "store.p12"
    store.write_bytes(pair.keystore(b"other"))
    java = tmp_path / "store.jks"
    java.write_bytes(b"\xfe\xed\xfe\xed\x00\x00")
    none = tmp_path / "none.pem"
    empty = tmp_path / "empty.pem"
    empty.touch()
    (tmp_path / "strange").mkdir()
    strange = Files(tmp_path / "strange", make_pair())
    for each in (strange.key, strange.certificate):
        each.write_bytes(on_a_strange_curve(each.read_bytes()))
    for change, words in (
        ({"private_key_file": none}, f"private_key_file={none} cannot be read: No such file"),
        ({"certificate_file": none}, f"certificate_file={none} cannot be read: No such file"),
        ({"private_key_file": None}, "private_key_file is missing"),
        ({"certificate_file": None}, "certificate_file is missing"),
        ({"private_key_file": other}, "is not the key of the first certificate"),
        ({"private_key_file": encrypted}, f"is encrypted, .* openssl pkey -in {encrypted}"),
        ({"private_key_file": nonsense}, "holds no private key in PEM"),
        ({"certificate_file": nonsense}, "holds no certificate in PEM"),
        ({"certificate_file": good.key}, "holds no certificate in PEM"),
        ({"keystore": store}, "keystore_pass is not its password"),
        ({"keystore": nonsense}, "is no PKCS12 file"),
        ({"keystore": none}, f"keystore={none} cannot be read"),
        ({"keystore": java}, f"keytool -importkeystore -srckeystore {java}"),
        ({"keystore": store, "keystore_type": "JKS"}, "keytool -importkeystore"),
        ({"client_ca_file": none}, f"client_ca_file={none} cannot be read"),
        ({"client_ca_file": nonsense}, "client_ca_file holds no certificate in PEM"),
        ({"client_ca_file": empty}, "client_ca_file holds no certificate in PEM"),
        ({"private_key_file": strange.key}, "holds no private key in PEM .*: Curve .* is not"),
        ({"certificate_file": strange.certificate}, "that can be used: Curve .* is not supported"),
    ):
        fields: dict[str, Any] = good.config | change
        with pytest.raises(ConfigError, match=words) as raised:
            server_context(ServerConfig(**fields))
        assert "\n" not in raised.value.message


def trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def handshake(address: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    url = httpx.URL(address)
    plain = socket.create_connection((url.host, url.port or 0), timeout=60)
    try:
        return context.wrap_socket(plain, server_hostname=url.host)
    except BaseException:
        plain.close()
        raise


def shown_by(address: str) -> bytes | None:
    """The certificate that a new connection gets."""
    with handshake(address, trusting_nobody()) as sock:
        return sock.getpeercert(binary_form=True)


def der(pair: Pair) -> bytes:
    return pair.certificate.public_bytes(Encoding.DER)


def check_identity(config: ServerConfig, pair: Pair) -> None:
    """Shake hands with the context over a pair of sockets: the pair's certificate is shown."""
    context = server_context(config)
    client = trusting_nobody()
    at_client, at_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(at_client, at_server)
    theirs = context.wrap_bio(at_server, at_client, server_side=True)
    done = 0
    for _ in range(10):
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
    assert done >= 2
    shown = ours.getpeercert(binary_form=True)
    assert shown == pair.certificate.public_bytes(Encoding.DER)
