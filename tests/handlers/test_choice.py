"""Who serves an archive: our native handler or the archive's own code (`handler_mode`)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flambeau.errors import LoadError
from flambeau.handlers import recognise
from flambeau.handlers.recognise import StockForm, fingerprint
from flambeau.testing.models import tiny_model

Load = Callable[..., Any]

OWN = "def handle(data, context):\n    return data and ['own code'] * len(data)\n"
NATIVE_SUBCLASS = """
    from flambeau.handlers.native import TransformersHandler
    class Mine(TransformersHandler):
        default_output = "legacy"
        def handle(self, data, context):
            return super().handle([{"body": row["body"].strip()} for row in data], context)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | bytes]:
    """The files of a tiny text classifier."""
    folder = tiny_model(tmp_path_factory.mktemp("m"), "text-classification", labels=["no", "yes"])
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the file OWN for a published stock handler."""
    digest = fingerprint(OWN)
    assert digest is not None
    monkeypatch.setitem(recognise._FORMS, digest, StockForm("0.0.1"))


def shape(body: bytes) -> str:
    """Which output shape an answer has."""
    try:
        return "full" if "score" in json.dumps(json.loads(body)) else "other"
    except ValueError:
        return {"no": "legacy", "yes": "legacy"}.get(body.decode(), body.decode())


def test_built_in_handler(load: Load, model: dict[str, str | bytes]) -> None:
    """`transformers_handler` is native and answers in full."""
    served = load(model, "transformers_handler")
    assert [shape(body) for body in served.answer("a great movie", "terrible")] == ["full"] * 2
    assert served.runner.info["handler"] == "native"
    assert served.runner.info["task"] == "text-classification"
    assert served.runner.default_batch_size == 32


@pytest.mark.usefixtures("stock")
def test_recognised_handler_is_native_and_legacy(load: Load, model: dict[str, str | bytes]) -> None:
    """A recognised file is not run; its clients get the shape they know."""
    served = load({**model, "my_handler.py": OWN})
    assert [shape(body) for body in served.answer("a great movie")] == ["legacy"]
    assert served.runner.info["handler"] == "native (stock handler of TorchServe 0.0.1)"


@pytest.mark.usefixtures("stock")
def test_output_setting_wins_over_legacy(load: Load, model: dict[str, str | bytes]) -> None:
    """`output: full` gives scores from a recognised archive too."""
    served = load({**model, "my_handler.py": OWN}, config="handler:\n  output: full\n")
    assert [shape(body) for body in served.answer("a great movie")] == ["full"]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("file", ["yaml", "setup_config.json"])
def test_as_is_runs_the_archives_code(load: Load, model: dict[str, str | bytes], file: str) -> None:
    """`handler_mode: as-is`, in either file, runs even a recognised handler."""
    files = {**model, "my_handler.py": OWN}
    config = "handler:\n  handler_mode: as-is\n" if file == "yaml" else None
    if file == "setup_config.json":
        files[file] = '{"handler_mode": "as-is"}'
    served = load(files, config=config)
    assert served.answer("a") == [b"own code"]
    assert served.runner.info == {"handler": "own"}


def test_native_mode_replaces_any_handler(load: Load, model: dict[str, str | bytes]) -> None:
    """`handler_mode: native` serves an archive natively whose file is not recognised."""
    files = {**model, "my_handler.py": OWN}
    assert load(files).answer("a") == [b"own code"]
    served = load(files, config="handler:\n  handler_mode: native\n")
    assert [shape(body) for body in served.answer("a great movie")] == ["legacy"]


def test_subclass_of_the_native_handler(load: Load, model: dict[str, str | bytes]) -> None:
    """A user's class derived from the native handler is native and decides its shape."""
    served = load({**model, "my_handler.py": NATIVE_SUBCLASS})
    assert [shape(body) for body in served.answer("  a great movie ")] == ["legacy"]
    assert served.runner.info["output"] == "legacy"
    assert served.runner.default_batch_size == 32


def test_wrong_native_settings(load: Load, model: dict[str, str | bytes], tmp_path: Path) -> None:
    """A wrong key of the native handler fails the load and is named."""
    with pytest.raises(LoadError, match="max_length"):
        load(model, "transformers_handler", config="handler:\n  max_length: -1\n")
