"""From served models to a snapshot's records and back."""

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from flambeau.errors import FlambeauError
from flambeau.serving.options import ModelOptions, first_positive
from flambeau.serving.registry import Registry
from flambeau.serving.served_model import ServedModel
from flambeau.serving.snapshots import SavedModel, read_state
from flambeau.types import ModelKey

logger = logging.getLogger(__name__)


class Restoring(Protocol):
    """What restoring needs of the control plane."""

    registry: Registry
    missing: dict[ModelKey, SavedModel]

    async def restore(self, key: ModelKey, saved: SavedModel) -> ServedModel:
        """Register one model as it was."""


def saved_model(model: ServedModel, *, is_default: bool, in_store: bool) -> SavedModel:
    """What a snapshot says of a model that is served now."""
    source = Path(model.registration.source)
    options = model.options
    return SavedModel(
        default_version=is_default,
        mar_name=source.name,
        min_workers=model.minimum,
        max_workers=model.maximum,
        batch_size=model.batcher.batch_size,
        max_batch_delay=options.max_batch_delay,
        response_timeout=options.response_timeout,
        startup_timeout=options.startup_timeout,
        runtime_type=model.archive.manifest.runtime,
        parallel_level=options.placement.parallel_level,
        handler=model.registration.handler,
        folder="" if in_store else str(source),
        sha256=model.archive.digest,
        batch_size_open=not options.batch_size,
    )


def restored_options(options: ModelOptions, saved: SavedModel) -> ModelOptions:
    """The options with what a snapshot says, which beats every other source (section 3.4)."""
    low = max(saved.min_workers, 0)
    return msgspec.structs.replace(
        options,
        min_workers=low,
        max_workers=max(saved.max_workers, low),
        batch_size=0 if saved.batch_size_open else max(saved.batch_size, 1),
        max_batch_delay=max(saved.max_batch_delay, 0),
        response_timeout=first_positive(saved.response_timeout, options.response_timeout),
        startup_timeout=first_positive(saved.startup_timeout, options.startup_timeout),
    )


async def restore(management: Restoring, document: Mapping[str, object]) -> None:
    """Register the models of a snapshot. What cannot be had is told, and the rest is served.

    It stays written down in the next snapshots, and is tried again at the next start.
    """
    state = read_state(document)
    defaults = []
    for key, saved in (dict(state.missing) | dict(state.models)).items():
        try:
            model = await management.restore(key, saved)
        except FlambeauError as error:
            logger.warning("Failed to restore model: %s version %s: %s", *_parts(key), error)
            management.missing[key] = saved
        except Exception:
            logger.exception("Failed to restore model: %s version %s", *_parts(key))
            management.missing[key] = saved
        else:
            logger.info("Model %s is restored from %s", model.key, saved.mar_name)
            if saved.default_version:
                defaults.append(model.key)
    for key in defaults:
        with contextlib.suppress(FlambeauError):  # a request may have removed it meanwhile
            management.registry.set_default(key.name, key.version)


def _parts(key: ModelKey) -> tuple[str, str]:
    return key.name, key.version
