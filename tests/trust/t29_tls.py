"""T29: which handshakes are accepted, and what a certificate that is replaced under load costs."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from typing_extensions import override

from flambeau.frontend import tls, watch
from flambeau.ipc.frontend_messages import Certificates
from flambeau.testing.echo import free_ports
from flambeau.testing.waiting import wait_until
from tests.trust.servers import trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_OLD = (
    (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),
    (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
    (ssl.TLSVersion.TLSv1_2, "NULL:@SECLEVEL=0"),
)
"""What must not be spoken: highest version and suites of a client."""

_GOOD = ((ssl.TLSVersion.TLSv1_2, "ECDHE"), (ssl.TLSVersion.TLSv1_3, "ECDHE"))
_PLAIN = (
    b"GET /ping HTTP/1.1\r\nhost: h\r\n\r\n",
    b"\x00" * 300,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
_TAKEN_SECONDS = 20.0


def run(run: Run) -> Figures:
    """Shake hands in all ways; then replace the certificate while clients connect and ask."""
    folder = run.folder / "certificates"
    folder.mkdir()
    serials = {write_certificate(folder)}
    [port] = free_ports(1)
    properties = {
        "metrics_address": f"https://127.0.0.1:{port}",
        "private_key_file": folder / "key.pem",
        "certificate_file": folder / "certificate.pem",
    }
    with trust_server(run, properties=properties) as server:
        weak = sum(_shakes(port, version, suites) for version, suites in _OLD)
        good = sum(_shakes(port, version, suites) for version, suites in _GOOD)
        unclean = sum(not _closes(port, data) for data in _PLAIN)
        load = _Load(port)
        load.start()
        rounds = taken = 0
        for _ in range(run.amount(3, 20, 1)):
            if not rounds:
                (folder / "certificate.pem").write_text("broken")  # must not be taken over
                time.sleep(2.5 * watch.SECONDS)
            serial = write_certificate(folder)
            serials.add(serial)
            rounds += 1
            taken += _is_taken(port, serial)
        load.stop()
        alive = server.alive()
    return {
        "weak_accepted": weak,
        "good_refused": len(_GOOD) - good,
        "plain_unclean": unclean,
        "rounds": rounds,
        "not_taken": rounds - taken,
        "requests": load.answered,
        "drops": load.dropped,
        "strange": len(load.serials - serials),
        "alive": int(alive),
    }


def write_certificate(folder: Path) -> int:
    """Write a new key and its certificate for 127.0.0.1, by renaming; returns the serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trust")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, data in (
        ("key.pem", pem),
        ("certificate.pem", certificate.public_bytes(Encoding.PEM)),
    ):
        (folder / f"{file}.new").write_bytes(data)
        (folder / f"{file}.new").rename(folder / file)
    return certificate.serial_number


class _Load(threading.Thread):
    """Clients that connect, ask and leave, and one that stays; any failure is a drop."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.answered = self.dropped = 0
        self.serials: set[int] = set()
        self._port = port
        self._ended = threading.Event()

    @override
    def run(self) -> None:
        with _connect(self._port) as kept:
            while not self._ended.is_set():
                for sock in (kept, None):
                    try:
                        self._ask(sock)
                    except OSError:
                        self.dropped += 1
                    else:
                        self.answered += 1

    def _ask(self, kept: ssl.SSLSocket | None) -> None:
        sock = kept or _connect(self._port)
        try:
            sock.sendall(b"GET /metrics?name[]=x HTTP/1.1\r\nhost: h\r\n\r\n")
            if not sock.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise ConnectionError("no answer")
            if kept is None:
                self.serials.add(_serial(sock))
        finally:
            if kept is None:
                sock.close()

    def stop(self) -> None:
        """Let the last exchange end."""
        self._ended.set()
        self.join(30)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connect(port: int, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    try:
        return (context or _context()).wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _serial(sock: ssl.SSLSocket) -> int:
    return x509.load_der_x509_certificate(sock.getpeercert(binary_form=True) or b"").serial_number


def _shakes(port: int, version: ssl.TLSVersion, suites: str) -> bool:
    context = _context()
    try:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        context.set_ciphers(suites)
        with _connect(port, context):
            return True
    except OSError:
        return False


def _closes(port: int, data: bytes) -> bool:
    """Whether what is no TLS is answered by no word of HTTP, and the connection ends soon."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        try:
            sock.sendall(data)
            received = b""
            while part := sock.recv(4096):
                received += part
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return b"200" not in received


def _is_taken(port: int, serial: int) -> bool:
    def shown() -> bool:
        with _connect(port) as sock:
            return _serial(sock) == serial

    try:
        wait_until(shown, _TAKEN_SECONDS)
    except TimeoutError:
        return False
    return True


def _no_reload() -> None:
    """Look at no file after the start."""

    async def nothing(_self: object, _changed: object) -> None:
        return

    watch.Watch.run = nothing  # type: ignore[assignment,method-assign]


def _old_versions() -> None:
    """Accept whatever OpenSSL can."""
    make = tls.make_context

    def carelessly(certificates: Certificates) -> ssl.SSLContext:
        context = make(certificates)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context

    tls.make_context = carelessly


SUITE = Suite(
    name="t29",
    title="tls",
    promises=("G26",),
    limits=(
        Limit("weak_accepted", exactly=0),
        Limit("good_refused", exactly=0),
        Limit("plain_unclean", exactly=0),
        Limit("rounds", low=1),
        Limit("not_taken", exactly=0),
        Limit("requests", low=50),
        Limit("drops", exactly=0),
        Limit("strange", exactly=0),
        Limit("alive", exactly=1),
    ),
    controls={"no-reload": _no_reload, "old-versions": _old_versions},
    run=run,
)
