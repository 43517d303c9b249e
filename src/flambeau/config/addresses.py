"""Where listeners are bound."""

import ipaddress
import re

import msgspec
from typing_extensions import override

from flambeau.errors import ConfigError

_LOOPBACK = "127.0.0.1"
_DEFAULT_PORTS = {
    "inference_address": (80, 443),
    "management_address": (8081, 8444),
    "metrics_address": (8082, 8445),
}
"""Of addresses without a port: for http, and for https."""


class Address(msgspec.Struct, frozen=True):
    """Where a listener is bound: a host and port, or the path of a UNIX socket."""

    host: str = _LOOPBACK
    port: int = 0
    path: str = ""
    tls: bool = False

    @property
    def loopback(self) -> bool:
        """Whether only this machine's processes can connect."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @override
    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def parse_address(key: str, text: str) -> Address:
    """Parse `http://host[:port]`, `https://host[:port]` or `unix:/path`."""
    if text.startswith("unix:") and text != "unix:":
        return Address(path=text.removeprefix("unix:"))
    match = re.fullmatch(r"(?i)(https?)://(\[[0-9a-f:]+\]|[^:/\s]+)(?::(\d{1,5}))?/?", text)
    tls = match is not None and match.group(1).lower() == "https"
    port = int(match.group(3) or _DEFAULT_PORTS[key][tls]) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise ConfigError(
            f"Invalid configuration: {key}={text}:"
            " expected http://host:port, https://host:port or unix:/path"
        )
    return Address(host=match.group(2).strip("[]"), port=port, tls=tls)
