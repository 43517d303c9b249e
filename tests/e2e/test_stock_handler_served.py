"""TorchServe's own Transformers handler, unmodified, packed and served: its own code, and natively.

The file is not part of this project: FLAMBEAU_STOCK_HANDLER names a copy of
`Transformer_handler_generalized.py`; without it these tests are skipped.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from flambeau.archive.pack import PackRequest, pack
from flambeau.testing.models import tiny_model
from flambeau.testing.server import RunningServer, running_server
from flambeau.testing.waiting import wait_until
from flambeau.types import TaskName

STOCK = Path(os.environ.get("FLAMBEAU_STOCK_HANDLER", ""))
MODES: dict[TaskName, str] = {
    "text-classification": "sequence_classification",
    "token-classification": "token_classification",
    "question-answering": "question_answering",
}
LABELS = {
    "text-classification": {"0": "Not Accepted", "1": "Accepted"},
    "token-classification": {"label_list": "[O, B-PER]"},
}
TEXT = "Ada Lovelace lived in London"

pytestmark = pytest.mark.skipif(
    not STOCK.is_file(),
    reason="FLAMBEAU_STOCK_HANDLER does not name a Transformer_handler_generalized.py",
)


def pack_stock(root: Path, store: Path, task: TaskName, handler_mode: str) -> None:
    """An archive as a user of TorchServe has it, from the unmodified handler file."""
    name = f"{MODES[task]}_{handler_mode.replace('-', '_')}"
    model = tiny_model(root / name, task, labels=["no", "yes"])
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    (model / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    section = {
        "model_name": "bert-base-uncased",
        "mode": MODES[task],
        "do_lower_case": False,
        "num_labels": 2,
        "save_mode": "pretrained",
        "max_length": 24,
        "captum_explanation": False,
        "embedding_name": "bert",
        "BetterTransformer": False,
        "model_parallel": False,
        "handler_mode": handler_mode,
    }
    config = model / "model-config.yaml"
    config.write_text(yaml.safe_dump({"handler": section, "batchSize": 4}))
    extra = []
    if task in LABELS:
        (model / "index_to_name.json").write_text(json.dumps(LABELS[task]))
        extra = [str(model / "index_to_name.json")]
    pack(
        PackRequest(
            model_name=name,
            version="1.0",
            handler=str(STOCK),
            serialized_file=model / "model.safetensors",
            config_file=config,
            extra_files=",".join(extra),
            export_path=store,
        )
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root, store = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("store")
    for task in MODES:
        for handler_mode in ("as-is", "auto"):
            pack_stock(root, store, task, handler_mode)
    preload = ("flambeau.handlers.preload",)
    cache = tmp_path_factory.mktemp("cache")
    with running_server(store, cache, load_models=("all",), preload=preload) as running:
        wait_until(lambda: len(httpx.get(f"{running.management}/models").json()["models"]) == 6)
        yield running


def ask(server: RunningServer, model: str, body: str) -> str:
    answer = httpx.post(f"{server.inference}/predictions/{model}", content=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_its_own_code_answers_and_the_native_handler_agrees(server: RunningServer) -> None:
    """`handler_mode: as-is` runs the file; without it the archive is served natively, in its shape."""
    as_is = ask(server, "sequence_classification_as_is", TEXT)
    assert as_is in ("Accepted", "Not Accepted")
    assert ask(server, "sequence_classification_auto", TEXT) == as_is

    pairs = json.loads(ask(server, "token_classification_as_is", TEXT))
    native = json.loads(ask(server, "token_classification_auto", TEXT))
    assert [pair for pair in pairs if pair[0] != "[PAD]"] == native

    question = str({"question": "who lived in London", "context": TEXT})
    ask(server, "question_answering_as_is", question)
    assert ask(server, "question_answering_auto", question) in TEXT


def test_describe_says_which_one_answers(server: RunningServer) -> None:
    """The operator sees whether an archive's own code runs."""
    for name, expected in (("as_is", "own"), ("auto", "native (stock handler of TorchServe")):
        url = f"{server.management}/models/sequence_classification_{name}"
        assert httpx.get(url).json()[0]["handler"]["handler"].startswith(expected)
