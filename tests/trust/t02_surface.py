"""T2: what listens after a start with defaults, and whether a server can be opened by accident."""

import socket

import psutil

from flambeau.config import Address
from flambeau.frontend import binding, listeners
from tests.trust.servers import trust_server
from tests.trust.suite import Figures, Limit, Run, Suite

_EVERYWHERE = ("0.0.0.0", "[::]")


def run(run: Run) -> Figures:
    """Look at the sockets of a server and of all its children that was started with defaults; then
    try to open its management API to everybody, without tokens."""
    with trust_server(run) as server:
        everyone = [psutil.Process(server.pid), *server.descendants()]
        listening = [
            sock
            for process in everyone
            for sock in process.net_connections("inet")
            if sock.status == psutil.CONN_LISTEN
        ]
        outside = [sock.laddr for sock in listening if sock.laddr.ip not in ("127.0.0.1", "::1")]
        internal = [sock for sock in listening if sock.laddr.port not in _ports(server)]
    refused = sum(_is_refused(run, host) for host in _EVERYWHERE)
    return {
        "listening": len(listening),
        "outside": len(outside),
        "internal": len(internal),
        "refused": refused,
    }


def _ports(server: object) -> set[int]:
    bases = (getattr(server, name) for name in ("inference", "management", "metrics"))
    return {int(str(base).rpartition(":")[2]) for base in bases}


def _is_refused(run: Run, host: str) -> bool:
    """Whether the start ends with the way out."""
    properties = {"management_address": f"http://{host}:0"}
    try:
        with trust_server(run, {}, properties=properties, name=f"open-{host}") as server:
            return server.process.poll() is not None
    except RuntimeError as ended:  # as it should: with the words that say what to do
        return "insecure_addresses=true" in str(ended) and "could run code" in str(ended)


def _listen_everywhere() -> None:
    """Bind every address to all interfaces."""
    bind = listeners._bind_port

    def carelessly(address: Address, *, share: bool) -> socket.socket:
        return bind(Address(host="0.0.0.0", port=address.port), share=share)

    listeners._bind_port = carelessly


def _no_check() -> None:
    """Start whatever the configuration says."""
    binding._check_management = lambda config: None


SUITE = Suite(
    name="t2",
    title="surface",
    promises=("G22",),
    limits=(
        Limit("listening", exactly=3),
        Limit("outside", exactly=0),
        Limit("internal", exactly=0),
        Limit("refused", exactly=2),
    ),
    controls={"listen-everywhere": _listen_everywhere, "no-check": _no_check},
    run=run,
)
