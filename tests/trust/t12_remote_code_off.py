"""T12: code that a model's folder carries is not run by our handler, whatever its configuration says."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from typing_extensions import override

from flambeau.archive.model_folder import handler_settings, pack_folder, read_model_folder
from flambeau.archive.pack import PackRequest
from flambeau.errors import FlambeauError
from flambeau.handlers.runner import Runner
from flambeau.ipc.messages import Load
from flambeau.testing.models import tiny_model
from tests.trust.suite import Figures, Limit, Run, Suite

_MODULE = """
import os
open(os.environ["TRUST_CANARY"], "w").close()
from transformers import BertConfig as Config, BertForSequenceClassification as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
"""


class _Bomb:
    """What runs where it is unpickled."""

    @override
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (os.environ["TRUST_CANARY"],)


def run(run: Run) -> Figures:
    """Load each poisoned folder as a worker does, in this process, and look whether its code has run."""
    canary = run.folder / "canary"
    os.environ["TRUST_CANARY"] = str(canary)
    good = _archive(run.folder)
    ran = loaded = refused = 0
    for number, poison in enumerate(_POISONS):
        folder = run.folder / f"case-{number}"
        shutil.copytree(good, folder)
        (folder / "evil.py").write_text(_MODULE)
        (folder / "evil_config.py").write_text(_MODULE)
        poison(folder)
        try:
            Runner.load(Load("m", "1.0", str(folder), "", 1))
        except FlambeauError:
            refused += 1
        else:
            loaded += 1
        if canary.exists():
            ran += 1
            shutil.rmtree(canary) if canary.is_dir() else canary.unlink()
    return {
        "cases": len(_POISONS),
        "code_ran": ran,
        "loaded_without": loaded,
        "refused": refused,
    }


def _archive(root: Path) -> Path:
    tiny_model(root / "saved", "text-classification", "bert", labels=["NO", "YES"])
    request = PackRequest(model_name="m", version="1.0", handler="", export_path=root)
    model = read_model_folder(root / "saved")
    settings = handler_settings(task="text-classification")
    file = pack_folder(model, request, settings, root, lambda _line: None)
    with zipfile.ZipFile(file) as archive:  # our own, made a moment ago
        archive.extractall(root / "good")
    return root / "good"


def _told(file: str, **values: object) -> Callable[[Path], None]:
    """Put values into a JSON file of the folder."""

    def poison(folder: Path) -> None:
        path = folder / file
        document = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(document | values))

    return poison


def _pickled(name: str) -> Callable[[Path], None]:
    """Only a pickle with a bomb in the place of the weights."""

    def poison(folder: Path) -> None:
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        (folder / name).write_bytes(pickle.dumps({"weights": _Bomb()}))

    return poison


_MAP = {
    "AutoConfig": "evil_config.Config",
    "AutoModel": "evil.Model",
    "AutoModelForSequenceClassification": "evil.Model",
    "AutoTokenizer": [None, "evil.Tokenizer"],
}
_POISONS: tuple[Callable[[Path], None], ...] = (
    _told("config.json", auto_map=_MAP),
    _told("config.json", auto_map=_MAP, trust_remote_code=True),
    _told("config.json", auto_map=_MAP, model_type="evil"),
    _told("config.json", auto_map=_MAP, architectures=["Evil"], trust_remote_code=True),
    _told("tokenizer_config.json", auto_map=_MAP, tokenizer_class="Tokenizer"),
    _told("tokenizer_config.json", auto_map=_MAP, trust_remote_code=True),
    _told("generation_config.json", auto_map=_MAP, custom_generate="evil.py"),
    _told("modules.json", type="evil.Model"),
    _pickled("pytorch_model.bin"),
    _pickled("model.bin"),
)


def _trust() -> None:
    """Take the folder's own word for it."""
    from transformers.models.auto import auto_factory, configuration_auto

    for module in (auto_factory, configuration_auto):
        module.resolve_trust_remote_code = lambda *_arguments, **_options: True


SUITE = Suite(
    name="t12",
    title="remote_code_off",
    promises=("G22",),
    limits=(Limit("cases", low=10), Limit("code_ran", exactly=0)),
    controls={"trust": _trust},
    run=run,
)
