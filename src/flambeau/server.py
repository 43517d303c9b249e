"""The composition root: builds every object, and holds the order of start and stop.

Start: bind the listeners, start the zygote (unless the command has: its imports take the longest),
register the models, accept requests. Whoever connects before waits; requests that come before a
model's workers are ready wait in its queue.

Stop, from the outside in: say at once that nothing is ready any more, and end each connection with
its next answer; go on accepting for `drain_delay`, so that those who watch the probes can go
elsewhere; close the listeners; answer what is in flight, within `shutdown_grace`; let every model
finish what it accepted and end its workers; end the zygote. A second signal skips the waits: it ends
the workers at once.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine

import msgspec
import uvloop

from flambeau.archive.cache import CacheBounds
from flambeau.archive.store import ModelStore
from flambeau.archive.yaml_config import read_yaml
from flambeau.config import (
    DEFAULT_PRELOAD,
    Address,
    ServerConfig,
    usable_cores,
    worker_environment,
)
from flambeau.errors import ArchiveError, ConfigError
from flambeau.frontend import tripwire
from flambeau.frontend.access import Access
from flambeau.frontend.binding import bind_listeners, has_front_ends
from flambeau.frontend.descriptors import raise_limit
from flambeau.frontend.front_ends import FrontEnds, setup_of
from flambeau.frontend.headers import CommonHeaders
from flambeau.frontend.http import Answering, Listener, Mount
from flambeau.frontend.inference_api import inference_protocols
from flambeau.frontend.listeners import HttpServer
from flambeau.frontend.responses import LocalResponses
from flambeau.ipc.frontend_messages import Setup
from flambeau.protocols.description import Description
from flambeau.protocols.health import Probes
from flambeau.protocols.kserve import KServeReadiness
from flambeau.protocols.management import ManagementApi
from flambeau.protocols.metrics import MetricsApi
from flambeau.protocols.tokens import TokenApi
from flambeau.scheduling.held_bytes import HeldBytes
from flambeau.serving.admission import signature_policy
from flambeau.serving.host import Counters, Host
from flambeau.serving.inference import Inference
from flambeau.serving.management import Management
from flambeau.serving.readiness import Readiness
from flambeau.serving.registry import Registry
from flambeau.serving.restore import restore
from flambeau.serving.snapshots import Snapshots
from flambeau.serving.tokens import TokenScope
from flambeau.supervisor.environments import Environments
from flambeau.supervisor.zygote import Zygote
from flambeau.telemetry.metrics import Metrics
from flambeau.telemetry.metrics_config import DEFAULT_FILE, parse_metrics_config
from flambeau.telemetry.system import SystemSampler

logger = logging.getLogger(__name__)

_LIGHT_PRELOAD = ("flambeau.handlers.native", "flambeau.handlers.runner")
"""What workers without torch need; not their runtimes, which start threads when imported."""


class Core:
    """Models and their workers, without any listener."""

    def __init__(
        self, config: ServerConfig, *, import_ahead: bool = True, zygote: Zygote | None = None
    ) -> None:
        self.config = config
        self._import_ahead = import_ahead
        self.stop_by: float | None = None
        """Until when a stop waits for what models have accepted, on the monotonic clock."""
        self.metrics = _metrics(config)
        self.registry = Registry()
        environment = worker_environment(config)
        pending = HeldBytes(config.max_pending_bytes, "max_pending_bytes")
        self.zygote = self.light = zygote or Zygote(config.preload, environment)
        if config.preload == DEFAULT_PRELOAD:
            self.light = Zygote(_LIGHT_PRELOAD, environment)
        self.environments = Environments(
            config.cache_dir / "environments", environment, config.install_py_dep_timeout
        )
        host = Host(
            self.zygote,
            self.light,
            self.metrics,
            usable_cores(),
            Counters(config.initial_worker_port, config.initial_distribution_port),
            environment,
            self.environments,
            pending,
        )
        store = ModelStore(
            config.model_store or config.cache_dir,
            config.cache_dir / "archives",
            bounds=CacheBounds(max_bytes=config.cache_max_bytes, max_days=config.cache_max_days),
            policy=signature_policy(config),
        )
        store.policy.check()
        snapshots = None
        if config.log_location is not None and not config.no_config_snapshots:
            snapshots = Snapshots(config.log_location / "config", config)
        self.management = Management(self.registry, store, config, host, snapshots)
        self.readiness = Readiness(self.registry)
        self.inference = Inference(self.registry, self.readiness, pending)

    async def load_models(self) -> None:
        """Register the models of a snapshot or of `load_models`; their workers begin to load."""
        if self.config.model_snapshot:
            await restore(self.management, self.config.model_snapshot)
        else:
            await self.management.load_startup_models(self.config.load_models)
        await self.management.started()
        self.readiness.registered()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Run until the block ends; then models finish what they accepted, then the zygote ends."""
        if self._import_ahead:
            await self.zygote.ensure()
        try:
            async with asyncio.TaskGroup() as group:
                self.management.run_models_in(group)
                sampling = group.create_task(self._sample_system())
                try:
                    yield group
                finally:
                    sampling.cancel()
                    left = (self.stop_by or time.monotonic()) - time.monotonic()
                    await self.management.close(max(left, 0))
        finally:
            await asyncio.gather(*(each.stop() for each in {self.zygote, self.light}))

    async def _sample_system(self) -> None:
        """Read the machine's state now and then, for as long as the server runs."""
        sampler = SystemSampler(
            self.config.number_of_gpu if self.config.number_of_gpu >= 0 else None
        )
        told = False
        while not self.config.disable_system_metrics:
            try:
                self.metrics.system(await asyncio.to_thread(sampler.sample))
            except Exception:
                if not told:
                    logger.exception("System metrics cannot be read; there are none until they can")
                told = True
            await asyncio.sleep(self.config.metric_time_interval)


class Server:
    """One Flambeau server. Must be built and run inside an event loop.

    Without `import_ahead`, `preload` is imported when the first model comes that needs it; `zygote`
    is one that was started early.
    """

    def __init__(
        self, config: ServerConfig, *, import_ahead: bool = True, zygote: Zygote | None = None
    ) -> None:
        self.config = config
        self.core = Core(config, import_ahead=import_ahead, zygote=zygote)
        self._access: Access | None = None
        self._servers: list[HttpServer | FrontEnds] = []
        self._sockets = bind_listeners(config)
        self._responses = LocalResponses(self.core.metrics)
        try:
            # Once the addresses are ours: another server's key file is not touched.
            self._access = Access(config, self._front_ends)
            self._make_servers(self._access)
        except BaseException:
            self._close()
            raise
        self._told_to_stop = asyncio.Event()
        self._hurried = asyncio.Event()

    async def run(self, started: Callable[[], Coroutine[None, None, None]] | None = None) -> None:
        """Serve until `stop`.

        `started` is awaited once the listeners accept requests and the models of the configuration
        are registered; their workers may still be loading.
        """
        self._handle_signals()
        try:
            async with self.core.running() as group:
                told = group.create_task(self._told_to_stop.wait())
                loading = group.create_task(self.core.load_models())
                await asyncio.wait((told, loading), return_when=asyncio.FIRST_COMPLETED)
                loading.cancel()  # unless it is done
                listening = [group.create_task(each.run_until_told()) for each in self._servers]
                accepting = group.create_task(self._accepting())
                await asyncio.wait((told, accepting), return_when=asyncio.FIRST_COMPLETED)
                accepting.cancel()
                announcing = None
                if not told.done():
                    logger.info("Model server started.")
                    announcing = group.create_task(started()) if started is not None else None
                assert self._access is not None
                watching = group.create_task(self._access.keep())
                await told
                watching.cancel()
                await self._leave()
                logger.info("Stopping: listeners closed, finishing what was accepted.")
                self.core.stop_by = time.monotonic() + self.config.shutdown_grace
                if announcing is not None:
                    announcing.cancel()
                self.core.environments.close()  # a client may be waiting for an installation
                for server in self._servers:
                    server.stop()
                await asyncio.wait(listening)
                await self.core.management.save_snapshot("shutdown")
        finally:
            self._close()
        logger.info("Model server stopped.")

    @property
    def stopping(self) -> bool:
        """Whether the server was told to stop."""
        return self._told_to_stop.is_set()

    def stop(self) -> None:
        """Begin the stop; the second call ends the workers at once."""
        self.core.readiness.draining = True
        if self._told_to_stop.is_set():
            self._hurried.set()
            for server in self._servers:
                server.kill()
            self.core.management.kill()
        self._told_to_stop.set()

    async def _leave(self) -> None:
        """Let clients find another server before this one closes its listeners."""
        for server in self._servers:
            server.leave()
        if self.config.drain_delay:
            logger.info(
                "Stopping: not ready any more; listeners are closed in %g s.",
                self.config.drain_delay,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), self.config.drain_delay)

    def address(self, key: str) -> Address:
        """Where a listener really is: the port that was chosen, if 0 was asked for."""
        wanted: Address = getattr(self.config, key)
        bound = next((sockets for keys, sockets in self._sockets.items() if key in keys), None)
        if wanted.path or bound is None:
            return wanted
        return msgspec.structs.replace(wanted, port=int(bound[0].getsockname()[1]))

    def _make_servers(self, access: Access) -> None:
        config = self.config
        for keys, sockets in self._sockets.items():
            address: Address = getattr(config, keys[0])
            if has_front_ends(config, keys):
                self._servers.append(self._make_front_ends(sockets, access, secure=address.tls))
                continue
            answering = Answering(
                self._responses,
                access.gate(address),
                CommonHeaders(config),
                config.torchserve_statuses,
                config.max_connections,
                config.max_connections_per_address,
            )
            context = access.tls.context if access.tls is not None and address.tls else None
            listener = Listener(self._mounts(keys, access), answering)
            self._servers.append(HttpServer(listener, sockets[0], config.shutdown_grace, context))

    async def _accepting(self) -> None:
        """Wait for front-end processes; what the server process serves itself, it accepts at once."""
        for server in self._front_ends():
            await server.wait_serving()

    def _front_ends(self) -> list[FrontEnds]:
        return [server for server in self._servers if isinstance(server, FrontEnds)]

    def _make_front_ends(
        self, sockets: list[socket.socket], access: Access, *, secure: bool
    ) -> FrontEnds:
        def setup() -> Setup:
            certificates = access.certificates if secure else None
            return setup_of(
                self.config,
                self._metrics_url(),
                certificates,
                access.tokens,
                self.config.shutdown_grace,
            )

        return FrontEnds(sockets, setup, self.core.inference, self._responses)

    def _close(self) -> None:
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()
        if self._access is not None:
            self._access.close()

    def _mounts(self, keys: tuple[str, ...], access: Access) -> list[Mount]:
        """What an address serves, and whose keys each part takes (contract.md section 11.1)."""
        core, tokens = self.core, access.tokens
        inference, management, metrics = (
            frozenset({TokenScope.INFERENCE}),
            frozenset({TokenScope.MANAGEMENT}),
            frozenset({TokenScope.METRICS, TokenScope.MANAGEMENT}),
        )
        served: list[Mount] = []
        if "inference_address" in keys:
            protocols = inference_protocols(core.inference, self.config)
            served += [Mount(each, inference) for each in protocols]
        if "management_address" in keys:
            if tokens is not None:
                api = TokenApi(tokens, access.share_keys)
                served.append(Mount(api, frozenset({TokenScope.API})))
            if "inference_address" not in keys:
                served.append(Mount(Probes(core.inference), management))
            served.append(Mount(KServeReadiness(core.inference), management))
            served.append(Mount(ManagementApi(core.management, core.inference), management))
        if self._serves_metrics(keys):
            is_open = keys == ("metrics_address",) and not self.config.metrics_token
            shown = MetricsApi(core.metrics, core.registry)
            served.append(Mount(shown, frozenset() if is_open else metrics))
        described = Description([mount.protocol for mount in served], self._metrics_url)
        every = frozenset(scope for mount in served for scope in mount.scopes)
        return [Mount(described, every), *served]

    def _serves_metrics(self, keys: tuple[str, ...]) -> bool:
        """At their own address, and where inference and management are one, as in TorchServe."""
        both = {"inference_address", "management_address"} <= set(keys)
        return self.config.enable_metrics_api and ("metrics_address" in keys or both)

    def _metrics_url(self) -> str:
        """Where metrics are served over TCP, "" if nowhere."""
        address = self.address("metrics_address")
        return str(address) if self.config.enable_metrics_api and not address.path else ""

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # no `nohup`
            numbers.append(signal.SIGHUP)  # the terminal of a foreground server is closed
        for number in numbers:
            try:
                loop.add_signal_handler(number, self.stop)
            except (RuntimeError, ValueError):
                return  # not the main thread: whoever runs us stops us


def _metrics(config: ServerConfig) -> Metrics:
    """The metrics that are wanted. Raises `ConfigError` for a wrong metrics.yaml."""
    file = config.metrics_config or DEFAULT_FILE
    try:
        document = read_yaml(file)
    except ArchiveError as error:
        raise ConfigError(f"Invalid metrics configuration {file}: {error.message}") from error
    declared = parse_metrics_config(document, file)
    # Whoever lists metrics means the list; nobody should have to write one to see any.
    auto_detect = config.model_metrics_auto_detect
    if auto_detect is None:
        auto_detect = config.metrics_config is None
    return Metrics(declared, config.metrics_mode, auto_detect=auto_detect)


def serve(
    config: ServerConfig,
    started: Callable[[Server], Coroutine[None, None, None]] | None = None,
    *,
    import_ahead: bool = True,
    zygote: Zygote | None = None,
) -> None:
    """Run a server until it is told to stop. Raises `ConfigError` when it cannot start."""

    async def main() -> None:
        server = Server(config, import_ahead=import_ahead, zygote=zygote)
        await server.run((lambda: started(server)) if started else None)

    raise_limit()
    tripwire.arm()
    uvloop.run(main())
