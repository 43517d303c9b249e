"""The control plane: register, scale, describe, set default, unregister.

Changes are made by one coroutine at a time, in an instant (promises.md R17): archives are opened before
and workers awaited after it, so that a huge model holds no other change up. Requests see a model only once it is in the registry, and no
longer once it has left.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

from flambeau.archive.store import ModelStore
from flambeau.config import ServerConfig
from flambeau.errors import ErrorKind, FlambeauError, LoadError
from flambeau.serving.host import Host
from flambeau.serving.opening import Opener, check_workers
from flambeau.serving.options import Registration
from flambeau.serving.registry import Registry
from flambeau.serving.restore import saved_model
from flambeau.serving.served_model import ServedModel
from flambeau.serving.snapshots import Kind, SavedModel, SavedState, Snapshots
from flambeau.types import ModelKey

logger = logging.getLogger(__name__)

_SAVE_AGAIN_SECONDS = 5.0
"""After a snapshot that could not be written: a change is not to wait for the next one."""


class Management:
    """Changes which models are served."""

    def __init__(
        self,
        registry: Registry,
        store: ModelStore,
        config: ServerConfig,
        host: Host,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.registry = registry
        self.missing: dict[ModelKey, SavedModel] = {}
        self._store = store
        self._config = config
        self._opener = Opener(store, config, host)
        self._snapshots = snapshots
        self._models: asyncio.TaskGroup | None = None
        self._alive: set[ServedModel] = set()  # those that are being closed included
        self._changing = asyncio.Lock()
        self._host = host
        self._started = False
        self._closing = False
        self._saving_again = False
        self._stopped = asyncio.Event()

    def run_models_in(self, group: asyncio.TaskGroup) -> None:
        """Let `group` own the models' tasks; comes before the first registration."""
        self._models = group

    @property
    def api_enabled(self) -> bool:
        """Whether clients may register and unregister models."""
        return self._config.enable_model_api

    async def register(self, registration: Registration, *, wait: bool) -> ServedModel:
        """Open the archive and start its workers.

        With `wait`, returns when they are ready, and takes the model out again when one of them
        cannot load it (raises `LoadError` with the worker's reason).
        """
        model = await self._enter(registration)
        count = model.options.min_workers
        if wait and count > 0:
            try:
                await self._wait_ready(model, count)
            except LoadError:
                await self._drop(model)
                await self.save_snapshot("snapshot")
                raise
        if not registration.at_startup:  # one snapshot follows when all of those are there
            await self.save_snapshot("snapshot")
        return model

    async def restore(self, key: ModelKey, saved: SavedModel) -> ServedModel:
        """Register a model as a snapshot describes it; that beats its archive's yaml.

        The archive says which version it is, as in TorchServe. Workers are started, not awaited.
        """
        registration = Registration(
            saved.mar_name,
            model_name=key.name,
            handler=saved.handler,
            runtime=saved.runtime_type,
        )
        return await self._enter(registration, saved)

    async def save_snapshot(self, kind: Kind) -> None:
        """Write down what is served, unless snapshots are off.

        Not before all models of the start are there, and not when they are being closed: what is
        written is what the next start restores.
        """
        if self._snapshots is None or not self._started or self._closing:
            return
        if await self._snapshots.save(kind, self._state):
            return
        self._host.metrics.server.snapshot_failed(1)
        if self._models is not None and not self._saving_again:
            self._saving_again = True
            self._models.create_task(self._save_again())

    async def _save_again(self) -> None:
        """Write down what a full disk has kept from being written, as soon as there is room."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), _SAVE_AGAIN_SECONDS)
        self._saving_again = False
        await self.save_snapshot("snapshot")

    async def started(self) -> None:
        """Say that the models of the start are registered; writes the first snapshot."""
        self._started = not self._closing
        await self.save_snapshot("startup")

    async def scale(
        self, name: str, version: str, minimum: int, maximum: int, *, wait: bool
    ) -> int:
        """Change the number of workers, which is returned; with `wait`, when it is reached."""
        async with self._changing:
            model = self.registry.get(name, version)
            if maximum < minimum:
                raise FlambeauError(
                    ErrorKind.INVALID_INPUT, "max_worker cannot be less than min_worker."
                )
            check_workers(minimum)
            model.scale(minimum, maximum)
            count = len(model.pool.active())  # others may scale it while this call waits
        await self.save_snapshot("snapshot")
        if wait:
            await self._wait_ready(model, minimum)
            await model.pool.wait_gone()
        return count

    async def unregister(self, name: str, version: str) -> ServedModel:
        """Take a model out: accepted requests are answered first, then its workers end.

        The archive stays in the store. Raises `FlambeauError` (REQUEST_TIMEOUT) when requests had
        to be cut off after `unregister_model_timeout`; the model is gone then, too.
        """
        if self._forget_missing(name, version):
            await self.save_snapshot("snapshot")
        async with self._changing:
            model = self.registry.get(name, version)
            self.registry.remove(model)
        await self.save_snapshot("snapshot")
        if not await self._close(model, self._config.unregister_model_timeout):
            raise FlambeauError(
                ErrorKind.REQUEST_TIMEOUT, f"Timed out while cleaning resources: {name}"
            )
        return model

    async def set_default(self, name: str, version: str) -> None:
        """Send requests that name no version to `version`."""
        async with self._changing:
            self.registry.set_default(name, version)
        await self.save_snapshot("snapshot")

    async def load_startup_models(self, items: tuple[str, ...]) -> None:
        """Register what `--models` or `load_models` names (section 2.4); failures only warn."""
        for registration in self._startup_registrations(items):
            try:
                model = await self.register(registration, wait=False)
            except FlambeauError as error:
                logger.warning("Failed to load model: %s, %s", registration.url, error)
            except Exception:
                logger.exception("Failed to load model: %s", registration.url)
            else:
                logger.info("Model %s is registered from %s", model.key, registration.url)

    async def close(self, seconds: float) -> None:
        """Answer what was accepted by every model, then end all workers; no model comes after it."""
        async with self._changing:
            self._closing = True
            self._stopped.set()
        await asyncio.gather(*(self._close(model, seconds) for model in self.registry))

    def kill(self) -> None:
        """End every worker now, whatever it does."""
        for model in self._alive:
            model.pool.kill()

    def _startup_registrations(self, items: tuple[str, ...]) -> list[Registration]:
        if len(items) == 1 and items[0].lower() == "all":
            try:
                paths = self._store.list_all()
            except FlambeauError as error:
                logger.warning("Failed to load models: %s", error)
                return []
            return [Registration(path.name, at_startup=True) for path in paths]
        registrations = []
        for item in items:
            name, separator, url = item.partition("=")
            if not separator or "://" in name:  # `=` may stand in a URL's query
                name, url = "", item
            if url:
                registrations.append(Registration(url, model_name=name, at_startup=True))
        return registrations

    def _check_open(self) -> None:
        if self._closing:
            raise FlambeauError(ErrorKind.NO_WORKER, "The server is stopping.")

    async def _enter(
        self, registration: Registration, saved: SavedModel | None = None
    ) -> ServedModel:
        """Open a model and register it; its workers begin to load."""
        self._check_open()
        model = await self._opener.open(registration, saved, self._uses)
        try:
            async with self._changing:
                await self._add(model)
        except BaseException:
            if model not in self._alive:
                self._opener.release(model)
            raise
        return model

    def _uses(self, path: Path) -> bool:
        return any(model.registration.source == str(path) for model in self.registry)

    def _state(self) -> SavedState:
        root = self._store.root.absolute()
        models = {
            model.key: saved_model(
                model,
                is_default=self.registry.is_default(model),
                in_store=Path(model.registration.source).parent.absolute() == root,
            )
            for model in self.registry
        }
        missing = {key: saved for key, saved in self.missing.items() if key not in models}
        return SavedState(models, missing)

    def _forget_missing(self, name: str, version: str) -> bool:
        """No longer write down a model that could not be restored and that nobody wants back."""
        keys = [key for key in self.missing if key.name == name and version in ("", key.version)]
        if not keys or (not version and name in self.registry.names()):
            return False
        for key in keys:
            del self.missing[key]
        return True

    async def _add(self, model: ServedModel) -> None:
        """Start a model that was opened, and register it; the caller holds the lock.

        Nobody sees it before its workers are asked for, and none but its own start can scale it.
        """
        assert self._models is not None, "run_models_in comes first"
        self._check_open()
        self.registry.check_new(model.key)
        self._alive.add(model)
        self._models.create_task(model.run()).add_done_callback(lambda _: self._ended(model))
        try:
            await asyncio.sleep(0)  # lets `run` begin: scaling needs its task group
        except BaseException:
            model.pool.close()
            raise
        model.scale(model.options.min_workers, model.options.max_workers)
        self.registry.add(model)

    def _ended(self, model: ServedModel) -> None:
        """A model's workers are gone: its files may go, too."""
        self._alive.discard(model)
        self._opener.release(model)

    async def _drop(self, model: ServedModel) -> None:
        async with self._changing:
            self.registry.discard(model)
        model.batcher.close()
        model.pool.kill()

    @staticmethod
    async def _wait_ready(model: ServedModel, count: int) -> None:
        """Wait for workers. Raises `LoadError` in TorchServe's words with the worker's reason."""
        try:
            await model.pool.wait_ready(count)
        except LoadError as error:
            text = f"Failed to start workers for model {model.key.name} version: "
            raise LoadError(f"{text}{model.key.version}: {error.message}", error.kind) from None

    @staticmethod
    async def _close(model: ServedModel, seconds: float) -> bool:
        """Say whether everything that was accepted could be answered in time."""
        in_time = await model.close(seconds)
        await model.pool.wait_gone()
        return in_time
