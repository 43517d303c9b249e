"""Which listeners a configuration asks for, bound: by the keys of the addresses that they serve."""

import itertools
import logging
import socket

from flambeau.config import Address, ServerConfig
from flambeau.errors import ConfigError
from flambeau.frontend.listeners import bind, bind_shared

logger = logging.getLogger(__name__)


def bind_listeners(config: ServerConfig) -> dict[tuple[str, ...], list[socket.socket]]:
    """Bind every listener; several sockets where several processes serve it.

    One socket is served by the server process unless `has_front_ends`.
    Raises `ConfigError` for an address that cannot be had, or that would let anybody run code here,
    and then none is bound.
    """
    _check_management(config)
    bound: dict[tuple[str, ...], list[socket.socket]] = {}
    try:
        for keys in _listeners(config):
            address = getattr(config, keys[0])
            count = _http_workers(config, keys)
            bound[keys] = (
                [bind(keys[0], address)] if count == 1 else bind_shared(keys[0], address, count)
            )
    except BaseException:
        for sock in itertools.chain(*bound.values()):
            sock.close()
        raise
    return bound


def _check_management(config: ServerConfig) -> None:
    """Refuse what would let every machine that can connect run code on this one (promises.md R2)."""
    address = config.management_address
    if not config.disable_token_authorization or not config.enable_model_api or address.loopback:
        return
    if config.insecure_addresses:
        return  # the log tells it
    raise ConfigError(
        f"management_address={address} can be reached by other machines, tokens are off and the model"
        " API is on: whoever connects could run code on this machine. Turn tokens on (leave out"
        " disable_token_authorization=true and --disable-token-auth), or the model API off"
        " (enable_model_api=false), or set management_address=http://127.0.0.1:"
        f"{address.port}. If the network keeps strangers out, say so: insecure_addresses=true in"
        " config.properties."
    )


def has_front_ends(config: ServerConfig, keys: tuple[str, ...]) -> bool:
    """Whether processes of their own terminate HTTP at an address: at a port that only predicts."""
    if config.http_workers == 1 and config.front_end == "server":
        return False
    return keys == ("inference_address",) and not config.inference_address.path


def _http_workers(config: ServerConfig, keys: tuple[str, ...]) -> int:
    """How many processes serve an address."""
    count = config.http_workers
    if has_front_ends(config, keys):
        return count
    if (count == 1 and config.front_end == "server") or "inference_address" not in keys:
        return 1
    reason = "is a UNIX socket" if len(keys) == 1 else f"is {keys[1]}, too"
    logger.warning(
        "%s has no effect, the server process itself serves %s: inference_address"
        " %s. It needs a port of its own.",
        f"http_workers={count}" if count > 1 else f"front_end={config.front_end}",
        config.inference_address,
        reason,
    )
    return 1


def _listeners(config: ServerConfig) -> list[tuple[str, ...]]:
    """Keys with equal addresses share a listener (contract.md section 3.1); port 0 is never equal."""
    keys = ["inference_address", "management_address"]
    if config.enable_metrics_api:
        keys.append("metrics_address")
    shared: dict[Address | str, tuple[str, ...]] = {}
    for key in keys:
        address: Address = getattr(config, key)
        group = address if address.port or address.path else key
        shared[group] = (*shared.get(group, ()), key)
    return list(shared.values())
