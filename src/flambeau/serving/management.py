"""The control plane: register, scale, describe, set default, unregister.

Changes of the registry are made by one coroutine at a time; archives are opened before, so that a
huge one holds no other change up. Requests see a model only once it is in the registry, and no
longer once it has left.
"""

import asyncio
import contextlib
import logging
from pathlib import Path

from flambeau.archive.store import ModelStore, OpenedArchive, check_name, default_model_name
from flambeau.config import ServerConfig
from flambeau.errors import ErrorKind, FlambeauError, LoadError
from flambeau.ipc.messages import Load
from flambeau.serving.model_yaml import read_model_yaml
from flambeau.serving.options import Registration, resolve_options
from flambeau.serving.registry import Registry
from flambeau.serving.served_model import Host, ServedModel
from flambeau.supervisor.zygote import may_have_gpus
from flambeau.types import ModelKey

logger = logging.getLogger(__name__)

MAX_WORKERS = 1024
"""Most workers that one model may be asked to have: a typing error must not fill the machine."""

_GPU_COUNT_SECONDS = 120.0


class Management:
    """Changes which models are served."""

    def __init__(
        self, registry: Registry, store: ModelStore, config: ServerConfig, host: Host
    ) -> None:
        self.registry = registry
        self._store = store
        self._config = config
        self._host = host
        self._models: asyncio.TaskGroup | None = None
        self._alive: set[ServedModel] = set()  # those that are being closed included
        self._changing = asyncio.Lock()
        self._closing = False

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
        self._check_open()
        model = await self._open(registration)
        async with self._changing:
            await self._add(model)
        count = model.options.min_workers
        if wait and count > 0:
            try:
                await self._wait_ready(model, count)
            except LoadError:
                await self._drop(model)
                raise
        return model

    async def scale(
        self, name: str, version: str, minimum: int, maximum: int, *, wait: bool
    ) -> ServedModel:
        """Change the number of workers; with `wait`, returns when it is reached."""
        model = self.registry.get(name, version)
        if maximum < minimum:
            raise FlambeauError(
                ErrorKind.INVALID_INPUT, "max_worker cannot be less than min_worker."
            )
        _check_workers(minimum)
        model.scale(minimum, maximum)
        if wait:
            await self._wait_ready(model, minimum)
            await model.pool.wait_gone()
        return model

    async def unregister(self, name: str, version: str) -> ServedModel:
        """Take a model out: accepted requests are answered first, then its workers end."""
        async with self._changing:
            model = self.registry.get(name, version)
            self.registry.remove(model)
        await self._close(model, self._config.unregister_model_timeout)
        return model

    def set_default(self, name: str, version: str) -> None:
        """Send requests that name no version to `version`."""
        self.registry.set_default(name, version)

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

    async def _open(self, registration: Registration) -> ServedModel:
        """Read the archive and settle its options; nothing is registered or started yet."""
        path = self._store.find(registration.url, allow_absolute_dirs=registration.at_startup)
        archive = await asyncio.to_thread(self._store.open, path)
        key = self._key(registration, archive, path)
        from_yaml = await asyncio.to_thread(
            read_model_yaml, archive.model_dir, archive.manifest.model.config_file
        )
        if from_yaml.device_type != "cpu" and may_have_gpus():
            with contextlib.suppress(TimeoutError):  # only it can count them
                await asyncio.wait_for(self._host.zygote.ready.wait(), _GPU_COUNT_SECONDS)
        options = resolve_options(
            registration, from_yaml, self._config, key, self._host.zygote.gpus
        )
        _check_workers(options.min_workers)
        load = Load(
            name=key.name,
            version=key.version,
            model_dir=str(archive.model_dir),
            handler=registration.handler
            or archive.manifest.model.handler
            or self._config.default_service_handler,
            batch_size=max(options.batch_size, 1),
            decode_input=self._config.decode_input_request,
            limit_max_image_pixels=self._config.limit_max_image_pixels,
            service_envelope=self._config.service_envelope,
        )
        return ServedModel(key, archive, registration, options, load, self._host)

    async def _add(self, model: ServedModel) -> None:
        """Register and start a model that was opened; the caller holds the lock."""
        assert self._models is not None, "run_models_in comes first"
        self._check_open()
        self.registry.add(model)
        self._alive.add(model)
        self._models.create_task(model.run()).add_done_callback(
            lambda _: self._alive.discard(model)
        )
        await asyncio.sleep(0)  # lets `run` begin: scaling needs its task group
        model.scale(model.options.min_workers, model.options.max_workers)

    @staticmethod
    def _key(registration: Registration, archive: OpenedArchive, path: Path) -> ModelKey:
        name = registration.model_name or archive.manifest.model.model_name
        name = name or default_model_name(path)
        version = archive.manifest.model.model_version or "1.0"
        check_name("model name", name)
        check_name("model version", version)
        return ModelKey(name, version)

    async def _drop(self, model: ServedModel) -> None:
        async with self._changing:
            self.registry.discard(model)
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
    async def _close(model: ServedModel, seconds: float) -> None:
        await model.close(seconds)
        await model.pool.wait_gone()


def _check_workers(count: int) -> None:
    if count > MAX_WORKERS:
        raise FlambeauError(
            ErrorKind.INVALID_INPUT, f"{count} workers are too many: at most {MAX_WORKERS} a model."
        )
