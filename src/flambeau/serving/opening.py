"""From a registration to a model that is ready to be started: archive, name, options."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from flambeau.archive.addresses import is_address
from flambeau.archive.contents import TRANSFORMERS_HANDLER
from flambeau.archive.fetch import FetchRules, fetch
from flambeau.archive.manifest import Runtime
from flambeau.archive.names import check_name, default_model_name
from flambeau.archive.store import ModelStore, OpenedArchive
from flambeau.archive.verdict import Candidate
from flambeau.config import ServerConfig
from flambeau.errors import ArchiveError, ErrorKind, FlambeauError, StorageError
from flambeau.handlers.measured import measured_choice, needs_torch
from flambeau.ipc.messages import Load
from flambeau.serving.admission import check_pinned, report_signature
from flambeau.serving.host import Host
from flambeau.serving.model_yaml import read_model_yaml
from flambeau.serving.options import ModelOptions, Registration, resolve_options
from flambeau.serving.restore import restored_options
from flambeau.serving.sandboxes import sandbox_level, sandbox_net
from flambeau.serving.served_model import ServedModel
from flambeau.serving.snapshots import SavedModel
from flambeau.supervisor.zygote import may_have_gpus
from flambeau.types import ModelKey

logger = logging.getLogger(__name__)

MAX_WORKERS = 1024
"""Most workers that one model may be asked to have: a typing error must not fill the machine."""

_GPU_COUNT_SECONDS = 120.0


class Opener:
    """Opens models of one store, for one server."""

    def __init__(self, store: ModelStore, config: ServerConfig, host: Host) -> None:
        self._store = store
        self._config = config
        self._host = host
        self._rules = FetchRules(
            config.allowed_urls,
            config.download_max_bytes,
            config.download_timeout,
            signatures=store.policy.mode != "off" and store.policy.trusted is not None,
        )

    async def open(
        self,
        registration: Registration,
        saved: SavedModel | None,
        in_use: Callable[[Path], bool],
    ) -> ServedModel:
        """Find the archive, read it and settle the options; nothing is registered or started yet.

        `saved` is what a snapshot says of the model; `in_use` says whether a model is served from
        a file of the store. The caller must `release` the model when its workers are gone. Raises
        `FlambeauError`: `StorageError` where the machine, and not the archive, is what fails.
        """
        try:
            return await self._open(registration, saved, in_use)
        except OSError as error:
            raise StorageError(f"{registration.url} cannot be opened", error) from error

    async def _open(
        self, registration: Registration, saved: SavedModel | None, in_use: Callable[[Path], bool]
    ) -> ServedModel:
        runtime = _runtime(registration.runtime)
        path = await self._locate(registration, saved, in_use)
        archive = await asyncio.to_thread(self._store.open, path)
        try:
            if saved is not None:
                check_pinned(self._config.require_signed, saved, archive)
            report_signature(self._config.require_signed, registration, path, archive)
            registration = msgspec.structs.replace(registration, source=str(path))
            if runtime is not None:
                manifest = msgspec.structs.replace(archive.manifest, runtime=runtime)
                archive = msgspec.structs.replace(archive, manifest=manifest)
            return await self._build(registration, archive, saved)
        except BaseException:
            self._store.release(archive)
            raise

    def release(self, model: ServedModel) -> None:
        """Let the model's unpacked archive go."""
        self._store.release(model.archive)

    async def _locate(
        self, registration: Registration, saved: SavedModel | None, in_use: Callable[[Path], bool]
    ) -> Path:
        url = registration.url
        if registration.s3_sse_kms:
            raise FlambeauError(
                ErrorKind.INVALID_INPUT,
                "s3_sse_kms is not supported: use a presigned https address, or copy the archive"
                " into the model store.",
            )
        if saved is not None and saved.folder:
            with contextlib.suppress(ArchiveError):  # the store of another host may have it
                return await self._find(saved.folder, anywhere=True)
        if is_address(url):
            asked_for = None if registration.at_startup else in_use
            return await fetch(url, self._store.root, self._rules, self._check, asked_for)
        return await self._find(url, anywhere=registration.at_startup)

    async def _find(self, url: str, *, anywhere: bool) -> Path:
        return await asyncio.to_thread(self._store.find, url, allow_absolute_dirs=anywhere)

    def _check(self, path: Path, name: str) -> None:
        """Raise `ArchiveError` for a file that is no readable archive."""
        self._store.release(self._store.open(path, name))

    async def _build(
        self, registration: Registration, archive: OpenedArchive, saved: SavedModel | None
    ) -> ServedModel:
        if archive.manifest.runtime == "LSP":
            raise ArchiveError(
                "The runtime LSP (TorchServe's C++ workers) is not supported; pack the model for"
                " Python."
            )
        key = _key(registration, archive)
        from_yaml = await asyncio.to_thread(
            read_model_yaml, archive.model_dir, archive.manifest.model.config_file, str(key)
        )
        if from_yaml.device_type != "cpu" and may_have_gpus():
            await self._host.zygote.ensure()
            with contextlib.suppress(TimeoutError):  # only it can count them
                await asyncio.wait_for(self._host.zygote.ready.wait(), _GPU_COUNT_SECONDS)
        options = resolve_options(
            registration, from_yaml, self._config, key, self._host.zygote.gpus
        )
        if saved is not None:
            options = restored_options(options, saved)
        check_workers(options.min_workers)
        options = await self._with_environment(options, archive, key)
        measured, light = await asyncio.to_thread(_engine, registration, archive)
        placement = msgspec.structs.replace(options.placement, light=light)
        options = msgspec.structs.replace(options, placement=placement)
        await self._host.zygote_for(placement).ensure()
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
            asynchronous=options.asynchronous,
            continuous=options.continuous_batching,
            max_requests=options.batch_size,
            memory_limit=options.memory_limit,
            measured=(measured.engine, measured.precision) if measured is not None else None,
            sandbox=sandbox_level(from_yaml, self._config, key),
            sandbox_net=sandbox_net(self._config, key),
            sequence_headers=(
                self._config.ts_header_key_sequence_id,
                self._config.ts_header_key_sequence_start,
                self._config.ts_header_key_sequence_end,
            ),
        )
        return ServedModel(key, archive, registration, options, load, self._host)

    async def _with_environment(
        self, options: ModelOptions, archive: OpenedArchive, key: ModelKey
    ) -> ModelOptions:
        """Make the environment of a model that has packages of its own (section 4.6)."""
        named = archive.manifest.model.requirements_file
        wanted = named if self._config.install_py_dep_per_model else ""
        if not wanted and not options.placement.use_venv:
            return options
        requirements = archive.model_dir / wanted if wanted else None
        python = await self._host.environments.python(key.name, requirements)
        placement = msgspec.structs.replace(options.placement, python=python)
        return msgspec.structs.replace(options, placement=placement)


def _engine(registration: Registration, archive: OpenedArchive) -> tuple[Candidate | None, bool]:
    """What `flambeau tune` chose for a model, and whether its workers do without torch."""
    if registration.handler not in ("", TRANSFORMERS_HANDLER):
        return None, False
    source = Path(registration.source)
    measured = measured_choice(source, archive.model_dir, archive.manifest)
    return measured, not needs_torch(archive.model_dir, archive.manifest, measured)


def check_workers(count: int) -> None:
    """Refuse a number of workers that can only be a mistake."""
    if count > MAX_WORKERS:
        raise FlambeauError(
            ErrorKind.INVALID_INPUT, f"{count} workers are too many: at most {MAX_WORKERS} a model."
        )


def _key(registration: Registration, archive: OpenedArchive) -> ModelKey:
    """Name and version. Only at start a file's name may stand in, as in TorchServe."""
    name = registration.model_name or archive.manifest.model.model_name
    if not name and registration.at_startup:
        name = default_model_name(Path(registration.source))
    if not name:
        logger.warning("%s names no model: give it a model_name", registration.url)
        raise ArchiveError("Model name is not defined.")
    version = archive.manifest.model.model_version or "1.0"
    check_name("model name", name)
    check_name("model version", version)
    return ModelKey(name, version)


def _runtime(text: str) -> Runtime | None:
    """The runtime that was asked for in place of the archive's own, None for "" (section 6.4)."""
    if not text:
        return None
    try:
        runtime: Runtime = msgspec.convert(text, Runtime)
    except msgspec.ValidationError:
        told = f"Invalid RuntimeType value: {text}"
        raise FlambeauError(ErrorKind.INVALID_INPUT, told) from None
    return runtime
