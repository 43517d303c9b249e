"""A real server for tests: real sockets on free ports, real worker processes."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop
from typing_extensions import override

from flambeau.config import Address, ServerConfig
from flambeau.server import Server

_START_SECONDS = 60.0


class RunningServer(msgspec.Struct, frozen=True):
    """Base addresses of a running server's APIs ("" for one that is off), and the server itself."""

    inference: str
    management: str
    metrics: str
    server: Server


@contextlib.contextmanager
def running_server(model_store: Path, cache: Path, **config: object) -> Iterator[RunningServer]:
    """Run a server in a thread of this process; stops it, workers included, at the end.

    `config` holds fields of `ServerConfig`. No framework is imported ahead of time unless `preload`
    says so, which makes workers of plain Python handlers start in a fraction of a second. Token
    authorization is off unless `disable_token_authorization=False` says otherwise.
    """
    free = Address(port=0)
    settings: dict[str, object] = {
        "inference_address": free,
        "management_address": free,
        "metrics_address": free,
        "preload": (),
        "enable_model_api": True,
        "disable_token_authorization": True,
    }
    merged = msgspec.structs.replace(
        ServerConfig(model_store=model_store, cache_dir=cache), **(settings | config)
    )
    thread = _ServerThread(merged)
    thread.start()
    try:
        yield thread.wait_until_started()
    finally:
        thread.stop()


class _ServerThread(threading.Thread):
    def __init__(self, config: ServerConfig) -> None:
        super().__init__(name="flambeau-server", daemon=True)
        self._config = config
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        self._failure: BaseException | None = None

    @override
    def run(self) -> None:
        try:
            uvloop.run(self._main())
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._failure = error
        finally:
            self._up.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = Server(self._config)

        async def started() -> None:
            self._up.set()

        await self._server.run(started)

    def wait_until_started(self) -> RunningServer:
        if not self._up.wait(_START_SECONDS):
            raise TimeoutError("the server did not start")
        if self._failure is not None:
            raise self._failure
        assert self._server is not None
        address = self._server.address
        metrics = str(address("metrics_address")) if self._config.enable_metrics_api else ""
        return RunningServer(
            str(address("inference_address")),
            str(address("management_address")),
            metrics,
            self._server,
        )

    def stop(self) -> None:
        if self._loop is not None and self._server is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self._server.stop)
        self.join(_START_SECONDS)
        if self.is_alive():
            raise TimeoutError("the server did not stop")
        if self._failure is not None:
            raise self._failure
