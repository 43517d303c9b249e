"""T2: what listens after a start with defaults, and whether a server can be opened by accident."""

import socket

import psutil

from flambeau.config import Address
from flambeau.frontend import listeners
from tests.trust.servers import trust_server
from tests.trust.suite import Figures, Limit, Run, Suite


def run(run: Run) -> Figures:
    """Look at the sockets of a server, and of all its children, that was started with defaults."""
    with trust_server(run) as server:
        everyone = [psutil.Process(server.pid), *server.descendants()]
        listening = [
            sock
            for process in everyone
            for sock in process.net_connections("inet")
            if sock.status == psutil.CONN_LISTEN
        ]
        outside = [sock.laddr for sock in listening if sock.laddr.ip not in ("127.0.0.1", "::1")]
    return {"listening": len(listening), "outside": len(outside)}


def _listen_everywhere() -> None:
    """Bind every address to all interfaces."""
    bind = listeners._bind_port

    def carelessly(address: Address, *, share: bool) -> socket.socket:
        return bind(Address(host="0.0.0.0", port=address.port), share=share)

    listeners._bind_port = carelessly


SUITE = Suite(
    name="t2",
    title="surface",
    promises=("G22",),
    limits=(Limit("listening", exactly=3), Limit("outside", exactly=0)),
    controls={"listen-everywhere": _listen_everywhere},
    run=run,
)
