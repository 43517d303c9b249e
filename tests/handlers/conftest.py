"""Small archives on disk, served through the real runner."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flambeau.errors import PredictionError
from flambeau.handlers.runner import Runner
from flambeau.ipc.messages import Load
from flambeau.types import Chunk, Field, InferenceRequest


class Served:
    """A loaded archive that answers batches.

    A body may be given as bytes (no content type), text (text/plain), a dict or list (JSON), or as
    a whole `item`.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._items = 0

    def item(
        self,
        body: Any = b"",
        headers: dict[str, str] | None = None,
        *,
        field: str = "body",
        content_type: str | None = None,
    ) -> InferenceRequest:
        """A request with one field."""
        kind, value = "", body
        if isinstance(body, str):
            kind, value = "text/plain", body.encode()
        elif not isinstance(body, bytes):
            kind, value = "application/json", json.dumps(body).encode()
        kind = kind if content_type is None else content_type
        self._items += 1
        fields = [Field(field, kind, value)]
        return InferenceRequest(f"request-{self._items}", headers or {}, fields)

    def run(self, *bodies: Any) -> list[list[Chunk | PredictionError]]:
        """What was emitted for each item, in order; each ends exactly once."""
        items = [body if isinstance(body, InferenceRequest) else self.item(body) for body in bodies]
        emitted: list[list[Chunk | PredictionError]] = [[] for _ in items]
        self.runner.run(items, lambda index, outcome: emitted[index].append(outcome))
        for outcomes in emitted:
            ends = [isinstance(one, PredictionError) or one.last for one in outcomes]
            assert ends.count(True) == 1, outcomes
            assert ends[-1], outcomes
        return emitted

    def chunks(self, *bodies: Any) -> list[Chunk]:
        """The answers of a batch in which every item is answered with one chunk."""
        answers = []
        for outcomes in self.run(*bodies):
            assert len(outcomes) == 1, outcomes
            assert isinstance(outcomes[0], Chunk), outcomes
            answers.append(outcomes[0])
        return answers

    def answer(self, *bodies: Any) -> list[bytes]:
        """The bodies of `chunks`."""
        return [chunk.body for chunk in self.chunks(*bodies)]

    def errors(self, *bodies: Any) -> list[PredictionError]:
        """The errors of a batch in which every item fails."""
        failed = []
        for outcomes in self.run(*bodies):
            assert isinstance(outcomes[-1], PredictionError), outcomes
            failed.append(outcomes[-1])
        return failed


LoadArchive = Callable[..., Served]


@pytest.fixture(autouse=True)
def process_state(tmp_path: Path) -> Iterator[None]:
    """Undo what loading a handler does to the process."""
    cwd, path, finders = Path.cwd(), list(sys.path), list(sys.meta_path)
    inherited = os.environ.get("PYTHONPATH")
    before = set(sys.modules)
    yield
    os.chdir(cwd)
    sys.path[:] = path
    os.environ.pop("PYTHONPATH", None)
    if inherited is not None:
        os.environ["PYTHONPATH"] = inherited
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)) or name == "ts" or name.startswith("ts."):
            del sys.modules[name]


@pytest.fixture
def load(tmp_path: Path) -> LoadArchive:
    """`load(files, handler=…, config=…, manifest=…, **fields of Load)` writes and loads an archive.

    `files` are texts or bytes by name; a text alone is the file my_handler.py.
    """

    def load_archive(
        files: str | dict[str, str | bytes],
        handler: str = "my_handler.py",
        config: str | None = None,
        manifest: dict[str, object] | None = None,
        **fields: Any,
    ) -> Served:
        model = {"modelName": "tiny", "modelVersion": "1.0", **(manifest or {})}
        contents = {"my_handler.py": files} if isinstance(files, str) else dict(files)
        if config is not None:
            contents["model-config.yaml"] = config
            model["configFile"] = "model-config.yaml"
        contents.setdefault("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        model_dir = tmp_path / "archive"
        for name, content in contents.items():
            target = model_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            data = content if isinstance(content, bytes) else dedent(content).encode()
            target.write_bytes(data)
        values: dict[str, Any] = {"name": "tiny", "version": "1.0", "batch_size": 8, **fields}
        return Served(Runner.load(Load(model_dir=str(model_dir), handler=handler, **values)))

    return load_archive
