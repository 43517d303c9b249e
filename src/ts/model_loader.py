"""Loads a handler as a worker does, for tests of handlers in one's own process."""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flambeau.handlers.entry import load_entry, parse_handler, prepare_import_path, wrap_in_envelope
from flambeau.handlers.ts.service import Service


class ModelLoaderFactory:
    """Gives the one loader that there is."""

    @staticmethod
    def get_model_loader() -> "TsModelLoader":
        """A loader."""
        return TsModelLoader()


class TsModelLoader:
    """Loads the model of an unpacked archive."""

    def load(  # noqa: PLR0913, PLR0917  # TorchServe's signature
        self,
        model_name: str,
        model_dir: str,
        handler: str | None = None,
        gpu_id: int | None = None,
        batch_size: int | None = None,
        envelope: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> Service:
        """The service of a handler that has been initialised.

        `handler` is the manifest's where it is not given. Raises LoadError for what a model lacks,
        and what the handler itself raises.
        """
        if metrics_cache is not None:
            metrics_cache.set_request_ids(str(uuid.uuid4()))
        file = Path(model_dir) / "MAR-INF" / "MANIFEST.json"
        manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        name = handler or str(((manifest or {}).get("model") or {}).get("handler", ""))
        service = Service(
            model_name,
            str(model_dir),
            manifest,
            _not_loaded,
            gpu_id,
            batch_size or 1,
            limit_max_image_pixels,
            metrics_cache,
        )
        with _import_path():
            prepare_import_path(parse_handler(name), Path(model_dir).resolve())
            entry = load_entry(name, service.context)
        if envelope:
            entry = wrap_in_envelope(entry, envelope)
        service.set_entry_point(entry.call)
        return service


def _not_loaded(data: Any, context: Any) -> Any:
    del data, context
    raise RuntimeError("the handler is not loaded")


@contextmanager
def _import_path() -> Iterator[None]:
    """Leaves the working directory and the import path of the test that loads as they were."""
    folder, path = os.getcwd(), list(sys.path)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:] = path
