"""TorchServe's own Transformers handler, unmodified, through our runner.

The file is not part of this project: FLAMBEAU_STOCK_HANDLER names a copy of
`Transformer_handler_generalized.py`; without it these tests are skipped.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flambeau.handlers.recognise import recognise
from flambeau.testing.models import tiny_model
from flambeau.types import TaskName

STOCK = Path(os.environ.get("FLAMBEAU_STOCK_HANDLER", ""))
pytestmark = [
    pytest.mark.skipif(
        not STOCK.is_file(),
        reason="FLAMBEAU_STOCK_HANDLER does not name a Transformer_handler_generalized.py",
    ),
    # The file itself has invalid escapes and calls deprecated functions in some forms.
    pytest.mark.filterwarnings("default"),
]

Load = Callable[..., Any]
NAME = "Transformer_handler_generalized.py"
CONFIG = """\
handler:
  model_name: bert-base-uncased
  mode: {mode}
  do_lower_case: false
  num_labels: 2
  save_mode: pretrained
  max_length: 16
  captum_explanation: {captum}
  embedding_name: bert
  FasterTransformer: false
  BetterTransformer: false
  model_parallel: false
  handler_mode: as-is
"""


def archive(
    folder: Path, task: TaskName, mode: str, captum: bool = False
) -> tuple[dict[str, str | bytes], str]:
    """An archive's files and configuration with the stock handler, which runs as it is."""
    model = tiny_model(folder, task, labels=["no", "yes"])
    files: dict[str, str | bytes] = {
        path.name: path.read_bytes() for path in model.iterdir() if path.is_file()
    }
    files[NAME] = STOCK.read_bytes()
    config = CONFIG.format(mode=mode, captum=str(captum).lower())
    # Old forms read setup_config.json; its switches are Python truth values of any non-empty text.
    settings = dict(re.findall(r"^  (\w+): (.*)$", config, re.MULTILINE))
    typed = {key: {"true": True, "false": False}.get(text, text) for key, text in settings.items()}
    files["setup_config.json"] = json.dumps(typed)
    # The file looks for "vocab." to prefer the archive's own tokenizer over the hub's.
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    files["vocab.txt"] = "\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n"
    return files, config


def test_is_recognised() -> None:
    """The file is a form that we know; a change of one word makes it somebody's own code."""
    source = STOCK.read_text(encoding="utf-8")
    assert recognise(source) is not None
    assert recognise(source.replace("argmax", "argmin")) is None


def test_sequence_classification(load: Load, tmp_path: Path) -> None:
    """A batch of texts, in bytes and decoded, is answered with labels."""
    files, config = archive(tmp_path / "m", "text-classification", "sequence_classification")
    files["index_to_name.json"] = '{"0": "Not Accepted", "1": "Accepted"}'
    served = load(files, NAME, config=config, manifest={"serializedFile": "model.safetensors"})
    assert served.runner.info == {"handler": "own"}
    long_text = "a movie is great and " * 20
    answers = served.answer(b"a great movie", served.item("terrible", field="data"), long_text)
    assert {*answers} <= {b"Not Accepted", b"Accepted"}
    assert len(answers) == 3


def test_token_classification(load: Load, tmp_path: Path) -> None:
    """Each item is a list of token and label pairs."""
    files, config = archive(tmp_path / "m", "token-classification", "token_classification")
    files["index_to_name.json"] = '{"label_list": "[O, PER]"}'
    served = load(files, NAME, config=config, manifest={"serializedFile": "model.safetensors"})
    (body,) = served.answer(b"Ada Lovelace lived in London")
    pairs = json.loads(body)
    assert [token for token, _ in pairs][:4] == ["[CLS]", "Ada", "Lovelace", "lived"]
    assert {label for _, label in pairs} <= {"O", "PER"}


def test_question_answering(load: Load, tmp_path: Path) -> None:
    """A literal with a question and a context is answered with text."""
    files, config = archive(tmp_path / "m", "question-answering", "question_answering")
    served = load(files, NAME, config=config, manifest={"serializedFile": "model.safetensors"})
    (chunk,) = served.chunks(b"{'question': 'who lived', 'context': 'Ada lived in London'}")
    assert chunk.content_type == ""


def test_explanation(load: Load, tmp_path: Path) -> None:
    """With captum the explanation of a text has words and importances."""
    files, config = archive(
        tmp_path / "m", "text-classification", "sequence_classification", captum=True
    )
    files["index_to_name.json"] = '{"0": "Not Accepted", "1": "Accepted"}'
    served = load(files, NAME, config=config, manifest={"serializedFile": "model.safetensors"})
    torch.manual_seed(0)
    item = served.item(b"{'text': 'a great movie', 'target': 1}", {"explain": "True"})
    (body,) = served.answer(item)
    explained = json.loads(body)
    assert explained["words"] == ["[CLS]", "a", "great", "movie", "[SEP]"]
    assert len(explained["importances"]) == 5
