"""Where listeners are bound."""

import re

import msgspec
from typing_extensions import override

from flambeau.errors import ConfigError

_LOOPBACK = "127.0.0.1"


class Address(msgspec.Struct, frozen=True):
    """Where a listener is bound: a host and port, or the path of a UNIX socket."""

    host: str = _LOOPBACK
    port: int = 0
    path: str = ""

    @override
    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def parse_address(key: str, text: str, default_port: int) -> Address:
    """Parse `http://host[:port]` or `unix:/path`."""
    if text.startswith("unix:") and text != "unix:":
        return Address(path=text.removeprefix("unix:"))
    if text.startswith("https://"):
        raise ConfigError(
            f"Invalid configuration: {key}={text}: https is not supported yet;"
            " put a TLS proxy in front, or use http://"
        )
    match = re.fullmatch(r"http://(\[[0-9a-fA-F:]+\]|[^:/\s]+)(?::(\d{1,5}))?/?", text)
    port = int(match.group(2) or default_port) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise ConfigError(
            f"Invalid configuration: {key}={text}: expected http://host:port or unix:/path"
        )
    return Address(host=match.group(1).strip("[]"), port=port)
