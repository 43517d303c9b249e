"""Vocabulary files that are not what their names say."""

import json
from pathlib import Path

import pytest

from flambeau import tasks
from flambeau.errors import LoadError
from flambeau.handlers.sentencepiece_model import PieceKind, read_sentencepiece_model
from flambeau.handlers.settings import HandlerSettings
from flambeau.handlers.tokenizer_files import load_tokenizer
from tests.parity.families import TOKENIZERS


def test_a_sentencepiece_model_is_read_without_its_library() -> None:
    """Pieces with scores and kinds, the unknown piece and the compiled normalisation."""
    model = read_sentencepiece_model(TOKENIZERS / "llama" / "tokenizer.model")
    assert model.byte_pairs
    assert not model.charsmap
    assert [piece.text for piece in model.pieces[:3]] == ["<unk>", "<s>", "</s>"]
    kinds = [piece.kind for piece in model.pieces[:4]]
    assert kinds == [PieceKind.UNKNOWN, PieceKind.CONTROL, PieceKind.CONTROL, PieceKind.BYTE]
    unigrams = read_sentencepiece_model(TOKENIZERS / "albert" / "spiece.model")
    assert not unigrams.byte_pairs
    assert unigrams.charsmap
    assert unigrams.unk_id == 1
    assert all(piece.score <= 0 for piece in unigrams.pieces)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\xff" * 40,
        (TOKENIZERS / "albert" / "spiece.model").read_bytes()[:-9],
    ],
    ids=["empty", "pointer of git-lfs", "field too long", "no number", "cut off"],
)
def test_other_files_are_no_sentencepiece_models(content: bytes, tmp_path: Path) -> None:
    """Whatever the bytes, the error names the file."""
    file = tmp_path / "spiece.model"
    file.write_bytes(content)
    with pytest.raises(LoadError, match=r"spiece\.model is no SentencePiece model"):
        read_sentencepiece_model(file)


def test_a_vocabulary_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """A model without [CLS] in its vocabulary is no BERT: the load fails and says what is missing."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[SEP]\na\n")
    with pytest.raises(LoadError, match=r"the archive's vocabulary: .*\[CLS\]"):
        load_tokenizer(
            tmp_path,
            HandlerSettings(),
            {"model_type": "bert"},
            tasks.load("text-classification"),
        )


def test_settings_that_do_not_fit_are_told(tmp_path: Path) -> None:
    """A wrong value in tokenizer_config.json is told with the file's name."""
    saved = (TOKENIZERS / "bert" / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(saved)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": "no"})
    )
    with pytest.raises(LoadError, match=r"tokenizer_config\.json does not fit a BertTokenizer"):
        load_tokenizer(tmp_path, HandlerSettings(), {}, tasks.load("text-classification"))
