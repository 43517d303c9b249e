"""Snapshots: files that hold the configuration and the served models (contract.md section 3.4).

A file is a properties file with every key in force and `model_snapshot`, JSON in TorchServe's
schema, so that either server can start from the other's. What is ours goes where TorchServe's
reader does not look: a comment with a checksum, and extra keys of the JSON. A file appears by a
rename, flushed to the disk, and the newest whole one counts (promises.md G12).
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from flambeau.archive.staging import STAGE_SUFFIX, staged_file
from flambeau.config import ServerConfig, effective_properties, java_properties, read_properties
from flambeau.errors import ConfigError
from flambeau.types import ModelKey

logger = logging.getLogger(__name__)

Kind = Literal["startup", "snapshot", "shutdown"]

MODEL_SNAPSHOT = "model_snapshot"
_NAME = re.compile(r"(\d{17})-(startup|snapshot|shutdown)\.cfg")
_SEAL = b"#flambeau sha256="
_TIME = "%Y%m%d%H%M%S%f"  # Java's has milliseconds: the last three digits are cut

_LEFT_SECONDS = 3600.0
"""Age of a file that is still not complete: its writer is gone."""


class SavedModel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One model version of a snapshot. Times in seconds, `max_batch_delay` in milliseconds.

    The last four fields are ours. `handler` is the one that was given at registration, `folder` a
    model folder outside of the store, `sha256` the archive's digest; with `batch_size_open` nobody
    chose a batch size, and the handler's own default counts again.
    """

    default_version: bool
    mar_name: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: float | None = None
    startup_timeout: float | None = None
    runtime_type: str = ""
    parallel_level: int = 0
    handler: str = ""
    folder: str = ""
    sha256: str = ""
    batch_size_open: bool = False


class SavedState(msgspec.Struct, frozen=True):
    """The models of a snapshot: those that were served, and those that could not be restored."""

    models: Mapping[ModelKey, SavedModel]
    missing: Mapping[ModelKey, SavedModel]


def read_state(document: Mapping[str, object]) -> SavedState:
    """Read the value of `model_snapshot`. A model that makes no sense is left out with a warning."""
    groups = (_read_models(document.get(key)) for key in ("models", "notRestored"))
    return SavedState(*(dict(group) for group in groups))


def _read_models(document: object) -> Iterator[tuple[ModelKey, SavedModel]]:
    try:
        names = msgspec.convert(document or {}, dict[str, dict[str, dict[str, object]]])
    except msgspec.ValidationError as error:
        logger.warning("model_snapshot cannot be read, no model is restored: %s", error)
        return
    for name, versions in names.items():
        for version, values in versions.items():
            try:
                saved = msgspec.convert(values, SavedModel, strict=False)
            except msgspec.ValidationError as error:
                logger.warning("Failed to restore model: %s version %s: %s", name, version, error)
            else:
                yield ModelKey(name, version), saved


def _encode_models(models: Mapping[ModelKey, SavedModel]) -> dict[str, dict[str, object]]:
    document: dict[str, dict[str, object]] = {}
    for key, saved in models.items():
        values: dict[str, object] = msgspec.to_builtins(saved)
        for name, value in values.items():
            if isinstance(value, float) and value.is_integer():
                values[name] = int(value)
        document.setdefault(key.name, {})[key.version] = values
    return document


class Snapshots:
    """Writes snapshots into one folder, and removes old ones that it wrote."""

    def __init__(self, folder: Path, config: ServerConfig) -> None:
        self._folder = folder
        self._properties = effective_properties(config)
        self._kept = config.snapshots_kept
        self._saving = asyncio.Lock()
        self._complaint = ""

    async def save(self, kind: Kind, state: Callable[[], SavedState]) -> bool:
        """Write one; returns when it is on the disk, or whether it is not: that only warns.

        Models are served on; whoever gets False tries again later.
        """
        async with self._saving:
            try:
                await asyncio.to_thread(self._write, kind, state())
            except OSError as error:
                complaint = f"{error.filename or self._folder}: {error.strerror or error}"
                if complaint != self._complaint:
                    logger.error("Error while saving a snapshot: %s", complaint)  # noqa: TRY400  # no traceback for a full disk
                self._complaint = complaint
                return False
            if self._complaint:
                logger.info("Snapshots can be written again")
            self._complaint = ""
            return True

    def _write(self, kind: Kind, state: SavedState) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now().astimezone()
        name = f"{self._time_for_name(now)}-{kind}.cfg"
        models = _encode_models(state.models)
        document: dict[str, object] = {
            "name": name,
            "modelCount": len(state.models),
            "created": int(now.timestamp() * 1000),
            "models": models,
        }
        if state.missing:
            document["notRestored"] = _encode_models(state.missing)
        pairs = self._properties | {MODEL_SNAPSHOT: json.dumps(document, indent=2)}
        body = java_properties(pairs).encode()
        head = f"#Saving snapshot\n#{now:%a %b %d %H:%M:%S %Z %Y}\n".encode()
        # private: it may hold a password of the configuration
        with staged_file(self._folder / name, private=True) as file:
            file.write(head + _SEAL + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        self._prune(kind)

    def _time_for_name(self, now: datetime) -> str:
        """The time, but always later than that of every file that is there, so that order holds."""
        text = now.strftime(_TIME)[:17]
        latest = max((_time_of(file) for file in _files(self._folder)), default="")
        if text > latest:
            return text
        try:
            then = datetime.strptime(f"{latest}000", _TIME)  # noqa: DTZ007  # wall-clock names
            return (then + timedelta(milliseconds=1)).strftime(_TIME)[:17]
        except (ValueError, OverflowError):  # no date, such as the 35th: somebody named it so
            return text

    def _prune(self, kind: Kind) -> None:
        with contextlib.suppress(OSError):
            for left in self._folder.glob(f".*.cfg.*{STAGE_SUFFIX}"):  # by a server that was killed
                if left.stat().st_mtime < datetime.now().astimezone().timestamp() - _LEFT_SECONDS:
                    left.unlink()
        if not self._kept:
            return
        same = [file for file in _files(self._folder) if file.name.endswith(f"-{kind}.cfg")]
        for file in same[: -self._kept]:
            with contextlib.suppress(OSError):
                if _SEAL in file.read_bytes()[:1024]:  # TorchServe's are not ours to remove
                    file.unlink()


def newest_snapshot(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole snapshot of a folder by the time in its name, and why newer ones are not it."""
    notes = []
    for file in reversed(_files(folder)):
        try:
            _check_whole(file)
        except ConfigError as error:
            notes.append(f"Snapshot skipped: {error}")
        else:
            return file, notes
    return None, notes


def _check_whole(file: Path) -> None:
    """Raise `ConfigError` if a snapshot is torn, changed since it was written, or has no models."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    start = data.find(_SEAL)
    if start >= 0:
        seal, _, body = data[start + len(_SEAL) :].partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != seal:
            raise ConfigError(
                f"{file} is incomplete or was changed by hand; to use it, name it in --ts-config"
            )
    text = read_properties(file, {}).get(MODEL_SNAPSHOT)
    try:
        document: object = json.loads(text or "")
    except ValueError as error:
        raise ConfigError(f"{file} is incomplete: {MODEL_SNAPSHOT} is no JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("models"), dict):
        raise ConfigError(f"{file} is incomplete: {MODEL_SNAPSHOT} has no models")


def _files(folder: Path) -> list[Path]:
    """Snapshots of a folder, oldest first; anything else in it is let be."""
    try:
        paths: Iterable[Path] = list(folder.iterdir())
    except OSError:
        return []
    named = (path for path in paths if _NAME.fullmatch(path.name) and path.is_file())
    return sorted(named, key=lambda path: (_time_of(path), path.name))


def _time_of(file: Path) -> str:
    return file.name[:17]
