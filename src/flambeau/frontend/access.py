"""Whom a server lets in: its keys and its certificates, as the operator's files say now."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from flambeau.config import Address, ServerConfig
from flambeau.errors import ConfigError
from flambeau.frontend.failures import Failures
from flambeau.frontend.front_ends import FrontEnds
from flambeau.frontend.gate import Gate
from flambeau.frontend.watch import Watch
from flambeau.serving.token_file import read_tokens
from flambeau.serving.tokens import Tokens, keep_out_of_core_files

if TYPE_CHECKING:
    from flambeau.frontend.tls import Tls
    from flambeau.ipc.frontend_messages import Certificates

logger = logging.getLogger(__name__)

_Read = TypeVar("_Read")


class Access:
    """Keys and certificates of a server, in its own process and in its front ends.

    `tokens` is None where none are asked for, `tls` and `certificates` where no address is `https`.
    """

    def __init__(self, config: ServerConfig, front_ends: Callable[[], Iterable[FrontEnds]]) -> None:
        """Make the keys, read the files. Raises `ConfigError` naming the key and the file."""
        self._config = config
        self._front_ends = front_ends
        self._token_file = Watch([] if config.disable_token_authorization else [config.tokens_file])
        self._certificate_files = Watch([])
        self.tls: Tls | None = None
        self.certificates: Certificates | None = None
        addresses = (config.inference_address, config.management_address, config.metrics_address)
        if any(address.tls for address in addresses):
            self._start_tls()
        self.tokens = self._make_tokens()

    def gate(self, address: Address) -> Gate:
        """The gate of a listener; browsers reach the ports of loopback, and no UNIX sockets."""
        config = self._config
        loopback = address.loopback and not address.path
        return Gate(
            self.tokens,
            config.cors_allowed_origin,
            failures=Failures(config.token_failures_per_minute),
            hosts=config.allowed_hosts if loopback else None,
        )

    async def keep(self) -> None:
        """Follow the files until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._token_file.run(self._read_tokens))
            group.create_task(self._certificate_files.run(self._read_certificates))

    async def share_keys(self) -> None:
        """Let no front end take an old key any more, and each the new ones."""
        assert self.tokens is not None
        for each in self._front_ends():
            await each.use_keys(self.tokens.share())

    def close(self) -> None:
        """The server has ended."""
        if self.tokens is not None:
            self.tokens.remove_file()

    def _make_tokens(self) -> Tokens | None:
        config = self._config
        if config.disable_token_authorization:
            self._warn_of_strangers()
            return None
        named = read_tokens(config.tokens_file)
        keep_out_of_core_files()
        tokens = Tokens(config.key_file, config.token_expiration_min, overlap=config.token_overlap)
        tokens.use_named(token.grant() for token in named)
        logger.info("Token authorization is on; the keys are in %s", tokens.file)
        if named:
            logger.info("%d named tokens are in %s", len(named), config.tokens_file)
        return tokens

    def _warn_of_strangers(self) -> None:
        config = self._config
        addresses = [config.inference_address, config.management_address]
        addresses += [config.metrics_address] if config.enable_metrics_api else []
        outside = {str(address): None for address in addresses if not address.loopback}
        if outside:
            logger.warning(
                "TOKEN AUTHORIZATION IS OFF: whoever reaches %s can use this server and, with the"
                " model API on, run code on it.",
                ", ".join(outside),
            )

    def _start_tls(self) -> None:
        from flambeau.frontend import tls  # 50 ms that plain HTTP saves

        self._certificate_files = Watch(tls.certificate_files(self._config))
        self.certificates = tls.server_certificates(self._config)
        self.tls = tls.Tls(self.certificates)

    async def _read_tokens(self) -> None:
        assert self.tokens is not None
        file = self._config.tokens_file
        named = await _read_again(lambda: read_tokens(file), "Named tokens stay as they were")
        if named is None:
            return
        self.tokens.use_named(token.grant() for token in named)
        await self.share_keys()
        logger.info("%d named tokens are in %s now", len(named), file)

    async def _read_certificates(self) -> None:
        from flambeau.frontend import tls

        assert self.tls is not None
        in_use = self.tls

        def read() -> "Certificates":
            certificates = tls.server_certificates(self._config)
            in_use.use(certificates)
            return certificates

        certificates = await _read_again(read, "The old certificate stays in use")
        if certificates is None:
            return
        self.certificates = certificates
        for each in self._front_ends():
            each.use_certificates(certificates)
        logger.info("New connections get the certificate of %s", certificates.source)


async def _read_again(read: Callable[[], _Read], otherwise: str) -> _Read | None:
    """Read files in a thread; None, and `otherwise` in the log, where they are wrong in any way."""
    try:
        return await asyncio.to_thread(read)
    except ConfigError as error:
        logger.error("%s: %s", otherwise, error)  # noqa: TRY400
    except Exception:
        logger.exception("%s: an unexpected error", otherwise)
    return None
