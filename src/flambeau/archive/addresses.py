"""Which addresses archives may be fetched from (contract.md section 11.3, promises.md R4).

An address must match one of the operator's patterns as a whole. Besides, a host in a private network
is reached only if a pattern spells that host out: a pattern such as `https?://.*` opens the internet
and not the machine's neighbours. What a name means is up to whoever runs its zone: the machine itself
and link-local addresses (a cloud's credentials) are reached by a number that is spelled out, or by
`localhost`.
"""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import SplitResult, unquote, urlsplit

from flambeau.archive.names import is_plain_name, shown
from flambeau.errors import ArchiveError, ErrorKind

MAX_LENGTH = 4096
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(file):", re.IGNORECASE)
_FETCHED = ("http", "https", "file")
_MAX_NAME = 200
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # wherever a network's owner lets it lead
_COMPATIBLE = ipaddress.ip_network("::/96")


def is_address(url: str) -> bool:
    """Whether a registration's url has a scheme, and is no name of the store."""
    return _SCHEME.match(url) is not None


def parse_url(url: str, allowed: Sequence[str]) -> SplitResult:
    """Split an address that may be fetched.

    Raises `ArchiveError` (MODEL_NOT_FOUND) with TorchServe's text for one that may not.
    """
    if len(url) > MAX_LENGTH or not url.isprintable() or "\\" in url:
        raise _not_found(f"Model not found at: {shown(url)}")
    if ".." in unquote(url):
        raise _not_found(f"Relative path is not allowed in url: {url}")
    scheme = next(filter(None, _SCHEME.match(url).groups())).lower()  # type: ignore[union-attr]  # is_address
    if scheme not in _FETCHED:
        raise _not_found(
            f"Model not found at: {url} ({scheme}:// is not supported: use an http, https or file"
            " address, or the name of an archive in the model store)"
        )
    refused = _not_found(f"Given URL {url} does not match any allowed URL(s)")
    if not any(re.fullmatch(pattern, url, re.IGNORECASE) for pattern in allowed):
        raise refused
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError:
        raise refused from None
    hosts = ("", "localhost") if scheme == "file" else None
    if (hosts and parts.netloc not in hosts) or (not hosts and not parts.hostname):
        raise refused
    if parts.username is not None or parts.password is not None:
        raise refused  # http://allowed.example@other.example/ is not what a pattern's author meant
    return parts


def file_name(url: str) -> str:
    """The name that an address gives its archive in the store: its path's last part, no query.

    Raises `ArchiveError` (MODEL_NOT_FOUND) for one that can name no archive.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    if not is_plain_name(name) or name.startswith(".") or len(name) > _MAX_NAME:
        raise _not_found(f"Model not found at: {url}")
    return name


def spells_out(allowed: Sequence[str], host: str) -> bool:
    """Whether a pattern has this very host behind its `://`, as a name or a number."""
    wanted = f"[{host}]" if ":" in host else host
    for pattern in allowed:
        for tail in re.sub(r"\\(.)", r"\1", pattern).lower().split("://")[1:]:
            rest = tail.removeprefix(wanted.lower())
            if rest != tail and not re.match(r"[\w-]|\.[\w-]", rest):
                return True
    return False


def may_reach(address: str, host: str, *, named: bool) -> bool:
    """Whether a numeric address may be asked that `host` leads to. `named`: a pattern spells it out."""
    if is_public(address) or (named and host == address):
        return True
    parsed = _plain(address)
    if parsed.is_loopback:
        return named and f".{host.lower()}".endswith(".localhost")
    return named and not (parsed.is_link_local or parsed.is_multicast or parsed.is_unspecified)


def is_public(address: str) -> bool:
    """Whether a numeric address belongs to the internet: not private, local, or reserved."""
    parsed = _plain(address)
    return parsed.is_global and not parsed.is_multicast and parsed not in _LOCAL_NAT64


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address without its zone, and out of the IPv6 forms that carry one of IPv4."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if parsed.is_loopback or parsed.is_unspecified:
            return parsed
        if parsed in _NAT64 or parsed in _COMPATIBLE:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        return inner or parsed
    return parsed


def _not_found(message: str) -> ArchiveError:
    return ArchiveError(message, ErrorKind.MODEL_NOT_FOUND)
