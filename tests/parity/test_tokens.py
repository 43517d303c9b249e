"""Tokens against AutoTokenizer of transformers 4.57.6, with `tokenizer.json` and without it."""

import json
from pathlib import Path
from typing import Any

import pytest

from flambeau import tasks
from flambeau.handlers import vocabularies
from flambeau.handlers.settings import HandlerSettings
from flambeau.handlers.tokenizer import TextTokenizer
from flambeau.handlers.tokenizer_classes import class_name
from flambeau.handlers.tokenizer_files import load_tokenizer
from flambeau.tasks.base import Reading, TextInput
from tests.parity.families import FAMILIES, TOKENIZERS
from tests.parity.served import GOLDENS
from tests.parity.token_cases import FOLDERS, PAIRS, SINGLES

READS_ALL = 100_000
"""More tokens than any text here has: what is cut is another matter."""


def read_goldens() -> dict[str, list[Any]]:
    """Rows of ids, token types and offsets by folder."""
    rows: dict[str, list[Any]] = {}
    with (GOLDENS / "tokens.jsonl").open() as file:
        for line in map(json.loads, file):
            rows[line["name"]] = rows[line["as"]] if "as" in line else line["rows"]
    return rows


ROWS = read_goldens()
RUNS = "Marian's took a run of characters that the source's model does not know for one token"
DEVIATIONS = {
    ("marian", text): RUNS
    for text in SINGLES + [text for pair in PAIRS for text in pair]
    if any(run in text for run in ("です", "][", "한국어"))
}
"""What is not as it was, by folder and text, with the reason."""


def load(folder: Path) -> TextTokenizer:
    config = json.loads((folder / "config.json").read_text())
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        values = json.loads(settings.read_text())
        settings.write_text(json.dumps({**values, "model_max_length": READS_ALL}))
    for name in ("max_position_embeddings", "n_positions"):
        config.pop(name, None)
    return load_tokenizer(folder, HandlerSettings(), config, tasks.load("text-classification"))


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_are_those_of_autotokenizer(name: str, tmp_path: Path) -> None:
    """Ids, token types and offsets, of texts and pairs, whatever files and settings there are."""
    folder = FOLDERS[name]
    folder.write(tmp_path / "folder")
    inputs = [TextInput(SINGLES[index]) for index in folder.texts()]
    inputs += [TextInput(*pair) for pair in PAIRS]
    different = []
    for row, found, expected in zip(
        inputs, load(tmp_path / "folder").encode(inputs), ROWS[name], strict=True
    ):
        assert isinstance(found, Reading), (row, found)
        (encoding,) = found.windows
        assert not found.truncated
        if (name, row.text) in DEVIATIONS:
            continue
        offsets = [place for span in encoding.offsets for place in span if expected[2]]
        if [encoding.ids, encoding.type_ids, offsets] != expected:
            different.append((row, encoding.tokens, [encoding.ids, encoding.type_ids, offsets]))
    assert not different


@pytest.mark.parametrize(
    "family", [name for name in FAMILIES if name not in ("modernbert", "marian")]
)
def test_vocabularies_become_the_same_tokenizer(family: str) -> None:
    """Part by part what transformers 4.57.6 converted them to: also the decoder that texts need."""
    folder = TOKENIZERS / family
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    built = vocabularies.build(class_name(settings, {}), folder, settings)
    assert built is not None
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert json.loads(built.to_str()) == saved
    assert built.decode([]) == ""
